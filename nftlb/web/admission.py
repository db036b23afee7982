"""Which requests are admitted: by the host name that the request names and, for changes, by its token or its user.

A page of another site must not use the API through a browser. An attacker's site can make its own name resolve to the
address of this host (DNS rebinding). The browser then lets the site's page read the API's responses. The browser sends
the name in `Host`, so requests with other names are refused.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import os
import re
import socket
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from ipaddress import ip_address
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urlsplit

from aiohttp import web

from nftlb.errors import SystemFault
from nftlb.file_systems import answer_about
from nftlb.files import exposure, opened_regular, read_from
from nftlb.own_thread import OwnThread, StillRunning
from nftlb.printable import show
from nftlb.service import Actor

from .connection import name_of
from .errors import RequestError
from .peer import peer_of, unnamed, user_name

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from aiohttp.typedefs import Handler, Middleware

    from .peer import Peer


# --- host names -------------------------------------------------------------------------------------------------------

_HOST = re.compile(r"(?:\[(?P<six>[^\[\]]*)\]|(?P<name>[^:\[\]]*))(?P<port>:[0-9]*)?")
_READS = frozenset({"GET", "HEAD", "OPTIONS"})
_PORTS = {"http": ":80", "https": ":443"}
_HOSTS_FILE = "/etc/hosts"


@dataclass(frozen=True)
class AllowedHosts:
    """Host names in lower case: from `api.hosts`, and this host's own. Addresses and `localhost` are always allowed."""

    configured: frozenset[str] = frozenset()
    own: frozenset[str] = frozenset()

    def allows(self, host: str) -> bool:
        """Whether a request with this `Host` is allowed."""
        found = _HOST.fullmatch(host)
        if found is None:
            return False
        name = _plain(found["six"] or found["name"] or "")
        return name in self.configured or name in self.own or _needs_no_name(name)

    def allows_page(self, origin: str, host: str) -> bool:
        """Whether a page of this `Origin` may change something: nftlb's own page, or a page of a configured name."""
        try:
            parts = urlsplit(origin)
            name = _plain(parts.hostname or "")
        except ValueError:
            return False
        port = _PORTS.get(parts.scheme, "")
        same = parts.netloc.lower().removesuffix(port) == host.lower().removesuffix(port)
        return bool(name) and (same or name in self.configured)


Allowed: TypeAlias = "Callable[[], AllowedHosts]"
"""Returns the current names, which a reload may change."""


def allowed_hosts(configured: tuple[str, ...] = ()) -> AllowedHosts:
    """Return the names of `api.hosts`, and this host's own from its host name and /etc/hosts. Makes no DNS query."""
    return AllowedHosts(frozenset(map(_plain, configured)), own_names(socket.gethostname(), _read(_HOSTS_FILE)))


@cache
def only_own_hosts() -> AllowedHosts:
    """The names for an API without `api.hosts`."""
    return allowed_hosts()


def own_names(hostname: str, hosts_file: str) -> frozenset[str]:
    """Return `hostname`, and its aliases in `hosts_file`, the text of /etc/hosts."""
    found = {_plain(hostname)}
    for line in hosts_file.splitlines():
        aliases = [_plain(word) for word in line.partition("#")[0].split()[1:]]
        if _plain(hostname) in aliases:
            found.update(aliases)
    return frozenset(found - {""})


def check_hosts(allowed: Allowed) -> Middleware:
    """Return a middleware that refuses other host names (421), and changes by pages of other sites (403)."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        hosts = request.headers.getall("Host", [])
        if len(hosts) > 1:
            raise RequestError(400, "more than one Host header; allowed: one")
        host = hosts[0] if hosts else ""  # missing in HTTP/1.0; every browser sends it
        now = allowed()
        if host and not _local(request) and not now.allows(host):
            raise RequestError(421, f"{show(host)} is not a name of this API; {_allowed_text(now)}")
        origin = request.headers.get("Origin")
        if origin is not None and request.method not in _READS and not now.allows_page(origin, host):
            raise RequestError(
                403, f"a page of another site ({show(origin)}) may not change anything; {_allowed_text(now)}"
            )
        return await handler(request)

    return check


def _allowed_text(now: AllowedHosts) -> str:
    own = "".join(f"{name}, " for name in sorted(now.own))
    return f"allowed: an address, localhost, {own}and the names in hosts under api"


def _local(request: web.Request) -> bool:
    """Whether the request came through a Unix socket. A browser comes there only through a relay, such as `ssh -L`."""
    return request.transport is not None and isinstance(request.transport.get_extra_info("sockname"), str)


def _needs_no_name(name: str) -> bool:
    """Whether the name is resolved without DNS: an address, or `localhost` (RFC 6761)."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _plain(name: str) -> str:
    return name.lower().removesuffix(".")


def _read(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


log = logging.getLogger(__name__)


# --- tokens -----------------------------------------------------------------------------------------------------------

_MAX_BYTES = 64 << 10
FREE, EVERY = 10, 6.0
"""Wrong tokens in a row that a client may send, and the seconds for each further wrong token."""
MOST = 1024
"""Clients with wrong tokens that are remembered; for one more, the client whose last failure is oldest is forgotten."""

Tokens: TypeAlias = "Callable[[], Awaitable[Mapping[bytes, str] | None]]"
"""Returns the names of tokens by their digests, or None without a token file. SystemFault if it can't be read."""
Operators: TypeAlias = "Callable[[], frozenset[int]]"
"""Returns the groups whose members may change things at the daemon's own socket without a token."""


async def no_tokens() -> None:
    """The tokens of an API without a token file: changes are refused."""


def no_operators() -> frozenset[int]:
    """The groups without `operators` in the file."""
    return frozenset()


def digest(token: bytes) -> bytes:
    """The SHA-256 of a token. All have one length, so the time of a comparison tells nothing about a token."""
    return hashlib.sha256(token).digest()


class TokenFile:
    """The tokens of a file: `TOKEN` or `NAME TOKEN` in each line. Empty lines and comments (#) are left out.

    A token without a name is `token 1` if it is the first, `token 2` if it is the second. The file is read again after
    it has changed.

    Await it before every change; while the file stays as it is, this costs one stat(2) in a thread.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._seen: tuple[int, ...] | None = None
        self._names: dict[bytes, str] = {}

    async def __call__(self) -> Mapping[bytes, str]:
        """Return the names of the tokens by their digests. SystemFault if the file can't be used, or has no token."""
        try:
            names = await answer_about(self._path, self._update)
        except TimeoutError as error:
            raise SystemFault(f"the token file {self._path} can't be read: {error.strerror or error}") from error
        except OSError as error:
            raise SystemFault(
                f"the token file {self._path} can't be read: {error.strerror or error}; fix the file or its mode"
            ) from error
        if not names:
            raise SystemFault(f"the token file {self._path} has no token; put a token on a separate line")
        return names

    def _update(self) -> Mapping[bytes, str]:
        """Read the file if it has changed, and return the names of its tokens. Runs in a thread."""
        if self._seen is not None and self._seen == _identity(os.stat(self._path)):  # noqa: PTH116
            return self._names
        self._seen, self._names = None, {}  # until it is read again: the old tokens may have been revoked
        with opened_regular(self._path) as descriptor:
            status = os.fstat(descriptor)
            text = read_from(descriptor, _MAX_BYTES + 1)
        if len(text) > _MAX_BYTES:
            raise SystemFault(
                f"the token file {self._path} is larger than {_MAX_BYTES >> 10} KiB; allowed: one token a line"
            )
        if exposed := exposure(status):
            raise SystemFault(
                f"the token file {self._path} is not used: {exposed}; fix: chmod 600 {self._path}, or chmod 640 and "
                "chgrp nftlb where the daemon runs as that user; and replace the tokens if others may have read them"
            )
        self._names = self._read(text)
        self._seen = _identity(status)
        return self._names

    def _read(self, text: bytes) -> dict[bytes, str]:
        found: dict[bytes, str] = {}
        for number, line in enumerate(text.splitlines(), 1):
            words = line.split()
            if not words or words[0].startswith(b"#"):
                continue
            if len(words) > 2:  # noqa: PLR2004 - a name and a token
                raise SystemFault(
                    f"line {number} of the token file {self._path} has {len(words)} words; allowed: TOKEN, or "
                    "NAME TOKEN"
                )
            named = show(words[0].decode(errors="replace")) if words[1:] else f"token {len(found) + 1}"
            found.setdefault(digest(words[-1]), named)
        return found


def _identity(status: os.stat_result) -> tuple[int, ...]:
    """Values that differ after a file was written, replaced, or given other permissions."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


class FailureLimiter:
    """Limits the failures of each client: `burst` in a row are allowed; after that, one in `seconds`.

    Does no I/O; the time is an argument.
    """

    def __init__(self, burst: int, seconds: float) -> None:
        self._seconds = seconds
        self._slack = (burst - 1) * seconds
        # The time when all failures of a client are forgotten, in the order of the last failures.
        self._until: dict[str, float] = {}

    def wait(self, client: str, now: float) -> float:
        """Return the seconds until this client may try again."""
        return max(0.0, self._until.get(client, now) - now - self._slack)

    def failed(self, client: str, now: float) -> None:
        """Record a failure."""
        self._until[client] = max(now, self._until.pop(client, now)) + self._seconds
        if len(self._until) > MOST:
            del self._until[next(iter(self._until))]


# --- who may change something -----------------------------------------------------------------------------------------

_PASSED_ON = ("Forwarded", "X-Forwarded-For", "X-Real-IP", "Via", "Origin", "Sec-Fetch-Site")
"""Headers of requests that a proxy passes on, and of browsers, which reach a Unix socket only through a relay. A proxy
or relay that runs as root must not give its clients root's rights."""
_UNIX = "unix socket"
NAME_SECONDS = 3.0
"""Seconds that a change waits for the name of its user."""

_directory = OwnThread("directory")


@dataclass(frozen=True, slots=True)
class Admitted:
    """A client that may change something: the name of a token, or the number of a user, and where the client is."""

    who: str | int
    origin: str

    async def actor(self) -> Actor:
        """Find the name of the user; its number if a directory service does not answer within NAME_SECONDS."""
        if isinstance(self.who, str):
            return Actor(self.who, self.origin)
        try:
            name = await _directory.result(NAME_SECONDS, partial(user_name, self.who))
        except (StillRunning, OSError):
            name = unnamed(self.who)
        return Actor(name, self.origin)


class Admission:
    """Admits requests of trusted users of this host and requests with a valid token.

    At the daemon's own socket, root, the user of this process and members of `operators` need no token. At all other
    addresses, `operators` is None, and all users need a token. The wrong tokens of each client are limited.
    """

    def __init__(self, tokens: Tokens, operators: Operators | None = None) -> None:
        self._tokens = tokens
        self._operators = operators
        # Their names are found now: root's changes must not wait for a directory service.
        self._always = {user: user_name(user) for user in (0, os.geteuid())} if operators is not None else {}
        self._wrong = FailureLimiter(FREE, EVERY)
        self._logged = FailureLimiter(2 * FREE, EVERY)
        self._unlogged = 0

    def admit(self, request: web.Request) -> Callable[[], Awaitable[Admitted]]:
        """Return a function that returns who asks for a change, or raises RequestError 401, 403, 429, or SystemFault.

        The connection is looked at now: a client that leaves after its request has none later.
        """
        transport = request.transport
        peer = peer_of(transport)
        return partial(self._admit, request, peer, _UNIX if peer else _address(transport), name_of(transport))

    async def _admit(self, request: web.Request, peer: Peer | None, origin: str, client: str) -> Admitted:
        if peer is None or not self._trusts(peer) or any(name in request.headers for name in _PASSED_ON):
            return Admitted(await self._token_name(request, peer, client), origin)
        if "Authorization" in request.headers:  # else the file of the tokens, which may not answer, is not needed
            with suppress(RequestError, SystemFault):
                return Admitted(await self._token_name(request, peer, client), origin)
        return Admitted(self._always.get(peer.user, peer.user), origin)

    async def _token_name(self, request: web.Request, peer: Peer | None, client: str) -> str:
        """The name of the request's token. RequestError, or SystemFault, without a valid token."""
        names = await self._tokens()
        if names is None:
            who = "over TCP" if peer is None else f"for user {peer.user}"
            raise RequestError(
                403,
                f"this API allows no changes {who} without a token, and no token_file is set under api in the file; "
                "at the daemon's own socket in /run/nftlb, root needs no token",
            )
        presented = request.headers.getall("Authorization", [])
        scheme, _, token = presented[0].partition(" ") if len(presented) == 1 else ("", "", "")
        if scheme.lower() != "bearer":
            raise RequestError(
                401,
                "no bearer token; needed: Authorization: Bearer TOKEN",
                headers={"WWW-Authenticate": 'Bearer realm="nftlb"'},
            )
        now = asyncio.get_running_loop().time()
        if wait := self._wrong.wait(client, now):
            # A right token is refused too: else the response would tell a guesser that a guess was right.
            message = f"too many wrong tokens came from {client}; allowed: one in {EVERY:g} s"
            raise RequestError(429, message, headers={"Retry-After": str(ceil(wait))})
        found = digest(token.strip().encode(errors="surrogateescape"))
        # All tokens are compared, so that the time does not tell which token matched.
        matches = [hmac.compare_digest(found, known) for known in names]
        if not sum(matches):
            self._wrong.failed(client, now)
            self._log(f"refused {request.method} {show(request.path)} from {client}: wrong token", now)
            raise RequestError(
                401,
                "the bearer token is wrong; allowed: a token of the token file",
                headers={"WWW-Authenticate": 'Bearer realm="nftlb", error="invalid_token"'},
            )
        return names[found]

    def _trusts(self, peer: Peer) -> bool:
        if self._operators is None:
            return False
        return peer.user in self._always or not peer.groups.isdisjoint(self._operators())

    def _log(self, message: str, now: float) -> None:
        """Log a refusal; if there are many, only count it."""
        if self._logged.wait("", now):
            self._unlogged += 1
            return
        self._logged.failed("", now)
        more = f"; {self._unlogged} more before this one were not logged" if self._unlogged else ""
        self._unlogged = 0
        log.warning("%s%s", message, more)


def _address(transport: asyncio.BaseTransport | None) -> str:
    """The address of a client over TCP."""
    peer = None if transport is None else transport.get_extra_info("peername")
    return str(peer[0]) if isinstance(peer, tuple) else "a client that left"
