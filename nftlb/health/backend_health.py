"""One backend: the health that its checks found, and separately the wishes of the operator and of its agent. Pure."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from nftlb.model import WHOLE, Admin, Agent, BackendChange, BackendState, Initial
from nftlb.model.kinds import endpoint_text

from .check_health import CheckHealth, CheckState
from .memory import BackendMemory

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from nftlb.model import Backend, Health

SLOW_START_STEPS = 10
"""The number of ruleset changes that raise a weight from a tenth to the whole."""

_ROUNDING = 1e-6  # part of a step: a call at the announced time must find the step done


class FileValues(NamedTuple):
    """What the file says about a backend, and an operator may set at run time."""

    admin: Admin
    weight: int
    priority: int


@dataclass(slots=True)
class BackendHealth:
    """The state of a backend.

    `entry` has the values of the file, if the weight and the priority of the backend come from SRV records.
    `admin`, `weight` and `priority` are what the operator set at run time; None: as in the file. `admin_since` is the
    time of day at which `admin` was set. `unreachable` is the reason why this host can't send to the backend, whatever
    the checks say; empty if it can. `silent` is the reason why the backend counts as silent (`silence.py`); empty if it
    does not. `since` is the time of the last change of health.
    `risen` is the time at which the backend came into rotation, where slow start begins. `was_up` and `counted` are the
    values of `up` and `counts` that were reported last.
    """

    backend: Backend
    checks: list[CheckHealth]
    since: float
    reason: str
    admin: Admin | None = None
    admin_since: datetime | None = None
    weight: int | None = None
    priority: int | None = None
    agent_admin: Admin | None = None
    agent_percent: int = WHOLE
    risen: float | None = None
    unreachable: str = ""
    silent: str = ""
    entry: FileValues | None = None
    was_up: bool = field(init=False)
    counted: bool = field(init=False)

    def __post_init__(self) -> None:
        self.mark_reported()

    @property
    def up(self) -> bool:
        """Whether all checks are up, this host can send to the backend, and the backend is not silent."""
        return not self.outage and all(check.state.up for check in self.checks)

    @property
    def outage(self) -> str:
        """Why the backend is down whatever its checks say; empty if only the checks decide."""
        return self.unreachable or self.silent

    @property
    def file_values(self) -> FileValues:
        """What the file says. Other SRV records are no change of the file, and end no wish of the operator."""
        return self.entry or FileValues(self.backend.admin, self.backend.weight, self.backend.priority)

    @property
    def wish(self) -> BackendChange:
        """What the operator set at run time."""
        return BackendChange(self.admin, self.weight, self.priority)

    @property
    def requested_admin(self) -> Admin:
        """The administrative state that the operator wants."""
        return self.backend.admin if self.admin is None else self.admin

    @property
    def effective_admin(self) -> Admin:
        """The operator's administrative state; the agent's only if the operator's is `enabled`."""
        if self.requested_admin is Admin.ENABLED and self.agent_admin is not None:
            return self.agent_admin
        return self.requested_admin

    @property
    def effective_weight(self) -> int:
        """The weight that the operator wants."""
        return self.backend.weight if self.weight is None else self.weight

    @property
    def effective_priority(self) -> int:
        """The priority that the operator wants."""
        return self.backend.priority if self.priority is None else self.priority

    @property
    def wanted(self) -> bool:
        """Whether the backend should get packets while it is healthy."""
        return self.effective_admin is Admin.ENABLED and self.effective_weight * self.agent_percent > 0

    @property
    def counts(self) -> bool:
        """Whether the backend counts as a healthy backend of its pool."""
        return self.up and self.wanted

    def mark_reported(self) -> None:
        """Record the present state as the state that was reported last."""
        self.was_up, self.counted = self.up, self.counts

    def percent(self, now: float, slow_start: float) -> int:
        """The part of its weight that the backend gets, in per cent; `slow_start` is in seconds."""
        if self.risen is None or not slow_start:
            return self.agent_percent
        part = self.agent_percent * slow_start_percent(now - self.risen, slow_start)
        return -(-part // WHOLE)

    def state(self, now: float, slow_start: float) -> BackendState:
        """The state in the form that the compiler takes."""
        admin, weight, priority = self.effective_admin, self.effective_weight, self.effective_priority
        return BackendState(
            up=self.up,
            admin=None if admin is self.backend.admin else admin,
            weight=None if weight == self.backend.weight else weight,
            percent=self.percent(now, slow_start) if self.up else self.agent_percent,
            priority=None if priority == self.backend.priority else priority,
        )

    def memory(self) -> BackendMemory:
        """The state in the form that is saved."""
        file = self.file_values
        return BackendMemory(
            endpoint=backend_endpoint(self.backend),
            checks=tuple(check.state.up for check in self.checks),
            admin=self.admin,
            admin_since=self.admin_since,
            weight=self.weight,
            priority=self.priority,
            file_admin=file.admin,
            file_weight=file.weight,
            file_priority=file.priority,
            agent_admin=self.agent_admin,
            agent_percent=self.agent_percent,
        )

    def with_config(self, backend: Backend, checks: Sequence[Health], entry: FileValues | None = None) -> BackendHealth:
        """Return the state of the same server under a new configuration."""
        new = copy(self)
        new.backend, new.entry = backend, entry
        new.drop_outdated_wishes(self.file_values)
        healthy = all(check.state.up for check in self.checks)
        new.checks = [_continued(self.checks, health, up=healthy) for health in checks]
        if not _agents(checks):
            new.agent_admin, new.agent_percent = None, WHOLE  # no agent is left that could withdraw its wish
        return new

    def restore(self, memory: BackendMemory, checks: Sequence[Health]) -> None:
        """Take over saved wishes: the operator's always, the agent's if the `initial` of its check is `last`."""
        self.admin, self.weight, self.priority = memory.admin, memory.weight, memory.priority
        self.admin_since = memory.admin_since
        self.drop_outdated_wishes(FileValues(memory.file_admin, memory.file_weight, memory.file_priority))
        if any(health.initial is Initial.LAST for health in _agents(checks)):
            self.agent_admin, self.agent_percent = memory.agent_admin, memory.agent_percent

    def drop_outdated_wishes(self, before: FileValues) -> None:
        """Drop a wish of the operator if the file has changed the value since: the file is newer.

        `before` are the values that the file had when the wishes were made.
        """
        now = self.file_values
        if before.admin is not now.admin:
            self.admin = self.admin_since = None
        if before.weight != now.weight:
            self.weight = None
        if before.priority != now.priority:
            self.priority = None


def initial_health(
    backend: Backend,
    checks: Sequence[Health],
    memory: BackendMemory | None,
    now: float,
    entry: FileValues | None = None,
) -> BackendHealth:
    """The first state of a backend or collector: each check starts as its `initial` says."""
    known = memory is not None and memory.endpoint == backend_endpoint(backend)
    saved = memory.checks if memory is not None and known else ()
    last_states = saved if len(saved) == len(checks) else [all(saved)] * len(checks)
    tracked = BackendHealth(
        backend=backend,
        checks=[
            CheckHealth(health, CheckState(_initially_up(health, last=last)))
            for health, last in zip(checks, last_states, strict=True)
        ],
        since=now,
        reason="no check yet" if checks else "not checked: there is no health check",
        entry=entry,
    )
    if memory is not None and known:
        tracked.restore(memory, checks)
    tracked.mark_reported()
    return tracked


def backend_endpoint(backend: Backend) -> str:
    """The address and port of a backend as one word."""
    return str(backend.address) if backend.port is None else endpoint_text(backend.address, backend.port)


def slow_start_percent(elapsed: float, duration: float) -> int:
    """The part of the weight in per cent, `elapsed` seconds after the begin of a slow start of `duration` seconds."""
    return WHOLE // SLOW_START_STEPS * min(SLOW_START_STEPS, 1 + _steps_done(elapsed, duration))


def next_slow_start_step(elapsed: float, duration: float) -> float | None:
    """Seconds from the begin of a slow start to its next step; None after the last step."""
    done = _steps_done(elapsed, duration)
    return None if done >= SLOW_START_STEPS - 1 else (1 + done) * duration / SLOW_START_STEPS


def _steps_done(elapsed: float, duration: float) -> int:
    return int(max(elapsed, 0) * SLOW_START_STEPS / duration + _ROUNDING) if duration else SLOW_START_STEPS


def _agents(checks: Sequence[Health]) -> list[Health]:
    return [health for health in checks if isinstance(health.check, Agent)]


def _initially_up(health: Health, *, last: bool) -> bool:
    return last if health.initial is Initial.LAST else health.initial is Initial.UP


def _continued(before: list[CheckHealth], health: Health, *, up: bool) -> CheckHealth:
    """Return the state of a check after a reload.

    A check that the backend did not have before starts with the state of the backend, so that a reload takes no
    backend out of rotation.
    """
    for check in before:
        if check.same_as(health):
            pending = 0 if check.state.needed(health) <= check.state.pending else check.state.pending
            return CheckHealth(health, CheckState(check.state.up, pending), check.last, check.at)
    return CheckHealth(health, CheckState(up))
