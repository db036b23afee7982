"""Keeps the names of backends up to date: asks DNS when an answer expires, and again when DNS does not answer.

The last good answer stays in use until there is another one, also over a restart. An answer that is empty takes no
backend away: it is more often a fault of DNS than a wish. An answer without an address that can be used is no better.
"""

from __future__ import annotations

import asyncio
import logging
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

from nftlb.config import lookups_of, resolve
from nftlb.errors import NftlbError
from nftlb.health.absent import is_of, kept_wishes
from nftlb.model import after_answer
from nftlb.service import NameStatus

from .events import now, wall

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping, Sequence

    from nftlb.config import Resolution
    from nftlb.health import PoolHealth
    from nftlb.model import Config, Family, FoundServer, HostAddresses, HostLookup, NameAnswers, NameServers
    from nftlb.resolver import LookupResult, NameResolver

_log = logging.getLogger(__name__)

RETRY_FIRST, RETRY_LAST = 1.0, 30.0
"""Seconds from a lookup without an answer to the next: doubled each time, from the first value to the last."""
_EARLY = 0.1
"""Each wait is shorter by a random part up to this one, so that balancers do not ask all at once."""


@dataclass(frozen=True, slots=True)
class LookupState:
    """How the last lookup of a name ended. Times are of the loop's clock; None: never.

    `trouble` is the reason why DNS did not answer; empty if it answered. `expires` is the time of the next lookup.
    `cut` says what was left out of an answer that is too long.
    """

    answered: float | None = None
    expires: float | None = None
    trouble: str = ""
    cut: tuple[str, ...] = ()


class Judgement(NamedTuple):
    """The configuration that answers lead to, and why they can't be used: by name, a line for each pool."""

    resolution: Resolution
    emptied: Mapping[HostLookup, Sequence[str]]


def judge(
    before: Config, declared: Config, known: NameAnswers, new: NameAnswers, addresses: HostAddresses
) -> Judgement:
    """Put new answers into a configuration in the place of the known ones. Runs in any thread.

    With thousands of pools, or with addresses that break rules, this takes some tenths of a second.
    """
    resolution = resolve(declared, {**known, **new}, addresses, before)
    return Judgement(resolution, emptied_names(before, resolution, new.keys()))


def emptied_names(before: Config, after: Resolution, answered: Container[HostLookup]) -> dict[HostLookup, list[str]]:
    """Why an answer for a name would take its last backend away, for each pool where it would."""
    reasons: dict[HostLookup, list[str]] = {}
    for pool in after.config.pools:
        if not pool.named:
            continue
        old = before.pool(pool.name)
        had = {named.name for named in old.named if named.backends} if old is not None else set()
        for named in pool.named:
            if named.lookup in answered and named.name in had and not named.backends:
                notes = ", ".join(after.notes.get((pool.name, named.name), ()))
                line = f"{named.name} of {pool.name} would have no backend: {notes}"
                reasons.setdefault(named.lookup, []).append(line)
    return reasons


def emptied_pools(before: Config, after: Resolution) -> list[str]:
    """Why traffic that has backends would have none, for each pool of names for which DNS has no address."""
    full = [pool for pool in before.pools if pool.backends]
    names = {pool.name for pool in full}
    listeners = {listener for pool in full for listener in pool.listen}
    reasons = []
    for pool in after.config.pools:
        if not pool.backends and pool.named and (pool.name in names or not listeners.isdisjoint(pool.listen)):
            notes = [note for named in pool.named for note in after.notes.get((pool.name, named.name), ())]
            why = ", ".join(notes) or f"no address of {', '.join(str(named.lookup) for named in pool.named)} is known"
            needed = "needed: an answer of DNS, or a backend with an address"
            reasons.append(f"{pool.name} would have no backend, and its traffic has backends now: {why}; {needed}")
    return reasons


async def first_answers(config: Config, known: NameAnswers) -> NameAnswers:
    """The answers for names that were never answered, as far as DNS gives them within the time of one lookup."""
    new = {lookup: families for lookup, families in lookups_of(config).items() if lookup not in known}
    if not new:
        return {}
    from nftlb.resolver import NameResolver  # noqa: PLC0415 - as in NameWatch

    resolver = NameResolver(config.resolver)
    tasks = {lookup: asyncio.create_task(resolver.look_up(lookup, families)) for lookup, families in new.items()}
    try:
        await asyncio.wait(tasks.values(), timeout=config.resolver.timeout / 1000)
        found = {}
        for lookup, task in tasks.items():
            if task.done() and not task.exception() and (servers := after_answer((), task.result().servers)):
                found[lookup] = servers
        return found
    finally:
        for task in tasks.values():
            task.cancel()


class NameBook:
    """The last good answers of DNS, how the last lookups ended, and what was left out of the answers."""

    def __init__(self, answers: NameAnswers, notes: Mapping[tuple[str, str], tuple[str, ...]]) -> None:
        self.answers = answers
        self.lookups: dict[HostLookup, LookupState] = {}
        self._notes = notes

    def use(
        self,
        answers: NameAnswers,
        notes: Mapping[tuple[str, str], tuple[str, ...]],
        wanted: Iterable[HostLookup],
    ) -> None:
        """Record the answers in use. Answers of names that no pool has any more are forgotten."""
        self.answers = {lookup: answers[lookup] for lookup in wanted if lookup in answers}
        self._notes = notes

    def status(self, of: PoolHealth) -> tuple[NameStatus, ...]:
        """The status of the names of a pool."""
        found = []
        pool, kept = of.pool, kept_wishes(of.absent, now())
        for named in pool.named:
            last = self.lookups.get(named.lookup, LookupState())
            found.append(
                NameStatus(
                    name=named.name,
                    lookup=str(named.lookup),
                    backends=named.backends,
                    answered=None if last.answered is None else wall(last.answered),
                    expires=None if last.expires is None else wall(last.expires),
                    trouble=last.trouble,
                    left_out=(*last.cut, *self._notes.get((pool.name, named.name), ())),
                    kept={backend: str(wish) for backend, wish in kept.items() if is_of(named, backend)},
                )
            )
        return tuple(found)


class NameObserver(Protocol):
    """Receives the answers."""

    @property
    def answers(self) -> NameAnswers:
        """The last good answers."""

    async def use_answer(self, lookup: HostLookup, servers: tuple[FoundServer, ...]) -> None:
        """Use the servers that DNS has for a name now. Raises NftlbError if they can't be used now."""

    def record_lookup(self, lookup: HostLookup, state: LookupState) -> None:
        """Record how a lookup ended."""

    def forget_lookup(self, lookup: HostLookup) -> None:
        """Record that no pool has a name any more."""


class NameWatch:
    """Looks up the names of a configuration, inside `with`, on the running loop, from `begin` on."""

    def __init__(self, config: Config, observer: NameObserver) -> None:
        self._config = config
        self._observer = observer
        self._settings: NameServers | None = None
        self._resolver: NameResolver | None = None
        self._tasks: dict[HostLookup, tuple[frozenset[Family], asyncio.Task[None]]] = {}
        self._begun = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for _families, task in self._tasks.values():
            task.cancel()
        self._tasks.clear()

    def begin(self) -> None:
        """Look up all names now, and from now on."""
        self._begun = True
        self.follow(self._config)

    def follow(self, config: Config) -> None:
        """Use another configuration. Names that both configurations have keep their times."""
        self._config = config
        if not self._begun:
            return
        wanted = lookups_of(config)
        changed = config.resolver != self._settings
        for lookup, (families, task) in list(self._tasks.items()):
            if changed or wanted.get(lookup) != families:
                task.cancel()
                del self._tasks[lookup]
                if lookup not in wanted:
                    self._observer.forget_lookup(lookup)
        if changed:
            self._settings, self._resolver = config.resolver, None
        for lookup in wanted.keys() - self._tasks.keys():
            task = asyncio.create_task(self._keep(self._asked(config), lookup, wanted[lookup]))
            self._tasks[lookup] = (wanted[lookup], task)

    def _asked(self, config: Config) -> NameResolver:
        if self._resolver is None:
            from nftlb.resolver import NameResolver  # noqa: PLC0415 - a start without names need not load it

            self._resolver = NameResolver(config.resolver)
        return self._resolver

    async def _keep(self, resolver: NameResolver, lookup: HostLookup, families: frozenset[Family]) -> None:
        """Keep the answer for one name up to date."""
        answered: float | None = None
        cut: tuple[str, ...] = ()
        failures = 0
        while True:
            try:
                result = await resolver.look_up(lookup, families)
                if not self._is_current(lookup):
                    return
                trouble = await self._use(lookup, result)
            except Exception:  # noqa: BLE001 - it is in the log, and the next lookup may work
                _log.exception("a fault of nftlb itself while it looked %s up", lookup)
                result, trouble = None, "a fault of nftlb itself: see the log"
            if result is not None and result.servers:
                cut = result.cut
            if trouble or result is None:
                failures = min(failures + 1, 30)  # the number need not grow: the wait does not
                delay = min(RETRY_FIRST * 2 ** (failures - 1), RETRY_LAST)
            else:
                failures, answered = 0, now()
                settings = self._config.resolver
                delay = min(max(result.ttl, settings.min_ttl / 1000), settings.max_ttl / 1000)
            delay *= 1 - _EARLY * random.random()  # noqa: S311 - nothing secret about it
            if not self._is_current(lookup):
                return
            self._observer.record_lookup(lookup, LookupState(answered, now() + delay, trouble, cut))
            await asyncio.sleep(delay)

    def _is_current(self, lookup: HostLookup) -> bool:
        """Whether the running task still has to look this name up.

        asyncio.wait_for of Python 3.11, which dnspython uses, loses a cancellation that comes together with an answer.
        """
        return lookup in self._tasks and self._tasks[lookup][1] is asyncio.current_task()

    async def _use(self, lookup: HostLookup, result: LookupResult) -> str:
        """Use what DNS answered. Return the reason why the answer is not complete, or can't be used; else empty."""
        before = self._observer.answers.get(lookup, ())
        servers = after_answer(before, result.servers)
        if servers is not None and servers != before:
            try:
                await self._observer.use_answer(lookup, servers)
            except NftlbError as error:
                return f"the answer can't be used: {error}"
        if result.troubles or servers is None:
            return "; ".join(dict.fromkeys(result.troubles or result.missing))
        return ""
