"""The API's description against the daemon's own mind, on a kernel in memory: nothing is too much for it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from asking import UNFORESEEN, apart, ask, cases
from schemathesis.generation import GenerationMode
from serving import LOOPBACK, one_token
from test_control import World

from nftlb.daemon.keeper import Keeper
from nftlb.daemon.store import Store
from nftlb.web import Server, application

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from asking import Place

MODES = Path(__file__).parent / "good" / "modes.yaml"
INSTEAD = {
    "table: lb_1": "table: nftlb",  # the one that the hands have
    "quorum: 2": "quorum: 1",  # else that pool could spare no backend
    "hysteresis: 1": "hysteresis: 0",
}
INTERFACES = ("eth0", "eth1.100", "bond0.12")
PLACES = (
    {"pool": "masquerade", "backend": "v4"},
    {"pool": "stateless", "backend": "a"},
    {"pool": "dsr", "backend": "a"},
    {"pool": "zero", "backend": "b"},
)


@asynccontextmanager
async def serving(file: Path) -> AsyncIterator[tuple[Server, World]]:
    """Run the API of a daemon with pools of every kind, one of which has a backend that is down."""
    made = World(file)
    made.hands.interfaces = INTERFACES
    async with made as world:
        store = Store(str(file.parent / "state"), "nftlb")  # World's own takes its time from the clockwork
        world.control.keeper = Keeper(store, world.control.memory, world.faults)
        for _ in range(3):
            world.hear("c", "-", "zero")
        server = Server(application(world.control, world.control._metrics, one_token), LOOPBACK)
        await server.start()
        try:
            yield server, world
        finally:
            await server.stop()


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, World]]:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    file = tmp_path / "nftlb.yaml"
    text = MODES.read_text()
    for old, new in INSTEAD.items():
        assert old in text
        text = text.replace(old, new)
    file.write_text(text)
    with apart(serving(file)) as (server, world):
        yield f"http://{server.bound}", world


@pytest.mark.parametrize(("path", "method", "mode", "place"), cases(*PLACES))
def test_answers_are_as_described(
    daemon: tuple[str, World],
    caplog: pytest.LogCaptureFixture,
    path: str,
    method: str,
    mode: GenerationMode,
    place: Place | None,
) -> None:
    """As with a service that is made up; and the kernel, which refuses nothing, has what is wanted."""
    url, world = daemon

    # 422: an address of a family that the pool does not listen on, or a port that it has no use for.
    statuses = ask(url, path, method, mode, place, (*UNFORESEEN, 422))

    assert not statuses & {500, 503}
    if mode is GenerationMode.POSITIVE and (place or "{" not in path):
        assert statuses & {200, 201, 204}  # it was not refused each time
    assert world.control.reconciler.synced
    assert [] == [one.message for one in caplog.records if one.exc_info]
