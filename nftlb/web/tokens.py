"""Who may change things: the tokens of a file, and whether a request carries one of them."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import os
import socket
import stat
import struct
from ipaddress import IPv6Address, IPv6Network, ip_address
from math import ceil
from typing import TYPE_CHECKING, TypeAlias

from nftlb.errors import SystemFault
from nftlb.model.reading import show
from nftlb.permissions import exposure

from .attempts import Attempts
from .errors import Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web

log = logging.getLogger(__name__)

_MAX_BYTES = 64 << 10
FREE, EVERY = 10, 6.0
"""So many wrong tokens in a row may come from a client; after that, one in so many seconds."""
_PEER = struct.Struct("iII")  # struct ucred: process, user, group

Tokens: TypeAlias = "Callable[[], frozenset[bytes] | None]"
"""Gives the digests of the tokens; None if there is no file of them. Raises SystemFault if it can't be read."""


def no_tokens() -> None:
    """Be the tokens of an API that only reads."""


def digest(token: bytes) -> bytes:
    """What is kept and compared of a token: of the same length for all, so that comparing tells nothing of it."""
    return hashlib.sha256(token).digest()


class TokenFile:
    """The tokens of a file: one in a line, empty lines and those that begin with # left out. Read anew when it changes.

    To be called before every change: that costs one stat(2).
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._seen: tuple[int, ...] | None = None
        self._digests: frozenset[bytes] = frozenset()

    def __call__(self) -> frozenset[bytes]:
        """Return the digests of the tokens; SystemFault if there are none to be had."""
        try:
            self._update()
        except OSError as error:
            raise SystemFault(f"the token file {self._path} can't be read: {error.strerror or error}") from error
        if not self._digests:
            raise SystemFault(f"the token file {self._path} has no token; put one in a line of its own")
        return self._digests

    def _update(self) -> None:
        if self._seen is not None and self._seen == _identity(os.stat(self._path)):  # noqa: PTH116
            return
        self._seen, self._digests = None, frozenset()  # until it is read: what was in it before may be revoked
        # A FIFO that nobody writes to would hold up open(2) for ever.
        descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise SystemFault(f"the token file {self._path} is not a regular file")
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                text = file.read(_MAX_BYTES + 1)
        finally:
            os.close(descriptor)
        if len(text) > _MAX_BYTES:
            raise SystemFault(f"the token file {self._path} is larger than {_MAX_BYTES >> 10} KiB")
        if who := exposure(status):
            raise SystemFault(
                f"the token file {self._path} is not used: {who}; mend: chmod 600 {self._path}, or chmod 640 and "
                "chgrp nftlb where the daemon runs as that user; and take other tokens, if somebody read these"
            )
        lines = (line.strip() for line in text.splitlines())
        self._digests = frozenset(digest(line) for line in lines if line and not line.startswith(b"#"))
        self._seen = _identity(status)


def _identity(status: os.stat_result) -> tuple[int, ...]:
    """What differs when a file was written, replaced or given other permissions."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


class Admission:
    """Who may change something: those with a token, each client with a limit of wrong ones."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self._wrong = Attempts(FREE, EVERY)
        self._logged = Attempts(2 * FREE, EVERY)
        self._unlogged = 0

    def admit(self, request: web.Request) -> None:
        """Let a request pass that carries a token; Refused with 401, 403 or 429, and SystemFault, for all others."""
        digests = self._tokens()
        if digests is None:
            raise Refused(403, "this API only reads: the file names no token_file under api")
        presented = request.headers.getall("Authorization", [])
        scheme, _, token = presented[0].partition(" ") if len(presented) == 1 else ("", "", "")
        if scheme.lower() != "bearer":
            raise Refused(401, "a bearer token is needed", headers={"WWW-Authenticate": 'Bearer realm="nftlb"'})
        who, now = _client(request), asyncio.get_running_loop().time()
        if wait := self._wrong.wait(who, now):
            # Not even a right one: the answer would tell who guesses that the guess was right.
            message = f"too many wrong tokens came from {who}; allowed: one in {EVERY:g} s"
            raise Refused(429, message, headers={"Retry-After": str(ceil(wait))})
        found = digest(token.strip().encode(errors="surrogateescape"))
        # All are compared, whichever fits: the time it takes tells nothing.
        if not sum([hmac.compare_digest(found, known) for known in digests]):
            self._wrong.failed(who, now)
            self._log(f"refused {request.method} {show(request.path)} from {who}: wrong token", now)
            raise Refused(
                401,
                "the bearer token is not one of those in the token file",
                headers={"WWW-Authenticate": 'Bearer realm="nftlb", error="invalid_token"'},
            )

    def _log(self, message: str, now: float) -> None:
        """Write a line for each, as long as there are few."""
        if self._logged.wait("", now):
            self._unlogged += 1
            return
        self._logged.failed("", now)
        more = f"; {self._unlogged} more before this one were not logged" if self._unlogged else ""
        self._unlogged = 0
        log.warning("%s%s", message, more)


def _client(request: web.Request) -> str:
    """Name who asks: an address, a network of IPv6 that one host may have all of, or a user of this host."""
    if request.remote:
        address = ip_address(request.remote.partition("%")[0])
        if isinstance(address, IPv6Address):
            return str(address.ipv4_mapped or IPv6Network((address, 64), strict=False))
        return str(address)
    wire = request.transport.get_extra_info("socket") if request.transport is not None else None
    if wire is None:
        return "a client that left"
    _, user, _ = _PEER.unpack(wire.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    return f"the local user {user}"
