"""Aliases: never the port of a listener, nor one that Linux gives to sockets by itself; and they stay for long."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from configs import configs
from hypothesis import given

from nftlb.compiler.aliases import aliases, is_wide
from nftlb.config import parse
from nftlb.model import Config, Forward, Listener

if TYPE_CHECKING:
    from collections.abc import Mapping


def config(*listen: str, forward: str = "stateless") -> Config:
    """A pool with a backend of its own for each listener."""
    pools = {}
    for number, one in enumerate(listen, 1):
        address = f"fd00::{number}" if one.startswith("[") else f"10.0.0.{number}"
        pools[f"p{number}"] = {"listen": one, "forward": forward, "balance": "hash", "backends": {"one": address}}
    return parse(json.dumps({"pools": pools}))


def named(found: Mapping[Listener, Mapping[int, int]]) -> dict[str, int]:
    """The aliases of listeners of one port."""
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
    """One for each listener of one port: where hardly any program has a port, and never a listener's."""
    assert expected == named(aliases(config(*listen)))


def test_a_narrow_range_has_an_alias_for_each_port() -> None:
    """RADIUS listens at 1812 and 1813: a range, and no more than two services."""
    (found,) = aliases(config("192.0.2.1:1812-1813/udp")).values()
    assert {1812: 62812, 1813: 62813} == found


def test_an_alias_stays_when_others_change() -> None:
    """Another listener does not move it."""
    before = named(aliases(config("192.0.2.1:123/udp")))
    after = named(aliases(config("192.0.2.1:5060/udp", "192.0.2.1:53/udp", "192.0.2.1:123/udp")))
    assert before.items() <= after.items()


def test_nat_needs_no_aliases() -> None:
    """Conntrack finds a free port by itself."""
    assert {} == aliases(config("192.0.2.1:123/udp", forward="nat"))


@given(configs())
def test_nobody_has_them(config: Config) -> None:
    """No alias is a port of a listener, or another alias, of the same address and protocol."""
    found = aliases(config)
    listeners = [one for pool in config.pools for one in pool.listen]
    chosen = [(one.address, one.protocol, port) for one, ports in found.items() for port in ports.values()]
    assert len(chosen) == len(set(chosen))
    for one, port in ((one, port) for one, ports in found.items() for port in ports.values()):
        assert not any(_covers(other, port) for other in listeners if _alike(one, other))
        assert port not in range(32768, 61000)
    stateless = [one for pool in config.pools if pool.forward is not Forward.NAT for one in pool.listen]
    assert {one: list(range(one.first_port, one.last_port + 1)) for one in stateless if not is_wide(one)} == {
        one: list(ports) for one, ports in found.items()
    }


def _alike(one: Listener, other: Listener) -> bool:
    return (one.address, one.protocol) == (other.address, other.protocol)


def _covers(listener: Listener, port: int) -> bool:
    return listener.first_port <= port <= listener.last_port
