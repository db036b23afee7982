"""What becomes of failures: a message on standard error and an exit status, never a traceback."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from nftlb.cli.output import ReaderGoneError, write_error
from nftlb.errors import ConfigError, NftlbError
from nftlb.printable import printable

if TYPE_CHECKING:
    from collections.abc import Callable

REFUSED = 3
INTERRUPTED = 130
"""As shells have it: 128 and the number of the signal."""
PIPE_BROKEN = 141
DEBUG = "NFTLB_DEBUG"
"""An environment variable: if it is set, faults of nftlb itself show where they happened."""


def guarded(run: Callable[[], Any]) -> int:
    """Run, and return the exit status: what `run` returns if that is a number, else 0."""
    try:
        status = run()
    except BaseException as error:  # noqa: BLE001 - whatever it is, the user gets a message
        status, message = _judge(error)
        if isinstance(error, (OSError, ReaderGoneError)):
            _forget_output()
        write_error(message)
    return status if isinstance(status, int) else 0


def _judge(error: BaseException) -> tuple[Any, str]:
    """The exit status, and what to say."""
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
            outcome = error.exit_status, f"{error}\n"  # each line begins with its place, as a compiler's do
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
    if message.startswith(usage):  # the whole help: there was no command
        return f"{message}\n"
    return f"{usage}\nnftlb: {message}\nTry `{error.ctx.command_path} --help`.\n"


def _bug(error: BaseException) -> str:
    trace = ""
    if os.environ.get(DEBUG):
        import traceback  # noqa: PLC0415 - hardly ever needed

        trace = "".join(traceback.format_exception(error))
    what = " ".join(f"{type(error).__name__}: {error}".split())
    return f"{trace}nftlb: a fault of nftlb itself; please report it ({DEBUG}=1 shows where it is): {what}\n"


def _forget_output() -> None:
    """Have what could not be written to standard output not be tried again, and complained about, at the exit."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
