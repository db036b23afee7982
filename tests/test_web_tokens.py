"""Who may change things: token files, and what a request has to carry."""

from __future__ import annotations

import hmac
import logging
import os
from typing import TYPE_CHECKING

import pytest
from serving import BEARER, TOKEN, Answer, one_token, run, serving

from nftlb.errors import SystemFault
from nftlb.web import TokenFile, no_tokens
from nftlb.web.tokens import digest

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


@pytest.mark.parametrize(("mode", "warnings"), [(0o600, 0), (0o640, 0), (0o660, 0), (0o644, 1), (0o602, 1)])
def test_a_file_for_everybody_is_warned_of(
    file: Path, mode: int, warnings: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The owner and the group may; it is said once, not at every change."""
    file.chmod(mode)
    tokens = TokenFile(str(file))
    with caplog.at_level(logging.WARNING):
        tokens()
        tokens()

    assert warnings == len(caplog.records)


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
