"""YAML text with comments. Only what can't be misread is written without quotes. No I/O."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_PLAIN = re.compile(
    r"""[A-Za-z][A-Za-z0-9_.-]*                           # a word, a name, a domain
    |/[A-Za-z0-9_./-]*                                   # a path
    |[0-9]{1,6}(?:ms|s)                                  # a duration
    |[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?:-[0-9]+|:[0-9]+(?:-[0-9]+)?(?:/[a-z]+)?)?  # IPv4, perhaps with a port
    """,
    re.VERBOSE,
)
_RESERVED = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}
_SPECIAL = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def flow(value: object) -> str:
    """A value in one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key_text(key)}: {flow(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(flow, value)) + "]"
    text = str(value)
    if _PLAIN.fullmatch(text) and text.lower() not in _RESERVED:
        return text
    return '"' + "".join(map(_escaped, text)) + '"'


def key_text(key: str) -> str:
    """A key: what begins with a digit might be no text to YAML."""
    written = flow(key)
    return f'"{written}"' if written[:1].isdigit() else written


def _escaped(character: str) -> str:
    if character in _SPECIAL:
        return _SPECIAL[character]
    if character.isprintable():
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"  # noqa: PLR2004


def comment(text: str, indent: str = "") -> str:
    """A line that YAML passes over."""
    return f"{indent}# {''.join(one if one.isprintable() else ' ' for one in text)}"


def entries(values: Mapping[str, object], indent: str, notes: Mapping[str, str] | None = None) -> Iterable[str]:
    """`key: value` lines, some with a note behind them."""
    for key, value in values.items():
        note = (notes or {}).get(key)
        yield f"{indent}{key_text(key)}: {flow(value)}" + (f"  {comment(note)}" if note else "")
