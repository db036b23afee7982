"""Fetches a page over HTTP or HTTPS."""

from __future__ import annotations

import hashlib
import re
import socket
import ssl
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
from yarl import URL

from nftlb.errors import SystemFault

from .faults import open_socket, reason_of, stamp, unreadable
from .line import one_line, shown
from .probe import Answer, Failed, Probe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nftlb.model import Http

    from .subject import Subject

_LIMIT = 1024 * 1024
_NO_TIMEOUT = aiohttp.ClientTimeout(total=None, connect=None, sock_connect=None, sock_read=None)
# Nothing compressed: a small body could become a large one.
_HEADERS = {"User-Agent": "nftlb", "Accept": "*/*", "Accept-Encoding": "identity", "Connection": "close"}
_PORT_BEHIND = re.compile(r":[0-9]*$")


class HttpProbe(Probe):
    def __init__(self, check: Http) -> None:
        self._check = check
        self._body = None if check.body is None else re.compile(check.body)
        self._headers = _HEADERS if check.host is None else {**_HEADERS, "Host": check.host}
        self._name = check.sni or (None if check.host is None else _PORT_BEHIND.sub("", check.host).strip("[]"))

    async def probe(self, subject: Subject) -> Answer:
        try:
            context = self._context() if self._check.tls else None
        except ValueError as error:
            raise Failed(f"can't ask for {shown(self._name or '')}: {error}") from error
        with _sockets(subject) as make_socket:
            # With an address for a host, aiohttp looks up nothing.
            connector = aiohttp.TCPConnector(force_close=True, use_dns_cache=False, socket_factory=make_socket)
            try:
                async with aiohttp.ClientSession(
                    connector=connector, cookie_jar=aiohttp.DummyCookieJar(), timeout=_NO_TIMEOUT, auto_decompress=False
                ) as session:
                    return await self._fetch(session, subject, context)
            except aiohttp.ClientError as error:
                raise Failed(_reason(error)) from error

    def _context(self) -> ssl.SSLContext:
        """Raise SystemFault if there are no authorities to trust, ValueError if nobody can have such a name."""
        path = self._check.ca_file
        if path is None or not self._check.verify:
            context = _make_context(None, None, self._check.verify)
        else:
            context = _make_context(path, stamp(Path(path), "ca_file"), verify=True)
        if self._name is not None:
            # asyncio would find out only with a connection at hand, and forget that (Python 3.11).
            context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname=self._name)
        return context

    async def _fetch(self, session: aiohttp.ClientSession, subject: Subject, context: ssl.SSLContext | None) -> Answer:
        scheme = "http" if context is None else "https"
        async with session.request(
            self._check.method.value,
            URL(f"{scheme}://{subject.host}:{subject.required_port}{self._check.path}", encoded=True),
            headers=self._headers,
            allow_redirects=False,
            ssl=True if context is None else context,
            server_hostname=self._name if context is not None else None,
        ) as response:
            said = f"{response.status} {one_line(response.reason or '', 60)}".rstrip()
            if not any(low <= response.status <= high for low, high in self._check.status):
                raise Failed(f"answered {said}")
            if (self._body, self._check.digest) != (None, None) and (misfit := self._misfit(await _body(response))):
                raise Failed(f"answered {said}, but the body {misfit}")
            return Answer(said)

    def _misfit(self, body: bytes) -> str:
        """Say what the body is not, or nothing."""
        if self._body is not None and self._body.search(body.decode(errors="replace")) is None:
            return f"does not match {shown(self._body.pattern)}"
        if self._check.digest is not None:
            found = hashlib.md5(body, usedforsecurity=False).hexdigest()
            if found != self._check.digest.lower():
                return f"has the digest {found}"
        return ""


@contextmanager
def _sockets(subject: Subject) -> Iterator[Callable[[object], socket.socket]]:
    """Yield what opens aiohttp's sockets, which raises SystemFault; at the end their connections are over.

    For asyncio (Python 3.11) waits up to 30 s, with the socket open, until the other side ends TLS too; a server that
    stalls never does, and each check of it would hold one descriptor more.
    """
    opened: list[socket.socket] = []

    def make(_: object) -> socket.socket:
        opened.append(open_socket(subject, socket.SOCK_STREAM))
        return opened[-1]

    try:
        yield make
    finally:
        for each in opened:
            with suppress(OSError):  # it is closed already, or was never connected
                each.shutdown(socket.SHUT_RDWR)


@lru_cache(maxsize=64)
def _make_context(path: str | None, _stamp: tuple[int, int, int] | None, verify: bool) -> ssl.SSLContext:
    """Make a context, once for each version of a file of authorities; without one, the system's are trusted."""
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


async def _body(response: aiohttp.ClientResponse) -> bytes:
    """Return the body, or as much of it as we care to read."""
    body = bytearray()
    while len(body) < _LIMIT and (chunk := await response.content.read(_LIMIT - len(body))):
        body += chunk
    return bytes(body)


def _reason(error: aiohttp.ClientError) -> str:
    """Say what was wrong; raises SystemFault if it is this machine's fault."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            found = error.certificate_error
            reason = f"certificate: {getattr(found, 'verify_message', None) or found}"
        case aiohttp.ClientSSLError():
            # Before OSError, which it is too: its numbers are OpenSSL's.
            word = getattr(error.os_error, "reason", None)
            reason = f"TLS: {str(word).lower().replace('_', ' ') if word else error.os_error}"
        case aiohttp.ServerDisconnectedError():
            reason = "closed before its answer was complete"
        case aiohttp.ClientPayloadError():
            reason = "closed before the body was complete"
        case aiohttp.ClientResponseError():
            reason = f"what came was not HTTP: {one_line(error.message, 100)}"
        case OSError():
            reason = reason_of(error)
        case _:
            reason = str(error) or type(error).__name__
    return reason
