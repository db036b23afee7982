"""The times of lookups of names, and the use of the answers, in virtual time."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
from virtual_time import START, play

from nftlb import resolver
from nftlb.config import parse_config
from nftlb.daemon.names import RETRY_LAST, LookupState, NameWatch
from nftlb.errors import KernelError
from nftlb.model import Family, FoundServer, HostLookup
from nftlb.resolver import LookupResult

if TYPE_CHECKING:
    from collections.abc import Collection

    from nftlb.model import Config, NameServers

NS = HostLookup("ns.lab")
A, B = ((FoundServer(ip_address(f"10.0.0.{last}")),) for last in (1, 2))
DEAD = LookupResult({}, troubles=("no answer",))


def config(backends: str = "ns: ns.lab", ttl: str = "") -> Config:
    return parse_config(
        f"{{resolver: {{{ttl}}}, pools: {{dns: {{listen: 192.0.2.53:53/udp, backends: {{{backends}}}}}}}}}"
    )


def answer(servers: tuple[FoundServer, ...], ttl: float) -> LookupResult:
    return LookupResult({Family.IP: servers}, ttl, missing=() if servers else ("nothing there",))


class Scene:
    """A NameObserver, and DNS with the answers of `results`; the last of them is repeated."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *results: LookupResult) -> None:
        self.answers: dict[HostLookup, tuple[FoundServer, ...]] = {}
        self.used: list[tuple[FoundServer, ...]] = []
        self.states: dict[HostLookup, LookupState] = {}
        self.asked: list[tuple[float, HostLookup]] = []
        self.refuses = False
        self.takes = 0.0
        self._results = list(results)
        monkeypatch.setattr(resolver, "NameResolver", self._resolver)
        monkeypatch.setattr("random.random", lambda: 0.0)

    def _resolver(self, _: NameServers) -> Scene:
        return self

    async def look_up(self, lookup: HostLookup, _: Collection[Family]) -> LookupResult:
        self.asked.append((asyncio.get_running_loop().time() - START, lookup))
        with suppress(asyncio.CancelledError):  # asyncio.wait_for of Python 3.11 may lose it in the same way
            await asyncio.sleep(self.takes)
        return self._results.pop(0) if len(self._results) > 1 else self._results[0]

    async def use_answer(self, lookup: HostLookup, servers: tuple[FoundServer, ...]) -> None:
        if self.refuses:
            raise KernelError("no memory")
        self.used.append(servers)
        self.answers[lookup] = servers

    def record_lookup(self, lookup: HostLookup, state: LookupState) -> None:
        self.states[lookup] = state

    def forget_lookup(self, lookup: HostLookup) -> None:
        self.states.pop(lookup, None)

    def run(self, seconds: float, *configs: Config) -> list[float]:
        """Use these configurations for so long each. Return the times of the lookups."""

        async def scene() -> None:
            with NameWatch(configs[0], self) as watch:
                watch.begin()
                for one in configs:
                    watch.follow(one)
                    await asyncio.sleep(seconds)

        play(scene())
        return [at for at, _ in self.asked]


@pytest.mark.parametrize(
    ("ttl", "options", "every"), [(30, "", 30), (0, "", 5), (99999, "max_ttl: 40s", 40), (1, "min_ttl: 20s", 20)]
)
def test_an_answer_is_kept_for_its_ttl(ttl: float, options: str, every: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name is looked up when its answer expires, within the bounds; an equal answer changes nothing."""
    scene = Scene(monkeypatch, answer(A, ttl))

    assert [0, every, 2 * every] == scene.run(2.5 * every, config(ttl=options))
    assert [A] == scene.used


def test_dead_dns_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an answer, lookups become rarer; the answer before stays; after an answer all is well again."""
    scene = Scene(monkeypatch, answer(A, 30), *[DEAD] * 7, answer(B, 30))
    times = scene.run(30 + 1 + 2 + 4 + 8 + 16 + 2 * RETRY_LAST + 1, config())

    assert [30, 1, 2, 4, 8, 16, RETRY_LAST, RETRY_LAST] == [b - a for a, b in itertools.pairwise(times)]
    assert ([A, B], "") == (scene.used, scene.states[NS].trouble)


def test_an_empty_answer_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer without an address is a fault, and the answer before stays."""
    scene = Scene(monkeypatch, answer(A, 5), answer((), 5))

    assert [0, 5, 6, 8] == scene.run(10, config())
    assert ([A], "nothing there", START) == (scene.used, scene.states[NS].trouble, scene.states[NS].answered)


def test_a_refused_answer_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the kernel refuses, the reason is shown, and the next lookup tries again."""
    scene = Scene(monkeypatch, answer(A, 5))
    scene.refuses = True

    assert [0, 1, 3] == scene.run(4, config())
    assert "the answer can't be used: no memory" == scene.states[NS].trouble


def test_a_reload(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that stay keep their times; new names are looked up at once; names that are gone are forgotten."""
    scene = Scene(monkeypatch, answer(A, 30))
    scene.run(10, config(), config("ns: ns.lab, other: other.lab"), config("other: other.lab"))

    assert [(0, NS), (10, HostLookup("other.lab"))] == scene.asked
    assert [HostLookup("other.lab")] == list(scene.states)


def test_a_late_answer_for_a_name_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer is dropped, and the name is not looked up again."""
    scene = Scene(monkeypatch, answer(A, 5))
    scene.takes = 3.0
    scene.run(1, config(), *[config("other: other.lab")] * 30)

    assert [NS] == [lookup for _, lookup in scene.asked if lookup == NS]
    assert [HostLookup("other.lab")] == list(scene.states) == list(scene.answers)


def test_a_long_answer_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """The status of the name says what was left out, also while DNS does not answer any more."""
    long = replace(answer(A, 5), cut=("300 A records",))
    scene = Scene(monkeypatch, long, DEAD)
    scene.run(6, config())

    assert (("300 A records",), "no answer") == (scene.states[NS].cut, scene.states[NS].trouble)


def test_other_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another `resolver` is asked at once."""
    assert [0, 10] == Scene(monkeypatch, answer(A, 30)).run(10, config(), config(ttl="timeout: 1s"))
