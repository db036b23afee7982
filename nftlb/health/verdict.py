"""Rise and fall: from what is believed of one check, and its next outcome, to what is believed then. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nftlb.model import Health


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is believed, and how many outcomes in a row spoke against it since."""

    up: bool
    pending: int = 0

    def needed(self, health: Health) -> int:
        """How many outcomes in a row change it."""
        return health.fall if self.up else health.rise

    def delay(self, health: Health) -> float:
        """Seconds from the start of one check to the start of the next."""
        milliseconds = min(health.interval, health.fast_interval) if self.pending else health.interval
        return milliseconds / 1000


def judge(verdict: Verdict, *, passed: bool, health: Health) -> Verdict:
    """Take an outcome into account.

    believed   outcome   then
    up         passed    up, nothing pending
    up         failed    up, one more pending; down at `fall`
    down       failed    down, nothing pending
    down       passed    down, one more pending; up at `rise`
    """
    if passed is verdict.up:
        return Verdict(verdict.up)
    pending = verdict.pending + 1
    return Verdict(passed) if pending >= verdict.needed(health) else Verdict(verdict.up, pending)
