"""The JSON Schema of the file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from nftlb.config import json_schema, parse_config
from nftlb.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BAD = Path(__file__).parent / "bad"
GOOD = Path(__file__).parent / "good"

# Faults that a JSON Schema can't tell: they span places, or are lost with the text that the parsed data came from.
BEYOND_SCHEMA = {
    "backend-twice",
    "balanced-twice",
    "defaults-rule",
    "dsr-port",
    "duplicate-key",
    "family",
    "hairpin",
    "hash-key-rules",
    "helper",
    "health-port",
    "host-listeners",
    "hysteresis",
    "listener-overlap",
    "marks",
    "mirror",
    "names-together",
    "outbound",
    "passive",
    "replies",
    "reply-counts",
    "regex",  # a schema knows only the syntax of ECMA
    "session-timeout",
    "stateless-balance",
    "stateless-nat",
    "stateless-range",
    "stateless-replies",
    "two-documents",
    "zones",
}


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    Draft202012Validator.check_schema(json_schema())
    return Draft202012Validator(json_schema())


@pytest.mark.parametrize("file", sorted(GOOD.glob("*.yaml")), ids=lambda file: file.stem)
def test_the_schema_accepts_what_the_parser_accepts(file: Path, validator: Draft202012Validator) -> None:
    """What the parser accepts, the schema accepts."""
    parse_config(file.read_bytes())

    assert [] == [error.message for error in validator.iter_errors(yaml.safe_load(file.read_text()))]


HOSTS = (
    *(
        "10.0.0.1",
        "[10.0.0.1]",
        "2001:db8::1",
        "[2001:db8::1]",
        "fe80::1%eth0",
        "[fe80::1%eth0]",
        "10.0.0.1l",
        "10.0.0.x",
    ),
    *("ns1", "ns1.", "[ns1]", "ns1.example.com", "10.0.0.lan", "eth0", "[eth0]", "eth0.7", "*", "[*]", ""),
)
PORTS = ("", ":53", ":53-54", ":dns", ":")
PLACES: dict[str, Callable[[str], dict[str, Any]]] = {
    "backend": lambda text: {"backends": {"b": text, "z4": "10.9.9.9", "z6": "2001:db8::9"}},
    "address": lambda text: {"backends": {"b": {"address": text}, "z4": "10.9.9.9", "z6": "2001:db8::9"}},
    "via": lambda text: {"backends": {"b": {"address": "10.0.0.2", "via": text}, "z6": "2001:db8::9"}},
    "listen": lambda text: {"listen": f"{text}/udp", "backends": {"b": "2001:db8::9" if "::" in text else "10.9.9.9"}},
    "mirror": lambda text: {"mirror": {"m": text}},
    "fallback": lambda text: {"fallback": text},
    "source": lambda text: {"source": [text, "10.0.0.7" if "::" in text else "2001:db8::7"]},
}


@pytest.mark.parametrize("place", PLACES)
def test_the_schema_accepts_each_form_of_an_address(place: str, validator: Draft202012Validator) -> None:
    """With and without brackets, a port and an interface: the schema accepts what the parser accepts."""
    plain = {
        "listen": ["192.0.2.53:53/udp", "[2001:db8::53]:53/udp"],
        "backends": {"z4": "10.9.9.9", "z6": "2001:db8::9"},
    }
    accepted, refused = [], []
    for text in (f"{host}{port}" for host in HOSTS for port in PORTS):
        data = {"pools": {"dns": plain | PLACES[place](text)}}
        try:
            parse_config(yaml.safe_dump(data))
        except ConfigError:
            continue
        accepted.append(text)
        if not validator.is_valid(data):
            refused.append(text)

    assert accepted
    assert [] == refused
    assert not {"[10.0.0.1]:53", "[ns1]:53", "[*]:53", "10.0.0.1l:53", "10.0.0.x"} & set(accepted)


def test_the_schema_refuses_what_the_parser_refuses(validator: Draft202012Validator) -> None:
    """The schema refuses every bad file, except for faults that a schema can't describe."""
    missed = set()
    for file in sorted(BAD.glob("*.yaml")):
        try:
            if validator.is_valid(yaml.safe_load(file.read_text())):
                missed.add(file.stem)
        except (yaml.YAMLError, TypeError):
            continue  # not YAML, or not JSON: keys that are not text

    assert set() == missed - BEYOND_SCHEMA


def test_describes_every_property() -> None:
    """Every property has a description."""
    undescribed = [name for name, described in _properties(json_schema(), "") if "description" not in described]

    assert [] == undescribed


def test_allows_no_further_keys(validator: Draft202012Validator) -> None:
    """A key that is not described is refused at every level."""
    data = {"pools": {"dns": {"listen": "192.0.2.53:53/udp", "backends": {"a": "10.0.0.1:53"}}}}
    assert validator.is_valid(data)

    assert not validator.is_valid({**data, "x": 1})
    assert not validator.is_valid({"pools": {"dns": {**data["pools"]["dns"], "x": 1}}})
    assert not validator.is_valid({"pools": {"1": data["pools"]["dns"]}})


def test_defaults_are_written_as_in_a_file() -> None:
    """A default of the schema, put into a file, is accepted and changes nothing."""
    settings = {
        name: described["default"]
        for name, described in json_schema()["$defs"]["WrittenPool"]["properties"].items()
        if "default" in described
    }
    pool = {"listen": "192.0.2.53:53/udp", "backends": {"a": "10.0.0.1:53"}}

    assert parse_config(yaml.safe_dump({"pools": {"dns": pool}})) == parse_config(
        yaml.safe_dump({"pools": {"dns": pool | settings}})
    )


def test_lists_every_key_of_the_error_messages() -> None:
    """The keys that a message names as allowed are those of the schema."""
    with pytest.raises(ConfigError) as caught:
        parse_config("pools: {dns: {x: 1}}")

    keys = ", ".join(sorted(json_schema()["$defs"]["WrittenPool"]["properties"]))
    assert f"unknown key 'x'; allowed: {keys}" in str(caught.value)


def _properties(described: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(described, dict):
        for name, inner in described.get("properties", {}).items():
            yield f"{path}.{name}", inner
        for key, inner in described.items():
            yield from _properties(inner, f"{path}.{key}")
    elif isinstance(described, list):
        for inner in described:
            yield from _properties(inner, path)
