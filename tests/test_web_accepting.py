"""Connections at the limit of descriptors: a pause and one message, and all is well again once there are some."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING
from unittest.mock import Mock

import pytest
from serving import run, serving, until

from nftlb.web import accepting as module
from nftlb.web.accepting import Accepting, affordable

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def descriptors_used_up() -> Iterator[None]:
    """Leave this process no descriptor."""
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
        for one in taken:
            os.close(one)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_no_descriptor_is_left(caplog: pytest.LogCaptureFixture) -> None:
    """Told once, however many wait; nothing is logged beside that, and all who waited are answered afterwards."""
    told: list[str] = []

    async def test() -> None:
        async with serving(crowded=told.append) as world:
            bound = world.server.bound
            many = [socket.socket() for _ in range(50)]
            for one in many:
                one.setblocking(False)
            with descriptors_used_up():
                for one in many:
                    one.connect_ex((str(bound.address), bound.port))  # type: ignore[union-attr]
                await until(lambda: told)
                await asyncio.sleep(2.5 * module.PAUSE)  # long enough for two more tries
                assert len(told) == 1
                assert "no descriptor or memory is left: Too many open files" in told[0]
            assert (await world.get("/healthz")).status == 200
            assert told[1:] == [""]
            for one in many:
                one.close()

    run(test())
    assert [] == caplog.records


@pytest.mark.parametrize("number", [errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EPERM])
def test_whatever_accept_says(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One try a pause, whatever the reason: a reason that stays costs no processor."""
    monkeypatch.setattr(module, "PAUSE", 0.05)
    told: list[str] = []

    async def test() -> None:
        listening = Mock(fileno=Mock(return_value=0), accept=Mock(side_effect=OSError(number, os.strerror(number))))
        with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as readable:
            readable.bind("")
            readable.sendto(b"x", readable.getsockname())  # always something to be read
            listening.fileno = readable.fileno
            one = Accepting(listening, asyncio.Protocol, told.append)
            one.start()
            await asyncio.sleep(0.2)
            one.stop()

        assert 2 <= listening.accept.call_count <= 5
        assert len(told) == 1
        assert os.strerror(number) in told[0]

    run(test())


@pytest.mark.parametrize(("limit", "connections"), [(64, 16), (16, 8), (1024, 256), (4096, 512)])
def test_most_descriptors_are_not_for_clients(limit: int, connections: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of those that the process may have: checks, netlink and the state file need the others."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))

    assert connections == affordable(512)
