"""One backend and what is believed of it: its health, the operator's wish and its agent's, kept apart. Pure."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nftlb.compiler import BackendState
from nftlb.compiler.shares import WHOLE
from nftlb.model import Admin, Agent, Initial
from nftlb.model.kinds import endpoint_text

from . import ramp
from .memory import BackendMemory
from .verdict import Verdict

if TYPE_CHECKING:
    from nftlb.model import Backend, Health, Pool

    from .result import Result


@dataclass(slots=True)
class TrackedCheck:
    """One check of one backend. `at` is when the last result came, on the clock that all times here are of."""

    health: Health
    verdict: Verdict
    last: Result | None = None
    at: float | None = None

    def same_as(self, health: Health) -> bool:
        """Whether it asks the same by the same way; timers may differ."""
        return _question(self.health) == _question(health)


@dataclass(slots=True)
class Tracked:
    """A backend. `admin` and `weight` are what the operator set at run time; None: as in the file.

    `unreachable` is why this host can't send to it, whatever its checks say; empty while it can.
    `since` is when its health last changed, `risen` when it last came into rotation: there slow start begins. What was
    told last is in `was_up` and `counted`.
    """

    backend: Backend
    checks: list[TrackedCheck]
    since: float
    reason: str
    admin: Admin | None = None
    weight: int | None = None
    agent_admin: Admin | None = None
    agent_percent: int = WHOLE
    risen: float | None = None
    unreachable: str = ""
    was_up: bool = field(init=False)
    counted: bool = field(init=False)

    def __post_init__(self) -> None:
        self.note()

    @property
    def up(self) -> bool:
        return not self.unreachable and all(check.verdict.up for check in self.checks)

    @property
    def wish(self) -> Admin:
        """What the operator wants."""
        return self.backend.admin if self.admin is None else self.admin

    @property
    def effective_admin(self) -> Admin:
        """The agent is heard where the operator wants nothing else."""
        if self.wish is Admin.ENABLED and self.agent_admin is not None:
            return self.agent_admin
        return self.wish

    @property
    def effective_weight(self) -> int:
        return self.backend.weight if self.weight is None else self.weight

    @property
    def wanted(self) -> bool:
        """Whether it is to get packets as long as it is healthy."""
        return self.effective_admin is Admin.ENABLED and self.effective_weight * self.agent_percent > 0

    @property
    def counts(self) -> bool:
        """Whether it counts as a healthy backend of its pool."""
        return self.up and self.wanted

    def note(self) -> None:
        """Take what it is now for what was told last."""
        self.was_up, self.counted = self.up, self.counts

    def percent(self, now: float, slow_start: float) -> int:
        """The part of its weight that it gets; `slow_start` in seconds."""
        if self.risen is None or not slow_start:
            return self.agent_percent
        part = self.agent_percent * ramp.percent(now - self.risen, slow_start)
        return -(-part // WHOLE)

    def state(self, now: float, slow_start: float) -> BackendState:
        """What the compiler is to know of it."""
        admin, weight = self.effective_admin, self.effective_weight
        return BackendState(
            up=self.up,
            admin=None if admin is self.backend.admin else admin,
            weight=None if weight == self.backend.weight else weight,
            percent=self.percent(now, slow_start) if self.up else self.agent_percent,
        )

    def memory(self) -> BackendMemory:
        """What is to be remembered of it."""
        return BackendMemory(
            endpoint=endpoint(self.backend),
            checks=tuple(check.verdict.up for check in self.checks),
            admin=self.admin,
            weight=self.weight,
            file_admin=self.backend.admin,
            file_weight=self.backend.weight,
            agent_admin=self.agent_admin,
            agent_percent=self.agent_percent,
        )

    def following(self, backend: Backend, pool: Pool) -> Tracked:
        """The same server by a new configuration, with what is believed of it."""
        new = copy(self)
        new.backend = backend
        new.heed_file(self.backend.admin, self.backend.weight)
        healthy = all(check.verdict.up for check in self.checks)
        new.checks = [_followed(self.checks, health, up=healthy) for health in pool.health]
        if not _agents(pool):
            new.agent_admin, new.agent_percent = None, WHOLE  # nobody is left who could take it back
        return new

    def recall(self, memory: BackendMemory, pool: Pool) -> None:
        """Take over the operator's wishes from before, and an agent's, as its check's `initial` has it."""
        self.admin, self.weight = memory.admin, memory.weight
        self.heed_file(memory.file_admin, memory.file_weight)
        if any(health.initial is Initial.LAST for health in _agents(pool)):
            self.agent_admin, self.agent_percent = memory.agent_admin, memory.agent_percent

    def heed_file(self, admin: Admin, weight: int) -> None:
        """What the file says now, and did not say then, is the newer word."""
        if admin is not self.backend.admin:
            self.admin = None
        if weight != self.backend.weight:
            self.weight = None


def track(backend: Backend, pool: Pool, memory: BackendMemory | None, now: float) -> Tracked:
    """Begin with a backend, as `initial` has it."""
    known = memory is not None and memory.endpoint == endpoint(backend)
    checks = memory.checks if memory is not None and known else ()
    verdicts = checks if len(checks) == len(pool.health) else [all(checks)] * len(pool.health)
    tracked = Tracked(
        backend=backend,
        checks=[
            TrackedCheck(health, Verdict(_initial(health, last=last)))
            for health, last in zip(pool.health, verdicts, strict=True)
        ],
        since=now,
        reason="no check yet" if pool.health else "not checked: the pool has no health check",
    )
    if memory is not None and known:
        tracked.recall(memory, pool)
    tracked.note()
    return tracked


def endpoint(backend: Backend) -> str:
    """Its address and port in a word."""
    return str(backend.address) if backend.port is None else endpoint_text(backend.address, backend.port)


def _agents(pool: Pool) -> list[Health]:
    return [health for health in pool.health if isinstance(health.check, Agent)]


def _question(health: Health) -> tuple[object, ...]:
    return health.check, health.port, health.source, health.device, health.mark


def _initial(health: Health, *, last: bool) -> bool:
    return last if health.initial is Initial.LAST else health.initial is Initial.UP


def _followed(before: list[TrackedCheck], health: Health, *, up: bool) -> TrackedCheck:
    """A check that is new to a backend begins with what is believed of the backend: a reload takes nobody out."""
    for check in before:
        if check.same_as(health):
            pending = 0 if check.verdict.needed(health) <= check.verdict.pending else check.verdict.pending
            return TrackedCheck(health, Verdict(check.verdict.up, pending), check.last, check.at)
    return TrackedCheck(health, Verdict(up))
