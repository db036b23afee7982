"""Who may change things: the tokens of a file, and whether a request carries one of them."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import stat
from typing import TYPE_CHECKING, TypeAlias

from nftlb.errors import SystemFault
from nftlb.model.reading import show

from .errors import Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web

log = logging.getLogger(__name__)

_MAX_BYTES = 64 << 10

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
        if status.st_mode & 0o007:
            log.warning("everybody may use the token file %s; mend: chmod o= %s", self._path, self._path)
        lines = (line.strip() for line in text.splitlines())
        self._digests = frozenset(digest(line) for line in lines if line and not line.startswith(b"#"))
        self._seen = _identity(status)


def _identity(status: os.stat_result) -> tuple[int, ...]:
    """What differs when a file was written, replaced or given other permissions."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def admit(request: web.Request, tokens: Tokens) -> None:
    """Let a request pass that carries a token; Refused with 401 or 403, and SystemFault, for all others."""
    digests = tokens()
    if digests is None:
        raise Refused(403, "this API only reads: the file names no token_file under api")
    presented = request.headers.getall("Authorization", [])
    scheme, _, token = presented[0].partition(" ") if len(presented) == 1 else ("", "", "")
    if scheme.lower() != "bearer":
        raise Refused(401, "a bearer token is needed", headers={"WWW-Authenticate": 'Bearer realm="nftlb"'})
    found = digest(token.strip().encode(errors="surrogateescape"))
    # All are compared, whichever fits: the time it takes tells nothing.
    if not sum([hmac.compare_digest(found, known) for known in digests]):
        who = request.remote or "a local user"
        log.warning("refused %s %s from %s: wrong token", request.method, show(request.path), who)
        raise Refused(
            401,
            "the bearer token is not one of those in the token file",
            headers={"WWW-Authenticate": 'Bearer realm="nftlb", error="invalid_token"'},
        )
