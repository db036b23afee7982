"""Probes with a RADIUS Status-Server request (RFC 5997)."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from pyrad.dictionary import Dictionary
from pyrad.packet import AccessAccept, AccessChallenge, AccessReject, AccountingResponse, AuthPacket, StatusServer

from nftlb.errors import SystemFault
from nftlb.file_systems import WatchedFile
from nftlb.files import read_regular

from .exchange import NotOurs, connected, exchange
from .probe import MOST_BYTES, Failed, Probe, Success, stamp, unreadable

if TYPE_CHECKING:
    from nftlb.model import Radius

    from .probe import Subject

_NAMES = {
    AccessAccept: "access-accept",
    AccessReject: "access-reject",
    AccountingResponse: "accounting-response",
    AccessChallenge: "access-challenge",
}
_HEALTHY = (AccessAccept, AccountingResponse)  # for authentication and accounting ports
_HEADER_SIZE, _LARGEST = 20, 4096  # RFC 2865, 3
_NO_NAMES = Dictionary()  # no names: attributes are used by their numbers


class RadiusProbe(Probe):
    keeps_time = True

    def __init__(self, check: Radius) -> None:
        self._secret = None if check.secret is None else check.secret.encode()
        self._file = SecretFile(Path(check.secret_file)) if check.secret_file is not None else None

    async def probe(self, subject: Subject) -> Success:
        request = _request(self._secret if self._file is None else await self._file.secret())
        # Encoded before the socket is opened, so that an error leaves no socket open.
        wire = request.RequestPacket()
        opened = connected(subject, subject.required_port)
        return await exchange(opened, wire, lambda reply: read_radius_reply(request, reply), subject.timeout)


class SecretFile:
    """A file with a secret. It is read again when it has changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._secret = b""
        self._watched = WatchedFile(str(path), self._read)

    async def secret(self) -> bytes:
        """Return the secret without blanks around it. Raises SystemFault if the file is empty or unreadable."""
        try:
            return await self._watched.now()
        except TimeoutError as error:
            raise unreadable("secret_file", self._path, error) from error

    def _read(self) -> bytes:
        found = stamp(self._path, "secret_file")
        if found != self._stamp:
            try:
                self._secret = read_regular(self._path, MOST_BYTES).strip()
            except OSError as error:
                raise unreadable("secret_file", self._path, error) from error
            self._stamp = found
        if not self._secret:
            raise SystemFault(f"secret_file {self._path} is empty: write the shared secret into it")
        return self._secret


def _request(secret: bytes | None) -> AuthPacket:
    request = AuthPacket(
        code=StatusServer,
        id=secrets.randbelow(256),
        secret=secret,
        authenticator=secrets.token_bytes(16),
        dict=_NO_NAMES,
    )
    request.add_message_authenticator()
    return request


def read_radius_reply(request: AuthPacket, wire: bytes) -> Success:
    """Judge the reply to a request. Raises Failed and NotOurs."""
    if not _HEADER_SIZE <= int.from_bytes(wire[2:4]) <= min(len(wire), _LARGEST):
        raise NotOurs("the reply was not RADIUS")
    if wire[1] != request.id:
        raise NotOurs("the reply was not for our request")
    # With an empty reply object, only the bytes are verified. Parsing all attributes takes a hundred times longer, and
    # is done only for signed replies.
    if not request.VerifyReply(request.CreateReply(), wire):
        raise NotOurs("the reply was not signed with our secret")
    try:
        reply = request.CreateReply(packet=wire)
        verified = request.VerifyReply(reply, wire)
    except Exception as error:  # pyrad does not document its exceptions for malformed bytes
        raise Failed("the reply was not RADIUS") from error
    if not verified:
        raise NotOurs("the reply was not signed with our secret")
    name = _NAMES.get(reply.code, f"code {reply.code}")
    if reply.code not in _HEALTHY:
        raise Failed(f"answered with {name}")
    return Success(name)
