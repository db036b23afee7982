"""The daemon as a whole, on a kernel in memory: how it begins, what signals do to it, how it ends."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from handiwork import FakeHands

from nftlb.config import load
from nftlb.daemon import Daemon, surveyor
from nftlb.daemon import daemon as module
from nftlb.errors import ConfigError, KernelError, SystemFault
from nftlb.health.memory import read
from nftlb.kernel.rtnetlink import LOCAL, LOCAL_TABLE, Route
from nftlb.kernel.surroundings import Surroundings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
    from pathlib import Path

    from nftlb.kernel.surroundings import Lookup

TABLE = f"daemon_of_a_test_{os.getpid()}"  # only one daemon at a time may have it, and tests run side by side


class World:
    """A directory with a file, a socket that stands for systemd's, and hands."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.file = directory / "nftlb.json"
        self.hands = FakeHands(TABLE)
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

    async def hear(self, word: str) -> str:
        """Wait until systemd is told something with that word in it."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(20):
            while True:
                said = (await loop.sock_recv(self.systemd, 4096)).decode()
                if word in said:
                    return said

    @property
    def text(self) -> str:
        """What is in the kernel."""
        return repr(self.hands.kernel.list(TABLE))


def a_host_that_lacks_nothing(asked: Iterable[Lookup]) -> Surroundings:
    """Every address is its own."""
    return Surroundings(routes={one: Route(one.address.version, LOCAL_TABLE, kind=LOCAL) for one in asked})


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World(tmp_path)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setattr(module, "Hands", lambda _: made.hands)
    monkeypatch.setattr(module, "_allow_descriptors", lambda: None)
    monkeypatch.setattr(surveyor, "look_around", a_host_that_lacks_nothing)
    yield made
    made.systemd.close()
    gc.unfreeze()


def kill(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


@asynccontextmanager
async def running(world: World, *, keep: bool = True) -> AsyncIterator[asyncio.Task[None]]:
    """Run it; at the end it is stopped by SIGTERM, unless it ended, and nothing is left of it."""
    before = asyncio.all_tasks()
    task = asyncio.create_task(Daemon(str(world.file), keep=keep).run())
    yield task
    if not task.done():
        kill(signal.SIGTERM)
    async with asyncio.timeout(20):
        await task
    assert before == asyncio.all_tasks()
    assert signal.SIG_DFL is signal.getsignal(signal.SIGHUP)


def test_its_life(world: World) -> None:
    """It says when it is ready and when it stops, leaves the rules, and has saved what is to be remembered."""

    async def scene() -> None:
        async with running(world):
            assert "READY=1\nSTATUS=1 pool(s), 2 of 2 backends healthy" == await world.hear("READY")
        assert "STOPPING=1" == await world.hear("STOPPING")

    asyncio.run(scene())
    assert "10.0.0.11" in world.text
    assert {"ns1", "ns2"} == set(read((world.directory / "state" / f"{TABLE}.json").read_text()).pools["dns"].backends)


def test_the_rules_can_go_with_it(world: World) -> None:
    """With keep=False no table is left."""

    async def scene() -> None:
        async with running(world, keep=False):
            await world.hear("READY")
            assert "10.0.0.11" in world.text

    asyncio.run(scene())
    assert "{}" == world.text


def test_sighup_reloads(world: World) -> None:
    """With a good file the kernel follows, with a bad one it goes on; systemd is told of both."""

    async def scene() -> None:
        async with running(world):
            await world.hear("READY")
            world.write(ns3="10.0.0.13:53")
            kill(signal.SIGHUP)
            await world.hear("RELOADING")
            await world.hear("READY")
            assert "10.0.0.13" in world.text
            world.file.write_text("pools: nonsense")
            kill(signal.SIGHUP)
            await world.hear("RELOADING")
            await world.hear("READY")
            assert "10.0.0.13" in world.text

    asyncio.run(scene())


def test_sighups_during_a_reload_are_one_more(world: World) -> None:
    """The last word counts, and a hundred signals are no hundred reloads."""

    async def scene() -> list[str]:
        said = []
        async with running(world):
            await world.hear("READY")
            world.hands.takes = 0.2
            kill(signal.SIGHUP)
            said.append(await world.hear("RELOADING"))
            world.write(ns3="10.0.0.13:53")
            for _ in range(100):
                kill(signal.SIGHUP)
                await asyncio.sleep(0)
            said.append(await world.hear("READY"))
            said.append(await world.hear("RELOADING"))
            said.append(await world.hear("READY"))
            assert "10.0.0.13" in world.text
        said.append(await world.hear("="))
        return said

    said = [one.partition("\n")[0] for one in asyncio.run(scene())]
    assert ["RELOADING=1", "READY=1", "RELOADING=1", "READY=1", "STOPPING=1"] == said


def test_a_sighup_during_the_first_load(world: World) -> None:
    """It reloads afterwards."""

    async def scene() -> None:
        world.hands.takes = 0.2
        async with running(world):
            await world.hands.begun.wait()
            kill(signal.SIGHUP)
            await world.hear("READY")
            await world.hear("RELOADING")
            await world.hear("READY")

    asyncio.run(scene())


def test_a_sigterm_during_the_first_load(world: World) -> None:
    """It ends in order, and takes its rules away if it is to."""

    async def scene() -> None:
        world.hands.takes = 0.2
        async with running(world, keep=False):
            await world.hands.begun.wait()
            kill(signal.SIGTERM)
            await world.hear("STOPPING")

    asyncio.run(scene())
    assert "{}" == world.text


def test_a_first_load_that_the_kernel_refuses(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is up nevertheless, says so, and tries again until the kernel takes it."""

    async def opened() -> None:
        world.hands._open()

    monkeypatch.setattr(world.hands, "open", opened)

    async def scene() -> None:
        world.hands.error = KernelError("no")
        async with running(world):
            assert (await world.hear("READY")).endswith("; the kernel refuses: see the log")
            world.hands.error = None
            await world.hands.done.wait()
            assert "10.0.0.11" in world.text

    asyncio.run(scene())


def test_the_end_during_a_save(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """A SIGTERM that comes while a reload saves leaves a whole file, and no fault."""
    path = world.directory / "state" / f"{TABLE}.json"

    async def scene() -> None:
        async with running(world):
            await world.hear("READY")
            kill(signal.SIGHUP)
            await world.hear("RELOADING")
            await world.hear("READY")  # sent just before it saves

    for _ in range(5):
        world.hands = FakeHands(TABLE)
        asyncio.run(scene())
        assert {"dns"} == set(read(path.read_text()).pools)
    assert [] == caplog.messages


def test_a_torn_memory_costs_no_more_than_the_memory(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """It is set aside, told, and the daemon runs."""
    state = world.directory / "state"
    state.mkdir()
    (state / f"{TABLE}.json").write_text('{"format": 1, "po')

    async def scene() -> None:
        async with running(world):
            await world.hear("READY")

    asyncio.run(scene())
    assert any(line.startswith("memory: ") and "set aside" in line for line in caplog.messages)
    assert '{"format": 1, "po' == (state / f"{TABLE}.bad").read_text()


def test_a_second_one_ends_at_once(world: World) -> None:
    """It touches nothing, and says why."""

    async def scene() -> None:
        async with running(world):
            await world.hear("READY")
            before = world.text
            with pytest.raises(SystemFault, match="another nftlb runs"):
                await Daemon(str(world.file)).run()
            assert before == world.text

    asyncio.run(scene())


def test_a_bad_file_at_the_start(world: World) -> None:
    """There is nothing to go on with: the faults are raised."""
    world.file.write_text("pools: nonsense")

    with pytest.raises(ConfigError):
        asyncio.run(Daemon(str(world.file)).run())
    with pytest.raises(ConfigError):
        load(str(world.file))


def test_a_bad_file_at_a_restart(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """The last good copy is used, with all that says so; a reload of a file that is good again ends that."""
    state, good = world.directory / "state", world.file.read_text()

    async def status() -> Any:
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(f"{world.directory}/api")) as session:
            async with session.get("http://nftlb/api/v1/status") as answer:
                document = await answer.json()
            async with session.get("http://nftlb/metrics") as answer:
                metrics = await answer.text()
        figures = dict(line.split() for line in metrics.splitlines() if line.startswith("nftlb_config_"))
        return document, [figures[f"nftlb_config_{what}"] for what in ("last_good_copy", "reload_success")]

    async def first() -> None:
        async with running(world):
            await world.hear("READY")

    async def second() -> None:
        async with running(world):
            said = await world.hear("READY")
            assert said.endswith(f"the file is bad, its last good copy is in use: {state}/{TABLE}.yaml")
            assert "10.0.0.11" in world.text
            document, figures = await until(status)
            assert (True, False) == (document["ready"], document["config"]["success"])
            assert f"{state}/{TABLE}.yaml" == document["config"]["copy_in_use"]
            assert problems == document["config"]["problems"]
            assert ["configuration"] == [fault["what"] for fault in document["faults"]]
            assert ["1", "0"] == figures
            kill(signal.SIGHUP)  # it is still bad
            await world.hear("RELOADING")
            await world.hear("READY")
            assert (["1", "0"], problems) == ((found := await status())[1], found[0]["config"]["problems"])
            world.file.write_text(good.replace("10.0.0.11", "10.0.0.99"))
            kill(signal.SIGHUP)
            await world.hear("RELOADING")
            await world.hear("READY")
            assert "10.0.0.99" in world.text
            document, figures = await status()
            assert (None, [], True) == (
                document["config"]["copy_in_use"],
                document["faults"],
                document["config"]["success"],
            )
            assert ["0", "1"] == figures

    asyncio.run(first())
    kept = (state / f"{TABLE}.yaml").read_bytes()
    world.file.write_text(json.dumps({"state_dir": str(state), "pools": "nonsense"}))
    with pytest.raises(ConfigError) as caught:
        load(str(world.file))
    problems = str(caught.value).splitlines()
    world.hands = FakeHands(TABLE)
    asyncio.run(second())
    assert problems == [line for line in caplog.messages if line in problems]
    assert kept != (state / f"{TABLE}.yaml").read_bytes()  # of the file that is good again


async def until(ask: Callable[[], Awaitable[Any]]) -> Any:
    """Ask until the API listens."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await ask()
            except aiohttp.ClientConnectorError:
                await asyncio.sleep(0.01)


def test_strictly_a_bad_file_is_an_end(world: World) -> None:
    """Whoever wants that has the faults raised, even if there is a copy."""

    async def scene() -> None:
        async with running(world):
            await world.hear("READY")

    asyncio.run(scene())
    world.file.write_text(json.dumps({"state_dir": str(world.directory / "state"), "pools": "nonsense"}))

    with pytest.raises(ConfigError):
        asyncio.run(Daemon(str(world.file), directory=None).run())


def test_the_memory_moves_with_state_dir(world: World) -> None:
    """After a reload with another directory it is saved there."""
    other = world.directory / "other"

    async def scene() -> None:
        async with running(world):
            await world.hear("READY")
            document = json.loads(world.file.read_text())
            world.file.write_text(json.dumps({**document, "state_dir": str(other)}))
            kill(signal.SIGHUP)
            await world.hear("RELOADING")
            await world.hear("READY")

    asyncio.run(scene())
    assert {"dns"} == set(read((other / f"{TABLE}.json").read_text()).pools)
