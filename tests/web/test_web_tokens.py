"""Authorisation of changes: token files, and the tokens of requests."""

from __future__ import annotations

import asyncio
import grp
import hmac
import os
from typing import TYPE_CHECKING
from unittest.mock import AsyncMock, Mock

import pytest
from web_server import BEARER, TOKEN, Answer, RunningApi, head, one_token, read_answer, run, serving

from nftlb.errors import SystemFault
from nftlb.files import exposure
from nftlb.model import UnixSocket
from nftlb.web import TokenFile, no_tokens
from nftlb.web.admission import EVERY, FREE, MOST, Admission, FailureLimiter, digest
from nftlb.web.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

CHANGE = "PATCH", "/api/v1/pools/dns/backends/ns1", {"weight": 2}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(f"# of the operators\n\n  {TOKEN}\t\nsecond\r\n#third\n")
    path.chmod(0o640)
    return path


def reader(path: Path) -> Callable[[], Mapping[bytes, str]]:
    """A function that returns the present tokens of a file. All calls use one TokenFile."""
    tokens = TokenFile(str(path))

    async def read() -> Mapping[bytes, str]:
        return await tokens()

    return lambda: asyncio.run(read())


def digests(*tokens: str) -> dict[bytes, str]:
    """Names of tokens that have none in the file, by the digests of the tokens."""
    return {digest(token.encode()): f"token {number}" for number, token in enumerate(tokens, 1)}


def test_lines_are_tokens(file: Path) -> None:
    """One token a line; comments, empty lines and spaces around tokens are ignored."""
    assert digests(TOKEN, "second") == reader(file)()


def test_a_changed_file_is_read_again(file: Path) -> None:
    """After a write in place or a replacement the next call has the new tokens."""
    tokens = reader(file)
    tokens()

    file.write_text("other\n")
    assert digests("other") == tokens()

    replacement = file.with_name("new")
    replacement.write_text("fresh\n")  # of the same length as before
    replacement.chmod(0o600)
    replacement.replace(file)
    assert digests("fresh") == tokens()


def test_an_unchanged_file_is_not_read_again(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call costs one stat(2)."""
    tokens = reader(file)
    tokens()
    monkeypatch.setattr(os, "open", lambda *_: pytest.fail("it was opened"))

    assert digests(TOKEN, "second") == tokens()


def test_a_missing_file(file: Path) -> None:
    """Without the file no token is valid; when the file is back, its tokens are valid."""
    tokens = reader(file)
    tokens()
    text = file.read_text()

    file.unlink()
    for _ in range(2):
        with pytest.raises(SystemFault, match="No such file"):
            tokens()

    file.write_text(text)
    file.chmod(0o600)
    assert digests(TOKEN, "second") == tokens()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no token"),
        ("# only\n\n", "has no token"),
        ("x" * 70_000, "larger than 64 KiB; allowed: one token a line"),
    ],
)
def test_an_unusable_file(file: Path, text: str, message: str) -> None:
    """An empty file is a SystemFault: it must not silently allow, or refuse, all changes."""
    file.write_text(text)
    tokens = reader(file)

    for _ in range(2):
        with pytest.raises(SystemFault, match=message):
            tokens()


def test_only_regular_files(tmp_path: Path) -> None:
    """A FIFO, which does not block the daemon, and a directory are a SystemFault."""
    os.mkfifo(tmp_path / "fifo")

    with pytest.raises(SystemFault, match="not a regular file"):
        reader(tmp_path / "fifo")()
    with pytest.raises(SystemFault, match="not a regular file"):
        reader(tmp_path)()


@pytest.mark.parametrize("mode", [0o400, 0o440, 0o600, 0o640])
def test_a_file_for_the_owner_and_our_group(file: Path, mode: int) -> None:
    """The permissions of the package, the Ansible role and systemd's credentials are allowed."""
    file.chmod(mode)

    assert digests(TOKEN, "second") == reader(file)()


@pytest.mark.parametrize(
    ("mode", "who"),
    [
        (0o644, "every user of this host may read it"),
        (0o604, "every user of this host may read it"),
        (0o646, "every user of this host may write it"),
        (0o602, "every user of this host may write it"),
        (0o601, "every user of this host may read it"),
        (0o660, "may write it"),
        (0o620, "may write it"),
    ],
)
def test_a_file_for_others_is_refused(file: Path, mode: int, who: str) -> None:
    """As ssh does; the message has the fix, after which the tokens are valid without a restart."""
    tokens = reader(file)
    tokens()
    file.chmod(mode)

    for _ in range(2):
        with pytest.raises(SystemFault, match=rf"{who} \(mode 0{mode:o}\); fix: chmod 600 {file}"):
            tokens()

    file.chmod(0o600)
    assert digests(TOKEN, "second") == tokens()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_file_for_another_group_is_refused(file: Path) -> None:
    """Only the group of this process and the group nftlb may read it."""
    file.chmod(0o640)
    os.chown(file, -1, 54321)
    with pytest.raises(SystemFault, match="its group 54321 may read it"):
        reader(file)()


def test_a_file_for_the_group_nftlb(monkeypatch: pytest.MonkeyPatch) -> None:
    """The group nftlb may read it, also if the daemon runs as root."""
    status = os.stat_result((0o100640, 0, 0, 1, 0, 54321, 0, 0, 0, 0))
    assert "its group 54321 may read it (mode 0640)" == exposure(status)

    monkeypatch.setattr(grp, "getgrnam", lambda name: Mock(gr_gid={"nftlb": 54321}[name]))
    assert "" == exposure(status)


def test_valid_tokens() -> None:
    """Each token of the file is valid; the case of the scheme does not matter."""

    async def test() -> None:
        async with serving(tokens=AsyncMock(return_value=digests("first", TOKEN))) as api:
            for value in (f"Bearer {TOKEN}", f"bearer {TOKEN}", f"BEARER  {TOKEN}", "Bearer first"):
                assert (await api.ask(*CHANGE, headers={"Authorization": value})).status == 200

    run(test())


@pytest.mark.parametrize(
    "value",
    [
        "",
        TOKEN,
        f"Basic {TOKEN}",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        "Bearer \u00e9",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN.upper()}",
        f"Bearer {TOKEN} {TOKEN}",
        f"Bearer {TOKEN},",
    ],
)
def test_invalid_tokens(value: str) -> None:
    """Response 401 with the challenge of RFC 6750, and no change."""

    async def test() -> None:
        async with serving() as api:
            answer = await api.ask(*CHANGE, headers={"Authorization": value})
            assert answer.status == 401
            assert answer.headers["www-authenticate"].startswith('Bearer realm="nftlb"')
            assert "token" in answer.error
            assert api.service.done == []

    run(test())


def test_a_wrong_token_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """One line with client and request, for any path; a missing token is not logged."""

    async def test() -> None:
        async with serving() as api:
            wrong = {"Authorization": "Bearer wrong"}
            await api.ask("DELETE", "/api/v1/pools/a%0ab%1b/backends/c", headers=wrong)
            await api.ask(*CHANGE, headers={"Authorization": ""})

    run(test())
    path = '"/api/v1/pools/a\\nb\\u001b/backends/c"'
    assert [f"refused DELETE {path} from 127.0.0.1: wrong token"] == [record.getMessage() for record in caplog.records]


async def statuses(api: RunningApi, token: str, count: int, more: dict[str, str] | None = None) -> list[int]:
    headers = {"Authorization": f"Bearer {token}", **(more or {})}
    return [(await api.ask(*CHANGE, headers=headers)).status for _ in range(count)]


@pytest.mark.parametrize("change", [CHANGE, ("POST", "/api/v1/reload", None), ("DELETE", f"{CHANGE[1]}", None)])
def test_wrong_tokens_are_limited(change: tuple[str, str, object], caplog: pytest.LogCaptureFixture) -> None:
    """After ten in a row, 429 with the seconds to wait, for any token; reading still works."""

    async def test() -> None:
        async with serving() as api:
            wrong = {"Authorization": "Bearer wrong"}
            assert [401] * FREE == [(await api.ask(*change, headers=wrong)).status for _ in range(FREE)]
            for headers in (wrong, BEARER):
                answer = await api.ask(*change, headers=headers)
                assert answer.status == 429
                assert 1 <= int(answer.headers["retry-after"]) <= EVERY
                assert answer.error == "too many wrong tokens came from 127.0.0.1; allowed: one in 6 s"
            assert (await api.ask(*change, headers={"Authorization": ""})).status == 401
            assert (await api.get("/api/v1/status")).status == 200
            assert [] == api.service.done

    run(test())
    assert len(caplog.records) == FREE  # no line for tokens that were not compared


def test_others_are_not_limited(tmp_path: Path) -> None:
    """A valid token from another address of the same network is accepted."""

    async def test() -> None:
        async with serving() as api:
            assert 429 == (await statuses(api, "wrong", FREE + 1))[-1]
            bound = api.server.bound
            streams = await asyncio.open_connection(str(bound.address), bound.port, local_addr=("127.0.0.77", 0))  # type: ignore[union-attr]
            api.clients.append(streams)
            streams[1].write(head("DELETE", CHANGE[1], {"Host": "localhost", **BEARER}))
            assert (await read_answer(streams)).status == 204
        async with serving(listen=UnixSocket(str(tmp_path / "api"))) as api:
            proxied = {"Via": "1.1 proxy"}  # else this user would need no token
            assert [401] * FREE + [429] == await statuses(api, "wrong", FREE + 1, proxied)
            assert f"from the local user {os.geteuid()};" in (await api.ask(*CHANGE, headers=proxied)).error

    run(test())


def test_right_tokens_are_not_counted() -> None:
    """Any number of valid tokens, with wrong ones below the limit between them."""

    async def test() -> None:
        async with serving() as api:
            assert {401} == set(await statuses(api, "wrong", FREE - 1))
            assert {200} == set(await statuses(api, TOKEN, 3 * FREE))
            assert [401, 429] == await statuses(api, "wrong", 2)

    run(test())


def test_the_limit_in_time() -> None:
    """One more attempt every six seconds; after a minute all ten, and never more."""
    attempts = FailureLimiter(10, 6.0)
    for _ in range(10):
        assert 0 == attempts.wait("a", 100.0)
        attempts.failed("a", 100.0)
    assert 6.0 == attempts.wait("a", 100.0)
    assert 0 == attempts.wait("b", 100.0)
    assert 0 == attempts.wait("a", 106.0)
    attempts.failed("a", 106.0)
    assert 6.0 == attempts.wait("a", 106.0)
    for _ in range(10):
        assert 0 == attempts.wait("a", 1000.0)
        attempts.failed("a", 1000.0)
    assert 6.0 == attempts.wait("a", 1000.0)


def test_the_limit_has_bounded_memory() -> None:
    """For more clients than the maximum, the client with the oldest failure is forgotten."""
    attempts = FailureLimiter(1, 6.0)
    for number in range(10 * MOST):
        attempts.failed(str(number), number / 1000)
    assert MOST == len(attempts._until)
    assert attempts.wait(str(10 * MOST - 1), 10.0) > 0


def test_the_log_has_a_limit_too(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong tokens from a thousand addresses give few lines; the next line has the number of those not logged."""
    admission = Admission(one_token)
    request = Mock(headers=Mock(getall=lambda *_: ["Bearer wrong"]), path="/a", method="POST")
    loop = Mock()
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: loop)

    def wrong(address: str, now: float) -> None:
        request.transport.get_extra_info.return_value = (address, 1)
        loop.time.return_value = now
        with pytest.raises(RequestError):
            admission.admit(request)().__await__().send(None)  # nothing is awaited

    for number in range(1000):
        wrong(f"10.0.{number // 250}.{number % 250}", 50.0)
    assert 2 * FREE == len(caplog.records)
    wrong("10.1.0.0", 50.0 + EVERY)
    assert (
        caplog.records[-1].getMessage().endswith(f"wrong token; {1000 - 2 * FREE} more before this one were not logged")
    )


def test_two_authorization_headers() -> None:
    """Refused: a proxy may have checked either of the two."""

    async def test() -> None:
        async with serving() as api:
            request = b"DELETE /api/v1/pools/dns/backends/ns1 HTTP/1.1\r\nHost: localhost\r\n"
            header = f"Authorization: {BEARER['Authorization']}\r\n".encode()
            assert (await api.send(request + header + header + b"\r\n")).status == 401
            assert (await api.send(request + header + b"\r\n")).status == 204

    run(test())


def test_all_tokens_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """In constant time, over digests of one length, also after a match."""
    compared: list[tuple[bytes, bytes]] = []
    compare = hmac.compare_digest

    def watched(first: bytes, second: bytes) -> bool:
        compared.append((first, second))
        return compare(first, second)

    monkeypatch.setattr(hmac, "compare_digest", watched)
    known = digests("a", "a much longer one", TOKEN)

    async def test() -> None:
        async with serving(tokens=AsyncMock(return_value=known)) as api:
            for token, status in ((TOKEN, 200), ("a", 200), ("wrong", 401)):
                compared.clear()
                answer = await api.ask(*CHANGE, headers={"Authorization": f"Bearer {token}"})
                assert status == answer.status
                assert known.keys() == {other for _, other in compared}
                assert len(compared) == 3
                assert {32} == {len(token) for pair in compared for token in pair}

    run(test())


async def _refused(tokens: object) -> list[Answer]:
    async with serving(tokens=tokens) as api:
        answers = [
            await api.ask(*CHANGE),
            await api.ask("POST", "/api/v1/pools/dns/backends", {"name": "a", "address": "10.0.0.1"}),
            await api.ask("DELETE", "/api/v1/pools/dns/backends/ns1"),
            await api.ask("POST", "/api/v1/reload"),
        ]
        assert api.service.done == []
        assert (await api.get("/api/v1/status")).status == 200
        return answers


def test_without_a_token_file_the_api_only_reads() -> None:
    """Response 403 with the reason for every change; reading works."""

    async def test() -> None:
        answers = await _refused(no_tokens)
        assert {403} == {answer.status for answer in answers}
        message = (
            "this API allows no changes over TCP without a token, and no token_file is set under api in the file; at "
            "the daemon's own socket in /run/nftlb, root needs no token"
        )
        assert {message} == {answer.error for answer in answers}

    run(test())


def test_without_a_readable_token_file_nothing_is_changed(tmp_path: Path) -> None:
    """Response 503 with the reason for every change; reading works."""

    async def test() -> None:
        answers = await _refused(TokenFile(str(tmp_path / "missing")))
        assert {503} == {answer.status for answer in answers}
        assert all("missing can't be read: No such file" in answer.error for answer in answers)

    run(test())


def test_reading_needs_no_token() -> None:
    """Reading works with any token file, and with any token or none."""

    async def test() -> None:
        async with serving(tokens=one_token) as api:
            paths = ("/", "/healthz", "/metrics", "/api/v1/status", "/api/v1/pools", "/api/v1/pools/dns")
            for path in (*paths, "/api/v1/ruleset", "/api/v1/openapi.json"):
                assert (await api.get(path)).status == 200
                assert (await api.ask("GET", path, headers={"Authorization": "Bearer wrong"})).status == 200

    run(test())
