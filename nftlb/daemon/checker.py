"""Starts the health checks: staggered, with jitter, and never two runs of one check at the same time.

A server that is in several pools is checked once for all pools whose check has the same options, times, port and
source. Each pool gets each result, and counts `rise` and `fall` by itself.

No task waits until a check is due: a heap that compares in C and a single timer of the event loop serve ten thousand
checks. The loop compares its own timers in Python, a dozen comparisons for each timer that is set or ends.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import random
from dataclasses import dataclass, field, replace
from itertools import count
from math import inf
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from nftlb.errors import SystemFault
from nftlb.model.checks import Exec, asks_over_udp
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


class _Identity(NamedTuple):
    """What makes two checks the same. `names` are those of pool and backend, if the check passes them on."""

    check: AnyCheck
    interval: int
    fast_interval: int
    address: IPAddress
    port: int | None
    source: IPAddress | None
    timeout: float
    device: str | None
    mark: int | None
    names: tuple[str, str] | None


def _identity(health: Health, subject: Subject) -> _Identity:
    return _Identity(
        health.check,
        health.interval,
        health.fast_interval,
        subject.address,
        subject.port,
        subject.source,
        subject.timeout,
        subject.device,
        subject.mark,
        (subject.pool, subject.backend) if isinstance(health.check, Exec) else None,
    )


@dataclass(slots=True, eq=False)
class _Item:
    """A check and its timer, for all places that get its results.

    `health` and `subject` are those of one place. `quiet`: the check uses UDP, so a refusal may get lost. `due`: its
    start, unless it runs. `doubted`: the places for which traffic gave a hint of a failure since the last start.
    """

    health: Health
    subject: Subject
    probe: Probe
    quiet: bool
    strangled: float
    places: list[CheckKey]
    due: float = inf
    task: asyncio.Task[None] | None = None
    active: bool = True
    doubted: set[CheckKey] = field(default_factory=set)
    hurried: float = -inf


def _item(health: Health, subject: Subject, probe: Probe) -> _Item:
    quiet = asks_over_udp(health.check)
    return _Item(health, subject, probe, quiet, strangled=health.fast_interval / 1000, places=[])


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
        self._items: dict[_Identity, _Item] = {}
        self._places: dict[CheckKey, _Item] = {}
        self._schedule = Schedule(self._start)
        self._unfit: dict[_Item, str] = {}

    def configure(self, config: Config) -> None:
        """Use another configuration. A check that did not change keeps its timer, and goes on if it is running.

        If a check gets a further place, its next run is soon.
        """
        before, self._items = self._items, {}
        known, self._places = self._places, {}
        new: dict[_Item, None] = {}
        probes: dict[AnyCheck, Probe] = {}
        for item in before.values():
            item.places = []
        for pool in config.pools:
            for place, health, subject in _checks(pool):
                identity = _identity(health, subject)
                kept = self._items.get(identity) or before.pop(identity, None)
                if kept is None and health.check not in probes:
                    probes[health.check] = probe_for(health.check)
                item = kept or _item(health, subject, probes[health.check])
                self._items[identity] = self._places[place] = item
                item.places.append(place)
                if known.get(place) is not item:
                    new[item] = None
        for item in before.values():
            self._stop(item)
            self._able(item)
        for item in self._items.values():
            item.doubted.intersection_update(item.places)
        self._stagger(list(new))

    def hurry(self, pool: str, backend: str) -> None:
        """Check a backend at once, because traffic gave a hint that it fails. The results of these checks decide.

        A running check over UDP is cancelled, because its request may be older than the hint; a running check of
        another kind is repeated after it has passed. A check over UDP waits for a `fast_interval` at most: a server
        that works replies at once. There is at most one such check in a `fast_interval`, because thousands of
        hints may arrive in a second.
        """
        now = asyncio.get_running_loop().time()
        for number in count():
            place = CheckKey(pool, backend, number)
            item = self._places.get(place)
            if item is None:
                break
            item.doubted.add(place)
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
        self._items, self._places = {}, {}
        self._schedule.close()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _stagger(self, items: list[_Item]) -> None:
        random.shuffle(items)
        now = asyncio.get_running_loop().time()
        for number, item in enumerate(items):
            span = min(item.health.interval / 1000, len(items) / FIRST_CHECKS_PER_SECOND)
            due = now + span * number / len(items)
            if item.task is None and due < item.due:
                self._put(item, due)

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
        doubted, item.doubted = item.doubted, set()
        hasty = bool(doubted) and item.quiet
        if doubted:
            item.hurried = began
        if hasty:
            subject = replace(subject, timeout=min(subject.timeout, item.health.fast_interval / 1000))
        try:
            result = await run_probe(item.probe, subject)
            in_doubt = doubted | item.doubted
            if not result.passed:
                item.doubted = set()
            delay = self._report(item, result, in_doubt, hasty=hasty)
        except SystemFault as fault:
            if item.active:
                self._unfit[item] = str(fault)
                self._show()
            delay = item.strangled
            item.strangled = min(2 * delay, _STRANGLED)
        except Exception:  # noqa: BLE001 - it is in the log, and the check goes on
            _log_fault(item, item.places)
            delay = item.health.interval / 1000
        item.task = None
        if item.active:
            delay *= 0 if item.doubted else 1 - JITTER * random.random()  # noqa: S311 - nothing secret about it
            self._put(item, max(began + delay, loop.time()))

    def _report(self, item: _Item, result: CheckResult, in_doubt: set[CheckKey], *, hasty: bool) -> float:
        """Give the result to the places of a check. Return the seconds until the next start: the shortest of all.

        A failure decides for the places in doubt. It does not count for other places if the check was `hasty`: with
        the whole time-out, it might have passed.
        """
        if not item.active:
            return 0.0
        self._able(item)
        item.strangled = item.health.fast_interval / 1000
        delays = []
        for place in tuple(item.places):
            decides = not result.passed and place in in_doubt
            if hasty and not result.passed and not decides:
                delays.append(item.health.fast_interval / 1000)
                continue
            try:
                delays.append(self._on_result(place, replace(result, decides=True) if decides else result))
            except Exception:  # noqa: BLE001 - it is in the log, and the other places get their result
                _log_fault(item, [place])
                delays.append(item.health.interval / 1000)
        return min(delays, default=item.health.interval / 1000)

    def _able(self, item: _Item) -> None:
        if self._unfit.pop(item, None) is not None:
            self._show()

    def _show(self) -> None:
        """Report the reason of the first check that can't be carried out; other checks may work meanwhile."""
        self._unable(next(iter(self._unfit.values()), ""))


def _log_fault(item: _Item, places: Iterable[CheckKey]) -> None:
    where = ", ".join(map(str, places))
    _log.exception("a fault of nftlb itself in the %s check of %s", item.health.check.kind, where)


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
