"""The names of clients, and the order of their requests."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING

from web_server import head, read_answer, run, serving, until

from nftlb.model import Endpoint, UnixSocket
from nftlb.web import Limits
from nftlb.web.connection import AT_ONCE, Turns, name_of, network

if TYPE_CHECKING:
    from pathlib import Path

REQUEST = head("GET", "/healthz", {"Host": "localhost"})


def test_clients_are_distinguished_by_address_or_network() -> None:
    """IPv4 clients are named by address; IPv6 clients by their /64 network, which may belong to a single host."""
    assert "192.0.2.1" == network("192.0.2.1") == network("::ffff:192.0.2.1")
    assert "2001:db8:0:1::/64" == network("2001:db8:0:1::5") == network("2001:db8:0:1:ffff::6")
    assert "fe80::/64" == network("fe80::1%eth0")
    assert network("2001:db8:0:2::5") != network("2001:db8:0:1::5")
    assert "a client that left" == name_of(None)


def test_clients_of_a_unix_socket_are_distinguished_by_user(tmp_path: Path) -> None:
    """Clients of a Unix socket are named by their user."""

    async def test() -> None:
        async with serving(listen=UnixSocket(str(tmp_path / "api"))) as api:
            await api.connect()
            await until(lambda: api.connections)
            assert [f"the local user {os.getuid()}"] == [connection.client for connection in api.connections]
        async with serving() as api:
            await api.connect()
            await until(lambda: api.connections)
            assert ["127.0.0.1"] == [connection.client for connection in api.connections]

    run(test())


def test_turns_are_shared_out() -> None:
    """A turn of the loop begins a few requests, and a new client does not wait for all requests of a busy client."""
    order: list[str] = []
    turns: list[int] = []

    async def ask(turns_: Turns, client: str) -> None:
        await turns_.wait(client)
        order.append(client)

    async def test() -> None:
        loop, turns_ = asyncio.get_running_loop(), Turns()
        tasks = [asyncio.create_task(ask(turns_, "many")) for _ in range(10 * AT_ONCE)]
        tasks.append(asyncio.create_task(ask(turns_, "few")))

        def turn() -> None:
            turns.append(len(order))
            if len(order) < len(tasks):
                loop.call_soon(turn)

        turn()
        await asyncio.gather(*tasks)

    run(test())
    assert {"many": 10 * AT_ONCE, "few": 1} == Counter(order)
    assert order.index("few") <= 2 * AT_ONCE
    assert max(after - before for before, after in pairwise(turns)) <= AT_ONCE


def test_abandoned_requests_are_dropped() -> None:
    """Abandoned requests delay no other request, and are forgotten."""

    async def test() -> None:
        turns = Turns()
        gone = [asyncio.ensure_future(turns.wait("gone")) for _ in range(10 * AT_ONCE)]
        await asyncio.sleep(0)
        for task in gone:
            task.cancel()
        await turns.wait("there")
        await asyncio.gather(*gone, return_exceptions=True)
        await until(lambda: not turns._armed)
        assert {} == turns._waiting

    run(test())


def test_a_busy_client_does_not_block_others() -> None:
    """If a client uses all connections and sends requests all the time, other clients still get responses."""

    async def flood(port: int) -> None:
        while True:
            with suppress(OSError, asyncio.IncompleteReadError):
                streams = await asyncio.open_connection("127.0.0.1", port, local_addr=("127.0.0.2", 0))
                try:
                    while True:
                        streams[1].write(REQUEST * 10)
                        for _ in range(10):
                            await read_answer(streams)
                finally:
                    streams[1].close()

    async def test() -> None:
        async with serving(limits=Limits(connections=20)) as api:
            assert isinstance(api.server.bound, Endpoint)
            floods = [asyncio.ensure_future(flood(api.server.bound.port)) for _ in range(40)]
            await until(lambda: len(api.connections) == 20)
            streams = await api.connect()
            for _ in range(100):
                streams[1].write(REQUEST)
                assert 200 == (await read_answer(streams)).status
            for task in floods:
                task.cancel()
            await asyncio.gather(*floods, return_exceptions=True)

    run(test())
