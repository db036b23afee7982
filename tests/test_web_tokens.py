"""Who may change things: token files, and what a request has to carry."""

from __future__ import annotations

import asyncio
import grp
import hmac
import os
from typing import TYPE_CHECKING
from unittest.mock import Mock

import pytest
from serving import BEARER, TOKEN, Answer, World, head, one_token, read_answer, run, serving

from nftlb.errors import SystemFault
from nftlb.model import UnixSocket
from nftlb.permissions import exposure
from nftlb.web import TokenFile, no_tokens
from nftlb.web import tokens as tokens_module
from nftlb.web.attempts import MOST, Attempts
from nftlb.web.errors import Refused
from nftlb.web.tokens import EVERY, FREE, Admission, digest

if TYPE_CHECKING:
    from pathlib import Path

CHANGE = "PATCH", "/api/v1/pools/dns/backends/ns1", {"weight": 2}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(f"# of the operators\n\n  {TOKEN}\t\nsecond\r\n#third\n")
    path.chmod(0o640)
    return path


def digests(*tokens: str) -> frozenset[bytes]:
    return frozenset(digest(token.encode()) for token in tokens)


def test_lines_are_tokens(file: Path) -> None:
    """One token in a line; comments, empty lines and the space around are left out."""
    assert digests(TOKEN, "second") == TokenFile(str(file))()


def test_a_changed_file_is_read_anew(file: Path) -> None:
    """Written in place or replaced: what is new holds at the next call."""
    tokens = TokenFile(str(file))
    tokens()

    file.write_text("other\n")
    assert digests("other") == tokens()

    replacement = file.with_name("new")
    replacement.write_text("fresh\n")  # as long as the one before
    replacement.chmod(0o600)
    replacement.replace(file)
    assert digests("fresh") == tokens()


def test_an_unchanged_file_is_not_read_again(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call costs one stat(2) then."""
    tokens = TokenFile(str(file))
    tokens()
    monkeypatch.setattr(os, "open", lambda *_: pytest.fail("it was opened"))

    assert digests(TOKEN, "second") == tokens()


def test_a_file_that_is_gone_lets_nobody_in(file: Path) -> None:
    """Tokens that were read before hold no longer; when the file is back, so are they."""
    tokens = TokenFile(str(file))
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
    ("text", "message"), [("", "has no token"), ("# only\n\n", "has no token"), ("x" * 70_000, "larger than 64 KiB")]
)
def test_a_file_without_use_is_a_fault(file: Path, text: str, message: str) -> None:
    """An empty file does not mean that everybody, or nobody, may: somebody has to mend it."""
    file.write_text(text)
    tokens = TokenFile(str(file))

    for _ in range(2):
        with pytest.raises(SystemFault, match=message):
            tokens()


def test_no_regular_file_is_a_fault(tmp_path: Path) -> None:
    """A FIFO does not hold the daemon up, nor does a directory pass."""
    os.mkfifo(tmp_path / "fifo")

    with pytest.raises(SystemFault, match="not a regular file"):
        TokenFile(str(tmp_path / "fifo"))()
    with pytest.raises(SystemFault, match="not a regular file"):
        TokenFile(str(tmp_path))()


@pytest.mark.parametrize("mode", [0o400, 0o440, 0o600, 0o640])
def test_a_file_for_the_owner_and_our_group(file: Path, mode: int) -> None:
    """As the package, the Ansible role and systemd's credentials have it."""
    file.chmod(mode)

    assert digests(TOKEN, "second") == TokenFile(str(file))()


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
    """As ssh does, and with the way to mend it; afterwards its tokens hold, without a restart."""
    tokens = TokenFile(str(file))
    tokens()
    file.chmod(mode)

    for _ in range(2):
        with pytest.raises(SystemFault, match=rf"{who} \(mode 0{mode:o}\); mend: chmod 600 {file}"):
            tokens()

    file.chmod(0o600)
    assert digests(TOKEN, "second") == tokens()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_file_for_another_group_is_refused(file: Path) -> None:
    """But not for the group of this process, or the group nftlb."""
    file.chmod(0o640)
    os.chown(file, -1, 54321)
    with pytest.raises(SystemFault, match="its group 54321 may read it"):
        TokenFile(str(file))()


def test_a_file_for_the_group_nftlb(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the daemon runs as root, or by hand."""
    status = os.stat_result((0o100640, 0, 0, 1, 0, 54321, 0, 0, 0, 0))
    assert "its group 54321 may read it (mode 0640)" == exposure(status)

    monkeypatch.setattr(grp, "getgrnam", lambda name: Mock(gr_gid={"nftlb": 54321}[name]))
    assert "" == exposure(status)


def test_a_token_lets_in() -> None:
    """Any of the tokens; the scheme's case does not matter."""

    async def test() -> None:
        async with serving(tokens=lambda: digests("first", TOKEN)) as world:
            for value in (f"Bearer {TOKEN}", f"bearer {TOKEN}", f"BEARER  {TOKEN}", "Bearer first"):
                assert (await world.ask(*CHANGE, headers={"Authorization": value})).status == 200

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
def test_nothing_else_does(value: str) -> None:
    """401 with the challenge that RFC 6750 asks for, and nothing was done."""

    async def test() -> None:
        async with serving() as world:
            answer = await world.ask(*CHANGE, headers={"Authorization": value})
            assert answer.status == 401
            assert answer.headers["www-authenticate"].startswith('Bearer realm="nftlb"')
            assert "token" in answer.error
            assert world.service.done == []

    run(test())


def test_a_wrong_token_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """With who tried what, in one line whatever the path has in it; a token that is only missing is not."""

    async def test() -> None:
        async with serving() as world:
            wrong = {"Authorization": "Bearer wrong"}
            await world.ask("DELETE", "/api/v1/pools/a%0ab%1b/backends/c", headers=wrong)
            await world.ask(*CHANGE, headers={"Authorization": ""})

    run(test())
    path = '"/api/v1/pools/a\\nb\\u001b/backends/c"'
    assert [f"refused DELETE {path} from 127.0.0.1: wrong token"] == [record.getMessage() for record in caplog.records]


async def statuses(world: World, token: str, count: int) -> list[int]:
    headers = {"Authorization": f"Bearer {token}"}
    return [(await world.ask(*CHANGE, headers=headers)).status for _ in range(count)]


@pytest.mark.parametrize("change", [CHANGE, ("POST", "/api/v1/reload", None), ("DELETE", f"{CHANGE[1]}", None)])
def test_wrong_tokens_are_limited(change: tuple[str, str, object], caplog: pytest.LogCaptureFixture) -> None:
    """After ten in a row 429 with the seconds to wait, for whatever is presented then; reading goes on."""

    async def test() -> None:
        async with serving() as world:
            wrong = {"Authorization": "Bearer wrong"}
            assert [401] * FREE == [(await world.ask(*change, headers=wrong)).status for _ in range(FREE)]
            for headers in (wrong, BEARER):
                answer = await world.ask(*change, headers=headers)
                assert answer.status == 429
                assert 1 <= int(answer.headers["retry-after"]) <= EVERY
                assert answer.error == "too many wrong tokens came from 127.0.0.1; allowed: one in 6 s"
            assert (await world.ask(*change, headers={"Authorization": ""})).status == 401
            assert (await world.get("/api/v1/status")).status == 200
            assert [] == world.service.done

    run(test())
    assert len(caplog.records) == FREE  # none for what was not compared


def test_others_are_not_limited(tmp_path: Path) -> None:
    """A right token from another address, of the same network, is taken."""

    async def test() -> None:
        async with serving() as world:
            assert 429 == (await statuses(world, "wrong", FREE + 1))[-1]
            bound = world.server.bound
            streams = await asyncio.open_connection(str(bound.address), bound.port, local_addr=("127.0.0.77", 0))  # type: ignore[union-attr]
            world.clients.append(streams)
            streams[1].write(head("DELETE", CHANGE[1], {"Host": "localhost", **BEARER}))
            assert (await read_answer(streams)).status == 204
        async with serving(listen=UnixSocket(str(tmp_path / "api"))) as world:
            assert [401] * FREE + [429] == await statuses(world, "wrong", FREE + 1)
            assert f"from the local user {os.geteuid()};" in (await world.ask(*CHANGE)).error

    run(test())


def test_right_tokens_are_not_counted() -> None:
    """However many come, and whatever wrong ones there are between them up to the limit."""

    async def test() -> None:
        async with serving() as world:
            assert {401} == set(await statuses(world, "wrong", FREE - 1))
            assert {200} == set(await statuses(world, TOKEN, 3 * FREE))
            assert [401, 429] == await statuses(world, "wrong", 2)

    run(test())


def test_the_limit_in_time() -> None:
    """One more try in six seconds; all are back after a minute, and never more than that."""
    attempts = Attempts(10, 6.0)
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
    """Whoever has many addresses has the oldest of them forgotten, and no others' are kept for it."""
    attempts = Attempts(1, 6.0)
    for number in range(10 * MOST):
        attempts.failed(str(number), number / 1000)
    assert MOST == len(attempts._until)
    assert attempts.wait(str(10 * MOST - 1), 10.0) > 0


def test_clients_are_told_apart() -> None:
    """By address; in IPv6 by the network of 64 bits, which a single host can have all of."""

    def client(remote: str) -> str:
        return tokens_module._client(Mock(remote=remote))

    assert "192.0.2.1" == client("192.0.2.1") == client("::ffff:192.0.2.1")
    assert "2001:db8:0:1::/64" == client("2001:db8:0:1::5") == client("2001:db8:0:1:ffff::6")
    assert "fe80::/64" == client("fe80::1%eth0")
    assert client("2001:db8:0:2::5") != client("2001:db8:0:1::5")


def test_the_log_has_a_limit_too(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong tokens from a thousand addresses make few lines, and the next line says how many were left out."""
    admission = Admission(one_token)
    request = Mock(headers=Mock(getall=lambda *_: ["Bearer wrong"]), path="/a", method="POST")
    loop = Mock()
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: loop)

    def wrong(address: str, now: float) -> None:
        request.remote, loop.time.return_value = address, now
        with pytest.raises(Refused):
            admission.admit(request)

    for number in range(1000):
        wrong(f"10.0.{number // 250}.{number % 250}", 50.0)
    assert 2 * FREE == len(caplog.records)
    wrong("10.1.0.0", 50.0 + EVERY)
    assert (
        caplog.records[-1].getMessage().endswith(f"wrong token; {1000 - 2 * FREE} more before this one were not logged")
    )


def test_two_headers_do_not() -> None:
    """Of two headers nobody knows which one a proxy has looked at."""

    async def test() -> None:
        async with serving() as world:
            request = b"DELETE /api/v1/pools/dns/backends/ns1 HTTP/1.1\r\nHost: localhost\r\n"
            header = f"Authorization: {BEARER['Authorization']}\r\n".encode()
            assert (await world.send(request + header + header + b"\r\n")).status == 401
            assert (await world.send(request + header + b"\r\n")).status == 204

    run(test())


def test_all_tokens_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """In constant time, over digests of one length, and none is left out when another one fits."""
    compared: list[tuple[bytes, bytes]] = []
    compare = hmac.compare_digest

    def watched(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", watched)
    known = digests("a", "a much longer one", TOKEN)

    async def test() -> None:
        async with serving(tokens=lambda: known) as world:
            for token, status in ((TOKEN, 200), ("a", 200), ("wrong", 401)):
                compared.clear()
                answer = await world.ask(*CHANGE, headers={"Authorization": f"Bearer {token}"})
                assert status == answer.status
                assert known == {other for _, other in compared}
                assert len(compared) == 3
                assert {32} == {len(one) for pair in compared for one in pair}

    run(test())


async def _refused(tokens: object) -> list[Answer]:
    async with serving(tokens=tokens) as world:
        answers = [
            await world.ask(*CHANGE),
            await world.ask("POST", "/api/v1/pools/dns/backends", {"name": "a", "address": "10.0.0.1"}),
            await world.ask("DELETE", "/api/v1/pools/dns/backends/ns1"),
            await world.ask("POST", "/api/v1/reload"),
        ]
        assert world.service.done == []
        assert (await world.get("/api/v1/status")).status == 200
        return answers


def test_without_a_token_file_the_api_only_reads() -> None:
    """403 for every change, which says why; reading goes on."""

    async def test() -> None:
        answers = await _refused(no_tokens)
        assert {403} == {answer.status for answer in answers}
        assert {"this API only reads: the file names no token_file under api"} == {answer.error for answer in answers}

    run(test())


def test_without_a_readable_token_file_nothing_is_changed(tmp_path: Path) -> None:
    """503 for every change, which says why; reading goes on."""

    async def test() -> None:
        answers = await _refused(TokenFile(str(tmp_path / "missing")))
        assert {503} == {answer.status for answer in answers}
        assert all("missing can't be read: No such file" in answer.error for answer in answers)

    run(test())


def test_reading_needs_no_token() -> None:
    """No matter which tokens there are, or what a client presents."""

    async def test() -> None:
        async with serving(tokens=one_token) as world:
            paths = ("/", "/healthz", "/metrics", "/api/v1/status", "/api/v1/pools", "/api/v1/pools/dns")
            for path in (*paths, "/api/v1/ruleset", "/api/v1/openapi.json"):
                assert (await world.get(path)).status == 200
                assert (await world.ask("GET", path, headers={"Authorization": "Bearer wrong"})).status == 200

    run(test())
