"""Who may change something at the daemon's own socket without a token: root, the daemon's user, and operators."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from threading import Event
from typing import TYPE_CHECKING, Any
from unittest.mock import AsyncMock, Mock

import pytest
from web_server import BEARER, hang_up, head, one_token, run, serving, until

from nftlb.model import UnixSocket
from nftlb.service import Actor
from nftlb.web import admission, no_tokens
from nftlb.web.peer import MOST_GROUPS, Peer, peer_of, user_name

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from web_server import RunningApi

CHANGE = "PATCH", "/api/v1/pools/dns/backends/ns1", {"weight": 2}
NO_TOKEN = {"Authorization": ""}


@pytest.fixture
def listen(tmp_path: Path) -> UnixSocket:
    return UnixSocket(str(tmp_path / "api.sock"))


def pretend(monkeypatch: pytest.MonkeyPatch, user: int, *groups: int) -> None:
    """Let all clients of a Unix socket seem to be another user."""

    def seen(transport: asyncio.BaseTransport | None) -> Peer | None:
        return None if peer_of(transport) is None else Peer(user, frozenset(groups))

    monkeypatch.setattr(admission, "peer_of", seen)


async def outcome(api: RunningApi, headers: dict[str, str]) -> tuple[int, list[Actor]]:
    api.service.actors.clear()
    answer = await api.ask(*CHANGE, headers=headers)
    return answer.status, list(api.service.actors)


def test_the_own_user_needs_no_token(listen: UnixSocket) -> None:
    """The user of this process changes something without a token, and is named, even without a token file."""

    async def test() -> None:
        me = Actor(user_name(os.geteuid()), "unix socket")
        for tokens in (no_tokens, AsyncMock(return_value={})):
            async with serving(listen=listen, tokens=tokens) as api:
                assert (200, [me]) == await outcome(api, NO_TOKEN)
                assert (200, [me]) == await outcome(api, {"Authorization": "Bearer wrong"})

    run(test())


def test_a_configured_socket_trusts_nobody(listen: UnixSocket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the daemon's own socket has `operators`: at another Unix socket, root needs a token too."""
    pretend(monkeypatch, 0)

    async def test() -> None:
        async with serving(listen=listen, operators=None) as api:
            assert (401, []) == await outcome(api, NO_TOKEN)
            assert (200, [Actor("ann", "unix socket")]) == await outcome(api, BEARER)
        async with serving(listen=listen, operators=None, tokens=no_tokens) as api:
            assert (403, []) == await outcome(api, NO_TOKEN)

    run(test())


def test_a_token_names_a_trusted_user(listen: UnixSocket, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change of root with a valid token has the name of the token; too many wrong tokens make a token unused."""
    pretend(monkeypatch, 0)

    async def test() -> None:
        async with serving(listen=listen) as api:
            assert (200, [Actor("ann", "unix socket")]) == await outcome(api, BEARER)
            for _ in range(admission.FREE):
                assert (200, [Actor("root", "unix socket")]) == await outcome(api, {"Authorization": "Bearer wrong"})
            assert (200, [Actor("root", "unix socket")]) == await outcome(api, BEARER)

    run(test())


async def change_and_leave(
    api: RunningApi, token: Mapping[str, str], asked: Event | asyncio.Event, answer: Event | asyncio.Event
) -> None:
    """Ask for a change, and hang up when the server looks up who asks. Set `answer` then, and wait for the change."""
    body = b'{"weight": 2}'
    headers = {"Host": "localhost", "Content-Type": "application/json", "Content-Length": str(len(body)), **token}
    streams = await api.connect()
    streams[1].write(head("PATCH", CHANGE[1], headers) + body)
    await until(asked.is_set)
    await hang_up(streams)
    await until(lambda: not api.connections)
    assert [] == api.service.actors
    answer.set()
    await until(lambda: api.service.actors)


def test_a_client_that_leaves_while_its_name_is_looked_up(listen: UnixSocket, monkeypatch: pytest.MonkeyPatch) -> None:
    """The change is carried out, with the name."""
    asked, known = Event(), Event()

    def slow(user: int) -> str:
        if user == 54321:
            asked.set()
            assert known.wait(20)
        return f"name of {user}"

    monkeypatch.setattr(admission, "user_name", slow)
    pretend(monkeypatch, 54321, 700)

    async def test() -> None:
        async with serving(listen=listen, operators=lambda: frozenset({700})) as api:
            await change_and_leave(api, {}, asked, known)
            assert [Actor("name of 54321", "unix socket")] == api.service.actors

    try:
        run(test())
    finally:
        known.set()


def test_a_directory_service_that_does_not_answer(listen: UnixSocket, monkeypatch: pytest.MonkeyPatch) -> None:
    """The change is made after a time, and the user has a number instead of a name."""
    known = Event()

    def slow(user: int) -> str:
        assert user != 54321 or known.wait(60)
        return f"name of {user}"

    monkeypatch.setattr(admission, "user_name", slow)
    monkeypatch.setattr(admission, "NAME_SECONDS", 0.05)
    pretend(monkeypatch, 54321, 700)

    async def test() -> None:
        async with serving(listen=listen, operators=lambda: frozenset({700})) as api:
            assert (200, [Actor("user 54321", "unix socket")]) == await outcome(api, NO_TOKEN)

    try:
        run(test())
    finally:
        known.set()


def test_a_token_file_that_does_not_answer(listen: UnixSocket, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change of root without a token does not wait for the tokens. The change of a client that leaves is made."""
    pretend(monkeypatch, 0)
    asked, answered = asyncio.Event(), asyncio.Event()

    async def slow() -> dict[bytes, str]:
        asked.set()
        await answered.wait()
        return await one_token()

    async def test() -> None:
        async with serving(listen=listen, tokens=slow) as api:
            assert (200, [Actor("root", "unix socket")]) == await outcome(api, NO_TOKEN)
            api.service.actors.clear()
            await change_and_leave(api, BEARER, asked, answered)
            assert [Actor("ann", "unix socket")] == api.service.actors

    run(test())


def test_other_users_need_a_token(listen: UnixSocket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other users of the host are refused without a token; reading works for all; root needs none."""
    pretend(monkeypatch, 54321, 54321)

    async def test() -> None:
        async with serving(listen=listen) as api:
            assert (401, []) == await outcome(api, NO_TOKEN)
            assert (200, [Actor("ann", "unix socket")]) == await outcome(api, BEARER)
            assert 200 == (await api.get("/api/v1/status")).status
        async with serving(listen=listen, tokens=no_tokens) as api:
            refused = await api.ask(*CHANGE)
            assert 403 == refused.status
            assert "for user 54321 without a token" in refused.error
            pretend(monkeypatch, 0)
            assert (200, [Actor("root", "unix socket")]) == await outcome(api, NO_TOKEN)

    run(test())


def test_operators_need_no_token(listen: UnixSocket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Members of a group of operators change something; a reload may take the group's right away."""
    pretend(monkeypatch, 54321, 54321, 700)
    groups = {701, 700}

    async def test() -> None:
        async with serving(listen=listen, operators=lambda: frozenset(groups)) as api:
            assert (200, [Actor("user 54321", "unix socket")]) == await outcome(api, NO_TOKEN)
            groups.remove(700)
            assert (401, []) == await outcome(api, NO_TOKEN)

    run(test())


@pytest.mark.parametrize(
    "name", ["Via", "Forwarded", "X-Forwarded-For", "X-Real-IP", "x-forwarded-for", "Sec-Fetch-Site"]
)
def test_a_proxy_of_root_passes_no_rights_on(listen: UnixSocket, name: str) -> None:
    """A request that a proxy passes on needs a token, whatever user runs the proxy."""

    async def test() -> None:
        async with serving(listen=listen) as api:
            assert (401, []) == await outcome(api, {**NO_TOKEN, name: "192.0.2.1"})
            assert (200, [Actor("ann", "unix socket")]) == await outcome(api, {**BEARER, name: "192.0.2.1"})

    run(test())


def test_a_page_in_a_browser_has_no_rights_of_a_relay(listen: UnixSocket) -> None:
    """A page of a site that points its name at a relay to the socket (`ssh -L`) needs a token."""
    page = {"Host": "evil.example:9146", "Origin": "http://evil.example:9146"}

    async def test() -> None:
        async with serving(listen=listen) as api:
            assert (401, []) == await outcome(api, {**NO_TOKEN, **page})
            assert (200, [Actor("ann", "unix socket")]) == await outcome(api, {**BEARER, **page})

    run(test())


def test_a_token_over_tcp_has_a_name_and_an_address() -> None:
    """The change has the name of the token and the address of the client. Over TCP, no user is trusted."""

    async def test() -> None:
        async with serving(operators=lambda: frozenset(os.getgroups())) as api:
            assert (401, []) == await outcome(api, NO_TOKEN)
            assert (200, [Actor("ann", "127.0.0.1")]) == await outcome(api, BEARER)

    run(test())


CONNECT = "import socket, sys; wire = socket.socket(socket.AF_UNIX); wire.connect(chr(0) + sys.argv[1]); input()"


@pytest.mark.parametrize("count", [1, MOST_GROUPS, MOST_GROUPS + 1])
def test_the_kernel_names_the_user_and_the_groups(count: int) -> None:
    """The user and the groups are those of the process that connected; of too many groups, only the first counts."""
    user, group, more = os.geteuid(), os.getegid(), set(os.getgroups())
    options: dict[str, Any] = {}
    if user == 0:
        user, group, more = 12345, 12346, set(range(20000, 20000 + count))
        options = {"user": user, "group": group, "extra_groups": sorted(more)}
    name = f"nftlb-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"\0{name}")
        listening.listen()
        listening.settimeout(20)
        argv = ["/usr/bin/python3", "-c", CONNECT, name]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, **options) as client:
            wire, _ = listening.accept()
            with wire:
                transport = Mock(get_extra_info={"sockname": name, "socket": wire}.__getitem__)
                groups = {group, *(more if len(more) <= MOST_GROUPS else ())}
                assert Peer(user, frozenset(groups)) == peer_of(transport)
            client.communicate(b"\n", 20)
            assert 0 == client.returncode
