"""Accepting connections at the limit of file descriptors: a pause, one message, and recovery."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
import struct
import time
from contextlib import closing, contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest
from web_server import run, serving, until

from nftlb.web import server as module
from nftlb.web.server import Accepting, affordable

if TYPE_CHECKING:
    from collections.abc import Iterator


CLOSED = 3 * module.LOOKS


@contextmanager
def listening(family: socket.AddressFamily) -> Iterator[tuple[socket.socket, Any]]:
    """Listen on the loopback. Return the socket and its address."""
    with socket.socket(family) as client:
        client.bind("" if family == socket.AF_UNIX else ("127.0.0.1", 0))
        client.listen(2 * CLOSED)
        client.setblocking(False)
        yield client, client.getsockname()


@contextmanager
def descriptors_used_up() -> Iterator[None]:
    """Use up all file descriptors of this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - of the process itself
    taken: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 20, hard))
    try:
        while True:
            try:
                taken.append(os.dup(0))
            except OSError:
                break
        yield
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_no_descriptor_is_left(caplog: pytest.LogCaptureFixture) -> None:
    """One message for any number of waiting clients, no other log entry, and afterwards all clients are answered."""
    messages: list[str] = []

    async def test() -> None:
        async with serving(crowded=messages.append) as api:
            bound = api.server.bound
            many = [socket.socket() for _ in range(50)]
            for client in many:
                client.setblocking(False)
            with descriptors_used_up():
                for client in many:
                    client.connect_ex((str(bound.address), bound.port))  # type: ignore[union-attr]
                await until(lambda: messages)
                await asyncio.sleep(2.5 * module.PAUSE)  # enough for two more attempts
                assert len(messages) == 1
                assert "no descriptor or memory is left: Too many open files" in messages[0]
            assert (await api.get("/healthz")).status == 200
            assert messages[1:] == [""]
            for client in many:
                client.close()

    run(test())
    assert [] == caplog.records


@pytest.mark.parametrize("number", [errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EPERM])
def test_any_error_of_accept(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One attempt for each pause, for any error: an error that persists must not use up the processor."""
    monkeypatch.setattr(module, "PAUSE", 0.05)
    messages: list[str] = []

    async def test() -> None:
        listening = Mock(fileno=Mock(return_value=0), accept=Mock(side_effect=OSError(number, os.strerror(number))))
        with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as readable:
            readable.bind("")
            readable.sendto(b"x", readable.getsockname())  # the socket is always readable
            listening.fileno = readable.fileno
            accepting = Accepting(listening, asyncio.Protocol, messages.append)
            began = time.monotonic()
            accepting.start()
            await until(lambda: listening.accept.call_count > 3)
            accepting.stop()

        assert listening.accept.call_count <= 1 + (time.monotonic() - began) / module.PAUSE
        assert len(messages) == 1
        assert os.strerror(number) in messages[0]

    run(test())


@pytest.mark.parametrize("sent", [b"", b"GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n"])
@pytest.mark.parametrize("family", [socket.AF_UNIX, socket.AF_INET])
def test_connections_that_are_closed_already(family: socket.AddressFamily, sent: bytes) -> None:
    """Connections that their clients have closed begin no protocol, and a turn of the loop accepts only a few."""
    begun: list[asyncio.Protocol] = []
    accepted: list[int] = []
    messages: list[str] = []

    def connect() -> asyncio.Protocol:
        begun.append(asyncio.Protocol())
        return begun[-1]

    async def test() -> None:
        with listening(family) as (queue, address):
            for number in range(CLOSED):
                with socket.socket(family) as client:
                    client.connect(address)
                    client.sendall(sent)
                    if number % 2 and family == socket.AF_INET:  # closed by a reset
                        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            with socket.socket(family) as client:
                client.connect(address)
                counted = Mock(fileno=queue.fileno, accept=Mock(side_effect=queue.accept))
                accepts = Accepting(counted, connect, messages.append)
                accepts.start()
                while not begun:
                    accepted.append(counted.accept.call_count)
                    await asyncio.sleep(0)
                accepts.stop()

    run(test())
    assert (1, []) == (len(begun), messages)
    assert max(after - before for before, after in pairwise(accepted)) <= module.LOOKS


@pytest.mark.parametrize("method", ["PATCH", "POST", "PUT", "DELETE"])
@pytest.mark.parametrize("closed", [True, False], ids=["closed", "half closed"])
@pytest.mark.parametrize("family", [socket.AF_UNIX, socket.AF_INET])
def test_changes_of_clients_that_do_not_wait(family: socket.AddressFamily, closed: bool, method: str) -> None:
    """A request for a change is read although the client has closed the connection before it was accepted."""
    request = f"{method} /api/v1/pools/dns/backends/b1 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    received: list[bytes] = []

    class Receiver(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            received.append(data)

    async def test() -> None:
        with listening(family) as (queue, address), socket.socket(family) as client:
            client.connect(address)
            client.sendall(request)
            if closed:
                client.close()
            else:
                client.shutdown(socket.SHUT_WR)
            accepts = Accepting(queue, Receiver, lambda _: None)
            accepts.start()
            await until(lambda: bool(received))
            accepts.stop()

    run(test())
    assert [request] == received


@pytest.mark.parametrize(("limit", "connections"), [(64, 16), (16, 8), (1024, 256), (4096, 512)])
def test_limit_of_connections(limit: int, connections: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of the process's file descriptors: checks, netlink and the state file need the others."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))

    assert connections == affordable(512)
