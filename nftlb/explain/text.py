"""An explanation for people, and for machines."""

from __future__ import annotations

from itertools import zip_longest
from textwrap import fill
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .answer import Answer, Candidate, Explanation, Way

_WIDTH = 100
_MOST_SLOTS = 24


def as_text(explanation: Explanation) -> str:
    """Some paragraphs of plain text."""
    return "\n".join(_lines(explanation)) + "\n"


def as_data(explanation: Explanation) -> dict[str, Any]:
    """The same as data that JSON can hold; the keys are always there, null where there is nothing to say."""
    question, answer = explanation.question, explanation.answer
    return {
        "client": str(question.client),
        "service": str(question.service),
        "protocol": str(question.protocol),
        "reason": explanation.reason or None,
        "near": [{"listener": str(one.listener), "pool": one.pool, "differs": one.differs} for one in explanation.near],
        "pool": answer.pool.name if answer else None,
        "listener": str(answer.listener) if answer else None,
        "forward": str(answer.pool.forward) if answer else None,
        "balance": str(answer.pool.balance) if answer else None,
        "per": ("flow" if answer.by_flow else "packet") if answer else None,
        "why": str(answer.why) if answer else None,
        "verdict": str(answer.verdict) if answer and answer.verdict else None,
        "candidates": [_candidate_data(one) for one in answer.candidates] if answer else [],
        "slots": list(answer.slots) if answer else [],
        "slot": answer.slot if answer else None,
        "fast_path": answer.fast_path if answer else None,
        "remarks": dict(answer.remarks) if answer else {},
    }


def _candidate_data(one: Candidate) -> dict[str, Any]:
    return {
        "name": one.name,
        "address": one.address,
        "weight": one.weight,
        "state": one.state,
        "slots": one.slots,
        "zone": one.zone,
        "mark": one.mark,
        "request": _way_data(one.request),
        "reply": _way_data(one.reply) if one.reply else None,
    }


def _way_data(way: Way) -> dict[str, list[str]]:
    return {"before": [way.source, way.destination], "after": [way.new_source, way.new_destination]}


def _lines(explanation: Explanation) -> Iterator[str]:
    yield str(explanation.question)
    answer = explanation.answer
    if answer is None:
        yield f"  taken by no pool: {explanation.reason}"
        if explanation.near:
            yield ""
            yield "nearest listeners"
            rows = [[str(one.listener), f"pool {one.pool}", f"another {one.differs}"] for one in explanation.near]
            yield from _table(rows)
        return
    yield f"  taken by pool {answer.pool.name}, which listens on {answer.listener}"
    yield ""
    yield "backends"
    yield from _table([_candidate_row(answer, one) for one in answer.candidates])
    yield ""
    yield "slots"
    yield from (f"  {line}" for line in _slot_lines(answer))
    yield ""
    yield "rewriting"
    yield from _table([row for one in answer.candidates if one.slots for row in _way_rows(one)] or [["nothing"]])
    yield ""
    yield "remarks"
    width = max(len(heading) for heading, _ in answer.remarks) + 4
    for heading, text in answer.remarks:
        yield fill(f"  {heading:<{width - 2}}{text}", _WIDTH, subsequent_indent=" " * width, break_long_words=False)


def _candidate_row(answer: Answer, one: Candidate) -> list[str]:
    row = [one.name, one.address, one.state]
    row.append(f"weight {one.weight}" if one.weight else "")
    row.append(f"{one.slots} of {len(answer.slots)} slots" if one.slots else "")
    if one.zone is not None:
        row.append(f"zone {one.zone}")
    if one.mark is not None:
        row.append(f"mark {one.mark}")
    return row


def _slot_lines(answer: Answer) -> Iterator[str]:
    slots = answer.slots
    what = "connection" if answer.by_flow else "packet"
    if not slots:
        yield "none: no backend is left"
    elif len(set(slots)) == 1:
        yield f"every {what} -> {slots[0]}"
    elif answer.slot is not None:
        yield f"slot {answer.slot} of {len(slots)}, by the client's address: every {what} -> {slots[answer.slot]}"
    elif answer.pool.balance == "random":
        yield f"every {what} draws one of {len(slots)}"
    else:
        width = len(str(min(len(slots), _MOST_SLOTS)))
        for number, name in enumerate(slots[:_MOST_SLOTS], 1):
            yield f"{what} {number:>{width}} -> {name}"
        if len(slots) > _MOST_SLOTS:
            yield f"... {len(slots) - _MOST_SLOTS} more slots"
        yield f"{what} {len(slots) + 1} -> {slots[0]}, and so on (counted from the last change of the pool)"


def _way_rows(one: Candidate) -> Iterator[list[str]]:
    ways = [("request", one.request), ("reply", one.reply)]
    name = one.name
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
    """Rows in columns; a row may be shorter than others."""
    widths = [max(map(len, column)) for column in zip_longest(*rows, fillvalue="")]
    for row in rows:
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip()
