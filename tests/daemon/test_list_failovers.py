"""How long a failover takes while a large list is loaded into the real kernel."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from itertools import cycle
from statistics import median

from daemon_wiring import WiredReconciler
from failover_times import usual
from pool_builders import DNS, config
from real_kernel import real_kernel

from nftlb.model import Config, Guard, Membership, SourceEntry

RANGES = 20000
SHARE = 5
"""A failover while the list is added may take the time of three without a load, and a fifth of the time of the list."""


def denying(network: int) -> Config:
    """A configuration whose guard denies prefixes that do not touch, from an IPv4 network of 8 bits on."""
    spans = tuple((first, first + 127) for first in range(network << 24, (network << 24) + (RANGES << 8), 256))
    return config(replace(DNS, guard=Guard(deny=(SourceEntry(ip=spans),))))


def test_a_failover_takes_a_small_part_of_the_time_of_a_list() -> None:
    """Failovers come between the parts of a list of 20,000 prefixes that replaces another. All times are of one run.

    With a list in a single part, they would wait for most of its time. How many ranges there are does not depend on the
    size of a part.
    """

    async def turn(wired: WiredReconciler, step: bool) -> float:
        """Let a backend fail or return. Return the seconds until the kernel has the change."""
        began = time.monotonic()
        (wired.fall if step else wired.rise)("b1")
        await wired.reconciler.wait_until_applied()
        return time.monotonic() - began

    async def scene(wired: WiredReconciler) -> tuple[list[float], list[float], float]:
        new, steps, complete = denying(60), cycle((True, False)), asyncio.Event()

        def membership() -> Membership:
            complete.set()
            return wired.wanted().membership

        def switch() -> None:
            wired.config = new

        async with wired:
            without = [await turn(wired, next(steps)) for _ in range(9)]
            began = time.monotonic()
            load = asyncio.create_task(wired.reconciler.change_config(new, membership, switch))
            meanwhile = []
            while not (complete.is_set() or load.done()):
                meanwhile.append(await turn(wired, next(steps)))
            took = time.monotonic() - began
            await load
            assert wired.is_right
        return without, meanwhile, took

    with real_kernel() as kernel:
        wired = WiredReconciler(denying(20))
        wired.kernel_thread.kernel = kernel  # type: ignore[assignment]
        without, meanwhile, took = asyncio.run(scene(wired))

    print(  # noqa: T201
        f"without a load {1000 * median(without):.1f} ms, while the list was added {1000 * usual(meanwhile):.1f} ms, "
        f"at most {1000 * max(meanwhile):.1f} ms; the list took {took:.2f} s, with {len(meanwhile)} failovers"
    )
    assert usual(meanwhile) < 3 * median(without) + took / SHARE
