"""The ethtool ioctl: requests about one interface, and the receive offloads that join datagrams.

With such an offload, nftlb spreads batches instead of packets: the kernel joins datagrams of one socket before any hook
sees them, and splits them again on the way out.
"""

from __future__ import annotations

import array
import fcntl
import socket
import struct

JOINING_OFFLOADS = ("rx-udp-gro-forwarding", "rx-gro-list")
"""As ethtool calls them: `ethtool -K DEVICE FEATURE off`. Both are off by default."""

# include/uapi/linux/ethtool.h
_SIOCETHTOOL = 0x8946
_GSTRINGS, _GFEATURES, _GSSET_INFO = 0x1B, 0x3A, 0x37
_SET_FEATURES = 4
_STRING_LENGTH = 32
_BLOCK = struct.Struct("=IIII")  # available, requested, active, never_changed: 32 features each
_IFREQ = struct.Struct("16sP16x")  # the name, then a union of 24 bytes that holds a pointer here


def ask_ethtool(interface: str, request: bytes) -> bytes:
    """Send one request in the network namespace of this thread. Return it as the kernel has changed it. Raises OSError.

    `request` begins with the number of the command.
    """
    buffer = array.array("B", request)
    address, _ = buffer.buffer_info()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, _SIOCETHTOOL, _IFREQ.pack(interface.encode(), address))
    return buffer.tobytes()


def read_joining_offloads(interface: str) -> tuple[str, ...]:
    """The JOINING_OFFLOADS that are on; none if the device does not tell."""
    try:
        names = _feature_names(interface)
        active = _active(interface, len(names))
    except OSError:
        return ()
    return tuple(name for name in JOINING_OFFLOADS if name in names and active >> names.index(name) & 1)


def _feature_names(interface: str) -> list[str]:
    info = ask_ethtool(interface, struct.pack("=IIQI", _GSSET_INFO, 0, 1 << _SET_FEATURES, 0))
    count = struct.unpack_from("=I", info, 16)[0]
    request = struct.pack("=III", _GSTRINGS, _SET_FEATURES, count) + bytes(count * _STRING_LENGTH)
    strings = ask_ethtool(interface, request)[12:]
    return [
        strings[start : start + _STRING_LENGTH].rstrip(b"\0").decode(errors="replace")
        for start in range(0, count * _STRING_LENGTH, _STRING_LENGTH)
    ]


def _active(interface: str, count: int) -> int:
    """All features that are on, as the bits of a number."""
    blocks = -(-count // 32)
    reply = ask_ethtool(interface, struct.pack("=II", _GFEATURES, blocks) + bytes(blocks * _BLOCK.size))
    return sum(_BLOCK.unpack_from(reply, 8 + block * _BLOCK.size)[2] << 32 * block for block in range(blocks))
