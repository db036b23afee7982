"""Aliases: how answers to this host's own questions are told from requests, without conntrack. Pure.

A service is known by its address and port. A program on this host may send from the same address and port: an NTP
daemon from port 123, for instance. The answer then comes to the service's address and port, and looks like a request.
So what this host itself sends from there leaves from another port, the alias, and what comes in for the alias goes to
the port that it stands for. Packets that are only forwarded are not looked at, and no packet is remembered.

A client on this host whose packets for the service stay on this host is not balanced. Over the loopback interface, too,
they would look like any client's. So they go to the alias, and meet this host's own program, or none.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import chain
from typing import TYPE_CHECKING

from nftlb.model import Forward, Protocol

from .words import write

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from nftlb.model import Config, IPAddress, Listener

    from .part import Part

ANSWERS = "own-answers"
"""The chain for what comes in for an alias."""

_PLACES = (range(61000, 65536), range(1024, 32768), range(1, 1024))
"""Where aliases are looked for. Linux gives sockets ports from 32768 to 60999 by default, and those are never used:
an answer to such a socket would be taken for one to the alias. Above them hardly any program has a port."""
_MOST = 128
"""The most ports of a listener that get aliases: there are some 4,500 places for an address and a protocol."""


def aliases(config: Config) -> Mapping[Listener, Mapping[int, int]]:
    """The alias of each port of the listeners that are not `forward: nat`, unless they have too many ports.

    It depends on the port, and hardly ever on other listeners: it stays when those change. A port has none only if
    listeners of its address and protocol take all ports that are looked at.
    """
    single: dict[tuple[IPAddress, Protocol], set[int]] = defaultdict(set)
    ranges: dict[tuple[IPAddress, Protocol], list[range]] = defaultdict(list)
    for pool in config.pools:
        for one in pool.listen:
            if one.first_port == one.last_port:
                single[one.address, one.protocol].add(one.first_port)
            else:
                ranges[one.address, one.protocol].append(range(one.first_port, one.last_port + 1))
    found: dict[Listener, dict[int, int]] = {}
    for pool in config.pools:
        for one in pool.listen if pool.forward is not Forward.NAT else ():
            for port in range(one.first_port, one.last_port + 1) if not is_wide(one) else ():
                taken = single[one.address, one.protocol]
                alias = next(_free(port, taken, ranges[one.address, one.protocol]), None)
                if alias is not None:
                    found.setdefault(one, {})[port] = alias
                    taken.add(alias)
    return found


def is_wide(listener: Listener) -> bool:
    """Whether it has too many ports for aliases."""
    return listener.last_port - listener.first_port >= _MOST


def add(part: Part, listener: Listener, found: Mapping[int, int], owner: str) -> None:
    """Have the aliases of a listener stand for its ports."""
    address, protocol = write(listener.address), listener.protocol
    for port, alias in found.items():
        part.add("services", f"{address} . {protocol} . {alias}", f"goto {ANSWERS}", owner)
        part.add(f"aliases-{protocol}", f"{address} . {port}", f"{alias}", owner)
        part.add(f"aliased-{protocol}", f"{address} . {alias}", f"{port}", owner)


def answer_rules(ip: str, protocol: Protocol) -> tuple[str, ...]:
    """The rules of ANSWERS. Before conntrack, so that this host's other rules see the port that the program has."""
    return tuple(_set_port("", f"{protocol} dport", f"{ip} daddr . {protocol} dport map @aliased-{protocol}"))


def question_rules(ip: str, protocol: Protocol) -> tuple[str, ...]:
    """The rules for what this host sends; behind conntrack and the host's other rules, for the same reason."""
    return (
        *_set_port('oif != "lo" ', f"{protocol} sport", f"{ip} saddr . {protocol} sport map @aliases-{protocol}"),
        *_set_port('oif "lo" ', f"{protocol} dport", f"{ip} daddr . {protocol} dport map @aliases-{protocol}"),
    )


def _set_port(match: str, field: str, value: str) -> list[str]:
    """Rules that set a port. A UDP checksum of zero says that there is none, and has to stay zero."""
    if not field.startswith(Protocol.UDP):
        return [f"{match}{field} set {value} accept"]
    return [
        f"{match}udp checksum != 0 {field} set {value} accept",
        f"{match}udp checksum 0 {field} set {value} udp checksum set 0 accept",
    ]


def _free(port: int, taken: set[int], ranges: list[range]) -> Iterator[int]:
    """Ports that are nobody's; the search begins at a place that the port tells."""
    for within in _PLACES:
        first = within.start + port % len(within)
        for candidate in chain(range(first, within.stop), range(within.start, first)):
            if candidate not in taken and not any(candidate in one for one in ranges):
                yield candidate
