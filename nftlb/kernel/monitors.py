"""Monitors of the kernel: netlink sockets that receive announcements of changes, never wait, and report lost messages.

`RulesetMonitor` notices changes of our tables: `nft flush ruleset`, a manual edit, a restarted firewall. The kernel
announces every transaction of the namespace, ours included: first each changed object, then the new generation number.

`LinkMonitor` notices the loss of paths to backends: a link that goes down, or a route or routing rule of ours that is
deleted. When a link goes down its routes are deleted too, and IPv4 does not announce that. They do not come back with
the link. `forward: dsr` needs these routes, and the fast path needs its interfaces.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
from contextlib import ExitStack
from typing import TYPE_CHECKING, Self, TypeAlias

from nftlb.errors import KernelError, SystemFault

from .generation import Generation
from .netlink import NETLINK_NETFILTER, NETLINK_ROUTE, Netlink, attributes
from .policy_routing import PROTOCOL
from .rtnetlink import IFF_RUNNING, IFF_UP, IFINFOMSG, IFLA_IFNAME, RTM_DELLINK, RTM_NEWLINK

if TYPE_CHECKING:
    from collections.abc import Iterable

Instruction: TypeAlias = "tuple[int, int, int, int]"
"""struct sock_filter: code, jump if true, jump if false, constant."""

_SOL_NETLINK = 270
_NETLINK_ADD_MEMBERSHIP = 1
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE = 26, 33
_INSTRUCTION = struct.Struct("=HBBI")
# Bytes that may wait until they are read. Loading ten thousand backends announces 66,000 messages of 7 MB in total
# (2026-11, Linux 6.18).
_RECEIVE_BUFFER = 32 << 20
# Datagrams to read at a time, so that the caller can do other work during a flood.
_AT_ONCE = 512


class NetlinkMonitor(Netlink):
    """Receives the announcements of netlink groups, in the network namespace of the thread that makes it.

    `fileno()` is readable for select(2) or an event loop when announcements wait. Requests can be made as well, until
    the first announcement comes.
    """

    def __init__(
        self, protocol: int, *groups: int, instructions: Iterable[Instruction] = (), buffer: int = _RECEIVE_BUFFER
    ) -> None:
        """Open the socket. Raises OSError with EPERM if this process may not join a group.

        `instructions`: a filter in the kernel that decides which datagrams to pass (SO_ATTACH_FILTER of socket(7)).
        `buffer`: bytes of announcements that may wait to be read.
        """
        super().__init__(protocol)
        self._losing = False
        try:
            self._size_buffer(buffer)
            self._filter(instructions)
            for group in groups:
                self._socket.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)
        except OSError:
            self.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def receive(self, at_once: int = _AT_ONCE) -> tuple[list[tuple[int, bytes]], bool]:
        """Return (type, body) of the waiting messages, and whether messages before or among them were lost.

        At most `at_once` datagrams are read. If more wait, they stay in the socket, which remains readable.
        """
        received: list[tuple[int, bytes]] = []
        lost = self._losing
        for _ in range(at_once):
            try:
                received += [(kind, body) for kind, _, _, body in self._receive(socket.MSG_DONTWAIT)]
            except BlockingIOError:
                self._losing = False
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                # The buffer was full, or the kernel had no memory for an announcement. The kernel reports further
                # losses only after the buffer has been empty once.
                lost = self._losing = True
        return received, lost

    def _filter(self, instructions: Iterable[Instruction]) -> None:
        program = [_INSTRUCTION.pack(*instruction) for instruction in instructions]
        if program:
            code = ctypes.create_string_buffer(b"".join(program))
            # struct sock_fprog, with its padding: how many, and where
            self._socket.setsockopt(
                socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(program), ctypes.addressof(code))
            )

    def discard(self) -> None:
        """Discard the waiting messages. After a flood some may stay, and the socket remains readable."""
        for _ in range(_AT_ONCE):
            try:
                self._socket.recv(1, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise

    def _size_buffer(self, size: int) -> None:
        """Set the buffer's size: beyond the system's limit if this process is root on the host."""
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, size)
        except PermissionError:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)


class KernelMonitor:
    """The base of monitors, which interpret the announcements of a NetlinkMonitor. A context manager.

    `fileno()` is readable when announcements wait, and the `read()` of each monitor returns what they mean.
    """

    def __init__(
        self,
        subject: str,
        protocol: int,
        *groups: int,
        instructions: Iterable[Instruction] = (),
        buffer: int = _RECEIVE_BUFFER,
    ) -> None:
        """Open a NetlinkMonitor. `subject` names the watched objects in messages.

        Raises SystemFault if this process lacks the permission, KernelError if the kernel refuses the subscription.
        """
        try:
            self._announcements = NetlinkMonitor(protocol, *groups, instructions=instructions, buffer=buffer)
        except PermissionError as error:
            raise SystemFault(f"not permitted to watch {subject}: run nftlb as root, or with CAP_NET_ADMIN") from error
        except OSError as error:
            raise KernelError(f"{subject} can't be watched: {error.strerror}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._announcements.close()

    def fileno(self) -> int:
        return self._announcements.fileno()


# --- our tables -------------------------------------------------------------------------------------------------------

# include/uapi/linux/netfilter/nfnetlink.h, nf_tables.h
_NFNLGRP_NFTABLES = 7
_NEWGEN = 0xA0F
_NFTA_GEN_ID = 1
_NFTA_TABLE = 1
"""In every message about a table or a part of one, the first attribute: its name."""
_NFGENMSG_SIZE = 4
_ATTRIBUTE = struct.Struct("=HH")
_NUMBER = struct.Struct("!I")


class RulesetMonitor(KernelMonitor):
    """Receives the changes that any program makes to nftables, in the network namespace of the thread that makes it."""

    def __init__(self, table: str) -> None:
        """`table`: the name of our tables, which may exist in several families.

        Raises SystemFault if this process lacks the permission, KernelError if the kernel has no nf_tables.
        """
        self._name = table.encode() + b"\0"
        self._changing = self._news = False
        super().__init__("nftables", NETLINK_NETFILTER, _NFNLGRP_NFTABLES)
        with ExitStack() as stack:
            stack.enter_context(self._announcements)
            self._generation = stack.enter_context(Generation())
            # Changes up to this generation are unknown; all later changes are announced.
            self._announced = self._changed = self._generation.read()
            self._stack = stack.pop_all()

    def close(self) -> None:
        self._stack.close()

    def read(self) -> bool:
        """Return whether any process, ours included, changed our tables since the last call. Never waits.

        Also True if announcements were lost, because a change may be among them.
        """
        self._receive_changes()
        news, self._news = self._news, False
        return news

    def vouches(self, since: int, now: int) -> bool:
        """Whether our tables have certainly not changed since the generation `since`. `now`: the present generation.

        False if an announcement may still be missing: the kernel increases the number a moment before it announces.
        """
        self._receive_changes()
        return not self._changing and _reached(self._announced, now) and _reached(since, self._changed)

    def _receive_changes(self) -> None:
        messages, lost = self._announcements.receive()
        for kind, body in messages:
            if kind == _NEWGEN:
                self._announced = int(_NUMBER.unpack(attributes(body, _NFGENMSG_SIZE)[_NFTA_GEN_ID])[0])
                if self._changing:
                    self._changing, self._changed = False, self._announced
            elif _names(body, self._name):
                self._changing = self._news = True
        if lost:
            self._news = True
            # The transactions of the lost announcements had increased the number before.
            self._changed = self._generation.read()


def _names(body: bytes, table: bytes) -> bool:
    """Whether a message is about a table of that name, or a part of one."""
    length, kind = _ATTRIBUTE.unpack_from(body, _NFGENMSG_SIZE)
    return kind == _NFTA_TABLE and body[_NFGENMSG_SIZE + _ATTRIBUTE.size : _NFGENMSG_SIZE + length] == table


def _reached(reached: int, wanted: int) -> bool:
    """Whether the generation `one` equals `other` or comes after it. The numbers have 32 bits and wrap."""
    return (reached - wanted) & 0xFFFFFFFF < 1 << 31


# --- links and routes -------------------------------------------------------------------------------------------------

# include/uapi/linux/rtnetlink.h, fib_rules.h
_GROUPS = (1, 7, 8, 11, 19)  # links, IPv4's routes and rules, IPv6's routes and rules
_NEWROUTE, _DELROUTE, _DELRULE = 24, 25, 33
_FIB_RULE_HDR_SIZE = 12
_FRA_PROTOCOL = 21

# struct sock_filter: (code, jump if true, jump if false, constant); the offsets are into nlmsghdr and rtmsg. A router
# may lose a million routes at a time: the filter drops announcements of foreign routes in the kernel.
_FILTER = (
    (0x28, 0, 0, 4),  # load the type, which is then in network order
    (0x15, 4, 0, socket.htons(_NEWROUTE)),  # stop it
    (0x15, 0, 2, socket.htons(_DELROUTE)),  # pass any other
    (0x30, 0, 0, 21),  # load the protocol
    (0x15, 0, 1, PROTOCOL),
    (0x06, 0, 0, 0xFFFFFFFF),  # pass
    (0x06, 0, 0, 0),  # stop
)


class LinkMonitor(KernelMonitor):
    """Receives the changes of links and routes in the network namespace of the thread that makes it."""

    def __init__(self) -> None:
        """Raises KernelError if the kernel refuses the subscription."""
        super().__init__("links and routes", NETLINK_ROUTE, *_GROUPS, instructions=_FILTER)
        self._states: dict[int, tuple[bytes, int]] = {}

    def read(self) -> bool:
        """Return whether a path may have been lost or come back since the last call. Never waits.

        That is the case if a link appeared, vanished, was renamed, or went up or down, and if a routing rule or route
        with our protocol number was deleted, even by this process. Also True if announcements were lost, and for the
        first announcement about a link.
        """
        messages, lost = self._announcements.receive()
        news = [self._is_news(kind, body) for kind, body in messages]
        if lost:
            self._states.clear()
        return lost or any(news)

    def _is_news(self, kind: int, body: bytes) -> bool:
        if kind in (RTM_NEWLINK, RTM_DELLINK):
            return self._link_changed(kind, body)
        if kind == _DELRULE:
            return attributes(body, _FIB_RULE_HDR_SIZE).get(_FRA_PROTOCOL) == bytes([PROTOCOL])
        return kind == _DELROUTE

    def _link_changed(self, kind: int, body: bytes) -> bool:
        family, _, index, flags, _ = IFINFOMSG.unpack_from(body)
        if family != socket.AF_UNSPEC:
            return False  # a bridge announces its port
        before = self._states.pop(index, None)
        if kind == RTM_DELLINK:
            return True
        name = attributes(body, IFINFOMSG.size).get(IFLA_IFNAME, b"")
        now = self._states[index] = name, flags & (IFF_UP | IFF_RUNNING)
        return now != before
