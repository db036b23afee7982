"""Listens to the log of refusals (`nftlb.compiler.watched`): whose server is gone, as its own host says.

What is logged has passed the rules' guards; what it quotes is checked here once more, since anybody on this host may
log to a group, and everything beyond the headers that conntrack looked at is whatever was sent.
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

from .generation import generation
from .listener import Ear, Listener
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
_MOST_EXTENSIONS = 8  # RFC 8200 has each once, but for one of them; a longer chain would be read in quadratic time
_EXTENSION_SIZE = 8  # at least, and counted in as many bytes
_EXTENSIONS = {socket.IPPROTO_HOPOPTS, socket.IPPROTO_ROUTING, _FRAGMENT, socket.IPPROTO_DSTOPTS}

# Datagrams read at a time: a flood of refusals says the same again and again.
_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Refused:
    """The address and the port that a datagram was sent on to, and whose host says that nobody listens there.

    A hint is nothing but what some packet says; for anything else the rules have seen that we sent the datagram.
    """

    address: IPAddress
    port: int
    hint: bool = False


class Refusals(Ear):
    """Hears of them in the network namespace of the thread that makes it.

    A group has one listener at most: the first.
    """

    def __init__(self, group: int = GROUP) -> None:
        """SystemFault if somebody else listens to the group, if the kernel can't log, or if this process may not."""
        try:
            super().__init__(Listener(NETLINK_NETFILTER))
        except OSError as error:
            raise KernelError(f"the kernel has no netfilter: {error.strerror}") from error
        try:
            self._bind(group)
        except BaseException:
            self.close()
            raise

    def read(self) -> list[Refused]:
        """Return the refusals that are there, each address and port once; waits for nothing.

        What does not fit into the socket's buffer is lost: a server that is gone refuses again.
        """
        messages, _ = self._listener.hear(_AT_ONCE)
        found = (_read_entry(body) for kind, body in messages if kind == _PACKET)
        return list(dict.fromkeys(one for one in found if one is not None))

    def _bind(self, group: int) -> None:
        body = b"".join(
            (
                _NFGENMSG.pack(socket.AF_UNSPEC, 0, group),
                attribute(_CFG_CMD, bytes([_CMD_BIND])),
                attribute(_CFG_MODE, struct.pack("!IBx", _WHOLE, _COPY_PACKET)),
                # One entry comes at once; by default the kernel gathers a hundred, or waits for a second.
                attribute(_CFG_QTHRESH, struct.pack("!I", 1)),
            )
        )
        try:
            self._listener.change(_CONFIG, body)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
                raise SystemFault("the kernel can't log packets to this process: modprobe nfnetlink_log") from error
            if error.errno in (errno.EPERM, errno.EBUSY):
                generation()  # which fails for the same reason if this process may do nothing at all here
                raise SystemFault(
                    f"another process listens to NFLOG group {group} in this network namespace: "
                    "stop it; /proc/net/netfilter/nfnetlink_log has its port number, most often its process id"
                ) from error
            raise KernelError(f"can't listen to NFLOG group {group}: {error.strerror}") from error


def can_log() -> bool:
    """Whether the kernel can log packets to a process: if not, it refuses every rule that asks for it."""
    # The command does nothing, and needs no rights but those over this network namespace.
    body = _NFGENMSG.pack(socket.AF_UNSPEC, 0, 0) + attribute(_CFG_CMD, bytes([_CMD_FAMILY_UNBIND]))
    try:
        with Netlink(NETLINK_NETFILTER) as netlink:
            netlink.change(_CONFIG, body)
    except OSError as error:
        return error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT)
    return True


def _read_entry(body: bytes) -> Refused | None:
    found = attributes(body, _NFGENMSG.size)
    prefix = found.get(_NFULA_PREFIX, b"").rstrip(b"\0").decode("ascii", "replace")
    if prefix not in (PREFIX, HINT):
        return None
    refused = read_refusal(found.get(_NFULA_PAYLOAD, b""))
    return refused and replace(refused, hint=prefix == HINT)


def read_refusal(packet: bytes) -> Refused | None:
    """What a packet, of which the end may be missing, refuses; None if it is anything else than a refusal.

    That is a port-unreachable from the host that a UDP datagram was sent to, with the datagram that it is about.
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
    return Refused(inner.destination, port) if port else None


@dataclass(frozen=True, slots=True)
class _Header:
    """An IP header, with what comes after it and its extensions."""

    source: IPAddress
    destination: IPAddress
    protocol: int
    content: bytes


def _read_header(data: bytes) -> _Header | None:
    """None where it is no header, where its end is missing, and for any fragment but the first."""
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
