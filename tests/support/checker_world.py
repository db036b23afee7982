"""A checker in virtual time, with probes that a test controls: the fixture `world` of tests/daemon/."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from pool_builders import backends, config, pool
from virtual_time import elapsed

from nftlb.daemon.checker import Checker, CheckKey
from nftlb.health import CheckResult
from nftlb.model import Health, Icmp

if TYPE_CHECKING:
    from nftlb.model import Config
    from nftlb.probes import Subject

PASS = CheckResult(passed=True, reason="fine", seconds=0.001)
PING = Health(check=Icmp(), interval=1000, fast_interval=100, timeout=500)
A, B = CheckKey("dns", "b1", 0), CheckKey("dns", "b2", 0)


def dns(*health: Health, count: int = 2, **options: Any) -> Config:
    behind = backends(*(f"10.0.{n // 250}.{n % 250 + 1}:53" for n in range(count)))
    return config(pool("dns", "192.0.2.53:53/udp", behind, health=health or (PING,), **options))


@dataclass
class World:
    """A checker whose probes take `takes` seconds, and answer what `answers` has, or pass."""

    takes: float = 0.0
    answers: dict[str, Exception] = field(default_factory=dict)
    delay: float = 1.0
    broken: Exception | None = None
    result: CheckResult = PASS
    patience: list[float] = field(default_factory=list)
    results: list[CheckResult] = field(default_factory=list)
    starts: list[tuple[float, str]] = field(default_factory=list)
    reported: list[tuple[float, CheckKey]] = field(default_factory=list)
    unable: list[str] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    running: list[str] = field(default_factory=list)
    most: int = 0

    def __post_init__(self) -> None:
        self.checker = Checker(self._record_result, self.unable.append, self.late.append)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.checker.close()
        assert 1 == len(asyncio.all_tasks())
        before = len(self.starts)
        await asyncio.sleep(60)
        assert before == len(self.starts)

    async def probe(self, _: object, subject: Subject) -> CheckResult:
        self.starts.append((elapsed(), subject.backend))
        self.patience.append(subject.timeout)
        self.running.append(subject.backend)
        self.most = max(self.most, self.running.count(subject.backend))
        try:
            await asyncio.sleep(self.takes)
        finally:
            self.running.remove(subject.backend)
        if subject.backend in self.answers:
            raise self.answers[subject.backend]
        return self.result

    def times(self, name: str) -> list[float]:
        return [when for when, who in self.starts if who == name]

    def _record_result(self, place: CheckKey, result: CheckResult) -> float:
        self.reported.append((elapsed(), place))
        self.results.append(result)
        if self.broken is not None:
            raise self.broken
        return self.delay
