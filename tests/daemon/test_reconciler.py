"""When the reconciler commits, and what it does after a refusal, by a clock that jumps."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from daemon_wiring import WiredReconciler
from pool_builders import backend, backends, config, pool
from virtual_time import elapsed, play

from nftlb.compiler import Compiled
from nftlb.daemon.reconciler import COLLECT, RETRY_LAST, TIDY_AFTER
from nftlb.errors import KernelError
from nftlb.model import Forward
from nftlb.swap.applier import Applier

if TYPE_CHECKING:
    from nftlb.model import Config
    from nftlb.swap.applier import Applied

MANY = config(
    pool("dns", "192.0.2.53:53/udp", backends(*(f"10.0.{i}.{j}:53" for i in range(3) for j in range(1, 101))))
)


def test_simultaneous_transitions_are_one_commit() -> None:
    """300 backends that go down together leave in one transaction, 2 ms after the first."""

    async def scene() -> list[tuple[float, str]]:
        async with WiredReconciler(MANY) as wired:
            for target in MANY.pools[0].backends[1:]:
                wired.fall(target.name)
            await asyncio.sleep(TIDY_AFTER / 2)
            assert wired.is_right
            return wired.calls.all

    assert [(COLLECT, "commit")] == play(scene())


def test_changes_are_collected_for_the_time_of_a_commit() -> None:
    """Changes are collected for as long as the last commit took, so that batches grow under load."""

    async def scene() -> list[tuple[float, str]]:
        async with WiredReconciler(MANY) as wired:
            wired.kernel_thread.takes = 0.25
            for target in MANY.pools[0].backends[:99]:  # one falls every 10 ms, for a second
                wired.fall(target.name)
                await asyncio.sleep(0.01)
            wired.kernel_thread.takes = 0
            await asyncio.sleep(1)
            assert wired.is_right
            return wired.calls.all

    # Begun at 2 ms, done at 252; waited as long, begun at 502, done at 752; and the rest.
    assert [(0.252, "commit"), (0.752, "commit"), (1.002, "commit")] == play(scene())


def test_changes_that_cancel_out_cause_no_commit() -> None:
    """A backend that goes down and up within 2 ms causes no commit."""

    async def scene() -> list[tuple[float, str]]:
        async with WiredReconciler() as wired:
            wired.fall("b1")
            wired.rise("b1")
            await asyncio.sleep(10)
            return wired.calls.all

    assert [] == play(scene())


def test_leftovers_are_deleted_a_second_after_the_last_change() -> None:
    """Leftovers are deleted once, a second after the last change. wake() without a change does not delay this."""

    async def scene() -> list[float]:
        async with WiredReconciler() as wired:
            wired.fall("b1")
            for _ in range(20):
                await asyncio.sleep(0.3)
                wired.reconciler.wake()
            return wired.kernel_thread.tidied

    assert [COLLECT + TIDY_AFTER] == play(scene())


def stateless(*names: str) -> Config:
    behind = tuple(backend(name, f"10.0.0.1{name[1:]}:53") for name in names)
    return config(pool("dns", "192.0.2.53:53/udp", behind, forward=Forward.STATELESS))


def answered(wired: WiredReconciler) -> set[str]:
    """The backends whose replies get the address of the service."""
    (table,) = (listing.table for listing in wired.kernel_thread.kernel.list("nftlb").values())
    return {element.comment.removeprefix("dns/") for element in table.sets["replies"].elements}


@pytest.mark.parametrize("flapping", [False, True])
def test_rules_for_replies_are_deleted_at_their_deadline(flapping: bool) -> None:
    """Each former backend has its own deadline for in-flight replies, whatever is loaded or changes meanwhile."""

    async def pass_time(wired: WiredReconciler, seconds: float) -> None:
        for _ in range(20):
            if flapping:
                (wired.rise if wired.down else wired.fall)("b1")
            await asyncio.sleep(seconds / 20)

    async def scene() -> list[set[str]]:
        seen = []
        async with WiredReconciler(stateless("b1", "b2", "b3", "b4")) as wired:
            seen.append(answered(wired))
            for left in (("b1", "b2", "b3"), ("b1", "b2")):
                wired.config = stateless(*left)
                await wired.reconciler.change_config(wired.config, lambda: wired.wanted().membership, lambda: None)
                await pass_time(wired, 10)
            seen.append(answered(wired))
            for _ in range(2):
                await pass_time(wired, 10.2)
                seen.append(answered(wired))
            assert wired.is_right
            return seen

    assert [{"b1", "b2", "b3", "b4"}, {"b1", "b2", "b3", "b4"}, {"b1", "b2", "b3"}, {"b1", "b2"}] == play(scene())


@pytest.mark.parametrize("failing", [False, True])
def test_the_end_is_not_lost(failing: bool) -> None:
    """run() ends when it is cancelled at the moment at which it is woken."""

    async def scene() -> bool:
        async with WiredReconciler() as wired:
            if failing:
                wired.kernel_thread.error = KernelError("no")
                wired.fall("b1")
                await asyncio.sleep(5)
            wired.reconciler.wake()
            wired.task.cancel()
            await asyncio.sleep(10)
            return wired.task.cancelled()

    assert play(scene())


def test_a_refused_commit_is_retried_with_growing_waits() -> None:
    """A refused commit is tried after 0.1 s, then after twice as long, up to 5 s. The recovery is reported once."""

    async def scene() -> tuple[list[float], list[tuple[float, str]]]:
        async with WiredReconciler() as wired:
            wired.kernel_thread.error = KernelError("no")
            wired.fall("b1")
            await asyncio.sleep(25)
            assert ("no", False) == (wired.reconciler.error, wired.reconciler.synced)
            refused = wired.calls.of("refused")
            wired.kernel_thread.error = None
            await asyncio.sleep(2 * RETRY_LAST)
            assert ("", True) == (wired.reconciler.error, wired.reconciler.synced)
            assert wired.is_right
            return refused, wired.calls.all[len(refused) :]

    refused, after = play(scene())
    assert COLLECT == refused[0]
    assert [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0] == [
        round(later - earlier, 6) for earlier, later in pairwise(refused)
    ]
    assert [(26.302, "commit"), (26.302, "recovered")] == after


def test_something_new_does_not_wait_for_the_next_attempt() -> None:
    """During long pauses between attempts, a change is tried at once, but at most every 0.1 s."""

    async def scene() -> list[float]:
        async with WiredReconciler() as wired:
            wired.kernel_thread.error = KernelError("no")
            wired.fall("b1")
            await asyncio.sleep(10)
            seen = len(wired.calls.all)
            for _ in range(100):
                wired.reconciler.wake()
                await asyncio.sleep(0.01)
            return wired.calls.of("refused")[seen:]

    times = play(scene())
    assert 10.0 == times[0]
    assert 10 == len(times)


def test_withdrawing_a_refused_change_ends_the_fault() -> None:
    """If a refused change is withdrawn, the reconciler recovers without a commit."""

    async def scene() -> tuple[list[str], bool]:
        async with WiredReconciler() as wired:
            wired.kernel_thread.error = KernelError("no")
            wired.fall("b1")
            await asyncio.sleep(0.05)
            wired.kernel_thread.error = None
            wired.rise("b1")
            await asyncio.sleep(1)
            return [what for _, what in wired.calls.all], wired.reconciler.synced

    assert (["refused", "recovered"], True) == play(scene())


def test_an_unexpected_exception_counts_as_a_refusal(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An unexpected exception is logged and counts as a refusal."""

    async def scene() -> tuple[str, list[str]]:
        async with WiredReconciler() as wired:
            with monkeypatch.context() as broken:
                broken.setattr(Compiled, "ruleset", lambda *_: 1 / 0)
                wired.fall("b1")
                await asyncio.sleep(0.01)
                error = wired.reconciler.error
            await asyncio.sleep(1)
            assert wired.is_right
            return error, [what for _, what in wired.calls.all]

    assert ("a fault of nftlb itself: ZeroDivisionError: division by zero", ["refused", "commit", "recovered"]) == (
        play(scene())
    )
    assert "Traceback" in caplog.text


def test_an_interface_that_is_missing_for_a_long_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reconciler asks for the interface every 5 s, and loads once, when the interface is there."""
    loads = []
    load = Applier.load

    def counted(*args: Any, **options: Any) -> Applied:
        loads.append(elapsed())
        return load(*args, **options)

    monkeypatch.setattr(Applier, "load", counted)
    fast = config(
        pool("fast", "192.0.2.53:53/udp", backends("10.0.0.1:53"), forward=Forward.STATELESS, ingress=("eth9",))
    )

    async def scene() -> tuple[tuple[str, ...], tuple[str, ...]]:
        async with WiredReconciler(fast) as wired:
            await asyncio.sleep(602)
            before = wired.lacks
            wired.kernel_thread.interfaces = ("eth9",)
            await asyncio.sleep(600)
            return before, wired.lacks

    missing = "pool fast: there is no interface eth9, so its fast path is left out there"
    assert ((missing,), ()) == play(scene())
    assert [0.0, pytest.approx(605, abs=0.1)] == loads


def test_a_first_load_that_is_refused() -> None:
    """start() raises a refusal, run() tries again, and `loaded` is False until the kernel accepts."""

    async def scene() -> tuple[list[tuple[float, str]], bool]:
        wired = WiredReconciler()
        await wired.kernel_thread.open()
        wired.kernel_thread.error = KernelError("no")
        with pytest.raises(KernelError, match="no"):
            await wired.reconciler.start()
        assert not wired.reconciler.loaded
        assert not wired.reconciler.synced
        task = asyncio.create_task(wired.reconciler.run())
        await asyncio.sleep(0.15)
        wired.kernel_thread.error = None
        await asyncio.sleep(1)
        assert wired.is_right
        loaded = wired.reconciler.loaded
        task.cancel()
        await asyncio.wait([task])
        wired.kernel_thread.close()
        return wired.calls.all, loaded

    calls = [(0.0, "refused"), (0.1, "refused"), (0.3, "commit"), (0.3, "recovered")]
    assert (calls, True) == play(scene())
