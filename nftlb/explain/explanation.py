"""The explanation of a packet: its values, as text, and as data for JSON."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest
from textwrap import fill
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nftlb.model import Endpoint, FallbackKind, Listener, Pool, Protocol, RotationMode


@dataclass(frozen=True, slots=True)
class Question:
    """The packet that is explained: from a client to an endpoint where a pool may listen. `payload`: if known."""

    client: Endpoint
    service: Endpoint
    protocol: Protocol
    payload: bytes | None = None

    def __str__(self) -> str:
        return f"{self.client} to {self.service}/{self.protocol}"


@dataclass(frozen=True, slots=True)
class NearListener:
    """A listener that almost matches the packet. `differs` names the differences: address, port, protocol."""

    listener: Listener
    pool: str
    differs: str


@dataclass(frozen=True, slots=True)
class PacketPath:
    """The source and destination of a packet before and after the balancer, as text."""

    source: str
    destination: str
    new_source: str
    new_destination: str

    @property
    def unchanged(self) -> bool:
        return (self.source, self.destination) == (self.new_source, self.new_destination)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A server of the pool. `state` is `in` if it is in rotation, or else says why it is not.

    `weight` is 0 for servers that are not in rotation. `zone` is the conntrack zone of the server's packets, and `mark`
    is their firewall mark. `tunnel` is the interface of the tunnel to the server, if there is one. `reply` is None if
    replies don't pass the balancer.
    """

    name: str
    address: str
    weight: int
    state: str
    slots: int
    zone: int | None
    mark: int | None
    tunnel: str | None
    request: PacketPath
    reply: PacketPath | None


@dataclass(frozen=True, slots=True)
class Choice:
    """What decides about a packet, in words. `target`: the server that gets the packet; empty if that is not known.

    `slot`: the packet's slot, if the hash of its key decides. `dropped`: no server gets the packet.
    """

    by: str
    target: str = ""
    slot: int | None = None
    dropped: bool = False


@dataclass(frozen=True, slots=True)
class Treatment:
    """How the pool of a packet treats the packet.

    `slots` names the target of each slot in one turn; empty without targets, and if the packet is dropped. `choice` is
    what decides about the packet, if not only the turn. `priority` is the priority that serves; None if no priority
    serves alone. `remarks` are pairs of a heading and sentences.
    """

    pool: Pool
    listener: Listener
    by_flow: bool
    mode: RotationMode
    priority: int | None
    verdict: FallbackKind | None
    candidates: tuple[Candidate, ...]
    slots: tuple[str, ...]
    choice: Choice | None
    fast_path: bool | None
    remarks: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """The treatment of a packet. If no pool takes the packet: the reason, and the listeners that almost match."""

    question: Question
    treatment: Treatment | None
    reason: str = ""
    near: tuple[NearListener, ...] = ()


# --- text and data ----------------------------------------------------------------------------------------------------

_WIDTH = 100
_MOST_SLOTS = 24


def as_text(explanation: Explanation) -> str:
    """Return the explanation as paragraphs of plain text."""
    return "\n".join(_lines(explanation)) + "\n"


def as_data(explanation: Explanation) -> dict[str, Any]:
    """Return the explanation as data for JSON. All keys are always there; null means that a value does not apply."""
    question, answer = explanation.question, explanation.treatment
    return {
        "client": str(question.client),
        "service": str(question.service),
        "protocol": str(question.protocol),
        "reason": explanation.reason or None,
        "near": [
            {"listener": str(near.listener), "pool": near.pool, "differs": near.differs} for near in explanation.near
        ],
        "pool": answer.pool.name if answer else None,
        "listener": str(answer.listener) if answer else None,
        "forward": str(answer.pool.forward) if answer else None,
        "balance": str(answer.pool.balance) if answer else None,
        "per": ("flow" if answer.by_flow else "packet") if answer else None,
        "why": str(answer.mode) if answer else None,
        "priority": answer.priority if answer else None,
        "verdict": str(answer.verdict) if answer and answer.verdict else None,
        "candidates": [_candidate_data(candidate) for candidate in answer.candidates] if answer else [],
        "slots": list(answer.slots) if answer else [],
        "slot": answer.choice.slot if answer and answer.choice else None,
        "target": (answer.choice.target or None) if answer and answer.choice else None,
        "decided_by": answer.choice.by if answer and answer.choice else None,
        "fast_path": answer.fast_path if answer else None,
        "remarks": dict(answer.remarks) if answer else {},
    }


def _candidate_data(candidate: Candidate) -> dict[str, Any]:
    return {
        "name": candidate.name,
        "address": candidate.address,
        "weight": candidate.weight,
        "state": candidate.state,
        "slots": candidate.slots,
        "zone": candidate.zone,
        "mark": candidate.mark,
        "tunnel": candidate.tunnel,
        "request": _way_data(candidate.request),
        "reply": _way_data(candidate.reply) if candidate.reply else None,
    }


def _way_data(way: PacketPath) -> dict[str, list[str]]:
    return {"before": [way.source, way.destination], "after": [way.new_source, way.new_destination]}


def _lines(explanation: Explanation) -> Iterator[str]:
    yield str(explanation.question)
    answer = explanation.treatment
    if answer is None:
        yield f"  taken by no pool: {explanation.reason}"
        if explanation.near:
            yield ""
            yield "nearest listeners"
            rows = [[str(near.listener), f"pool {near.pool}", f"another {near.differs}"] for near in explanation.near]
            yield from _table(rows)
        return
    origin = f" ({answer.listener.origin})" if answer.listener.origin else ""
    yield f"  taken by pool {answer.pool.name}, which listens on {answer.listener}{origin}"
    yield ""
    yield "backends"
    yield from _table([_candidate_row(answer, candidate) for candidate in answer.candidates])
    yield ""
    yield "slots"
    yield from (f"  {line}" for line in _slot_lines(answer))
    yield ""
    yield "rewriting"
    yield from _table(
        [row for candidate in answer.candidates if candidate.slots for row in _way_rows(candidate)] or [["nothing"]]
    )
    yield ""
    yield "remarks"
    width = max(len(heading) for heading, _ in answer.remarks) + 4
    for heading, text in answer.remarks:
        yield fill(f"  {heading:<{width - 2}}{text}", _WIDTH, subsequent_indent=" " * width, break_long_words=False)


def _candidate_row(answer: Treatment, candidate: Candidate) -> list[str]:
    row = [candidate.name, candidate.address, candidate.state]
    row.append(f"weight {candidate.weight}" if candidate.weight else "")
    row.append(f"{candidate.slots} of {len(answer.slots)} slots" if candidate.slots else "")
    if candidate.zone is not None:
        row.append(f"zone {candidate.zone}")
    if candidate.mark is not None:
        row.append(f"mark {candidate.mark}")
    if candidate.tunnel is not None:
        row.append(f"tunnel {candidate.tunnel}")
    return row


def _slot_lines(answer: Treatment) -> Iterator[str]:
    slots, choice = answer.slots, answer.choice
    what = "connection" if answer.by_flow else "packet"
    if choice and choice.dropped:
        yield choice.by
    elif choice and choice.target and choice.slot is None:
        yield f"{choice.by}: every {what} with it -> {choice.target}"
    elif not slots:
        yield "none: no backend is left"
    elif len(set(slots)) == 1:
        yield f"every {what} -> {slots[0]}"
    elif choice and choice.slot is not None:
        yield f"slot {choice.slot} of {len(slots)}, by {choice.by}: every {what} -> {choice.target}"
    elif choice:
        yield choice.by
    elif answer.pool.balance == "random":
        yield f"every {what} draws one of {len(slots)}"
    else:
        width = len(str(min(len(slots), _MOST_SLOTS)))
        for number, name in enumerate(slots[:_MOST_SLOTS], 1):
            yield f"{what} {number:>{width}} -> {name}"
        if len(slots) > _MOST_SLOTS:
            yield f"... {len(slots) - _MOST_SLOTS} more slots"
        yield f"{what} {len(slots) + 1} -> {slots[0]}, then in order (counted from the last change of the pool)"


def _way_rows(candidate: Candidate) -> Iterator[list[str]]:
    ways = [("request", candidate.request), ("reply", candidate.reply)]
    name = candidate.name
    for what, way in ways:
        if way is None:
            yield [name, what, "goes to the client directly"]
        elif way.unchanged:
            yield [name, what, f"{way.source} > {way.destination}", "stays so"]
        else:
            after = f"{way.new_source} > {way.new_destination}"
            yield [name, what, f"{way.source} > {way.destination}", f"becomes {after}"]
        name = ""


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield rows as aligned columns. A row may be shorter than others."""
    widths = [max(map(len, column)) for column in zip_longest(*rows, fillvalue="")]
    for row in rows:
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip()
