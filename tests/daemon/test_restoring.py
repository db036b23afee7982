"""What the reconciler does when other programs change our tables, by a clock that jumps."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from daemon_wiring import WiredReconciler
from pool_builders import backend, config, pool
from virtual_time import play

from nftlb.daemon import reconciler
from nftlb.daemon.kernel_thread import load_config
from nftlb.daemon.reconciler import COLLECT, RESTORE_GAP
from nftlb.errors import KernelError
from nftlb.model import Balance, Forward, Helper, Per
from nftlb.ruleset import TableFamily

if TYPE_CHECKING:
    from nftlb.daemon.reconciler import Commit
    from nftlb.model import Config, Membership
    from nftlb.swap.applier import Applied, Applier

FAST = config(
    pool(
        "fast",
        "192.0.2.53:53/udp",
        (backend("b1", "10.0.0.11:53", device="eth1"),),
        forward=Forward.STATELESS,
        balance=Balance.HASH,
        ingress=("eth0",),
    )
)


def test_own_transactions_cause_no_restoration() -> None:
    """The kernel also announces our own transactions: they cause no restoration and no listing."""

    async def scene() -> tuple[list[str], int]:
        async with WiredReconciler() as wired:
            listings = wired.kernel_thread.kernel.listings
            for number in range(10):
                (wired.rise if number % 2 else wired.fall)("b1")
                await asyncio.sleep(0.3)
                wired.reconciler.suspect_tables()
                await asyncio.sleep(0.3)
            return [what for _, what in wired.calls.all], wired.kernel_thread.kernel.listings - listings

    assert (["commit"] * 10, 0) == play(scene())


def test_changes_of_other_programs_are_undone_and_counted() -> None:
    """After `nft flush ruleset` the tables are restored within milliseconds."""

    async def scene() -> list[tuple[float, str]]:
        async with WiredReconciler() as wired:
            wired.fall("b1")
            await asyncio.sleep(5)
            before = wired.kernel_thread.kernel.content
            wired.flush_by_others()
            await asyncio.sleep(0.01)
            assert before == wired.kernel_thread.kernel.content
            await asyncio.sleep(5)
            return wired.calls.all

    assert [(COLLECT, "commit"), (5 + COLLECT, "restored")] == play(scene())


@pytest.mark.parametrize("announced", [0.0, 1.0])
def test_deleting_leftovers_hides_no_foreign_change(announced: float) -> None:
    """A change by others is undone, even if leftovers are deleted before it is announced."""

    async def scene() -> list[str]:
        async with WiredReconciler() as wired:
            wired.fall("b1")
            await asyncio.sleep(0.9)
            wired.reconciler.wake()
            await asyncio.sleep(0.3)  # by now a sweep is due, but not begun
            wired.kernel_thread.kernel.flush()
            await asyncio.sleep(announced)
            wired.reconciler.suspect_tables()
            await asyncio.sleep(1)
            assert wired.is_right
            return [what for _, what in wired.calls.all]

    assert ["commit", "restored"] == play(scene())


def test_two_at_odds_do_not_spin(monkeypatch: pytest.MonkeyPatch) -> None:
    """If another program undoes every restoration at once, the tables are restored five times a second."""

    async def scene() -> int:
        async with WiredReconciler() as wired:
            committed = wired.committed

            def flushed_again(commit: Commit) -> None:
                committed(commit)
                wired.flush_by_others()

            monkeypatch.setattr(wired, "committed", flushed_again)
            wired.flush_by_others()
            await asyncio.sleep(10)
            return len(wired.calls.of("restored"))

    assert abs(10 / RESTORE_GAP - play(scene())) <= 2


def test_a_failure_forgets_no_suspicion() -> None:
    """If the request whether others wrote fails, it is repeated."""

    async def scene() -> list[str]:
        async with WiredReconciler() as wired:
            wired.kernel_thread.kernel.flush()
            wired.kernel_thread.error = KernelError("no")
            wired.reconciler.suspect_tables()
            await asyncio.sleep(0.05)
            wired.kernel_thread.error = None
            await asyncio.sleep(1)
            assert wired.is_right
            return [what for _, what in wired.calls.all]

    assert ["refused", "restored", "recovered"] == play(scene())


def test_a_commit_also_undoes_foreign_changes() -> None:
    """A commit for a change of health also undoes changes by others."""

    async def scene() -> bool:
        async with WiredReconciler() as wired:
            wired.flush_by_others()
            wired.fall("b1")
            await asyncio.sleep(1)
            return wired.is_right

    assert play(scene())


def test_a_missing_interface_is_looked_for_again() -> None:
    """A missing interface is reported, and used within 5 s after it appears, whatever happens meanwhile."""

    async def scene() -> tuple[tuple[str, ...], list[tuple[float, str]], tuple[str, ...]]:
        async with WiredReconciler(FAST) as wired:
            lacking = wired.lacks
            for second in range(12):
                if second == 7:
                    wired.kernel_thread.interfaces = ("eth0", "eth1")
                wired.reconciler.wake()
                await asyncio.sleep(1)
            return lacking, wired.calls.all, wired.lacks

    lacking, calls, after = play(scene())
    assert (
        "pool fast: there is no interface eth0, so its fast path is left out there",
        "pool fast: there is no interface eth1 of backend b1, so its fast path is left out",
    ) == lacking
    assert [(10 + 2 * COLLECT, "commit")] == [(round(when, 2) + 2 * COLLECT, what) for when, what in calls]
    assert () == after


def test_a_missing_helper_is_looked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool that was loaded without its helper gets it 5 s after the kernel has it, and is not loaded before."""
    boot = pool("boot", "192.0.2.69:69/udp", (backend("b1", "10.0.0.21:69"),), per=Per.FLOW, helper=Helper.TFTP)
    loads: list[Config] = []

    def load(applier: Applier, wanted: Config, membership: Membership) -> Applied:
        loads.append(wanted)
        return load_config(applier, wanted, membership)

    async def scene() -> tuple[list[bool], list[int]]:
        monkeypatch.setattr(reconciler, "load_config", load)
        wired = WiredReconciler(config(boot))
        wired.kernel_thread.has_options = False
        async with wired:
            found, counts = [], []
            for has, seconds in ((False, 61), (True, 5.1), (True, 60)):
                wired.kernel_thread.has_options = has
                await asyncio.sleep(seconds)
                table = wired.kernel_thread.kernel.list("nftlb")[TableFamily.IP].table
                found.append("ct helper tftp" in table.objects)
                counts.append(len(loads))
            return found, counts

    assert ([False, True, True], [0, 1, 1]) == play(scene())
