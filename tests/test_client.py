"""The client of the HTTP API: its requests, how it reads responses, and the error for every failure."""

from __future__ import annotations

import socket
import threading
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import MISSING, fields
from enum import StrEnum
from types import UnionType
from typing import TYPE_CHECKING, Any, get_args, get_origin

import pytest
from fake_api import TOKEN, backend, fake_api, troubled
from hypothesis import given, settings
from hypothesis import strategies as st

from nftlb import service
from nftlb.cli.daemon import DaemonAccess
from nftlb.client import (
    Address,
    BackendView,
    ChangeView,
    ClientsView,
    ClientView,
    CollectorView,
    ConfigState,
    Conflicting,
    DaemonClient,
    EventView,
    FaultView,
    GuardView,
    KernelView,
    NameView,
    PoolView,
    Rejected,
    RequestRefused,
    StatusView,
    Unavailable,
    Unknown,
    Unreachable,
    addresses,
    default_address,
    read_daemon_address,
    read_status_view,
)
from nftlb.errors import ConfigError, NftlbError
from nftlb.sockets import socket_path, sockets_here

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATCH = ("PATCH", "/api/v1/pools/dns/backends/ns1")
RELOAD = ("POST", "/api/v1/reload")
STATUS = ("GET", "/api/v1/status")


# --- the daemon of this host ------------------------------------------------------------------------------------------


@contextmanager
def sockets(folder: Path, *tables: str) -> Iterator[None]:
    """Let daemons of these tables listen in a folder, in this network namespace."""
    with ExitStack() as stack:
        for table in tables:
            listening = stack.enter_context(socket.socket(socket.AF_UNIX))
            listening.bind(socket_path(folder, table))
            listening.listen()
        yield


def test_the_daemon_of_this_namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client uses the only socket, or that of the usual or wanted table; if no daemon listens, the TCP address."""
    monkeypatch.setattr(addresses, "sockets_here", lambda: sockets_here(tmp_path))
    assert Address() == default_address() == default_address("edge")
    (tmp_path / "nftlb.1-2.sock").touch()  # of another namespace
    with sockets(tmp_path, "edge"):
        assert Address(socket=socket_path(tmp_path, "edge")) == default_address()
        with pytest.raises(
            Unreachable, match="no daemon with table nftlb runs here; name the other one:\n  --socket /"
        ):
            default_address(changing=True)
        with sockets(tmp_path, "nftlb"):
            assert Address(socket=socket_path(tmp_path, "nftlb")) == default_address()
            assert Address(socket=socket_path(tmp_path, "edge")) == default_address("edge")
            with pytest.raises(Unreachable, match="no daemon of table core runs here, but of: edge, nftlb"):
                default_address("core")
            assert Address(socket=socket_path(tmp_path, "nftlb")) == default_address(changing=True)
        with sockets(tmp_path, "core"), pytest.raises(Unreachable) as caught:
            default_address()
        assert all(f"--socket {socket_path(tmp_path, table)} " in str(caught.value) for table in ("core", "edge"))
    assert (
        Address() == default_address() == default_address(changing=True)
    )  # the files are still there, and nobody listens
    monkeypatch.setattr(addresses, "sockets_here", lambda: sockets_here(tmp_path / "missing"))
    assert Address() == default_address()


def test_a_change_goes_to_no_other_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands read from the only daemon, whatever its table; a change needs an option, or the usual table."""
    monkeypatch.delenv("NFTLB_URL", raising=False)
    monkeypatch.setattr(addresses, "sockets_here", lambda: sockets_here(tmp_path))
    with sockets(tmp_path, "edge"):
        DaemonAccess(None, None, None).reader()
        with pytest.raises(Unreachable, match="no daemon with table nftlb runs here"):
            DaemonAccess(None, None, None).writer()
        DaemonAccess(None, socket_path(tmp_path, "edge"), None).writer()
        with sockets(tmp_path, "nftlb"):
            DaemonAccess(None, None, None).writer()


# --- addresses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "address", "shown"),
    [
        ("http://127.0.0.1:9146", Address(), "http://127.0.0.1:9146"),
        ("127.0.0.1:9147/", Address(port=9147), "http://127.0.0.1:9147"),
        ("http://[::1]", Address("::1"), "http://[::1]:9146"),
        ("https://lb1.example:8443/nftlb/", Address("lb1.example", 8443, tls=True, prefix="/nftlb"), None),
        ("https://lb1.example", Address("lb1.example", 443, tls=True), "https://lb1.example:443"),
        ("unix:/run/nftlb/api.sock", Address(socket="/run/nftlb/api.sock"), "unix:/run/nftlb/api.sock"),
    ],
)
def test_addresses(text: str, address: Address, shown: str | None) -> None:
    """Addresses are read as URLs and as `api.listen` has them, and are written as URLs."""
    assert address == read_daemon_address(text)
    if shown is not None:
        assert shown == str(address)


@pytest.mark.parametrize(
    "text", ["", "ftp://a", "http://", "http://a:b", "http://a:99999", "unix:relative", "unix:", "http://u:p@h", "a b"]
)
def test_a_text_that_is_not_an_address(text: str) -> None:
    """A text that is not an address is bad input; the message says what is allowed."""
    with pytest.raises(ConfigError, match="allowed: http://ADDRESS:PORT"):
        read_daemon_address(text)


@settings(deadline=None)
@given(st.text())
def test_any_text_is_an_address_or_bad_input(text: str) -> None:
    """Any text is an address or a ConfigError; the text of an address reads as the same address."""
    try:
        address = read_daemon_address(text)
    except ConfigError:
        return
    assert address == read_daemon_address(str(address))


# --- what the daemon says ---------------------------------------------------------------------------------------------


VIEWS = {
    service.Status: StatusView,
    service.PoolStatus: PoolView,
    service.GuardStatus: GuardView,
    service.PoolClients: ClientsView,
    service.ClientStatus: ClientView,
    service.ChangedBackend: BackendView,
    service.RulesetChange: ChangeView,
    service.BackendStatus: BackendView,
    service.CollectorStatus: CollectorView,
    service.NameStatus: NameView,
    service.ConfigStatus: ConfigState,
    service.KernelStatus: KernelView,
    service.Fault: FaultView,
    service.Event: EventView,
}


def as_read(written: Any) -> Any:
    """The type that a command reads from JSON, for the type of a field of the daemon's models."""
    if get_origin(written) is tuple:
        return tuple[as_read(get_args(written)[0]), ...]  # type: ignore[misc]
    if isinstance(written, UnionType):
        return as_read(get_args(written)[0]) | None
    if isinstance(written, type) and issubclass(written, StrEnum):
        return str
    return VIEWS.get(written, written)


@pytest.mark.parametrize(("theirs", "ours"), VIEWS.items(), ids=lambda model: model.__name__)
def test_the_client_reads_the_fields_of_the_daemon(theirs: type[Any], ours: type[Any]) -> None:
    """Every field that a command reads has the name and the type of the field in the daemon's models.

    The views are declared again, without pydantic: loading it takes longer than the rest of `nftlb status`.
    """
    declared = {name: as_read(field.annotation) for name, field in theirs.model_fields.items()}
    needed = [attribute for attribute in fields(ours) if attribute.default is MISSING]

    assert {attribute.name: attribute.type for attribute in needed} == {
        attribute.name: declared.get(attribute.name) for attribute in needed
    }


@pytest.mark.parametrize("over", ["tcp", "unix"])
def test_status(over: str, tmp_path: Path) -> None:
    """The status arrives over both transports as in the daemon's models; unknown fields are ignored."""
    with fake_api(tmp_path / "api.sock" if over == "unix" else None) as api:
        api.show(troubled())
        api.answers[STATUS][1]["news"] = ["a newer daemon's"]
        seen = DaemonClient(read_daemon_address(api.where)).status()
        assert [("GET", "/api/v1/status", None, None)] == api.asked
    expected = troubled()
    assert (expected.started, expected.config.problems) == (seen.started, seen.config.problems)
    assert [
        backend.model_dump(include={"name", "share", "port", "agent", "up"}) for backend in expected.pools[0].backends
    ] == [
        {"name": backend.name, "share": backend.share, "port": backend.port, "agent": backend.agent, "up": backend.up}
        for backend in seen.pools[0].backends
    ]


def test_change() -> None:
    """A change is sent with the token and quoted names, and returns the backend."""
    with fake_api() as api:
        api.answers["PATCH", "/api/v1/pools/d%2Fs/backends/ns1"] = 200, backend(weight=3).model_dump(mode="json")
        changed = DaemonClient(read_daemon_address(api.where), TOKEN).change("d/s", "ns1", {"weight": 3})
        assert [("PATCH", "/api/v1/pools/d%2Fs/backends/ns1", {"weight": 3}, f"Bearer {TOKEN}")] == api.asked
    assert isinstance(changed, BackendView)
    assert (3, "10.0.0.11:5353") == (changed.weight, changed.endpoint)


def test_reload_accepts_any_success() -> None:
    """A successful response to a reload may be empty or a document."""
    with fake_api() as api:
        for answer in ((200, {}), (202, {"reloaded": True}), (204, b"")):
            api.answers[RELOAD] = answer
            DaemonClient(read_daemon_address(api.where)).reload()


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ({"address": "10.0.0.1", "port": None}, "10.0.0.1"),
        ({"address": "2001:db8::1", "port": None}, "2001:db8::1"),
        ({"address": "2001:db8::1", "port": 53}, "[2001:db8::1]:53"),
    ],
)
def test_endpoints(endpoint: dict[str, Any], expected: str) -> None:
    """An endpoint is written as in the configuration."""
    with fake_api() as api:
        api.answers[PATCH] = 200, backend(**endpoint).model_dump(mode="json")
        changed = DaemonClient(read_daemon_address(api.where)).change("dns", "ns1", {})
    assert isinstance(changed, BackendView)
    assert expected == changed.endpoint


# --- failures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        ((404, {"error": "no such backend"}), Unknown, "no such backend"),
        ((409, {"error": "the name is taken"}), Conflicting, "the name is taken"),
        ((422, {"error": "bad", "problems": ["a.yaml:1:2: no", "b"]}), Rejected, "bad\na.yaml:1:2: no\nb"),
        ((400, {"error": "e\x1b[31m\nvil"}), Rejected, r"e\x1b[31m\nvil"),
        ((401, {"error": "no token"}), RequestRefused, "the daemon refused: no token; give a token: --token-file FILE"),
        ((403, {"error": "reads only"}), RequestRefused, "or set api.token_file in its configuration and give a token"),
        (
            (503, {"error": "not applied"}),
            Unavailable,
            "the daemon refused: not applied; for details see `nftlb status`",
        ),
        ((500, {}), Unavailable, "the daemon refused: status 500"),
        ((502, []), Unavailable, "status 502"),
        (
            (404, {"detail": "another API's"}),
            Unreachable,
            "is not that of a daemon of this version of nftlb: HTTP status 404",
        ),
        ((404, b"<html>"), Unreachable, "status 404, and the body is not JSON"),
        ((200, b""), Unreachable, "status 200, and the body is not JSON"),
        ((200, b"[" * 100_000), Unreachable, "not JSON"),
        ((200, {"name": "ns1"}), Unreachable, "address is missing"),
        ((200, []), Unreachable, "the answer is not an object"),
    ],
)
def test_failures_of_a_change(answer: tuple[int, Any], kind: type[NftlbError], words: str) -> None:
    """Bad input, a refusal with its fix, and an answer of another program are different errors."""
    with fake_api() as api:
        api.answers[PATCH] = answer
        with pytest.raises(NftlbError) as caught:
            DaemonClient(read_daemon_address(api.where)).change("dns", "ns1", {"admin": "drain"})
    assert kind is type(caught.value)
    assert words in str(caught.value)


def test_a_token_that_is_refused() -> None:
    """The fix for a refused token differs from the fix for a missing token."""
    with fake_api() as api:
        api.answers[RELOAD] = 401, {"error": "no"}
        with pytest.raises(RequestRefused, match=r"api\.token_file"):
            DaemonClient(read_daemon_address(api.where), "wrong").reload()


def test_statuses() -> None:
    """Each error has the exit status of the command."""
    assert [4, 1, 1, 3] == [kind.exit_status for kind in (Unreachable, Rejected, Unknown, RequestRefused)]


def test_no_daemon_listens(tmp_path: Path) -> None:
    """Unreachable: a closed port, a missing socket, a path that is not a socket, and the socket of a dead daemon."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "file").touch()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "left"))
    for where in (f"127.0.0.1:{port}", *(f"unix:{tmp_path / name}" for name in ("nosuch", "file", "left", "x" * 200))):
        with pytest.raises(Unreachable, match=r"no daemon can be reached at .*is it running\?"):
            DaemonClient(read_daemon_address(where)).status()


@pytest.mark.parametrize("host", ["a..b", "x" * 70, "nosuch.invalid"])
def test_names_that_no_host_has(host: str) -> None:
    """A name that no host can have is an error without a traceback."""
    with pytest.raises(Unreachable):
        DaemonClient(Address(host), timeout=1).status()


def test_a_queue_that_is_full(tmp_path: Path) -> None:
    """A full backlog of the daemon is waited for, and is not reported as a missing daemon."""
    path = str(tmp_path / "api.sock")
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as first:
        server.bind(path)
        server.listen(0)
        first.connect(path)

        with pytest.raises(Unreachable, match=r"nothing came for 0\.1 seconds"):
            DaemonClient(Address(socket=path), timeout=0.1).document()


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (None, "nothing came for 0.1 seconds"),
        (b"", "no daemon can be reached"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "BadStatusLine"),
        (b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"ver', "not JSON"),
    ],
)
def test_another_program_answers(said: bytes | None, words: str) -> None:
    """Unreachable: silence, a cut connection, another protocol, half an answer."""
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
        client = DaemonClient(Address(port=server.getsockname()[1]), timeout=0.1 if said is None else 10)
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
    """Any value at any place gives a status or a ValueError."""
    document = {**troubled().model_dump(mode="json"), place: found} if place else found
    with suppress(ValueError):
        assert isinstance(read_status_view(document), StatusView)
