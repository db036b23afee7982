"""Receives the logged port-unreachable errors (`nftlb.compiler.watched`): a host says that its server is gone.

The logged packets have passed the checks of the rules. The packet quoted in the error is checked here again: every
process with privileges on this host may log to the group, and conntrack has checked only the headers.
"""

from __future__ import annotations

import errno
import socket
import struct
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

from nftlb.compiler.watched import GROUP, HINT, PREFIX
from nftlb.errors import KernelError, SystemFault

from .generation import read_generation
from .monitors import KernelMonitor
from .netlink import NETLINK_NETFILTER, Netlink, attribute, attributes

if TYPE_CHECKING:
    from nftlb.model import IPAddress

# include/uapi/linux/netfilter/nfnetlink_log.h
_PACKET, _CONFIG = 0x400, 0x401
_CFG_CMD, _CFG_MODE, _CFG_QTHRESH = 1, 2, 5
_CMD_BIND, _CMD_FAMILY_UNBIND, _COPY_PACKET, _WHOLE = 1, 4, 2, 0
_NFULA_PAYLOAD, _NFULA_PREFIX = 9, 10
_NFGENMSG = struct.Struct("!BBH")  # address family, version, group

_IPV4_SIZE, _IPV6_SIZE, _ICMP_SIZE, _UDP_SIZE = 20, 40, 8, 8
_UDP = socket.IPPROTO_UDP
_PORT_UNREACHABLE = {4: (socket.IPPROTO_ICMP, 3, 3), 6: (socket.IPPROTO_ICMPV6, 1, 4)}
_FRAGMENT = socket.IPPROTO_FRAGMENT
_MOST_EXTENSIONS = 8  # RFC 8200 allows each once, one twice; reading a longer chain would take quadratic time
_EXTENSION_SIZE = 8  # bytes; the smallest size, and the unit of the length field
_EXTENSIONS = {socket.IPPROTO_HOPOPTS, socket.IPPROTO_ROUTING, _FRAGMENT, socket.IPPROTO_DSTOPTS}

# Datagrams to read at a time: a flood of refusals repeats the same message.
_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class PortUnreachable:
    """The address and port of a forwarded datagram whose host replied that no server listens there.

    `hint`: only the packet says so. Otherwise the rules have verified that this balancer sent the datagram.
    """

    address: IPAddress
    port: int
    hint: bool = False


class RefusalMonitor(KernelMonitor):
    """Receives refusals in the network namespace of the thread that makes it.

    A group has at most one listener: the first.
    """

    def __init__(self, group: int = GROUP) -> None:
        """Raises SystemFault if another process listens, if the kernel can't log, or without permission."""
        super().__init__("logged packets", NETLINK_NETFILTER)
        try:
            self._bind(group)
        except BaseException:
            self.close()
            raise

    def read(self) -> list[PortUnreachable]:
        """Return the waiting refusals, each address and port once. Never waits.

        Refusals that do not fit into the socket's buffer are lost: a server that is gone refuses again.
        """
        messages, _ = self._announcements.receive(_AT_ONCE)
        found = (_read_entry(body) for kind, body in messages if kind == _PACKET)
        return list(dict.fromkeys(value for value in found if value is not None))

    def _bind(self, group: int) -> None:
        body = b"".join(
            (
                _NFGENMSG.pack(socket.AF_UNSPEC, 0, group),
                attribute(_CFG_CMD, bytes([_CMD_BIND])),
                attribute(_CFG_MODE, struct.pack("!IBx", _WHOLE, _COPY_PACKET)),
                # Send each entry at once. By default the kernel collects a hundred entries, or waits for a second.
                attribute(_CFG_QTHRESH, struct.pack("!I", 1)),
            )
        )
        try:
            self._announcements.change(_CONFIG, body)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
                raise SystemFault("the kernel can't log packets to this process: modprobe nfnetlink_log") from error
            if error.errno in (errno.EPERM, errno.EBUSY):
                read_generation()  # raises if the cause is that this process lacks all permissions
                raise SystemFault(
                    f"another process listens to NFLOG group {group} in this network namespace: "
                    "stop it; /proc/net/netfilter/nfnetlink_log has its port number, most often its process id"
                ) from error
            raise KernelError(f"can't listen to NFLOG group {group}: {error.strerror}") from error


def can_log() -> bool:
    """Whether the kernel can log packets to a process. If not, it refuses every rule that logs to a group."""
    # This command changes nothing. It needs privileges in this network namespace only.
    body = _NFGENMSG.pack(socket.AF_UNSPEC, 0, 0) + attribute(_CFG_CMD, bytes([_CMD_FAMILY_UNBIND]))
    try:
        with Netlink(NETLINK_NETFILTER) as netlink:
            netlink.change(_CONFIG, body)
    except OSError as error:
        return error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT)
    return True


def _read_entry(body: bytes) -> PortUnreachable | None:
    found = attributes(body, _NFGENMSG.size)
    prefix = found.get(_NFULA_PREFIX, b"").rstrip(b"\0").decode("ascii", "replace")
    if prefix not in (PREFIX, HINT):
        return None
    refused = read_refusal(found.get(_NFULA_PAYLOAD, b""))
    return refused and replace(refused, hint=prefix == HINT)


def read_refusal(packet: bytes) -> PortUnreachable | None:
    """Return the refusal in a packet; None if the packet is not a refusal. The packet's end may be missing.

    A refusal is a port-unreachable error from the host to which a UDP datagram was sent. It quotes the datagram.
    """
    outer = _read_header(packet)
    if outer is None or len(outer.content) < _ICMP_SIZE:
        return None
    if (outer.protocol, *outer.content[:2]) != _PORT_UNREACHABLE[outer.source.version]:
        return None
    inner = _read_header(outer.content[_ICMP_SIZE:])
    if inner is None or inner.protocol != _UDP or len(inner.content) < _UDP_SIZE:
        return None
    if inner.destination != outer.source:
        return None
    port = int.from_bytes(inner.content[2:4])
    return PortUnreachable(inner.destination, port) if port else None


@dataclass(frozen=True, slots=True)
class _Header:
    """An IP header, and the content that follows the header and its extensions."""

    source: IPAddress
    destination: IPAddress
    protocol: int
    content: bytes


def _read_header(data: bytes) -> _Header | None:
    """Return the header; None if it is invalid or incomplete, or belongs to a fragment other than the first."""
    match data[0] >> 4 if data else 0:
        case 4 if len(data) >= _IPV4_SIZE:
            size = (data[0] & 0xF) * 4
            if size < _IPV4_SIZE or int.from_bytes(data[6:8]) & 0x1FFF:
                return None
            return _Header(IPv4Address(data[12:16]), IPv4Address(data[16:20]), data[9], data[size:])
        case 6 if len(data) >= _IPV6_SIZE:
            after = _past_extensions(data[6], data[_IPV6_SIZE:])
            return after and _Header(IPv6Address(data[8:24]), IPv6Address(data[24:40]), *after)
    return None


def _past_extensions(protocol: int, data: bytes) -> tuple[int, bytes] | None:
    for _ in range(_MOST_EXTENSIONS):
        if protocol not in _EXTENSIONS:
            return protocol, data
        if len(data) < _EXTENSION_SIZE or (protocol == _FRAGMENT and int.from_bytes(data[2:4]) & 0xFFF8):
            return None
        size = _EXTENSION_SIZE if protocol == _FRAGMENT else (data[1] + 1) * 8
        protocol, data = data[0], data[size:]
    return None
