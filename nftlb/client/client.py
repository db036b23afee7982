"""The daemon's HTTP API, as far as commands use it: one connection an exchange."""

from __future__ import annotations

import json
from http.client import HTTPException
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from nftlb.printable import printable

from .connection import connection
from .failures import Refused, Rejected, Unknown, Unreachable
from .seen import Backend, Seen, read_backend, read_status

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nftlb.errors import NftlbError

    from .address import Address

TIMEOUT = 10.0
MAX_BYTES = 256 << 20  # ten times the status of as many backends as there are conntrack zones
OK = 200
MULTIPLE_CHOICES = 300
UNAUTHORISED = 401
FORBIDDEN = 403
NOT_FOUND = 404
BAD = frozenset({400, 404, 405, 409, 413, 415, 422})


class Answer(NamedTuple):
    """What the daemon answered."""

    status: int
    document: Any


class Client:
    """Asks and tells the daemon at `address`; all methods raise Unreachable, and those that change it the rest too.

    `timeout` is in seconds, for every step of an exchange: changes are answered when the kernel has followed.
    """

    def __init__(self, address: Address, token: str | None = None, timeout: float = TIMEOUT) -> None:
        self.address = address
        self._token = token
        self._timeout = timeout

    def document(self) -> dict[str, Any]:
        """Everything, as the daemon's JSON has it."""
        found: dict[str, Any] = self._ask("GET", "/api/v1/status")
        return found

    def status(self) -> Seen:
        """Everything, as far as people are shown it."""
        return self.read(self.document())

    def read(self, document: Mapping[str, Any]) -> Seen:
        """Read what `document` returned."""
        try:
            return read_status(document)
        except ValueError as error:
            raise self._foreign(str(error)) from error

    def change(self, pool: str, backend: str, wanted: Mapping[str, str | int]) -> Backend:
        """Set a backend's `admin` or `weight`. Raises Unknown, Rejected, Refused."""
        path = f"/api/v1/pools/{quote(pool, safe='')}/backends/{quote(backend, safe='')}"
        document = self._ask("PATCH", path, wanted)
        try:
            return read_backend(document)
        except ValueError as error:
            raise self._foreign(str(error)) from error

    def reload(self) -> None:
        """Have the daemon read its file again. Raises Rejected with all faults of it, Refused."""
        self._ask("POST", "/api/v1/reload")

    def _ask(self, method: str, path: str, body: Mapping[str, str | int] | None = None) -> Any:
        answer = self._exchange(method, self.address.prefix + path, body)
        if OK <= answer.status < MULTIPLE_CHOICES:
            return answer.document
        raise self._failure(answer)

    def _exchange(self, method: str, path: str, body: Mapping[str, str | int] | None) -> Answer:
        headers = {"Accept": "application/json", "User-Agent": "nftlb"}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        if body is not None:
            headers["Content-Type"] = "application/json"
        asked = connection(self.address, self._timeout)
        try:
            asked.request(method, path, None if body is None else json.dumps(body), headers)
            with asked.getresponse() as response:
                status, text = response.status, response.read(MAX_BYTES + 1)
        except TimeoutError as error:
            message = f"the daemon at {self.address} does not answer: nothing came for {self._timeout:g} seconds"
            raise Unreachable(message) from error
        except OSError as error:
            raise Unreachable(f"no daemon can be reached at {self.address}: {self._reason(error)}") from error
        except (HTTPException, ValueError) as error:  # ValueError: a name that no host can have
            raise self._foreign(f"{type(error).__name__}: {error}") from error
        finally:
            asked.close()
        if not text and status != OK:
            return Answer(status, {})
        try:
            return Answer(status, json.loads(text[: MAX_BYTES + 1]))
        except (ValueError, RecursionError) as error:
            raise self._foreign(f"status {status}, and no JSON") from error

    def _reason(self, error: OSError) -> str:
        reason = error.strerror or str(error) or type(error).__name__
        mend = "is it running? (`nftlb run FILE`; --url, --socket or NFTLB_URL name another place)"
        if isinstance(error, PermissionError):
            mend = "run this as root, or as a user whom the socket lets in"
        return f"{reason}; {mend}"

    def _foreign(self, what: str) -> Unreachable:
        return Unreachable(f"what answers at {self.address} is no nftlb that this one understands: {printable(what)}")

    def _failure(self, answer: Answer) -> NftlbError:
        said = answer.document if isinstance(answer.document, dict) else {}
        words = printable(str(said.get("error") or f"status {answer.status}"))
        if answer.status in BAD:
            if "error" not in said:
                return self._foreign(f"status {answer.status}")
            kind = Unknown if answer.status == NOT_FOUND else Rejected
            return kind("\n".join([words, *_problems(said.get("problems"))]))
        return Refused(f"the daemon refused: {words}{self._mend(answer.status)}")

    def _mend(self, status: int) -> str:
        if status == UNAUTHORISED and self._token is None:
            return "; give a token: --token-file FILE, or NFTLB_TOKEN_FILE"
        if status in {UNAUTHORISED, FORBIDDEN}:
            return "; changes need api.token_file in the daemon's configuration, and here one of the tokens in it"
        return "; `nftlb status` and the daemon's log tell more"


def _problems(found: object) -> list[str]:
    """Every fault, whether the daemon writes it as a line or as a mapping."""
    return [_problem(one) for one in found] if isinstance(found, list) else []


def _problem(found: object) -> str:
    if isinstance(found, dict):
        return printable(": ".join(str(found[key]) for key in ("file", "path", "message") if found.get(key)))
    return printable(str(found))
