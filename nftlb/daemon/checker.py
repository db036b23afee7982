"""When which check is done: staggered, jittered, never two of the same at once.

There is no task that waits for a check's time to come, only a timer: ten thousand of those cost little.
"""

from __future__ import annotations

import asyncio
import logging
import random
from dataclasses import dataclass, replace
from itertools import count
from math import inf
from typing import TYPE_CHECKING, NamedTuple

from nftlb.errors import SystemFault
from nftlb.model.checks import asks_over_udp
from nftlb.model.kinds import family, is_link_local
from nftlb.probes import Probe, Subject, probe_for, run

from .schedule import Schedule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from nftlb.health import Result
    from nftlb.model import AnyCheck, Backend, Config, Health, Pool

_log = logging.getLogger(__name__)

JITTER = 0.05
"""Each wait is shorter by up to this part, at random, so that checks that began together drift apart."""

FIRST_CHECKS_PER_SECOND = 1000
"""At the start checks are spread so that no more than these begin in a second, but within an interval."""

_STRANGLED = 5.0
"""Seconds, at most, until a check is tried again that this machine could not carry out; first `fast_interval`."""


class Place(NamedTuple):
    """Which check: the pool, the backend, and where in the pool's list of checks."""

    pool: str
    backend: str
    check: int


@dataclass(slots=True, eq=False)
class _Item:
    """`quiet`: it asks over UDP, where a refusal may never come. `due`: when it starts, if it is not on the way."""

    place: Place
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
    """Carries out the checks of a configuration. Results go to `hear`, which returns seconds to the next start.

    `unable` hears why this machine can't carry out some check, as long as there is one; then "".
    `late` hears how many seconds after its time each check began.
    """

    def __init__(
        self,
        hear: Callable[[Place, Result], float],
        unable: Callable[[str], None],
        late: Callable[[float], None],
    ) -> None:
        self._hear = hear
        self._unable = unable
        self._late = late
        self._items: dict[Place, _Item] = {}
        self._schedule = Schedule(self._start)
        self._unfit: dict[Place, str] = {}

    def configure(self, config: Config) -> None:
        """Follow a configuration, also the first; what did not change keeps its timer and its check on the way."""
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
        """Check a backend at once, since there is reason to doubt it; what these checks find decides.

        A check over UDP that is on the way is given up, as it may have been sent before; any other that passes is
        followed by one more. A check over UDP waits for a `fast_interval` at most: what refuses traffic answers at
        once, unless its host keeps the refusal to itself. There is at most one such check in a `fast_interval`: what
        makes us doubt may come thousands of times a second.
        """
        now = asyncio.get_running_loop().time()
        for number in count():
            item = self._items.get(Place(pool, backend, number))
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
        """Have it start then, and not when it was to start before."""
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
            result = await run(item.probe, subject)
            if not result.passed:
                result, item.doubted = replace(result, decides=doubted or item.doubted), False
            delay = self._result(item, result)
        except SystemFault as fault:
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

    def _result(self, item: _Item, result: Result) -> float:
        if not item.active:
            return 0.0
        self._able(item.place)
        item.strangled = item.health.fast_interval / 1000
        return self._hear(item.place, result)

    def _able(self, place: Place) -> None:
        if self._unfit.pop(place, None) is not None:
            self._show()

    def _show(self) -> None:
        """Tell the first reason that still holds: with many checks of many kinds, some go on working meanwhile."""
        self._unable(next(iter(self._unfit.values()), ""))


def _checks(pool: Pool) -> Iterable[tuple[Place, Health, Subject]]:
    for backend in pool.backends:
        for index, health in enumerate(pool.health):
            yield Place(pool.name, backend.name, index), health, _subject(pool, backend, health)


def _subject(pool: Pool, backend: Backend, health: Health) -> Subject:
    port = health.port or backend.port
    if port is None:
        # The packet's port is kept: the rules of the file make sure that the listeners agree on one, or give it above.
        port = next((one.first_port for one in pool.listen if one.family is backend.family), None)
    sources = (*health.source, *pool.source_addresses)
    source = next((one for one in sources if family(one) is backend.family), None)
    timeout = health.timeout / 1000
    # A link-local address belongs to one interface: through another one, another host would answer.
    device = backend.device if is_link_local(backend.address) else health.device
    return Subject(pool.name, backend.name, backend.address, port, source, timeout, device, health.mark)
