"""Waiting for the kernel and changes of the configuration, by a clock that jumps."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from daemon_wiring import WiredReconciler
from pool_builders import DNS, backends, config
from virtual_time import elapsed, play

from nftlb.daemon.reconciler import COLLECT
from nftlb.errors import KernelError
from nftlb.model import Membership
from nftlb.service import Unapplied

OTHER = config(replace(DNS, backends=backends("10.0.0.11:5353", "10.0.0.13:5353")))


def test_follow_returns_with_the_commit_that_has_the_change() -> None:
    """A caller that comes during a commit waits for the next commit."""

    async def scene() -> list[float]:
        async with WiredReconciler() as wired:
            wired.kernel_thread.takes = 1.0
            times = []

            async def follow(name: str) -> None:
                wired.fall(name)
                await wired.reconciler.wait_until_applied()
                times.append(elapsed())

            first = asyncio.create_task(follow("b1"))
            await asyncio.sleep(0.5)
            await asyncio.gather(first, follow("b2"))
            return times

    first, second = play(scene())
    assert 1 + COLLECT == first
    assert 3 + COLLECT == second  # collected for as long as the first took


def test_follow_returns_at_once_without_a_change() -> None:
    """A call without a change returns after the next look."""

    async def scene() -> tuple[float, list[tuple[float, str]]]:
        async with WiredReconciler() as wired:
            await wired.reconciler.wait_until_applied()
            return elapsed(), wired.calls.all

    assert (COLLECT, []) == play(scene())


def test_follow_raises_when_the_change_is_refused() -> None:
    """A refusal raises Unapplied with the reason, but not for callers that come during the attempt."""

    async def scene() -> list[str]:
        async with WiredReconciler() as wired:
            wired.kernel_thread.takes, wired.kernel_thread.error = 1.0, KernelError("no")
            wired.fall("b1")
            refused = asyncio.create_task(wired.reconciler.wait_until_applied())
            await asyncio.sleep(0.5)
            follows = asyncio.create_task(wired.reconciler.wait_until_applied())
            with pytest.raises(Unapplied) as caught:
                await refused
            wired.kernel_thread.error = None
            await follows
            return [str(caught.value), *(what for _, what in wired.calls.all)]

    assert [
        "saved, but the kernel refuses it for now, and nftlb tries again: no",
        "refused",
        "commit",
        "recovered",
    ] == play(scene())


def test_a_cancelled_caller_does_not_disturb_others() -> None:
    """A cancelled caller does not disturb the others."""

    async def scene() -> bool:
        async with WiredReconciler() as wired:
            wired.kernel_thread.takes = 1.0
            wired.fall("b1")
            gone = asyncio.create_task(wired.reconciler.wait_until_applied())
            stays = asyncio.create_task(wired.reconciler.wait_until_applied())
            await asyncio.sleep(0.1)
            gone.cancel()
            await stays
            return wired.is_right

    assert play(scene())


def test_adopting_switches_after_the_kernel() -> None:
    """`switch` is called right after the kernel has accepted the new configuration."""

    async def scene() -> list[tuple[float, str]]:
        async with WiredReconciler() as wired:
            wired.kernel_thread.takes = 1.0
            wired.fall("b1")

            def switch() -> None:
                wired.calls("switch")
                wired.config = OTHER

            await wired.reconciler.change_config(OTHER, lambda: wired.wanted().membership, switch)
            await asyncio.sleep(10)
            assert wired.is_right
            return wired.calls.all

    assert [(1.0, "commit"), (1.0, "switch")] == play(scene())


@pytest.mark.parametrize("when", ["error", "error_after"])
def test_adopting_is_all_or_nothing(when: str) -> None:
    """If the new configuration is refused, even halfway, `switch` is not called and the old one is restored."""

    async def scene() -> list[str]:
        async with WiredReconciler() as wired:
            before = wired.kernel_thread.kernel.content
            setattr(wired.kernel_thread, when, KernelError("no"))
            with pytest.raises(KernelError, match="no"):
                await wired.reconciler.change_config(OTHER, Membership, lambda: wired.calls("switch"))
            wired.kernel_thread.error = None
            await asyncio.sleep(1)
            assert before == wired.kernel_thread.kernel.content
            return [what for _, what in wired.calls.all if what in {"switch", "refused"}]

    assert [] == play(scene())


def test_adopting_that_is_broken_off() -> None:
    """A cancelled change_config() leaves the old configuration in use and in the kernel."""

    async def scene() -> list[str]:
        async with WiredReconciler() as wired:
            wired.kernel_thread.takes = 1.0
            before = wired.kernel_thread.kernel.content
            task = asyncio.create_task(wired.reconciler.change_config(OTHER, Membership, lambda: wired.calls("switch")))
            await asyncio.sleep(0.5)
            task.cancel()
            await asyncio.wait([task])
            await asyncio.sleep(5)
            assert before == wired.kernel_thread.kernel.content
            return [what for _, what in wired.calls.all]

    assert [] == play(scene())


def test_a_transition_waits_for_an_adoption() -> None:
    """A change of health during change_config() is committed after it."""

    async def scene() -> list[tuple[float, str]]:
        async with WiredReconciler() as wired:
            wired.kernel_thread.takes = 1.0

            def switch() -> None:
                wired.config = OTHER

            adoption = asyncio.create_task(wired.reconciler.change_config(OTHER, Membership, switch))
            await asyncio.sleep(0.5)
            wired.fall("b2")
            await adoption
            assert elapsed() == 1.0
            await asyncio.sleep(5)
            assert wired.is_right
            return wired.calls.all

    assert [(1.0, "commit"), (2.0, "commit")] == play(scene())


def test_busy_for_measures_the_running_transaction() -> None:
    """busy_for() grows during a transaction and is zero otherwise; the watchdog uses it."""

    async def scene() -> list[float]:
        async with WiredReconciler() as wired:
            seen = [wired.reconciler.busy_for()]
            wired.kernel_thread.takes = 100.0
            wired.fall("b1")
            for _ in range(3):
                await asyncio.sleep(40)
                seen.append(round(wired.reconciler.busy_for(), 6))
                wired.kernel_thread.takes = 0  # from the next work on
            return seen

    assert [0.0, 40 - COLLECT, 80 - COLLECT, 0.0] == play(scene())
