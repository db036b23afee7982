"""The benchmarks on the host's kernel: layouts of turns that the kernel takes, and how times are put together."""

from __future__ import annotations

import os
import socket
import sys
from operator import truediv
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from nftlb.lab import userns

if TYPE_CHECKING:
    from collections.abc import Iterator

BENCH = Path(__file__).parents[1] / "bench"


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make the modules of the benchmarks importable, in this test only."""
    for folder in (BENCH, BENCH / "host"):
        monkeypatch.syspath_prepend(str(folder))
    yield
    for name in ("cores", "relays", "hosts", "conditions"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("layout", ["shared", "by-map", "by-rule"])
@pytest.mark.parametrize("mode", ["nat", "stateless", "stateless-ingress", "dsr-ingress"])
def test_turns_of_a_processor_are_exact(mode: str, layout: str) -> None:
    """In each layout with counters, 30 datagrams of one socket on one processor are 10 for each backend."""
    import cores  # noqa: PLC0415
    from hosts import VIP, network  # noqa: PLC0415

    userns.ensure()
    with network("turns") as lab:
        lab.balancer.run(["nft", "-f", "-"], input=cores.laid_out(mode, layout))
        for backend in lab.backends:
            backend.run(["nft", "-f", "-"], input=cores.SINK)
        lab.client.call(send_from_one_processor, (VIP, 53), 30)

        assert [10, 10, 10] == [cores.received_by(one) for one in lab.backends]


def send_from_one_processor(to: tuple[str, int], count: int) -> None:
    """Send from the processor with the highest number. The affinity is that of the calling thread only."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        for number in range(count):
            client.sendto(b"%d" % number, to)


@pytest.mark.parametrize("layout", ["random", "constant"])
@pytest.mark.parametrize("mode", ["nat", "stateless", "stateless-ingress", "dsr-ingress"])
def test_layouts_without_a_counter(mode: str, layout: str) -> None:
    """These layouts have rules without `numgen inc` that the kernel takes."""
    import cores  # noqa: PLC0415
    from hosts import network  # noqa: PLC0415

    userns.ensure()
    with network("turns") as lab:
        lab.balancer.run(["nft", "-f", "-"], input=cores.laid_out(mode, layout))
        listed = lab.balancer.run(["nft", "list", "ruleset"])

    rules = [line for line in listed.splitlines() if "typeof" not in line]
    assert not [line for line in rules if "numgen inc" in line]
    assert "backend/dns/b1" in listed


def test_a_disturbed_slice_does_not_count() -> None:
    """A slice during which another process had the processor is left out, with its pair."""
    import cores  # noqa: PLC0415

    quiet, slow = cores.Slice((110.0, 90.0), (110.0, 90.0)), cores.Slice((210.0, 190.0), (210.0, 190.0))
    disturbed = cores.Slice((500.0, 90.0), (120.0, 90.0))

    assert cores.typical([quiet, disturbed, disturbed]) == 100
    assert cores.paired([slow, slow, disturbed], [quiet, disturbed, quiet], truediv) == 2


def test_processor_time_of_a_slice() -> None:
    """New threads count from their start, and threads that ended do not count."""
    import relays  # noqa: PLC0415

    assert relays.spent({1: 100, 2: 50}, {1: 130, 3: 7}) == 37


def test_processor_time_of_children() -> None:
    """The times of a process include those of its threads and children."""
    import relays  # noqa: PLC0415

    times = relays.processor_times([os.getppid()])

    assert times[os.getpid()] > 0
    assert times[os.getppid()] > 0
