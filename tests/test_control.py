"""The daemon's mind, with all around it in memory: commands, results and reloads, and what outlives it."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Self
from unittest.mock import patch

import pytest
from clockwork import elapsed, play, settle
from handiwork import FakeHands, has
from states import status_of
from test_keeper import FakeStore

from nftlb.config import load
from nftlb.daemon import control as module
from nftlb.daemon.announcer import Announcer
from nftlb.daemon.bus import Bus
from nftlb.daemon.checker import Place
from nftlb.daemon.chronicle import Chronicle
from nftlb.daemon.control import Control
from nftlb.daemon.faults import Faults
from nftlb.daemon.keeper import Keeper
from nftlb.daemon.reconciler import Reconciler
from nftlb.daemon.runtime import overlay, remaining
from nftlb.errors import ConfigError, KernelError
from nftlb.health import Fleet, Memory, Result
from nftlb.health.memory import read, write
from nftlb.metrics import Metrics
from nftlb.model import Admin
from nftlb.ruleset import Chain, TableFamily
from nftlb.service import Conflict, EventKind, Unapplied, UnknownBackend, UnknownPool
from nftlb.swap import Transaction
from nftlb.swap.operations import AddChain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from nftlb.daemon.hooks import Call
    from nftlb.model import Config
    from nftlb.service import BackendStatus, Event, PoolStatus

BACKENDS = {"ns1": "10.0.0.11:53", "ns2": "10.0.0.12:53", "ns3": "10.0.0.13:53"}
CHECK = {"icmp": {}, "interval": "2s", "fast_interval": "500ms", "rise": 2, "fall": 3}
DNS = {"listen": "192.0.2.53:53/udp", "backends": BACKENDS, "health": CHECK}
OTHER = {"listen": "192.0.2.54:53/udp", "backends": {"a": "10.0.1.1:53"}}
PASS, FAIL = Result(passed=True, reason="fine", seconds=0.001), Result(passed=False, reason="no answer", seconds=1.0)


class World:
    """A daemon without checks, ears and an API; its hooks are noted, not run. Inside `async with` it runs."""

    def __init__(self, file: Path, memory: str = "") -> None:
        self.file = file
        self.called: list[Call] = []
        self.events: list[Event] = []
        self.followed: list[Config] = []
        self.store = MemoryStore()
        self.hands = FakeHands()
        remembered = read(memory) if memory else Memory(format=1)
        base = load(str(file))
        config, self.misfits = overlay(base, remaining(base, remembered.pools))
        bus = Recorder(self.events)
        self.faults = Faults(bus.publish)
        metrics = Metrics()
        self.chronicle = chronicle = Chronicle(metrics, bus, self.faults)
        self.control = control = Control(
            str(file),
            base,
            Fleet.begin(config, remembered.pools, asyncio.get_running_loop().time()),
            config,
            remembered,
            hands=self.hands,
            metrics=metrics,
            bus=bus,
            faults=self.faults,
            announcer=Announcer(bus, self),  # type: ignore[arg-type]
            chronicle=chronicle,
        )
        control.reconciler = Reconciler(
            self.hands, control.wanted, chronicle.committed, chronicle.refusal, chronicle.mended, chronicle.lacking
        )
        control.keeper = Keeper(self.store, control.memory, self.faults)  # type: ignore[arg-type]
        control.on_config(self.followed.append)

    async def __aenter__(self) -> Self:
        await self.hands.open()
        await self.control.reconciler.start()
        self._task = asyncio.create_task(self.control.reconciler.run())
        await settle()
        self.events.clear()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        await self.control.keeper.close()
        self.control.close()
        self.hands.close()
        await settle()
        assert 1 == len(asyncio.all_tasks())

    def run(self, call: Call) -> None:
        """Be the hooks."""
        self.called.append(call)

    def write(self, **pools: Any) -> None:
        self.file.write_text(document(**pools))

    def hear(self, name: str, outcomes: str, pool: str = "dns") -> list[float]:
        """Results as `+` and `-`; what the checker is told."""
        return [self.control.hear(Place(pool, name, 0), PASS if one == "+" else FAIL) for one in outcomes]

    def told(self, *kinds: EventKind) -> list[str]:
        return [f"{one.kind} {one.backend or one.pool}" for one in self.events if one.kind in kinds]

    @property
    def is_right(self) -> bool:
        """Whether the kernel has what is wanted."""
        return has(self.hands.kernel, *self.control.wanted())

    @property
    def shown(self) -> list[str]:
        return [one.what for one in self.faults.all()]


class Recorder(Bus):
    """Notes what is published, too."""

    def __init__(self, events: list[Event]) -> None:
        super().__init__()
        self._events = events

    def publish(self, event: Event) -> None:
        self._events.append(event)
        super().publish(event)


class MemoryStore(FakeStore):
    """Keeps the text."""

    text = ""

    def save(self, memory: Memory) -> None:
        super().save(memory)
        self.text = write(memory)


def document(**pools: Any) -> str:
    return json.dumps({"pools": pools})


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with the pool, and the clock of the clockwork."""
    monkeypatch.setattr(module, "now", lambda: asyncio.get_running_loop().time())
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    path = tmp_path / "nftlb.json"
    path.write_text(document(dns=DNS))
    return path


async def shares(world: World, pool: str = "dns") -> dict[str, float]:
    return {one.name: round(one.share, 3) for one in (await world.control.pool(pool)).backends}


def found(status: PoolStatus, name: str) -> BackendStatus:
    return next(one for one in status.backends if one.name == name)


HALF = pytest.approx(0.5)


# --- results ---------------------------------------------------------------------------------------------------------


def test_a_backend_that_fails_leaves_and_returns(file: Path) -> None:
    """The kernel follows, events are told in order, and the checks quicken while a change is pending."""

    async def scene() -> None:
        async with World(file) as world:
            assert [0.5, 0.5, 2.0, 2.0] == world.hear("ns1", "----")
            await asyncio.sleep(0.1)
            assert {"ns1": 0.0, "ns2": 0.5, "ns3": 0.5} == await shares(world)
            assert [0.5, 2.0] == world.hear("ns1", "++")
            await asyncio.sleep(0.1)
            assert {"ns1": 0.333, "ns2": 0.333, "ns3": 0.333} == await shares(world)
            assert ["backend_down ns1", "swap ", "backend_up ns1", "swap "] == [
                f"{one.kind} {one.backend}" for one in world.events
            ]

    play(scene())


def test_health_is_saved_soon(file: Path) -> None:
    """A transition is on the disk seconds later, without anybody waiting for it."""

    async def scene() -> str:
        async with World(file) as world:
            world.hear("ns1", "---")
            await asyncio.sleep(2.5)
            return world.store.text

    assert (False,) == read(play(scene())).pools["dns"].backends["ns1"].checks


def test_a_refused_datagram_counts_at_once(file: Path) -> None:
    """Passive detection takes a backend out without waiting for `fall`; of one that is gone nothing is heard."""

    async def scene() -> list[str]:
        async with World(file) as world:
            world.control.refused("dns", "ns1")
            world.control.refused("dns", "gone")
            return world.told(EventKind.BACKEND_DOWN)

    assert ["backend_down ns1"] == play(scene())


def test_checks_that_can_not_be_done_are_a_fault(file: Path) -> None:
    """Shown until they can be."""

    async def scene() -> tuple[list[str], list[str]]:
        async with World(file) as world:
            world.control.unable("no descriptors")
            shown = world.shown
            world.control.unable("")
            return shown, world.shown

    assert (["checks"], []) == play(scene())


def test_slow_start_goes_on_by_itself(file: Path) -> None:
    """The kernel follows each step of it, and after the last the whole weight is there, with no timer left."""
    file.write_text(document(dns={**DNS, "slow_start": "10s"}))

    async def scene() -> list[float]:
        async with World(file) as world:
            world.hear("ns1", "---")
            await asyncio.sleep(1)
            world.hear("ns1", "++")
            seen = []
            for _ in range(12):
                await asyncio.sleep(1)
                seen.append((await shares(world))["ns1"])
            assert world.control._step is None
            return seen

    seen = play(scene())
    assert sorted(seen) == seen
    assert 0.091 == seen[0]
    assert 0.333 == seen[-1]
    assert len(set(seen)) > 5


# --- commands --------------------------------------------------------------------------------------------------------


def test_a_drained_backend_gets_nothing_and_that_is_remembered(file: Path) -> None:
    """change() returns when the kernel has it and the disk too; after a restart it is still so."""

    async def first() -> str:
        async with World(file) as world:
            status = await world.control.change("dns", "ns1", admin=Admin.DRAIN)
            assert (Admin.DRAIN, False, True) == (status.admin, status.in_rotation, status.up)
            await world.control.change("dns", "ns2", weight=3)
            return world.store.text

    async def second(memory: str) -> dict[str, float]:
        async with World(file, memory) as world:
            return await shares(world)

    assert {"ns1": 0.0, "ns2": 0.75, "ns3": 0.25} == play(second(play(first())))


def test_the_file_s_new_word_holds(file: Path) -> None:
    """What the operator set holds over reloads until the file itself says something else."""

    async def scene() -> list[str]:
        async with World(file) as world:
            control, seen = world.control, []
            await control.change("dns", "ns1", admin=Admin.DRAIN)
            for admin in ("enabled", "maintenance", "enabled"):
                backends = {**BACKENDS, "ns1": {"address": "10.0.0.11", "port": 53, "admin": admin}}
                world.write(dns={**DNS, "backends": backends})
                await control.reload()
                seen.append(found(await control.pool("dns"), "ns1").admin.value)
            return seen

    assert ["drain", "maintenance", "enabled"] == play(scene())


def test_a_change_that_the_kernel_refuses(file: Path) -> None:
    """It is told, shown as a fault, remembered nevertheless, and tried again until it is accepted."""

    async def scene() -> None:
        async with World(file) as world:
            world.hands.error = KernelError("no")
            with pytest.raises(Unapplied, match="no"):
                await world.control.change("dns", "ns1", admin=Admin.DRAIN)
            assert Admin.DRAIN is read(world.store.text).pools["dns"].backends["ns1"].admin
            assert ["kernel"] == world.shown
            status = await status_of(world.control)
            assert (False, "no") == (status.kernel.synced, status.kernel.error)
            world.hands.error = None
            await asyncio.sleep(1)
            assert [] == world.shown
            assert 0.0 == (await shares(world))["ns1"]

    play(scene())


def test_a_full_disk_keeps_nobody_from_operating(file: Path) -> None:
    """The wish is followed; that it can't be remembered is shown."""

    async def scene() -> None:
        async with World(file) as world:
            world.store.error = errno.ENOSPC
            await world.control.change("dns", "ns1", admin=Admin.DRAIN)
            assert 0.0 == (await shares(world))["ns1"]
            assert ["state_dir"] == world.shown
            world.store.error = 0
            await asyncio.sleep(10)
            assert [] == world.shown

    play(scene())


def test_names_that_are_not_there(file: Path) -> None:
    """Every command says so, and which name may be meant."""

    async def scene() -> None:
        async with World(file) as world:
            control = world.control
            with pytest.raises(UnknownPool, match=r"there is no pool dsn; did you mean dns\?"):
                await control.pool("dsn")
            with pytest.raises(UnknownPool):
                control.ready("dsn")
            with pytest.raises(UnknownBackend, match=r"dns has no backend ns9; did you mean ns"):
                await control.change("dns", "ns9", weight=1)
            with pytest.raises(UnknownBackend):
                await control.remove("dns", "completely different")
            with pytest.raises(UnknownPool):
                await control.add("web", "a", "10.0.0.1:80")

    play(scene())


# --- added and removed -----------------------------------------------------------------------------------------------


def test_a_backend_that_was_added_outlives_restarts_and_reloads(file: Path) -> None:
    """It is shown as added, and gets its share, whatever becomes of the daemon, until it is removed."""

    async def first() -> str:
        async with World(file) as world:
            status = await world.control.add("dns", "x", {"address": "10.0.0.20", "port": 53, "weight": 3})
            assert (True, True, 0.5) == (status.added, status.in_rotation, status.share)
            await world.control.reload()
            assert (await shares(world))["x"] == 0.5
            return world.store.text

    async def second(memory: str) -> str:
        async with World(file, memory) as world:
            assert (await shares(world))["x"] == 0.5
            await world.control.remove("dns", "x")
            return world.store.text

    assert {} == read(play(second(play(first())))).pools["dns"].added


def test_what_can_not_be_added(file: Path) -> None:
    """A name that is taken, and what the rules of the file forbid; neither changes anything."""

    async def scene() -> None:
        async with World(file) as world:
            with pytest.raises(Conflict, match="dns has a backend ns1 already"):
                await world.control.add("dns", "ns1", "10.0.0.20:53")
            for written in ("10.0.0.11:53", "[2001:db8::1]:53", {"port": 5}):
                with pytest.raises(ConfigError):
                    await world.control.add("dns", "x", written)
            assert set(BACKENDS) == set(await shares(world))
            assert [] == world.events

    play(scene())


def test_adding_is_all_or_nothing(file: Path) -> None:
    """If the kernel refuses, there is no such backend, now or after a restart."""

    async def scene() -> None:
        async with World(file) as world:
            world.hands.error = KernelError("no")
            with pytest.raises(KernelError):
                await world.control.add("dns", "x", "10.0.0.20:53")
            with pytest.raises(KernelError):
                await world.control.remove("dns", "ns1")
            world.hands.error = None
            await asyncio.sleep(1)
            assert set(BACKENDS) == set(await shares(world))
            assert [] == world.followed
            await world.control.keeper.save()
            remembered = read(world.store.text).pools["dns"]
            assert ({}, ()) == (remembered.added, remembered.removed)

    play(scene())


def test_removed_until_the_next_reload(file: Path) -> None:
    """A backend of the file that was removed stays away over a restart; a reload brings it back."""

    async def first() -> str:
        async with World(file) as world:
            await world.control.remove("dns", "ns1")
            assert {"ns2": HALF, "ns3": HALF} == await shares(world)
            return world.store.text

    async def second(memory: str) -> str:
        async with World(file, memory) as world:
            assert {"ns2", "ns3"} == set(await shares(world))
            await world.control.reload()
            assert set(BACKENDS) == set(await shares(world))
            return world.store.text

    assert () == read(play(second(play(first())))).pools["dns"].removed


def test_exchanged_for_another_of_the_same_name(file: Path) -> None:
    """Removed, and added with another address: after a restart it is still that one; a reload makes it the file's."""

    async def first() -> str:
        async with World(file) as world:
            await world.control.remove("dns", "ns1")
            await world.control.add("dns", "ns1", "10.0.0.99:53")
            return world.store.text

    async def second(memory: str) -> None:
        async with World(file, memory) as world:
            assert "10.0.0.99" == found(await world.control.pool("dns"), "ns1").address
            await world.control.reload()
            assert "10.0.0.11" == found(await world.control.pool("dns"), "ns1").address

    play(second(play(first())))


def test_put_back_as_the_file_has_it(file: Path) -> None:
    """Removed, and added again just as it was: there is nothing to remember."""

    async def scene() -> None:
        async with World(file) as world:
            await world.control.remove("dns", "ns1")
            await world.control.add("dns", "ns1", "10.0.0.11:53")
            assert not found(await world.control.pool("dns"), "ns1").added
            remembered = read(world.store.text).pools["dns"]
            assert ({}, ()) == (remembered.added, remembered.removed)

    play(scene())


def test_what_the_file_took_over_is_the_file_s(file: Path) -> None:
    """Added at run time, then written into the file, then taken out of it: it is gone."""

    async def scene() -> None:
        async with World(file) as world:
            await world.control.add("dns", "x", "10.0.0.20:53")
            world.write(dns={**DNS, "backends": {**BACKENDS, "x": "10.0.0.20:53"}})
            await world.control.reload()
            assert not found(await world.control.pool("dns"), "x").added
            world.write(dns=DNS)
            await world.control.reload()
            assert set(BACKENDS) == set(await shares(world))

    play(scene())


def test_the_last_backend_stays(file: Path) -> None:
    """A pool can't be emptied."""
    file.write_text(document(other=OTHER))

    async def scene() -> None:
        async with World(file) as world:
            with pytest.raises(Conflict, match="a is the last backend of other"):
                await world.control.remove("other", "a")

    play(scene())


# --- reload ----------------------------------------------------------------------------------------------------------


def test_a_bad_file_changes_nothing(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """All its faults are in the answer, in the status and in the log; the old configuration is in use."""

    async def scene() -> None:
        async with World(file) as world:
            world.hear("ns1", "---")
            await asyncio.sleep(3)
            before = world.hands.kernel.content
            world.file.write_text('{"pools": {"dns": {"listen": "x", "backends": {"a": "y"}}}}')
            with pytest.raises(ConfigError) as caught:
                await world.control.reload()
            status = await status_of(world.control)
            assert not status.config.success
            assert tuple(str(caught.value).splitlines()) == status.config.problems
            assert 2 == len(status.config.problems)
            assert status.config.attempted > status.config.loaded
            assert before == world.hands.kernel.content
            assert ["reload_failed dns"] == [f"{one.kind} dns" for one in world.events if "reload" in one.kind]
            world.write(dns=DNS)
            await world.control.reload()
            status = await status_of(world.control)
            assert ((), True) == (status.config.problems, status.config.success)

    play(scene())
    assert "not reloaded, the old configuration stays:" in caplog.text


def test_another_table_needs_a_restart(file: Path) -> None:
    """The tables are the daemon's identity; a reload that would leave them is refused as a fault of the file."""

    async def scene() -> None:
        async with World(file) as world:
            world.file.write_text(json.dumps({"table": "other", "pools": {"dns": DNS}}))
            with pytest.raises(ConfigError, match="table: other is another table than nftlb"):
                await world.control.reload()

    play(scene())


def test_a_reload_that_the_kernel_refuses(file: Path) -> None:
    """Neither the configuration nor what follows it changes; the status says why."""

    async def scene() -> None:
        async with World(file) as world:
            world.write(other=OTHER)
            world.hands.error = KernelError("no")
            with pytest.raises(KernelError):
                await world.control.reload()
            world.hands.error = None
            await asyncio.sleep(1)
            status = await status_of(world.control)
            assert ["dns"] == [one.name for one in status.pools]
            assert ("no",) == status.config.problems
            assert [] == world.followed
            assert world.is_right

    play(scene())


def test_who_did_not_change_keeps_what_is_believed(file: Path) -> None:
    """A backend that is down stays down over a reload, another keeps its pending results; who follows is told once."""

    async def scene() -> None:
        async with World(file) as world:
            world.hear("ns1", "---")
            world.hear("ns2", "--")
            world.write(dns={**DNS, "quorum": 2}, other=OTHER)
            await world.control.reload()
            assert 0.0 == (await shares(world))["ns1"]
            assert [["dns", "other"]] == [[pool.name for pool in one.pools] for one in world.followed]
            world.hear("ns2", "-")
            await asyncio.sleep(0.1)
            assert 1.0 == (await shares(world))["ns3"]

    play(scene())


def test_results_during_a_reload_are_not_lost(file: Path) -> None:
    """What was heard while the kernel took the new configuration holds for it, and is in the kernel soon after."""

    async def scene() -> None:
        async with World(file) as world:
            world.hands.takes = 1.0
            world.write(dns={**DNS, "quorum": 2})
            reloading = asyncio.create_task(world.control.reload())
            await asyncio.sleep(0.5)
            world.hear("ns1", "---")
            changed = asyncio.create_task(world.control.change("dns", "ns2", admin=Admin.DRAIN))
            await reloading
            await changed
            world.hands.takes = 0.0
            assert {"ns1": 0.0, "ns2": 0.0, "ns3": 1.0} == await shares(world)
            await asyncio.sleep(3)
            assert world.is_right

    play(scene())


def test_reloads_and_additions_wait_for_each_other(file: Path) -> None:
    """A backend that is added while a reload is on its way is added to what that brings."""

    async def scene() -> None:
        async with World(file) as world:
            world.hands.takes = 1.0
            world.write(dns=DNS, other=OTHER)
            await asyncio.gather(
                world.control.reload(),
                world.control.add("dns", "x", "10.0.0.20:53"),
                world.control.reload(),
                world.control.remove("dns", "ns3"),
            )
            assert {"ns1", "ns2", "x"} == set(await shares(world))
            assert {"a"} == set(await shares(world, "other"))

    play(scene())


def test_a_pool_that_is_gone(file: Path) -> None:
    """It is forgotten: in the kernel, in the status, and what was added to it too."""
    file.write_text(document(dns=DNS, other=OTHER))

    async def scene() -> None:
        async with World(file) as world:
            await world.control.add("other", "x", "10.0.1.2:53")
            world.write(dns=DNS)
            await world.control.reload()
            assert ["dns"] == [one.name for one in (await status_of(world.control)).pools]
            assert {"dns"} == set(read(world.store.text).pools)
            world.write(dns=DNS, other=OTHER)
            await world.control.reload()
            assert {"a"} == set(await shares(world, "other"))

    play(scene())


def test_a_bad_memory_is_shown_until_somebody_came(file: Path) -> None:
    """The fault of a state file that was set aside ends with a reload: the operator has been here."""

    async def scene() -> None:
        async with World(file) as world:
            world.faults.set("memory", "torn")
            await world.control.change("dns", "ns1", weight=3)
            assert ["memory"] == world.shown
            await world.control.reload()
            assert [] == world.shown

    play(scene())


# --- what is shown ---------------------------------------------------------------------------------------------------


def test_a_status_during_a_reload(file: Path) -> None:
    """A pool that goes while the status is put together disturbs nobody."""
    file.write_text(document(dns=DNS, other=OTHER))

    async def scene() -> list[list[str]]:
        async with World(file) as world:
            seen = []
            await status_of(world.control)  # the counters are known now, and nothing is waited for
            for pause in range(40):
                world.write(dns=DNS, other=OTHER)
                await world.control.reload()
                world.write(dns=DNS)
                reloading = asyncio.create_task(world.control.reload())
                for _ in range(pause):
                    await asyncio.sleep(0)
                seen.append([one.name for one in (await status_of(world.control)).pools])
                await reloading
            return seen

    seen = play(scene())
    assert ["dns", "other"] == seen[0]
    assert ["dns"] == seen[-1]
    assert all(names in (["dns", "other"], ["dns"]) for names in seen)


def test_a_status_does_not_wait_for_a_kernel_that_is_stuck(file: Path) -> None:
    """It shows the counters of before, after a moment, and later the new ones."""

    async def scene() -> None:
        async with World(file) as world:
            world.hands.kernel.send(TableFamily.IP, "nftlb", "backend/dns/ns1", 5, 500)
            assert 5 == (await world.control.pool("dns")).packets
            world.hands.kernel.send(TableFamily.IP, "nftlb", "backend/dns/ns1", 2, 200)
            await asyncio.sleep(1.5)
            world.hands.takes = 30.0
            began = elapsed()
            assert 5 == (await world.control.pool("dns")).packets
            assert 2.0 == elapsed() - began
            await asyncio.sleep(40)
            assert 7 == (await world.control.pool("dns")).packets

    play(scene())


def test_counters_are_read_once_a_second(file: Path) -> None:
    """However many ask at the same time; and they survive a flush by others."""

    async def scene() -> None:
        async with World(file) as world:
            world.hands.kernel.send(TableFamily.IP, "nftlb", "backend/dns/ns1", 5, 500)
            works = world.hands.works
            statuses = await asyncio.gather(*(status_of(world.control) for _ in range(20)))
            assert 1 == world.hands.works - works
            assert {5} == {one.pools[0].packets for one in statuses}
            world.hands.kernel.flush()
            world.control.reconciler.suspect()
            await asyncio.sleep(2)
            world.hands.kernel.send(TableFamily.IP, "nftlb", "backend/dns/ns1", 1, 100)
            status = await status_of(world.control)
            assert (6, 1) == (status.pools[0].packets, status.kernel.restored)

    play(scene())


def test_ready_only_with_rules(file: Path) -> None:
    """Before the kernel has taken anything no pool is ready, whatever its health; then by its quorum."""
    file.write_text(document(dns={**DNS, "quorum": 3}, other=OTHER))

    async def scene() -> None:
        world = World(file)
        assert not world.control.ready()
        assert not world.control.ready("other")
        async with world:
            assert world.control.ready()
            world.hear("ns1", "---")
            assert not world.control.ready()
            assert not world.control.ready("dns")
            assert world.control.ready("other")
            assert ["quorum_down dns"] == world.told(EventKind.QUORUM_DOWN)

    play(scene())


def _nothing(_: World) -> None:
    pass


def _health_changes(world: World) -> None:
    world.hear("ns1", "---")


def _links_change(world: World) -> None:
    world.control.reconciler.recheck()


@pytest.mark.parametrize("meanwhile", [_nothing, _health_changes, _links_change])
def test_not_ready_while_robbed(file: Path, meanwhile: Callable[[World], None]) -> None:
    """Where our rules are gone and can't be put back, nothing is ready, whatever else changes at the same time."""

    async def scene() -> list[bool]:
        async with World(file) as world:
            with patch.object(world.hands.kernel, "apply", side_effect=KernelError("no")):
                world.hands.kernel.flush()
                world.control.reconciler.suspect()
                meanwhile(world)
                await asyncio.sleep(1)
                ready = [world.control.ready("dns")]
            await asyncio.sleep(10)
            assert world.is_right
            return [*ready, world.control.ready()]

    assert [False, True] == play(scene())


def test_ready_while_refused(file: Path) -> None:
    """A refusal leaves the old rules, and they serve, also with what somebody else added."""

    async def scene() -> list[bool]:
        async with World(file) as world:
            ready = []
            with patch.object(world.hands.kernel, "apply", side_effect=KernelError("no")):
                world.hear("ns1", "---")
                await asyncio.sleep(1)
                ready.append(world.control.ready())
            await asyncio.sleep(10)
            world.hands.kernel.apply(Transaction("nftlb", (AddChain(TableFamily.IP, Chain("theirs")),)))
            with patch.object(world.hands.kernel, "apply", side_effect=KernelError("no")):
                for change in ("---", "++"):
                    world.control.reconciler.suspect()
                    await asyncio.sleep(10)
                    ready.append(world.control.ready())
                    world.hear("ns2", change)
            return ready

    assert [True, True, True] == play(scene())


def test_the_ruleset_and_the_events(file: Path) -> None:
    """The text last applied, and what happens from when somebody listens."""

    async def scene() -> None:
        async with World(file) as world:
            assert "10.0.0.11" in await world.control.ruleset()
            events = world.control.events()
            first: asyncio.Task[Any] = asyncio.create_task(anext(events))  # type: ignore[arg-type]
            await settle()
            world.hear("ns1", "---")
            assert EventKind.BACKEND_DOWN is (await first).kind
            await events.aclose()  # type: ignore[attr-defined]

    play(scene())


def test_what_lacks_is_a_fault(file: Path) -> None:
    """Until nothing lacks."""

    async def scene() -> tuple[list[str], list[str]]:
        async with World(file) as world:
            world.chronicle.lacking(("no eth0",))
            shown = world.shown
            world.chronicle.lacking(())
            return shown, world.shown

    assert (["interfaces"], []) == play(scene())


def test_somebody_else_s_changes_are_told(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Undoing them is an event, a warning, and counted."""
    caplog.set_level(logging.INFO, "nftlb")

    async def scene() -> None:
        async with World(file) as world:
            world.hands.kernel.flush()
            world.control.reconciler.suspect()
            await asyncio.sleep(1)
            (event,) = world.events
            assert (EventKind.SWAP, True) == (event.kind, event.details["restored"])
            assert world.is_right

    play(scene())
    assert "somebody else changed our tables or routes: restored in" in caplog.text


def test_a_name_that_nobody_has_costs_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody may ask for any: it is compared with a few of ten thousand, and the near one of some is still found."""
    compared = []

    def matches(name: str, known: Iterable[str], **options: int) -> list[str]:
        compared.append(list(known))
        return get_close_matches(name, compared[-1], **options)

    monkeypatch.setattr(module, "get_close_matches", matches)
    names = [f"pool{number}" for number in range(10_000)]
    for name in ("pool10000", "dns", "p" * 8000, "\u00e9"):
        module._near(name, names)
    assert [50, 0, 0, 0] == [len(one) for one in compared]
    assert "; did you mean dns7?" == module._near("dsn7", [*(f"x{name}" for name in names), "dns7"])
