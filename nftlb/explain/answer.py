"""What there is to say about one packet, as values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nftlb.compiler.membership import Why
    from nftlb.model import Endpoint, FallbackKind, Listener, Pool, Protocol


@dataclass(frozen=True, slots=True)
class Question:
    """A packet: from a client to where some pool may listen."""

    client: Endpoint
    service: Endpoint
    protocol: Protocol

    def __str__(self) -> str:
        return f"{self.client} to {self.service}/{self.protocol}"


@dataclass(frozen=True, slots=True)
class Near:
    """A listener that would have taken a packet a little different, and how it differs."""

    listener: Listener
    pool: str
    differs: str


@dataclass(frozen=True, slots=True)
class Way:
    """A packet's source and destination before and after the balancer; addresses as text."""

    source: str
    destination: str
    new_source: str
    new_destination: str

    @property
    def unchanged(self) -> bool:
        return (self.source, self.destination) == (self.new_source, self.new_destination)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A server of the pool. `state` is `in` where it takes part now, else what keeps it out.

    `weight` is 0 for what does not take part. `zone` is the conntrack zone of the packets that it gets, `mark` their
    firewall mark. `reply` is None where replies don't pass the balancer.
    """

    name: str
    address: str
    weight: int
    state: str
    slots: int
    zone: int | None
    mark: int | None
    request: Way
    reply: Way | None


@dataclass(frozen=True, slots=True)
class Answer:
    """How the pool that takes the packet treats it.

    `slots` names the target of each slot of the wheel, empty without targets; `slot` is the packet's own, counted from
    0, where the client's address decides on it. `remarks` are sentences, each under a heading.
    """

    pool: Pool
    listener: Listener
    by_flow: bool
    why: Why
    verdict: FallbackKind | None
    candidates: tuple[Candidate, ...]
    slots: tuple[str, ...]
    slot: int | None
    fast_path: bool | None
    remarks: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """The answer; or, when no pool takes the packet, why not and the listeners nearest to it."""

    question: Question
    answer: Answer | None
    reason: str = ""
    near: tuple[Near, ...] = ()
