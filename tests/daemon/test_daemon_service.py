"""The status that the daemon shows to its API."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest
from api_state import status_of
from daemon_wiring import DNS, OTHER, TESTER, WiredDaemon, document
from virtual_time import elapsed, play, settle

from nftlb.errors import KernelError
from nftlb.model import EventKind
from nftlb.ruleset import Chain, Operation, TableFamily, Transaction, Verb
from nftlb.swap import Shortfall

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration file with one pool."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    path = tmp_path / "nftlb.json"
    path.write_text(document(dns=DNS))
    return path


def test_a_status_during_a_reload(file: Path) -> None:
    """A pool may be removed while the status is computed."""
    file.write_text(document(dns=DNS, other=OTHER))

    async def scene() -> list[list[str]]:
        async with WiredDaemon(file) as daemon:
            seen = []
            await status_of(daemon.service)  # the counters are known now, and nothing is waited for
            for pause in range(40):
                daemon.write(dns=DNS, other=OTHER)
                await daemon.service.reload(TESTER)
                daemon.write(dns=DNS)
                reloading = asyncio.create_task(daemon.service.reload(TESTER))
                for _ in range(pause):
                    await asyncio.sleep(0)
                seen.append([pool.name for pool in (await status_of(daemon.service)).pools])
                await reloading
            return seen

    seen = play(scene())
    assert ["dns", "other"] == seen[0]
    assert ["dns"] == seen[-1]
    assert all(names in (["dns", "other"], ["dns"]) for names in seen)


def test_a_status_does_not_wait_for_a_kernel_that_is_stuck(file: Path) -> None:
    """While the kernel is busy, a status shows the earlier counters after two seconds."""

    async def scene() -> None:
        async with WiredDaemon(file) as daemon:
            daemon.kernel_thread.kernel.send(TableFamily.IP, "nftlb", "backend/dns/ns1", 5, 500)
            assert 5 == (await daemon.service.pool("dns")).packets
            daemon.kernel_thread.kernel.send(TableFamily.IP, "nftlb", "backend/dns/ns1", 2, 200)
            await asyncio.sleep(1.5)
            daemon.kernel_thread.takes = 30.0
            began = elapsed()
            assert 5 == (await daemon.service.pool("dns")).packets
            assert 2.0 == elapsed() - began
            await asyncio.sleep(40)
            assert 7 == (await daemon.service.pool("dns")).packets

    play(scene())


def test_counters_are_read_once_a_second(file: Path) -> None:
    """Many simultaneous requests cause one reading, and counters survive a flush by others."""

    async def scene() -> None:
        async with WiredDaemon(file) as daemon:
            daemon.kernel_thread.kernel.send(TableFamily.IP, "nftlb", "backend/dns/ns1", 5, 500)
            works = daemon.kernel_thread.works
            statuses = await asyncio.gather(*(status_of(daemon.service) for _ in range(20)))
            assert 1 == daemon.kernel_thread.works - works
            assert {5} == {status.pools[0].packets for status in statuses}
            daemon.kernel_thread.kernel.flush()
            daemon.reconciler.suspect_tables()
            await asyncio.sleep(2)
            daemon.kernel_thread.kernel.send(TableFamily.IP, "nftlb", "backend/dns/ns1", 1, 100)
            status = await status_of(daemon.service)
            assert (6, 1) == (status.pools[0].packets, status.kernel.restored)

    play(scene())


def test_ready_only_with_rules(file: Path) -> None:
    """No pool is ready before the first accepted load; after it, the quorum decides."""
    file.write_text(document(dns={**DNS, "quorum": 3}, other=OTHER))

    async def scene() -> None:
        daemon = WiredDaemon(file)
        assert not daemon.service.ready()
        assert not daemon.service.ready("other")
        async with daemon:
            assert daemon.service.ready()
            daemon.record_results("ns1", "---")
            assert not daemon.service.ready()
            assert not daemon.service.ready("dns")
            assert daemon.service.ready("other")
            assert ["quorum_down dns"] == daemon.events_of(EventKind.QUORUM_DOWN)

    play(scene())


def _nothing(_: WiredDaemon) -> None:
    pass


def _health_changes(daemon: WiredDaemon) -> None:
    daemon.record_results("ns1", "---")


def _links_change(daemon: WiredDaemon) -> None:
    daemon.reconciler.suspect_host()


@pytest.mark.parametrize("meanwhile", [_nothing, _health_changes, _links_change])
def test_not_ready_while_robbed(file: Path, meanwhile: Callable[[WiredDaemon], None]) -> None:
    """If our rules were deleted and the kernel refuses them, no pool is ready, whatever else changes."""

    async def scene() -> list[bool]:
        async with WiredDaemon(file) as daemon:
            with patch.object(daemon.kernel_thread.kernel, "apply", side_effect=KernelError("no")):
                daemon.kernel_thread.kernel.flush()
                daemon.reconciler.suspect_tables()
                meanwhile(daemon)
                await asyncio.sleep(1)
                ready = [daemon.service.ready("dns")]
            await asyncio.sleep(10)
            assert daemon.is_right
            return [*ready, daemon.service.ready()]

    assert [False, True] == play(scene())


def test_ready_while_refused(file: Path) -> None:
    """A refusal leaves the old rules, so that pools stay ready, also with rules that others added."""

    async def scene() -> list[bool]:
        async with WiredDaemon(file) as daemon:
            ready = []
            with patch.object(daemon.kernel_thread.kernel, "apply", side_effect=KernelError("no")):
                daemon.record_results("ns1", "---")
                await asyncio.sleep(1)
                ready.append(daemon.service.ready())
            await asyncio.sleep(10)
            theirs = Operation(Verb.ADD, TableFamily.IP, Chain("theirs"))
            daemon.kernel_thread.kernel.apply(Transaction("nftlb", (theirs,)))
            with patch.object(daemon.kernel_thread.kernel, "apply", side_effect=KernelError("no")):
                for change in ("---", "++"):
                    daemon.reconciler.suspect_tables()
                    await asyncio.sleep(10)
                    ready.append(daemon.service.ready())
                    daemon.record_results("ns2", change)
            return ready

    assert [True, True, True] == play(scene())


def test_the_ruleset_and_the_events(file: Path) -> None:
    """The API gets the text of the ruleset and the events."""

    async def scene() -> None:
        async with WiredDaemon(file) as daemon:
            assert "10.0.0.11" in await daemon.service.ruleset()
            events = daemon.service.events()
            first: asyncio.Task[Any] = asyncio.create_task(anext(events))  # type: ignore[arg-type]
            await settle()
            daemon.record_results("ns1", "---")
            assert EventKind.BACKEND_DOWN is (await first).kind
            await events.aclose()  # type: ignore[attr-defined]

    play(scene())


@pytest.mark.parametrize(
    ("found", "pools"),
    [
        ([Shortfall("no eth0", "dns"), Shortfall("no eth1", "dns")], ("dns",)),
        ([Shortfall("no eth0", "dns"), Shortfall("no eth0", "sip")], ("dns", "sip")),
        ([Shortfall("no eth0", "dns"), Shortfall("a rule is refused")], ()),
    ],
)
def test_what_a_load_left_out_is_a_fault(found: list[Shortfall], pools: tuple[str, ...], file: Path) -> None:
    """The fault has its pools, and ends when nothing is left out. It concerns the host if one part does."""

    async def scene() -> None:
        async with WiredDaemon(file) as daemon:
            for what, record in (("interfaces", daemon.recorder.lacking), ("replies", daemon.recorder.slower)):
                record(tuple(found))
                (fault,) = daemon.faults.all()
                assert (what, "; ".join(map(str, found)), pools) == (fault.what, fault.message, fault.pools)
                record(())
                assert () == daemon.faults.all()

    play(scene())


def test_restorations_are_reported_and_counted(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A restoration is an event and a warning, and is counted."""
    caplog.set_level(logging.INFO, "nftlb")

    async def scene() -> None:
        async with WiredDaemon(file) as daemon:
            daemon.kernel_thread.kernel.flush()
            daemon.reconciler.suspect_tables()
            await asyncio.sleep(1)
            (event,) = daemon.events
            assert (EventKind.SWAP, True) == (event.kind, event.details["restored"])
            assert daemon.is_right

    play(scene())
    assert "another program changed our tables or routes; restored after" in caplog.text
