"""The watch of silent backends, over a kernel in memory."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from daemon_wiring import DNS, WiredDaemon, document
from virtual_time import play

from nftlb.compiler.reply_counts import COUNTED
from nftlb.daemon.counters import Counters
from nftlb.daemon.silence_watch import SilenceWatch
from nftlb.errors import KernelError
from nftlb.model import EventKind
from nftlb.ruleset import TableFamily

if TYPE_CHECKING:
    from pathlib import Path

SILENT = {**DNS, "passive": {"min_packets": 10, "reply_time": "1s", "probation": "5s"}}


class Scene:
    """A daemon with its watch, and servers that reply or not."""

    def __init__(self, daemon: WiredDaemon) -> None:
        self.daemon = daemon
        self.counters = Counters()
        self.watch = SilenceWatch(daemon.state.config, daemon.controller, daemon.kernel_thread, self.counters)
        self.task = asyncio.create_task(self.watch.run())

    async def traffic(self, seconds: float, *replying: str) -> None:
        """Let each backend get ten packets in each tenth of a second, of which some backends answer all."""
        for _ in range(round(seconds * 10)):
            for name in ("ns1", "ns2", "ns3"):
                kernel = self.daemon.kernel_thread.kernel
                kernel.send(TableFamily.IP, "nftlb", f"backend/dns/{name}", 10, 1000)
                if name in replying:
                    kernel.send(TableFamily.IP, "nftlb", f"dns/{name} replies", 10, 1000)
            await asyncio.sleep(0.1)

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A configuration file with one pool."""
    path = tmp_path / "nftlb.json"
    path.write_text(document(dns=SILENT))
    return path


def test_a_silent_backend_leaves_and_returns(file: Path) -> None:
    """The kernel follows; the counters show requests and replies; a kernel that refuses to be read stops nothing."""

    async def scene() -> None:
        async with WiredDaemon(file) as daemon:
            seen = Scene(daemon)
            await seen.traffic(3, "ns1", "ns2", "ns3")
            daemon.kernel_thread.error = KernelError("no memory")
            await seen.traffic(1, "ns1", "ns2", "ns3")
            daemon.kernel_thread.error = None
            await seen.traffic(2, "ns1", "ns3")
            assert ["backend_down ns2"] == daemon.events_of(EventKind.BACKEND_DOWN, EventKind.BACKEND_UP)
            assert daemon.is_right
            await seen.traffic(1, "ns1", "ns3")
            await asyncio.sleep(0.3)  # the next reading
            shown = {name: seen.counters.replies("dns", name) for name in ("ns1", "ns2")}
            assert [(700, 700), (700, 400)] == [(one.requests, one.replies) for one in shown.values() if one]
            assert [1.0] == [one.share for one in shown.values() if one and one.share == 1]
            await seen.traffic(5, "ns1", "ns2", "ns3")
            assert ["backend_up ns2"] == daemon.events_of(EventKind.BACKEND_UP)
            assert daemon.is_right
            await seen.stop()

    play(scene())


def test_reloads(file: Path) -> None:
    """Nothing is read without the key; a reload with the key begins, and a reload without it brings a backend back."""
    file.write_text(document(dns=DNS))

    async def scene() -> None:
        async with WiredDaemon(file) as daemon:
            seen = Scene(daemon)
            daemon.controller.on_config(seen.watch.follow)
            works = daemon.kernel_thread.works
            await asyncio.sleep(60)
            assert works == daemon.kernel_thread.works
            assert COUNTED not in daemon.kernel_thread.kernel.list("nftlb")[TableFamily.IP].table.sets

            daemon.write(dns=SILENT)
            await daemon.controller.reload()
            await seen.traffic(3, "ns1", "ns2", "ns3")
            await seen.traffic(2, "ns1", "ns3")
            assert not daemon.state.health.pools["dns"].backends["ns2"].up

            daemon.write(dns=DNS)
            await daemon.controller.reload()
            await asyncio.sleep(1)
            assert daemon.state.health.pools["dns"].backends["ns2"].up
            assert seen.counters.replies("dns", "ns1") is None
            await seen.stop()

    play(scene())
