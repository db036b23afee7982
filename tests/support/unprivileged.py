"""Runs functions without capabilities, and commands as an ordinary user."""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from nftlb.lab import Namespace

T = TypeVar("T")

NOBODY = 65534
_VERSION_3 = 0x20080522
_libc = ctypes.CDLL(None, use_errno=True)


def unprivileged(namespace: Namespace, function: Callable[[], T]) -> T:
    """Call a function without capabilities in the namespace. Only the thread of this call loses them."""

    def inside() -> T:
        assert _libc.capset(struct.pack("=Ii", _VERSION_3, 0), bytes(24)) == 0
        return function()

    return namespace.call(inside)


def ordinary_user() -> list[str]:
    """The command prefix with which root runs a command as the user `nobody`; empty for an ordinary user.

    The command may read all files, but has no other rights of root: the checkout can be in a directory that only its
    owner may enter, such as root's home.
    """
    if os.geteuid() != 0:
        return []
    *_, length = Path("/proc/self/uid_map").read_text(encoding="ascii").split()
    if int(length) <= NOBODY:  # the lab has moved this process into a user namespace, which has no other user
        return ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    reading = ["--bounding-set=-all,+dac_read_search", "--inh-caps=-all,+dac_read_search"]
    return [
        "setpriv",
        f"--reuid={NOBODY}",
        f"--regid={NOBODY}",
        "--clear-groups",
        *reading,
        "--ambient-caps=+dac_read_search",
    ]
