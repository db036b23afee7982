"""Labels of pools and backends: what a file may write, and which labels a backend has."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
import yaml
from config_texts import pool
from jsonschema import Draft202012Validator

from nftlb.config import json_schema, lookups_of, parse_config, resolve
from nftlb.errors import ConfigError
from nftlb.model import FoundServer


def test_a_backend_has_the_labels_of_its_pool() -> None:
    """Its own labels come in the place of those of the pool with the same name; those of `defaults` hold for all."""
    config = parse_config(
        """
        defaults: {labels: {site: fra, tier: gold}}
        pools:
          dns:
            listen: 192.0.2.53:53/udp
            labels: {tier: silver}
            backends: {a: 10.0.0.1, b: {address: 10.0.0.2, labels: {site: ams, rack: 12}}}
        """
    )
    (found,) = config.pools

    assert (("site", "fra"), ("tier", "silver")) == found.labels
    assert {"site": "fra", "tier": "silver"} == found.labels_of(found.backends[0])
    assert {"site": "ams", "tier": "silver", "rack": "12"} == found.labels_of(found.backends[1])


def test_the_addresses_of_a_name_have_its_labels() -> None:
    """Each backend that is made of an answer has the labels of the name."""
    config = parse_config(
        "pools: {dns: {listen: 192.0.2.53:53/udp, backends: {ns: {address: ns.example.com, labels: {site: fra}}}}}"
    )
    servers = tuple(FoundServer(ip_address(f"10.0.0.{number}")) for number in (1, 2))
    resolved = resolve(config, dict.fromkeys(lookups_of(config), servers)).config.pools[0]

    assert [{"site": "fra"}] * 2 == [resolved.labels_of(backend) for backend in resolved.backends]


@pytest.mark.parametrize(
    ("labels", "good"),
    [
        ("{a: b}", True),
        ("{" + "A" * 32 + ": " + "z" * 63 + "}", True),
        ("{url: 'http://a.example/b@c+d-e_f:1'}", True),
        ("{}", True),
        ("{" + "A" * 33 + ": b}", False),
        ("{a: " + "z" * 64 + "}", False),
        ("{a: -1}", False),
        ("{a: ''}", False),
        ("{a: [b]}", False),
        ("{_a: b}", False),
        ("{a-b: c}", False),
        ('{a: "b\\nc"}', False),
        ("{ä: b}", False),
    ],
)
def test_the_schema_allows_what_the_file_may_have(labels: str, good: bool) -> None:
    """The JSON Schema and the reader agree about names and values."""
    text = f"pools: {{dns: {{listen: 192.0.2.53:53/udp, labels: {labels}, backends: {{a: 10.0.0.1}}}}}}"

    assert good is Draft202012Validator(json_schema()).is_valid(yaml.safe_load(text))
    if good:
        parse_config(text)
    else:
        with pytest.raises(ConfigError, match=r"pools\.dns\.labels\.?"):
            parse_config(text)


def test_a_number_is_its_digits() -> None:
    """A number without quotes is the text of its digits."""
    assert (("rack", "012"), ("unit", "7")) == pool("labels: {rack: 012, unit: 7}").labels
