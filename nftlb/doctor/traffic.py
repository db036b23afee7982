"""The packets that a configuration is about, as far as other people's rules can tell them apart. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nftlb.model import Family, Forward

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nftlb.model import Config, IPAddress, Pool, Protocol

Ports = tuple[int, int]
# Of clients: nearly all leave the choice to their system, which takes a high one.
_CLIENT: Ports = (1024, 65535)


@dataclass(frozen=True, slots=True)
class Traffic:
    """Some packets: whose they are, and what their headers say; an address of None is any client's."""

    pool: Pool
    family: Family
    protocol: Protocol
    saddr: IPAddress | None = None
    sport: Ports = _CLIENT
    daddr: IPAddress | None = None
    dport: Ports = _CLIENT
    reply: bool = False

    @property
    def tracked(self) -> bool:
        """Whether conntrack knows them."""
        return self.pool.forward is Forward.NAT

    def __str__(self) -> str:
        where = " ".join([*self._side("from", self.saddr, self.sport), *self._side("to", self.daddr, self.dport)])
        return f"{self.protocol} {where}"

    def nft(self) -> str:
        """The match that nft has for them."""
        parts = []
        for address, ports, way in ((self.saddr, self.sport, "s"), (self.daddr, self.dport, "d")):
            if address is not None:
                parts.append(f"{self.family} {way}addr {address}")
            if ports != _CLIENT:
                parts.append(f"{self.protocol} {way}port {_range(ports, '-')}")
        return " ".join(parts)

    def iptables(self) -> str:
        """The match that iptables has for them."""
        parts = [f"-p {self.protocol}"]
        for address, ports, way in ((self.saddr, self.sport, "s"), (self.daddr, self.dport, "d")):
            if address is not None:
                parts.append(f"-{way} {address}")
            if ports != _CLIENT:
                parts.append(f"--{way}port {_range(ports, ':')}")
        return " ".join(parts)

    @staticmethod
    def _side(word: str, address: IPAddress | None, ports: Ports) -> Iterator[str]:
        if address is not None:
            yield f"{word} {address}" + ("" if ports == _CLIENT else f" port {_range(ports, '-')}")


def requests(config: Config) -> Iterator[Traffic]:
    """What clients send to the listeners."""
    for pool in config.pools:
        for one in pool.listen:
            ports = (one.first_port, one.last_port)
            yield Traffic(pool, one.family, one.protocol, daddr=one.address, dport=ports)


def forwarded(config: Config) -> Iterator[Traffic]:
    """The same on its way out to each backend."""
    for request in requests(config):
        for address, ports in _backends(request):
            # With `dsr` nothing in the packet changes; one kind is enough.
            daddr, dport = (request.daddr, request.dport) if request.pool.forward is Forward.DSR else (address, ports)
            yield Traffic(request.pool, request.family, request.protocol, daddr=daddr, dport=dport)
            if request.pool.forward is Forward.DSR:
                break


def replies(config: Config) -> Iterator[Traffic]:
    """What backends answer, where that passes this host."""
    for request in requests(config):
        if request.pool.forward is not Forward.DSR:
            for address, ports in _backends(request):
                yield Traffic(request.pool, request.family, request.protocol, saddr=address, sport=ports, reply=True)


def _backends(request: Traffic) -> Iterator[tuple[IPAddress, Ports]]:
    for backend in request.pool.backends:
        if backend.family == request.family:
            yield backend.address, (backend.port, backend.port) if backend.port else request.dport


def _range(ports: Ports, dash: str) -> str:
    first, last = ports
    return f"{first}" if first == last else f"{first}{dash}{last}"
