"""Changes of backends while a large list of a guard is loaded, by a clock that jumps."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from daemon_wiring import BACKENDS, CHECK, WiredDaemon, WiredReconciler, document
from pool_builders import DNS, config
from virtual_time import elapsed, play

from nftlb.daemon.reconciler import COLLECT, TIDY_AFTER
from nftlb.errors import KernelError
from nftlb.model import Guard, Membership, SourceEntry
from nftlb.ruleset import TableFamily
from nftlb.swap import plan

if TYPE_CHECKING:
    from pathlib import Path

    from nftlb.model import Config
    from nftlb.ruleset import Transaction

PARTS = 8


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "PART", 2)


def denying(ranges: int, first: int = 10 << 24) -> Config:
    """A configuration whose guard denies so many addresses."""
    spans = tuple((number, number) for number in range(first, first + 2 * ranges, 2))
    return config(replace(DNS, guard=Guard(deny=(SourceEntry(ip=spans),))))


OLD, NEW = denying(1), denying(2 * PARTS, first=11 << 24)


def lists(wired: WiredReconciler | WiredDaemon) -> list[int]:
    """The numbers of ranges of the lists in the kernel."""
    sets = wired.kernel_thread.kernel.list("nftlb")[TableFamily.IP].table.sets
    return sorted(len(found.elements) for name, found in sets.items() if "/deny/" in name)


def reload(wired: WiredReconciler) -> asyncio.Task[None]:
    """Change to the new list, with the backends that are up when the list is complete."""

    def membership() -> Membership:
        wired.calls("membership")
        return wired.wanted().membership

    def switch() -> None:
        wired.config = NEW
        wired.calls("switch")

    return asyncio.create_task(wired.reconciler.change_config(NEW, membership, switch))


async def begin_reload(wired: WiredReconciler) -> asyncio.Task[None]:
    """Change to the new list, with a second for each transaction. Return while the fourth part is being added."""
    wired.kernel_thread.takes = 1.0
    task = reload(wired)
    await asyncio.sleep(3.5)
    return task


def test_a_backend_that_fails_waits_for_one_part_of_a_list() -> None:
    """The commit comes after the part that is being added, and the load knows of the failure."""

    async def scene() -> tuple[float, list[tuple[float, str]]]:
        async with WiredReconciler(OLD) as wired:
            task = await begin_reload(wired)
            wired.fall("b1")
            await asyncio.sleep(2)
            assert wired.is_right
            assert [1, 8] == lists(wired)
            await task
            ended = elapsed()
            await asyncio.sleep(5)
            assert wired.is_right
            assert [2 * PARTS] == lists(wired)
            return ended, wired.calls.all

    # The parts, a look that finds nothing to add, the failover, its tidying, and the load.
    ended, calls = play(scene())
    assert PARTS + 4 == pytest.approx(ended)
    assert [(5.0, "commit"), (11.0, "membership"), (12.0, "commit"), (12.0, "switch")] == calls


def test_tidying_and_loads_of_the_old_list_keep_a_list_that_is_loading() -> None:
    """Leftovers of a failover are deleted, and a changed host loads the old configuration again, between the parts."""

    async def scene() -> None:
        async with WiredReconciler(OLD) as wired:
            wired.kernel_thread.takes = 1.0
            task = reload(wired)
            await asyncio.sleep(1.5)
            seen = []
            for cause in ("a failure", "a changed host"):
                if cause == "a failure":
                    wired.fall("b1")
                else:
                    wired.reconciler.suspect_host()
                await asyncio.sleep(2 + TIDY_AFTER)
                assert wired.is_right
                seen.append(lists(wired))
            assert wired.kernel_thread.tidied
            assert not task.done()
            (one, before), (other, after) = seen
            assert 1 == one == other
            assert 1 < before < after
            await task
            await asyncio.sleep(5)
            assert wired.is_right
            assert [2 * PARTS] == lists(wired)

    play(scene())


def test_tables_that_others_delete_while_a_list_is_loading() -> None:
    """The old configuration is restored at once, with its list, and then the new one is loaded."""

    async def scene() -> None:
        async with WiredReconciler(OLD) as wired:
            task = await begin_reload(wired)
            wired.flush_by_others()
            await asyncio.sleep(3)
            assert wired.is_right
            assert 1 == lists(wired)[0]
            await task
            await asyncio.sleep(5)
            assert wired.is_right
            assert [2 * PARTS] == lists(wired)

    play(scene())


@pytest.mark.parametrize("flushed", [False, True])
def test_own_parts_count_as_no_restoration(monkeypatch: pytest.MonkeyPatch, *, flushed: bool) -> None:
    """The kernel announces each part. The load of the list only undoes changes of another program."""

    async def scene() -> list[str]:
        async with WiredReconciler(OLD) as wired:
            kernel, loop = wired.kernel_thread.kernel, asyncio.get_running_loop()
            apply = kernel.apply

            def announced(transaction: Transaction) -> None:
                apply(transaction)
                loop.call_soon_threadsafe(wired.reconciler.suspect_tables)

            def membership() -> Membership:
                if flushed:
                    wired.flush_by_others()
                return wired.wanted().membership

            def switch() -> None:
                wired.config = NEW

            monkeypatch.setattr(kernel, "apply", announced)
            await wired.reconciler.change_config(NEW, membership, switch)
            await asyncio.sleep(5)
            assert wired.is_right
            return [what for _, what in wired.calls.all]

    assert ["restored" if flushed else "commit"] == play(scene())


def test_a_part_that_the_kernel_refuses() -> None:
    """The refusal is raised, the list in force stays, and the unfinished list is deleted."""

    async def scene() -> list[str]:
        async with WiredReconciler(OLD) as wired:
            before = wired.kernel_thread.kernel.content
            task = await begin_reload(wired)
            wired.kernel_thread.kernel.fail_next("no memory")
            with pytest.raises(KernelError, match="no memory"):
                await task
            await asyncio.sleep(2 * TIDY_AFTER + 2)
            assert before == wired.kernel_thread.kernel.content
            await reload(wired)
            assert wired.is_right
            return [what for _, what in wired.calls.all]

    assert ["membership", "commit", "switch"] == play(scene())


def test_a_load_that_is_broken_off_between_the_parts() -> None:
    """A cancelled change leaves nothing of its list, also if a part is being added at that moment."""

    async def scene() -> list[str]:
        async with WiredReconciler(OLD) as wired:
            before = wired.kernel_thread.kernel.content
            task = await begin_reload(wired)
            assert [1, 6] == lists(wired)
            task.cancel()
            await asyncio.wait([task])
            await asyncio.sleep(2 * TIDY_AFTER + 2)
            assert before == wired.kernel_thread.kernel.content
            return [what for _, what in wired.calls.all]

    assert [] == play(scene())


def test_a_change_without_new_lists_has_no_parts() -> None:
    """If the lists stay as they are, a change of the pool is one commit, after a look that finds no range missing."""

    async def scene() -> int:
        async with WiredReconciler(OLD) as wired:
            works = wired.kernel_thread.works
            wired.config = config(replace(OLD.pools[0], backends=OLD.pools[0].backends[:1]))
            await wired.reconciler.change_config(wired.config, Membership, lambda: None)
            assert wired.is_right
            return wired.kernel_thread.works - works

    assert 2 == play(scene())


def test_a_file_that_changes_again_while_it_is_loaded(tmp_path: Path) -> None:
    """A second reload follows the first. A failover comes between the parts of both, and the file may add backends."""
    denied = tmp_path / "deny"
    file = tmp_path / "nftlb.yaml"
    pool = {"listen": "192.0.2.53:53/udp", "health": CHECK, "guard": {"deny": str(denied)}}

    def write(network: int, count: int) -> None:
        denied.write_text("".join(f"192.0.{network}.{2 * last}\n" for last in range(count)))

    async def scene() -> None:
        async with WiredDaemon(file) as daemon:
            daemon.kernel_thread.takes = 1.0
            write(3, 20)
            daemon.write(dns={**pool, "backends": {**BACKENDS, "ns4": "10.0.0.14:53"}})
            first = asyncio.create_task(daemon.controller.reload())
            await asyncio.sleep(3.5)
            write(4, 30)
            second = asyncio.create_task(daemon.controller.reload())
            for name, task in (("ns1", first), ("ns2", second)):
                began = elapsed()
                daemon.record_results(name, "---")
                await daemon.reconciler.wait_until_applied()
                assert elapsed() - began <= 2 + 2 * COLLECT
                assert not task.done()
                assert daemon.is_right
                await task
                assert daemon.is_right
                await asyncio.sleep(3.5 if task is first else 0)
            assert [30] == lists(daemon)
            assert {"ns1", "ns2", "ns3", "ns4"} == daemon.state.health.pools["dns"].backends.keys()

    write(2, 1)
    file.write_text(document(dns={**pool, "backends": BACKENDS}))
    play(scene())
