"""Puts the addresses of this host into a configuration: `*:53/udp` becomes a listener for each address. No I/O.

The more exact listener counts, as with sockets: an address before an interface, an interface before any address. So a
listener for addresses of this host gets only the ports that no more exact listener has. It does not get the address and
port of a server of a pool either: a packet for this server would never arrive there.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from nftlb.model.kinds import Listener, unforwarded

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from nftlb.model.kinds import HostAddresses, IPAddress, Protocol
    from nftlb.model.names import NameAnswers
    from nftlb.model.pool import Config, Pool

Taken: TypeAlias = "dict[tuple[IPAddress, Protocol], list[tuple[int, int]]]"


def with_addresses(config: Config, answers: NameAnswers, addresses: HostAddresses) -> Config:
    """Replace each listener for addresses of this host by a listener for each address.

    `addresses` are the addresses that this host has, and `answers` the servers of the pools' names. A listener for
    which there is no address stays: no packet has its address, and the pool keeps its families.
    """
    if not config.listens_on_host:
        return config
    taken = _taken(config, answers)
    found: dict[Listener, tuple[Listener, ...]] = {}
    on_host = [listener for pool in config.pools for listener in pool.listen if listener.host]
    for listener in sorted(on_host, key=lambda one: not one.interface):
        found[listener] = tuple(_on_addresses(listener, addresses, taken))
        for made in found[listener]:
            taken[made.address, made.protocol].append((made.first_port, made.last_port))
    return replace(config, pools=tuple(_with(pool, found) for pool in config.pools))


def _with(pool: Pool, found: dict[Listener, tuple[Listener, ...]]) -> Pool:
    if not any(listener.host for listener in pool.listen):
        return pool
    return replace(pool, listen=tuple(made for one in pool.listen for made in found.get(one) or (one,)))


def _on_addresses(listener: Listener, addresses: HostAddresses, taken: Taken) -> Iterator[Listener]:
    given = addresses.get(listener.interface, ()) if listener.interface else sorted_addresses(addresses)
    for address in dict.fromkeys(given):
        if address.version != listener.address.version or unforwarded(address):
            continue
        for first, last in _free(listener, taken.get((address, listener.protocol), ())):
            yield Listener(address, first, last, listener.protocol, origin=str(listener))


def sorted_addresses(addresses: HostAddresses) -> list[IPAddress]:
    """All addresses, in an order that does not depend on interfaces."""
    return sorted({one for some in addresses.values() for one in some}, key=lambda one: (one.version, int(one)))


def _free(listener: Listener, taken: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield the ranges of a listener's ports outside those that are taken, which may overlap."""
    first = listener.first_port
    for low, high in sorted(taken):
        if low > listener.last_port:
            break
        if first < low:
            yield first, low - 1
        first = max(first, high + 1)
    if first <= listener.last_port:
        yield first, listener.last_port


def _taken(config: Config, answers: NameAnswers) -> Taken:
    """The ports of exact listeners and of servers, by address and protocol."""
    taken: Taken = defaultdict(list)
    for pool in config.pools:
        servers = [(backend.address, backend.port) for backend in pool.backends]
        servers += [(collector.address, collector.port) for collector in pool.mirror]
        servers += [(endpoint.address, endpoint.port) for endpoint in pool.fallback.sorry]
        for named in pool.named:
            found = answers.get(named.lookup, ())
            servers += [(server.address, server.port if named.srv else named.port) for server in found]
        for listener in pool.listen:
            ports = (listener.first_port, listener.last_port)
            if not listener.host:
                taken[listener.address, listener.protocol].append(ports)
            for address, port in servers:
                if address.version == listener.address.version:
                    taken[address, listener.protocol].append(ports if port is None else (port, port))
    return taken
