"""The output of a command: results on standard output or in a file, and failures as a message and an exit status."""

from __future__ import annotations

import os
import select
import stat
import sys
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nftlb.errors import ConfigError, NftlbError
from nftlb.printable import printable, printable_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

STANDARD_OUTPUT = "-"


class ReaderGoneError(Exception):
    """The reader of standard output has closed it. Not an OSError, which click would turn into its own exit status."""


def write_output(text: str, *, painted: bool = False) -> None:
    """Write to standard output and flush it, so that errors are reported here. Does nothing if it is closed.

    `painted`: the text has escape sequences for a terminal, and the caller has escaped all that is not its own.
    OSError, or ReaderGoneError.
    """
    _write_pieces([text if painted else printable_lines(text)])


def _write_pieces(pieces: Iterable[str]) -> None:
    if sys.stdout is None:
        return
    try:
        with _errors_named("standard output"):
            sys.stdout.writelines(pieces)
            sys.stdout.flush()
    except BrokenPipeError as error:
        raise ReaderGoneError from error


def end_with_reader() -> None:
    """End this process when the reader of standard output ends, for a command that may have nothing to write for hours.

    Without this, a script with `nftlb events | head -1` waits for a second event, too.
    """
    from threading import Thread  # noqa: PLC0415 - only needed here

    with suppress(OSError, ValueError, AttributeError):  # standard output is closed, or is no file
        descriptor = sys.stdout.fileno()
        if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            Thread(target=_await_end_of_reader, args=[descriptor], daemon=True).start()


def _await_end_of_reader(descriptor: int) -> None:
    poll = select.poll()
    poll.register(descriptor, 0)
    poll.poll()
    os._exit(PIPE_BROKEN)


def write_error(text: str) -> None:
    """Write to standard error; errors are ignored, since nothing is left to report them."""
    if sys.stderr is not None:
        with suppress(OSError):
            sys.stderr.write(printable_lines(text))
            sys.stderr.flush()


def write_file(target: str, pieces: Iterable[str]) -> None:
    """Replace a file, or write to standard output for `-`. Other processes read either the old text or the new.

    `pieces`: the text, cut between lines.

    A link stays a link, and a file keeps its mode. A pipe or device is written to instead. OSError.
    """
    if target == STANDARD_OUTPUT:
        if sys.stdout is not None and not sys.stdout.isatty():
            _reconfigure(encoding="utf-8")  # a file that nftlb reads, whatever the locale is
        _write_pieces(map(printable_lines, pieces))
        return
    path = Path(target)
    with _errors_named(target):
        mode = path.stat().st_mode if path.exists() else None
        if mode is None or stat.S_ISREG(mode):
            _replace(Path(os.path.realpath(path)), pieces, mode)
        else:
            with path.open("w", encoding="utf-8") as file:
                file.writelines(pieces)


def _replace(path: Path, pieces: Iterable[str], mode: int | None) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            if mode is not None:
                os.fchmod(descriptor, stat.S_IMODE(mode))
            file.writelines(pieces)
            file.flush()
            os.fsync(descriptor)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _reconfigure(*, encoding: str | None = None, errors: str | None = None) -> None:
    """Change the encoding of standard output, or what happens to characters that the encoding does not have."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(encoding=encoding, errors=errors or sys.stdout.errors)


@contextmanager
def _errors_named(name: str) -> Iterator[None]:
    """Replace the file name in an OSError by the name that the user gave."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, name) from error


REFUSED = 3
INTERRUPTED = 130
"""128 plus the number of SIGINT, as in shells."""
PIPE_BROKEN = 141
"""128 plus the number of SIGPIPE."""
DEBUG = "NFTLB_DEBUG"
"""An environment variable: if it is set, faults of nftlb itself print a traceback."""


def guarded(run: Callable[[], Any]) -> int:
    """Call `run` and return the exit status: the number that `run` returns or 0, or the status of its failure."""
    _reconfigure(errors="backslashreplace")  # as Python does on standard error, in a locale without UTF-8
    try:
        status = run()
    except BaseException as error:  # noqa: BLE001 - the user gets a message for every failure
        status, message = _status_and_message(error)
        if isinstance(error, (OSError, ReaderGoneError)):
            _forget_output()
        write_error(message)
    return status if isinstance(status, int) else 0


def _status_and_message(error: BaseException) -> tuple[Any, str]:
    """The exit status and the message for a failure."""
    outcome: tuple[Any, str]
    match error:
        case click.exceptions.Exit():
            outcome = error.exit_code, ""
        case SystemExit():
            outcome = error.code, ""
        case click.UsageError():
            outcome = error.exit_code, _usage(error)
        case KeyboardInterrupt() | click.Abort():
            outcome = INTERRUPTED, ""
        case ConfigError():
            outcome = error.exit_status, f"{error}\n"  # each line begins with file and line, as those of a compiler
        case NftlbError():
            outcome = error.exit_status, f"nftlb: {error}\n"
        case ReaderGoneError():
            outcome = PIPE_BROKEN, ""
        case OSError():
            where = f"{printable(os.fsdecode(error.filename))}: " if error.filename else ""
            outcome = REFUSED, f"nftlb: {where}{error.strerror or error}\n"
        case MemoryError():
            outcome = REFUSED, "nftlb: out of memory\n"
        case _:
            outcome = REFUSED, _bug(error)
    return outcome


def _usage(error: click.UsageError) -> str:
    message = error.format_message()
    if error.ctx is None:
        return f"nftlb: {message}\n"
    usage = error.ctx.get_usage()
    if message.startswith(usage):  # no command was given: the message is the whole help
        return f"{message}\n"
    return f"{usage}\nnftlb: {message}\nTry `{error.ctx.command_path} --help`.\n"


def _bug(error: BaseException) -> str:
    trace = ""
    if os.environ.get(DEBUG):
        import traceback  # noqa: PLC0415 - rarely needed

        trace = "".join(traceback.format_exception(error))
    error_text = " ".join(f"{type(error).__name__}: {error}".split())
    return f"{trace}nftlb: a fault of nftlb itself; please report it ({DEBUG}=1 prints a traceback): {error_text}\n"


def _forget_output() -> None:
    """Redirect standard output to /dev/null, so that Python does not write the rest, and fail again, at the exit."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
