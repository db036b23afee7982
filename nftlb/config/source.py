"""Where the text of a configuration comes from: a file, or standard input."""

from __future__ import annotations

import sys

from nftlb.config.document import MAX_BYTES
from nftlb.errors import ConfigError, Problem
from nftlb.files import NotRegularError, read_regular

STDIN = "-"


def read_source(path: str) -> bytes:
    """Read a file, or standard input for `-`; no more than shows that it is too large."""
    if path == STDIN:
        return sys.stdin.buffer.read(MAX_BYTES + 1)
    try:
        return read_regular(path, MAX_BYTES + 1)
    except NotRegularError as error:
        raise _fault(path, f"{error.strerror}; allowed: a file, or - for standard input") from None
    except OSError as error:
        raise _fault(path, f"{error.strerror or error}; allowed: a readable file, or - for standard input") from None
    except ValueError:  # whose words differ between versions of Python
        raise _fault(path, "a NUL is in the name; allowed: the name of a file") from None


def _fault(path: str, message: str) -> ConfigError:
    return ConfigError([Problem(path, 0, 0, "", message)])
