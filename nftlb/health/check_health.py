"""One check of one backend: its result, and the state that results in a row lead to. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nftlb.model import Admin, Health


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one run of a check.

    `reason` is one line for people, also when the check passed. `seconds` is the duration of the run.

    Only an agent check sets the other fields: `weight` is a share of the configured weight in per cent, `admin` is the
    administrative state that the backend asks for. None: the agent did not mention the value, and the value of an
    earlier result stays valid.
    """

    passed: bool
    reason: str
    seconds: float
    weight: int | None = None
    admin: Admin | None = None
    decides: bool = False
    """True if traffic to the backend was refused before: one failed check is then enough to take the backend down."""


@dataclass(frozen=True, slots=True)
class CheckState:
    """Up or down, and the number of results in a row that contradict this state."""

    up: bool
    pending: int = 0

    def needed(self, health: Health) -> int:
        """The number of contradicting results in a row that change the state."""
        return health.fall if self.up else health.rise

    def delay(self, health: Health) -> float:
        """Seconds between the start of a check and the start of the next."""
        milliseconds = min(health.interval, health.fast_interval) if self.pending else health.interval
        return milliseconds / 1000


def apply_outcome(state: CheckState, *, passed: bool, health: Health) -> CheckState:
    """Return the state after one more result.

    state   result   next state
    up      passed   up, no results pending
    up      failed   up, one more pending; down after `fall` results
    down    failed   down, no results pending
    down    passed   down, one more pending; up after `rise` results
    """
    if passed is state.up:
        return CheckState(state.up)
    pending = state.pending + 1
    return CheckState(passed) if pending >= state.needed(health) else CheckState(state.up, pending)


@dataclass(slots=True)
class CheckHealth:
    """The state of one check of one backend.

    `at` is the time of the last result, in seconds of the monotonic clock that all times of this package are on.
    """

    health: Health
    state: CheckState
    last: CheckResult | None = None
    at: float | None = None

    def same_as(self, health: Health) -> bool:
        """Whether both checks ask the same question in the same way. Their timers may differ."""
        return _question(self.health) == _question(health)


def _question(health: Health) -> tuple[object, ...]:
    return health.check, health.port, health.source, health.device, health.mark
