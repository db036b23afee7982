"""Notices what takes away the ways to backends: a link that goes down, a route or a rule of ours that is removed.

With a link, its routes are gone too, and IPv4 says nothing of them; when it comes back, they don't. `forward: dsr`
needs them, and the fast path needs its interfaces.
"""

from __future__ import annotations

import socket
import struct

from nftlb.errors import KernelError

from .listener import Ear, Listener
from .netlink import NETLINK_ROUTE, attributes
from .steering import PROTOCOL

# include/uapi/linux/rtnetlink.h, if_link.h, fib_rules.h
_GROUPS = (1, 7, 8, 11, 19)  # links, IPv4's routes and rules, IPv6's routes and rules
_NEWLINK, _DELLINK, _NEWROUTE, _DELROUTE, _DELRULE = 16, 17, 24, 25, 33
_IFINFOMSG = struct.Struct("=BxHiII")  # family, type, index, flags, mask of change
_IFLA_IFNAME = 3
_IFF_UP, _IFF_RUNNING = 0x1, 0x40
_FIB_RULE_HDR_SIZE = 12
_FRA_PROTOCOL = 21

# struct sock_filter: (code, jump if true, jump if false, constant); the offsets are into nlmsghdr and rtmsg. A router
# may lose a million routes at a time: those that are not ours are kept back in the kernel.
_FILTER = (
    (0x28, 0, 0, 4),  # load the type, which is then in network order
    (0x15, 4, 0, socket.htons(_NEWROUTE)),  # stop it
    (0x15, 0, 2, socket.htons(_DELROUTE)),  # pass any other
    (0x30, 0, 0, 21),  # load the protocol
    (0x15, 0, 1, PROTOCOL),
    (0x06, 0, 0, 0xFFFFFFFF),  # pass
    (0x06, 0, 0, 0),  # stop
)


class Links(Ear):
    """Hears of links and routes in the network namespace of the thread that makes it."""

    def __init__(self) -> None:
        """KernelError if the kernel won't tell."""
        self._states: dict[int, tuple[bytes, int]] = {}
        try:
            super().__init__(Listener(NETLINK_ROUTE, *_GROUPS, instructions=_FILTER))
        except OSError as error:
            raise KernelError(f"links and routes can't be watched: {error.strerror}") from error

    def read(self) -> bool:
        """Return whether something was taken away, or came back, since the last call; waits for nothing.

        That is: a link appeared, vanished, was renamed, went up or down; a rule or a route with our protocol number
        was removed, by us too. True also where announcements were lost, and for the first that is heard of a link.
        """
        messages, lost = self._listener.hear()
        news = [self._is_news(kind, body) for kind, body in messages]
        if lost:
            self._states.clear()
        return lost or any(news)

    def _is_news(self, kind: int, body: bytes) -> bool:
        if kind in (_NEWLINK, _DELLINK):
            return self._link_changed(kind, body)
        if kind == _DELRULE:
            return attributes(body, _FIB_RULE_HDR_SIZE).get(_FRA_PROTOCOL) == bytes([PROTOCOL])
        return kind == _DELROUTE

    def _link_changed(self, kind: int, body: bytes) -> bool:
        family, _, index, flags, _ = _IFINFOMSG.unpack_from(body)
        if family != socket.AF_UNSPEC:
            return False  # a bridge's word on its port
        before = self._states.pop(index, None)
        if kind == _DELLINK:
            return True
        name = attributes(body, _IFINFOMSG.size).get(_IFLA_IFNAME, b"")
        now = self._states[index] = name, flags & (_IFF_UP | _IFF_RUNNING)
        return now != before
