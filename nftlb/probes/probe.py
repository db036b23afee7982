"""What a probe is, and the one way to carry one out."""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from nftlb.health import Result

from .faults import reason_of
from .line import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nftlb.model import Admin

    from .subject import Subject


@dataclass(frozen=True, slots=True)
class Answer:
    """The backend is well; for the rest see `Result`."""

    reason: str
    weight: int | None = None
    admin: Admin | None = None


class Failed(Exception):  # noqa: N818 - it is an outcome
    """The backend is not well; an agent may say so, and what it wants besides."""

    def __init__(self, reason: str, weight: int | None = None, admin: Admin | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.weight = weight
        self.admin = admin


class Probe(Protocol):
    """One kind of check with its options; used for many backends at the same time, it holds only what is constant."""

    keeps_time: bool = False
    """It ends within the subject's time-out by itself; else `run` cancels it."""

    async def probe(self, subject: Subject) -> Answer:
        """Check once. Raises Failed or OSError for a sick backend, SystemFault for this machine."""


async def run(probe: Probe, subject: Subject) -> Result:
    """Check once, within the subject's time-out. Never raises for a sick backend.

    Raises SystemFault if the check could not be done: that says nothing about the backend.
    """
    start = time.monotonic()
    weight = admin = None
    passed = False
    try:
        answer = await (probe.probe(subject) if probe.keeps_time else _within(probe, subject))
        passed, reason, weight, admin = True, answer.reason, answer.weight, answer.admin
    except Failed as failure:
        reason, weight, admin = failure.reason, failure.weight, failure.admin
    except OSError as error:
        reason = reason_of(error)
    return Result(passed, one_line(reason), time.monotonic() - start, weight, admin)


def no_answer(timeout: float) -> str:
    """Say that `timeout` seconds were not enough."""
    return f"no answer within {timeout:g}s"


async def _within(probe: Probe, subject: Subject) -> Answer:
    limit = asyncio.timeout(subject.timeout)
    try:
        async with limit:
            return await probe.probe(subject)
    except TimeoutError as error:
        if not limit.expired():  # TCP gave up
            raise
        # `noting` left its notes on the cancellation, of which asyncio.timeout makes its error.
        notes = getattr(error.__context__, "__notes__", [])
        raise Failed("; ".join([no_answer(subject.timeout), *notes])) from error


@contextmanager
def noting(note: Callable[[], str]) -> Iterator[None]:
    """Have the reason of a time-out say more than that: what `note` returns, if it isn't empty."""
    try:
        yield
    except asyncio.CancelledError as error:
        if text := note():
            error.add_note(text)
        raise
