"""When which check is done, and what becomes of its result."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Self

import pytest
from clockwork import elapsed, play, settle
from pools import backend, backends, config, pool

from nftlb.daemon import checker as module
from nftlb.daemon.checker import FIRST_CHECKS_PER_SECOND, JITTER, Checker, Place
from nftlb.daemon.schedule import EARLY
from nftlb.errors import SystemFault
from nftlb.health import Result
from nftlb.model import Health, Icmp, Tcp, Udp

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nftlb.model import Config
    from nftlb.probes import Subject

PASS = Result(passed=True, reason="fine", seconds=0.001)
PING = Health(check=Icmp(), interval=1000, fast_interval=100, timeout=500)
A, B = Place("dns", "b1", 0), Place("dns", "b2", 0)


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
    result: Result = PASS
    patience: list[float] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    starts: list[tuple[float, str]] = field(default_factory=list)
    heard: list[tuple[float, Place]] = field(default_factory=list)
    unable: list[str] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    running: list[str] = field(default_factory=list)
    most: int = 0

    def __post_init__(self) -> None:
        self.checker = Checker(self._hear, self.unable.append, self.late.append)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.checker.close()
        assert 1 == len(asyncio.all_tasks())
        before = len(self.starts)
        await asyncio.sleep(60)
        assert before == len(self.starts)

    async def probe(self, _: object, subject: Subject) -> Result:
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

    def _hear(self, place: Place, result: Result) -> float:
        self.heard.append((elapsed(), place))
        self.results.append(result)
        if self.broken is not None:
            raise self.broken
        return self.delay


@pytest.fixture(autouse=True)
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World()
    monkeypatch.setattr(module, "run", made.probe)
    monkeypatch.setattr(module, "probe_for", lambda check: check)
    yield made
    assert [] == made.running


def gaps(times: list[float]) -> list[float]:
    return [round(later - earlier, 6) for earlier, later in pairwise(times)]


def test_the_first_checks_are_staggered(world: World) -> None:
    """No more than so many begin in a second, evenly but for those that begin together, each backend once."""

    async def scene() -> None:
        async with world:
            world.delay = 100.0
            world.checker.configure(dns(replace(PING, interval=60_000), count=3000))
            await asyncio.sleep(50)

    play(scene())
    times = [when for when, _ in world.starts]
    assert 3000 == len({who for _, who in world.starts}) == len(times)
    early = [round(number / FIRST_CHECKS_PER_SECOND - when, 6) for number, when in enumerate(times)]
    assert (0, EARLY) == (min(early), max(early))


def test_the_first_checks_come_within_an_interval(world: World) -> None:
    """Also where that takes more of them in a second."""

    async def scene() -> None:
        async with world:
            world.delay = 100.0
            world.checker.configure(dns(replace(PING, interval=500), count=1000))
            await asyncio.sleep(0.5)

    play(scene())
    assert 1000 == len(world.starts)
    assert 0.4995 - EARLY <= max(when for when, _ in world.starts) <= 0.4995


def test_checks_come_at_a_fixed_rate_less_jitter(world: World) -> None:
    """From start to start it is the interval, at most 5 % less, however long a check takes; each time another."""

    async def scene() -> None:
        async with world:
            world.takes = 0.3
            world.checker.configure(dns(count=1))
            await asyncio.sleep(300)

    play(scene())
    waits = gaps(world.times("b1"))
    assert all(1 - JITTER <= wait <= 1 for wait in waits)
    assert len(set(waits)) > 250
    assert 1 - JITTER / 2 == pytest.approx(sum(waits) / len(waits), abs=0.01)


def test_never_two_of_one_at_once(world: World) -> None:
    """A check that takes longer than the interval is followed by the next at once, not overtaken."""

    async def scene() -> None:
        async with world:
            world.takes = 2.5
            world.checker.configure(dns(count=1))
            await asyncio.sleep(20)

    play(scene())
    assert 1 == world.most
    assert {2.5} == set(gaps(world.times("b1")))


def test_the_pace_is_what_the_listener_says(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a change is pending the next check comes sooner."""
    monkeypatch.setattr("nftlb.daemon.checker.random.random", lambda: 0.0)

    async def scene() -> None:
        async with world:
            world.checker.configure(dns(count=1))
            await asyncio.sleep(1.5)
            world.delay = 0.1
            await asyncio.sleep(0.75)
            world.delay = 1.0
            await asyncio.sleep(2.5)

    play(scene())
    assert [0, 1, 2, 2.1, 2.2, 2.3, 3.3, 4.3] == [round(when, 3) for when in world.times("b1")]


def test_results_have_their_place(world: World) -> None:
    """Two checks of a backend are two; each is heard by its place in the list."""

    async def scene() -> None:
        async with world:
            world.checker.configure(dns(PING, replace(PING, check=Tcp()), count=1))
            await asyncio.sleep(0.5)

    play(scene())
    assert {Place("dns", "b1", 0), Place("dns", "b1", 1)} == {place for _, place in world.heard}


# --- reload ----------------------------------------------------------------------------------------------------------


def test_what_did_not_change_keeps_its_timer_and_its_check(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reload that changes other things, a weight too, neither restarts nor delays a check."""
    monkeypatch.setattr("nftlb.daemon.checker.random.random", lambda: 0.0)

    async def scene() -> None:
        async with world:
            world.takes = 0.4
            world.checker.configure(dns(count=1))
            for _ in range(40):
                await asyncio.sleep(0.1)
                heavy = replace(dns(count=1).pools[0].backends[0], weight=7)
                world.checker.configure(config(replace(dns(count=1).pools[0], backends=(heavy,), quorum=1)))

    play(scene())
    assert [0, 1, 2, 3] == [round(when, 3) for when in world.times("b1") if when < 4]
    assert [0.4, 1.4, 2.4, 3.4] == [round(when, 3) for when, _ in world.heard]


def test_what_changed_begins_anew(world: World) -> None:
    """With another timer or check the one on the way is ended, unheard, and another begins."""

    async def scene() -> None:
        async with world:
            world.takes = 0.4
            world.checker.configure(dns(count=1))
            await asyncio.sleep(0.2)
            world.checker.configure(dns(replace(PING, check=Udp()), count=1))
            await settle()
            assert ["b1"] == world.running
            await asyncio.sleep(0.5)

    play(scene())
    assert [0.0, 0.2] == world.times("b1")
    assert [(0.6, A)] == world.heard


def test_who_is_gone_is_not_heard_of_again(world: World) -> None:
    """Its timer and its check end; a result that was just about to come is dropped."""

    async def scene() -> None:
        async with world:
            world.takes = 0.4
            world.checker.configure(dns(replace(PING, interval=60_000)))
            await asyncio.sleep(0.4)
            world.checker.configure(dns(replace(PING, interval=60_000), count=1))
            await asyncio.sleep(5)

    play(scene())
    assert {A} == {place for _, place in world.heard}


# --- what goes wrong -------------------------------------------------------------------------------------------------


def test_what_the_machine_can_not_do_says_nothing_of_the_backend(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told, with the reason, nothing is heard, and it is tried again: soon at first, then ever more slowly."""
    monkeypatch.setattr("nftlb.daemon.checker.random.random", lambda: 0.0)

    async def scene() -> None:
        async with world:
            world.answers["b1"] = SystemFault("no descriptors")
            world.checker.configure(dns(count=1))
            await asyncio.sleep(20)
            assert {"no descriptors"} == set(world.unable)
            assert [] == world.heard
            world.answers.clear()
            await asyncio.sleep(2.5)
            world.answers["b1"] = SystemFault("no descriptors")
            await asyncio.sleep(2.0)

    play(scene())
    assert [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5, 5, 1, 1, 0.1, 0.2, 0.4] == gaps(world.times("b1"))[:14]
    assert [(21.3, A), (22.3, A)] == world.heard
    assert 1 == world.unable.count("")


def test_one_that_can_not_be_done_is_shown_while_others_can(world: World) -> None:
    """The fault stays as long as there is a check that can't be done, and ends with the last of those."""

    async def scene() -> None:
        async with world:
            world.answers["b1"] = SystemFault("no secret")
            world.checker.configure(dns(count=3))
            await asyncio.sleep(10)
            assert {"no secret"} == set(world.unable)
            world.answers["b2"] = SystemFault("no plugin")
            await asyncio.sleep(10)
            del world.answers["b1"]
            await asyncio.sleep(10)
            assert "no plugin" == world.unable[-1]
            del world.answers["b2"]
            await asyncio.sleep(10)

    play(scene())
    assert [""] == [said for said in world.unable if said not in {"no secret", "no plugin"}]
    assert "" == world.unable[-1]


def test_one_that_can_not_be_done_and_is_gone(world: World) -> None:
    """A reload that takes it away ends the fault."""

    async def scene() -> None:
        async with world:
            world.answers["b2"] = SystemFault("no secret")
            world.checker.configure(dns())
            await asyncio.sleep(3)
            world.checker.configure(dns(count=1))
            assert "" == world.unable[-1]

    play(scene())


@pytest.mark.parametrize("where", ["probe", "listener"])
def test_a_fault_of_ours_ends_no_check(where: str, world: World, caplog: pytest.LogCaptureFixture) -> None:
    """It is in the log, and the check is done again."""

    async def scene() -> None:
        async with world:
            if where == "probe":
                world.answers["b1"] = ZeroDivisionError("oops")
            else:
                world.broken = KeyError("oops")
            world.checker.configure(dns(count=1))
            await asyncio.sleep(3.5)

    play(scene())
    assert 4 == len(world.starts)
    assert "a fault of nftlb itself in the icmp check of Place(pool='dns', backend='b1', check=0)" in caplog.messages


def test_lateness_is_told(world: World) -> None:
    """How long after its time each check began."""

    async def scene() -> None:
        async with world:
            world.checker.configure(dns(count=1))
            await asyncio.sleep(0.5)
            asyncio.get_running_loop().now += 0.75  # type: ignore[attr-defined]  # something held the loop up
            await settle()

    play(scene())
    assert [0.0] == world.late[:1]
    assert 0.25 <= world.late[1] <= 0.3


# --- whom ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("health_port", "behind", "listen", "expected"),
    [
        (9000, "10.0.0.1:53", "192.0.2.53:53/udp", 9000),
        (None, "10.0.0.1:5353", "192.0.2.53:53/udp", 5353),
        (None, "10.0.0.1", "192.0.2.53:53/udp", 53),
        (None, "[2001:db8::1]", ("192.0.2.53:53/udp", "[2001:db8::53]:54/udp"), 54),
    ],
)
def test_the_port(health_port: int | None, behind: str, listen: Any, expected: int) -> None:
    """The check's own; else the backend's; else the one that packets come in at."""
    health = replace(PING, port=health_port)
    ((_, _, subject),) = module._checks(pool("dns", listen, (backend("b1", behind),), health=(health,)))

    assert expected == subject.port


def test_the_source() -> None:
    """Checks leave from the address that the pool's packets leave from, of the backend's family, with their timeout."""
    four, six = backend("b1", "10.0.0.1:53"), backend("b2", "[2001:db8::1]:53")
    sources = (six.address + 8, four.address + 8)
    listen = ("192.0.2.53:53/udp", "[2001:db8::53]:53/udp")
    checks = list(module._checks(pool("dns", listen, (four, six), health=(PING,), source_addresses=sources)))

    assert ["10.0.0.9", "2001:db8::9"] == [str(subject.source) for _, _, subject in checks]
    assert {0.5} == {subject.timeout for _, _, subject in checks}
    assert [A, B] == [place for place, _, _ in checks]


def test_the_checks_own_source() -> None:
    """Its own address goes first; a family that it gives none of leaves from where the pool's packets leave."""
    four, six = backend("b1", "10.0.0.1:53"), backend("b2", "[2001:db8::1]:53")
    listen = ("192.0.2.53:53/udp", "[2001:db8::53]:53/udp")
    health = (replace(PING, source=(IPv4Address("10.0.0.5"),)), PING)
    made = pool("dns", listen, (four, six), health=health, source_addresses=(six.address + 8, four.address + 8))

    sources = [str(subject.source) for _, _, subject in module._checks(made)]
    assert ["10.0.0.5", "10.0.0.9", "2001:db8::9", "2001:db8::9"] == sources


def test_the_checks_own_way() -> None:
    """Each check leaves by its own device, and with its own mark."""
    health = (replace(PING, device="eth1"), replace(PING, mark=16), PING)
    made = pool("dns", ("192.0.2.53:53/udp",), (backend("b1", "10.0.0.1:53"),), health=health)

    ways = [(subject.device, subject.mark) for _, _, subject in module._checks(made)]
    assert [("eth1", None), (None, 16), (None, None)] == ways


# --- backends in doubt ------------------------------------------------------------------------------------------------

SLOW_PING = replace(PING, interval=60_000, fast_interval=1000, timeout=5000)
ASK = replace(SLOW_PING, check=Udp(send="ping"))


def test_a_backend_in_doubt_is_checked_at_once(world: World) -> None:
    """All its checks, and nobody else's; the next ones come an interval after these."""

    async def scene() -> None:
        async with world:
            world.delay = 60.0
            world.checker.configure(dns(SLOW_PING, ASK))
            await asyncio.sleep(20)
            world.checker.hurry("dns", "b1")
            world.checker.hurry("dns", "nobody")
            world.checker.hurry("nothing", "b1")
            await asyncio.sleep(56)

    play(scene())
    assert [0, 0, 20, 20] == [round(when) for when in world.times("b1")]
    assert 4 == len(world.times("b2"))
    assert {A, A._replace(check=1)} == {place for when, place in world.heard if when == 20.0}


@pytest.mark.parametrize(
    ("passed", "doubt", "decides"), [(False, True, True), (False, False, False), (True, True, False)]
)
def test_a_failure_in_doubt_decides(world: World, passed: bool, doubt: bool, decides: bool) -> None:
    """It says so; one without a doubt does not, nor does what passed."""

    async def scene() -> None:
        async with world:
            world.delay = 60.0
            world.checker.configure(dns(ASK, count=1))
            await asyncio.sleep(10)
            world.result = Result(passed=passed, reason="so it was", seconds=0.001)
            if doubt:
                world.checker.hurry("dns", "b1")
            await asyncio.sleep(60)

    play(scene())
    assert decides is world.results[1].decides
    assert not any(one.decides for one in (world.results[0], *world.results[2:]))


def test_doubts_come_thousands_of_times(world: World) -> None:
    """There is one check for them in a `fast_interval`, and one after the last of them."""

    async def scene() -> None:
        async with world:
            world.delay = 60.0
            world.checker.configure(dns(ASK, count=1))
            await asyncio.sleep(10)
            for _ in range(2500):
                world.checker.hurry("dns", "b1")
                await asyncio.sleep(0.001)
            await asyncio.sleep(10)

    play(scene())
    assert [10.0, 11.0, 12.0, 13.0] == [round(when, 3) for when in world.times("b1")[1:]]


def test_a_check_over_udp_that_is_on_the_way_is_given_up(world: World) -> None:
    """It may have been sent before; and the new one waits for a `fast_interval` only, since no refusal may come."""

    async def scene() -> None:
        async with world:
            world.delay, world.takes = 60.0, 4.0
            world.checker.configure(dns(ASK, count=1))
            await asyncio.sleep(2)
            world.checker.hurry("dns", "b1")
            await asyncio.sleep(10)

    play(scene())
    assert [0.0, 2.0] == world.times("b1")
    assert [(6.0, A)] == world.heard
    assert [5.0, 1.0] == world.patience


def test_any_other_check_that_is_on_the_way_goes_on(world: World) -> None:
    """If it passes, it may have been answered before: another follows it, as patient as ever."""

    async def scene() -> None:
        async with world:
            world.delay, world.takes = 60.0, 4.0
            world.checker.configure(dns(SLOW_PING, count=1))
            await asyncio.sleep(2)
            world.checker.hurry("dns", "b1")
            await asyncio.sleep(10)

    play(scene())
    assert [0.0, 4.0] == world.times("b1")
    assert [5.0, 5.0] == world.patience


def test_any_other_check_that_is_on_the_way_decides(world: World) -> None:
    """If it fails, that is enough."""

    async def scene() -> None:
        async with world:
            world.delay, world.takes = 60.0, 4.0
            world.result = Result(passed=False, reason="no answer", seconds=4.0)
            world.checker.configure(dns(SLOW_PING, count=1))
            await asyncio.sleep(2)
            world.checker.hurry("dns", "b1")
            await asyncio.sleep(10)

    play(scene())
    assert [0.0] == world.times("b1")
    assert [True] == [one.decides for one in world.results]
