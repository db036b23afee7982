"""Whom a refusal speaks against: from an address and a port, where a datagram of ours met no server, to backends.

The rules let through what comes from the backend itself, about what we sent it (`nftlb.compiler.watched`). Here is
decided whether a closed port means that the server is gone. Pure.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, TypeAlias

from nftlb.model import Forward, Passive, Protocol
from nftlb.model.checks import asks_over_udp

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nftlb.model import Backend, Config, IPAddress, Pool

Name: TypeAlias = "tuple[str, str]"
"""A pool's name, and the name of a backend of it."""


class Witness:
    """Knows for one configuration whom a refusal speaks against."""

    def __init__(self, config: Config) -> None:
        self._accused = _by_endpoint(config, Passive.OUT)
        self._doubted = _by_endpoint(config, Passive.CHECK)

    def __bool__(self) -> bool:
        """Whether there is anybody to speak against, and any use in listening."""
        return bool(self._accused or self._doubted)

    @property
    def wanted(self) -> bool:
        """Whether some pool asks for it in so many words."""
        return bool(self._accused)

    def against(self, address: IPAddress, port: int) -> tuple[Name, ...]:
        """The backends that are out when a datagram to this address and port is refused."""
        return tuple(self._accused.get((address, port), ()))

    def doubted(self, address: IPAddress, port: int) -> tuple[Name, ...]:
        """The backends that are checked at once when a datagram to this address and port is refused."""
        return tuple(self._doubted.get((address, port), ()))


def _by_endpoint(config: Config, passive: Passive) -> Mapping[tuple[IPAddress, int], list[Name]]:
    found: dict[tuple[IPAddress, int], list[Name]] = defaultdict(list)
    for pool in config.pools:
        if pool.refusals is passive and pool.forward is Forward.NAT:
            for backend in pool.backends:
                for port in _telling_ports(pool, backend):
                    found[backend.address, port].append((pool.name, backend.name))
    return found


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
    return {health.port for health in pool.health if health.port is not None and asks_over_udp(health.check)}
