"""The written form of each option: how its value is read, and its JSON Schema as the file writes it. No I/O.

The options themselves are declared once, in the dataclasses of `nftlb.model`, with type, default and description.
`written_fields` makes the fields of a pydantic model from a dataclass. The HTTP API makes its bodies in the same way.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from enum import StrEnum
from functools import partial, reduce
from inspect import Signature
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Union, get_args, get_origin

from pydantic import Field
from pydantic_core import core_schema

from nftlb.model import checks, hash_keys, kinds
from nftlb.model.constraints import (
    LABEL_NAME,
    LABEL_TEXT,
    MOST_LABELS,
    SERVER_NAME,
    Argv,
    LabelName,
    LabelText,
    NumberLimits,
    PercentLimits,
    RegexSyntax,
    StatusRange,
    TextPattern,
    TimeLimits,
)

from . import reading

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic.fields import FieldInfo


@dataclass(frozen=True, eq=False)
class Reads:
    """Makes pydantic read a value with `read`. The JSON Schema is `written`; `write` gives a default as in a file."""

    read: Callable[[Any], object]
    written: Mapping[str, Any]
    write: Callable[[Any], object] = str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self.read)

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return dict(self.written)


@dataclass(frozen=True, eq=False)
class OneOrMany:
    """Makes pydantic accept a single value as a list of one value."""

    at_least: int = 0

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_before_validator_function(self._as_list, handler(source))

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        many = {**handler(schema), "minItems": self.at_least}
        return {"anyOf": [many["items"], many]}

    def _as_list(self, found: object) -> list[Any]:
        listed = list(found) if isinstance(found, (list, tuple)) else [found]
        if len(listed) < self.at_least:
            raise reading.Unfit(found, "empty", "at least one")
        return listed


class LabelsForm:
    """Makes pydantic turn a mapping into labels."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(self._labels, handler(source))

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {
            "type": "object",
            "patternProperties": {
                f"^(?:{LABEL_NAME.pattern.pattern})$": {
                    "anyOf": [
                        {"type": "string", "pattern": f"^(?:{LABEL_TEXT.pattern.pattern})$"},
                        {"type": "integer", "minimum": 0},
                    ]
                }
            },
            "additionalProperties": False,
            "maxProperties": MOST_LABELS,
        }

    def _labels(self, found: dict[str, str]) -> kinds.Labels:
        if len(found) > MOST_LABELS:
            raise reading.Unfit(len(found), "too many labels", f"{MOST_LABELS}")
        return tuple(found.items())


def or_short(short: Mapping[str, Any], schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
    """Describe a model that may also be written in a `short` form."""
    reference = handler(schema)
    model = handler.resolve_ref_schema(reference)
    mapping = dict(model)
    description = mapping.pop("description", "")
    model.clear()
    model.update({"description": description, "anyOf": [dict(short), mapping]})
    return reference


# --- the forms of single values --------------------------------------------------------------------------------------

_V4 = r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}"
_V6 = r"[0-9A-Fa-f]*:[0-9A-Fa-f:.]+"
_ENDPOINT = rf"(?:{_V4}|\[{_V6}\]):[0-9]{{1,5}}"
_INTERFACE = r"(?![0-9.]*:|[0-9]+\.|[^:]*\.[^0-9:])[A-Za-z0-9_.@+-]{1,15}"
ADDRESS_WRITTEN = {"type": "string", "pattern": f"^(?:{_V4}|{_V6})$"}
ENDPOINT_WRITTEN = {"type": "string", "pattern": f"^{_ENDPOINT}$"}
# The address of a backend may name the interface that a link-local address needs: fe80::1%eth1.
_V6_SCOPED = rf"{_V6}(?:%[A-Za-z0-9_.@:+-]{{1,15}})?"
BACKEND_ADDRESS_WRITTEN = {"type": "string", "pattern": f"^(?:{_V4}|{_V6_SCOPED})$"}

_NAME = SERVER_NAME.pattern.pattern
SERVER_WRITTEN = {"anyOf": [BACKEND_ADDRESS_WRITTEN, {"type": "string", "pattern": f"^{_NAME}$"}]}


def _short(v6: str) -> dict[str, Any]:
    """The JSON Schema of `ADDRESS:PORT`, where IPv6 addresses have brackets, also without a port."""
    return {"type": "string", "pattern": rf"^(?:{_V4}:[0-9]{{1,5}}|\[{v6}\](?::[0-9]{{1,5}})?)$"}


COLLECTOR_WRITTEN = {"anyOf": [_short(_V6), ADDRESS_WRITTEN]}
# In a pattern of a name with a port, the limit of the length would count the port, so this pattern leaves it out.
_NAME_AND_PORT = _NAME.replace("(?=.{1,253}$)", "").replace(r"\.?$)", r"\.?:)", 1)
SERVER_AND_PORT_WRITTEN = {
    "anyOf": [_short(_V6_SCOPED), {"type": "string", "pattern": f"^{_NAME_AND_PORT}:[0-9]{{1,5}}$"}]
}

_NOUNS: dict[type[StrEnum], str] = {
    kinds.Admin: "a state",
    kinds.Balance: "a way to balance",
    kinds.Capability: "a capability",
    kinds.Encap: "a tunnel",
    checks.Expect: "an outcome",
    kinds.Forward: "a way to forward",
    kinds.Helper: "a helper",
    kinds.Initial: "a state",
    checks.Method: "a method",
    kinds.Per: "a unit to balance",
    checks.Rcode: "an rcode",
    checks.RecordType: "a record type",
    kinds.Replies: "a hook for replies",
    checks.SnmpVersion: "a version",
    kinds.Templates: "a choice of backends for templates",
    checks.Transport: "a transport",
}
"""The name of an option with fixed words, in messages."""


def _one_per_family(example: dict[str, Any], *words: str) -> dict[str, Any]:
    """The JSON Schema of one value per address family: one value, a list, or one of these words."""
    forms = [example, {"type": "array", "items": example, "minItems": 1, "maxItems": 2}]
    return {"anyOf": [{"enum": list(words)}, *forms] if words else forms}


_VALUES: dict[Any, Reads] = {
    bool: Reads(reading.read_boolean, {"type": "boolean"}, bool),
    bytes: Reads(reading.read_hex, {"type": "string", "pattern": r"^(?:\s*[0-9A-Fa-f]{2})*\s*$"}, bytes.hex),
    kinds.IPAddress: Reads(reading.read_address, ADDRESS_WRITTEN),
    tuple[kinds.IPAddress, ...]: Reads(reading.read_addresses, _one_per_family(ADDRESS_WRITTEN), list),
    kinds.Listener: Reads(
        reading.read_listener,
        {
            "type": "string",
            "pattern": f"^(?:{_ENDPOINT}|(?:\\*|{_INTERFACE}):[0-9]{{1,5}})(?:-[0-9]{{1,5}})?/(?:udp|tcp|sctp)$",
        },
    ),
    kinds.Source: Reads(
        reading.read_source_address,
        _one_per_family(ADDRESS_WRITTEN, "masquerade", "keep"),
        lambda source: str(source.kind),
    ),
    kinds.Fallback: Reads(
        reading.read_fallback,
        _one_per_family(ENDPOINT_WRITTEN, "reject", "drop", "all"),
        lambda fallback: str(fallback.kind),  # only the default is written, and it has no servers
    ),
    hash_keys.HashKey: Reads(
        reading.read_hash_key,
        {
            "type": "string",
            "pattern": "^(?:"
            + "|".join(hash_keys.KEY_WORDS)
            + r"|source/[1-9][0-9]{0,2}(?:/[1-9][0-9]{0,2})?|payload@[0-9]{1,4}\+[0-9]{1,4})$",
        },
    ),
    kinds.MinHealthy: Reads(
        reading.read_min_healthy,
        {
            "anyOf": [
                {"type": "integer", "minimum": 1, "maximum": reading.MOST_BACKENDS},
                {"type": "string", "pattern": "^(?:100|[1-9][0-9]?)%$"},
            ]
        },
        lambda wanted: str(wanted) if wanted.percent else wanted.amount,
    ),
    kinds.Rate: Reads(
        reading.read_rate, {"type": "string", "pattern": "^[1-9][0-9]{0,6}/(?:s|second|m|minute|h|hour)$"}
    ),
    kinds.SourceLengths: Reads(
        reading.read_source_lengths,
        _one_per_family({"type": "string", "pattern": "^source(?:/[1-9][0-9]{0,2})?$"}),
        lambda _: "source",  # only the default is written
    ),
    kinds.SourceEntry: Reads(
        reading.read_source_entry,
        {"type": "string", "pattern": rf"^(?:/.+|(?:{_V4}|{_V6})(?:/[0-9]{{1,3}})?)$"},
    ),
    kinds.Endpoint: Reads(
        reading.read_dns_server,
        {"anyOf": [ADDRESS_WRITTEN, ENDPOINT_WRITTEN, {"type": "string", "pattern": rf"^\[{_V6}\]$"}]},
    ),
    kinds.Endpoint | kinds.UnixSocket: Reads(
        reading.read_api_listen, {"anyOf": [ENDPOINT_WRITTEN, {"type": "string", "pattern": "^unix:/.+$"}]}
    ),
    StatusRange: Reads(
        reading.read_status_codes,
        {
            "anyOf": [
                {"type": "integer", "minimum": 100, "maximum": 999},
                {"type": "string", "pattern": "^[1-9][0-9]{2}(?:-[1-9][0-9]{2})?$"},
            ]
        },
        lambda codes: str(codes[0]) if codes[0] == codes[1] else f"{codes[0]}-{codes[1]}",
    ),
}


def reads(annotation: Any) -> Reads:
    """The form of a single value of this type. TypeError for a type without one."""
    if annotation in _VALUES:
        return _VALUES[annotation]
    if isinstance(annotation, type) and issubclass(annotation, StrEnum):
        return _word(annotation, _NOUNS[annotation])
    for constraint in get_args(annotation)[1:]:
        if type(constraint) in _CONSTRAINTS:
            return _CONSTRAINTS[type(constraint)](constraint)
    raise TypeError(f"{annotation} has no written form")


def _number(limits: NumberLimits) -> Reads:
    digits = {"type": "integer", "minimum": limits.low, "maximum": limits.high}
    if limits.hexadecimal:
        forms = [digits, {"type": "string", "pattern": "^0[xX][0-9A-Fa-f]{1,8}$"}]
        return Reads(partial(reading.read_mark, limits.high), {"anyOf": forms}, int)
    return Reads(partial(reading.whole_number, limits.what, limits.low, limits.high), digits, int)


def _text(pattern: TextPattern) -> Reads:
    types_ = ["string", "integer"] if pattern.pattern.fullmatch("1") else "string"
    written = {"type": types_, "pattern": f"^(?:{pattern.pattern.pattern})$"}
    return Reads(partial(reading.read_text, pattern), written)


def _duration(limit: TimeLimits) -> Reads:
    written: dict[str, Any] = {"type": "string", "pattern": "^[0-9]{1,9}(?:ms|s|m|h)$"}
    return Reads(
        partial(reading.read_duration, limit.shortest, limit.longest, whole_seconds=limit.whole_seconds),
        written if limit.shortest else {"anyOf": [written, {"const": 0}]},
        reading.shown_duration,
    )


def _word(words: type[StrEnum], what: str) -> Reads:
    digits = [int(word) for word in words if word.isdecimal()]
    return Reads(partial(reading.read_word, words, what), {"enum": [*map(str, words), *digits]})


_PERCENT_WRITTEN = {"type": "string", "pattern": "^(?:100|[0-9]{1,2})%$"}
_CONSTRAINTS: dict[type[Any], Callable[[Any], Reads]] = {
    NumberLimits: _number,
    TextPattern: _text,
    TimeLimits: _duration,
    PercentLimits: lambda _: Reads(reading.read_percent, _PERCENT_WRITTEN, lambda percent: f"{percent}%"),
    RegexSyntax: lambda _: Reads(reading.read_regex, {"type": "string"}),
}


# --- the fields of a dataclass ---------------------------------------------------------------------------------------


def written_form(annotation: Any, *, at_least: int = 0) -> Any:
    """The type of a pydantic field for a value of this type; `at_least` counts for lists only."""
    value = without_none(annotation)
    if value != annotation:
        return written_form(value) | None
    if annotation == Argv:
        return tuple[written_form(get_args(Argv)[0]), ...]  # type: ignore[misc]  # the type is known at run time only
    if annotation == kinds.Labels:
        return Annotated[dict[written_form(LabelName), written_form(LabelText)], LabelsForm()]  # type: ignore[misc]  # as above
    if get_origin(annotation) is tuple and annotation not in _VALUES:
        form = written_form(get_args(annotation)[0])
        return Annotated[tuple[form, ...], OneOrMany(at_least)]  # type: ignore[valid-type]  # as above
    return Annotated[Any, reads(annotation)]


def write_value(annotation: Any, value: Any) -> Any:
    """A default as a file writes it. A list of one value is written as this value."""
    if value is None or isinstance(value, Mapping):
        return value
    if annotation == kinds.Labels:
        return dict(value)
    if get_origin(annotation) is tuple and annotation not in _VALUES:
        written = [write_value(get_args(annotation)[0], item) for item in value]
        return written[0] if len(written) == 1 else written
    return reads(annotation).write(value)


class _Constant:
    """A factory that always makes the same value. pydantic asks several times for the signature of each factory."""

    __signature__ = Signature()

    def __init__(self, value: object) -> None:
        self._value = value

    def __call__(self) -> Any:
        return self._value


def described(default: Any, description: str, shown: Any) -> FieldInfo:
    """A field with a value of the model as its default; `shown` is this default as a file writes it."""
    more: dict[str, Any] = {"description": description, "json_schema_extra": {"default": shown}}
    # A factory where pydantic can't write the value itself into the JSON Schema, where `shown` then replaces it.
    plain = default is None or type(default) in {bool, int, str}
    field: FieldInfo = Field(default, **more) if plain else Field(default_factory=_Constant(default), **more)
    return field


class Option(NamedTuple):
    """A field of a dataclass of the model. `default` is `dataclasses.MISSING` for a mandatory field."""

    name: str
    type: Any
    description: str
    default: Any


def options(declared: type[Any]) -> Iterator[Option]:
    """The fields of a dataclass whose annotation has a description; the file has no other fields."""
    for option in fields(declared):
        value, *constraints = get_args(option.type) or (option.type,)
        if constraints and isinstance(description := constraints.pop(), str):
            annotation = Annotated[value, *constraints] if constraints else value
            yield Option(option.name, annotation, description, option.default)


class OwnForm(NamedTuple):
    """The written form of a field that does not follow from its type in the model.

    `default` replaces the default of the model; an ellipsis makes the field mandatory. `shown` is the default as a file
    writes it.
    """

    type: Any
    default: Any = MISSING
    shown: Any = MISSING


def written_fields(
    declared: type[Any], forms: Mapping[str, OwnForm] | None = None, leave_out: Collection[str] = ()
) -> dict[str, Any]:
    """The pydantic fields of a dataclass of the model, for `create_model`. A nested dataclass needs one of `forms`."""
    made: dict[str, Any] = {}
    for option in options(declared):
        if option.name in leave_out:
            continue
        own = (forms or {}).get(option.name)
        default = option.default if own is None or own.default is MISSING else own.default
        form = (
            written_form(option.type, at_least=1 if default is MISSING or default else 0) if own is None else own.type
        )
        if default is MISSING or default is ...:
            made[option.name] = (form, Field(description=option.description))
            continue
        shown = write_value(without_none(option.type), default) if own is None or own.shown is MISSING else own.shown
        made[option.name] = (form, described(default, option.description, shown))
    return made


def without_none(annotation: Any) -> Any:
    """The type itself, of a type that may also be None."""
    if get_origin(annotation) not in {Union, types.UnionType}:
        return annotation
    return reduce(or_, (arm for arm in get_args(annotation) if arm is not type(None)))
