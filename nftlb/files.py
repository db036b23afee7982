"""Reads regular files, and checks which users may read or write a file with a secret.

Instead of the file there may be a FIFO, a device or a file of gigabytes; no call waits for that. A file
system may never answer, though: see file_systems.py.
"""

from __future__ import annotations

import errno
import grp
import os
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class NotRegularError(OSError):
    """The path is a directory, a FIFO, a socket or a device, from which no text can be read."""


def read_regular(path: str | os.PathLike[str], most: int) -> bytes:
    """Return the content of a regular file, at most its first `most` bytes. OSError if the path is anything else."""
    with opened_regular(path) as descriptor:
        return read_from(descriptor, most)


@contextmanager
def opened_regular(path: str | os.PathLike[str], flags: int = 0) -> Iterator[int]:
    """Open a regular file for reading and yield its descriptor. OSError if the path is anything else."""
    # Opening a device can have an effect, so the type is checked first. Not Path.stat(), which reads "" as ".".
    _judge(os.stat(path, follow_symlinks=not flags & os.O_NOFOLLOW))  # noqa: PTH116
    # Without O_NONBLOCK, open(2) of a FIFO without a writer would never return.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY | flags)
    try:
        _judge(os.fstat(descriptor))
        yield descriptor
    finally:
        os.close(descriptor)


def read_from(descriptor: int, most: int) -> bytes:
    """Return the bytes up to the end of the file, at most `most` bytes."""
    found = bytearray()
    while len(found) < most and (chunk := os.read(descriptor, min(most - len(found), 1 << 20))):
        found += chunk
    return bytes(found)


def _judge(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise NotRegularError(errno.EINVAL, "not a regular file")


# --- files with secrets, by their owner, group and mode ---------------------------------------------------------------

_OURS = "nftlb"
"""The group of the package and of the Ansible role: files of /etc/nftlb are `root:nftlb` with mode 0640."""


def exposure(status: os.stat_result) -> str:
    """Describe which users may use the file and should not; empty if there are none.

    The rules are those of ssh, with one exception: a group may read the file if it is the group of root, a group of
    this process, or the group `nftlb`. A systemd credential has the group of root.
    """
    if not stat.S_ISREG(status.st_mode):
        return ""  # other users can't open a pipe of a shell
    mode = stat.S_IMODE(status.st_mode)
    if mode & stat.S_IRWXO:
        return f"every user of this host may {_verb(mode & stat.S_IWOTH)} it (mode {mode:04o})"
    if mode & stat.S_IWGRP or (mode & stat.S_IRWXG and status.st_gid not in _groups()):
        return f"its group {_name(status.st_gid)} may {_verb(mode & stat.S_IWGRP)} it (mode {mode:04o})"
    return ""


def _verb(writes: int) -> str:
    return "write" if writes else "read"


def _groups() -> set[int]:
    groups = {0, os.getegid(), *os.getgroups()}
    with suppress(KeyError):
        groups.add(grp.getgrnam(_OURS).gr_gid)
    return groups


def _name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
