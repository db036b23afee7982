"""Which backends a refused datagram is about: from the address and port that refused to the names of backends.

The rules pass on only ICMP errors that a backend itself sent about balanced traffic (`nftlb.compiler.watched`). This
module decides whether a closed port means that the server is gone. Pure.
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
"""The names of a pool and of one of its backends."""


class PassiveTargets:
    """The backends of one configuration by the address and port whose refusal is evidence against them."""

    def __init__(self, config: Config) -> None:
        self._targets = _by_endpoint(config, Passive.OUT)
        self._check_targets = _by_endpoint(config, Passive.CHECK)

    def __bool__(self) -> bool:
        """Whether the configuration has a backend for which refusals have to be monitored."""
        return bool(self._targets or self._check_targets)

    @property
    def explicit(self) -> bool:
        """Whether a pool asks for passive detection explicitly, and not only by default."""
        return bool(self._targets)

    def down_targets(self, address: IPAddress, port: int) -> tuple[Name, ...]:
        """The backends to take down when a datagram to this address and port is refused."""
        return tuple(self._targets.get((address, port), ()))

    def check_targets(self, address: IPAddress, port: int) -> tuple[Name, ...]:
        """The backends to check at once when a datagram to this address and port is refused."""
        return tuple(self._check_targets.get((address, port), ()))


def _by_endpoint(config: Config, passive: Passive) -> Mapping[tuple[IPAddress, int], list[Name]]:
    found: dict[tuple[IPAddress, int], list[Name]] = defaultdict(list)
    for pool in config.pools:
        if pool.refusals is passive and pool.forward is Forward.NAT:
            for backend in pool.backends:
                for port in _significant_ports(pool, backend):
                    found[backend.address, port].append((pool.name, backend.name))
    return found


def _significant_ports(pool: Pool, backend: Backend) -> set[int]:
    """The ports of a backend that mean, when one of them is closed, that the server is gone.

    A backend that keeps the destination port of packets may have many ports, and a closed port means nothing: an RTP
    call may have ended. A port stands for the server only if it is the only port of the pool, or if the health checks
    use it over UDP.
    """
    if backend.port is not None:
        return {backend.port}
    listeners = [
        listener for listener in pool.listen if listener.family == backend.family and listener.protocol is Protocol.UDP
    ]
    ports = {port for listener in listeners for port in (listener.first_port, listener.last_port)}
    if len(ports) == 1:
        return ports
    return {health.port for health in pool.health if health.port is not None and asks_over_udp(health.check)}
