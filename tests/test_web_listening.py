"""Where the API listens: nothing of somebody else's is taken away, and nothing of ours is left behind."""

from __future__ import annotations

import asyncio
import logging
import socket
import stat
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING
from unittest.mock import patch

import pytest
from fake_service import two_pools
from serving import LOOPBACK, head, read_answer, run, serving

from nftlb.errors import SystemFault
from nftlb.metrics import Metrics
from nftlb.model import Endpoint, UnixSocket
from nftlb.web import Server, application
from nftlb.web.listening import Listening

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from aiohttp import web


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "api.sock"


@pytest.fixture
def other(path: Path) -> Iterator[socket.socket]:
    """Somebody else's listening socket of that name."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen(0)
        yield sock


def mode(path: Path) -> int | None:
    """The permissions of a socket; None if there is nothing of that name."""
    return stat.S_IMODE(path.lstat().st_mode) if path.is_socket() else None


def test_a_unix_socket(path: Path) -> None:
    """Is for the owner and the group only, from the beginning, and gone at the end."""

    async def test() -> None:
        async with serving(listen=UnixSocket(str(path))) as world:
            assert mode(path) == 0o660
            assert UnixSocket(str(path)) == world.server.bound
            assert (await world.get("/healthz")).status == 200
        assert mode(path) is None

    run(test())


def test_a_stale_socket_is_replaced(path: Path, other: socket.socket) -> None:
    """A daemon that was killed leaves a file that nobody listens on."""
    other.close()
    assert path.exists()

    async def test() -> None:
        async with serving(listen=UnixSocket(str(path))) as world:
            assert (await world.get("/healthz")).status == 200

    run(test())


def test_a_socket_in_use_is_left_alone(path: Path, other: socket.socket) -> None:
    """Where somebody listens, we don't; also when its queue is full."""
    for _ in range(3):  # each leaves a connection in the queue, which takes one
        with pytest.raises(SystemFault, match="another process does"):
            Listening(UnixSocket(str(path)))
    assert other.fileno() > 0
    assert path.exists()


def test_a_file_is_left_alone(path: Path) -> None:
    """What is no socket, a link to one included, is not ours to remove."""
    path.write_text("precious")
    with pytest.raises(SystemFault, match="it is no socket"):
        Listening(UnixSocket(str(path)))
    assert path.read_text() == "precious"

    link = path.with_name("link")
    link.symlink_to(path)
    with pytest.raises(SystemFault, match="it is no socket"):
        Listening(UnixSocket(str(link)))


def test_a_successor_is_left_alone(path: Path) -> None:
    """Who took the name over in the meantime keeps its file when we close."""
    ours = Listening(UnixSocket(str(path)))
    path.unlink()
    successor = Listening(UnixSocket(str(path)))

    ours.close()
    assert path.exists()

    successor.close()
    assert not path.exists()


@pytest.mark.parametrize(("name", "reason"), [("x/api.sock", "No such file or directory"), ("x" * 200, "too long")])
def test_a_place_that_can_not_be(tmp_path: Path, name: str, reason: str) -> None:
    """The fault names the place and the reason."""
    with pytest.raises(SystemFault, match=f"the API can't listen on unix:{tmp_path}/{name}: .*{reason}"):
        Listening(UnixSocket(f"{tmp_path}/{name}"))


def test_a_port_in_use() -> None:
    """Is a fault, which names it."""
    first = Listening(LOOPBACK)
    assert isinstance(first.bound, Endpoint)

    with pytest.raises(SystemFault, match=f"the API can't listen on {first.bound}: Address already in use"):
        Listening(first.bound)

    first.close()


def test_an_address_that_is_not_here() -> None:
    """Is a fault as well: one of VRRP may come later."""
    with pytest.raises(SystemFault, match=r"192\.0\.2\.1:9146: Cannot assign requested address"):
        Listening(Endpoint(ip_address("192.0.2.1"), 9146))


@pytest.mark.parametrize(("listen", "clients"), [("127.0.0.1", ["127.0.0.1"]), ("::1", ["::1"])])
def test_tcp(listen: str, clients: list[str]) -> None:
    """Of either family, at a port of the kernel's choice if it is 0."""
    _reach(listen, clients)


def test_all_addresses() -> None:
    """`::` is all of them, of both families, as in the file."""
    _reach("::", ["::1", "127.0.0.1"])


def _reach(listen: str, clients: list[str]) -> None:
    async def test() -> None:
        async with serving(listen=Endpoint(ip_address(listen), 0)) as world:
            bound = world.server.bound
            assert isinstance(bound, Endpoint)
            assert bound.port > 0
            assert isinstance(bound.address, IPv6Address) == (":" in listen)
            for client in clients:
                streams = await asyncio.open_connection(client, bound.port)
                streams[1].write(head("GET", "/healthz", {"Host": "localhost"}))
                assert (await read_answer(streams)).status == 200
                streams[1].close()

    run(test())


def test_a_port_can_be_had_again_at_once() -> None:
    """A restart does not wait for the connections of before to be forgotten."""

    async def test() -> None:
        async with serving() as world:
            bound = world.server.bound
            await world.get("/healthz")
        async with serving(listen=bound) as world:
            assert (await world.get("/healthz")).status == 200

    run(test())


def test_constructors_start_nothing(path: Path) -> None:
    """Only `start` listens, and `stop` without it, or twice, does nothing."""

    async def test() -> None:
        server = Server(application(two_pools(), Metrics()), UnixSocket(str(path)))
        await server.stop()
        assert mode(path) is None
        await server.start()
        assert mode(path)
        await server.stop()
        await server.stop()
        assert mode(path) is None

    run(test())


def test_a_start_that_fails_leaves_nothing(path: Path, other: socket.socket) -> None:
    """And `stop` after it is no error."""
    assert other.fileno() > 0

    async def test() -> None:
        server = Server(application(two_pools(), Metrics()), UnixSocket(str(path)))
        with pytest.raises(SystemFault):
            await server.start()
        await server.stop()

    run(test())
    assert path.exists()


def test_what_was_begun_when_a_start_fails_ends(path: Path) -> None:
    """The application is cleaned up, and the socket goes, when the loop can't take it."""
    ended: list[web.Application] = []

    async def note(one: web.Application) -> None:
        ended.append(one)

    async def test() -> None:
        whole = application(two_pools(), Metrics())
        whole.on_cleanup.append(note)
        server = Server(whole, UnixSocket(str(path)))
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


def test_the_access_log_is_off(caplog: pytest.LogCaptureFixture) -> None:
    """Unless somebody gives a logger for it; then each request has its line."""

    async def test() -> None:
        async with serving() as world:
            await world.get("/healthz")
        assert caplog.records == []
        async with serving(access_log=logging.getLogger("access")) as world:
            await world.get("/healthz")

    with caplog.at_level(logging.INFO):
        run(test())
    assert ["access"] == [record.name for record in caplog.records]
    assert '"GET /healthz HTTP/1.1" 200' in caplog.text
