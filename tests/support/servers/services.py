"""All real servers of the tests, by protocol."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from servers.chrony import Chrony
from servers.freeradius import FreeRadius
from servers.nginx import Nginx
from servers.rsyslog import Rsyslog
from servers.sipp import Sipp
from servers.snmpd import Snmpd
from servers.unbound import Unbound

if TYPE_CHECKING:
    from collections.abc import Callable

    from servers.daemon import Daemon


@dataclass(frozen=True)
class Service:
    """A kind of server. `make(host, port=0, version=4, addresses=())` makes a server, which runs inside `with`."""

    name: str
    make: Callable[..., Daemon]
    transport: str = "udp"
    answers: bool = True


SERVICES = (
    Service("dns", Unbound),
    Service("radius", FreeRadius),
    Service("ntp", Chrony),
    Service("snmp", Snmpd),
    Service("sip", Sipp),
    Service("http", Nginx, transport="tcp"),
    Service("https", partial(Nginx, tls=True), transport="tcp"),
    Service("syslog", Rsyslog, answers=False),
)
ANSWERING = tuple(service for service in SERVICES if service.answers)
