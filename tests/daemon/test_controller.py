"""Results of checks and commands of the operator, over a kernel in memory."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING

import pytest
from api_state import status_of
from daemon_wiring import BACKENDS, CHECK, DNS, TESTER, WiredDaemon, document, found, shares
from virtual_time import play

from nftlb.config import read_backend
from nftlb.errors import KernelError
from nftlb.health.memory import read_memory
from nftlb.kernel.surroundings import Surroundings
from nftlb.model import Admin, BackendChange, EventKind
from nftlb.requirements import route_lack
from nftlb.service import BackendStatus, Unapplied, UnknownBackend, UnknownPool

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration file with one pool."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    path = tmp_path / "nftlb.json"
    path.write_text(document(dns=DNS))
    return path


def test_a_backend_that_fails_leaves_and_returns(file: Path) -> None:
    """The kernel follows, events come in order, and checks come faster while a change is pending."""

    async def scene() -> None:
        async with WiredDaemon(file) as daemon:
            assert [0.5, 0.5, 2.0, 2.0] == daemon.record_results("ns1", "----")
            await asyncio.sleep(0.1)
            assert {"ns1": 0.0, "ns2": 0.5, "ns3": 0.5} == await shares(daemon)
            assert [0.5, 2.0] == daemon.record_results("ns1", "++")
            await asyncio.sleep(0.1)
            assert {"ns1": 0.333, "ns2": 0.333, "ns3": 0.333} == await shares(daemon)
            assert ["backend_down ns1", "swap ", "backend_up ns1", "swap "] == [
                f"{event.kind} {event.backend}" for event in daemon.events
            ]

    play(scene())


def test_health_is_saved_soon(file: Path) -> None:
    """A change of health is saved within seconds, and nothing waits for it."""

    async def scene() -> str:
        async with WiredDaemon(file) as daemon:
            daemon.record_results("ns1", "---")
            await asyncio.sleep(2.5)
            return daemon.store.text

    assert (False,) == read_memory(play(scene())).pools["dns"].backends["ns1"].checks


def test_a_refused_datagram_counts_at_once(file: Path) -> None:
    """Passive detection takes a backend down without waiting for `fall`. A removed backend is ignored."""

    async def scene() -> list[str]:
        async with WiredDaemon(file) as daemon:
            daemon.controller.record_refusal("dns", "ns1")
            daemon.controller.record_refusal("dns", "gone")
            return daemon.events_of(EventKind.BACKEND_DOWN)

    assert ["backend_down ns1"] == play(scene())


def test_a_lack_keeps_its_fault_while_the_number_of_backends_changes(file: Path) -> None:
    """While one route is missing, nothing "works again", and the time of the beginning stays."""
    names = [f"ns{number}" for number in range(1, 5)]
    file.write_text(document(dns={**DNS, "backends": {name: f"10.0.0.1{name[2:]}:53" for name in names}}))

    async def scene() -> None:
        async with WiredDaemon(file) as daemon:

            def lack(count: int) -> None:
                pool = daemon.state.config.pools[0]
                lacks = [route_lack(pool, one, one.address, None, Surroundings()) for one in pool.backends[:count]]
                daemon.controller.set_lacks(lack for lack in lacks if lack)

            lack(1)
            (began,) = daemon.faults.all()
            messages = []
            for count in (3, 4, 3):
                lack(count)
                (fault,) = daemon.faults.all()
                assert (began.what, began.since) == (fault.what, fault.since)
                messages.append(fault.message.partition("; the same for ")[2])
            assert ["dns/ns2, dns/ns3", "dns/ns2, dns/ns3, dns/ns4", "dns/ns2, dns/ns3"] == messages
            assert [] == daemon.events_of(EventKind.FAULT_GONE)
            lack(0)
            assert 1 == len(daemon.events_of(EventKind.FAULT_GONE))

    play(scene())


def test_checks_that_can_not_be_done_are_a_fault(file: Path) -> None:
    """The fault is shown until checks can be carried out again."""

    async def scene() -> tuple[list[str], list[str]]:
        async with WiredDaemon(file) as daemon:
            daemon.controller.set_check_fault("no descriptors")
            shown = daemon.shown
            daemon.controller.set_check_fault("")
            return shown, daemon.shown

    assert (["checks"], []) == play(scene())


def test_the_kernel_follows_each_step_of_a_slow_start(file: Path) -> None:
    """The kernel follows each step of a slow start. After the last step the weight is whole and no timer is left."""
    file.write_text(document(dns={**DNS, "slow_start": "10s"}))

    async def scene() -> list[float]:
        async with WiredDaemon(file) as daemon:
            daemon.record_results("ns1", "---")
            await asyncio.sleep(1)
            daemon.record_results("ns1", "++")
            seen = []
            for _ in range(12):
                await asyncio.sleep(1)
                seen.append((await shares(daemon))["ns1"])
            assert daemon.reconciler._timer is None
            return seen

    seen = play(scene())
    assert sorted(seen) == seen
    assert 0.091 == seen[0]
    assert 0.333 == seen[-1]
    assert len(set(seen)) > 5


def test_a_drained_backend_gets_nothing_and_that_is_remembered(file: Path) -> None:
    """change() returns when the kernel and the disk have the change, which survives a restart."""

    async def first() -> str:
        async with WiredDaemon(file) as daemon:
            status = await daemon.service.change("dns", "ns1", BackendChange(admin=Admin.DRAIN), TESTER)
            assert isinstance(status, BackendStatus)
            assert (Admin.DRAIN, False, True) == (status.admin, status.in_rotation, status.up)
            await daemon.service.change("dns", "ns2", BackendChange(weight=3), TESTER)
            return daemon.store.text

    async def second(memory: str) -> dict[str, float]:
        async with WiredDaemon(file, memory) as daemon:
            return await shares(daemon)

    assert {"ns1": 0.0, "ns2": 0.75, "ns3": 0.25} == play(second(play(first())))


def test_a_changed_value_of_the_file_replaces_the_operators(file: Path) -> None:
    """A wish of the operator survives reloads until the file changes the same value."""

    async def scene() -> list[str]:
        async with WiredDaemon(file) as daemon:
            service, seen = daemon.service, []
            await service.change("dns", "ns1", BackendChange(admin=Admin.DRAIN), TESTER)
            for admin in ("enabled", "maintenance", "enabled"):
                backends = {**BACKENDS, "ns1": {"address": "10.0.0.11", "port": 53, "admin": admin}}
                daemon.write(dns={**DNS, "backends": backends})
                await service.reload(TESTER)
                seen.append(found(await service.pool("dns"), "ns1").admin.value)
            return seen

    assert ["drain", "maintenance", "enabled"] == play(scene())


def test_a_change_that_the_kernel_refuses(file: Path) -> None:
    """A refused change is raised, shown as a fault, saved, and tried again until the kernel accepts it."""

    async def scene() -> None:
        async with WiredDaemon(file) as daemon:
            daemon.kernel_thread.error = KernelError("no")
            with pytest.raises(Unapplied, match="no"):
                await daemon.service.change("dns", "ns1", BackendChange(admin=Admin.DRAIN), TESTER)
            assert Admin.DRAIN is read_memory(daemon.store.text).pools["dns"].backends["ns1"].admin
            assert ["kernel"] == daemon.shown
            status = await status_of(daemon.service)
            assert (False, "no") == (status.kernel.synced, status.kernel.error)
            daemon.kernel_thread.error = None
            await asyncio.sleep(1)
            assert [] == daemon.shown
            assert 0.0 == (await shares(daemon))["ns1"]

    play(scene())


def test_a_change_is_applied_with_a_full_disk(file: Path) -> None:
    """A change that can't be saved is applied, and a fault is shown."""

    async def scene() -> None:
        async with WiredDaemon(file) as daemon:
            daemon.store.error = errno.ENOSPC
            await daemon.service.change("dns", "ns1", BackendChange(admin=Admin.DRAIN), TESTER)
            assert 0.0 == (await shares(daemon))["ns1"]
            assert ["state_dir"] == daemon.shown
            daemon.store.error = 0
            await asyncio.sleep(10)
            assert [] == daemon.shown

    play(scene())


def test_names_that_are_not_there(file: Path) -> None:
    """Every command reports an unknown name and suggests a similar name."""

    async def scene() -> None:
        async with WiredDaemon(file) as daemon:
            service = daemon.service
            with pytest.raises(UnknownPool, match=r"there is no pool dsn; did you mean dns\?"):
                await service.pool("dsn")
            with pytest.raises(UnknownPool):
                service.ready("dsn")
            with pytest.raises(UnknownBackend, match=r"dns has no backend ns9; did you mean ns"):
                await service.change("dns", "ns9", BackendChange(weight=1), TESTER)
            with pytest.raises(UnknownBackend):
                await service.remove("dns", "completely different", TESTER)
            with pytest.raises(UnknownPool):
                await service.add("web", read_backend("web", "a", "10.0.0.1:80"), TESTER)

    play(scene())


PRIORITIES = {
    "listen": "192.0.2.53:53/udp",
    "backends": {
        "ns1": {"address": "10.0.0.11", "port": 53, "priority": 1},
        "ns2": {"address": "10.0.0.12", "port": 53, "priority": 2},
    },
    "health": CHECK,
    "preempt_delay": "5s",
}


def test_a_priority_returns_after_its_delay(file: Path) -> None:
    """The kernel follows the serving priority; the return needs no event from outside, and restarts keep who serves."""
    file.write_text(document(dns=PRIORITIES))

    async def scene() -> tuple[list[str], str]:
        async with WiredDaemon(file) as daemon:
            daemon.record_results("ns1", "---")
            await asyncio.sleep(0.1)
            assert {"ns1": 0.0, "ns2": 1.0} == await shares(daemon)
            daemon.record_results("ns1", "++")
            await asyncio.sleep(4.8)
            assert {"ns1": 0.0, "ns2": 1.0} == await shares(daemon)
            pool = await daemon.service.pool("dns")
            assert (2, True, True) == (pool.priority, pool.backends[0].standby, pool.preempts_at is not None)
            saved = daemon.store.text
            await asyncio.sleep(0.3)
            assert {"ns1": 1.0, "ns2": 0.0} == await shares(daemon)
            return [f"{event.kind} {event.old} {event.new}" for event in daemon.events], saved

    events, saved = play(scene())
    changes = [event for event in events if event.startswith("priority_changed")]
    assert ["priority_changed 1 2", "priority_changed 2 1"] == changes

    async def restarted() -> None:
        async with WiredDaemon(file, memory=saved) as daemon:
            assert {"ns1": 0.0, "ns2": 1.0} == await shares(daemon)
            await asyncio.sleep(5.1)
            assert {"ns1": 1.0, "ns2": 0.0} == await shares(daemon)

    play(restarted())


def test_no_priority_returns_after_the_end(file: Path) -> None:
    """After `close`, the priority that waits does not return: its hooks and its saved state would come too late."""
    file.write_text(document(dns=PRIORITIES))

    async def scene() -> list[str]:
        async with WiredDaemon(file) as daemon:
            daemon.record_results("ns1", "---++")
            await asyncio.sleep(3)
            daemon.controller.close()
            await asyncio.sleep(10)
            return daemon.events_of(EventKind.PRIORITY_CHANGED)

    assert 1 == len(play(scene()))


def test_nothing_follows_changes_after_the_end(file: Path) -> None:
    """A change that comes after `close` begins no wait for a priority, no hook and no save."""
    file.write_text(document(dns=PRIORITIES))

    async def scene() -> tuple[list[str], int]:
        async with WiredDaemon(file) as daemon:
            daemon.record_results("ns1", "---")
            await asyncio.sleep(3)
            daemon.controller.close()
            events, saved = len(daemon.events), len(daemon.store.saved)
            daemon.record_results("ns1", "++")
            await asyncio.sleep(10)
            return [str(event.kind) for event in daemon.events[events:]], len(daemon.store.saved) - saved

    assert ([], 0) == play(scene())


def test_a_shorter_delay_counts_at_the_reload(file: Path) -> None:
    """A reload with a shorter delay lets a waiting priority return by the new delay."""
    file.write_text(document(dns={**PRIORITIES, "preempt_delay": "1h"}))

    async def scene() -> dict[str, float]:
        async with WiredDaemon(file) as daemon:
            daemon.record_results("ns1", "---++")
            await asyncio.sleep(3)
            daemon.write(dns=PRIORITIES)
            await daemon.controller.reload()
            await asyncio.sleep(2.2)
            return await shares(daemon)

    assert {"ns1": 1.0, "ns2": 0.0} == play(scene())
