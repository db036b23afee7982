"""What a reply has to contain: bytes, or text that fits a regular expression."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .line import shown

if TYPE_CHECKING:
    from nftlb.model import Tcp, Udp


@dataclass(frozen=True, slots=True)
class Matching:
    """Made once of a check; with neither, everything fits."""

    pattern: re.Pattern[str] | None = None
    part: bytes | None = None

    @classmethod
    def of(cls, check: Tcp | Udp) -> Matching:
        return cls(None if check.match is None else re.compile(check.match), check.match_hex)

    def __bool__(self) -> bool:
        return self.pattern is not None or self.part is not None

    def fits(self, reply: bytes) -> bool:
        if self.pattern is not None and self.pattern.search(reply.decode(errors="replace")) is None:
            return False
        return self.part is None or self.part in reply

    def misfit(self, reply: bytes) -> str:
        """Say that a reply doesn't fit."""
        if self.pattern is not None:
            return f"{shown(reply)} does not match {shown(self.pattern.pattern)}"
        return f"{shown(reply.hex())} does not contain {shown((self.part or b'').hex())}"
