"""Makes one harmless line of what a backend said: it ends in logs, on terminals and in a web page."""

from __future__ import annotations

from nftlb.printable import printable

_LONGEST = 200


def one_line(said: str | bytes, longest: int = _LONGEST) -> str:
    """Replace what can't be printed, join lines and cut at `longest` characters."""
    # Bytes are cut before they are decoded: a megabyte would be looked at for nothing. A character has at most four.
    text = said[: 4 * longest + 1].decode(errors="replace") if isinstance(said, bytes) else said[: 4 * longest + 1]
    words = " ".join(text.split())
    plain = printable(words, "\ufffd")
    return plain if len(plain) <= longest and len(said) <= 4 * longest else plain[: longest - 3] + "..."


def shown(said: str | bytes) -> str:
    """Quote what a backend said, within a longer line."""
    return f'"{one_line(said, 60)}"'
