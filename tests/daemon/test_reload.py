"""Backends added and removed at run time, and reloads of the file, over a kernel in memory."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest
from api_state import status_of
from daemon_wiring import BACKENDS, DNS, OTHER, TESTER, WiredDaemon, document, found, shares
from virtual_time import play

from nftlb.config import read_backend
from nftlb.errors import ConfigError, KernelError
from nftlb.health.memory import read_memory
from nftlb.model import Admin, BackendChange, EventKind
from nftlb.service import BackendStatus, Conflict

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration file with one pool."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    path = tmp_path / "nftlb.json"
    path.write_text(document(dns=DNS))
    return path


LOST = "the pool dns would lose its quorum, and would not be ready: "
HALF = pytest.approx(0.5)


def test_an_added_backend_stays_over_restarts_and_reloads(file: Path) -> None:
    """An added backend is shown as added and gets its share over restarts and reloads until it is removed."""

    async def first() -> str:
        async with WiredDaemon(file) as daemon:
            status = await daemon.service.add(
                "dns", read_backend("dns", "x", {"address": "10.0.0.20", "port": 53, "weight": 3}), TESTER
            )
            assert isinstance(status, BackendStatus)
            assert (True, True, 0.5) == (status.added, status.in_rotation, status.share)
            await daemon.service.reload(TESTER)
            assert (await shares(daemon))["x"] == 0.5
            return daemon.store.text

    async def second(memory: str) -> str:
        async with WiredDaemon(file, memory) as daemon:
            assert (await shares(daemon))["x"] == 0.5
            await daemon.service.remove("dns", "x", TESTER)
            return daemon.store.text

    assert {} == read_memory(play(second(play(first())))).pools["dns"].added


def test_invalid_backends_are_not_added(file: Path) -> None:
    """A name in use, and values that the file does not allow, are refused and change nothing."""

    async def scene() -> None:
        async with WiredDaemon(file) as daemon:
            with pytest.raises(Conflict, match="dns has a backend ns1 already"):
                await daemon.service.add("dns", read_backend("dns", "ns1", "10.0.0.20:53"), TESTER)
            for written in ("10.0.0.11:53", "[2001:db8::1]:53", {"port": 5}):
                with pytest.raises(ConfigError):
                    await daemon.service.add("dns", read_backend("dns", "x", written), TESTER)
            assert set(BACKENDS) == set(await shares(daemon))
            assert {EventKind.OPERATED} == {event.kind for event in daemon.events}

    play(scene())


def test_adding_is_all_or_nothing(file: Path) -> None:
    """If the kernel refuses, the backend is not added or removed, now or after a restart."""

    async def scene() -> None:
        async with WiredDaemon(file) as daemon:
            daemon.kernel_thread.error = KernelError("no")
            with pytest.raises(KernelError):
                await daemon.service.add("dns", read_backend("dns", "x", "10.0.0.20:53"), TESTER)
            with pytest.raises(KernelError):
                await daemon.service.remove("dns", "ns1", TESTER)
            daemon.kernel_thread.error = None
            await asyncio.sleep(1)
            assert set(BACKENDS) == set(await shares(daemon))
            assert [] == daemon.followed
            await daemon.saver.save()
            remembered = read_memory(daemon.store.text).pools["dns"]
            assert ({}, ()) == (remembered.added, remembered.removed)

    play(scene())


def test_removed_until_the_next_reload(file: Path) -> None:
    """A removed backend of the file stays removed over a restart, and a reload brings it back."""

    async def first() -> str:
        async with WiredDaemon(file) as daemon:
            await daemon.service.remove("dns", "ns1", TESTER)
            assert {"ns2": HALF, "ns3": HALF} == await shares(daemon)
            return daemon.store.text

    async def second(memory: str) -> str:
        async with WiredDaemon(file, memory) as daemon:
            assert {"ns2", "ns3"} == set(await shares(daemon))
            await daemon.service.reload(TESTER)
            assert set(BACKENDS) == set(await shares(daemon))
            return daemon.store.text

    assert () == read_memory(play(second(play(first())))).pools["dns"].removed


def test_a_backend_replaced_under_its_name_survives_a_restart(file: Path) -> None:
    """A backend that was replaced under its name survives a restart; a reload brings the file's backend back."""

    async def first() -> str:
        async with WiredDaemon(file) as daemon:
            await daemon.service.remove("dns", "ns1", TESTER)
            await daemon.service.add("dns", read_backend("dns", "ns1", "10.0.0.99:53"), TESTER)
            return daemon.store.text

    async def second(memory: str) -> None:
        async with WiredDaemon(file, memory) as daemon:
            assert "10.0.0.99" == found(await daemon.service.pool("dns"), "ns1").address
            await daemon.service.reload(TESTER)
            assert "10.0.0.11" == found(await daemon.service.pool("dns"), "ns1").address

    play(second(play(first())))


def test_a_backend_added_again_unchanged_needs_no_state(file: Path) -> None:
    """A backend that was removed and added again unchanged needs no saved state."""

    async def scene() -> None:
        async with WiredDaemon(file) as daemon:
            await daemon.service.remove("dns", "ns1", TESTER)
            await daemon.service.add("dns", read_backend("dns", "ns1", "10.0.0.11:53"), TESTER)
            assert not found(await daemon.service.pool("dns"), "ns1").added
            remembered = read_memory(daemon.store.text).pools["dns"]
            assert ({}, ()) == (remembered.added, remembered.removed)

    play(scene())


def test_an_added_backend_that_the_file_takes_over_belongs_to_it(file: Path) -> None:
    """An added backend that the file got and then lost is gone."""

    async def scene() -> None:
        async with WiredDaemon(file) as daemon:
            await daemon.service.add("dns", read_backend("dns", "x", "10.0.0.20:53"), TESTER)
            daemon.write(dns={**DNS, "backends": {**BACKENDS, "x": "10.0.0.20:53"}})
            await daemon.service.reload(TESTER)
            assert not found(await daemon.service.pool("dns"), "x").added
            daemon.write(dns=DNS)
            await daemon.service.reload(TESTER)
            assert set(BACKENDS) == set(await shares(daemon))

    play(scene())


def test_the_last_backend_stays(file: Path) -> None:
    """The last backend of a pool can't be removed."""
    file.write_text(document(other=OTHER))

    async def scene() -> None:
        async with WiredDaemon(file) as daemon:
            with pytest.raises(Conflict, match="a is the last backend of other"):
                await daemon.service.remove("other", "a", TESTER)

    play(scene())


def test_a_bad_file_changes_nothing(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The problems of a bad file are raised, shown and logged; the old configuration stays."""

    async def scene() -> None:
        async with WiredDaemon(file) as daemon:
            daemon.record_results("ns1", "---")
            await asyncio.sleep(3)
            before = daemon.kernel_thread.kernel.content
            daemon.file.write_text('{"pools": {"dns": {"listen": "x", "backends": {"a": "no name"}}}}')
            with pytest.raises(ConfigError) as caught:
                await daemon.service.reload(TESTER)
            status = await status_of(daemon.service)
            assert not status.config.success
            assert tuple(str(caught.value).splitlines()) == status.config.problems
            assert 2 == len(status.config.problems)
            assert status.config.attempted > status.config.loaded
            assert before == daemon.kernel_thread.kernel.content
            assert ["reload_failed dns"] == [f"{event.kind} dns" for event in daemon.events if "reload" in event.kind]
            daemon.write(dns=DNS)
            await daemon.service.reload(TESTER)
            status = await status_of(daemon.service)
            assert ((), True) == (status.config.problems, status.config.success)

    play(scene())
    assert "not reloaded, the old configuration stays:" in caplog.text


def test_another_table_needs_a_restart(file: Path) -> None:
    """A reload with another `table` is refused as a problem of the file."""

    async def scene() -> None:
        async with WiredDaemon(file) as daemon:
            daemon.file.write_text(json.dumps({"table": "other", "pools": {"dns": DNS}}))
            with pytest.raises(ConfigError, match="table: other is another table than nftlb"):
                await daemon.service.reload(TESTER)

    play(scene())


def test_a_reload_that_the_kernel_refuses(file: Path) -> None:
    """After a refused reload, configuration and followers are as before, and the status has the reason."""

    async def scene() -> None:
        async with WiredDaemon(file) as daemon:
            daemon.write(other=OTHER)
            daemon.kernel_thread.error = KernelError("no")
            with pytest.raises(KernelError):
                await daemon.service.reload(TESTER)
            daemon.kernel_thread.error = None
            await asyncio.sleep(1)
            status = await status_of(daemon.service)
            assert ["dns"] == [pool.name for pool in status.pools]
            assert ("no",) == status.config.problems
            assert [] == daemon.followed
            assert daemon.is_right

    play(scene())


def test_unchanged_backends_keep_their_state_over_a_reload(file: Path) -> None:
    """States and pending results survive a reload, and followers are called once."""

    async def scene() -> None:
        async with WiredDaemon(file) as daemon:
            daemon.record_results("ns1", "---")
            daemon.record_results("ns2", "--")
            daemon.write(dns={**DNS, "quorum": 2}, other=OTHER)
            await daemon.service.reload(TESTER)
            assert 0.0 == (await shares(daemon))["ns1"]
            assert [["dns", "other"]] == [[pool.name for pool in config.pools] for config in daemon.followed]
            daemon.record_results("ns2", "-")
            await asyncio.sleep(0.1)
            assert 1.0 == (await shares(daemon))["ns3"]

    play(scene())


def test_labels_change_without_a_swap(file: Path) -> None:
    """A reload with other labels shows them, those of the pool too; the kernel and the state of backends stay."""

    async def scene() -> None:
        async with WiredDaemon(file) as daemon:
            before = await daemon.service.pool("dns")
            assert ({}, {}) == (before.labels, found(before, "ns1").labels)
            swaps = (await daemon.service.overview()).kernel.swaps
            since = daemon.state.health.pools["dns"].backends["ns1"].since
            await asyncio.sleep(10)
            ns1 = {"address": "10.0.0.11", "port": 53, "labels": {"rack": 12, "site": "ams"}}
            daemon.write(dns={**DNS, "labels": {"site": "fra"}, "backends": {**BACKENDS, "ns1": ns1}})
            await daemon.service.reload(TESTER)
            pool = await daemon.service.pool("dns")
            assert {"site": "fra"} == pool.labels == found(pool, "ns2").labels
            assert {"site": "ams", "rack": "12"} == found(pool, "ns1").labels
            assert swaps == (await daemon.service.overview()).kernel.swaps
            assert since == daemon.state.health.pools["dns"].backends["ns1"].since
            assert {EventKind.RELOAD, EventKind.OPERATED} == {event.kind for event in daemon.events}

    play(scene())


def test_the_preview_of_a_reload(file: Path) -> None:
    """The preview names what the file does not have any more and what is lost; it changes and reports nothing."""
    file.write_text(document(dns=DNS, other=OTHER))

    async def scene() -> None:
        async with WiredDaemon(file) as daemon:
            assert () == (await daemon.service.preview_reload()).consequences
            for name in ("ns1", "ns2"):
                await daemon.service.change("dns", name, BackendChange(admin=Admin.DRAIN), TESTER)
            daemon.events.clear()
            one = {name: BACKENDS[name] for name in ("ns1", "ns2")}
            daemon.write(dns={**DNS, "backends": one})
            wanted = (
                "the pool dns would lose 1 of its 3 backends: ns3",
                "the pool other would be removed; packets to 192.0.2.54:53/udp would not be balanced",
                "the pool dns would have no usable backend; its packets would be rejected",
                f"{LOST}0 of 2 backends would be usable, the quorum is 1",
            )
            assert wanted == (await daemon.service.preview_reload()).consequences
            daemon.write(dns={"listen": 5})
            with pytest.raises(ConfigError):
                await daemon.service.preview_reload()
            assert (await daemon.service.overview()).config.success
            assert [] == daemon.events
            assert set(BACKENDS) == set(await shares(daemon))

    play(scene())


def test_results_during_a_reload_are_not_lost(file: Path) -> None:
    """Results that come during a reload are kept, and the kernel follows soon after the reload."""

    async def scene() -> None:
        async with WiredDaemon(file) as daemon:
            daemon.kernel_thread.takes = 1.0
            daemon.write(dns={**DNS, "quorum": 2})
            reloading = asyncio.create_task(daemon.service.reload(TESTER))
            await asyncio.sleep(0.5)
            daemon.record_results("ns1", "---")
            changed = asyncio.create_task(daemon.service.change("dns", "ns2", BackendChange(admin=Admin.DRAIN), TESTER))
            await reloading
            await changed
            daemon.kernel_thread.takes = 0.0
            assert {"ns1": 0.0, "ns2": 0.0, "ns3": 1.0} == await shares(daemon)
            await asyncio.sleep(3)
            assert daemon.is_right

    play(scene())


def test_reloads_and_additions_wait_for_each_other(file: Path) -> None:
    """A backend that is added during a reload is added to the new configuration."""

    async def scene() -> None:
        async with WiredDaemon(file) as daemon:
            daemon.kernel_thread.takes = 1.0
            daemon.write(dns=DNS, other=OTHER)
            await asyncio.gather(
                daemon.service.reload(TESTER),
                daemon.service.add("dns", read_backend("dns", "x", "10.0.0.20:53"), TESTER),
                daemon.service.reload(TESTER),
                daemon.service.remove("dns", "ns3", TESTER),
            )
            assert {"ns1", "ns2", "x"} == set(await shares(daemon))
            assert {"a"} == set(await shares(daemon, "other"))

    play(scene())


def test_a_pool_that_is_gone(file: Path) -> None:
    """A removed pool and its added backends are forgotten in the kernel and in the status."""
    file.write_text(document(dns=DNS, other=OTHER))

    async def scene() -> None:
        async with WiredDaemon(file) as daemon:
            await daemon.service.add("other", read_backend("other", "x", "10.0.1.2:53"), TESTER)
            daemon.write(dns=DNS)
            await daemon.service.reload(TESTER)
            assert ["dns"] == [pool.name for pool in (await status_of(daemon.service)).pools]
            assert {"dns"} == set(read_memory(daemon.store.text).pools)
            daemon.write(dns=DNS, other=OTHER)
            await daemon.service.reload(TESTER)
            assert {"a"} == set(await shares(daemon, "other"))

    play(scene())


def test_the_fault_of_a_bad_state_file_ends_with_a_reload(file: Path) -> None:
    """The fault of a bad state file ends with a reload: the operator has seen it."""

    async def scene() -> None:
        async with WiredDaemon(file) as daemon:
            daemon.faults.set("memory", "torn")
            await daemon.service.change("dns", "ns1", BackendChange(weight=3), TESTER)
            assert ["memory"] == daemon.shown
            await daemon.service.reload(TESTER)
            assert [] == daemon.shown

    play(scene())
