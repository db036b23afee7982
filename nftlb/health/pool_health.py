"""One pool and its readiness, and the changes of state that are reported. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nftlb.model import EventKind, Family, Pool

    from .absent import AbsentBackends
    from .backend_health import BackendHealth
    from .precedence import Precedence


@dataclass(frozen=True, slots=True)
class Change:
    """A change of state to report. `old` and `new` are texts.

    `backend` is a backend or a collector; it is empty if the change is about the pool.
    """

    kind: EventKind
    pool: str
    backend: str
    old: str
    new: str
    reason: str


@dataclass(slots=True)
class PoolHealth:
    """The state of a pool, of its backends and of its collectors, which are in the order of the file.

    `lacking` describes what the pool needs from this host and the host does not have. `since` is the time of the last
    change of `ready`. `precedence` has the families whose backends have several priorities. `absent`: what the operator
    set of addresses that are not in the answers of DNS now.
    """

    pool: Pool
    backends: dict[str, BackendHealth]
    collectors: dict[str, BackendHealth]
    quorate: bool
    since: float
    lacking: tuple[str, ...] = ()
    precedence: dict[Family, Precedence] = field(default_factory=dict)
    absent: AbsentBackends = field(default_factory=dict)

    @property
    def checked(self) -> dict[str, BackendHealth]:
        """The backends and the collectors. No collector has the name of a backend."""
        return {**self.backends, **self.collectors}

    def tracked(self, name: str) -> BackendHealth:
        """Return the backend or the collector of that name."""
        return self.backends.get(name) or self.collectors[name]

    def families_with_priorities(self) -> list[Family]:
        """The families whose backends have several priorities."""
        found: dict[Family, set[int]] = {}
        for tracked in self.backends.values():
            found.setdefault(tracked.backend.family, set()).add(tracked.effective_priority)
        return [family for family, priorities in found.items() if len(priorities) > 1]

    @property
    def preempts_at(self) -> float | None:
        """The time at which the next waiting priority takes over, if its backends stay healthy; None: none waits."""
        delay = self.pool.preempt_delay / 1000
        return min(
            (due for precedence in self.precedence.values() if (due := precedence.due(delay)) is not None), default=None
        )

    @property
    def healthy(self) -> int:
        """The number of backends that count as healthy."""
        return sum(tracked.counts for tracked in self.backends.values())

    @property
    def ready(self) -> bool:
        """Whether the pool has its quorum and everything that it needs from this host."""
        return self.quorate and not self.lacking


def has_quorum(pool: Pool, healthy: int, had: bool | None) -> bool:
    """Whether `healthy` backends are enough; `had` is the last reported value, or None before the first.

    With hysteresis, a pool needs more healthy backends to gain the quorum than to keep it, as in keepalived.
    """
    if had is None:
        return healthy >= pool.quorum
    return healthy >= pool.quorum + (-pool.hysteresis if had else pool.hysteresis)
