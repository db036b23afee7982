"""Which backends get packets and send no replies, from counts of both. Pure: the time is an argument.

A server whose process hangs keeps its port open, so no ICMP error shows that it is dead, and its host still answers
other checks. But its replies end. `SilentBackends` compares packets and replies of each backend:

- A backend is silent if it got `min_packets` within `window`, and less than `answered_below` of them were answered
  `reply_time` later.
- Silence alone is no evidence. Traffic may be one-way, or a client may send requests that no server answers. So
  another backend of the family must have answered in the same time. If no other backend got packets, the silent
  backend must have answered before, and another backend must be healthy. The same is true if the others that got
  packets did not answer either, and a backend of another priority stands by: a whole site may be dead.
- At most `most_out` of the enabled backends of a family are down for this reason, or a whole priority, and never the
  last backend: if no other enabled backend is up any more, the silent ones return at once.
- After `probation` the backend gets packets again. If it is still silent, it is down for twice the time, up to sixteen
  times the time.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from nftlb.model import PassiveReplies

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from nftlb.model import Config, Pool

    from .backend_health import BackendHealth
    from .pool_health import PoolHealth

BackendName: TypeAlias = "tuple[str, str]"
"""The names of a pool and of one of its backends."""

MOST_DOUBLINGS = 4
MOST_READINGS = 50
"""About as many readings of a backend are kept, because all are compared at each new reading."""
_DEFAULT = PassiveReplies()
_SPAN = 2
"""So many readings have packets and replies between them."""
_WHOLE = 100


class _Fault(Enum):
    """What is at fault for a silence: one backend, or all backends of its priority while another priority is idle."""

    BACKEND = auto()
    PRIORITY = auto()


class Reading(NamedTuple):
    """The packets that a backend had got, and the replies that it had sent, at a moment."""

    at: float
    requests: int
    replies: int


class SilentSpan(NamedTuple):
    """The time since which a backend does not reply, and what was counted since, in words."""

    since: float
    counted: str


@dataclass(slots=True)
class Answers:
    """The recent readings of one backend, the oldest first. The last one is the newest, and the others have a distance.

    `proven`: the backend has sent a reply, also if that was before a restart of the daemon. `until`: the end of its
    probation while it is down, for `reason`. `times`: how often in a row it was down. `away`: the backend gets no
    packets for another reason, such as a failed check.
    """

    readings: deque[Reading] = field(default_factory=deque)
    proven: bool = False
    until: float | None = None
    reason: str = ""
    times: int = 0
    away: bool = False

    def add(self, reading: Reading, keep: float) -> None:
        """Add a reading, and drop those of more than `keep` seconds before. Counters may have begun at zero again.

        Readings may be further apart than `keep`. So two readings from before this time stay: a span to compare.
        """
        last = self.readings[-1] if self.readings else Reading(reading.at, 0, 0)
        if reading.requests < last.requests or reading.replies < last.replies:
            self.readings.clear()
        self.proven |= reading.replies > last.replies
        if len(self.readings) > 1 and self.readings[-1].at - self.readings[-2].at < keep / MOST_READINGS:
            self.readings.pop()
        self.readings.append(reading)
        while len(self.readings) > _SPAN and self.readings[_SPAN].at <= reading.at - keep:
            self.readings.popleft()

    def share(self, since: float) -> float | None:
        """The part of the packets since a moment that was answered, 0 to 1; None without packets.

        If there is only the newest reading since the moment, the part is that since the reading before.
        """
        if len(self.readings) < _SPAN:
            return None
        before, last = self.readings[-2], self.readings[-1]
        first = next((one for one in self.readings if one.at >= since and one is not last), before)
        if last.requests == first.requests:
            return None
        return min(1.0, (last.replies - first.replies) / (last.requests - first.requests))

    def silence(self, limits: PassiveReplies) -> SilentSpan | None:
        """The silence of the backend; None if it is not silent, or if too little is known.

        Replies of later packets count too, so that a reply has its time, and never too few replies are counted.
        """
        if not self.readings:
            return None
        now = self.readings[-1]
        old = [one for one in self.readings if one.at <= now.at - limits.reply_time / 1000]
        for place, first in enumerate(old, 1):
            requests, replies = old[-1].requests - first.requests, now.replies - first.replies
            recent = first.at >= old[-1].at - limits.window / 1000 or place == len(old) - 1
            if not recent or requests < limits.min_packets:
                continue
            if replies * _WHOLE < limits.answered_below * requests:
                return SilentSpan(
                    first.at, f"{requests} packets and {replies} replies within {now.at - first.at:.1f} s"
                )
        return None

    def answers(self, limits: PassiveReplies, since: float) -> bool:
        """Whether the backend has answered enough of its packets since a moment."""
        share = self.share(since)
        return share is not None and share * _WHOLE >= limits.answered_below


class SilentBackends:
    """The backends of one configuration whose replies are counted."""

    def __init__(self, config: Config) -> None:
        self._answers: dict[BackendName, Answers] = {}
        self._pools: dict[str, Pool] = {}
        self.follow(config)

    def __bool__(self) -> bool:
        """Whether replies of any backend are counted."""
        return bool(self._pools)

    def follow(self, config: Config) -> None:
        """Use another configuration. What is known about a backend stays, if its server is the same."""
        before, self._pools = self._pools, {pool.name: pool for pool in config.pools if pool.has_reply_counts}
        kept: dict[BackendName, Answers] = {}
        for name, pool in self._pools.items():
            for backend in pool.backends:
                old = before[name].backend(backend.name) if name in before else None
                same = old is not None and (old.address, old.port) == (backend.address, backend.port)
                kept[name, backend.name] = self._answers[name, backend.name] if same else Answers()
        self._answers = kept

    def record(self, counts: Mapping[BackendName, tuple[int, int]], now: float) -> None:
        """Record the packets and replies of backends. A backend that is not named has no new reading."""
        for name in self._answers.keys() & counts.keys():
            limits = self._limits(name[0])
            self._answers[name].add(Reading(now, *counts[name]), (limits.window + limits.reply_time) / 1000)

    def shares(self) -> dict[BackendName, float]:
        """The part of the packets of each backend that was answered in the last `window`; without idle backends."""
        found: dict[BackendName, float] = {}
        for name, answers in self._answers.items():
            if answers.readings:
                share = answers.share(answers.readings[-1].at - self._limits(name[0]).window / 1000)
                found |= {} if share is None else {name: share}
        return found

    def judge(self, pools: Mapping[str, PoolHealth], now: float) -> dict[BackendName, str]:
        """Return the backends that are down because they are silent, each with the reason."""
        down: dict[BackendName, str] = {}
        for name, pool in self._pools.items():
            if pool.silence is None or name not in pools:
                continue
            for family in dict.fromkeys(backend.family for backend in pool.backends):
                group = [backend for backend in pools[name].backends.values() if backend.backend.family is family]
                down |= {(name, one): reason for one, reason in self._judge(name, group, pool.silence, now)}
        return down

    def _judge(
        self, pool: str, group: list[BackendHealth], limits: PassiveReplies, now: float
    ) -> Iterator[tuple[str, str]]:
        """Yield the silent backends of one family of a pool."""
        enabled = [tracked for tracked in group if tracked.wanted]
        most = -(-len(enabled) * limits.most_out // _WHOLE)
        known = {tracked.backend.name: self._answers[pool, tracked.backend.name] for tracked in group}
        alone = not any(tracked.up and known[tracked.backend.name].until is None for tracked in enabled)
        out = 0
        for tracked in group:
            answers = known[tracked.backend.name]
            if answers.until is not None and now < answers.until and not alone:
                out += 1
                yield tracked.backend.name, answers.reason
            elif answers.until is not None:
                answers.until = None
                answers.readings.clear()
            elif answers.away and tracked.counts:
                answers.readings.clear()  # packets from before it left were lost for another reason
            answers.away = answers.until is None and not tracked.counts
        for tracked in enabled:
            answers = known[tracked.backend.name]
            if answers.until is not None:
                continue
            if answers.times and answers.answers(limits, 0.0):
                answers.times = 0
            silence = answers.silence(limits) if tracked.up and out < len(enabled) - 1 else None
            fault = silence and _fault(tracked, silence, enabled, known, limits)
            if silence and (fault is _Fault.PRIORITY or (fault is _Fault.BACKEND and out < most)):
                answers.reason = f"passive: {silence.counted}"
                answers.until = now + limits.probation / 1000 * 2 ** min(answers.times, MOST_DOUBLINGS)
                answers.times += 1
                out += 1
                yield tracked.backend.name, answers.reason

    def _limits(self, pool: str) -> PassiveReplies:
        return self._pools[pool].silence or _DEFAULT


def _fault(
    tracked: BackendHealth,
    silence: SilentSpan,
    enabled: list[BackendHealth],
    known: Mapping[str, Answers],
    limits: PassiveReplies,
) -> _Fault | None:
    """What is at fault for the silence of a backend; None if that may be the traffic, or something behind them all."""
    others = [(other, known[other.backend.name]) for other in enabled if other is not tracked and other.up]
    if any(answers.answers(limits, silence.since) for _, answers in others):
        return _Fault.BACKEND
    if not known[tracked.backend.name].proven:
        return None
    idle = [other for other, answers in others if answers.share(silence.since) is None]
    if any(other.effective_priority != tracked.effective_priority for other in idle):
        return _Fault.PRIORITY
    return _Fault.BACKEND if 0 < len(idle) == len(others) else None
