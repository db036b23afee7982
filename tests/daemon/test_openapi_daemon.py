"""The API's description against the daemon's own mind, on a kernel in memory: nothing is too much for it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from daemon_wiring import WiredDaemon
from schema_fuzz import UNFORESEEN, apart, ask, cases, names_exist
from schemathesis.generation import GenerationMode
from web_server import LOOPBACK, one_token

from nftlb.daemon.store import Store
from nftlb.web import HttpServer, application

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from schema_fuzz import Place

MODES = Path(__file__).parents[1] / "config" / "good" / "modes.yaml"
INSTEAD = {
    "table: lb_1": "table: nftlb",  # the table of FakeKernelThread
    "quorum: 2": "quorum: 1",  # otherwise that pool could spare no backend
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
async def serving(file: Path) -> AsyncIterator[tuple[HttpServer, WiredDaemon]]:
    """Run the API of a daemon with pools of every kind, one of which has a backend that is down."""
    # A real store: FakeStore reads virtual time.
    made = WiredDaemon(file, store=Store(str(file.parent / "state"), "nftlb"))
    made.kernel_thread.interfaces = INTERFACES
    async with made as wired:
        for _ in range(3):
            wired.record_results("c", "-", "zero")
        server = HttpServer(application(wired.service, wired.metrics, one_token), LOOPBACK)
        await server.start()
        try:
            yield server, wired
        finally:
            await server.stop()


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, WiredDaemon]]:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    file = tmp_path / "nftlb.yaml"
    text = MODES.read_text()
    for old, new in INSTEAD.items():
        assert old in text
        text = text.replace(old, new)
    file.write_text(f"defaults: {{guard: {{clients: true}}}}\n{text}")
    with apart(serving(file)) as (server, wired):
        yield f"http://{server.bound}", wired


@pytest.mark.parametrize(("path", "method", "mode", "place"), cases(*PLACES))
def test_answers_are_as_described(
    daemon: tuple[str, WiredDaemon],
    caplog: pytest.LogCaptureFixture,
    path: str,
    method: str,
    mode: GenerationMode,
    place: Place | None,
) -> None:
    """As with a service that is made up; and the kernel, which refuses nothing, has what is wanted."""
    url, wired = daemon

    # 422: an address of a family that the pool does not listen on, or a port that it has no use for.
    statuses = ask(url, path, method, mode, place, (*UNFORESEEN, 422))

    assert not statuses & {500, 503}
    if mode is GenerationMode.POSITIVE and names_exist(path, place):
        assert statuses & {200, 201, 204}  # it was not refused each time
    assert wired.reconciler.synced
    assert [] == [record.message for record in caplog.records if record.exc_info]
