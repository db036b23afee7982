"""A client of the lab that reads the error queue of its socket (IP_RECVERR)."""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING

from nftlb.lab import LabClient
from nftlb.lab.datagram import LARGEST, decode_datagram
from nftlb.lab.host import _Exchange
from nftlb.lab.sockopt import ANCILLARY_SIZE

if TYPE_CHECKING:
    from nftlb.lab import Namespace

# include/uapi/linux/in.h, in6.h and errqueue.h
_IP_RECVERR, _IPV6_RECVERR = 11, 25
_ORIGIN_ICMP, _ORIGIN_ICMP6 = 2, 3
_EXTENDED_ERROR = struct.Struct("@IBBBxII")
_SOCKADDR4 = struct.Struct("@HH4s")
_SOCKADDR6 = struct.Struct("@HHI16s")


@dataclass(frozen=True)
class IcmpError:
    """One entry of a socket's error queue (IP_RECVERR)."""

    errno: int
    type: int
    code: int
    mtu: int
    """The MTU of the next hop, with EMSGSIZE."""
    offender: str
    """Address of the host that sent the error; empty if the client's own kernel raised the error."""
    sequence: int | None


class ErrorQueueClient(LabClient):
    """ONE UDP socket with an error queue. `Host.connect` explains the arguments."""

    def __init__(
        self,
        host: Namespace,
        target: tuple[str, int],
        *,
        connected: bool = True,
        source_port: int = 0,
        dont_fragment: bool = False,
    ) -> None:
        self._icmp: list[IcmpError] = []
        super().__init__(
            host,
            target,
            connected=connected,
            source=("", source_port),
            zero_checksum=False,
            dont_fragment=dont_fragment,
        )

    def _prepare(self, source: tuple[str, int], *, zero_checksum: bool, dont_fragment: bool) -> None:
        if self._sock.family == socket.AF_INET:
            self._sock.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
        else:
            self._sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
        super()._prepare(source, zero_checksum=zero_checksum, dont_fragment=dont_fragment)

    def icmp_errors(self) -> list[IcmpError]:
        """Return the errors from the error queue since the last call."""
        self._note_errors(_Exchange({}))
        errors, self._icmp = self._icmp, []
        return errors

    def _note_errors(self, state: _Exchange) -> None:
        """Read the error queue, before a system call returns the errors."""
        while (entry := self._next_icmp_error()) is not None:
            self._icmp.append(entry)
            if entry.offender:
                self._note(state, OSError(entry.errno, os.strerror(entry.errno)), entry.sequence)
        self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # the same error, which a later call would return

    def _next_icmp_error(self) -> IcmpError | None:
        try:
            payload, ancillary, _, _ = self._sock.recvmsg(
                LARGEST + 1, ANCILLARY_SIZE, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT
            )
        except BlockingIOError:
            return None
        decoded = decode_datagram(payload)  # ICMP quotes the beginning of the datagram: enough for its number
        sequence = decoded[0].sequence if decoded else None
        for level, kind, data in ancillary:
            if (level, kind) in _EXTENDED_ERRORS:
                return _parse_extended_error(data, sequence)
        return None


_EXTENDED_ERRORS = {(socket.IPPROTO_IP, _IP_RECVERR), (socket.IPPROTO_IPV6, _IPV6_RECVERR)}


def _parse_extended_error(data: bytes, sequence: int | None) -> IcmpError:
    """Decode struct sock_extended_err and the address of the offender behind it."""
    number, origin, kind, code, info, _ = _EXTENDED_ERROR.unpack_from(data)
    offender = ""
    rest = data[_EXTENDED_ERROR.size :]
    if origin == _ORIGIN_ICMP:
        offender = str(ip_address(_SOCKADDR4.unpack_from(rest)[2]))
    elif origin == _ORIGIN_ICMP6:
        offender = str(ip_address(_SOCKADDR6.unpack_from(rest)[3]))
    return IcmpError(number, kind, code, info, offender, sequence)
