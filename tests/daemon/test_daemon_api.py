"""The HTTP server of the daemon: its addresses, moves and tokens."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import replace
from http import HTTPStatus
from ipaddress import IPv4Address
from threading import Event
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest
from fake_service import two_pools
from pool_builders import DNS, config

from nftlb.daemon import api as module
from nftlb.daemon.api import ApiServer
from nftlb.daemon.events import ActiveFaults
from nftlb.lab import Namespace
from nftlb.metrics import Metrics
from nftlb.model import Api, Endpoint, EventKind, UnixSocket
from nftlb.web import Limits, affordable, application

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from pathlib import Path

    from aiohttp import web

    from nftlb.model import Config
    from nftlb.service import Event as Published

PORT = 9146


class ServerSetup:
    """An API server with a fake service; `events` are those of its faults."""

    def __init__(self, own: str = "") -> None:
        self.fault_events: asyncio.Queue[tuple[EventKind, str]] = asyncio.Queue()
        self.faults = ActiveFaults(self._publish)
        self.server = ApiServer(two_pools(), Metrics(), self.faults, own)

    def _publish(self, event: Published) -> None:
        self.fault_events.put_nowait((event.kind, str(event.details["what"])))

    async def next(self) -> tuple[EventKind, str]:
        """Wait for a fault to begin or to end."""
        async with asyncio.timeout(60):
            return await self.fault_events.get()

    @property
    def shown(self) -> list[str]:
        return [fault.what for fault in self.faults.all()]


@asynccontextmanager
async def running(first: Config) -> AsyncIterator[ServerSetup]:
    setup = ServerSetup()
    setup.server.follow(first)
    task = asyncio.create_task(setup.server.run())
    try:
        yield setup
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AGAIN", 0.02)


def on(address: str) -> Config:
    return replace(config(DNS), api=Api(listen=Endpoint(IPv4Address(address), PORT)))


def at(path: Path, tokens: Path | None = None) -> Config:
    return replace(config(DNS), api=Api(listen=UnixSocket(str(path)), token_file=str(tokens) if tokens else None))


Where: TypeAlias = "Path | tuple[str, int]"


async def connect(where: Where) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if isinstance(where, tuple):
        return await asyncio.open_connection(*where)
    return await asyncio.open_unix_connection(str(where))


async def ask(where: Where, request: str, *headers: str) -> str:
    """The status line of an answer, as soon as the server listens."""
    async with asyncio.timeout(60):
        while True:
            try:
                reader, writer = await connect(where)
                break
            except (FileNotFoundError, ConnectionRefusedError):
                await asyncio.sleep(0.005)
        head = [f"{request} HTTP/1.1", "Host: localhost", "Connection: close", *headers, "", ""]
        writer.write("\r\n".join(head).encode())
        line = await reader.readline()
        await reader.read()
        writer.close()
        await writer.wait_closed()
        return line.decode().strip()


async def get(where: Where) -> str:
    return await ask(where, "GET /healthz")


async def served(where: Where) -> None:
    """Wait for a whole answer. Each try to get the other address closes the connections of this one."""
    async with asyncio.timeout(60):
        while True:
            with suppress(ConnectionResetError, BrokenPipeError):
                if await get(where):
                    return


async def reload(where: Where, token: str) -> int:
    """The status of a request for a reload."""
    return int((await ask(where, "POST /api/v1/reload", f"Authorization: Bearer {token}")).split()[1])


async def inode(path: Path) -> int:
    """The inode of the present socket, which differs from another socket of the same name."""
    await get(path)
    return os.stat(path).st_ino  # noqa: PTH116 - of a file in memory


async def refused(where: Where) -> None:
    """Wait until no server listens at this address."""
    async with asyncio.timeout(60):
        while True:
            try:
                _, writer = await connect(where)
            except ConnectionResetError:
                continue  # it was about to be closed
            except ConnectionRefusedError:
                return
            writer.close()
            await writer.wait_closed()


async def gone(path: Path) -> None:
    """Wait until the socket of the former address is gone: the new address is served first."""
    async with asyncio.timeout(60):
        while path.exists():  # noqa: ASYNC110, ASYNC240
            await asyncio.sleep(0.005)


def in_a_namespace(scene: Callable[[], Coroutine[None, None, None]]) -> None:
    """Run a scene where no other program has the port of the API."""
    with Namespace("api") as namespace:
        namespace.run(["ip", "link", "set", "lo", "up"])
        namespace.call(lambda: asyncio.run(scene()))


def test_the_api_serves_until_the_end(tmp_path: Path) -> None:
    """The server serves from the first configuration to the end; then the socket is gone."""
    socket = tmp_path / "api"

    async def scene() -> str:
        async with running(at(socket)) as setup:
            line = await get(socket)
            assert [] == setup.shown
        return line

    assert "HTTP/1.1 200 OK" == asyncio.run(scene())
    assert not socket.exists()


def test_the_api_moves_to_another_address(tmp_path: Path) -> None:
    """The server follows another configuration; the same configuration changes nothing."""
    old, new = tmp_path / "old", tmp_path / "new"

    async def scene() -> str:
        async with running(at(old)) as setup:
            await get(old)
            before = old.stat().st_ino
            setup.server.follow(at(old))
            await get(old)
            assert before == old.stat().st_ino
            setup.server.follow(at(new))
            answer = await get(new)
            await gone(old)
            return answer

    assert "HTTP/1.1 200 OK" == asyncio.run(scene())


def test_an_address_that_can_not_be_had(tmp_path: Path) -> None:
    """An address that is not available is a fault, and is tried again."""
    socket = tmp_path / "api"
    socket.write_text("a file")

    async def scene() -> None:
        async with running(at(socket)) as setup:
            assert (EventKind.FAULT, "api") == await setup.next()
            socket.unlink()
            assert (EventKind.FAULT_GONE, "api") == await setup.next()
            assert "HTTP/1.1 200 OK" == await get(socket)

    asyncio.run(scene())


def test_the_api_stays_if_the_new_address_is_not_available(tmp_path: Path) -> None:
    """If the new address is not available, the API stays at the old address and shows the fault."""
    old, new = tmp_path / "old", tmp_path / "new"
    new.write_text("a file")

    async def scene() -> None:
        async with running(at(old)) as setup:
            await get(old)
            setup.server.follow(at(new))
            assert (EventKind.FAULT, "api") == await setup.next()
            assert "HTTP/1.1 200 OK" == await get(old)
            new.unlink()
            assert (EventKind.FAULT_GONE, "api") == await setup.next()
            assert "HTTP/1.1 200 OK" == await get(new)
            await gone(old)

    asyncio.run(scene())


def test_an_address_that_is_wanted_no_longer(tmp_path: Path) -> None:
    """The fault ends when the configuration has the old address again."""
    old, new = tmp_path / "old", tmp_path / "new"
    new.write_text("a file")

    async def scene() -> None:
        async with running(at(old)) as setup:
            before = await inode(old)
            setup.server.follow(at(new))
            assert (EventKind.FAULT, "api") == await setup.next()
            setup.server.follow(at(old))
            assert (EventKind.FAULT_GONE, "api") == await setup.next()
            assert before == await inode(old)

    asyncio.run(scene())


def test_the_api_moves_to_all_addresses_with_the_same_port() -> None:
    """The server leaves an address for 0.0.0.0, and returns to it if 0.0.0.0 is not available."""
    single, all_ = on("127.0.0.1"), on("0.0.0.0")  # noqa: S104 - in a separate namespace

    async def scene() -> None:
        async with running(single) as setup:
            assert "HTTP/1.1 200 OK" == await get(("127.0.0.1", PORT))
            setup.server.follow(all_)
            assert "HTTP/1.1 200 OK" == await get(("127.0.0.2", PORT))
            setup.server.follow(single)
            await refused(("127.0.0.2", PORT))
            with socket.create_server(("127.0.0.3", PORT)):
                setup.server.follow(all_)
                assert (EventKind.FAULT, "api") == await setup.next()
                await served(("127.0.0.1", PORT))
            assert (EventKind.FAULT_GONE, "api") == await setup.next()
            assert "HTTP/1.1 200 OK" == await get(("127.0.0.3", PORT))

    in_a_namespace(scene)


def test_connections_are_not_closed_again_and_again() -> None:
    """Tries that close connections become rarer; another address is tried at once."""

    async def closed(seconds: float) -> int:
        """The number of connections that were closed in a time."""
        number, until = 0, asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < until:
            with suppress(TimeoutError, ConnectionRefusedError, ConnectionResetError):
                reader, writer = await connect(("127.0.0.1", PORT))
                with closing(writer):
                    async with asyncio.timeout_at(until):
                        await reader.read()
                        number += 1
            await asyncio.sleep(0.001)
        return number

    async def scene() -> None:
        async with running(on("0.0.0.0")) as setup:  # noqa: S104 - in a separate namespace
            assert "HTTP/1.1 200 OK" == await get(("127.0.0.1", PORT))
            setup.server.follow(on("10.0.0.1"))
            assert (EventKind.FAULT, "api") == await setup.next()
            assert await closed(1) <= 6  # after 0.02 s, 0.04 s, 0.08 s, ...; every 0.02 s it would be 50
            setup.server.follow(on("127.0.0.1"))
            assert (EventKind.FAULT_GONE, "api") == await setup.next()
            await refused(("127.0.0.2", PORT))

    in_a_namespace(scene)


def test_new_tokens_are_used_at_the_same_address(tmp_path: Path) -> None:
    """New tokens are used without closing the socket."""
    at_, old, new = tmp_path / "api", tmp_path / "old", tmp_path / "new"
    old.write_text("first\n")
    new.write_text("second\n")
    old.chmod(0o600)
    new.chmod(0o600)

    async def scene() -> list[int]:
        async with running(at(at_, old)) as setup:
            before = await inode(at_)
            statuses = [await reload(at_, "first")]
            setup.server.follow(at(at_, new))
            async with asyncio.timeout(60):
                while await reload(at_, "first") != HTTPStatus.UNAUTHORIZED:
                    pass
            statuses.append(await reload(at_, "second"))
            assert before == await inode(at_)
            return statuses

    assert [HTTPStatus.OK, HTTPStatus.OK] == asyncio.run(scene())


def test_a_token_file_that_can_not_be_read(tmp_path: Path) -> None:
    """A missing token file is a fault even without requests; the API stays readable."""
    socket, tokens = tmp_path / "api", tmp_path / "tokens"

    async def scene() -> None:
        async with running(at(socket, tokens)) as setup:
            assert (EventKind.FAULT, "token_file") == await setup.next()
            assert "HTTP/1.1 200 OK" == await get(socket)
            tokens.touch(0o600)
            assert (EventKind.FAULT, "token_file") == await setup.next()  # it is empty
            tokens.write_text("secret\n")
            assert (EventKind.FAULT_GONE, "token_file") == await setup.next()
            tokens.unlink()
            assert (EventKind.FAULT, "token_file") == await setup.next()

    asyncio.run(scene())


def test_a_token_file_that_is_not_wanted_any_more(tmp_path: Path) -> None:
    """The fault ends when the configuration has no token file."""
    socket = tmp_path / "api"

    async def scene() -> list[str]:
        async with running(at(socket, tmp_path / "missing")) as setup:
            assert (EventKind.FAULT, "token_file") == await setup.next()
            setup.server.follow(at(socket))
            assert (EventKind.FAULT_GONE, "token_file") == await setup.next()
            return setup.shown

    assert [] == asyncio.run(scene())


async def status_by(host: str) -> int:
    """The status of a request with this Host."""
    reader, writer = await asyncio.open_connection("127.0.0.3", PORT)
    writer.write(f"GET /healthz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    line = await reader.readline()
    await reader.read()
    writer.close()
    await writer.wait_closed()
    return int(line.split()[1])


def test_new_hosts_are_valid_without_a_new_socket() -> None:
    """Configured hosts are valid after a reload, without closing connections."""
    before = on("127.0.0.3")
    after = replace(before, api=replace(before.api, hosts=("lb.example.net",)))

    async def scene() -> None:
        async with running(before) as setup:
            await get(("127.0.0.3", PORT))
            stays = await asyncio.open_connection("127.0.0.3", PORT)
            assert await status_by("lb.example.net") == HTTPStatus.MISDIRECTED_REQUEST
            setup.server.follow(after)
            assert await status_by("lb.example.net") == HTTPStatus.OK
            assert await status_by("evil.example") == HTTPStatus.MISDIRECTED_REQUEST
            stays[1].write(b"GET /healthz HTTP/1.1\r\nHost: lb.example.net\r\n\r\n")
            assert (await stays[0].readline()).split()[1] == b"200"
            stays[1].close()
            await stays[1].wait_closed()

    in_a_namespace(scene)


def test_a_lack_of_descriptors_is_shown(tmp_path: Path) -> None:
    """Refused connections are one fault until connections are accepted again."""

    async def scene() -> list[tuple[EventKind, str]]:
        async with running(at(tmp_path / "api")) as setup:
            await get(tmp_path / "api")
            server = setup.server._server
            assert server is not None
            for reason in ("no connection can be taken", "no connection can be taken", ""):
                server._crowded(reason)
            return [await setup.next() for _ in range(2)]

    assert [(EventKind.FAULT, "api_connections"), (EventKind.FAULT_GONE, "api_connections")] == asyncio.run(scene())


# --- the daemon's own socket ------------------------------------------------------------------------------------------


@asynccontextmanager
async def with_own_socket(first: Config, path: Path) -> AsyncIterator[ServerSetup]:
    """A running server with its own socket."""
    setup = ServerSetup(str(path))
    setup.server.follow(first)
    task = asyncio.create_task(setup.server.run())
    try:
        yield setup
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert not os.path.exists(path)  # noqa: ASYNC240, PTH110


async def mode_of(path: Path, wanted: int) -> None:
    """Wait until the socket has this mode."""
    async with asyncio.timeout(60):
        while not path.exists() or path.stat().st_mode & 0o777 != wanted:  # noqa: ASYNC110, ASYNC240
            await asyncio.sleep(0.005)


def test_the_own_socket(tmp_path: Path) -> None:
    """The own socket answers beside the configured socket, and only there changes need no token. Its mode follows."""
    own, other = tmp_path / "own.sock", tmp_path / "api.sock"

    async def scene() -> None:
        async with with_own_socket(at(other), own) as setup:
            assert "HTTP/1.1 200 OK" == await ask(own, "POST /api/v1/reload")
            assert "HTTP/1.1 403 Forbidden" == await ask(other, "POST /api/v1/reload")
            assert "HTTP/1.1 200 OK" == await get(other)
            await mode_of(own, 0o660)
            setup.server.follow(replace(at(other), api=Api(listen=UnixSocket(str(other)), operators=("root",))))
            await mode_of(own, 0o666)
            setup.server.follow(at(other))
            await mode_of(own, 0o660)
            assert [] == setup.shown

    asyncio.run(scene())


@pytest.mark.parametrize("spelling", ["same", "link"])
def test_the_own_socket_is_the_configured_one(spelling: str, tmp_path: Path) -> None:
    """If `listen` names the own socket, also through a link, there is one socket; afterwards there are two again."""
    own, other = tmp_path / "own.sock", tmp_path / "api.sock"
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "file").touch()

    async def scene() -> None:
        async with with_own_socket(at(other), own) as setup:
            assert "HTTP/1.1 200 OK" == await get(own)
            setup.server.follow(at(own if spelling == "same" else tmp_path / "link" / own.name))
            await gone(other)
            assert "HTTP/1.1 200 OK" == await ask(own, "POST /api/v1/reload")
            assert [] == setup.shown
            setup.server.follow(at(tmp_path / "file"))  # not available: only that is a fault
            assert (EventKind.FAULT, "api") == await setup.next()
            assert "HTTP/1.1 200 OK" == await get(own)
            setup.server.follow(at(other))
            assert "HTTP/1.1 200 OK" == await get(other)
            assert "HTTP/1.1 200 OK" == await get(own)
            assert (EventKind.FAULT_GONE, "api") == await setup.next()
            assert [] == setup.shown

    asyncio.run(scene())


def test_the_own_socket_comes_back(tmp_path: Path) -> None:
    """A socket file that was deleted is made again. A path that is not free is a fault until it is free."""
    own = tmp_path / "own.sock"
    own.write_text("not a socket")

    async def scene() -> None:
        async with with_own_socket(at(tmp_path / "api.sock"), own) as setup:
            assert (EventKind.FAULT, "api_socket") == await setup.next()
            own.unlink()
            assert (EventKind.FAULT_GONE, "api_socket") == await setup.next()
            assert "HTTP/1.1 200 OK" == await get(own)
            own.unlink()
            assert "HTTP/1.1 200 OK" == await get(own)

    asyncio.run(scene())


def test_the_own_socket_is_replaced_by_a_link(tmp_path: Path) -> None:
    """The permissions of another file do not change; the socket comes back when the link is gone."""
    own, secret = tmp_path / "own.sock", tmp_path / "secret"
    secret.touch(0o600)

    async def scene() -> None:
        async with with_own_socket(on("127.0.0.1"), own) as setup:
            await mode_of(own, 0o666)
            own.unlink()
            own.symlink_to(secret)
            assert (EventKind.FAULT, "api_socket") == await setup.next()
            assert 0o600 == secret.stat().st_mode & 0o777
            own.unlink()
            assert (EventKind.FAULT_GONE, "api_socket") == await setup.next()
            await mode_of(own, 0o666)

    in_a_namespace(scene)


def test_two_servers_share_the_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both servers together have no more connections, streams of events and unread bytes than one may have."""
    of_applications = []

    def made(*arguments: Any, **options: Any) -> web.Application:
        of_applications.append(arguments[3])
        return application(*arguments, **options)

    monkeypatch.setattr(module, "application", made)

    async def scene() -> None:
        async with with_own_socket(at(tmp_path / "api.sock"), tmp_path / "own.sock") as setup:
            await setup.server.first_try()
            both = [server._limits for server in (setup.server._server, setup.server._own_server) if server]
            assert 2 == len(both)
            assert of_applications == both
            assert affordable(Limits().connections) == sum(limits.connections for limits in both)
            assert Limits().listeners == sum(limits.listeners for limits in both)
            assert Limits().unsent == sum(limits.unsent for limits in both)

    asyncio.run(scene())


# --- operators --------------------------------------------------------------------------------------------------------


def with_operators(listen: UnixSocket, *groups: str) -> Config:
    return replace(config(DNS), api=Api(listen=listen, operators=groups))


def test_a_slow_directory_service_does_not_hold_up_the_api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The API serves, and asks once, while a group is looked up."""
    known, asked = Event(), []

    def slow(name: str) -> None:
        asked.append(name)
        assert known.wait(20)
        raise KeyError

    monkeypatch.setattr(module, "grp", SimpleNamespace(getgrnam=slow))
    own = tmp_path / "own.sock"

    async def scene() -> None:
        async with with_own_socket(with_operators(UnixSocket(str(tmp_path / "api.sock")), "netops"), own) as setup:
            await setup.server.first_try()
            assert "HTTP/1.1 200 OK" == await ask(own, "POST /api/v1/reload")
            own.unlink()
            assert "HTTP/1.1 200 OK" == await get(own)  # the next round of the server has come
            assert [] == setup.shown
            known.set()
            assert (EventKind.FAULT, "operators") == await setup.next()
            own.unlink()
            assert "HTTP/1.1 200 OK" == await get(own)
            assert ["netops"] == asked

    try:
        asyncio.run(scene())
    finally:
        known.set()


def test_a_group_loses_its_rights_at_once(tmp_path: Path) -> None:
    """A reload takes rights away without waiting for a directory service."""
    listen, server = UnixSocket(str(tmp_path / "api.sock")), ServerSetup().server
    server._numbers = {"netops": 700, "web": 701, "unknown": None}
    server.follow(with_operators(listen, "netops", "web", "unknown", "new"))
    assert {700, 701} == server._operators()
    server.follow(with_operators(listen, "web"))
    assert {701} == server._operators()


def test_operators_that_do_not_exist(tmp_path: Path) -> None:
    """An unknown group is a fault, and the API works."""
    api = Api(listen=UnixSocket(str(tmp_path / "api.sock")), operators=("root", "nobody-has-this-group"))

    async def scene() -> None:
        async with running(replace(config(DNS), api=api)) as setup:
            assert (EventKind.FAULT, "operators") == await setup.next()
            assert "HTTP/1.1 200 OK" == await get(tmp_path / "api.sock")
            setup.server.follow(replace(config(DNS), api=replace(api, operators=("root",))))
            assert (EventKind.FAULT_GONE, "operators") == await setup.next()

    asyncio.run(scene())


def test_operators_that_can_not_be_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look-up without a thread is a fault, the API works, and known groups keep their rights."""

    def refuse(_: tuple[str, ...]) -> dict[str, int | None]:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    api = Api(listen=UnixSocket(str(tmp_path / "api.sock")), operators=("root",))

    async def scene() -> None:
        async with running(replace(config(DNS), api=api)) as setup:
            setup.server._numbers = {"root": 0}
            assert (EventKind.FAULT, "operators") == await setup.next()
            assert "HTTP/1.1 200 OK" == await get(tmp_path / "api.sock")
            assert {0} == setup.server._operators()
            monkeypatch.undo()
            setup.server.follow(replace(config(DNS), api=replace(api, operators=())))
            assert (EventKind.FAULT_GONE, "operators") == await setup.next()

    monkeypatch.setattr(module, "_numbers", refuse)
    asyncio.run(scene())
