"""Reads files whose place may hold something else: a FIFO, a device, a file of gigabytes. Never waits."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class NotRegularError(OSError):
    """A directory, a FIFO, a socket, a device: nothing to read a text from."""


def read_regular(path: str | os.PathLike[str], most: int) -> bytes:
    """Return the content of a regular file, at most its first `most` bytes. Raises OSError for all else."""
    with opened_regular(path) as descriptor:
        return read_from(descriptor, most)


@contextmanager
def opened_regular(path: str | os.PathLike[str], flags: int = 0) -> Iterator[int]:
    """Give the descriptor of a regular file that is open for reading. Raises OSError for all else."""
    # Opening alone makes some devices do something. Not Path.stat(): for that "" is the current directory.
    _judge(os.stat(path, follow_symlinks=not flags & os.O_NOFOLLOW))  # noqa: PTH116
    # A FIFO that nobody writes to would hold up open(2) for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY | flags)
    try:
        _judge(os.fstat(descriptor))
        yield descriptor
    finally:
        os.close(descriptor)


def read_from(descriptor: int, most: int) -> bytes:
    """Return what comes until the end, at most `most` bytes."""
    found = bytearray()
    while len(found) < most and (chunk := os.read(descriptor, min(most - len(found), 1 << 20))):
        found += chunk
    return bytes(found)


def _judge(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise NotRegularError(errno.EINVAL, "not a regular file")
