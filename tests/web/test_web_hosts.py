"""Host names of requests: names and pages of other sites are refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from web_server import BEARER, TOKEN, head, run, serving

from nftlb.model import UnixSocket
from nftlb.web.admission import AllowedHosts, allowed_hosts, own_names

if TYPE_CHECKING:
    from pathlib import Path

OURS = AllowedHosts(frozenset({"lb.example.net"}), frozenset({"lb1", "lb1.example.org"}))
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
def test_allowed_hosts(host: str) -> None:
    """Addresses, this host's own names and those of the file, in any case, with a port or without."""
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
def test_other_hosts(host: str) -> None:
    """Names that are only similar to allowed names, and invalid hosts."""
    assert not OURS.allows(host)


def test_own_names_need_no_name_server() -> None:
    """The host name, and its aliases in /etc/hosts; other lines are ignored."""
    text = "127.0.0.1 localhost\n127.0.1.1\tLB1.example.org lb1 # us, evil.example\n#10.0.0.1 lb1 no\n10.0.0.2 lb2\n\n"

    assert {"lb1", "lb1.example.org"} == own_names("lb1", text)
    assert {"lb3"} == own_names("lb3", text)
    assert frozenset() == own_names("", "127.0.0.1\n")
    assert allowed_hosts(("A.example.",)).configured == {"a.example"}


@pytest.mark.parametrize("path", [*READS, *FURTHER_READS])
def test_other_hosts_are_refused(path: str) -> None:
    """Response 421 for every path, with the allowed names and the setting for more, and without any state."""

    async def test() -> None:
        async with serving(allowed=lambda: OURS) as api:
            for method in ("GET", "HEAD"):
                answer = await api.ask(method, path, headers={"Host": "evil.example:9146"})
                assert answer.status == 421
            answer = await api.ask("GET", path, headers={"Host": "evil.example:9146"})
            assert answer.error == (
                "evil.example:9146 is not a name of this API; allowed: an address, localhost, lb1, lb1.example.org, "
                "and the names in hosts under api"
            )

    run(test())


@pytest.mark.parametrize("path", READS)
def test_allowed_hosts_are_answered(path: str) -> None:
    """Also a load balancer's health check by address and port, and HTTP/1.0 without a Host."""

    async def test() -> None:
        async with serving(allowed=lambda: OURS) as api:
            for host in ("10.0.0.1:9300", "lb1", "lb.example.net"):
                answer = await api.ask("GET", path, headers={"Host": host})
                assert answer.status in {200, 503}
            answer = await api.send(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            assert answer.status in {200, 503}

    run(test())


def test_two_host_headers() -> None:
    """Refused: a proxy may have checked either of the two."""

    async def test() -> None:
        async with serving() as api:
            request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
            assert (await api.send(request)).status == 400

    run(test())


def test_any_host_on_a_unix_socket(tmp_path: Path) -> None:
    """A Unix socket has no name that an attacker could use, so any Host is allowed."""

    async def test() -> None:
        async with serving(listen=UnixSocket(str(tmp_path / "api"))) as api:
            for host in ("evil.example", "test"):
                assert (await api.ask("GET", "/api/v1/status", headers={"Host": host})).status == 200

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
    """Response 403, even with the token, for a page of another site or of another port of this host."""

    async def test() -> None:
        async with serving(allowed=lambda: OURS) as api:
            headers = {"Host": "lb1:9146", "Origin": origin or " "}
            answer = await api.ask(method, path, body, headers)
            assert answer.status == 403
            assert "may not change anything" in answer.error
            assert [] == api.service.done

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
    """The same origin, or a name of the file, since a proxy may have changed Host."""

    async def test() -> None:
        async with serving(allowed=lambda: OURS) as api:
            answer = await api.ask(*CHANGES[0], headers={"Host": host, "Origin": origin})
            assert answer.status == 200

    run(test())


def test_reads_from_other_pages_are_answered() -> None:
    """Reads are answered: without a CORS header the browser hides the response from pages of other sites."""

    async def test() -> None:
        async with serving() as api:
            headers = {"Host": "localhost", "Origin": "http://evil.example"}
            answer = await api.ask("GET", "/api/v1/status", headers=headers)
            assert answer.status == 200
            assert not [name for name in answer.headers if name.startswith("access-control")]
            preflight = await api.send(head("OPTIONS", "/api/v1/reload", {**headers, "Connection": "close"}))
            assert preflight.status == 405
            assert not [name for name in preflight.headers if name.startswith("access-control")]

    run(test())


def test_a_foreign_name_is_refused_before_the_token() -> None:
    """No token is compared for such a request."""

    async def test() -> None:
        async with serving(allowed=lambda: OURS) as api:
            for token in (TOKEN, "wrong"):
                headers = {**BEARER, "Authorization": f"Bearer {token}", "Host": "evil.example"}
                assert (await api.ask(*CHANGES[3], headers=headers)).status == 421

    run(test())
