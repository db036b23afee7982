"""Notices that somebody changed our tables: `nft flush ruleset`, a hand's edit, a restarted firewall.

The kernel announces every transaction of the namespace, of ours too, object by object, and then the generation number
that it made.
"""

from __future__ import annotations

import struct
from contextlib import ExitStack

from nftlb.errors import KernelError, SystemFault

from .generation import Generation
from .listener import Ear, Listener
from .netlink import NETLINK_NETFILTER, attributes

# include/uapi/linux/netfilter/nfnetlink.h, nf_tables.h
_NFNLGRP_NFTABLES = 7
_NEWGEN = 0xA0F
_NFTA_GEN_ID = 1
_NFTA_TABLE = 1
"""In every message about a table or a part of one, the first attribute: its name."""
_NFGENMSG_SIZE = 4
_ATTRIBUTE = struct.Struct("=HH")
_NUMBER = struct.Struct("!I")


class Monitor(Ear):
    """Hears of the changes in the network namespace of the thread that makes it; readable at those of anybody's."""

    def __init__(self, table: str) -> None:
        """`table`: the name of our tables, of whatever family.

        SystemFault if this process may not listen, KernelError if the kernel has no nf_tables.
        """
        self._name = table.encode() + b"\0"
        self._changing = self._news = False
        with ExitStack() as stack:
            super().__init__(stack.enter_context(_listener()))
            self._generation = stack.enter_context(Generation())
            # Up to this generation anything may have happened; what comes after it is heard.
            self._announced = self._changed = self._generation.read()
            self._stack = stack.pop_all()

    def close(self) -> None:
        self._stack.close()

    def read(self) -> bool:
        """Return whether our tables were changed since the last call, by anybody, us included; waits for nothing.

        Also True where announcements were lost, since that can't be told then.
        """
        self._hear()
        news, self._news = self._news, False
        return news

    def vouches(self, since: int, now: int) -> bool:
        """Whether our tables are for sure as they were at generation `since`, the present one being `now`.

        False where an announcement may be missing still: the kernel moves the number a moment before it announces.
        """
        self._hear()
        return not self._changing and _reached(self._announced, now) and _reached(since, self._changed)

    def _hear(self) -> None:
        messages, lost = self._listener.hear()
        for kind, body in messages:
            if kind == _NEWGEN:
                self._announced = int(_NUMBER.unpack(attributes(body, _NFGENMSG_SIZE)[_NFTA_GEN_ID])[0])
                if self._changing:
                    self._changing, self._changed = False, self._announced
            elif _names(body, self._name):
                self._changing = self._news = True
        if lost:
            self._news = True
            # What was lost had moved the number before.
            self._changed = self._generation.read()


def _names(body: bytes, table: bytes) -> bool:
    """Whether a message is about a table of that name, or a part of one."""
    length, kind = _ATTRIBUTE.unpack_from(body, _NFGENMSG_SIZE)
    return kind == _NFTA_TABLE and body[_NFGENMSG_SIZE + _ATTRIBUTE.size : _NFGENMSG_SIZE + length] == table


def _reached(one: int, other: int) -> bool:
    """Whether a generation is another or comes after it, in 32 bits that wrap."""
    return (one - other) & 0xFFFFFFFF < 1 << 31


def _listener() -> Listener:
    try:
        return Listener(NETLINK_NETFILTER, _NFNLGRP_NFTABLES)
    except PermissionError as error:
        raise SystemFault("not permitted to watch nftables: run nftlb as root, or with CAP_NET_ADMIN") from error
    except OSError as error:
        raise KernelError(f"nftables can't be watched: {error.strerror}") from error
