"""By which names the API may be asked: not by one that another site made point to it, and not by that site's pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from serving import BEARER, TOKEN, head, run, serving

from nftlb.model import UnixSocket
from nftlb.web.hosts import Names, names, own_names

if TYPE_CHECKING:
    from pathlib import Path

OURS = Names(frozenset({"lb.example.net"}), frozenset({"lb1", "lb1.example.org"}))
READS = ("/", "/healthz", "/readyz", "/metrics", "/api/v1/status", "/api/v1/pools/dns", "/api/v1/ruleset")
FURTHER_READS = ("/api/v1/events", "/api/v1/openapi.json", "/nothing")


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1:9146",
        "10.0.0.1:9300",
        "[::1]:9146",
        "[2001:db8::1]",
        "[fe80::1%25eth0]:9146",
        "localhost",
        "LOCALHOST:80",
        "localhost.",
        "a.localhost",
        "lb1",
        "lb1.example.org:9146",
        "lb.example.net",
        "LB.Example.Net.:443",
        "lb.example.net:",
    ],
)
def test_ours(host: str) -> None:
    """Addresses, this host's own names and those of the file, in either case, with a port or without."""
    assert OURS.allows(host)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:9146",
        "lb1.evil.example",
        "evil-lb1",
        "lb.example.net.evil.example",
        "xlb.example.net",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "2130706433",
        "127.1",
        "0x7f000001",
        "::1",
        "[evil.example]",
        "lb1:80:80",
        "lb1@evil.example",
        "lb1 evil",
        "lb1:x",
        ":9146",
        "[]",
    ],
)
def test_not_ours(host: str) -> None:
    """What is merely like a name of ours, and what is no host at all."""
    assert not OURS.allows(host)


def test_own_names_need_no_name_server() -> None:
    """The host's name, and what /etc/hosts calls it by; other lines say nothing of us."""
    text = "127.0.0.1 localhost\n127.0.1.1\tLB1.example.org lb1 # us, evil.example\n#10.0.0.1 lb1 no\n10.0.0.2 lb2\n\n"

    assert {"lb1", "lb1.example.org"} == own_names("lb1", text)
    assert {"lb3"} == own_names("lb3", text)
    assert frozenset() == own_names("", "127.0.0.1\n")
    assert names(("A.example.",)).configured == {"a.example"}


@pytest.mark.parametrize("path", [*READS, *FURTHER_READS])
def test_no_answer_by_another_name(path: str) -> None:
    """421 everywhere, with what is allowed and how to allow more; nothing of the state is in it."""

    async def test() -> None:
        async with serving(allowed=lambda: OURS) as world:
            for method in ("GET", "HEAD"):
                answer = await world.ask(method, path, headers={"Host": "evil.example:9146"})
                assert answer.status == 421
            answer = await world.ask("GET", path, headers={"Host": "evil.example:9146"})
            assert answer.error == (
                "evil.example:9146 is no name of this API; allowed: an address, localhost, lb1, lb1.example.org, "
                "and the names in hosts under api"
            )

    run(test())


@pytest.mark.parametrize("path", READS)
def test_an_answer_by_ours(path: str) -> None:
    """Also to a health check of a load balancer, by address and port, and to HTTP/1.0 without any Host."""

    async def test() -> None:
        async with serving(allowed=lambda: OURS) as world:
            for host in ("10.0.0.1:9300", "lb1", "lb.example.net"):
                answer = await world.ask("GET", path, headers={"Host": host})
                assert answer.status in {200, 503}
            answer = await world.send(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            assert answer.status in {200, 503}

    run(test())


def test_two_names_are_one_too_many() -> None:
    """Of two Host headers nobody knows which one a proxy has looked at."""

    async def test() -> None:
        async with serving() as world:
            request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
            assert (await world.send(request)).status == 400

    run(test())


def test_a_unix_socket_has_no_name(tmp_path: Path) -> None:
    """No browser can use it, so a client may send what it likes."""

    async def test() -> None:
        async with serving(listen=UnixSocket(str(tmp_path / "api"))) as world:
            for host in ("evil.example", "test"):
                assert (await world.ask("GET", "/api/v1/status", headers={"Host": host})).status == 200

    run(test())


CHANGES = (
    ("PATCH", "/api/v1/pools/dns/backends/ns1", {"weight": 2}),
    ("POST", "/api/v1/pools/dns/backends", {"name": "ns9", "address": "10.0.0.9"}),
    ("DELETE", "/api/v1/pools/dns/backends/ns2", None),
    ("POST", "/api/v1/reload", None),
)


@pytest.mark.parametrize(("method", "path", "body"), CHANGES)
@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "null",
        "",
        "http://lb1:8080",
        "http://lb1.evil.example",
        "http://[",
        "lb1:9146",
        "file://",
        "https://lb1:443",
    ],
)
def test_no_change_from_another_sites_page(method: str, path: str, body: object, origin: str) -> None:
    """403, even with the token: a page of another site, or of another port of this host."""

    async def test() -> None:
        async with serving(allowed=lambda: OURS) as world:
            headers = {"Host": "lb1:9146", "Origin": origin or " "}
            answer = await world.ask(method, path, body, headers)
            assert answer.status == 403
            assert "may not change anything" in answer.error
            assert [] == world.service.done

    run(test())


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("lb1:9146", "http://lb1:9146"),
        ("LB1:9146", "http://lb1:9146"),
        ("lb1", "http://lb1"),
        ("lb1:80", "http://lb1"),
        ("lb.example.net", "https://lb.example.net"),
        ("127.0.0.1:9146", "https://lb.example.net"),
        ("[::1]:9146", "http://[::1]:9146"),
    ],
)
def test_changes_from_our_own_page(host: str, origin: str) -> None:
    """The same origin, or a name of the file: a proxy may have put another Host in its place."""

    async def test() -> None:
        async with serving(allowed=lambda: OURS) as world:
            answer = await world.ask(*CHANGES[0], headers={"Host": host, "Origin": origin})
            assert answer.status == 200

    run(test())


def test_reading_has_no_such_limit() -> None:
    """A browser tells a page of another site nothing of our answers: no header allows that."""

    async def test() -> None:
        async with serving() as world:
            headers = {"Host": "localhost", "Origin": "http://evil.example"}
            answer = await world.ask("GET", "/api/v1/status", headers=headers)
            assert answer.status == 200
            assert not [name for name in answer.headers if name.startswith("access-control")]
            preflight = await world.send(head("OPTIONS", "/api/v1/reload", {**headers, "Connection": "close"}))
            assert preflight.status == 405
            assert not [name for name in preflight.headers if name.startswith("access-control")]

    run(test())


def test_a_foreign_name_is_refused_before_the_token() -> None:
    """Nothing is compared for it."""

    async def test() -> None:
        async with serving(allowed=lambda: OURS) as world:
            for token in (TOKEN, "wrong"):
                headers = {**BEARER, "Authorization": f"Bearer {token}", "Host": "evil.example"}
                assert (await world.ask(*CHANGES[3], headers=headers)).status == 421

    run(test())
