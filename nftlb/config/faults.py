"""Data with the places of its values in the text, and the faults of a document with their places. No I/O.

Data is None, bool, int, str, `Items` (a list) or `Entries` (a dict).
"""

from __future__ import annotations

import json
import re
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from nftlb.errors import ConfigError, Problem
from nftlb.printable import show

from . import meant
from .reading import Unfit

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from pydantic import BaseModel, ValidationError
    from pydantic_core import ErrorDetails

Path: TypeAlias = tuple[str | int, ...]
Data: TypeAlias = "bool | int | str | Entries | Items | None"


class Position(NamedTuple):
    """A position in the text, counted from 1; 0 stands for the file as a whole."""

    line: int
    column: int


WHOLE = Position(0, 0)
START = Position(1, 1)

Spot: TypeAlias = int
"""A position as one number, because a file may have 400,000 of them: the line, and in the last 32 bits the column."""


def position(spot: Spot) -> Position:
    return Position(spot >> 32, spot & 0xFFFF_FFFF)


class Entries(dict[str, Any]):
    """A mapping; `places` has the spot of each key and of its value."""

    __slots__ = ("places",)

    def __init__(self) -> None:
        self.places: dict[str, tuple[Spot, Spot]] = {}

    def put(self, key: str, value: Data, places: tuple[Spot, Spot]) -> None:
        self[key] = value
        self.places[key] = places


class Items(list[Any]):
    """A sequence; `places` has the spot of each item."""

    __slots__ = ("places",)

    def __init__(self) -> None:
        self.places: list[Spot] = []


_SIMPLE_KEY = re.compile(r"[\w.-]{1,60}")


def path_text(path: Path) -> str:
    """Write a path as messages show it: `pools.dns.listen[1]`."""
    parts = (
        f"[{part}]" if isinstance(part, int) else f".{part if _SIMPLE_KEY.fullmatch(part) else json.dumps(part)}"
        for part in path
    )
    return "".join(parts).removeprefix(".")


class Found(NamedTuple):
    """The part of a path that exists in the data, with its position, and the missing rest."""

    path: Path
    key: Position
    value: Position
    missing: Path


def locate(root: Entries, path: Path) -> Found:
    """Find the place of a path.

    A path may have parts that the text does not have: an index where a single value is written instead of a list, or a
    key inside a value that is written in its short form. These parts are left out.
    """
    data: Data = root
    shown: list[str | int] = []
    key = value = WHOLE
    for depth, part in enumerate(path):
        if isinstance(data, Items) and isinstance(part, int) and part < len(data):
            key = value = position(data.places[part])
        elif isinstance(data, Entries) and part in data:
            key, value = map(position, data.places[str(part)])
        elif isinstance(part, int) or isinstance(data, Items):
            continue
        else:
            return Found(tuple(shown), key, value, path[depth:] if isinstance(data, Entries) else ())
        data = data[part]  # type: ignore[index]
        shown.append(part)
        if data is None or isinstance(data, (Entries, Items)):
            value = key  # a reader looks for a mapping or a list at its key
    return Found(tuple(shown), key, value, ())


# --- faults -----------------------------------------------------------------------------------------------------------

MAX_PROBLEMS = 1000  # more faults help no user, and 16 MiB of random text would take minutes


class YamlDocument(NamedTuple):
    """The data of a file, the faults after which reading could continue, and the place where the data begins."""

    root: Entries
    problems: tuple[Problem, ...]
    place: Position = WHOLE


class ProblemCollector:
    """All faults of one file, each of them once."""

    def __init__(self, document: YamlDocument, file: str) -> None:
        self._root = document.root
        self._place = document.place
        self._file = file
        self._problems = set(document.problems)

    def add(self, path: Path, message: str, *, key: bool = False) -> None:
        """Add a fault of the value at `path`, or of its `key`."""
        found = self._find(path)
        place = found.key if key else found.value
        if place == WHOLE:
            place = self._place
        self._problems.add(Problem(self._file, *place, path_text(found.path + found.missing), message))
        if len(self._problems) >= MAX_PROBLEMS:
            self._problems.add(Problem(self._file, 0, 0, "", "too many faults; not all are shown"))
            self.raise_any()

    def add_elsewhere(self, problem: Problem) -> None:
        """Add a fault of another file."""
        self._problems.add(problem)

    def where(self, path: Path) -> str:
        """The name of a further place, for a message."""
        found = self._find(path)
        return f"{path_text(found.path + found.missing)} in line {found.value.line}"

    def raise_any(self) -> None:
        if self._problems:
            raise ConfigError(list(self._problems))

    def add_errors(self, error: ValidationError, model: type[BaseModel], path: Path, *, partial: bool = False) -> None:
        """Add the faults that pydantic found in the data at `path`. Missing keys of `partial` data are not faults."""
        found = error.errors(include_url=False)
        misspelt = set(filter(None, (_misspelt(details, model) for details in found)))
        for details in found:
            if (partial and _is_incomplete(details)) or (details["type"] == "missing" and details["loc"] in misspelt):
                continue
            location = details["loc"]
            of_key = location[-1:] == ("[key]",)
            place = path + (location[:-1] if of_key else location)
            self.add(place, _message(details, model, path), key=of_key or details["type"] == "extra_forbidden")

    def _find(self, path: Path) -> Found:
        """Find a place. A setting that a pool does not have may be in `defaults`."""
        found = locate(self._root, path)
        if found.missing and path[:1] == ("pools",):
            general = locate(self._root, ("defaults", *path[2:]))
            if not general.missing and "defaults" in self._root:
                return general
        return found


def _is_incomplete(details: ErrorDetails) -> bool:
    """Whether a pool may still correct the fault: a missing key, or keys of one mapping that exclude each other."""
    return details["type"] == "missing" or (details["type"] == "value_error" and isinstance(details["input"], dict))


def _misspelt(details: ErrorDetails, model: type[BaseModel]) -> Path:
    """The path of the key that is meant by an unknown key; empty if the fault is another."""
    *before, last = details["loc"] or ("",)
    if details["type"] != "extra_forbidden" or not (near := meant.key(str(last), _keys(model, (*before,)))):
        return ()
    return (*before, near)


def _message(details: ErrorDetails, model: type[BaseModel], path: Path) -> str:
    """The message about a fault of the data at `path`, which is read as `model`."""
    match details["type"]:
        case "value_error":
            return str(details["ctx"]["error"])
        case "missing":
            return f"is missing; needed: {_description(model, details['loc'])}"
        case "extra_forbidden":
            *before, key = details["loc"]
            return unknown_key(str(key), _keys(model, (*before,)), _elsewhere(model, path, (*before,), str(key)))
        case "tuple_type":
            description = _description(model, details["loc"])
            return str(Unfit(details["input"], "not a list", f"a list: {description}", meant.listed(details["input"])))
        case "too_short":
            return str(Unfit(details["input"], "empty", "at least one"))
    return _no_mapping_at(details, model, path)


def _no_mapping_at(details: ErrorDetails, model: type[BaseModel], path: Path) -> str:
    keys, named, needed = _form(model, details["loc"])
    advice = ""
    if not details["loc"] and path and path[-1] in keys:
        advice = f"{path[-1]} is a key of {path_text((*path[:-1], _ANY_NAME))}, so indent the key further than the name"
    return no_mapping(details["input"], keys, named, needed, advice)


def _form(model: type[BaseModel], path: Path) -> tuple[Collection[str], str, Collection[str]]:
    """The keys of the mapping at a path, what has names as keys there, and the keys that are needed."""
    schemas = _schemas_at(model, path)
    keys = {key for schema in schemas for key in schema.get("properties", ())}
    needed = {key for schema in schemas for key in schema.get("required", ())}
    free = any(_inside(schema, "") for schema in schemas)
    return keys, _description(model, path) if free else "", needed


def no_mapping(
    found: object, keys: Collection[str] = (), named: str = "", needed: Collection[str] = (), advice: str = ""
) -> str:
    """The message for a value in place of a mapping. `named`: what the mapping has, if its keys are names."""
    allowed = f" with the keys {', '.join(sorted(keys))}" if keys else f": {named}" if named else " without keys"
    return str(Unfit(found, "not a mapping", f"a mapping{allowed}", advice or _form_meant(found, keys, named, needed)))


def _form_meant(found: object, keys: Collection[str], named: str, needed: Collection[str]) -> str:
    """Advice for a value in place of a mapping."""
    advice = ""
    if found is None and (keys or named):
        advice = f"indent the {'names' if named else 'keys'} further than this key, or delete this key"
    elif isinstance(found, list) and (keys or named):
        advice = f"write {'NAME' if named else 'KEY'}: before each value, in place of -"
    elif isinstance(found, str) and found in keys:  # a check without options, as in `health: icmp`, is a mapping too
        advice = f"write {{{found}: {{}}}}"
    elif keys or named:
        (key,) = needed if len(needed) == 1 and isinstance(found, str) else ("",)
        advice = meant.without_blank(found) or (f"write {{{key}: {found}}}" if key and meant.listed(found) else "")
    else:
        advice = "write {}"
    return advice


def unknown_key(key: str, allowed: Iterable[str], elsewhere: str = "") -> str:
    """The message about a key. `elsewhere`: the place of a mapping that has this key."""
    known = sorted(allowed)
    near = meant.key(key, known, slips=not elsewhere)
    hint = f"did you mean '{near}'? " if near else f"it is a key of {elsewhere}; " if elsewhere else ""
    found = f"'{key}'" if show(key) == key else show(key)
    return f"unknown key {found}; {hint}allowed: {', '.join(known) or 'no keys'}"


# --- the keys and values that a model allows at a place, from its JSON Schema ---------------------------------------


def _keys(model: type[BaseModel], path: Path) -> set[str]:
    return {key for schema in _schemas_at(model, path) for key in schema.get("properties", ())}


_ANY_NAME = "NAME"
_MOST_PLACES = 2


def _elsewhere(model: type[BaseModel], base: Path, path: Path, key: str) -> str:
    """The places of mappings that have a key, one level above or below `path`; empty if there are none.

    The paths begin at `base`, where the file has what `model` reads.
    """
    outer = path[:-1] if path and isinstance(path[-1], int) else path  # the item of a list is no level of its own
    above = next((path[:length] for length in reversed(range(len(outer))) if _keys(model, path[:length])), None)
    below = [(*path, name, *rest) for name in sorted(_keys(model, path)) for rest in ((), (_ANY_NAME,), (0,))]
    places = [place for place in ([above] if above is not None else below) if key in _keys(model, place)]
    shown = (
        path_text(tuple(part for part in base + place if isinstance(part, str))) for place in places[:_MOST_PLACES]
    )
    return " and ".join(place or "the file" for place in dict.fromkeys(shown))


def _description(model: type[BaseModel], path: Path) -> str:
    return next(
        (str(schema["description"]) for schema in _schemas_at(model, path) if "description" in schema), "a value"
    )


def _schemas_at(model: type[BaseModel], path: Path) -> list[Mapping[str, Any]]:
    whole = _schema(model)
    definitions = whole.get("$defs", {})
    schemas = list(_alternatives(whole, definitions))
    for part in path:
        schemas = [
            option
            for schema in schemas
            for inner in _inside(schema, part)
            for option in _alternatives(inner, definitions)
        ]
    return schemas


@cache
def _schema(model: type[BaseModel]) -> dict[str, Any]:
    return model.model_json_schema()


def _inside(schema: Mapping[str, Any], part: str | int) -> Iterable[Mapping[str, Any]]:
    if isinstance(part, int):
        return [schema["items"]] if "items" in schema else []
    if part in schema.get("properties", {}):
        return [schema["properties"][part]]
    free = [schema.get("additionalProperties"), *schema.get("patternProperties", {}).values()]
    return [inner for inner in free if isinstance(inner, dict)]


def _alternatives(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    yield schema
    if "$ref" in schema:
        yield from _alternatives(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    for option in schema.get("anyOf", ()):
        yield from _alternatives(option, definitions)
