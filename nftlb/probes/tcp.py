"""Opens a TCP connection; sends and matches where it is told to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .line import shown
from .matching import Matching
from .probe import Answer, Failed, Probe, noting
from .stream import connection

if TYPE_CHECKING:
    from nftlb.model import Tcp

    from .subject import Subject

_LIMIT = 64 * 1024


class TcpProbe(Probe):
    def __init__(self, check: Tcp) -> None:
        self._payload = check.payload
        self._matching = Matching.of(check)

    async def probe(self, subject: Subject) -> Answer:
        async with connection(subject, subject.required_port) as stream:
            if self._payload:
                await stream.send(self._payload)
            if not self._matching:
                return Answer("connected")
            with noting(lambda: f"{shown(stream.received)} is all that came" if stream.received else ""):
                while not await self._matching.fits(stream.received):
                    if not await stream.more(_LIMIT):
                        raise Failed(f"closed, and {self._matching.misfit(stream.received)}")
            return Answer("answered")
