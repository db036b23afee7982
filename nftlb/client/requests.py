"""Requests to the daemon's HTTP API."""

from __future__ import annotations

import json
from contextlib import contextmanager
from http.client import HTTPException
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from nftlb.printable import printable

from .addresses import open_connection
from .errors import Conflicting, Rejected, RequestRefused, Unavailable, Unknown, Unreachable
from .views import (
    read_backend_view,
    read_change_view,
    read_changed_view,
    read_clients_view,
    read_event_view,
    read_status_view,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from http.client import HTTPResponse

    from nftlb.errors import NftlbError

    from .addresses import Address
    from .views import BackendView, ChangeView, ClientsView, EventView, NameView, StatusView

TIMEOUT = 10.0
EVENTS_TIMEOUT = 60.0  # the daemon sends a comment every 15 s
MAX_EVENT = 1 << 20
MAX_BYTES = 256 << 20  # ten times the status of as many backends as there are conntrack zones
OK = 200
MULTIPLE_CHOICES = 300
UNAUTHORISED = 401
FORBIDDEN = 403
NOT_FOUND = 404
CONFLICT = 409
SERVER_ERRORS = 500
BAD = frozenset({400, 404, 405, 409, 413, 415, 422})


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

    def change(self, pool: str, backend: str, wanted: Mapping[str, str | int]) -> BackendView | NameView:
        """Set `admin`, `weight` or `priority` of a backend. Raises Unknown, Rejected, RequestRefused.

        Returns the name, with what is kept, if the backend is an address that DNS does not have now. Raises Conflicting
        if the backend was changed, and then a reload removed it.
        """
        document = self._ask("PATCH", _backend_path(pool, backend), wanted)
        try:
            return read_changed_view(document)
        except ValueError as error:
            raise self._foreign(str(error)) from error

    def change_backends(self, backends: Sequence[str], wanted: Mapping[str, str | int]) -> list[BackendView]:
        """`change` for several backends, each as POOL/BACKEND, at once; POOL/* means all backends of the pool.

        Returns the backends with their pools, in the same order. Those that have left their pool since are missing.
        """
        document = self._ask("PATCH", "/api/v1/backends", {"backends": list(backends), **wanted})
        if not isinstance(document, list):
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

    def consequences_of_changes(self, backends: Sequence[str], wanted: Mapping[str, str | int]) -> tuple[str, ...]:
        """What `change_backends` would mean for the traffic, as `consequences_of_change`."""
        return self._consequences("PATCH", "/api/v1/backends", {"backends": list(backends), **wanted})

    def consequences_of_deletion(self, pool: str, backend: str) -> tuple[str, ...]:
        """What `delete` would mean for the traffic, as `consequences_of_change`."""
        return self._consequences("DELETE", _backend_path(pool, backend))

    def _consequences(self, method: str, path: str, wanted: Mapping[str, object] | None = None) -> tuple[str, ...]:
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

    def change_view(self, document: object) -> ChangeView:
        """Read the JSON of a change of the rules."""
        try:
            return read_change_view(document)
        except ValueError as error:
            raise self._foreign(str(error)) from error

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
            kind = {NOT_FOUND: Unknown, CONFLICT: Conflicting}.get(status, Rejected)
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


def _pool_path(pool: str, rest: str) -> str:
    return f"/api/v1/pools/{quote(pool, safe='')}{rest}"


def _backend_path(pool: str, backend: str) -> str:
    return _pool_path(pool, f"/backends/{quote(backend, safe='')}")
