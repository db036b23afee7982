"""What a reply has to contain: bytes, or text that fits a regular expression."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nftlb.model.patterns import compiled

from .line import shown
from .probe import Failed

if TYPE_CHECKING:
    from nftlb.model import Tcp, Udp
    from nftlb.model.patterns import Pattern

# Instructions times bytes: at 6 ns for each at worst, a search of less keeps the loop for no longer than 6 ms. Most
# take a tenth of that or less, and then a thread would cost more than the search.
_LARGE = 1 << 20
_SECONDS = 1.0  # in which all searches that are waiting before it must be over too
# RE2 searches without Python's lock. There is one thread, so that checks leave processors to everything else.
_SEARCHER = ThreadPoolExecutor(1, "search")


@dataclass(frozen=True, slots=True)
class Searched:
    """A regular expression to look for; made once of a check."""

    text: str
    _pattern: Pattern

    @classmethod
    def of(cls, text: str) -> Searched:
        return cls(text, compiled(text))

    async def occurs(self, reply: bytes) -> bool:
        """Search a reply as text, as far as it is UTF-8; a line break at its end may follow `$`. May raise Failed."""
        text = reply.decode(errors="replace").encode()
        if self._pattern.programsize * len(text) < _LARGE:
            return self._search(text)
        try:
            async with asyncio.timeout(_SECONDS):
                return await asyncio.get_running_loop().run_in_executor(_SEARCHER, self._search, text)
        except TimeoutError:
            raise Failed(f"the search for {shown(self.text)} took more than {_SECONDS:g}s: simplify it") from None

    def _search(self, text: bytes) -> bool:
        # `$` without the flag m is the very end to RE2, while Python and PCRE let a line break follow.
        return self._pattern.search(text) is not None or (
            text.endswith(b"\n") and self._pattern.search(text[:-1]) is not None
        )


@dataclass(frozen=True, slots=True)
class Matching:
    """Made once of a check; with neither, everything fits."""

    searched: Searched | None = None
    part: bytes | None = None

    @classmethod
    def of(cls, check: Tcp | Udp) -> Matching:
        return cls(None if check.match is None else Searched.of(check.match), check.match_hex)

    def __bool__(self) -> bool:
        return self.searched is not None or self.part is not None

    async def fits(self, reply: bytes) -> bool:
        if self.searched is not None and not await self.searched.occurs(reply):
            return False
        return self.part is None or self.part in reply

    def misfit(self, reply: bytes) -> str:
        """Say that a reply doesn't fit."""
        if self.searched is not None:
            return f"{shown(reply)} does not match {shown(self.searched.text)}"
        return f"{shown(reply.hex())} does not contain {shown((self.part or b'').hex())}"
