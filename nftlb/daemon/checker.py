"""Starts the health checks: staggered, with jitter, and never two runs of one check at the same time.

No task waits until a check is due: a heap that compares in C and a single timer of the event loop serve ten thousand
checks. The loop compares its own timers in Python, a dozen comparisons for each timer that is set or ends.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import random
from dataclasses import dataclass, replace
from itertools import count
from math import inf
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from nftlb.errors import SystemFault
from nftlb.model.checks import asks_over_udp
from nftlb.model.kinds import family, is_link_local
from nftlb.probes import Probe, Subject, probe_for, run_probe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from nftlb.health import CheckResult
    from nftlb.model import AnyCheck, Backend, Config, Health, IPAddress, Pool


_log = logging.getLogger(__name__)

T = TypeVar("T")


# --- the schedule -----------------------------------------------------------------------------------------------------

EARLY = 0.005
"""Seconds by which an item may begin early, together with an item that is due. At two thousand items a second, ten
items share a wake-up, which saves 40 % of the processor time of checks (`python bench/checks.py`: 24 % of a core became
14 %)."""


AT_ONCE = 32
"""The most items that begin in one turn of the loop. After a stall thousands are due; without a limit they stall the
loop again, and delay probes and commits."""


class Schedule(Generic[T]):
    """Calls `begin` with each item and the time when the item was due, on the loop's clock. Items can't be removed.

    An item begins when it is due, or up to EARLY seconds before, together with an item that is due.
    """

    def __init__(self, begin: Callable[[T, float], None]) -> None:
        self._begin = begin
        self._heap: list[tuple[float, int, T]] = []
        self._numbers = count()
        self._timer: asyncio.TimerHandle | None = None

    def put(self, due: float, item: T) -> None:
        heapq.heappush(self._heap, (due, next(self._numbers), item))
        if self._timer is None or due < self._timer.when():
            self._arm()

    def close(self) -> None:
        """Drop all items and cancel the timer."""
        self._heap.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(self._heap[0][0], self._run)

    def _run(self) -> None:
        self._timer = None
        soon = asyncio.get_running_loop().time() + EARLY
        try:
            for _ in range(AT_ONCE):
                if not self._heap or self._heap[0][0] > soon:
                    break
                due, _, item = heapq.heappop(self._heap)
                self._begin(item, due)
        finally:
            if self._heap and self._timer is None:
                self._arm()


# --- the checks -------------------------------------------------------------------------------------------------------

JITTER = 0.05
"""Each wait is shorter by a random part up to this one, so that checks that began together drift apart."""

FIRST_CHECKS_PER_SECOND = 1000
"""At most this many first checks begin in a second, unless an interval is too short for that."""

_STRANGLED = 5.0
"""The longest wait in seconds after a check that this machine could not carry out. The first is `fast_interval`."""


class CheckKey(NamedTuple):
    """The name of a check: its pool, its backend or collector, and its index in the list of checks."""

    pool: str
    backend: str
    check: int


@dataclass(slots=True, eq=False)
class _Item:
    """A check and its timer. `quiet`: it uses UDP, so a refusal may get lost. `due`: its start unless it runs."""

    place: CheckKey
    health: Health
    subject: Subject
    probe: Probe
    quiet: bool
    strangled: float
    due: float = 0.0
    task: asyncio.Task[None] | None = None
    active: bool = True
    doubted: bool = False
    hurried: float = -inf


class Checker:
    """Carries out the checks of a configuration.

    `on_result` receives each result, and returns the seconds to the start of the next check. `unable` receives the
    reason if this machine can't carry out a check, and "" when it can again. `late` receives the seconds by which a
    check began after its time.
    """

    def __init__(
        self,
        on_result: Callable[[CheckKey, CheckResult], float],
        unable: Callable[[str], None],
        late: Callable[[float], None],
    ) -> None:
        self._on_result = on_result
        self._unable = unable
        self._late = late
        self._items: dict[CheckKey, _Item] = {}
        self._schedule = Schedule(self._start)
        self._unfit: dict[CheckKey, str] = {}

    def configure(self, config: Config) -> None:
        """Use another configuration. A check that did not change keeps its timer, and goes on if it is running."""
        before, self._items = self._items, {}
        new = []
        probes: dict[AnyCheck, Probe] = {}
        for pool in config.pools:
            for place, health, subject in _checks(pool):
                old = before.get(place)
                if old is not None and (old.health, old.subject) == (health, subject):
                    self._items[place] = before.pop(place)
                    continue
                if health.check not in probes:
                    probes[health.check] = probe_for(health.check)
                fast = health.fast_interval / 1000
                quiet = asks_over_udp(health.check)
                item = self._items[place] = _Item(place, health, subject, probes[health.check], quiet, strangled=fast)
                new.append(item)
        for item in before.values():
            self._stop(item)
            self._able(item.place)
        self._stagger(new)

    def hurry(self, pool: str, backend: str) -> None:
        """Check a backend at once, because traffic gave a hint that it fails. The results of these checks decide.

        A running check over UDP is cancelled, because its request may be older than the hint; a running check of
        another kind is repeated after it has passed. A check over UDP waits for a `fast_interval` at most: a server
        that works replies at once. There is at most one such check in a `fast_interval`, because thousands of
        hints may arrive in a second.
        """
        now = asyncio.get_running_loop().time()
        for number in count():
            item = self._items.get(CheckKey(pool, backend, number))
            if item is None:
                break
            item.doubted = True
            if item.task is not None and item.quiet and now >= item.hurried + item.health.fast_interval / 1000:
                item.task.cancel()
                item.task = None
            if item.task is None:
                self._put(item, now)

    async def close(self) -> None:
        """End all checks."""
        tasks = [item.task for item in self._items.values() if item.task is not None]
        for item in self._items.values():
            self._stop(item)
        self._items = {}
        self._schedule.close()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _stagger(self, items: list[_Item]) -> None:
        random.shuffle(items)
        now = asyncio.get_running_loop().time()
        for number, item in enumerate(items):
            span = min(item.health.interval / 1000, len(items) / FIRST_CHECKS_PER_SECOND)
            self._put(item, now + span * number / len(items))

    def _put(self, item: _Item, due: float) -> None:
        """Let the check start at `due`, instead of the time that was set before."""
        if item.doubted:
            due = max(due, item.hurried + item.health.fast_interval / 1000)
        item.due = due
        self._schedule.put(due, item)

    def _start(self, item: _Item, due: float) -> None:
        if item.active and item.task is None and item.due == due:
            loop = asyncio.get_running_loop()
            self._late(max(0.0, loop.time() - due))
            item.task = loop.create_task(self._check(item))

    def _stop(self, item: _Item) -> None:
        item.active = False
        if item.task is not None:
            item.task.cancel()

    async def _check(self, item: _Item) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        subject = item.subject
        doubted, item.doubted = item.doubted, False
        if doubted:
            item.hurried = began
            if item.quiet:
                subject = replace(subject, timeout=min(subject.timeout, item.health.fast_interval / 1000))
        try:
            result = await run_probe(item.probe, subject)
            if not result.passed:
                if doubted or item.doubted:
                    result = replace(result, decides=True)
                item.doubted = False
            delay = self._result(item, result)
        except SystemFault as fault:
            if item.active:
                self._unfit[item.place] = str(fault)
                self._show()
            delay = item.strangled
            item.strangled = min(2 * delay, _STRANGLED)
        except Exception:  # noqa: BLE001 - it is in the log, and the check goes on
            _log.exception("a fault of nftlb itself in the %s check of %s", item.health.check.kind, item.place)
            delay = item.health.interval / 1000
        item.task = None
        if item.active:
            delay *= 0 if item.doubted else 1 - JITTER * random.random()  # noqa: S311 - nothing secret about it
            self._put(item, max(began + delay, loop.time()))

    def _result(self, item: _Item, result: CheckResult) -> float:
        if not item.active:
            return 0.0
        self._able(item.place)
        item.strangled = item.health.fast_interval / 1000
        return self._on_result(item.place, result)

    def _able(self, place: CheckKey) -> None:
        if self._unfit.pop(place, None) is not None:
            self._show()

    def _show(self) -> None:
        """Report the reason of the first check that can't be carried out; other checks may work meanwhile."""
        self._unable(next(iter(self._unfit.values()), ""))


def _checks(pool: Pool) -> Iterable[tuple[CheckKey, Health, Subject]]:
    for backend in pool.backends:
        for index, health in enumerate(pool.health):
            yield (
                CheckKey(pool.name, backend.name, index),
                health,
                _subject(pool, backend, health, pool.source_addresses),
            )
    for collector in pool.mirror:
        for index, health in enumerate(collector.health):
            yield CheckKey(pool.name, collector.name, index), health, _subject(pool, collector.server, health, ())


def _subject(pool: Pool, backend: Backend, health: Health, usual: tuple[IPAddress, ...]) -> Subject:
    """Return what a check needs. `usual`: the source addresses of checks that name no source."""
    port = health.port or backend.port
    if port is None:
        # The packet's port is kept: the rules of the file make sure that the listeners agree on one, or give it above.
        port = next((listener.first_port for listener in pool.listen if listener.family is backend.family), None)
    sources = (*health.source, *usual)
    source = next((candidate for candidate in sources if family(candidate) is backend.family), None)
    timeout = health.timeout / 1000
    # A link-local address belongs to one interface: through another one, another host would answer.
    device = backend.device if is_link_local(backend.address) else health.device
    return Subject(pool.name, backend.name, backend.address, port, source, timeout, device, health.mark)
