"""Whom a refusal speaks against: from an address and a port, where a datagram of ours met no server, to backends.

The rules let through what comes from the backend itself, about what we sent it (`nftlb.compiler.watched`). Here is
decided whether a closed port means that the server is gone. Pure.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, TypeAlias

from nftlb.model import Forward, Protocol
from nftlb.model.checks import Dns, Ntp, Radius, Sip, Snmp, Transport, Udp

if TYPE_CHECKING:
    from nftlb.model import Backend, Config, IPAddress, Pool
    from nftlb.model.checks import AnyCheck

Name: TypeAlias = "tuple[str, str]"
"""A pool's name, and the name of a backend of it."""

_OVER_UDP = (Dns, Udp, Radius, Sip, Ntp, Snmp)


class Witness:
    """Knows for one configuration whom a refusal speaks against."""

    def __init__(self, config: Config) -> None:
        self._accused: dict[tuple[IPAddress, int], list[Name]] = defaultdict(list)
        for pool in config.pools:
            if pool.passive and pool.forward is Forward.NAT:
                for backend in pool.backends:
                    for port in _telling_ports(pool, backend):
                        self._accused[backend.address, port].append((pool.name, backend.name))

    def __bool__(self) -> bool:
        """Whether there is anybody to speak against, and any use in listening."""
        return bool(self._accused)

    def against(self, address: IPAddress, port: int) -> tuple[Name, ...]:
        """The backends that the refusal of a datagram to this address and port speaks against."""
        return tuple(self._accused.get((address, port), ()))


def _telling_ports(pool: Pool, backend: Backend) -> set[int]:
    """The ports without which a backend is as good as gone.

    One that keeps the packet's port may have many, and one of them closed means nothing: a call of RTP is over. Only
    if there is but one port, or if it is the one that the health checks ask, over UDP, does it stand for the server.
    """
    if backend.port is not None:
        return {backend.port}
    listeners = [one for one in pool.listen if one.family == backend.family and one.protocol is Protocol.UDP]
    ports = {port for one in listeners for port in (one.first_port, one.last_port)}
    if len(ports) == 1:
        return ports
    return {health.port for health in pool.health if health.port is not None and _asks_over_udp(health.check)}


def _asks_over_udp(check: AnyCheck) -> bool:
    return isinstance(check, _OVER_UDP) and getattr(check, "transport", Transport.UDP) is Transport.UDP
