r"""Makes arbitrary text harmless for logs, terminals, messages and web pages. No I/O.

Text from backends, files and the kernel could otherwise move the cursor, colour, hide or reorder the text beside it
(U+202E), or begin a line that looks like a message of nftlb. Unprintable characters are shown as Python writes them:
`\n`, `\x1b`, `\u202e`, and a byte that is not UTF-8 as `\xff`.
"""

from __future__ import annotations

from collections.abc import Mapping

_LONGEST_LINE = 200
_BYTES = range(0xDC80, 0xDD00)
"""Characters in which Python stores bytes that are not UTF-8 (PEP 383)."""


def printable(text: str, instead: str | None = None) -> str:
    """Return the text as one line. Unprintable characters become `instead` or, without it, their escape sequence."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else _shown(letter) if instead is None else instead for letter in text
    )


def printable_lines(text: str) -> str:
    """Return the text with harmless characters; line ends and tabs stay."""
    return "\n".join("\t".join(map(printable, line.split("\t"))) for line in text.split("\n"))


def encodable(text: str) -> str:
    """Return the text without characters that UTF-8 does not have: these become their escape sequences."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return "".join(_shown(letter) if "\ud800" <= letter <= "\udfff" else letter for letter in text)
    return text


def show(value: object) -> str:
    """Name a value in a message: in one line, short, and harmless to a terminal."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case Mapping():
            return "a mapping"
        case list() | tuple():
            return "a list"
    text = str(value)
    if len(text) > 60:  # noqa: PLR2004 - about a line's worth
        text = text[:57] + "..."
    if text.isprintable() and text.strip() == text != "":
        return text
    import json  # noqa: PLC0415 - not worth loading for a command without a fault

    return json.dumps(text)


def _shown(character: str) -> str:
    if ord(character) in _BYTES:
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def one_line(said: str | bytes, longest: int = _LONGEST_LINE) -> str:
    """Replace unprintable characters, join lines, and cut at `longest` characters."""
    # Bytes are cut before they are decoded, so that a megabyte costs little. A character has at most four bytes.
    text = said[: 4 * longest + 1].decode(errors="replace") if isinstance(said, bytes) else said[: 4 * longest + 1]
    words = " ".join(text.split())
    plain = printable(words, "\ufffd")
    return plain if len(plain) <= longest and len(said) <= 4 * longest else plain[: longest - 3] + "..."


def quoted(said: str | bytes) -> str:
    """Quote text of a backend, as part of a longer line: at most 60 characters."""
    return f'"{one_line(said, 60)}"'
