"""The client of the daemon's HTTP API, over TCP or a unix socket. It loads fast: it needs no pydantic."""

# No `from __future__ import annotations`: `_read` needs the types of the fields.
import json
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, field, fields
from datetime import UTC, datetime
from http.client import HTTPConnection, HTTPException, HTTPResponse
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin
from urllib.parse import quote, urlencode, urlsplit

from nftlb.errors import ConfigError, NftlbError, Problem
from nftlb.printable import printable
from nftlb.sockets import sockets_here

TIMEOUT = 10.0
EVENTS_TIMEOUT = 60.0  # the daemon sends a comment every 15 s
MAX_EVENT = 1 << 20
MAX_BYTES = 256 << 20  # ten times the status of as many backends as there are conntrack zones
OK = 200
MULTIPLE_CHOICES = 300
UNAUTHORISED = 401
FORBIDDEN = 403
NOT_FOUND = 404
SERVER_ERRORS = 500
BAD = frozenset({400, 404, 405, 409, 413, 415, 422})

# --- the status -------------------------------------------------------------------------------------------------------
#
# The fields of `nftlb.service.Status` that commands show. They are declared here again, because loading pydantic takes
# longer than the rest of `nftlb status`. A test compares them with the models. Further fields of a newer daemon are
# ignored; a field with a default may be missing in the answer of an older daemon. All text from the daemon is made safe
# for a terminal.


@dataclass(frozen=True, slots=True)
class BackendView:
    """One backend; `nftlb.service.BackendStatus` describes the fields."""

    name: str
    address: str
    port: int | None
    up: bool
    admin: str
    agent: str | None
    priority: int
    weight: int
    share: float
    in_rotation: bool
    standby: bool
    since: datetime
    reason: str
    added: bool
    packets: int
    bytes: int
    answered: float | None
    admin_since: datetime | None = None
    labels: dict[str, str] = field(default_factory=dict)

    @property
    def endpoint(self) -> str:
        return _endpoint(self.address, self.port)


@dataclass(frozen=True, slots=True)
class CollectorView:
    """One collector; `nftlb.service.CollectorStatus` describes the fields."""

    name: str
    address: str
    port: int | None
    one_in: int
    up: bool
    since: datetime
    reason: str
    packets: int

    @property
    def endpoint(self) -> str:
        return _endpoint(self.address, self.port)


def _endpoint(address: str, port: int | None) -> str:
    """Return the address and the port; the address alone if packets keep their port."""
    host = f"[{address}]" if ":" in address and port is not None else address
    return host if port is None else f"{host}:{port}"


@dataclass(frozen=True, slots=True)
class GuardView:
    """The packets that the guard of a pool dropped, by reason."""

    rate: int
    banned: int
    denied: int
    full: int


@dataclass(frozen=True, slots=True)
class NameView:
    name: str
    lookup: str
    backends: tuple[str, ...]
    answered: datetime | None
    expires: datetime | None
    trouble: str
    left_out: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PoolView:
    name: str
    listen: tuple[str, ...]
    per: str
    ready: bool
    lacking: tuple[str, ...]
    quorum: int
    healthy: int
    mode: str
    priority: int | None
    min_healthy: str
    preempts_at: datetime | None
    since: datetime
    packets: int
    guard: GuardView | None
    backends: tuple[BackendView, ...]
    collectors: tuple[CollectorView, ...]
    names: tuple[NameView, ...]
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ConfigState:
    file: str
    success: bool
    loaded: datetime
    attempted: datetime
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class KernelView:
    synced: bool
    error: str


@dataclass(frozen=True, slots=True)
class FaultView:
    what: str
    message: str
    since: datetime


@dataclass(frozen=True, slots=True)
class StatusView:
    """The whole status."""

    version: str
    pid: int
    started: datetime
    ready: bool
    config: ConfigState
    kernel: KernelView
    faults: tuple[FaultView, ...]
    pools: tuple[PoolView, ...]
    host: str = ""


@dataclass(frozen=True, slots=True)
class EventView:
    """One event; `nftlb.service.Event` describes the fields. `id` is 0 if the daemon does not number its events."""

    kind: str
    at: datetime
    pool: str
    backend: str
    old: str
    new: str
    reason: str
    id: int = 0


@dataclass(frozen=True, slots=True)
class ClientView:
    """One source of packets; `nftlb.service.ClientStatus` describes the fields."""

    source: str
    packets: int
    bytes: int
    dropped: int
    banned: float | None


@dataclass(frozen=True, slots=True)
class ClientsView:
    """The sources of a pool with the most packets."""

    pool: str
    known: int
    clients: tuple[ClientView, ...]


def read_clients_view(document: object) -> ClientsView:
    """Read the JSON of the clients of a pool. ValueError with the first field that is missing or has a wrong type."""
    return _record(ClientsView, document, "")


def read_status_view(document: object) -> StatusView:
    """Read the JSON of `/api/v1/status`. ValueError with the first field that is missing or has a wrong type."""
    return _record(StatusView, document, "")


def read_event_view(document: object) -> EventView:
    """Read the JSON of one event. ValueError with the first field that is missing or has a wrong type."""
    return _record(EventView, document, "")


def read_backend_view(document: object) -> BackendView:
    """Read the JSON of one backend. ValueError with the first field that is missing or has a wrong type."""
    return _record(BackendView, document, "")


Record = TypeVar("Record")


def _record(kind: type[Record], found: object, path: str) -> Record:
    if not isinstance(found, Mapping):
        raise ValueError(f"{path or 'the answer'} is not an object")  # noqa: TRY004 - callers expect one kind of error
    values = {}
    for wanted in fields(kind):  # type: ignore[arg-type]
        where = f"{path}.{wanted.name}" if path else wanted.name
        if wanted.name not in found and (wanted.default is not MISSING or wanted.default_factory is not MISSING):
            continue
        if wanted.name not in found:
            raise ValueError(f"{where} is missing")
        values[wanted.name] = _read(wanted.type, found[wanted.name], where)
    return kind(**values)


def _read(wanted: Any, found: object, path: str) -> Any:
    if isinstance(wanted, UnionType):
        return None if found is None else _read(get_args(wanted)[0], found, path)
    if get_origin(wanted) in {tuple, dict}:
        return _read_several(wanted, found, path)
    if wanted is datetime:
        return _moment(found, path)
    if wanted not in _SIMPLE:
        return _record(wanted, found, path)
    kind, fault = _SIMPLE[wanted]
    if not isinstance(found, kind) or (isinstance(found, bool) and wanted is not bool):
        raise ValueError(f"{path} {fault}")
    if isinstance(found, str):
        return printable(found.replace("\n", " "))  # an error of the kernel may have several lines
    return wanted(found)


def _read_several(wanted: Any, found: object, path: str) -> Any:
    if get_origin(wanted) is dict:
        if not isinstance(found, Mapping):
            raise ValueError(f"{path} is not an object")
        return {printable(name): _read(str, value, f"{path}.{name}") for name, value in found.items()}
    if not isinstance(found, list):
        raise ValueError(f"{path} is not a list")  # noqa: TRY004 - as above
    return tuple(_read(get_args(wanted)[0], item, f"{path}[{index}]") for index, item in enumerate(found))


_SIMPLE: dict[Any, tuple[Any, str]] = {
    str: (str, "is not text"),
    float: (int | float, "is not a number"),
    int: (int, "is not a whole number"),
    bool: (bool, "is neither true nor false"),
}


def _moment(found: object, path: str) -> datetime:
    try:
        moment = datetime.fromisoformat(_read(str, found, path))
    except ValueError:
        raise ValueError(f"{path} is not a time") from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


# --- the connection ---------------------------------------------------------------------------------------------------

ALLOWED = "http://ADDRESS:PORT, https://NAME:PORT or unix:/PATH"
PORT = 9146
USUAL_TABLE = "nftlb"


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a port, with or without TLS; or the path of a unix socket, which has precedence over the rest."""

    host: str = "127.0.0.1"
    port: int = PORT
    tls: bool = False
    prefix: str = ""
    """The path before `/api`, if a proxy in front of the daemon needs a path."""
    socket: str = ""

    def __str__(self) -> str:
        if self.socket:
            return f"unix:{self.socket}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}{self.prefix}"


def read_daemon_address(text: str) -> Address:
    """Read a URL, `unix:/PATH`, or `ADDRESS:PORT` as in `api.listen`. ConfigError for any other text."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path.startswith("/") or "\0" in path:
            raise _unfit(text)
        return Address(socket=path)
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        raise _unfit(text) from None
    whole = parts.scheme in {"http", "https"} and host and not (parts.query or parts.fragment or "@" in parts.netloc)
    if not whole or not host or not f"{host}{parts.path}".isprintable() or " " in f"{host}{parts.path}":
        raise _unfit(text)
    return Address(host, port or PORT, parts.scheme == "https", parts.path.rstrip("/"))


def default_address(table: str = "", *, changing: bool = False) -> Address:
    """The address of the daemon of this network namespace: its own socket if this user may use it, else TCP.

    `table`: only the daemon that writes this table. Raises Unreachable if only daemons of other tables run here or,
    without `table`, if several daemons run here and none of them has the usual table. `changing`: also if the only
    daemon has another table, because a change must not reach another daemon while the usual one is stopped.
    """
    usable = addresses_here()
    if table and usable:
        if table not in usable:
            raise Unreachable(f"no daemon of table {table} runs here, but of: {', '.join(usable)}")
        return usable[table]
    if USUAL_TABLE in usable:
        return usable[USUAL_TABLE]
    if len(usable) == 1 and not changing:
        return next(iter(usable.values()))
    if usable:
        several = "several daemons run here" if len(usable) > 1 else f"no daemon with table {USUAL_TABLE} runs here"
        choice = "".join(f"\n  --socket {place.socket}    (table {name})" for name, place in usable.items())
        raise Unreachable(f"{several}; name {'one of them' if len(usable) > 1 else 'the other one'}:{choice}")
    return Address()


def addresses_here() -> dict[str, Address]:
    """The own sockets of the daemons of this network namespace, as far as this user may use them; by table."""
    return {table: Address(socket=path) for table, path in sockets_here().items() if _is_usable(path)}


def _is_usable(path: str) -> bool:
    """Whether a daemon listens at this socket and this user may connect. A killed daemon leaves its file behind."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except BlockingIOError:  # many clients are waiting
            return True
        except OSError:
            return False
    return True


def _unfit(text: str) -> ConfigError:
    return ConfigError(
        [Problem("the daemon's address", 0, 0, "", f"{text!r} is not an address of a daemon; allowed: {ALLOWED}")]
    )


_TIMEVAL = struct.Struct("@ll")


class UnixConnection(HTTPConnection):
    """An HTTP connection over a unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path
        self._timeout = timeout

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # With a time-out of Python, connect() fails at once if the backlog of the daemon is full. The kernel waits.
        seconds, part = divmod(self._timeout, 1)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL.pack(int(seconds), int(part * 1e6)))
        try:
            self.sock.connect(self._path)
        except BlockingIOError as error:
            raise TimeoutError("the daemon accepts no connection") from error
        self.sock.settimeout(self._timeout)


def open_connection(address: Address, timeout: float) -> HTTPConnection:
    """Make a connection, which opens at its first request. `timeout` is in seconds, for every step of a request."""
    if address.socket:
        return UnixConnection(address.socket, timeout)
    if address.tls:
        from http.client import HTTPSConnection  # noqa: PLC0415 - exists only if Python has TLS

        return HTTPSConnection(address.host, address.port, timeout=timeout)
    return HTTPConnection(address.host, address.port, timeout=timeout)


# --- requests ---------------------------------------------------------------------------------------------------------


class Unreachable(NftlbError):  # noqa: N818 - named as the errors of nftlb.service
    """No daemon answers at the address, or another program does."""

    exit_status = 4


class Rejected(NftlbError):  # noqa: N818
    """The daemon found a fault in the request. The message has the error of the daemon and each fault on a line."""

    exit_status = 1


class Unknown(Rejected):
    """No pool or backend has that name."""


class RequestRefused(NftlbError):  # noqa: N818
    """The daemon refused the request or failed. The message says how to fix it."""

    exit_status = 3


def _pool_path(pool: str, rest: str) -> str:
    return f"/api/v1/pools/{quote(pool, safe='')}{rest}"


def _backend_path(pool: str, backend: str) -> str:
    return _pool_path(pool, f"/backends/{quote(backend, safe='')}")


class Unavailable(RequestRefused):
    """The daemon, or a proxy before it, can't answer now: HTTP status 500 to 599. A later attempt may succeed."""


class DaemonClient:
    """Sends requests to the daemon at `address`. All methods raise Unreachable; changes raise the other errors too.

    `timeout` is in seconds, for every step of a request. The response to a change arrives when the kernel has it.
    """

    def __init__(self, address: Address, token: str | None = None, timeout: float = TIMEOUT) -> None:
        self.address = address
        self._token = token
        self._timeout = timeout

    def document(self) -> dict[str, Any]:
        """The whole status as JSON."""
        found: dict[str, Any] = self._ask("GET", "/api/v1/status")
        return found

    def status(self) -> StatusView:
        """The status, with the fields that commands show."""
        return self.view(self.document())

    def view(self, document: Mapping[str, Any]) -> StatusView:
        """Read the JSON that `document` returned."""
        try:
            return read_status_view(document)
        except ValueError as error:
            raise self._foreign(str(error)) from error

    def clients(self, pool: str, most: int) -> dict[str, Any]:
        """The sources of a pool with the most packets, as JSON. Raises Unknown, Rejected, RequestRefused."""
        found: dict[str, Any] = self._ask("GET", _pool_path(pool, f"/clients?limit={most}"))
        return found

    def clients_view(self, document: Mapping[str, Any]) -> ClientsView:
        """Read the JSON that `clients` returned."""
        try:
            return read_clients_view(document)
        except ValueError as error:
            raise self._foreign(str(error)) from error

    def change(self, pool: str, backend: str, wanted: Mapping[str, str | int]) -> BackendView:
        """Set `admin`, `weight` or `priority` of a backend. Raises Unknown, Rejected, RequestRefused."""
        document = self._ask("PATCH", _backend_path(pool, backend), wanted)
        try:
            return read_backend_view(document)
        except ValueError as error:
            raise self._foreign(str(error)) from error

    def change_backends(self, backends: Sequence[str], wanted: Mapping[str, str | int]) -> list[BackendView]:
        """`change` for several backends, each as POOL/BACKEND, at once. Returns them in the same order."""
        document = self._ask("PATCH", "/api/v1/backends", {"backends": list(backends), **wanted})
        if not isinstance(document, list) or len(document) != len(backends):
            raise self._foreign("the response is not a list of the changed backends")
        try:
            return [read_backend_view(found) for found in document]
        except ValueError as error:
            raise self._foreign(str(error)) from error

    def add(self, pool: str, wanted: Mapping[str, object]) -> None:
        """Add a backend with the name and the options in `wanted`. Raises Unknown, Rejected, RequestRefused."""
        self._ask("POST", _pool_path(pool, "/backends"), wanted)

    def delete(self, pool: str, backend: str) -> None:
        """Remove a backend from its pool. Raises Unknown, Rejected, RequestRefused."""
        self._ask("DELETE", _backend_path(pool, backend))

    def consequences_of_change(self, pool: str, backend: str, wanted: Mapping[str, str | int]) -> tuple[str, ...]:
        """What `change` would mean for the traffic, a line each; empty if no traffic is affected. Changes nothing."""
        return self._consequences("PATCH", _backend_path(pool, backend), wanted)

    def consequences_of_deletion(self, pool: str, backend: str) -> tuple[str, ...]:
        """What `delete` would mean for the traffic, as `consequences_of_change`."""
        return self._consequences("DELETE", _backend_path(pool, backend))

    def _consequences(self, method: str, path: str, wanted: Mapping[str, str | int] | None = None) -> tuple[str, ...]:
        document = self._ask(method, f"{path}?preview=true", wanted)
        found = document.get("consequences") if isinstance(document, dict) else None
        if not isinstance(found, list):
            raise self._foreign("consequences is not a list")
        return tuple(printable(str(line)) for line in found)

    def history(self, query: Mapping[str, str | int]) -> list[dict[str, Any]]:
        """The kept events, the newest first, as JSON. `query`: `pool`, `backend`, `kind`, `limit`, `before`."""
        return self._list(f"/api/v1/history?{urlencode(query)}", "events")

    def last_event(self) -> str:
        """The id of the newest event, for `events`; `0` before the first; empty if the daemon does not number them."""
        found = self.history({"limit": 1})
        number = self.event_view(found[0]).id if found else None
        return "0" if number is None else str(number or "")

    def event_view(self, document: object) -> EventView:
        """Read the JSON of an event."""
        try:
            return read_event_view(document)
        except ValueError as error:
            raise self._foreign(str(error)) from error

    def ruleset(self) -> str:
        """The rules that the daemon loaded last, as nft text."""
        status, text = self._exchange("GET", "/api/v1/ruleset", None)
        if status != OK:
            raise self._failure(status, self._parsed(status, text))
        return text.decode("utf-8", "replace")

    def ruleset_changes(self) -> list[dict[str, Any]]:
        """The last changes of the rules, as JSON: `at`, `reason`, and `lines` of the difference."""
        return self._list("/api/v1/ruleset/changes", "changes")

    def _list(self, path: str, key: str) -> list[dict[str, Any]]:
        document = self._ask("GET", path)
        found = document.get(key) if isinstance(document, dict) else None
        if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
            raise self._foreign(f"{key} is not a list of objects")
        return found

    def events(self, after: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
        """The events from now on, each with its id, until the daemon ends the stream.

        `after`: the id of the last event that the caller has; events since then that the daemon has kept come first.
        Raises Unreachable if the connection is lost, and Unavailable if too many clients receive events already.
        """
        asked = open_connection(self.address, EVENTS_TIMEOUT)
        headers = {**self._headers(), "Accept": "text/event-stream"}
        if after:
            headers["Last-Event-ID"] = after
        try:
            with self._failures_explained(EVENTS_TIMEOUT):
                asked.request("GET", f"{self.address.prefix}/api/v1/events", None, headers)
                with asked.getresponse() as response:
                    if response.status != OK:
                        raise self._failure(response.status, self._parsed(response.status, response.read(MAX_EVENT)))
                    yield from self._events(response)
        finally:
            asked.close()

    def _events(self, response: HTTPResponse) -> Iterator[tuple[str, dict[str, Any]]]:
        name = ""
        while line := response.readline(MAX_EVENT):
            if line.startswith(b"id:"):
                name = line[3:].strip().decode("ascii", "replace")
            elif line.startswith(b"data:"):
                document = self._parsed(OK, line[5:])
                if not isinstance(document, dict):
                    raise self._foreign("an event is not an object")
                yield name, document

    def reload(self) -> None:
        """Make the daemon read its file again. Raises Rejected with all faults of the file, and RequestRefused."""
        self._ask("POST", "/api/v1/reload")

    def _ask(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Any:
        status, text = self._exchange(method, path, body)
        document = self._parsed(status, text)
        if OK <= status < MULTIPLE_CHOICES:
            return document
        raise self._failure(status, document)

    def _headers(self) -> dict[str, str]:
        headers = {"Accept": "application/json", "User-Agent": "nftlb"}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        return headers

    def _exchange(self, method: str, path: str, body: Mapping[str, object] | None) -> tuple[int, bytes]:
        """Send a request; return the HTTP status and the body of the response."""
        headers = self._headers()
        if body is not None:
            headers["Content-Type"] = "application/json"
        text = None if body is None else json.dumps(body)
        asked = open_connection(self.address, self._timeout)
        try:
            with self._failures_explained(self._timeout):
                asked.request(method, f"{self.address.prefix}{path}", text, headers)
                with asked.getresponse() as response:
                    return response.status, response.read(MAX_BYTES + 1)
        finally:
            asked.close()

    @contextmanager
    def _failures_explained(self, timeout: float) -> Iterator[None]:
        """Raise Unreachable in place of the errors of a connection."""
        try:
            yield
        except TimeoutError as error:
            message = f"the daemon at {self.address} does not answer: nothing came for {timeout:g} seconds"
            raise Unreachable(message) from error
        except OSError as error:
            raise Unreachable(f"no daemon can be reached at {self.address}: {self._reason(error)}") from error
        except (HTTPException, ValueError) as error:  # ValueError: not a valid host name
            raise self._foreign(f"{type(error).__name__}: {error}") from error

    def _parsed(self, status: int, text: bytes) -> Any:
        """The JSON of a response."""
        if not text and status != OK:
            return {}
        try:
            return json.loads(text[: MAX_BYTES + 1])
        except (ValueError, RecursionError) as error:
            raise self._foreign(f"HTTP status {status}, and the body is not JSON") from error

    def _reason(self, error: OSError) -> str:
        reason = error.strerror or str(error) or type(error).__name__
        fix = "is it running? (`nftlb run FILE`; --url, --socket or NFTLB_URL give another address)"
        if isinstance(error, PermissionError):
            fix = "run this command as root, or as a user with permission to open the socket"
        return f"{reason}; {fix}"

    def _foreign(self, what: str) -> Unreachable:
        message = f"the answer from {self.address} is not that of a daemon of this version of nftlb: {printable(what)}"
        return Unreachable(f"{message}; check the address and the version of the daemon")

    def _failure(self, status: int, document: Any) -> NftlbError:
        said = document if isinstance(document, dict) else {}
        words = printable(str(said.get("error") or f"status {status}"))
        if status in BAD:
            if "error" not in said:
                return self._foreign(f"HTTP status {status}")
            problems = said.get("problems")
            kind = Unknown if status == NOT_FOUND else Rejected
            lines = map(str, problems if isinstance(problems, list) else ())
            return kind("\n".join([words, *map(printable, lines)]))
        refused = Unavailable if status >= SERVER_ERRORS else RequestRefused
        return refused(f"the daemon refused: {words}{self._fix(status)}")

    def _fix(self, status: int) -> str:
        if status == UNAUTHORISED and self._token is None:
            return "; give a token: --token-file FILE, or NFTLB_TOKEN_FILE"
        if status in {UNAUTHORISED, FORBIDDEN}:
            return (
                "; run the command as root on the daemon's host, or set api.token_file in its configuration and give a "
                "token of that file with --token-file"
            )
        return "; for details see `nftlb status` and the daemon's log"
