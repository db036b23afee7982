"""The daemon with 1,000 pools of 10 backends under attacks without a token. bench/floods.py measures the same."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import pytest
from machine_stalls import Stalls

sys.path.append(str(Path(__file__).parents[2] / "bench"))
from checks import end
from floods import CHURN, FLOOD, SILENCED, attack, choose, measure, memory, scene, show

POOLS, SECONDS = 1000, 15
LATE = 0.25
"""Seconds after BOUND within which the last backend is out, on a machine of our own."""
ENDED = 2.0
"""Seconds from SIGTERM to the end, on a machine of our own."""
TURNS = 20
"""So many times in a row the daemon has to be given a processor until a backend is out, or until it has ended."""


@pytest.mark.slow
def test_closed_connections_delay_no_check() -> None:
    """While connections are opened and closed thousands of times a second, silent backends are out in time."""
    with scene(POOLS) as served, Stalls(lambda: [served.daemon.pid]) as stalls:
        mark = stalls.mark()
        with attack(served, CHURN, 2 * SECONDS):
            measured = measure(served.folder, served.orders, choose(POOLS, 1)[0], SECONDS)
        lost = stalls.since(mark, TURNS)
        show(f"the machine stood still for {lost:.3f} s", measured)

    assert SILENCED == len(measured.late)
    assert max(measured.late) <= LATE + lost


@pytest.mark.slow
def test_memory_is_bounded() -> None:
    """With a limit of twice its memory at rest, the daemon survives floods, and fails over all the time."""
    with scene(POOLS) as served, Stalls(lambda: [served.daemon.pid]) as stalls:
        daemon = served.daemon
        limit = 2 * int(memory(daemon.pid, "VmRSS")) << 20
        resource.prlimit(daemon.pid, resource.RLIMIT_DATA, (limit, limit))
        at_rest = memory(daemon.pid, "VmData")
        with attack(served, FLOOD, 12 * SECONDS) as flood:  # ended with the block
            out = [measure(served.folder, served.orders, silent, SECONDS) for silent in choose(POOLS, 2)]
            assert flood.poll() is None, "the flood ended before the last backend was out"
        counted = memory(daemon.pid, "VmData")
        mark = stalls.mark()
        ended = end(daemon)
        lost = stalls.since(mark, TURNS)
        for measured in out:
            show(
                f"limit {limit >> 20} MB, {at_rest:.0f} at rest, {counted:.0f} at the end, {ended:.2f} s to end",
                measured,
            )

    assert [SILENCED, SILENCED] == [len(measured.late) for measured in out]
    assert 0 == daemon.returncode
    assert ended <= ENDED + lost
