"""Data that knows where it was written, and paths into it. No I/O.

Data is None, bool, int, str, `Items` (a list) or `Entries` (a dict).
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple, TypeAlias

Path: TypeAlias = tuple[str | int, ...]
Data: TypeAlias = "bool | int | str | Entries | Items | None"


class Place(NamedTuple):
    """A position in the text, counted from 1; 0 stands for the file as a whole."""

    line: int
    column: int


WHOLE = Place(0, 0)
START = Place(1, 1)


class Entries(dict[str, Any]):
    """A mapping; `places` tells for each key where it stands, and where its value does."""

    __slots__ = ("places",)

    def __init__(self) -> None:
        self.places: dict[str, tuple[Place, Place]] = {}

    def put(self, key: str, value: Data, places: tuple[Place, Place]) -> None:
        self[key] = value
        self.places[key] = places


class Items(list[Any]):
    """A sequence; `places` tells where each item stands."""

    __slots__ = ("places",)

    def __init__(self) -> None:
        self.places: list[Place] = []


_SIMPLE_KEY = re.compile(r"[\w.-]{1,60}")


def path_text(path: Path) -> str:
    """Write a path the way messages show it: `pools.dns.listen[1]`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{_key_text(part)}" for part in path).removeprefix(".")


def _key_text(key: str) -> str:
    return key if _SIMPLE_KEY.fullmatch(key) else json.dumps(key)


class Found(NamedTuple):
    """How far a path leads: the part of it that is there, as it is written, and what is missing of it."""

    path: Path
    key: Place
    value: Place
    missing: Path


def locate(root: Entries, path: Path) -> Found:
    """Find the place of a path.

    A path may say more than the text: an index where one value stands for a list of it, or a key within a value that is
    written in its short form. Such parts are left out.
    """
    data: Data = root
    shown: list[str | int] = []
    key = value = WHOLE
    for depth, part in enumerate(path):
        if isinstance(data, Items) and isinstance(part, int) and part < len(data):
            key = value = data.places[part]
        elif isinstance(data, Entries) and part in data:
            key, value = data.places[str(part)]
        elif isinstance(part, int) or isinstance(data, Items):
            continue
        else:
            return Found(tuple(shown), key, value, path[depth:] if isinstance(data, Entries) else ())
        data = data[part]  # type: ignore[index]
        shown.append(part)
        if data is None or isinstance(data, (Entries, Items)):
            value = key  # where the eye starts to read
    return Found(tuple(shown), key, value, ())
