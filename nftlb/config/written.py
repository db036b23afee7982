"""The file as pydantic models, which `nftlb.config.fields` makes from the dataclasses of `nftlb.model`. No I/O.

Only what the file writes in another shape than the model has is declared here: short forms, names that are keys, one
key for each kind of check, and the rules between the options of one check.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    WrapValidator,
    create_model,
    model_validator,
)
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from nftlb.model import checks
from nftlb.model.checks import CHECKS, Expect
from nftlb.model.constraints import SERVER_NAME, BackendName, Line, PoolName, TableName
from nftlb.model.kinds import Source, is_link_local
from nftlb.model.pool import (
    Api,
    Backend,
    Collector,
    Config,
    Guard,
    Health,
    Hooks,
    Marks,
    NamedBackend,
    NameServers,
    PassiveReplies,
    Pool,
    Zones,
)

from . import meant
from .fields import (
    COLLECTOR_WRITTEN,
    SERVER_AND_PORT_WRITTEN,
    SERVER_WRITTEN,
    OneOrMany,
    OwnForm,
    Reads,
    described,
    options,
    or_short,
    reads,
    without_none,
    written_fields,
    written_form,
)
from .reading import REPLIES, Unfit, digits_or_text, read_address, read_server, split_port
from .rules import PREFIXES, TABLES

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from typing import Self

    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema
    from pydantic_core.core_schema import DictSchema

    from nftlb.model.checks import AnyCheck, Check


class Written(BaseModel):
    """A mapping of the file."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        defer_build=True,
        model_title_generator=lambda model: model.__name__.removeprefix("Written").lower(),
    )
    declared: ClassVar[type[Any]]

    def value(self, **names: Any) -> Any:
        """The object of the model; `names` holds fields that stand elsewhere in the file, such as a key."""
        return self.declared(**vars(self), **names)


def _written(
    declared: type[Any],
    base: type[Written] = Written,
    forms: Mapping[str, OwnForm] | None = None,
    leave_out: Collection[str] = (),
    name: str = "",
    more: Mapping[str, Any] | None = None,
) -> type[Written]:
    """Make the written form of a dataclass of the model; `more` holds fields that the dataclass does not have."""
    made = create_model(
        f"Written{name or declared.__name__}",
        __doc__=declared.__doc__,
        __base__=base,
        **(more or {}),
        **written_fields(declared, forms, leave_out),
    )
    made.declared = declared
    return made


def _as_value(form: type[Written]) -> Any:
    """The type of a field that is written in this form, and whose value is the object of the model."""
    return Annotated[form, AfterValidator(lambda found: found.value())]


def _mapping(declared: type[Any]) -> OwnForm:
    return OwnForm(_as_value(_written(declared)), shown={})


# --- backends --------------------------------------------------------------------------------------------------------

SRV_RECORDS = next(option for option in options(NamedBackend) if option.name == "srv")


_NOT_WITH_SRV = ("address", "port", "weight", "via", "server_id")
ONE_KIND_OF_SERVER = [
    {"required": ["address"], "not": {"required": ["srv"]}},
    {"required": ["srv"], "not": {"anyOf": [{"required": [key]} for key in _NOT_WITH_SRV]}},
]
"""The JSON Schema of a `backend_fault`."""


def backend_fault(given: Mapping[str, Any]) -> str:
    """Say which options of a backend exclude each other; empty if they fit together."""
    srv, address = given.get("srv"), given.get("address")
    if (srv is None) == (address is None):
        found = "neither address nor srv is" if srv is None else "both address and srv are"
        return f"{found} given; allowed: one of them"
    if srv is not None and (own := sorted({"port", "weight"} & given.keys())):
        return f"{own[0]} is given with srv, whose records have a {own[0]}; allowed: {own[0]} with address"
    if (srv is not None or isinstance(address, str)) and "via" in given:
        return "via is given for a host name, whose addresses may have other routers; allowed: via with an address"
    if (srv is not None or isinstance(address, str)) and "server_id" in given:
        return "server_id is given for a host name, but each server has its own; allowed: server_id with an address"
    return ""


def make_backend(given: Mapping[str, Any]) -> Backend | NamedBackend:
    """Make a backend of options without a `backend_fault`; options that are not given have their defaults."""
    by_name = given.get("srv") is not None or isinstance(given["address"], str)
    return NamedBackend(**given) if by_name else Backend(**given)


def _given(written: Written) -> dict[str, Any]:
    """The options that a backend has in the file. An option that is null is not given."""
    return {key: value for key in written.model_fields_set if (value := getattr(written, key)) is not None}


def _one_kind_of_server(schema: dict[str, Any]) -> None:
    del schema["required"]
    schema["oneOf"] = ONE_KIND_OF_SERVER


def _read_server_unless_srv(found: object) -> object:
    return None if found is None else read_server(found)


class _BackendForms(Written):
    model_config = ConfigDict(json_schema_extra=_one_kind_of_server)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if fault := backend_fault(_given(self)):
            raise ValueError(fault)
        return self

    def value(self, **names: Any) -> Any:
        return make_backend({**_given(self), **names})

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, found: Any) -> Any:
        if isinstance(found, dict):
            return _with_device({"address": None, **found} if "srv" in found else found)
        allowed = "address:port, such as 10.0.0.11:5353 or ns1.example.com:53, or a mapping with the key address or srv"
        return _with_device(_address_and_port(found, "a backend", allowed))

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return or_short({"anyOf": [SERVER_AND_PORT_WRITTEN, SERVER_WRITTEN]}, schema, handler)


_ODD = re.compile(r"[\[\s]")


def _address_and_port(
    found: Any, what: str, allowed: str = "address:port, such as 10.0.0.11:5353, or a mapping with the key address"
) -> dict[str, Any]:
    """Read the short form of a server, `ADDRESS:PORT` or `ADDRESS`, as its mapping."""
    if isinstance(found, dict):
        return found
    if not isinstance(found, str):
        raise Unfit(found, f"not {what}", allowed)
    address, port = split_port(found)
    if port is None and _ODD.search(address) and (advice := meant.server(found)):
        raise Unfit(found, f"not {what}", allowed, advice)
    return {"address": address} if port is None else {"address": address, "port": digits_or_text(port)}


def _with_device(backend: dict[str, Any]) -> dict[str, Any]:
    """Read `fe80::1%eth1` as the address fe80::1 and the device eth1."""
    address = backend.get("address")
    if not isinstance(address, str) or "%" not in address:
        return backend
    plain, _, interface = address.partition("%")
    if not is_link_local(read_address(plain)):
        raise Unfit(address, "scoped to an interface", "an interface after a link-local address (fe80::/10) only")
    if backend.get("device") not in {None, interface}:
        raise Unfit(address, f"an address of another interface than device: {backend['device']}", "the same interface")
    return {**backend, "address": plain, "device": interface}


WrittenBackend = _written(
    Backend,
    _BackendForms,
    {"address": OwnForm(Annotated[Any, Reads(_read_server_unless_srv, SERVER_WRITTEN)])},
    leave_out={"name"},
    more={"srv": (written_form(SRV_RECORDS.type), described(None, SRV_RECORDS.description, None))},
)


_PLAIN = {
    option.name: reads(without_none(option.type)).read
    for option in options(Backend)
    if option.name in {"address", "port", "weight"}
}
"""The readers of the options of most backends."""


class _PlainBackend(NamedTuple):
    """A backend with options of `_PLAIN` only, without a fault. pydantic would take three times as long to read it."""

    given: dict[str, Any]

    def value(self, **names: Any) -> Backend:
        return Backend(**self.given, **names)


def _plain(found: Any) -> _PlainBackend | None:
    """Read a backend with an IP address; None if it has other options, or a fault, which `WrittenBackend` reports."""
    given = found
    if isinstance(found, str):
        try:
            given = _address_and_port(found, "a backend")
        except Unfit:
            return None
    if not isinstance(given, dict) or not given.keys() <= _PLAIN.keys():
        return None
    address = given.get("address")
    if not isinstance(address, str) or SERVER_NAME.pattern.fullmatch(address):
        return None
    try:
        return _PlainBackend({key: _PLAIN[key](value) for key, value in given.items()})
    except Unfit:
        return None


_ANY_BACKEND = Annotated[
    WrittenBackend,  # type: ignore[valid-type]  # the type is known at run time only
    WrapValidator(lambda found, read: _plain(found) or read(found)),
]


# --- checks ----------------------------------------------------------------------------------------------------------


class _ExchangeRules(Written):
    @model_validator(mode="after")
    def _one_form_each(self) -> Self:
        for form in ("send", "match"):
            if getattr(self, form) is not None and getattr(self, f"{form}_hex") is not None:
                raise ValueError(f"both {form} and {form}_hex are given; allowed: one of them")
        return self


class _UdpRules(_ExchangeRules):
    @model_validator(mode="after")
    def _demands_need_reply(self) -> Self:
        options = cast("checks.Udp", self)
        demands = self.model_fields_set & {"match", "match_hex", "min_length", "max_length"}
        given = sorted(key for key in demands if getattr(self, key) is not None)
        if given and options.expect is Expect.NO_ICMP_ERROR:
            raise ValueError(
                f"{given[0]} is given, but expect is no-icmp-error; allowed: {given[0]} with expect: reply"
            )
        if options.min_length > options.max_length:
            raise ValueError(f"min_length is {options.min_length}; allowed: up to max_length, {options.max_length}")
        return self


class _HttpRules(Written):
    @model_validator(mode="after")
    def _tls_for_its_options(self) -> Self:
        tls = cast("checks.Http", self).tls
        if not tls and (given := sorted(self.model_fields_set & {"verify", "sni", "ca_file"})):
            raise ValueError(f"{given[0]} is given without tls; allowed: {given[0]} with tls: true")
        return self


class _RadiusRules(Written):
    @model_validator(mode="after")
    def _one_secret(self) -> Self:
        options = cast("checks.Radius", self)
        if (options.secret is None) == (options.secret_file is None):
            found = "neither secret nor secret_file is" if options.secret is None else "both secret and secret_file are"
            raise ValueError(f"{found} given; allowed: one of them")
        return self


class _ExecForms(Written):
    @model_validator(mode="before")
    @classmethod
    def _from_list(cls, found: Any) -> Any:
        if isinstance(found, list):
            return {"argv": found}
        if isinstance(found, dict):
            return found
        raise Unfit(found, "not a list of arguments", "a list: the program, and its arguments", meant.listed(found))

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return or_short({"type": "array", "items": reads(Line).written, "minItems": 1}, schema, handler)


_RULES: dict[type[Check], type[Written]] = {
    checks.Udp: _UdpRules,
    checks.Tcp: _ExchangeRules,
    checks.Http: _HttpRules,
    checks.Radius: _RadiusRules,
    checks.Exec: _ExecForms,
}
_ARGUMENTS = OwnForm(Annotated[tuple[written_form(Line), ...], Field(min_length=1)])  # type: ignore[misc]
WRITTEN_CHECKS = {
    kind: _written(check, _RULES.get(check, Written), {"argv": _ARGUMENTS}) for kind, check in CHECKS.items()
}


class _HealthForms(Written):
    @model_validator(mode="before")
    @classmethod
    def _without_options(cls, found: Any) -> Any:
        """Read `icmp:` as `icmp: {}`."""
        if not isinstance(found, dict):
            return found
        return {key: {} if value is None and key in CHECKS else value for key, value in found.items()}

    def value(self, **names: Any) -> Any:
        """The check with its times; None if not exactly one check is named, which `nftlb.config.assemble` reports."""
        options = dict(vars(self))
        named = [check for check in map(options.pop, CHECKS) if check is not None]
        return self.declared(check=named[0], **options, **names) if len(named) == 1 else None


WrittenHealth = _written(
    Health,
    _HealthForms,
    leave_out={"check"},
    more={
        kind: (_as_value(form) | None, described(None, str(form.__doc__), None))
        for kind, form in WRITTEN_CHECKS.items()
    },
)


_HEALTH = OwnForm(Annotated[tuple[_as_value(WrittenHealth), ...], OneOrMany()], shown=[])  # type: ignore[misc]


# --- collectors ------------------------------------------------------------------------------------------------------


class _CollectorForms(Written):
    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, found: Any) -> Any:
        return _address_and_port(found, "a collector")

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return or_short(COLLECTOR_WRITTEN, schema, handler)


WrittenCollector = _written(Collector, _CollectorForms, {"health": _HEALTH}, leave_out={"name"})


# --- pools and the rest of the file ----------------------------------------------------------------------------------


class _PassiveForms:
    """Reads `true`, `false`, or `replies` for a mapping without keys."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_wrap_validator_function(self._read, handler(source))

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [{"type": "boolean"}, {"const": REPLIES}, handler(schema)]}

    def _read(self, found: Any, read_limits: Callable[[Any], PassiveReplies]) -> bool | PassiveReplies:
        if isinstance(found, bool):
            return found
        if found != REPLIES and not isinstance(found, dict):
            raise Unfit(found, "not an effect", f"true, false, {REPLIES}, or a mapping with limits for {REPLIES}")
        return read_limits({} if found == REPLIES else found)


WrittenDefaults = _written(
    Pool,
    forms={
        "source": OwnForm(Annotated[Any, reads(Source)], Source(), "masquerade"),
        "health": _HEALTH,
        "guard": OwnForm(_as_value(_written(Guard)) | None, shown=None),
        "hooks": _mapping(Hooks),
        "passive": OwnForm(Annotated[_as_value(_written(PassiveReplies)), _PassiveForms()] | None),
    },
    leave_out={"name", "listen", "backends", "source_addresses", "mirror", "templates"},
    name="Defaults",
)
WrittenPool = _written(
    Pool,
    WrittenDefaults,
    {
        "backends": OwnForm(
            Annotated[dict[written_form(BackendName), _ANY_BACKEND], Field(min_length=1)]  # type: ignore[misc]
        ),
        "mirror": OwnForm(dict[written_form(BackendName), WrittenCollector], {}, {}),  # type: ignore[misc]
    },
    leave_out={"name", "source_addresses", *WrittenDefaults.model_fields},
)


def _table() -> OwnForm:
    """The name of a table, without the names that other programs use."""
    plain = reads(TableName)
    others = {"anyOf": [{"enum": list(TABLES)}, {"pattern": f"^({'|'.join(PREFIXES)})"}]}
    return OwnForm(Annotated[Any, Reads(plain.read, {**plain.written, "not": others})])


WrittenConfig = _written(
    Config,
    forms={
        "table": _table(),
        "zones": _mapping(Zones),
        "marks": _mapping(Marks),
        "api": _mapping(Api),
        "resolver": _mapping(NameServers),
        "pools": OwnForm(
            Annotated[
                dict[written_form(PoolName), WrittenPool],  # type: ignore[misc]
                Field(json_schema_extra={"minProperties": 1}),
            ],
            default=...,
        ),
    },
    more={"defaults": (WrittenDefaults, described({}, "settings that every pool has unless it sets them itself", {}))},
)


class _Generator(GenerateJsonSchema):
    """Leaves out titles, as the key is enough, and allows only names that match their pattern."""

    def dict_schema(self, schema: DictSchema) -> JsonSchemaValue:
        described = super().dict_schema(schema)
        return {**described, "additionalProperties": False} if "patternProperties" in described else described

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002
        return False


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the file, in draft 2020-12, for editors and other tools.

    JSON Schema can't describe rules between several places, such as overlapping listeners; `nftlb check` reports those.
    """
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **WrittenConfig.model_json_schema(schema_generator=_Generator),
        "title": "nftlb",
    }


def read_check(kind: str, options: Any) -> AnyCheck:
    """Read a health check that is written as in a file. ValueError with the first fault."""
    try:
        check: AnyCheck = WRITTEN_CHECKS[kind].model_validate(options).value()
    except ValidationError as error:
        raise ValueError(error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")) from None
    return check
