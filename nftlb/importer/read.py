"""Values that both importers read; what is none is an error with its line. No I/O."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeVar

from nftlb.model.fields import INTERFACE
from nftlb.model.reading import Unfit, read_address, show

from .remark import fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from nftlb.model import IPAddress

T = TypeVar("T")
_DIGITS = re.compile(r"[0-9]{1,10}")
LAST_PORT = 65535
LAST_MARK = 0xFFFFFFFF


def address(text: str, file: str, line: int) -> IPAddress:
    return _fitting(read_address, text, file, line)


def interface(text: str, file: str, line: int) -> str:
    return str(_fitting(INTERFACE.read, text, file, line))


def _fitting(read: Callable[[str], T], text: str, file: str, line: int) -> T:
    """Read as our own configuration does; what doesn't fit there is a fault of the file."""
    try:
        return read(text)
    except Unfit as error:
        raise fault(file, line, str(error)) from None


def number(text: str, file: str, line: int, low: int, high: int) -> int:
    if not _DIGITS.fullmatch(text) or not low <= int(text) <= high:
        raise fault(file, line, f"{show(text)} is not a number that can stand here; allowed: {low} to {high}")
    return int(text)


def port(text: str, file: str, line: int) -> int | None:
    """A port; None for 0, which is none."""
    return number(text, file, line, 0, LAST_PORT) or None
