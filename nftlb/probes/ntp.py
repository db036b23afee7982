"""Probes an NTP server by asking for the time, as a client of version 4 (RFC 5905)."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from nftlb.printable import one_line

from .exchange import NotOurs, connected, exchange
from .probe import Failed, Probe, Success

if TYPE_CHECKING:
    from nftlb.model import Ntp

    from .probe import Subject

_SIZE = 48
_CLIENT = 4 << 3 | 3  # version 4, mode 3
_MODE_SERVER = 4
_UNSYNCHRONISED = 3


class NtpProbe(Probe):
    keeps_time = True

    def __init__(self, check: Ntp) -> None:
        self._max_stratum = check.max_stratum

    async def probe(self, subject: Subject) -> Success:
        # The server returns our transmit timestamp. Random bits serve as well, and do not reveal our clock.
        stamp = secrets.token_bytes(8)
        request = bytes([_CLIENT]) + bytes(_SIZE - 9) + stamp
        opened = connected(subject, subject.required_port)
        return await exchange(
            opened, request, lambda reply: read_ntp_reply(stamp, self._max_stratum, reply), subject.timeout
        )


def read_ntp_reply(stamp: bytes, max_stratum: int, reply: bytes) -> Success:
    """Judge the reply to the request with `stamp`. Raises Failed and NotOurs."""
    if len(reply) < _SIZE or reply[0] & 7 != _MODE_SERVER:
        raise NotOurs("the reply was not NTP")
    if reply[24:32] != stamp:
        raise NotOurs("the reply was not for our request")
    stratum = reply[1]
    word = reply[12:16].rstrip(b"\0")
    if stratum == 0 and word.isalnum():
        raise Failed(f"kiss of death: {one_line(word)}")
    if reply[0] >> 6 == _UNSYNCHRONISED:
        raise Failed("not synchronised")
    if not 1 <= stratum <= max_stratum:
        raise Failed(f"stratum {stratum}, not 1 to {max_stratum}")
    return Success(f"stratum {stratum}")
