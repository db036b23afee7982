"""Measures reads of the ruleset's generation number, and RCU grace periods: `python bench/netlink.py`."""

from __future__ import annotations

import statistics
import time

from nftlb.kernel.generation import Generation
from nftlb.kernel.grace import wait_for_packets
from nftlb.lab import Namespace, userns

READS = 20_000
WAITS = 200


def main() -> None:
    userns.ensure()
    with Namespace("bench") as namespace:
        namespace.call(measure)


def measure() -> None:
    with Generation() as generation:
        begin = time.perf_counter()
        for _ in range(READS):
            generation.read()
        print(f"reading the generation: {(time.perf_counter() - begin) / READS * 1e6:.1f} us")
    waits = []
    for _ in range(WAITS):
        begin = time.perf_counter()
        wait_for_packets()
        waits.append((time.perf_counter() - begin) * 1e3)
    waits.sort()
    print(f"a grace period: median {statistics.median(waits):.1f} ms, {waits[0]:.1f} to {waits[-1]:.1f} ms")


if __name__ == "__main__":
    main()
