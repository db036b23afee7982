"""The last changes of the rules in the kernel, each as the lines that differ. A thread finds the differences."""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from nftlb.service import RulesetChange, RulesetChanges
from nftlb.swap.difference import difference

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from nftlb.ruleset import Ruleset
    from nftlb.service import Event

KEPT = 20
"""The number of changes that are kept."""
MOST_LINES, LONGEST_LINE = 500, 240
"""The most lines of a change, and the most characters of a line. A map of a pool has a line for each slot."""
MOST_WORDS = 5
"""The most events that a reason names."""


@dataclass(frozen=True)
class _Recorded:
    at: datetime
    reason: str
    events: tuple[int, ...]
    lines: asyncio.Future[list[str]]
    """The first MOST_LINES + 1 lines. The rulesets are let go as soon as the lines are there."""


class ChangeLog:
    """Keeps the last KEPT changes. `record` never waits."""

    def __init__(self) -> None:
        self._recorded: deque[_Recorded] = deque()
        self._thread = ThreadPoolExecutor(1, "differences")

    def record(
        self, at: datetime, reason: str, causes: Sequence[Event], before: Ruleset | None, after: Ruleset
    ) -> None:
        """Record a change from one ruleset to another. `before` is None for the first load, which has no lines."""
        lines = asyncio.get_running_loop().run_in_executor(self._thread, _lines, before or after, after)
        self._recorded.append(_Recorded(at, reason or in_words(causes), tuple(event.id for event in causes), lines))
        if len(self._recorded) > KEPT:
            self._recorded.popleft().lines.cancel()

    async def changes(self) -> RulesetChanges:
        """The kept changes, the newest first. Waits until their lines are there."""
        found = []
        for recorded in reversed(tuple(self._recorded)):
            # A change that is pushed out meanwhile is cancelled.
            try:
                lines = await asyncio.shield(recorded.lines)
            except asyncio.CancelledError:
                if recorded.lines.cancelled():
                    continue
                raise
            found.append(
                RulesetChange(
                    at=recorded.at,
                    reason=recorded.reason,
                    events=recorded.events,
                    lines=tuple(lines[:MOST_LINES]),
                    cut=len(lines) > MOST_LINES,
                )
            )
        return RulesetChanges(changes=tuple(found))

    def close(self) -> None:
        """Find no more differences."""
        self._thread.shutdown(cancel_futures=True)


def in_words(causes: Sequence[Event]) -> str:
    """The events that led to a change of the rules, in words."""
    if not causes:
        return "the time: a slow start, or rules that no packet needs any more"
    words = [_words(event) for event in causes[:MOST_WORDS]]
    more = len(causes) - MOST_WORDS
    return "; ".join([*words, f"and {more} more"] if more > 0 else words)


def _words(event: Event) -> str:
    subject = f"{event.pool}/{event.backend}" if event.backend else f"pool {event.pool}"
    return f"{subject}: {event.new}, was {event.old}: {event.reason[:LONGEST_LINE]}"


def _lines(before: Ruleset, after: Ruleset) -> list[str]:
    return [_spaced(line) for line in islice(difference(before, after), MOST_LINES + 1)]


def _spaced(line: str) -> str:
    """A line with a space after its sign, and not too long."""
    text = f"{line[0]} {line[1:]}" if line[:1] in {"-", "+"} else line
    return text if len(text) <= LONGEST_LINE else f"{text[: LONGEST_LINE - 4]} ..."
