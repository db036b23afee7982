"""Listening sockets: files of other processes are kept, and nftlb's own are deleted at the end."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import stat
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

import pytest
from fake_service import two_pools
from web_server import LOOPBACK, head, read_answer, run, serving

from nftlb.errors import SystemFault
from nftlb.metrics import Metrics
from nftlb.model import Endpoint, UnixSocket
from nftlb.web import HttpServer, application
from nftlb.web.server import ListeningSocket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from aiohttp import web


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "api.sock"


@pytest.fixture
def other(path: Path) -> Iterator[socket.socket]:
    """A listening socket of another process with that name."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen(0)
        yield sock


def mode(path: Path) -> int | None:
    """The permissions of a socket; None if there is no such file."""
    return stat.S_IMODE(path.lstat().st_mode) if path.is_socket() else None


def test_a_unix_socket(path: Path) -> None:
    """Only for the owner and the group from the beginning, and deleted at the end."""

    async def test() -> None:
        async with serving(listen=UnixSocket(str(path))) as api:
            assert mode(path) == 0o660
            assert UnixSocket(str(path)) == api.server.bound
            assert (await api.get("/healthz")).status == 200
        assert mode(path) is None

    run(test())


@pytest.mark.parametrize("replace", [Path.symlink_to, Path.hardlink_to])
def test_a_link_that_replaces_a_new_socket(replace: Callable[[Path, Path], None], path: Path) -> None:
    """The owner of the folder replaces the file right after bind(2): the permissions of another file do not change."""
    target = path.with_name("target")

    def replaced(listening: socket.socket, address: str) -> None:
        bind(listening, address)
        path.unlink()
        replace(path, target)

    bind = socket.socket.bind
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(target))
        target.chmod(0o600)
        with (
            patch.object(socket.socket, "bind", replaced),
            pytest.raises(SystemFault, match="another process has replaced this file; end it"),
        ):
            ListeningSocket(UnixSocket(str(path)), 0o666)
        assert mode(target) == 0o600


def test_a_stale_socket_is_replaced(path: Path, other: socket.socket) -> None:
    """A killed daemon leaves a socket file without a listener."""
    other.close()
    assert path.exists()

    async def test() -> None:
        async with serving(listen=UnixSocket(str(path))) as api:
            assert (await api.get("/healthz")).status == 200

    run(test())


def test_a_socket_in_use_is_left_alone(path: Path, other: socket.socket) -> None:
    """If another process listens, also with a full queue, starting fails."""
    for _ in range(3):  # each attempt leaves a connection in the queue of length one
        with pytest.raises(SystemFault, match="another process listens there; end it, or use another path"):
            ListeningSocket(UnixSocket(str(path)))
    assert other.fileno() > 0
    assert path.exists()


def test_a_file_is_left_alone(path: Path) -> None:
    """A file that is not a socket, or a link to a socket, is not deleted."""
    path.write_text("precious")
    with pytest.raises(SystemFault, match="is not a socket"):
        ListeningSocket(UnixSocket(str(path)))
    assert path.read_text() == "precious"

    link = path.with_name("link")
    link.symlink_to(path)
    with pytest.raises(SystemFault, match="is not a socket"):
        ListeningSocket(UnixSocket(str(link)))


def test_a_successor_is_left_alone(path: Path) -> None:
    """If another process has replaced the socket file, it is not deleted at the end."""
    ours = ListeningSocket(UnixSocket(str(path)))
    path.unlink()
    successor = ListeningSocket(UnixSocket(str(path)))

    ours.close()
    assert path.exists()

    successor.close()
    assert not path.exists()


@pytest.mark.parametrize(("name", "reason"), [("x/api.sock", "No such file or directory"), ("x" * 200, "too long")])
def test_an_impossible_path(tmp_path: Path, name: str, reason: str) -> None:
    """The SystemFault names the path and the reason."""
    with pytest.raises(SystemFault, match=f"the API can't listen on unix:{tmp_path}/{name}: .*{reason}"):
        ListeningSocket(UnixSocket(f"{tmp_path}/{name}"))


def test_a_port_in_use() -> None:
    """A SystemFault that names the port."""
    first = ListeningSocket(LOOPBACK)
    assert isinstance(first.bound, Endpoint)

    with pytest.raises(SystemFault, match=f"the API can't listen on {first.bound}: Address already in use"):
        ListeningSocket(first.bound)

    first.close()


def test_an_address_that_is_not_here() -> None:
    """A SystemFault: the address, for instance of VRRP, may be added later."""
    with pytest.raises(SystemFault, match=r"192\.0\.2\.1:9146: Cannot assign requested address"):
        ListeningSocket(Endpoint(ip_address("192.0.2.1"), 9146))


@pytest.mark.parametrize(("listen", "clients"), [("127.0.0.1", ["127.0.0.1"]), ("::1", ["::1"])])
def test_tcp(listen: str, clients: list[str]) -> None:
    """IPv4 and IPv6; the kernel chooses a port for 0."""
    _reach(listen, clients)


def test_all_addresses() -> None:
    """`::` means all addresses of both families."""
    _reach("::", ["::1", "127.0.0.1"])


def _reach(listen: str, clients: list[str]) -> None:
    async def test() -> None:
        async with serving(listen=Endpoint(ip_address(listen), 0)) as api:
            bound = api.server.bound
            assert isinstance(bound, Endpoint)
            assert bound.port > 0
            assert isinstance(bound.address, IPv6Address) == (":" in listen)
            for client in clients:
                streams = await asyncio.open_connection(client, bound.port)
                streams[1].write(head("GET", "/healthz", {"Host": "localhost"}))
                assert (await read_answer(streams)).status == 200
                streams[1].close()

    run(test())


def test_restart_on_the_same_port() -> None:
    """A restart does not wait for old connections to leave TIME_WAIT."""

    async def test() -> None:
        async with serving() as api:
            bound = api.server.bound
            await api.get("/healthz")
        async with serving(listen=bound) as api:
            assert (await api.get("/healthz")).status == 200

    run(test())


def test_constructors_start_nothing(path: Path) -> None:
    """Only `start` listens; `stop` before it, or a second time, does nothing."""

    async def test() -> None:
        server = HttpServer(application(two_pools(), Metrics()), UnixSocket(str(path)))
        await server.stop()
        assert mode(path) is None
        await server.start()
        assert mode(path)
        await server.stop()
        await server.stop()
        assert mode(path) is None

    run(test())


def test_a_start_that_fails_leaves_nothing(path: Path, other: socket.socket) -> None:
    """No socket is left, and `stop` afterwards does nothing."""
    assert other.fileno() > 0

    async def test() -> None:
        server = HttpServer(application(two_pools(), Metrics()), UnixSocket(str(path)))
        with pytest.raises(SystemFault):
            await server.start()
        await server.stop()

    run(test())
    assert path.exists()


def server_that_notes_its_end(path: Path) -> tuple[HttpServer, web.Application, list[web.Application]]:
    """Return a server, its application, and a list that gets the application when the application is cleaned up."""
    ended: list[web.Application] = []

    async def note(app: web.Application) -> None:
        ended.append(app)

    whole = application(two_pools(), Metrics())
    whole.on_cleanup.append(note)
    return HttpServer(whole, UnixSocket(str(path))), whole, ended


def test_a_late_failure_of_a_start(path: Path) -> None:
    """If the loop can't watch the socket, the application is cleaned up and the socket deleted."""

    async def test() -> None:
        server, whole, ended = server_that_notes_its_end(path)
        loop = asyncio.get_running_loop()
        with (
            patch.object(loop, "add_reader", side_effect=OSError("no descriptor")),
            pytest.raises(OSError, match="no"),
        ):
            await server.start()
        assert [whole] == ended
        await server.stop()

    run(test())
    assert not path.exists()


def test_a_stop_without_a_further_thread(path: Path) -> None:
    """The file of the socket stays if no thread can delete it, and the application is cleaned up."""

    async def test() -> None:
        server, whole, ended = server_that_notes_its_end(path)
        await server.start()
        with patch("nftlb.web.server.answer_about", side_effect=BlockingIOError(errno.EAGAIN, "no thread")):
            await server.stop()
        assert [whole] == ended

    run(test())
    assert path.is_socket()


def test_the_access_log_is_off(caplog: pytest.LogCaptureFixture) -> None:
    """By default nothing is logged; with a logger each request has a line."""

    async def test() -> None:
        async with serving() as api:
            await api.get("/healthz")
        assert caplog.records == []
        async with serving(access_log=logging.getLogger("access")) as api:
            await api.get("/healthz")

    with caplog.at_level(logging.INFO):
        run(test())
    assert ["access"] == [record.name for record in caplog.records]
    assert '"GET /healthz HTTP/1.1" 200' in caplog.text
