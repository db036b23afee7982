"""Aliases are never ports of listeners or ports that Linux gives to sockets, and they rarely change."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from config_strategies import configs
from hypothesis import given

from nftlb.compiler.aliases import aliases, is_wide
from nftlb.config import parse_config
from nftlb.model import Config, Forward, Listener

if TYPE_CHECKING:
    from collections.abc import Mapping


def config(*listen: str, forward: str = "stateless") -> Config:
    """Return a configuration with a pool and a backend for each listener."""
    pools = {}
    for number, written in enumerate(listen, 1):
        address = f"fd00::{number}" if written.startswith("[") else f"10.0.0.{number}"
        pools[f"p{number}"] = {"listen": written, "forward": forward, "balance": "hash", "backends": {"one": address}}
    return parse_config(json.dumps({"pools": pools}))


def named(found: Mapping[Listener, Mapping[int, int]]) -> dict[str, int]:
    """Return the aliases of listeners with one port."""
    return {str(listener): ports[listener.first_port] for listener, ports in found.items()}


@pytest.mark.parametrize(
    ("listen", "expected"),
    [
        (["192.0.2.1:123/udp"], {"192.0.2.1:123/udp": 61123}),
        (["192.0.2.1:123/udp", "192.0.2.1:123/tcp"], {"192.0.2.1:123/udp": 61123, "192.0.2.1:123/tcp": 61123}),
        (["192.0.2.1:123/udp", "192.0.2.1:4659/udp"], {"192.0.2.1:123/udp": 61123, "192.0.2.1:4659/udp": 61124}),
        (["192.0.2.1:4535/udp", "192.0.2.1:65535/udp"], {"192.0.2.1:4535/udp": 61000, "192.0.2.1:65535/udp": 63031}),
        (["192.0.2.1:123/udp", "192.0.2.1:60000-65535/udp"], {"192.0.2.1:123/udp": 1147}),
        (["192.0.2.1:16384-32767/udp"], {}),
        (["192.0.2.1:53/udp", "192.0.2.1:54-65535/udp"], {"192.0.2.1:53/udp": 1}),
    ],
)
def test_aliases(listen: list[str], expected: dict[str, int]) -> None:
    """Each listener of one port has an alias, in a range where hardly any program has a port."""
    assert expected == named(aliases(config(*listen)))


def test_a_narrow_range_has_an_alias_for_each_port() -> None:
    """A range of two ports, as RADIUS has with 1812 and 1813, gets an alias for each port."""
    (found,) = aliases(config("192.0.2.1:1812-1813/udp")).values()
    assert {1812: 62812, 1813: 62813} == found


def test_an_alias_stays_when_others_change() -> None:
    """An alias stays the same when other listeners are added."""
    before = named(aliases(config("192.0.2.1:123/udp")))
    after = named(aliases(config("192.0.2.1:5060/udp", "192.0.2.1:53/udp", "192.0.2.1:123/udp")))
    assert before.items() <= after.items()


def test_nat_needs_no_aliases() -> None:
    """With `forward: nat`, conntrack finds a free port."""
    assert {} == aliases(config("192.0.2.1:123/udp", forward="nat"))


@given(configs())
def test_aliases_are_free_ports(config: Config) -> None:
    """No alias is a port of a listener, or another alias, of the same address and protocol."""
    found = aliases(config)
    listeners = [listener for pool in config.pools for listener in pool.listen]
    chosen = [
        (listener.address, listener.protocol, port) for listener, ports in found.items() for port in ports.values()
    ]
    assert len(chosen) == len(set(chosen))
    for listener, port in ((listener, port) for listener, ports in found.items() for port in ports.values()):
        assert not any(_covers(candidate, port) for candidate in listeners if _alike(listener, candidate))
        assert port not in range(32768, 61000)
    stateless = [listener for pool in config.pools if pool.forward is not Forward.NAT for listener in pool.listen]
    assert {
        listener: list(range(listener.first_port, listener.last_port + 1))
        for listener in stateless
        if not is_wide(listener)
    } == {listener: list(ports) for listener, ports in found.items()}


def _alike(first: Listener, second: Listener) -> bool:
    return (first.address, first.protocol) == (second.address, second.protocol)


def _covers(listener: Listener, port: int) -> bool:
    return listener.first_port <= port <= listener.last_port
