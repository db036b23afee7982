"""The API's client: what it asks, what it makes of answers, and how every failure ends a command."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import pytest
from fake_api import TOKEN, backend, fake_api, troubled
from hypothesis import given, settings
from hypothesis import strategies as st

from nftlb import service
from nftlb.client import (
    Address,
    Backend,
    Client,
    ConfigState,
    Fault,
    KernelState,
    Pool,
    Refused,
    Rejected,
    Seen,
    Unknown,
    Unreachable,
    read_address,
    read_status,
)
from nftlb.errors import ConfigError, NftlbError

if TYPE_CHECKING:
    from pathlib import Path

PATCH = ("PATCH", "/api/v1/pools/dns/backends/ns1")
RELOAD = ("POST", "/api/v1/reload")
STATUS = ("GET", "/api/v1/status")


# --- addresses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "address", "shown"),
    [
        ("http://127.0.0.1:9146", Address(), "http://127.0.0.1:9146"),
        ("127.0.0.1:9147/", Address(port=9147), "http://127.0.0.1:9147"),
        ("http://[::1]", Address("::1"), "http://[::1]:9146"),
        ("https://lb1.example:443/nftlb/", Address("lb1.example", 443, tls=True, prefix="/nftlb"), None),
        ("unix:/run/nftlb/api.sock", Address(socket="/run/nftlb/api.sock"), "unix:/run/nftlb/api.sock"),
    ],
)
def test_addresses(text: str, address: Address, shown: str | None) -> None:
    """URLs, what `api.listen` takes, and back."""
    assert address == read_address(text)
    if shown is not None:
        assert shown == str(address)


@pytest.mark.parametrize(
    "text", ["", "ftp://a", "http://", "http://a:b", "http://a:99999", "unix:relative", "unix:", "http://u:p@h", "a b"]
)
def test_what_is_no_address(text: str) -> None:
    """It is bad input, with what is allowed."""
    with pytest.raises(ConfigError, match="allowed: http://ADDRESS:PORT"):
        read_address(text)


@settings(deadline=None)
@given(st.text())
def test_any_text_is_an_address_or_bad_input(text: str) -> None:
    """Nothing else happens; and what is one is read back from what it shows."""
    try:
        address = read_address(text)
    except ConfigError:
        return
    assert address == read_address(str(address))


# --- what the daemon says ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (Seen, service.Status),
        (Pool, service.PoolStatus),
        (Backend, service.BackendStatus),
        (ConfigState, service.ConfigStatus),
        (KernelState, service.KernelStatus),
        (Fault, service.Fault),
    ],
)
def test_what_is_read_is_what_the_daemon_writes(ours: type[Any], theirs: type[Any]) -> None:
    """All that a command reads is in the daemon's models."""
    assert set() == {one.name for one in fields(ours)} - set(theirs.model_fields)


@pytest.mark.parametrize("over", ["tcp", "unix"])
def test_status(over: str, tmp_path: Path) -> None:
    """The whole status comes over either transport, as the daemon's models hold it; more than we know is no fault."""
    with fake_api(tmp_path / "api.sock" if over == "unix" else None) as api:
        api.show(troubled())
        api.answers[STATUS][1]["news"] = ["a newer daemon's"]
        seen = Client(read_address(api.where)).status()
        assert [("GET", "/api/v1/status", None, None)] == api.asked
    expected = troubled()
    assert (expected.started, expected.config.problems) == (seen.started, seen.config.problems)
    assert [one.model_dump(include={"name", "share", "port", "agent", "up"}) for one in expected.pools[0].backends] == [
        {"name": one.name, "share": one.share, "port": one.port, "agent": one.agent, "up": one.up}
        for one in seen.pools[0].backends
    ]


def test_change() -> None:
    """The wish goes out with the token, names are quoted, and the backend comes back."""
    with fake_api() as api:
        api.answers["PATCH", "/api/v1/pools/d%2Fs/backends/ns1"] = 200, backend(weight=3).model_dump(mode="json")
        changed = Client(read_address(api.where), TOKEN).change("d/s", "ns1", {"weight": 3})
        assert [("PATCH", "/api/v1/pools/d%2Fs/backends/ns1", {"weight": 3}, f"Bearer {TOKEN}")] == api.asked
    assert (3, "10.0.0.11:5353") == (changed.weight, changed.endpoint)


def test_reload_takes_any_good_answer() -> None:
    """An empty one, or a document."""
    with fake_api() as api:
        for answer in ((200, {}), (202, {"reloaded": True}), (204, b"")):
            api.answers[RELOAD] = answer
            Client(read_address(api.where)).reload()


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ({"address": "10.0.0.1", "port": None}, "10.0.0.1"),
        ({"address": "2001:db8::1", "port": None}, "2001:db8::1"),
        ({"address": "2001:db8::1", "port": 53}, "[2001:db8::1]:53"),
    ],
)
def test_endpoints(endpoint: dict[str, Any], expected: str) -> None:
    """As the configuration writes them."""
    with fake_api() as api:
        api.answers[PATCH] = 200, backend(**endpoint).model_dump(mode="json")
        assert expected == Client(read_address(api.where)).change("dns", "ns1", {}).endpoint


# --- failures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        ((404, {"error": "no such backend"}), Unknown, "no such backend"),
        ((409, {"error": "the name is taken"}), Rejected, "the name is taken"),
        ((422, {"error": "bad", "problems": ["a.yaml:1:2: no", "b"]}), Rejected, "bad\na.yaml:1:2: no\nb"),
        ((422, {"error": "bad", "problems": [{"path": "weight", "message": "-1"}]}), Rejected, "bad\nweight: -1"),
        ((400, {"error": "e\x1b[31m\nvil"}), Rejected, r"e\x1b[31m\nvil"),
        ((401, {"error": "no token"}), Refused, "the daemon refused: no token; give a token: --token-file FILE"),
        ((403, {"error": "reads only"}), Refused, "changes need api.token_file in the daemon's configuration"),
        ((503, {"error": "not applied"}), Refused, "the daemon refused: not applied; `nftlb status`"),
        ((500, {}), Refused, "the daemon refused: status 500"),
        ((502, []), Refused, "status 502"),
        ((404, {"detail": "another API's"}), Unreachable, "no nftlb that this one understands: status 404"),
        ((404, b"<html>"), Unreachable, "status 404, and no JSON"),
        ((200, b""), Unreachable, "status 200, and no JSON"),
        ((200, b"[" * 100_000), Unreachable, "no JSON"),
        ((200, {"name": "ns1"}), Unreachable, "address is missing"),
        ((200, []), Unreachable, "the answer is no object"),
    ],
)
def test_failures_of_a_change(answer: tuple[int, Any], kind: type[NftlbError], words: str) -> None:
    """Bad input, a refusal with its mend, or no daemon of ours: told apart, in the daemon's words."""
    with fake_api() as api:
        api.answers[PATCH] = answer
        with pytest.raises(NftlbError) as caught:
            Client(read_address(api.where)).change("dns", "ns1", {"admin": "drain"})
    assert kind is type(caught.value)
    assert words in str(caught.value)


def test_a_token_that_is_not_taken() -> None:
    """The mend is another than without one."""
    with fake_api() as api:
        api.answers[RELOAD] = 401, {"error": "no"}
        with pytest.raises(Refused, match=r"api\.token_file"):
            Client(read_address(api.where), "wrong").reload()


def test_statuses() -> None:
    """What each failure ends a command with."""
    assert [4, 1, 1, 3] == [kind.exit_status for kind in (Unreachable, Rejected, Unknown, Refused)]


def test_nobody_listens(tmp_path: Path) -> None:
    """Neither at a port, nor at a socket that isn't there, is none, or that a dead daemon left behind."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "file").touch()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "left"))
    for where in (f"127.0.0.1:{port}", *(f"unix:{tmp_path / name}" for name in ("nosuch", "file", "left", "x" * 200))):
        with pytest.raises(Unreachable, match=r"no daemon can be reached at .*is it running\?"):
            Client(read_address(where)).status()


@pytest.mark.parametrize("host", ["a..b", "x" * 70, "nosuch.invalid"])
def test_names_that_no_host_has(host: str) -> None:
    """They are no traceback either."""
    with pytest.raises(Unreachable):
        Client(Address(host), timeout=1).status()


def test_a_queue_that_is_full(tmp_path: Path) -> None:
    """A daemon that has others to let in first is waited for, and is not taken for none."""
    path = str(tmp_path / "api.sock")
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as first:
        server.bind(path)
        server.listen(0)
        first.connect(path)

        with pytest.raises(Unreachable, match=r"nothing came for 0\.1 seconds"):
            Client(Address(socket=path), timeout=0.1).document()


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (None, "nothing came for 0.1 seconds"),
        (b"", "no daemon can be reached"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "BadStatusLine"),
        (b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"ver', "no JSON"),
    ],
)
def test_what_answers_is_no_api(said: bytes | None, words: str) -> None:
    """Silence, a line cut, another protocol, half an answer."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        done = threading.Event()

        def answer() -> None:
            with server.accept()[0] as peer:
                peer.recv(1 << 16)
                if said is None:
                    done.wait(10)
                else:
                    peer.sendall(said)

        thread = threading.Thread(target=answer)
        thread.start()
        client = Client(Address(port=server.getsockname()[1]), timeout=0.1 if said is None else 10)
        with pytest.raises(Unreachable, match=words):
            client.status()
        done.set()
        thread.join()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from([*service.Status.model_fields, "name"]), inner),
)


@settings(deadline=None)
@given(JSON, st.sampled_from(["", "pools", "kernel", "config", "faults", "started", "pid", "ready"]))
def test_any_document_is_a_status_or_none(found: Any, place: str) -> None:
    """ValueError and nothing else, whatever is at any place."""
    document = {**troubled().model_dump(mode="json"), place: found} if place else found
    with suppress(ValueError):
        assert isinstance(read_status(document), Seen)
