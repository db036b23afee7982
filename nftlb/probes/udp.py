"""Probes with a datagram: judges the reply or, if silence passes, waits for an ICMP error."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .exchange import Silence, connected, exchange
from .matching import Matching
from .probe import Failed, Probe, Success

if TYPE_CHECKING:
    from nftlb.model import Udp

    from .probe import Subject

_ANSWERED = Success("answered")


class UdpProbe(Probe):
    keeps_time = True

    def __init__(self, check: Udp) -> None:
        self._payload = check.payload
        self._matching = Matching.of(check)
        self._shortest, self._longest = check.min_length, check.max_length
        self._silence_passes = check.silence_passes

    async def probe(self, subject: Subject) -> Success:
        opened = connected(subject, subject.required_port)
        try:
            reply = await exchange(opened, self._payload, bytes, subject.timeout)
        except Silence:
            if not self._silence_passes:
                raise
            return Success(f"no ICMP error within {subject.timeout:g}s: silence counted as success")
        if not self._shortest <= len(reply) <= self._longest:
            raise Failed(f"reply is {len(reply)} bytes long, not {self._shortest} to {self._longest}")
        if not await self._matching.fits(reply):
            raise Failed(f"reply {self._matching.misfit(reply)}")
        return _ANSWERED
