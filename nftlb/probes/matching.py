"""The wanted content of a reply: bytes, or text that matches a regular expression."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nftlb.model.patterns import compiled
from nftlb.printable import quoted

from .probe import Failed

if TYPE_CHECKING:
    from nftlb.model import Tcp, Udp
    from nftlb.model.patterns import Pattern

# Instructions times bytes, of 6 ns each in the worst case: a smaller search blocks the loop for 6 ms at most. Most
# searches take a tenth of that or less, and a thread would cost more than the search.
_LARGE = 1 << 20
_SECONDS = 1.0  # including the wait for earlier searches
# RE2 searches without Python's lock. One thread leaves the other processors to other work.
_SEARCHER = ThreadPoolExecutor(1, "search")


@dataclass(frozen=True, slots=True)
class Searched:
    """The compiled regular expression of a check."""

    text: str
    _pattern: Pattern
    _size: int  # the pattern computes its size each time

    @classmethod
    def of(cls, text: str) -> Searched:
        pattern = compiled(text)
        return cls(text, pattern, pattern.programsize)

    async def occurs(self, reply: bytes) -> bool:
        """Search a reply, decoded as UTF-8. `$` matches before a final line break, too. Raises Failed after 1 s."""
        text = reply.decode(errors="replace").encode()
        if self._size * len(text) < _LARGE:
            return self._search(text)
        try:
            async with asyncio.timeout(_SECONDS):
                return await asyncio.get_running_loop().run_in_executor(_SEARCHER, self._search, text)
        except TimeoutError:
            raise Failed(f"the search for {quoted(self.text)} took more than {_SECONDS:g}s: simplify it") from None

    def _search(self, text: bytes) -> bool:
        # Without the flag m, `$` is only the end to RE2. In Python and PCRE a final line break may follow.
        return self._pattern.search(text) is not None or (
            text.endswith(b"\n") and self._pattern.search(text[:-1]) is not None
        )


@dataclass(frozen=True, slots=True)
class Matching:
    """The wanted content of a check. Without an expression and bytes, every reply fits."""

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
        """Return the reason why a reply does not fit."""
        if self.searched is not None:
            return f"{quoted(reply)} does not match {quoted(self.searched.text)}"
        return f"{quoted(reply.hex())} does not contain {quoted((self.part or b'').hex())}"
