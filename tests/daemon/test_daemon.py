"""The whole daemon over a kernel in memory: its start, its signals and its end."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import socket
import sys
import threading
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from fake_kernel_thread import FakeKernelThread

from nftlb.config import load
from nftlb.daemon import Daemon, surveyor
from nftlb.daemon import daemon as module
from nftlb.daemon.garbage import THRESHOLDS
from nftlb.daemon.store import Store
from nftlb.errors import ConfigError, KernelError, SystemFault
from nftlb.health.memory import read_memory
from nftlb.kernel.rtnetlink import LOCAL, LOCAL_TABLE, Route
from nftlb.kernel.surroundings import Surroundings
from nftlb.web import HttpServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
    from pathlib import Path

    from nftlb.kernel.surroundings import Lookup

TABLE = f"daemon_of_a_test_{os.getpid()}"  # only one daemon at a time may have it, and tests run side by side


class DaemonFiles:
    """A directory with a file, a socket in the place of systemd's, and a fake KernelThread."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.file = directory / "nftlb.json"
        self.kernel_thread = FakeKernelThread(TABLE)
        self.write(ns1="10.0.0.11:53", ns2="10.0.0.12:53")
        self.systemd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.systemd.bind(str(directory / "notify"))
        self.systemd.setblocking(False)

    def write(self, **backends: str) -> None:
        """Write a file with these backends."""
        document: dict[str, Any] = {
            "table": TABLE,
            "state_dir": str(self.directory / "state"),
            "api": {"listen": f"unix:{self.directory}/api"},
            "pools": {"dns": {"listen": "192.0.2.53:53/udp", "backends": backends}},
        }
        self.file.write_text(json.dumps(document))

    async def await_message(self, word: str) -> str:
        """Wait until systemd gets a message with a word, and return the message."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(60):
            while True:
                said = (await loop.sock_recv(self.systemd, 4096)).decode()
                if word in said:
                    return said

    @property
    def text(self) -> str:
        """What is in the kernel."""
        return repr(self.kernel_thread.kernel.list(TABLE))


def a_host_that_lacks_nothing(asked: Iterable[Lookup]) -> Surroundings:
    """A host that has every address of the configuration."""
    return Surroundings(routes={lookup: Route(lookup.address.version, LOCAL_TABLE, kind=LOCAL) for lookup in asked})


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DaemonFiles]:
    made = DaemonFiles(tmp_path)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setattr(module, "KernelThread", lambda _: made.kernel_thread)
    monkeypatch.setattr(module, "_allow_descriptors", lambda: None)
    monkeypatch.setattr(surveyor, "read_surroundings", a_host_that_lacks_nothing)
    interval, garbage = sys.getswitchinterval(), gc.get_threshold()
    yield made
    made.systemd.close()
    gc.unfreeze()
    gc.set_threshold(*garbage)
    sys.setswitchinterval(interval)


def kill(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


@asynccontextmanager
async def running(files: DaemonFiles, *, keep: bool = True) -> AsyncIterator[asyncio.Task[None]]:
    """Run the daemon, and stop it by SIGTERM at the end. No task may be left."""
    before = asyncio.all_tasks()
    task = asyncio.create_task(Daemon(str(files.file), keep=keep).run())
    yield task
    if not task.done():
        kill(signal.SIGTERM)
    async with asyncio.timeout(60):
        await task
    assert before == asyncio.all_tasks()
    assert signal.SIG_DFL is signal.getsignal(signal.SIGHUP)


def test_start_and_end_are_reported_to_systemd(files: DaemonFiles) -> None:
    """The daemon reports its start and its end to systemd, leaves the rules, and has saved its state."""

    async def scene() -> None:
        async with running(files):
            assert "READY=1\nSTATUS=1 pool(s), 2 of 2 backends usable" == await files.await_message("READY")
        assert "STOPPING=1" == await files.await_message("STOPPING")

    asyncio.run(scene())
    assert "10.0.0.11" in files.text
    assert {"ns1", "ns2"} == set(
        read_memory((files.directory / "state" / f"{TABLE}.json").read_text()).pools["dns"].backends
    )


def test_the_end_while_the_saved_state_is_read(files: DaemonFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start waits for a disk, because the state has wishes of the operator. SIGTERM ends a start that waits."""
    asked, answered = threading.Event(), threading.Event()

    def hang(_: Store) -> tuple[None, str]:
        asked.set()
        assert answered.wait(60)
        return None, ""

    monkeypatch.setattr(Store, "load", hang)

    async def scene() -> None:
        async with running(files) as task:
            while not asked.is_set():  # noqa: ASYNC110 - set by a thread
                await asyncio.sleep(0.001)
            assert not task.done()

    try:
        asyncio.run(scene())
    finally:
        answered.set()
    assert "10.0.0.11" not in files.text


def test_the_api_listens_before_the_start_is_reported(files: DaemonFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that follows `systemctl start` reaches the API."""
    reported: list[bool] = []
    start = HttpServer.start

    async def observed(server: HttpServer) -> None:
        with suppress(BlockingIOError):
            reported.append(b"READY" in files.systemd.recv(4096))
        await start(server)

    monkeypatch.setattr(HttpServer, "start", observed)

    async def scene() -> None:
        async with running(files):
            await files.await_message("READY")
            assert (files.directory / "api").is_socket()

    asyncio.run(scene())
    assert [] == reported


def test_an_api_that_cannot_listen_does_not_delay_the_start(files: DaemonFiles) -> None:
    """The start is reported when another program has the API's address."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        document = json.loads(files.file.read_text())
        document["api"]["listen"] = f"127.0.0.1:{other.getsockname()[1]}"
        files.file.write_text(json.dumps(document))

        async def scene() -> None:
            async with running(files):
                await files.await_message("READY")

        asyncio.run(scene())


def test_no_thread_holds_up_the_loop(files: DaemonFiles) -> None:
    """Threads that run Python, and searches for garbage, keep the event loop waiting for less than by default."""

    async def scene() -> None:
        async with running(files):
            await files.await_message("READY")
            assert sys.getswitchinterval() < 0.0002
            assert gc.get_threshold() == THRESHOLDS

    asyncio.run(scene())


def test_without_keep_the_daemon_deletes_its_tables(files: DaemonFiles) -> None:
    """With keep=False, the daemon deletes its tables at the end."""

    async def scene() -> None:
        async with running(files, keep=False):
            await files.await_message("READY")
            assert "10.0.0.11" in files.text

    asyncio.run(scene())
    assert "{}" == files.text


def test_sighup_reloads(files: DaemonFiles) -> None:
    """A good file is loaded, and a bad file changes nothing. Both are reported to systemd."""

    async def scene() -> None:
        async with running(files):
            await files.await_message("READY")
            files.write(ns3="10.0.0.13:53")
            kill(signal.SIGHUP)
            await files.await_message("RELOADING")
            await files.await_message("READY")
            assert "10.0.0.13" in files.text
            files.file.write_text("pools: nonsense")
            kill(signal.SIGHUP)
            await files.await_message("RELOADING")
            await files.await_message("READY")
            assert "10.0.0.13" in files.text

    asyncio.run(scene())


def test_sighups_during_a_reload_cause_one_more_reload(files: DaemonFiles) -> None:
    """The last file counts, and a hundred signals cause fewer than a hundred reloads."""

    async def scene() -> list[str]:
        said = []
        async with running(files):
            await files.await_message("READY")
            files.kernel_thread.takes = 0.2
            kill(signal.SIGHUP)
            said.append(await files.await_message("RELOADING"))
            files.write(ns3="10.0.0.13:53")
            for _ in range(100):
                kill(signal.SIGHUP)
                await asyncio.sleep(0)
            said.append(await files.await_message("READY"))
            said.append(await files.await_message("RELOADING"))
            said.append(await files.await_message("READY"))
            assert "10.0.0.13" in files.text
        said.append(await files.await_message("="))
        return said

    said = [text.partition("\n")[0] for text in asyncio.run(scene())]
    assert ["RELOADING=1", "READY=1", "RELOADING=1", "READY=1", "STOPPING=1"] == said


def test_a_sighup_during_the_first_load(files: DaemonFiles) -> None:
    """A SIGHUP during the first load causes a reload after it."""

    async def scene() -> None:
        files.kernel_thread.takes = 0.2
        async with running(files):
            await files.kernel_thread.begun.wait()
            kill(signal.SIGHUP)
            await files.await_message("READY")
            await files.await_message("RELOADING")
            await files.await_message("READY")

    asyncio.run(scene())


def test_a_sigterm_during_the_first_load(files: DaemonFiles) -> None:
    """The daemon ends in order, and deletes its rules with keep=False."""

    async def scene() -> None:
        files.kernel_thread.takes = 0.2
        async with running(files, keep=False):
            await files.kernel_thread.begun.wait()
            kill(signal.SIGTERM)
            await files.await_message("STOPPING")

    asyncio.run(scene())
    assert "{}" == files.text


def test_a_first_load_that_the_kernel_refuses(files: DaemonFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon starts nevertheless, shows a fault, and tries again until the kernel accepts the rules."""

    async def opened() -> None:
        files.kernel_thread._open()

    monkeypatch.setattr(files.kernel_thread, "open", opened)

    async def scene() -> None:
        files.kernel_thread.error = KernelError("no")
        async with running(files):
            assert (await files.await_message("READY")).endswith("; the kernel refuses: see the log")
            files.kernel_thread.error = None
            await files.kernel_thread.done.wait()
            assert "10.0.0.11" in files.text

    asyncio.run(scene())


def test_the_end_during_a_save(files: DaemonFiles, caplog: pytest.LogCaptureFixture) -> None:
    """A SIGTERM while a reload saves leaves a whole file and causes no fault."""
    path = files.directory / "state" / f"{TABLE}.json"

    async def scene() -> None:
        async with running(files):
            await files.await_message("READY")
            kill(signal.SIGHUP)
            await files.await_message("RELOADING")
            await files.await_message("READY")  # sent just before it saves

    for _ in range(5):
        files.kernel_thread = FakeKernelThread(TABLE)
        asyncio.run(scene())
        assert {"dns"} == set(read_memory(path.read_text()).pools)
    # The daemon also follows this machine's network, and reports messages of the kernel that it lost on a busy machine.
    own = ("state_dir", "memory", "a fault of nftlb itself")
    assert [] == [message for message in caplog.messages if message.startswith(own)]


def test_a_damaged_state_file_is_reported_and_renamed(files: DaemonFiles, caplog: pytest.LogCaptureFixture) -> None:
    """A bad state file is renamed and reported, and the daemon runs."""
    state = files.directory / "state"
    state.mkdir()
    (state / f"{TABLE}.json").write_text('{"format": 1, "po')

    async def scene() -> None:
        async with running(files):
            await files.await_message("READY")

    asyncio.run(scene())
    assert any(line.startswith("memory: ") and "renamed to" in line for line in caplog.messages)
    assert '{"format": 1, "po' == (state / f"{TABLE}.bad").read_text()


def test_a_second_daemon_ends_at_once(files: DaemonFiles) -> None:
    """A second daemon changes nothing, and reports why."""

    async def scene() -> None:
        async with running(files):
            await files.await_message("READY")
            before = files.text
            with pytest.raises(SystemFault, match="another nftlb runs"):
                await Daemon(str(files.file)).run()
            assert before == files.text

    asyncio.run(scene())


def test_a_bad_file_at_the_start(files: DaemonFiles) -> None:
    """With a bad file and no copy, the problems of the file are raised."""
    files.file.write_text("pools: nonsense")

    with pytest.raises(ConfigError):
        asyncio.run(Daemon(str(files.file)).run())
    with pytest.raises(ConfigError):
        load(str(files.file))


def test_a_bad_file_at_a_restart(files: DaemonFiles, caplog: pytest.LogCaptureFixture) -> None:
    """The last good copy is used and reported; a reload of a good file ends that."""
    state, good = files.directory / "state", files.file.read_text()

    async def status() -> Any:
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(f"{files.directory}/api")) as session:
            async with session.get("http://nftlb/api/v1/status") as answer:
                document = await answer.json()
            async with session.get("http://nftlb/metrics") as answer:
                metrics = await answer.text()
        figures = dict(line.split() for line in metrics.splitlines() if line.startswith("nftlb_config_"))
        return document, [figures[f"nftlb_config_{what}"] for what in ("last_good_copy", "reload_success")]

    async def first() -> None:
        async with running(files):
            await files.await_message("READY")

    async def second() -> None:
        async with running(files):
            said = await files.await_message("READY")
            assert said.endswith(f"the file is bad, its last good copy is in use: {state}/{TABLE}.yaml")
            assert "10.0.0.11" in files.text
            document, figures = await until(status)
            assert (True, False) == (document["ready"], document["config"]["success"])
            assert f"{state}/{TABLE}.yaml" == document["config"]["copy_in_use"]
            assert problems == document["config"]["problems"]
            assert ["configuration"] == [fault["what"] for fault in document["faults"]]
            assert ["1", "0"] == figures
            kill(signal.SIGHUP)  # it is still bad
            await files.await_message("RELOADING")
            await files.await_message("READY")
            assert (["1", "0"], problems) == ((found := await status())[1], found[0]["config"]["problems"])
            files.file.write_text(good.replace("10.0.0.11", "10.0.0.99"))
            kill(signal.SIGHUP)
            await files.await_message("RELOADING")
            await files.await_message("READY")
            assert "10.0.0.99" in files.text
            document, figures = await status()
            assert (None, [], True) == (
                document["config"]["copy_in_use"],
                document["faults"],
                document["config"]["success"],
            )
            assert ["0", "1"] == figures

    asyncio.run(first())
    kept = (state / f"{TABLE}.yaml").read_bytes()
    files.file.write_text(json.dumps({"state_dir": str(state), "pools": "nonsense"}))
    with pytest.raises(ConfigError) as caught:
        load(str(files.file))
    problems = str(caught.value).splitlines()
    files.kernel_thread = FakeKernelThread(TABLE)
    asyncio.run(second())
    assert problems == [line for line in caplog.messages if line in problems]
    assert kept != (state / f"{TABLE}.yaml").read_bytes()  # of the file that is good again


async def until(ask: Callable[[], Awaitable[Any]]) -> Any:
    """Ask until the API accepts connections."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await ask()
            except aiohttp.ClientConnectorError:
                await asyncio.sleep(0.01)


def test_strictly_a_bad_file_is_an_end(files: DaemonFiles) -> None:
    """Without a directory for copies, the problems are raised, even if a copy exists."""

    async def scene() -> None:
        async with running(files):
            await files.await_message("READY")

    asyncio.run(scene())
    files.file.write_text(json.dumps({"state_dir": str(files.directory / "state"), "pools": "nonsense"}))

    with pytest.raises(ConfigError):
        asyncio.run(Daemon(str(files.file), directory=None).run())


def test_the_memory_moves_with_state_dir(files: DaemonFiles) -> None:
    """After a reload with another `state_dir`, the state is saved there."""
    other = files.directory / "other"

    async def scene() -> None:
        async with running(files):
            await files.await_message("READY")
            document = json.loads(files.file.read_text())
            files.file.write_text(json.dumps({**document, "state_dir": str(other)}))
            kill(signal.SIGHUP)
            await files.await_message("RELOADING")
            await files.await_message("READY")

    asyncio.run(scene())
    assert {"dns"} == set(read_memory((other / f"{TABLE}.json").read_text()).pools)
