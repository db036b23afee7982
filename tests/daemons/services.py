"""Every server that the harness has, by the protocol it is here for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from daemons.chrony import Chrony
from daemons.freeradius import FreeRadius
from daemons.nginx import Nginx
from daemons.rsyslog import Rsyslog
from daemons.sipp import Sipp
from daemons.snmpd import Snmpd
from daemons.unbound import Unbound

if TYPE_CHECKING:
    from collections.abc import Callable

    from daemons.daemon import Daemon


@dataclass(frozen=True)
class Service:
    """A kind of server. `make(host, port=0, version=4, addresses=())` makes one, which runs inside `with`."""

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
