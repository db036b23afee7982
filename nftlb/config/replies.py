"""The rule that stateless replies must be unambiguous. No I/O.

Without conntrack the source of a reply, an address, a port and a protocol, alone tells which listener it is for.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from nftlb.config.parts import Fault, Server, Where, Whole
from nftlb.config.ranges import Ranges
from nftlb.model.kinds import Forward, IPAddress, Protocol, family

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nftlb.config.places import Path


class Reply(NamedTuple):
    """Replies from a range of a server's ports, and what their source becomes: an address, and a shift of the port."""

    first: int
    last: int
    address: IPAddress
    shift: int
    server: Server
    listening: Path

    def leads_elsewhere(self, other: Reply) -> bool:
        return (self.address, self.shift) != (other.address, other.shift)


Replies: TypeAlias = "dict[tuple[IPAddress, Protocol], Ranges[Reply]]"


def ambiguous_replies(wholes: list[Whole], where: Where) -> Iterator[Fault]:
    """Without conntrack a reply's source alone must tell which listener it is for."""
    replies: Replies = defaultdict(Ranges)
    for part in wholes:
        if part.pool.forward is Forward.STATELESS:
            yield from _stateless_replies(part, replies, where)
    order = {part.path: index for index, part in enumerate(wholes)}
    for part in wholes if replies else ():
        if part.pool.forward is Forward.NAT:
            yield from _nat_replies(part, replies, order, where)


def _stateless_replies(part: Whole, replies: Replies, where: Where) -> Iterator[Fault]:
    for protocol, reply in _replies(part):
        ranges = replies[reply.server.address, protocol]
        earlier = ranges.overlapping(reply.first, reply.last)
        if earlier is None:
            ranges.add(reply.first, reply.last, reply)
        elif not reply.leads_elsewhere(earlier):
            continue
        elif earlier.server.path == reply.server.path:
            other = f"cannot be told from those of {where(earlier.listening)}: both have the same backends"
            yield Fault(reply.listening, f"replies {other}; allowed: one of them, with forward: stateless")
        else:
            other = f"cannot be told from those of {where(earlier.server.path)}"
            yield Fault(reply.server.path, f"replies {other}; allowed: each server once, with forward: stateless")


def _nat_replies(part: Whole, replies: Replies, order: dict[Path, int], where: Where) -> Iterator[Fault]:
    shared = {address for address, _ in replies}.intersection(server.address for server in part.servers)
    for protocol, reply in _replies(part) if shared else ():
        ranges = replies.get((reply.server.address, protocol))
        other = ranges.overlapping(reply.first, reply.last) if ranges is not None else None
        if other is not None:
            one, two = sorted((reply.server.path, other.server.path), key=lambda path: order[path[:2]])
            message = f"is also {where(one)}, and stateless would rewrite the replies that belong to nat"
            yield Fault(two, f"{message}; allowed: each server with one way to forward")


def _replies(part: Whole) -> Iterator[tuple[Protocol, Reply]]:
    for server in part.servers:
        for path, listener in part.listeners:
            if listener.family is not family(server.address):
                continue
            first, last = listener.first_port, listener.last_port
            if server.port is not None:
                first = last = server.port
            shift = listener.first_port - first
            yield listener.protocol, Reply(first, last, listener.address, shift, server, path)
