"""Checksum and segmentation offload of an interface, through the ethtool ioctl.

Why the lab cares: between veth ends with offload on, a datagram travels with an unfinished checksum (CHECKSUM_PARTIAL),
and the kernel's packet rewriting takes other paths than with the finished checksums that come from a real wire. What
works in one case need not work in the other, so tests of rewriting run with both.
"""

from __future__ import annotations

import array
import fcntl
import socket
import struct
from dataclasses import dataclass

_SIOCETHTOOL = 0x8946
_IFNAMSIZ = 16
# (get, set) of include/uapi/linux/ethtool.h
_RX_CHECKSUM = (0x14, 0x15)
_TX_CHECKSUM = (0x16, 0x17)
_TCP_SEGMENTATION = (0x1E, 0x1F)
_GENERIC_SEGMENTATION = (0x23, 0x24)
_GENERIC_RECEIVE = (0x2B, 0x2C)
_GET_LINK = 0x0A


@dataclass(frozen=True)
class Offload:
    """What an interface leaves to its (imagined) hardware."""

    tx_checksum: bool
    rx_checksum: bool
    segmentation: bool
    """TCP segmentation or generic segmentation."""
    generic_receive: bool


def get_offload(interface: str) -> Offload:
    """Read the flags of an interface in this thread's namespace."""
    with _socket() as sock:
        return Offload(
            tx_checksum=_get(sock, interface, _TX_CHECKSUM[0]),
            rx_checksum=_get(sock, interface, _RX_CHECKSUM[0]),
            segmentation=_get(sock, interface, _TCP_SEGMENTATION[0]) or _get(sock, interface, _GENERIC_SEGMENTATION[0]),
            generic_receive=_get(sock, interface, _GENERIC_RECEIVE[0]),
        )


def set_checksum_offload(interface: str, *, on: bool) -> None:
    """Turn checksum offload of an interface on or off, in both directions; segmentation and GRO are turned off.

    Segmentation and GRO would hand the balancer TCP super-packets and change nothing for UDP; without them the number
    of packets counted is the number sent.
    """
    with _socket() as sock:
        # The order matters: segmentation depends on tx checksums, so it goes first.
        for command in (_TCP_SEGMENTATION, _GENERIC_SEGMENTATION, _GENERIC_RECEIVE):
            _ethtool(sock, interface, command[1], 0)
        _ethtool(sock, interface, _TX_CHECKSUM[1], int(on))
        _ethtool(sock, interface, _RX_CHECKSUM[1], int(on))


def link_is_up(interface: str) -> bool:
    """Tell whether the interface has carrier. Since Linux 6.8 the question itself finishes a pending change of it."""
    with _socket() as sock:
        return _get(sock, interface, _GET_LINK)


def _socket() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def _get(sock: socket.socket, interface: str, command: int) -> bool:
    return bool(_ethtool(sock, interface, command, 0))


def _ethtool(sock: socket.socket, interface: str, command: int, value: int) -> int:
    """Do one ethtool command that carries one number (struct ethtool_value) and return the number afterwards."""
    request = array.array("B", struct.pack("=II", command, value))
    address, _ = request.buffer_info()
    # struct ifreq: the name, then a union of 24 bytes that holds a pointer here
    ifreq = struct.pack(f"{_IFNAMSIZ}sP16x", interface.encode("ascii"), address)
    fcntl.ioctl(sock, _SIOCETHTOOL, ifreq)
    _, result = struct.unpack("=II", request.tobytes())
    return int(result)
