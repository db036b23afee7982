"""Neighbour entries (ARP, neighbour discovery): what the kernel believes of hosts on the same link, and asking again.

The kernel announces most changes of state. INCOMPLETE, the state of the first three seconds of a search, is seen only
by who looks.
"""

from __future__ import annotations

import errno
import socket
import struct
from dataclasses import dataclass
from enum import IntFlag
from ipaddress import ip_address
from typing import TYPE_CHECKING, TypeAlias

from nftlb.errors import KernelError

from .listener import Ear, Listener
from .netlink import NETLINK_ROUTE, NLM_F_CREATE, NLM_F_REPLACE, Netlink, attribute, attributes

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from .rtnetlink import IPAddress

# include/uapi/linux/rtnetlink.h, neighbour.h
_GROUP = 3
_RTM_NEWNEIGH, _RTM_GETNEIGH = 28, 30
_NDMSG = struct.Struct("=BxxxiHBB")  # family, index, state, flags, type
_NDA_DST = 1
_NTF_USE = 0x01
_FAMILIES = (socket.AF_INET, socket.AF_INET6)


class State(IntFlag):
    """NUD_*: what is believed of a neighbour."""

    NONE = 0
    INCOMPLETE = 0x01
    REACHABLE = 0x02
    STALE = 0x04
    DELAY = 0x08
    PROBE = 0x10
    FAILED = 0x20
    NOARP = 0x40
    PERMANENT = 0x80


USABLE = State.REACHABLE | State.STALE | State.DELAY | State.PROBE | State.NOARP | State.PERMANENT
"""The kernel has a link-layer address, and sends."""
_VERIFIABLE = State.REACHABLE | State.STALE | State.DELAY


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A host on a link: its address, and the index of this host's interface."""

    index: int
    address: IPAddress


States: TypeAlias = "Mapping[Neighbour, State]"


class Neighbours(Ear):
    """Hears of neighbours in the network namespace of the thread that makes it."""

    def __init__(self) -> None:
        """KernelError if the kernel won't tell."""
        try:
            super().__init__(Listener(NETLINK_ROUTE, _GROUP))
        except OSError as error:
            raise KernelError(f"neighbours can't be watched: {error.strerror}") from error

    def read(self) -> list[tuple[Neighbour, State]]:
        """Return the states that were announced since the last call; waits for nothing.

        That an entry was deleted is no news: it says nothing of the neighbour. What was lost in a flood is not told
        either. The kernel fails anew, and says so, as long as there is traffic for a neighbour that is away.
        """
        messages, _ = self._listener.hear()
        return list(_read(body for kind, body in messages if kind == _RTM_NEWNEIGH))


@dataclass(frozen=True)
class Asked:
    """What `ask` found before it asked, and why it could not ask (empty: it could)."""

    states: States
    trouble: str = ""


def ask(neighbours: Collection[Neighbour]) -> Asked:
    """Have the kernel find out now whether these neighbours answer. It announces what it finds.

    The kernel asks a neighbour whose address it has three times, a second apart, and goes on sending meanwhile; one
    whose address it does not have, it looks for. What is static, or being asked already, is left alone. Raises
    KernelError if the neighbours can't be read.
    """
    wanted = set(neighbours)
    try:
        with Netlink(NETLINK_ROUTE) as netlink:
            states = {one: state for one, state in _dump(netlink) if one in wanted}
            verify = [one for one in wanted if states.get(one, State.NONE) & _VERIFIABLE]
            find = [one for one in wanted if states.get(one, State.NONE) in (State.NONE, State.FAILED)]
            errors = [
                *netlink.change_all(_RTM_NEWNEIGH, (_body(one, State.PROBE, 0) for one in verify)),
                *netlink.change_all(
                    _RTM_NEWNEIGH,
                    (_body(one, State.NONE, _NTF_USE) for one in find),
                    NLM_F_CREATE | NLM_F_REPLACE,
                ),
            ]
    except OSError as error:
        raise KernelError(f"neighbours can't be read: {error.strerror}") from error
    # EINVAL, ENOENT: it changed since it was read. ENODEV, ENETDOWN: with its interface, which others notice.
    passing = (errno.EINVAL, errno.ENOENT, errno.ENODEV, errno.ENETDOWN)
    trouble = next((error for error in errors if error is not None and error.errno not in passing), None)
    return Asked(states, f"neighbours can't be asked: {_words(trouble)}" if trouble else "")


def _words(trouble: OSError) -> str:
    if trouble.errno == errno.ENOBUFS:
        return "the kernel's table of them is full: raise net.ipv4.neigh.default.gc_thresh3, or that of ipv6"
    return str(trouble.strerror)


def _dump(netlink: Netlink) -> Iterable[tuple[Neighbour, State]]:
    for family in _FAMILIES:
        yield from _read(netlink.dump_all(_RTM_GETNEIGH, _NDMSG.pack(family, 0, 0, 0, 0)))


def _read(bodies: Iterable[bytes]) -> Iterable[tuple[Neighbour, State]]:
    for body in bodies:
        family, index, state, _, _ = _NDMSG.unpack_from(body)
        if family in _FAMILIES and (packed := attributes(body, _NDMSG.size).get(_NDA_DST)):
            yield Neighbour(index, ip_address(packed)), State(state)


def _body(neighbour: Neighbour, state: State, flags: int) -> bytes:
    family = socket.AF_INET if neighbour.address.version == 4 else socket.AF_INET6  # noqa: PLR2004 - the version
    return _NDMSG.pack(family, neighbour.index, state, flags, 0) + attribute(_NDA_DST, neighbour.address.packed)
