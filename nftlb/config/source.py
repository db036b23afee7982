"""Where the text of a configuration comes from: a file, or standard input."""

from __future__ import annotations

import os
import stat
import sys
from typing import BinaryIO

from nftlb.config.document import MAX_BYTES
from nftlb.errors import ConfigError, Problem

STDIN = "-"


def read_source(path: str) -> bytes:
    """Read a file, or standard input for `-`; no more than shows that it is too large."""
    if path == STDIN:
        return _read(sys.stdin.buffer)
    try:
        return _read_file(path)
    except OSError as error:
        raise _fault(path, f"{error.strerror or error}; allowed: a readable file, or - for standard input") from None
    except ValueError:  # whose words differ between versions of Python
        raise _fault(path, "a NUL is in the name; allowed: the name of a file") from None


def _read_file(path: str) -> bytes:
    # A FIFO that nobody writes to would hold up open(2) for ever, and the daemon with it.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _fault(path, "not a regular file; allowed: a file, or - for standard input")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return _read(file)
    finally:
        os.close(descriptor)


def _read(file: BinaryIO) -> bytes:
    return file.read(MAX_BYTES + 1)


def _fault(path: str, message: str) -> ConfigError:
    return ConfigError([Problem(path, 0, 0, "", message)])
