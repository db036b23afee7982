"""Runs a function without any capability, as an ordinary user would: for the tests of what is said then."""

from __future__ import annotations

import ctypes
import struct
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from nftlb.lab import Namespace

T = TypeVar("T")

_VERSION_3 = 0x20080522
_libc = ctypes.CDLL(None, use_errno=True)


def unprivileged(namespace: Namespace, function: Callable[[], T]) -> T:
    """Call it in the namespace; capabilities belong to a thread, and this one ends with the call."""

    def inside() -> T:
        assert _libc.capset(struct.pack("=Ii", _VERSION_3, 0), bytes(24)) == 0
        return function()

    return namespace.call(inside)
