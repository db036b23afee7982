"""Messages of the kernel's monitors, and monitors that are missing or fail."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import TYPE_CHECKING, ClassVar

import pytest
from fake_kernel_thread import RecordedCalls
from pool_builders import DNS, backend, config, pool
from virtual_time import elapsed, play, settle

from nftlb.daemon import watcher as module
from nftlb.daemon.events import ActiveFaults
from nftlb.daemon.watcher import AGAIN, Watcher
from nftlb.errors import SystemFault
from nftlb.model import Forward, Health, Icmp

if TYPE_CHECKING:
    from nftlb.compiler.reply_form import Obstacles
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


class FakeMonitor:
    """A monitor that reads what `say` gets. While `missing` has a reason, it can't be opened."""

    missing: ClassVar[str] = ""
    opened: ClassVar[list[float]] = []
    present: ClassVar[list[FakeMonitor]] = []

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
    def announce(cls, what: object) -> None:
        for monitor in cls.present:
            monitor._said = what
            monitor._theirs.send(b"x")

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


class RecordedWatcher:
    """A watcher whose reconciler, controller, surveyor and checker record their calls."""

    def __init__(self, first: Config) -> None:
        self.calls = RecordedCalls()
        self.is_down = False
        self.faults = ActiveFaults(lambda _: None)
        self.watcher = Watcher(first, self, self, self, self, self.faults)  # type: ignore[arg-type]

    def suspect_tables(self) -> None:
        self.calls("tables")

    def compare_obstacles(self, obstacles: Obstacles) -> None:
        assert {} == obstacles

    def suspect_host(self) -> None:
        self.calls("host")

    def suspect(self) -> None:
        self.calls("survey")

    def record_neighbours(self, news: object) -> None:
        self.calls(f"neighbours: {news}")

    def record_refusal(self, pool_name: str, backend_name: str) -> None:
        self.calls(f"{pool_name}/{backend_name} refused")

    def record_hint(self, pool_name: str, backend_name: str) -> bool:
        self.calls(f"{pool_name}/{backend_name} hint")
        return not self.is_down

    def hurry(self, pool_name: str, backend_name: str) -> None:
        self.calls(f"{pool_name}/{backend_name} hurried")

    @property
    def other_calls(self) -> list[str]:
        """All but looks at the surroundings."""
        return [what for _, what in self.calls.all if what != "survey"]

    @property
    def shown(self) -> list[str]:
        return [f"{fault.what}: {fault.message}" for fault in self.faults.all()]


FakeMonitors = tuple[type[FakeMonitor], type[FakeMonitor], type[FakeMonitor]]


@pytest.fixture
def monitors(monkeypatch: pytest.MonkeyPatch) -> FakeMonitors:
    """Fake monitors of tables, links and refusals."""
    made = tuple(type(name, (FakeMonitor,), {}) for name in ("RulesetMonitor", "LinkMonitor", "RefusalMonitor"))
    for kind in (*made, *(type(name, (FakeMonitor,), {}) for name in ("SurroundingsMonitor", "NeighbourMonitor"))):
        monkeypatch.setattr(module, kind.__name__, kind)
    return made  # type: ignore[return-value]


def test_changes_of_our_tables(monitors: FakeMonitors) -> None:
    """The reconciler checks the tables when ours were changed, and not when other tables were changed."""
    monitor, _, _ = monitors

    async def scene() -> list[str]:
        recorded = RecordedWatcher(PLAIN)
        with recorded.watcher:
            monitor.announce(False)
            await settle()
            assert [] == recorded.other_calls
            monitor.announce(True)
            await settle()
            return recorded.other_calls

    assert ["tables"] == play(scene())


@pytest.mark.parametrize(("wanted", "expected"), [(PLAIN, []), (DSR, ["host"])])
def test_changes_of_links(wanted: Config, expected: list[str], monitors: FakeMonitors) -> None:
    """A change of a link causes a load if a pool needs routes or interfaces, and nothing otherwise."""
    _, links, _ = monitors

    async def scene() -> list[str]:
        recorded = RecordedWatcher(wanted)
        with recorded.watcher:
            links.announce(True)
            await settle()
            return recorded.other_calls

    assert expected == play(scene())


def test_a_refusal_counts_against_its_backend(monitors: FakeMonitors) -> None:
    """The refused address and port identify the backend."""
    _, _, refusals = monitors

    async def scene() -> list[str]:
        recorded = RecordedWatcher(PASSIVE)
        with recorded.watcher:
            refusals.announce([Refusal(ip_address("10.0.0.11"), 5353), Refusal(ip_address("10.0.0.99"), 5353)])
            await settle()
            return recorded.other_calls

    assert ["dns/b1 refused"] == play(scene())


def test_refusals_are_listened_for_only_where_wanted(monitors: FakeMonitors) -> None:
    """A reload opens and closes the monitor of refusals. Its fault ends when no pool needs the monitor."""
    _, _, refusals = monitors

    async def scene() -> None:
        recorded = RecordedWatcher(PLAIN)
        with recorded.watcher:
            assert [] == refusals.present
            recorded.watcher.follow(PASSIVE)
            assert 1 == len(refusals.present)
            recorded.watcher.follow(PLAIN)
            assert [] == refusals.present
            refusals.missing = "another program listens"
            recorded.watcher.follow(PASSIVE)
            assert ["passive: another program listens"] == recorded.shown
            recorded.watcher.follow(PLAIN)
            assert [] == recorded.shown

    play(scene())


@pytest.mark.parametrize(("first", "expected"), [(PASSIVE, ["refused"]), (DEFAULT, ["hint", "hurried"])])
def test_a_hint_only_starts_a_check(first: Config, expected: list[str], monitors: FakeMonitors) -> None:
    """A hint never counts against a pool with `passive: true`, and a refusal never starts a check."""
    _, _, refusals = monitors

    async def scene() -> list[str]:
        recorded = RecordedWatcher(first)
        with recorded.watcher:
            address = ip_address("10.0.0.11")
            refusals.announce(
                [Refusal(address, 5353, hint=True), Refusal(address, 5353), Refusal(address, 53, hint=True)]
            )
            await settle()
            return recorded.other_calls

    assert [f"dns/b1 {what}" for what in expected] == play(scene())


def test_the_default_monitor_of_refusals_causes_no_fault(
    monitors: FakeMonitors, caplog: pytest.LogCaptureFixture
) -> None:
    """If the default monitor of refusals can't be opened, that is logged once, is not a fault, and is tried again."""
    _, _, refusals = monitors
    refusals.missing = "another program listens"

    async def scene() -> list[str]:
        recorded = RecordedWatcher(DEFAULT)
        with recorded.watcher:
            await asyncio.sleep(2.5 * AGAIN)
            shown = recorded.shown
            recorded.watcher.follow(PASSIVE)
            assert ["passive: another program listens"] == recorded.shown
            recorded.watcher.follow(DEFAULT)
            assert [] == recorded.shown
            refusals.missing = ""
            await asyncio.sleep(AGAIN)
            assert 1 == len(refusals.present)
            return shown

    assert [] == play(scene())
    assert 1 == sum(
        "another program listens" in record.message for record in caplog.records if record.levelname == "WARNING"
    )


def test_an_ear_that_is_missing(monitors: FakeMonitors) -> None:
    """A missing monitor is a fault and is tried again every five seconds; the tables are checked as often."""
    monitor, _, _ = monitors
    monitor.missing = "not permitted"

    async def scene() -> list[float]:
        recorded = RecordedWatcher(PLAIN)
        with recorded.watcher:
            assert ["watch: not permitted"] == recorded.shown
            await asyncio.sleep(2.5 * AGAIN)
            assert [AGAIN, 2 * AGAIN] == recorded.calls.of("tables")
            monitor.missing = ""
            await asyncio.sleep(AGAIN)
            assert [] == recorded.shown
            monitor.announce(True)
            await settle()
            assert 3.5 * AGAIN == recorded.calls.of("tables")[-1]
            return monitor.opened

    assert [0.0, AGAIN, 2 * AGAIN, 3 * AGAIN] == play(scene())


def test_an_ear_that_fails(monitors: FakeMonitors) -> None:
    """A failed monitor is closed and opened again later, and the reconciler checks the tables."""
    monitor, _, _ = monitors

    async def scene() -> None:
        recorded = RecordedWatcher(PLAIN)
        with recorded.watcher:
            monitor.announce(OSError("out of memory"))
            await settle()
            assert [] == monitor.present
            assert ["watch: out of memory"] == recorded.shown
            assert ["tables"] == recorded.other_calls
            await asyncio.sleep(AGAIN)
            assert 1 == len(monitor.present)
            assert [] == recorded.shown

    play(scene())


def test_links_are_read_while_their_monitor_is_closed(monitors: FakeMonitors) -> None:
    """A change of a link that was missed is found when the monitor opens again, at the latest."""
    _, links, _ = monitors

    async def scene() -> list[float]:
        recorded = RecordedWatcher(DSR)
        with recorded.watcher:
            links.missing = "not permitted"
            links.announce(OSError("out of memory"))
            await asyncio.sleep(2.5 * AGAIN)
            links.missing = ""
            await asyncio.sleep(2 * AGAIN)
            return recorded.calls.of("host")

    assert [AGAIN, 2 * AGAIN, 3 * AGAIN] == play(scene())


def test_nothing_is_left(monitors: FakeMonitors) -> None:
    """After the end all monitors are closed and no timer is left."""

    async def scene() -> list[str]:
        recorded = RecordedWatcher(PASSIVE)
        with recorded.watcher:
            assert [1, 1, 1] == [len(kind.present) for kind in monitors]
        assert [0, 0, 0] == [len(kind.present) for kind in monitors]
        await asyncio.sleep(10 * AGAIN)
        return recorded.other_calls

    assert [] == play(scene())
