"""Messages to systemd while the daemon runs: watchdog messages, unless a transaction is stuck, and the status."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from daemon_wiring import BACKENDS, DNS, WiredDaemon, document
from virtual_time import elapsed, play

from nftlb.daemon import systemd
from nftlb.daemon.operation import WEDGED, _sign_of_life
from nftlb.errors import KernelError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

INTERVAL = 15.0
FED = "WATCHDOG=1"
WELL, ONE_DOWN, NO_QUORUM = (
    f"STATUS=1 pool(s), {healthy} of 3 backends usable{more}"
    for healthy, more in ((3, ""), (2, ""), (0, ", without quorum: dns"))
)


class Systemd:
    """Records messages, each with its time. `interval`: the seconds between watchdog messages."""

    def __init__(self) -> None:
        self.interval: float | None = INTERVAL
        self.messages: list[tuple[float, tuple[str, ...]]] = []

    def notify(self, *lines: str) -> None:
        self.messages.append((elapsed(), lines))

    @property
    def fed(self) -> list[float]:
        return [when for when, lines in self.messages if FED in lines]

    @property
    def states(self) -> list[tuple[float, str]]:
        return [(when, line) for when, lines in self.messages for line in lines if line != FED]


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Systemd:
    made = Systemd()
    monkeypatch.setattr(systemd, "notify", made.notify)
    monkeypatch.setattr(systemd, "watchdog_interval", lambda: made.interval)
    return made


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "nftlb.json"
    path.write_text(document(dns=DNS))
    return path


@asynccontextmanager
async def living(file: Path) -> AsyncIterator[WiredDaemon]:
    """A daemon that sends watchdog messages."""
    async with WiredDaemon(file) as daemon:
        task = asyncio.create_task(_sign_of_life(daemon.controller, daemon.reconciler))
        try:
            yield daemon
        finally:
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()


def test_fed_at_each_interval(file: Path, listener: Systemd) -> None:
    """The first message has the status too; later messages have it only when it changes."""

    async def scene() -> float:
        async with living(file):
            began = elapsed()
            await asyncio.sleep(3.5 * INTERVAL)
            return began

    began = play(scene())
    expected = [(FED, WELL), (FED,), (FED,)]
    assert [(began + INTERVAL * count, lines) for count, lines in enumerate(expected, 1)] == listener.messages


def test_not_fed_while_a_transaction_is_stuck(file: Path, listener: Systemd) -> None:
    """A long transaction changes nothing for two minutes. Then no watchdog message is sent until its end."""

    async def scene() -> tuple[float, float]:
        async with living(file) as daemon:
            daemon.kernel_thread.takes = 10 * INTERVAL + 1
            daemon.reconciler.suspect_host()
            stuck = elapsed()
            await asyncio.sleep(daemon.kernel_thread.takes)
            daemon.kernel_thread.takes = 0.0
            assert daemon.reconciler.busy_for() > WEDGED
            await asyncio.sleep(INTERVAL)
            assert 0.0 == daemon.reconciler.busy_for()
            return stuck, elapsed()

    stuck, ended = play(scene())
    assert 120.0 == WEDGED == 8 * INTERVAL
    # The work begins a moment after it was asked for: at the eighth it is not quite two minutes old.
    assert [stuck + INTERVAL * count for count in (*range(1, 9), 11)] == listener.fed
    assert stuck + 11 * INTERVAL <= ended


@pytest.mark.parametrize(("seconds", "expected"), [(0.0, True), (119.9, True), (120.0, False), (3600.0, False)])
def test_how_long_is_too_long(
    file: Path, listener: Systemd, monkeypatch: pytest.MonkeyPatch, seconds: float, expected: bool
) -> None:
    """Two minutes are too long; the status is sent nevertheless."""

    async def scene() -> None:
        async with living(file) as daemon:
            monkeypatch.setattr(daemon.reconciler, "busy_for", lambda: seconds)
            await asyncio.sleep(1.5 * INTERVAL)

    play(scene())
    assert [(FED, WELL) if expected else (WELL,)] == [lines for _, lines in listener.messages]


def test_results_of_checks_are_shown_during_a_stuck_transaction(file: Path, listener: Systemd) -> None:
    """Checks go on during a stuck transaction: their results are in the status, without a watchdog message."""

    async def scene() -> None:
        async with living(file) as daemon:
            daemon.kernel_thread.takes = 1000.0
            daemon.reconciler.suspect_host()
            await asyncio.sleep(WEDGED + INTERVAL + 1)
            listener.messages.clear()
            daemon.record_results("ns1", "---")
            await asyncio.sleep(2 * INTERVAL)

    play(scene())
    assert [(ONE_DOWN,)] == [lines for _, lines in listener.messages]


def test_without_a_watchdog(file: Path, listener: Systemd) -> None:
    """Without a watchdog, only changes of the status are sent, within five seconds: backends, quorum, refusals."""
    listener.interval = None

    async def scene() -> None:
        async with living(file) as daemon:
            await asyncio.sleep(20.5)
            daemon.record_results("ns1", "---")
            await asyncio.sleep(20)
            for name in ("ns2", "ns3"):
                daemon.record_results(name, "---")
            await asyncio.sleep(20)
            daemon.kernel_thread.error = KernelError("no")
            daemon.reconciler.suspect_host()
            await asyncio.sleep(20)
            daemon.kernel_thread.error = None
            for name in BACKENDS:
                daemon.record_results(name, "++")
            await asyncio.sleep(20)

    play(scene())
    refused = f"{NO_QUORUM}; the kernel refuses: see the log"
    began = listener.messages[0][0] - 5
    expected = [(5, WELL), (25, ONE_DOWN), (45, NO_QUORUM), (65, refused), (85, WELL)]
    assert [(began + when, (line,)) for when, line in expected] == listener.messages


def test_many_pools_without_quorum(file: Path, listener: Systemd) -> None:
    """The status names the first five, and has the number of the others."""
    file.write_text(document(**{f"p{n}": {**DNS, "listen": f"192.0.2.{n}:53/udp", "quorum": 3} for n in range(1, 8)}))

    async def scene() -> None:
        async with living(file) as daemon:
            for number in range(1, 8):
                daemon.record_results("ns1", "---", f"p{number}")
            await asyncio.sleep(1.5 * INTERVAL)

    play(scene())
    (_, status), *_ = (lines for _, lines in listener.messages)
    assert status.endswith(", without quorum: p1, p2, p3, p4, p5 and 2 more")
