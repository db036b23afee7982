"""Receive offloads that hand several datagrams to the rules as one, read through the ethtool ioctl.

With them, "packet by packet" becomes "batch by batch": the kernel joins datagrams of one socket before any hook sees
them, and takes them apart again on the way out.
"""

from __future__ import annotations

import array
import fcntl
import socket
import struct

FEATURES = ("rx-udp-gro-forwarding", "rx-gro-list")
"""In ethtool's words: `ethtool -K DEVICE FEATURE off`. Both are off unless somebody turned them on."""

# include/uapi/linux/ethtool.h
_SIOCETHTOOL = 0x8946
_GSTRINGS, _GFEATURES, _GSSET_INFO = 0x1B, 0x3A, 0x37
_SET_FEATURES = 4
_STRING_LENGTH = 32
_BLOCK = struct.Struct("=IIII")  # available, requested, active, never_changed: 32 features each


def read_batching(interface: str) -> tuple[str, ...]:
    """Which of FEATURES are on; none where the device can't be asked."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            names = _feature_names(sock, interface)
            active = _active(sock, interface, len(names))
    except OSError:
        return ()
    return tuple(name for name in FEATURES if name in names and active >> names.index(name) & 1)


def _feature_names(sock: socket.socket, interface: str) -> list[str]:
    info = _ethtool(sock, interface, struct.pack("=IIQI", _GSSET_INFO, 0, 1 << _SET_FEATURES, 0))
    count = struct.unpack_from("=I", info, 16)[0]
    request = struct.pack("=III", _GSTRINGS, _SET_FEATURES, count) + bytes(count * _STRING_LENGTH)
    strings = _ethtool(sock, interface, request)[12:]
    return [
        strings[start : start + _STRING_LENGTH].rstrip(b"\0").decode(errors="replace")
        for start in range(0, count * _STRING_LENGTH, _STRING_LENGTH)
    ]


def _active(sock: socket.socket, interface: str, count: int) -> int:
    """All features that are on, as the bits of one number."""
    blocks = -(-count // 32)
    answer = _ethtool(sock, interface, struct.pack("=II", _GFEATURES, blocks) + bytes(blocks * _BLOCK.size))
    return sum(_BLOCK.unpack_from(answer, 8 + block * _BLOCK.size)[2] << 32 * block for block in range(blocks))


def _ethtool(sock: socket.socket, interface: str, request: bytes) -> bytes:
    buffer = array.array("B", request)
    address, _ = buffer.buffer_info()
    fcntl.ioctl(sock, _SIOCETHTOOL, struct.pack("16sP16x", interface.encode(), address))
    return buffer.tobytes()
