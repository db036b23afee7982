"""Faults found in a document: collected, with their places, in our words. No I/O."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from nftlb.config.document import MAX_PROBLEMS
from nftlb.config.places import WHOLE, locate, path_text
from nftlb.errors import ConfigError, Problem
from nftlb.model.reading import show

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pydantic import BaseModel, ValidationError
    from pydantic_core import ErrorDetails

    from nftlb.config.document import Document
    from nftlb.config.places import Found, Path


class Faults:
    """Every fault of one file, each once."""

    def __init__(self, document: Document, file: str) -> None:
        self._root = document.root
        self._place = document.place
        self._file = file
        self._problems = set(document.problems)

    def add(self, path: Path, message: str, *, key: bool = False) -> None:
        """Note a fault of the value at `path`, or of its `key`."""
        found = self._find(path)
        place = found.key if key else found.value
        if place == WHOLE:
            place = self._place
        self._problems.add(Problem(self._file, *place, path_text(found.path + found.missing), message))
        if len(self._problems) >= MAX_PROBLEMS:
            self._problems.add(Problem(self._file, 0, 0, "", "too many faults; not all are shown"))
            self.raise_any()

    def where(self, path: Path) -> str:
        """Name another place within a message."""
        found = self._find(path)
        return f"{path_text(found.path + found.missing)} in line {found.value.line}"

    def raise_any(self) -> None:
        if self._problems:
            raise ConfigError(list(self._problems))

    def add_errors(self, error: ValidationError, model: type[BaseModel], path: Path, *, partial: bool = False) -> None:
        """Note what pydantic found in the data at `path`; in `partial` data nothing is missing."""
        for details in error.errors(include_url=False):
            if partial and _is_incomplete(details):
                continue
            location = details["loc"]
            key = location[-1:] == ("[key]",)
            self.add(
                path + (location[:-1] if key else location), _message(details, model), key=key or _is_unknown(details)
            )

    def _find(self, path: Path) -> Found:
        """Find a place; what a pool does not say itself, `defaults` may say for it."""
        found = locate(self._root, path)
        if found.missing and path[:1] == ("pools",):
            general = locate(self._root, ("defaults", *path[2:]))
            if not general.missing and "defaults" in self._root:
                return general
        return found


def _is_incomplete(details: ErrorDetails) -> bool:
    """Tell what a pool may still complete: a missing key, or keys of one mapping that do not go together."""
    return details["type"] == "missing" or (details["type"] == "value_error" and isinstance(details["input"], dict))


def _is_unknown(details: ErrorDetails) -> bool:
    return details["type"] == "extra_forbidden"


def _message(details: ErrorDetails, model: type[BaseModel]) -> str:
    match details["type"]:
        case "value_error":
            return str(details["ctx"]["error"])
        case "missing":
            return f"is missing; needed: {_description(model, details['loc'])}"
        case "extra_forbidden":
            return unknown_key(str(details["loc"][-1]), _keys(model, details["loc"][:-1]))
        case "tuple_type":
            return f"{show(details['input'])} is not a list; allowed: a list: {_description(model, details['loc'])}"
        case "too_short":
            return f"{show(details['input'])} is empty; allowed: at least one"
    keys = ", ".join(sorted(_keys(model, details["loc"])))
    allowed = f"with the keys {keys}" if keys else f": {_description(model, details['loc'])}"
    return f"{show(details['input'])} is not a mapping; allowed: a mapping {allowed}".replace(" : ", ": ")


def unknown_key(key: str, allowed: Iterable[str]) -> str:
    from difflib import get_close_matches  # noqa: PLC0415 - not worth loading for a good file

    known = sorted(allowed)
    near = get_close_matches(key, known, n=1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    found = f"'{key}'" if show(key) == key else show(key)
    return f"unknown key {found}; {hint}allowed: {', '.join(known) or 'no keys'}"


# --- what a model allows at a place: its JSON Schema tells ----------------------------------------------------------


def _keys(model: type[BaseModel], path: Path) -> set[str]:
    return {key for schema in _schemas_at(model, path) for key in schema.get("properties", ())}


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
