"""When the host is looked at, whom the kernel is told to ask, and what is made of it, by a clock that jumps."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
from clockwork import START, play, settle
from pools import backends, config, pool

from nftlb.daemon import surveyor as module
from nftlb.daemon.faults import Faults
from nftlb.daemon.surveyor import AGAIN, ASK_AGAIN, Surveyor
from nftlb.errors import KernelError
from nftlb.kernel.interfaces import Interface
from nftlb.kernel.neighbours import Asked, Neighbour, State
from nftlb.kernel.rtnetlink import Route
from nftlb.kernel.surroundings import Lookup, Surroundings
from nftlb.model import Expect, Health, Icmp, Udp

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from nftlb.model import Config
    from nftlb.requirements import Lack

LISTEN = "192.0.2.53:53/udp"
TWO = backends("10.0.0.11:53", "10.0.0.12:53")
WEAK = (Health(check=Udp(expect=Expect.NO_ICMP_ERROR), interval=2000),)
PLAIN = config(pool("dns", LISTEN, TWO))
STRICT = config(pool("dns", LISTEN, TWO, health=(Health(check=Icmp()),)))
SILENT = config(pool("dns", LISTEN, TWO, health=WEAK))
B1, B2 = (Neighbour(2, ip_address(address)) for address in ("10.0.0.11", "10.0.0.12"))
FAILED = "no answer to ARP: neighbour 10.0.0.12 on eth1 failed"


class World:
    """A host with one interface that leads to both backends, and somebody who hears."""

    def __init__(self, of: Config, monkeypatch: pytest.MonkeyPatch) -> None:
        on_link = Route(4, 254, index=2, source=ip_address("10.0.0.1"))
        self.host = Surroundings(
            (Interface(1, "lo"), Interface(2, "eth1")),
            {Lookup(one.address): on_link for one in (B1, B2)},
            {4: True, 6: True},
        )
        self.trouble: Exception | None = None
        self.states = {B1: State.REACHABLE, B2: State.REACHABLE}
        self.looks: list[float] = []
        self.asked: list[tuple[float, set[Neighbour]]] = []
        self.unreachable: dict[tuple[str, str], str] = {}
        self.doubtful: dict[tuple[str, str], str] = {}
        self.lacking: list[str] = []
        self.faults = Faults(lambda _: None)
        self.surveyor = Surveyor(of, self, self.faults)
        monkeypatch.setattr(module, "look_around", self.look_around)
        monkeypatch.setattr(module, "ask", self.ask)

    @staticmethod
    def now() -> float:
        return asyncio.get_running_loop().time() - START

    def look_around(self, _: Iterable[Lookup]) -> Surroundings:
        self.looks.append(self.now())
        if self.trouble:
            raise self.trouble
        return self.host

    def ask(self, neighbours: Collection[Neighbour]) -> Asked:
        self.asked.append((round(self.now(), 3), set(neighbours)))
        return Asked({one: state for one, state in self.states.items() if one in neighbours})

    def reaches(self, unreachable: Mapping[tuple[str, str], str], doubtful: Mapping[tuple[str, str], str]) -> None:
        self.unreachable, self.doubtful = dict(unreachable), dict(doubtful)

    def lacks(self, lacks: Iterable[Lack]) -> None:
        self.lacking = [one.message for one in lacks]


def test_a_neighbour_that_fails_and_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its backend can't be reached; it is asked each second until there is an answer, others are not."""

    async def scene() -> None:
        world = World(PLAIN, monkeypatch)
        with world.surveyor:
            await world.surveyor.first_look()
            await asyncio.sleep(10)
            assert [] == world.asked
            world.surveyor.hear([(B2, State.FAILED), (Neighbour(3, B1.address), State.FAILED)])
            assert {("dns", "b2"): FAILED} == world.unreachable
            world.states[B2] = State.INCOMPLETE
            await asyncio.sleep(3 * ASK_AGAIN + 0.1)
            assert [(10.0 + step * ASK_AGAIN, {B2}) for step in range(4)] == world.asked
            assert {("dns", "b2"): FAILED} == world.unreachable
            world.surveyor.hear([(B2, State.REACHABLE)])
            assert {} == world.unreachable
            world.asked.clear()
            await asyncio.sleep(10)
            assert [] == world.asked

    play(scene())


@pytest.mark.parametrize("state", [State.STALE, State.DELAY, State.PROBE, State.PERMANENT, State.NOARP])
def test_whoever_can_be_sent_to_has_not_failed(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel sends there; also when that was not announced, but only found."""

    async def scene(*, announced: bool) -> None:
        world = World(PLAIN, monkeypatch)
        with world.surveyor:
            await world.surveyor.first_look()
            world.surveyor.hear([(B2, State.FAILED)])
            world.states[B2] = State.FAILED if announced else state
            if announced:
                world.surveyor.hear([(B2, state)])
            await asyncio.sleep(2 * ASK_AGAIN)
            assert {} == world.unreachable

    play(scene(announced=True))
    play(scene(announced=False))


def test_behind_weak_checks_all_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """At each of them; and whoever is looked for is doubtful, which passes no such check."""

    async def scene() -> None:
        world = World(SILENT, monkeypatch)
        with world.surveyor:
            await world.surveyor.first_look()
            await asyncio.sleep(4.1)
            assert [(0.0, {B1, B2}), (2.0, {B1, B2}), (4.0, {B1, B2})] == world.asked
            world.states[B2] = State.INCOMPLETE
            await asyncio.sleep(2)
            words = "no answer yet to ARP: neighbour 10.0.0.12 on eth1 is looked for"
            assert {("dns", "b2"): words} == world.doubtful
            assert {} == world.unreachable
            world.surveyor.hear([(B2, State.REACHABLE)])
            assert {} == world.doubtful

    play(scene())


def test_what_failed_long_ago_is_no_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry that lies there says how things were; asked anew, the kernel announces how they are."""

    async def scene() -> None:
        world = World(SILENT, monkeypatch)
        world.states[B2] = State.FAILED
        with world.surveyor:
            await world.surveyor.first_look()
            await asyncio.sleep(1)
            assert {} == world.unreachable
            world.surveyor.hear([(B2, State.FAILED)])
            assert {("dns", "b2"): FAILED} == world.unreachable

    play(scene())


def test_what_is_announced_meanwhile_is_newer(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the kernel is asked, it announces a failure: what was read before that does not undo it."""

    async def scene() -> None:
        world = World(SILENT, monkeypatch)
        with world.surveyor:
            await world.surveyor.first_look()
            await asyncio.sleep(1)
            plain = world.ask

            def ask(neighbours: Collection[Neighbour]) -> Asked:
                found = plain(neighbours)
                world.surveyor.hear([(B2, State.FAILED)])
                return found

            monkeypatch.setattr(module, "ask", ask)
            await asyncio.sleep(1.5)
            monkeypatch.setattr(module, "ask", lambda _: Asked({}))
            assert {("dns", "b2"): FAILED} == world.unreachable

    play(scene())


def test_changes_that_come_together_are_one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what was failed of a link that is another one now is forgotten."""

    async def scene() -> None:
        world = World(STRICT, monkeypatch)
        with world.surveyor:
            await world.surveyor.first_look()
            world.surveyor.hear([(B2, State.FAILED)])
            world.host = replace(world.host, routes={Lookup(B1.address): world.host.routes[Lookup(B1.address)]})
            for _ in range(100):
                world.surveyor.look()
            await asyncio.sleep(0.5)
            assert 2 == len(world.looks)
            assert {("dns", "b2"): "no route to 10.0.0.12"} == world.unreachable
            assert ["there is no route to 10.0.0.12, backend dns/b2"] == world.lacking
            world.surveyor.follow(config(pool("dns", LISTEN, TWO[:1])))
            await asyncio.sleep(0.5)
            assert ({}, []) == (world.unreachable, world.lacking)

    play(scene())


def test_a_host_that_can_not_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a fault, and tried again; what was known holds, and the daemon starts nevertheless."""

    async def scene() -> None:
        world = World(PLAIN, monkeypatch)
        world.trouble = KernelError("not permitted")
        with world.surveyor:
            await world.surveyor.first_look()
            await settle()
            assert ["not permitted"] == [one.message for one in world.faults.all()]
            world.trouble = None
            await asyncio.sleep(AGAIN + 1)
            assert () == world.faults.all()
            assert 2 == len(world.looks)

    play(scene())
