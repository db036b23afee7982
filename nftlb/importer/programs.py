"""Programs that check: a plugin's exit status as ours, and what a server's own address and port become. No I/O."""

from __future__ import annotations

import re
import shlex
from ipaddress import ip_address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nftlb.model import IPAddress

ADDRESS, PORT = '"$NFTLB_ADDRESS"', '"$NFTLB_PORT"'

# keepalived has a program's exit status 1 for a failure, a plugin of Nagios for a warning.
_ENDS = {False: " || exit 2", True: "; test $? -ne 1 || exit 2"}
_SHELL = ["/bin/sh", "-c"]
_WRAPPERS = {f'"$@"{end}': end for end in _ENDS.values()}
_WORD = re.compile(r"[0-9A-Fa-f.:]+")
_PORT = re.compile(r"(?:(?<=^-[A-Za-z])|(?<![0-9A-Za-z.]))([0-9]{1,5})(?![0-9A-Za-z.])")


def wrapped(program: list[str], *, dynamic: bool) -> list[str]:
    """A program of keepalived's for our `exec`; with `dynamic` only 1 is a failure."""
    return [*_SHELL, f'"$@"{_ENDS[dynamic]}', "sh", *program]


def forms(argv: list[str], address: IPAddress, port: int | None) -> list[list[str]]:
    """Write a server's program with variables for its address and port, for its address alone, and as it is.

    One that has variables already stays as it is.
    """
    if any("$NFTLB_" in word for word in argv):
        return [argv]
    end, program = "", argv
    if argv[:2] == _SHELL and len(argv) > 4 and argv[2] in _WRAPPERS:  # noqa: PLR2004
        end, program = _WRAPPERS[argv[2]], argv[4:]
    found = []
    for its_port in (port, None):
        words = [program[0], *(_with_variables(word, address, its_port) for word in program[1:])]
        if words != program:
            command = " ".join(_quoted(word) for word in words)
            found.append([*_SHELL, f"{command}{end}" if end else f"exec {command}"])
    return [*found, argv]


# Private characters, for what is quoted in another way than the words around it.
_HERE = {"\ue002": ADDRESS, "\ue003": PORT}


def _with_variables(word: str, address: IPAddress, port: int | None) -> str:
    parts: list[str] = []
    end = 0
    for match in _WORD.finditer(word):
        if (text := _replaced(match[0], address, port)) != match[0]:
            parts += word[end : match.start()], text
            end = match.end()
    word = "".join((*parts, word[end:]))
    if port is None:
        return word
    return _PORT.sub(lambda match: "\ue003" if match[1] == str(port) else match[0], word)


def _replaced(text: str, address: IPAddress, port: int | None) -> str:
    """An address, perhaps with a port behind a colon."""
    if _is(text, address):
        return "\ue002"
    before, colon, after = text.rpartition(":")
    if colon and _is(before, address):
        return "\ue002:" + ("\ue003" if port is not None and after == str(port) else after)
    return text


def _is(text: str, address: IPAddress) -> bool:
    try:
        return ip_address(text) == address
    except ValueError:
        return False


def _quoted(word: str) -> str:
    parts = re.split("([\ue002\ue003])", word)
    return "".join(_HERE.get(part) or shlex.quote(part) for part in parts if part) or "''"
