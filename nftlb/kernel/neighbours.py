"""Neighbour entries (ARP, neighbour discovery): their states in the kernel, and requests to verify them.

The kernel announces most changes of a state. It does not announce INCOMPLETE, the state of the first three seconds of a
search: that is seen only in a dump.
"""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass
from enum import IntFlag
from ipaddress import ip_address
from typing import TYPE_CHECKING, TypeAlias

from nftlb.errors import KernelError

from .monitors import KernelMonitor
from .netlink import NETLINK_ROUTE, NLM_F_CREATE, NLM_F_REPLACE, Netlink, attribute, attributes
from .rtnetlink import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from .rtnetlink import IPAddress

# include/uapi/linux/rtnetlink.h, neighbour.h
_GROUP = 3
_RTM_NEWNEIGH, _RTM_GETNEIGH = 28, 30
_NDMSG = struct.Struct("=BxxxiHBB")  # family, index, state, flags, type
_NDA_DST = 1
_NTF_USE = 0x01


class State(IntFlag):
    """The state of a neighbour entry: the kernel's NUD_* values."""

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
"""States in which the kernel has a link-layer address and sends packets."""
_VERIFIABLE = State.REACHABLE | State.STALE | State.DELAY


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A host on a link: its address, and the index of this host's interface."""

    index: int
    address: IPAddress


States: TypeAlias = "Mapping[Neighbour, State]"


class NeighbourMonitor(KernelMonitor):
    """Receives the changes of neighbours in the network namespace of the thread that makes it."""

    def __init__(self) -> None:
        """Raises KernelError if the kernel refuses the subscription."""
        super().__init__("neighbours", NETLINK_ROUTE, _GROUP)

    def read(self) -> list[tuple[Neighbour, State]]:
        """Return the states that were announced since the last call. Never waits.

        Deleted entries are left out: a deletion says nothing about the neighbour. Announcements that were lost in a
        flood are not reported: while packets are sent to an absent neighbour, the kernel announces FAILED repeatedly.
        """
        messages, _ = self._announcements.receive()
        return list(_read(body for kind, body in messages if kind == _RTM_NEWNEIGH))


@dataclass(frozen=True)
class AskedNeighbours:
    """The states of neighbours before `ask_neighbours` had them verified, and its error; empty if there was none."""

    states: States
    trouble: str = ""


def ask_neighbours(neighbours: Collection[Neighbour]) -> AskedNeighbours:
    """Make the kernel verify now whether these neighbours answer. The kernel announces the results.

    A neighbour whose link-layer address is known is asked three times, a second apart, while packets are still sent to
    it. The kernel searches for a neighbour whose address is unknown. Static entries, and entries that are being
    verified already, are left alone. Raises KernelError if the neighbours can't be read.
    """
    wanted = set(neighbours)
    try:
        with Netlink(NETLINK_ROUTE) as netlink:
            states = {neighbour: state for neighbour, state in _dump(netlink) if neighbour in wanted}
            verify = [neighbour for neighbour in wanted if states.get(neighbour, State.NONE) & _VERIFIABLE]
            find = [
                neighbour for neighbour in wanted if states.get(neighbour, State.NONE) in (State.NONE, State.FAILED)
            ]
            errors = [
                *netlink.change_all(_RTM_NEWNEIGH, (_body(neighbour, State.PROBE, 0) for neighbour in verify)),
                *netlink.change_all(
                    _RTM_NEWNEIGH,
                    (_body(neighbour, State.NONE, _NTF_USE) for neighbour in find),
                    NLM_F_CREATE | NLM_F_REPLACE,
                ),
            ]
    except OSError as error:
        raise KernelError(f"neighbours can't be read: {error.strerror}") from error
    # EINVAL, ENOENT: the entry has changed since it was read. ENODEV, ENETDOWN: its interface is gone or down, which
    # LinkMonitor reports.
    passing = (errno.EINVAL, errno.ENOENT, errno.ENODEV, errno.ENETDOWN)
    trouble = next((error for error in errors if error is not None and error.errno not in passing), None)
    return AskedNeighbours(states, f"neighbours can't be asked: {_words(trouble)}" if trouble else "")


def _words(trouble: OSError) -> str:
    if trouble.errno == errno.ENOBUFS:
        return "the kernel's table of neighbours is full: raise net.ipv4.neigh.default.gc_thresh3, or that of ipv6"
    return str(trouble.strerror)


def _dump(netlink: Netlink) -> Iterable[tuple[Neighbour, State]]:
    for family in FAMILIES.values():
        yield from _read(netlink.dump_all(_RTM_GETNEIGH, _NDMSG.pack(family, 0, 0, 0, 0)))


def _read(bodies: Iterable[bytes]) -> Iterable[tuple[Neighbour, State]]:
    for body in bodies:
        family, index, state, _, _ = _NDMSG.unpack_from(body)
        if family in FAMILIES.values() and (packed := attributes(body, _NDMSG.size).get(_NDA_DST)):
            yield Neighbour(index, ip_address(packed)), State(state)


def _body(neighbour: Neighbour, state: State, flags: int) -> bytes:
    address = neighbour.address
    header = _NDMSG.pack(FAMILIES[address.version], neighbour.index, state, flags, 0)
    return header + attribute(_NDA_DST, address.packed)
