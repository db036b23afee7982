"""The regular expressions of a configuration, in the syntax of RE2, which searches any text in linear time.

The regular expressions of Python can take years for a reply of 1 MiB, and the backend chooses the reply. The size of an
expression is limited too: with the slowest method of RE2, a search takes about 6 ns for each byte and each instruction
of the compiled expression.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Protocol

LARGEST = 1000
"""The largest number of instructions of a compiled expression."""
_MEMORY = 256 * 1024  # bytes for the compiled expression and the cache of its searches; the default of RE2 is 8 MiB

# Syntax that Python and PCRE have and RE2 refuses, by the beginning of RE2's message.
_REFUSED = (
    ("invalid perl operator: (?=", "no look-ahead: write a check for each of the conditions"),
    ("invalid perl operator: (?!", "no look-ahead: an http check has body_not for what must not occur"),
    ("invalid perl operator: (?<", "no look-behind: match what comes before as well"),
    ("invalid perl operator: (?>", "no atomic groups: write (?:"),
    ("invalid perl operator: (?#", "no comments: leave the comment out"),
    ("invalid perl operator: (?(", "no conditions: write both cases as alternatives, with |"),
    ("invalid perl operator: (?P", "no references to groups: write the text again"),
    ("invalid perl operator: (?", "no such flags or groups: there are the flags i, m and s, and (?:"),
    ("invalid escape sequence: \\Z", r"\z is the end of the text"),
    ("invalid escape sequence: \\u", r"a character by its number is \x{20ac}"),
    ("invalid escape sequence: \\U", r"a character by its number is \x{1f600}"),
    *((f"invalid escape sequence: \\{n}", "no references to groups: write the text again") for n in range(1, 10)),
    ("invalid repetition size", "1000 repetitions at most, also of one repetition within another"),
    ("pattern too large", "write smaller numbers of repetitions, or fewer alternatives and classes"),
)
_POSSESSIVE = re.compile(r"bad repetition operator: .*\+")
# RE2 reads `{,5}` as these characters, Python as `{0,5}`.
_NO_MINIMUM = re.compile(r"(?<!\\)\{,([0-9]{1,9})\}")


class Pattern(Protocol):
    """A compiled expression."""

    @property
    def programsize(self) -> int:
        """The number of instructions."""

    def search(self, text: bytes) -> object | None:
        """Return a match, or None if the expression does not occur in the text."""


class BadPattern(ValueError):  # noqa: N818 - raised for the input of a user, not for an error of nftlb
    """A text is not an expression of RE2. The message has the reason and, where possible, what to write instead."""


@lru_cache(maxsize=1024)
def compiled(text: str) -> Pattern:
    """Compile an expression, for searches of bytes in UTF-8, without groups. Raises BadPattern."""
    import re2  # noqa: PLC0415 - not worth loading for a file without expressions

    if found := _NO_MINIMUM.search(text):
        raise BadPattern(f"{found[0]} has no minimum: write {{0,{found[1]}}}")
    options = re2.Options()
    options.log_errors = False
    options.never_capture = True
    options.max_mem = _MEMORY
    try:
        pattern: Pattern = re2.compile(text, options)
    except (re2.error, UnicodeEncodeError) as error:
        raise BadPattern(_reason(error)) from None
    if pattern.programsize > LARGEST:
        raise BadPattern("pattern too large: write smaller numbers of repetitions, or fewer alternatives and classes")
    return pattern


def _reason(error: Exception) -> str:
    said = error.args[0] if error.args else ""
    text = said.decode(errors="replace") if isinstance(said, bytes) else str(error)
    if _POSSESSIVE.fullmatch(text):
        return f"{text}: no possessive repetitions: leave the last + out"
    hint = next((hint for start, hint in _REFUSED if text.startswith(start)), None)
    return text if hint is None else f"{text}: {hint}"
