"""Probes by opening a TCP connection; may also send a payload and match the reply."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nftlb.printable import quoted

from .matching import Matching
from .probe import Failed, Probe, Success, noting
from .stream import open_stream

if TYPE_CHECKING:
    from nftlb.model import Tcp

    from .probe import Subject

_LIMIT = 64 * 1024


class TcpProbe(Probe):
    def __init__(self, check: Tcp) -> None:
        self._payload = check.payload
        self._matching = Matching.of(check)

    async def probe(self, subject: Subject) -> Success:
        async with open_stream(subject, subject.required_port) as stream:
            if self._payload:
                await stream.send(self._payload)
            if not self._matching:
                return Success("connected")
            with noting(lambda: f"{quoted(stream.received)} is all that came" if stream.received else ""):
                while not await self._matching.fits(stream.received):
                    if not await stream.more(_LIMIT):
                        raise Failed(f"closed, and {self._matching.misfit(stream.received)}")
            return Success("answered")
