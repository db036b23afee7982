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
    """The seconds passed to time.sleep, which is replaced and does not sleep."""
    seconds: list[float] = []
    monkeypatch.setattr(time, "sleep", seconds.append)
    return seconds


@needs_two_cpus
def test_the_barrier_waits_for_a_grace_period(slept: list[float]) -> None:
    """The barrier takes far longer than a query of the system call, and time.sleep is not called."""
    grace.wait_for_packets()
    query = min(_seconds(lambda: grace._libc.syscall(grace._MEMBARRIER[os.uname().machine], 0, 0, 0)) for _ in range(9))

    assert _seconds(grace.wait_for_packets) > 10 * query
    assert slept == []


@needs_two_cpus
def test_the_kernel_has_the_command() -> None:
    """The result of MEMBARRIER_CMD_QUERY has the bit of our command."""
    assert grace._libc.syscall(grace._MEMBARRIER[os.uname().machine], 0, 0, 0) & grace._CMD_GLOBAL


def test_the_wait_sleeps_if_the_kernel_refuses(monkeypatch: pytest.MonkeyPatch, slept: list[float]) -> None:
    """An unknown command stands for nohz_full, old kernels and sandboxes: the function sleeps."""
    monkeypatch.setattr(grace, "_CMD_GLOBAL", 1 << 30)

    grace.wait_for_packets()

    assert slept == [grace._FALLBACK_SECONDS]


def test_the_wait_sleeps_on_a_single_cpu(monkeypatch: pytest.MonkeyPatch, slept: list[float]) -> None:
    """With a single CPU the kernel returns at once: the function sleeps."""
    monkeypatch.setattr(os, "cpu_count", lambda: 1)

    grace.wait_for_packets()

    assert slept == [grace._FALLBACK_SECONDS]


def test_the_wait_sleeps_on_an_unknown_architecture(monkeypatch: pytest.MonkeyPatch, slept: list[float]) -> None:
    """On an unknown architecture the system call is not tried, because its number differs: the function sleeps."""
    monkeypatch.setattr(platform, "machine", lambda: "pdp11")

    grace.wait_for_packets()

    assert slept == [grace._FALLBACK_SECONDS]
