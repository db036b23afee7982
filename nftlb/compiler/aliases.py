"""Aliases: ports that tell replies to requests of this host from requests to a service, without conntrack. Pure.

Rules find a service by its address and port. A program on this host may send from the same address and port, for
instance an NTP daemon from port 123. The reply then comes to the service's address and port, and looks like a request.
So packets that this host itself sends from there leave from another port, the alias. Packets that come in for the alias
go to the original port. The rules ignore packets that are only forwarded, and keep no state.

A client on this host whose packets for the service stay on this host is not balanced. On the loopback interface its
packets would look like those of any client. So they go to the alias, where this host's own program receives them.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import chain
from typing import TYPE_CHECKING

from nftlb.model import Forward, Protocol

from .services import SERVICES, by_fields
from .words import format_address

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from nftlb.model import Config, IPAddress, Listener

    from .pool_rules import PoolRules

ANSWERS = "own-answers"
"""The chain for packets that come in for an alias."""

_PLACES = (range(61000, 65536), range(1024, 32768), range(1, 1024))
"""The ranges in which aliases are searched, in this order. By default Linux gives sockets ports from 32768 to 60999.
Aliases are never in that range: a reply to a socket would be taken for a reply to the alias. Above it, hardly any
program has a port."""
_MOST = 128
"""The most ports of a listener that get aliases. The first range has some 4,500 ports for an address and a protocol."""


def aliases(config: Config) -> Mapping[Listener, Mapping[int, int]]:
    """Return the alias of each port of each listener, without `forward: nat` and without listeners of many ports.

    An alias depends on the port, and hardly ever on other listeners, so it stays when other listeners change. A port
    has no alias only if listeners of its address and protocol take all ports in the ranges.
    """
    untracked = [pool for pool in config.pools if pool.forward is not Forward.NAT]
    if not untracked:
        return {}
    single: dict[tuple[IPAddress, Protocol], set[int]] = defaultdict(set)
    ranges: dict[tuple[IPAddress, Protocol], list[range]] = defaultdict(list)
    for pool in config.pools:
        for listener in pool.listen:
            if listener.first_port == listener.last_port:
                single[listener.address, listener.protocol].add(listener.first_port)
            else:
                ranges[listener.address, listener.protocol].append(range(listener.first_port, listener.last_port + 1))
    found: dict[Listener, dict[int, int]] = {}
    for pool in untracked:
        for listener in pool.listen:
            for port in range(listener.first_port, listener.last_port + 1) if not is_wide(listener) else ():
                taken = single[listener.address, listener.protocol]
                alias = next(_free(port, taken, ranges[listener.address, listener.protocol]), None)
                if alias is not None:
                    found.setdefault(listener, {})[port] = alias
                    taken.add(alias)
    return found


def is_wide(listener: Listener) -> bool:
    """Whether a listener has too many ports for aliases."""
    return listener.last_port - listener.first_port >= _MOST


def add_aliases(part: PoolRules, listener: Listener, found: Mapping[int, int], owner: str) -> None:
    """Add the elements that connect the ports of a listener with their aliases; `found`: the alias of each port."""
    address, protocol = format_address(listener.address), listener.protocol
    for port, alias in found.items():
        part.add_service(SERVICES, by_fields(listener, ANSWERS, owner, alias))
        part.add(f"aliases-{protocol}", f"{address} . {port}", f"{alias}", owner)
        part.add(f"aliased-{protocol}", f"{address} . {alias}", f"{port}", owner)


def answer_rules(ip: str, protocol: Protocol) -> tuple[str, ...]:
    """Return the rules of `ANSWERS`. They are before conntrack, so that other rules see the original port."""
    return tuple(_set_port("", f"{protocol} dport", f"{ip} daddr . {protocol} dport map @aliased-{protocol}"))


def question_rules(ip: str, protocol: Protocol) -> tuple[str, ...]:
    """Return the rules for packets of this host. For the same reason they are after conntrack and other rules."""
    return (
        *_set_port('oif != "lo" ', f"{protocol} sport", f"{ip} saddr . {protocol} sport map @aliases-{protocol}"),
        *_set_port('oif "lo" ', f"{protocol} dport", f"{ip} daddr . {protocol} dport map @aliases-{protocol}"),
    )


def _set_port(match: str, field: str, value: str) -> list[str]:
    """Return rules that set a port. A UDP checksum of zero means "no checksum", and has to stay zero."""
    if not field.startswith(Protocol.UDP):
        return [f"{match}{field} set {value} accept"]
    return [
        f"{match}udp checksum != 0 {field} set {value} accept",
        f"{match}udp checksum 0 {field} set {value} udp checksum set 0 accept",
    ]


def _free(port: int, taken: set[int], ranges: list[range]) -> Iterator[int]:
    """Yield the ports without listener or alias. The search begins at a place that depends on the port only."""
    for within in _PLACES:
        first = within.start + port % len(within)
        for candidate in chain(range(first, within.stop), range(within.start, first)):
            if candidate not in taken and not any(candidate in ports for ports in ranges):
                yield candidate
