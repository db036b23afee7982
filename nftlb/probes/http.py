"""Probes by fetching a page over HTTP or HTTPS.

The connection is nftlb's own, and h11 parses the reply, so that the size and the number of pieces are limited.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import ssl
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import h11

from nftlb.errors import SystemFault
from nftlb.file_systems import WatchedFile
from nftlb.printable import one_line, quoted

from .matching import Searched
from .probe import Failed, Probe, Success, stamp, unreadable, within
from .stream import open_stream

if TYPE_CHECKING:
    from nftlb.model import Http

    from .probe import Subject
    from .stream import Stream

_SEARCHED = 64 * 1024
_DIGESTED = 1024 * 1024
_HEAD = 16 * 1024  # bytes of status line and headers, and of a chunk's header
_PIECES = 1000  # of a body, at most: h11 would take a tenth of a second for 64 KiB in single bytes
_TURN = 100  # pieces after which other tasks run
_PROVISIONAL = 10  # provisional (1xx) responses before the final response
# No compression: a small body could become a large one.
_HEADERS = (("User-Agent", "nftlb"), ("Accept", "*/*"), ("Accept-Encoding", "identity"), ("Connection", "close"))
_PORT_BEHIND = re.compile(r":[0-9]*$")
_PORTS = {False: 80, True: 443}


class HttpProbe(Probe):
    keeps_time = True

    def __init__(self, check: Http) -> None:
        self._check = check
        self._wanted = None if check.body is None else Searched.of(check.body)
        self._unwanted = None if check.body_not is None else Searched.of(check.body_not)
        self._authorities = WatchedFile(check.ca_file or "", partial(_trusting, check.ca_file, verify=check.verify))
        self._name = check.sni or (None if check.host is None else _PORT_BEHIND.sub("", check.host).strip("[]"))

    async def probe(self, subject: Subject) -> Success:
        # First, and not in the time of the backend: a backend does not fail because of a slow file system.
        context = await self._context() if self._check.tls else None
        return await within(subject.timeout, self._ask(subject, context))

    async def _ask(self, subject: Subject, context: ssl.SSLContext | None) -> Success:
        tls = (context, self._name or str(subject.address).partition("%")[0]) if context is not None else None
        try:
            async with open_stream(subject, subject.required_port, tls) as stream:
                return await self._fetch(_Conversation(stream), subject)
        except ssl.SSLError as error:
            raise Failed(_reason(error)) from error
        except h11.RemoteProtocolError as error:
            raise Failed(f"the reply was not HTTP: {one_line(str(error), 100)}") from error

    async def _context(self) -> ssl.SSLContext:
        """Return the TLS context. Raises SystemFault for an unusable ca_file, Failed for an invalid server name."""
        try:
            context = await self._authorities.now()
        except TimeoutError as error:
            raise unreadable("ca_file", Path(self._check.ca_file or ""), error) from error
        if self._name is not None:
            try:
                context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname=self._name)
            except ValueError as error:
                raise Failed(f"can't ask for {quoted(self._name)}: {error}") from error
        return context

    async def _fetch(self, conversation: _Conversation, subject: Subject) -> Success:
        port = subject.required_port
        host = subject.host if port == _PORTS[self._check.tls] else f"{subject.host}:{port}"
        response = await conversation.ask(self._check.method.value, self._check.path, self._check.host or host)
        said = f"{response.status_code} {one_line(bytes(response.reason), 60)}".rstrip()
        if not any(low <= response.status_code <= high for low, high in self._check.status):
            raise Failed(f"answered {said}")
        if misfit := await self._misfit(conversation):
            raise Failed(f"answered {said}, but the body {misfit}")
        return Success(said)

    async def _misfit(self, conversation: _Conversation) -> str:
        """Return how the body differs from the wanted one; empty if it fits."""
        if (self._wanted, self._unwanted, self._check.digest) == (None, None, None):
            return ""
        body = await conversation.body(_SEARCHED if self._check.digest is None else _DIGESTED)
        searched = body.begin[:_SEARCHED]
        part = "" if body.whole and len(body.begin) <= _SEARCHED else f" in its first {len(searched)} bytes"
        if self._wanted is not None and not await self._wanted.occurs(searched):
            return f"does not match {quoted(self._wanted.text)}{part}"
        if self._unwanted is not None and await self._unwanted.occurs(searched):
            return f"matches {quoted(self._unwanted.text)}"
        if self._check.digest is not None:
            if not body.whole:
                return f"is longer than {_DIGESTED} bytes or comes in more than {_PIECES} pieces"
            found = hashlib.md5(body.begin, usedforsecurity=False).hexdigest()
            if found != self._check.digest.lower():
                return f"has the digest {found}"
        return ""


@dataclass(frozen=True, slots=True)
class _Body:
    """The beginning of a body, and whether that is the whole body."""

    begin: bytes
    whole: bool


class _Conversation:
    """One request and its response."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._state = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD)

    async def ask(self, method: str, path: str, host: str) -> h11.Response:
        request = h11.Request(method=method, target=path, headers=[("Host", host), *_HEADERS])
        await self._stream.send((self._state.send(request) or b"") + (self._state.send(h11.EndOfMessage()) or b""))
        for _ in range(_PROVISIONAL):
            event = await self._next()
            if isinstance(event, h11.Response):
                return event
        raise Failed(f"{_PROVISIONAL} provisional responses came, and no final one")

    async def body(self, limit: int) -> _Body:
        body = bytearray()
        for piece in range(_PIECES):
            if piece % _TURN == _TURN - 1:
                await asyncio.sleep(0)
            event = await self._next()
            if not isinstance(event, h11.Data):
                return _Body(bytes(body), whole=True)
            body += event.data
            if len(body) > limit:
                break
        return _Body(bytes(body[:limit]), whole=False)

    async def _next(self) -> object:
        while (event := self._state.next_event()) is h11.NEED_DATA:
            begun = self._state.their_state is h11.SEND_BODY
            try:
                chunk = await self._stream.read(_SEARCHED)
            except ConnectionResetError:
                if not begun:
                    raise
                chunk = b""  # a server that does not read the request resets the connection after its response
            self._state.receive_data(chunk)
            if not chunk:
                try:
                    return self._state.next_event()
                except h11.RemoteProtocolError as error:
                    raise Failed(f"closed before {'the body' if begun else 'its answer'} was complete") from error
        return event


def _trusting(path: str | None, *, verify: bool) -> ssl.SSLContext:
    """Return the context for a ca_file; None stands for the system's authorities. Raises SystemFault. Reads files."""
    if path is None or not verify:
        return _make_context(None, None, verify)
    return _make_context(path, stamp(Path(path), "ca_file"), verify=True)


@lru_cache(maxsize=64)
def _make_context(path: str | None, _stamp: tuple[int, int, int] | None, verify: bool) -> ssl.SSLContext:
    """Make a context, once for each version of a ca_file. Without a path, the system's authorities are trusted."""
    if not verify:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    try:
        return ssl.create_default_context(cafile=path)
    except ssl.SSLError as error:
        raise SystemFault(f"ca_file {path} holds no certificates: write them into it, as PEM") from error
    except OSError as error:
        raise unreadable("ca_file", Path(path or ""), error) from error


def _reason(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate: {error.verify_message or error}"
    # The error's numbers are OpenSSL's, not the system's.
    return f"TLS: {error.reason.lower().replace('_', ' ') if error.reason else error}"
