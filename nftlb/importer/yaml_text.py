"""Writes YAML with comments. Only text that YAML can't misread is written without quotes. No I/O."""

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


def yaml_flow(value: object) -> str:
    """Write a value in one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{yaml_key(key)}: {yaml_flow(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(yaml_flow, value)) + "]"
    text = str(value)
    if _PLAIN.fullmatch(text) and text.lower() not in _RESERVED:
        return text
    return '"' + "".join(map(_escaped, text)) + '"'


def yaml_key(key: str) -> str:
    """Write a key. A key that begins with a digit has quotes, because YAML might read a number."""
    written = yaml_flow(key)
    return f'"{written}"' if written[:1].isdigit() else written


def _escaped(character: str) -> str:
    if character in _SPECIAL:
        return _SPECIAL[character]
    if character.isprintable():
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"  # noqa: PLR2004


def yaml_comment(text: str, indent: str = "") -> str:
    """Write a line that YAML ignores."""
    return f"{indent}# {''.join(letter if letter.isprintable() else ' ' for letter in text)}"


def yaml_entries(values: Mapping[str, object], indent: str, notes: Mapping[str, str] | None = None) -> Iterable[str]:
    """Write `key: value` lines, with `notes` as comments behind their keys."""
    for key, value in values.items():
        note = (notes or {}).get(key)
        yield f"{indent}{yaml_key(key)}: {yaml_flow(value)}" + (f"  {yaml_comment(note)}" if note else "")
