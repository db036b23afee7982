"""How long a failover takes while a large list is loaded into the real kernel."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from itertools import cycle
from statistics import median

from daemon_wiring import WiredReconciler
from pool_builders import DNS, config
from real_kernel import real_kernel

from nftlb.model import Config, Guard, SourceEntry
from nftlb.swap.plan import PART

PARTS = 20


def denying(network: int) -> Config:
    """A configuration whose guard denies prefixes that do not touch, from an IPv4 network of 8 bits on."""
    spans = tuple((first, first + 127) for first in range(network << 24, (network << 24) + (PARTS * PART << 8), 256))
    return config(replace(DNS, guard=Guard(deny=(SourceEntry(ip=spans),))))


def test_a_failover_takes_no_longer_than_a_few_parts_of_a_list() -> None:
    """Failovers come between the parts of a list of 20,000 prefixes that replaces another. All times are of one run."""

    async def turn(wired: WiredReconciler, step: bool) -> float:
        """Let a backend fail or return. Return the seconds until the kernel has the change."""
        began = time.monotonic()
        (wired.fall if step else wired.rise)("b1")
        await wired.reconciler.wait_until_applied()
        return time.monotonic() - began

    async def scene(wired: WiredReconciler) -> tuple[list[float], list[float], float]:
        new, steps = denying(60), cycle((True, False))

        def switch() -> None:
            wired.config = new

        async with wired:
            without = [await turn(wired, next(steps)) for _ in range(9)]
            began = time.monotonic()
            load = asyncio.create_task(wired.reconciler.change_config(new, lambda: wired.wanted().membership, switch))
            meanwhile = []
            while not load.done():
                meanwhile.append(await turn(wired, next(steps)))
            await load
            took = time.monotonic() - began
            assert wired.is_right
        return without, meanwhile, took

    with real_kernel() as kernel:
        wired = WiredReconciler(denying(20))
        wired.kernel_thread.kernel = kernel  # type: ignore[assignment]
        without, meanwhile, took = asyncio.run(scene(wired))

    print(  # noqa: T201
        f"without a load {1000 * median(without):.1f} ms, while the list was loaded {1000 * median(meanwhile):.1f} ms, "
        f"at most {1000 * max(meanwhile):.1f} ms; the load took {took:.2f} s, with {len(meanwhile)} failovers"
    )
    assert len(meanwhile) > PARTS / 3
    assert median(meanwhile) < 4 * took / PARTS
