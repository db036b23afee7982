"""A large body: the same bytes for all who get it, sent piece by piece as fast as each takes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp.payload import Payload

if TYPE_CHECKING:
    from aiohttp.abc import AbstractStreamWriter

PIECE = 64 << 10
"""Bytes handed to the transport at a time. Python 3.11 copies what the client has not taken yet: no more than this."""


class Large(Payload):
    """The bytes of an answer that others get too."""

    _value: bytes
    _autoclose = True

    def __init__(self, value: bytes, content_type: str) -> None:
        super().__init__(value, content_type=content_type)
        self._size = len(value)

    @property
    def value(self) -> bytes:
        return self._value

    async def write(self, writer: AbstractStreamWriter) -> None:
        whole = memoryview(self._value)
        for begin in range(0, len(whole), PIECE):
            await writer.write(whole[begin : begin + PIECE])
            await writer.drain()

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return self._value.decode(encoding, errors)
