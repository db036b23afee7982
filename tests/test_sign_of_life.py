"""What systemd hears while the daemon runs: that it lives, as long as nothing is stuck, and how things are."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from clockwork import elapsed, play
from test_control import BACKENDS, DNS, World, document

from nftlb.daemon import control, systemd
from nftlb.daemon.operation import WEDGED, _sign_of_life
from nftlb.errors import KernelError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

INTERVAL = 15.0
FED = "WATCHDOG=1"
WELL, ONE_DOWN, NO_QUORUM = (
    f"STATUS=1 pool(s), {healthy} of 3 backends healthy{more}"
    for healthy, more in ((3, ""), (2, ""), (0, ", without quorum: dns"))
)


class Systemd:
    """Notes what it is told, each with when; `interval` is what it wants to be fed at."""

    def __init__(self) -> None:
        self.interval: float | None = INTERVAL
        self.heard: list[tuple[float, tuple[str, ...]]] = []

    def notify(self, *lines: str) -> None:
        self.heard.append((elapsed(), lines))

    @property
    def fed(self) -> list[float]:
        return [when for when, lines in self.heard if FED in lines]

    @property
    def told(self) -> list[tuple[float, str]]:
        return [(when, line) for when, lines in self.heard for line in lines if line != FED]


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Systemd:
    made = Systemd()
    monkeypatch.setattr(systemd, "notify", made.notify)
    monkeypatch.setattr(systemd, "watchdog_interval", lambda: made.interval)
    return made


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(control, "now", lambda: asyncio.get_running_loop().time())
    path = tmp_path / "nftlb.json"
    path.write_text(document(dns=DNS))
    return path


@asynccontextmanager
async def living(file: Path) -> AsyncIterator[World]:
    """A daemon's mind that gives signs of life."""
    async with World(file) as world:
        task = asyncio.create_task(_sign_of_life(world.control, world.control.reconciler))
        try:
            yield world
        finally:
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()


def test_fed_at_each_interval(file: Path, listener: Systemd) -> None:
    """From the first on, with how things are beside it; while that stays so, without."""

    async def scene() -> float:
        async with living(file):
            began = elapsed()
            await asyncio.sleep(3.5 * INTERVAL)
            return began

    began = play(scene())
    expected = [(FED, WELL), (FED,), (FED,)]
    assert [(began + INTERVAL * count, lines) for count, lines in enumerate(expected, 1)] == listener.heard


def test_not_fed_while_a_transaction_is_stuck(file: Path, listener: Systemd) -> None:
    """One that takes long is no reason; from two minutes on systemd hears nothing, until it has ended after all."""

    async def scene() -> tuple[float, float]:
        async with living(file) as world:
            world.hands.takes = 10 * INTERVAL + 1
            world.control.reconciler.recheck()
            stuck = elapsed()
            await asyncio.sleep(world.hands.takes)
            world.hands.takes = 0.0
            assert world.control.reconciler.busy_for() > WEDGED
            await asyncio.sleep(INTERVAL)
            assert 0.0 == world.control.reconciler.busy_for()
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
    """Two minutes are; the line about how things are comes nevertheless."""

    async def scene() -> None:
        async with living(file) as world:
            monkeypatch.setattr(world.control.reconciler, "busy_for", lambda: seconds)
            await asyncio.sleep(1.5 * INTERVAL)

    play(scene())
    assert [(FED, WELL) if expected else (WELL,)] == [lines for _, lines in listener.heard]


def test_what_changed_is_told_while_it_is_stuck(file: Path, listener: Systemd) -> None:
    """A stuck transaction keeps checks from nothing: what they find is in the status, without a sign of life."""

    async def scene() -> None:
        async with living(file) as world:
            world.hands.takes = 1000.0
            world.control.reconciler.recheck()
            await asyncio.sleep(WEDGED + INTERVAL + 1)
            listener.heard.clear()
            world.hear("ns1", "---")
            await asyncio.sleep(2 * INTERVAL)

    play(scene())
    assert [(ONE_DOWN,)] == [lines for _, lines in listener.heard]


def test_without_a_watchdog(file: Path, listener: Systemd) -> None:
    """Nothing but a status that changed, within five seconds: backends, quorum, and a kernel that refuses."""
    listener.interval = None

    async def scene() -> None:
        async with living(file) as world:
            await asyncio.sleep(20.5)
            world.hear("ns1", "---")
            await asyncio.sleep(20)
            for name in ("ns2", "ns3"):
                world.hear(name, "---")
            await asyncio.sleep(20)
            world.hands.error = KernelError("no")
            world.control.reconciler.recheck()
            await asyncio.sleep(20)
            world.hands.error = None
            for name in BACKENDS:
                world.hear(name, "++")
            await asyncio.sleep(20)

    play(scene())
    refused = f"{NO_QUORUM}; the kernel refuses: see the log"
    began = listener.heard[0][0] - 5
    told = [(5, WELL), (25, ONE_DOWN), (45, NO_QUORUM), (65, refused), (85, WELL)]
    assert [(began + when, (line,)) for when, line in told] == listener.heard
