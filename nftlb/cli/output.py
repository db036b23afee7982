"""Where results go: standard output, or a file that is replaced as a whole."""

from __future__ import annotations

import os
import stat
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from nftlb.printable import printable_lines

if TYPE_CHECKING:
    from collections.abc import Iterator

STANDARD_OUTPUT = "-"


class ReaderGoneError(Exception):
    """Nobody reads standard output any more. No OSError: click has an exit status of its own for those."""


def write(text: str, *, painted: bool = False) -> None:
    """Write to standard output, all of it now, while what goes wrong can still be told; to a closed one, nothing.

    `painted`: the text has escape sequences of its own for a terminal; the caller has made the rest harmless.
    """
    if sys.stdout is None:
        return
    try:
        with _naming("standard output"):
            sys.stdout.write(text if painted else printable_lines(text))
            sys.stdout.flush()
    except BrokenPipeError as error:
        raise ReaderGoneError from error


def write_error(text: str) -> None:
    """Write to standard error as far as that can be done."""
    if sys.stderr is not None:
        with suppress(OSError):
            sys.stderr.write(printable_lines(text))
            sys.stderr.flush()


def write_file(target: str, text: str) -> None:
    """Replace a file, or write to standard output for `-`. Readers see the old text or the new, never a part.

    A link stays a link, and a file keeps its mode. What is no regular file, a pipe for instance, is written to.
    """
    if target == STANDARD_OUTPUT:
        write(text)
        return
    path = Path(target)
    with _naming(target):
        mode = path.stat().st_mode if path.exists() else None
        if mode is None or stat.S_ISREG(mode):
            _replace(Path(os.path.realpath(path)), text, mode)
        else:
            path.write_text(text, encoding="utf-8")


def _replace(path: Path, text: str, mode: int | None) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            if mode is not None:
                os.fchmod(descriptor, stat.S_IMODE(mode))
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Have errors name what the user knows, whatever was tried."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, name) from error
