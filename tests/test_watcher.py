"""What the kernel says of itself, and ears that are deaf for a while."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import TYPE_CHECKING, ClassVar

import pytest
from clockwork import elapsed, play, settle
from handiwork import Calls
from pools import DNS, backend, config, pool

from nftlb.daemon import watcher as module
from nftlb.daemon.faults import Faults
from nftlb.daemon.watcher import AGAIN, Watcher
from nftlb.errors import SystemFault
from nftlb.model import Forward, Health, Icmp

if TYPE_CHECKING:
    from nftlb.model import Config, IPAddress

PLAIN = config(DNS)
PASSIVE = config(replace(DNS, passive=True, health=(Health(check=Icmp()),)))
DEFAULT = config(replace(DNS, health=(Health(check=Icmp()),)))
DSR = config(pool("cast", "192.0.2.53:53/udp", (backend("a", "10.0.0.11"),), forward=Forward.DSR))


@dataclass(frozen=True)
class Refusal:
    address: IPAddress
    port: int
    hint: bool = False


class Ear:
    """Hears what `say` is told; can't be had while `missing` has a reason."""

    missing: ClassVar[str] = ""
    opened: ClassVar[list[float]] = []
    present: ClassVar[list[Ear]] = []

    def __init_subclass__(cls) -> None:
        cls.opened, cls.present = [], []

    def __init__(self, *_: object) -> None:
        self.opened.append(elapsed())
        if self.missing:
            raise SystemFault(self.missing)
        self._ours, self._theirs = socket.socketpair()
        self._said: object = None
        self.present.append(self)

    @classmethod
    def say(cls, what: object) -> None:
        for one in cls.present:
            one._said = what
            one._theirs.send(b"x")

    def fileno(self) -> int:
        return self._ours.fileno()

    def read(self) -> object:
        self._ours.recv(1)
        if isinstance(self._said, Exception):
            raise self._said
        return self._said

    def close(self) -> None:
        self._ours.close()
        self._theirs.close()
        self.present.remove(self)


class World:
    """A watcher with a reconciler and a control that note what they are told."""

    def __init__(self, first: Config) -> None:
        self.calls = Calls()
        self.faults = Faults(lambda _: None)
        self.watcher = Watcher(first, self, self, self, self.faults)  # type: ignore[arg-type]

    def suspect(self) -> None:
        self.calls("suspect")

    def recheck(self) -> None:
        self.calls("recheck")

    def look(self) -> None:
        self.calls("look")

    def hear(self, news: object) -> None:
        self.calls(f"neighbours: {news}")

    def refused(self, pool_name: str, backend_name: str) -> None:
        self.calls(f"{pool_name}/{backend_name} refused")

    def doubted(self, pool_name: str, backend_name: str) -> None:
        self.calls(f"{pool_name}/{backend_name} doubted")

    @property
    def told(self) -> list[str]:
        """All but looks at the surroundings."""
        return [what for _, what in self.calls.all if what != "look"]

    @property
    def shown(self) -> list[str]:
        return [f"{one.what}: {one.message}" for one in self.faults.all()]


Ears = tuple[type[Ear], type[Ear], type[Ear]]


@pytest.fixture
def ears(monkeypatch: pytest.MonkeyPatch) -> Ears:
    """Stand for the monitor of tables, that of links, and that of refusals."""
    made = tuple(type(name, (Ear,), {}) for name in ("Monitor", "Links", "Refusals"))
    for one in (*made, *(type(name, (Ear,), {}) for name in ("Changes", "Neighbours"))):
        monkeypatch.setattr(module, one.__name__, one)
    return made  # type: ignore[return-value]


def test_changes_of_our_tables(ears: Ears) -> None:
    """The reconciler suspects something when ours were changed, and not when others' were."""
    monitor, _, _ = ears

    async def scene() -> list[str]:
        world = World(PLAIN)
        with world.watcher:
            monitor.say(False)
            await settle()
            assert [] == world.told
            monitor.say(True)
            await settle()
            return world.told

    assert ["suspect"] == play(scene())


@pytest.mark.parametrize(("wanted", "expected"), [(PLAIN, []), (DSR, ["recheck"])])
def test_changes_of_links(wanted: Config, expected: list[str], ears: Ears) -> None:
    """All is looked at again where some pool needs routes or interfaces; else a link is nobody's business."""
    _, links, _ = ears

    async def scene() -> list[str]:
        world = World(wanted)
        with world.watcher:
            links.say(True)
            await settle()
            return world.told

    assert expected == play(scene())


def test_refusals_speak_against_backends(ears: Ears) -> None:
    """By the address and port where a datagram met no server."""
    _, _, refusals = ears

    async def scene() -> list[str]:
        world = World(PASSIVE)
        with world.watcher:
            refusals.say([Refusal(ip_address("10.0.0.11"), 5353), Refusal(ip_address("10.0.0.99"), 5353)])
            await settle()
            return world.told

    assert ["dns/b1 refused"] == play(scene())


def test_refusals_are_listened_for_only_where_wanted(ears: Ears) -> None:
    """A reload opens and closes that ear; a fault of it goes with the wish."""
    _, _, refusals = ears

    async def scene() -> None:
        world = World(PLAIN)
        with world.watcher:
            assert [] == refusals.present
            world.watcher.follow(PASSIVE)
            assert 1 == len(refusals.present)
            world.watcher.follow(PLAIN)
            assert [] == refusals.present
            refusals.missing = "somebody else listens"
            world.watcher.follow(PASSIVE)
            assert ["passive: somebody else listens"] == world.shown
            world.watcher.follow(PLAIN)
            assert [] == world.shown

    play(scene())


@pytest.mark.parametrize(("first", "expected"), [(PASSIVE, "refused"), (DEFAULT, "doubted")])
def test_a_hint_is_no_proof(first: Config, expected: str, ears: Ears) -> None:
    """A pool hears its own kind: a hint never speaks against one with `passive: true`, a refusal never for a check."""
    _, _, refusals = ears

    async def scene() -> list[str]:
        world = World(first)
        with world.watcher:
            address = ip_address("10.0.0.11")
            refusals.say([Refusal(address, 5353, hint=True), Refusal(address, 5353), Refusal(address, 53, hint=True)])
            await settle()
            return world.told

    assert [f"dns/b1 {expected}"] == play(scene())


def test_what_nobody_asked_for_is_no_fault(ears: Ears, caplog: pytest.LogCaptureFixture) -> None:
    """Where refusals can't be heard by default, that is told once, shown as no fault, and tried again."""
    _, _, refusals = ears
    refusals.missing = "somebody else listens"

    async def scene() -> list[str]:
        world = World(DEFAULT)
        with world.watcher:
            await asyncio.sleep(2.5 * AGAIN)
            shown = world.shown
            world.watcher.follow(PASSIVE)
            assert ["passive: somebody else listens"] == world.shown
            world.watcher.follow(DEFAULT)
            assert [] == world.shown
            refusals.missing = ""
            await asyncio.sleep(AGAIN)
            assert 1 == len(refusals.present)
            return shown

    assert [] == play(scene())
    assert 1 == sum("somebody else listens" in one.message for one in caplog.records if one.levelname == "WARNING")


def test_an_ear_that_is_missing(ears: Ears) -> None:
    """It is a fault, tried again every five seconds; meanwhile the tables are looked at as often."""
    monitor, _, _ = ears
    monitor.missing = "not permitted"

    async def scene() -> list[float]:
        world = World(PLAIN)
        with world.watcher:
            assert ["watch: not permitted"] == world.shown
            await asyncio.sleep(2.5 * AGAIN)
            assert [AGAIN, 2 * AGAIN] == world.calls.of("suspect")
            monitor.missing = ""
            await asyncio.sleep(AGAIN)
            assert [] == world.shown
            monitor.say(True)
            await settle()
            assert 3.5 * AGAIN == world.calls.of("suspect")[-1]
            return monitor.opened

    assert [0.0, AGAIN, 2 * AGAIN, 3 * AGAIN] == play(scene())


def test_an_ear_that_fails(ears: Ears) -> None:
    """It is closed, the reconciler looks for itself, and it is opened again later."""
    monitor, _, _ = ears

    async def scene() -> None:
        world = World(PLAIN)
        with world.watcher:
            monitor.say(OSError("out of memory"))
            await settle()
            assert [] == monitor.present
            assert ["watch: out of memory"] == world.shown
            assert ["suspect"] == world.told
            await asyncio.sleep(AGAIN)
            assert 1 == len(monitor.present)
            assert [] == world.shown

    play(scene())


def test_links_are_looked_at_while_they_can_not_be_heard(ears: Ears) -> None:
    """Where they matter: what was not told is found when the ear opens again, at the latest."""
    _, links, _ = ears

    async def scene() -> list[float]:
        world = World(DSR)
        with world.watcher:
            links.missing = "not permitted"
            links.say(OSError("out of memory"))
            await asyncio.sleep(2.5 * AGAIN)
            links.missing = ""
            await asyncio.sleep(2 * AGAIN)
            return world.calls.of("recheck")

    assert [AGAIN, 2 * AGAIN, 3 * AGAIN] == play(scene())


def test_nothing_is_left(ears: Ears) -> None:
    """Afterwards all ears are closed, and no timer looks again."""

    async def scene() -> list[str]:
        world = World(PASSIVE)
        with world.watcher:
            assert [1, 1, 1] == [len(one.present) for one in ears]
        assert [0, 0, 0] == [len(one.present) for one in ears]
        await asyncio.sleep(10 * AGAIN)
        return world.told

    assert [] == play(scene())
