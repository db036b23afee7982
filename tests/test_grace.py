"""Waiting for the packets that are inside the hooks."""

from __future__ import annotations

import os
import platform
import time
from typing import TYPE_CHECKING

import pytest

from nftlb.kernel import grace

if TYPE_CHECKING:
    from collections.abc import Callable

needs_two_cpus = pytest.mark.skipif(os.cpu_count() == 1, reason="with one CPU the kernel does not wait")


def _seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that were asked of time.sleep, which does not sleep."""
    seconds: list[float] = []
    monkeypatch.setattr(time, "sleep", seconds.append)
    return seconds


@needs_two_cpus
def test_it_waits_for_a_grace_period(slept: list[float]) -> None:
    """The system call takes far longer than one that only asks what there is, and nothing is slept."""
    grace.wait_for_packets()
    query = min(_seconds(lambda: grace._libc.syscall(grace._MEMBARRIER[os.uname().machine], 0, 0, 0)) for _ in range(9))

    assert _seconds(grace.wait_for_packets) > 10 * query
    assert slept == []


@needs_two_cpus
def test_the_kernel_has_the_command() -> None:
    """MEMBARRIER_CMD_QUERY tells what the kernel can do; the bit of the command is among it."""
    assert grace._libc.syscall(grace._MEMBARRIER[os.uname().machine], 0, 0, 0) & grace._CMD_GLOBAL


def test_where_the_kernel_refuses_it_sleeps_for_a_moment(monkeypatch: pytest.MonkeyPatch, slept: list[float]) -> None:
    """A command that no kernel has stands for nohz_full, for old kernels and for sandboxes."""
    monkeypatch.setattr(grace, "_CMD_GLOBAL", 1 << 30)

    grace.wait_for_packets()

    assert slept == [grace._FALLBACK_SECONDS]


def test_on_a_single_cpu_it_sleeps(monkeypatch: pytest.MonkeyPatch, slept: list[float]) -> None:
    """There the kernel says yes without having waited."""
    monkeypatch.setattr(os, "cpu_count", lambda: 1)

    grace.wait_for_packets()

    assert slept == [grace._FALLBACK_SECONDS]


def test_on_an_unknown_machine_it_sleeps(monkeypatch: pytest.MonkeyPatch, slept: list[float]) -> None:
    """Another architecture has another number for the system call; a wrong one must not be tried."""
    monkeypatch.setattr(platform, "machine", lambda: "pdp11")

    grace.wait_for_packets()

    assert slept == [grace._FALLBACK_SECONDS]
