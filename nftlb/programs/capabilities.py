"""Which capabilities the programs that a thread starts have; Linux keeps that for each thread."""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING

from nftlb.model import Capability

if TYPE_CHECKING:
    from collections.abc import Iterable

# include/uapi/linux/capability.h and prctl.h
_NUMBERS = {Capability.NET_ADMIN: 12, Capability.NET_RAW: 13}
_VERSION_3 = 0x20080522
_PR_CAPBSET_DROP, _PR_CAP_AMBIENT = 24, 47
_RAISE, _CLEAR_ALL = 2, 4

_libc = ctypes.CDLL(None, use_errno=True)


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def confine(wanted: Iterable[Capability]) -> None:
    """Have programs that this thread starts from now on inherit these of our capabilities, and no others.

    What root's programs have besides, they keep, but neither CAP_NET_ADMIN nor CAP_NET_RAW, if this root has
    CAP_SETPCAP. Raises OSError if we don't have what is wanted.
    """
    numbers = {_NUMBERS[one] for one in wanted}
    _set_inheritable(sum(1 << number for number in numbers))
    _prctl(_PR_CAP_AMBIENT, _CLEAR_ALL)
    for number in numbers:
        _prctl(_PR_CAP_AMBIENT, _RAISE, number)
    for number in set(_NUMBERS.values()) - numbers:
        # Root gets at exec(2) all that is in this set. Others have nothing to gain there, and may not change the set.
        _libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)


def _set_inheritable(wanted: int) -> None:
    header, sets = _Header(_VERSION_3, 0), (_Sets * 2)()
    if _libc.capget(ctypes.byref(header), sets):
        raise _error()
    enough = sets[0].inheritable & wanted == wanted
    sets[0].inheritable, sets[1].inheritable = wanted, 0
    # In the unit for systemd capset(2) is not allowed; what is inheritable there helps nobody without ambient ones.
    if _libc.capset(ctypes.byref(header), sets) and not enough:
        raise _error()


def _prctl(option: int, what: int, number: int = 0) -> None:
    if _libc.prctl(option, what, number, 0, 0):
        raise _error()


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
