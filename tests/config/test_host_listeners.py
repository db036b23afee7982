"""Listeners for addresses of this host: which addresses and ports they get, and which families."""

from __future__ import annotations

import re
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nftlb.compiler import Compiled
from nftlb.config import amend, parse_config, resolve
from nftlb.config.reading import read_listener
from nftlb.model import UNSPECIFIED, Family, FoundServer, HostAddresses, HostLookup, Listener, Protocol
from nftlb.ruleset import file_text

HOST: HostAddresses = {
    "lo": (ip_address("127.0.0.1"), ip_address("192.0.2.99"), ip_address("::1")),
    "eth0": (ip_address("192.0.2.53"), ip_address("192.0.2.54"), ip_address("2001:db8::53"), ip_address("fe80::1")),
    "eth1": (ip_address("10.0.0.254"),),
}
BOTH = "a: 10.0.0.1:5353, b: '[2001:db8::1]:5353'"


def listeners(listen: str, backends: str = BOTH, others: str = "", host: HostAddresses = HOST) -> list[str]:
    """The listeners of the first pool on this host."""
    config = parse_config(f"pools: {{a: {{listen: {listen}, backends: {{{backends}}}}}{others}}}")
    pool = resolve(config, {}, host).config.pools[0]
    return [str(listener) for listener in pool.listen]


def at(*addresses: str) -> list[str]:
    return [f"{address}:53/udp" for address in addresses]


@pytest.mark.parametrize(
    ("listen", "expected"),
    [
        ("'*:53/udp'", at("10.0.0.254", "192.0.2.53", "192.0.2.54", "192.0.2.99", "[2001:db8::53]")),
        ("'0.0.0.0:53/udp'", at("10.0.0.254", "192.0.2.53", "192.0.2.54", "192.0.2.99")),
        ("'[::]:53/udp'", at("[2001:db8::53]")),
        ("eth0:53/udp", at("192.0.2.53", "192.0.2.54", "[2001:db8::53]")),
        ("eth1:53/udp", ["10.0.0.254:53/udp", "eth1:53/udp"]),
        ("eth7:53/udp", ["eth7:53/udp", "eth7:53/udp"]),
    ],
)
def test_each_address_is_a_listener(listen: str, expected: list[str]) -> None:
    """A listener gets all addresses of its family but loopback and link-local; it waits where there is none."""
    backends = (
        BOTH if "." not in listen and "[" not in listen else "a: 10.0.0.1" if "." in listen else "a: '2001:db8::1'"
    )
    assert expected == listeners(listen, backends)


def test_an_entry_has_the_families_of_the_backends() -> None:
    """A family without a backend is not listened on; a host name may have addresses of both."""
    assert at("10.0.0.254") == listeners("eth1:53/udp", "a: 10.0.0.1")
    assert ["eth1:53/udp"] == listeners("eth1:53/udp", "a: '2001:db8::1'")
    assert ["10.0.0.254:53/udp", "eth1:53/udp"] == listeners("eth1:53/udp", "a: ns.example.com")


def test_the_more_exact_listener_counts() -> None:
    """An address precedes an interface, which precedes any address, wherever they are in the file."""
    others = ", b: {listen: [eth0:53/udp, '*:54/udp'], backends: {a: 10.0.0.2}}"
    others += ", c: {listen: [192.0.2.53:53/udp, 10.0.0.254:53/tcp], backends: {a: 10.0.0.3}}"

    assert at("10.0.0.254", "192.0.2.99") == listeners("'*:53/udp'", "a: 10.0.0.1", others)


def test_an_exact_port_is_left_out_of_a_range() -> None:
    """The rest of a range stays on both sides; ranges of other addresses stay whole."""
    others = ", c: {listen: [192.0.2.53:55/udp, 192.0.2.54:50-99/udp, 192.0.2.53:60-70/udp], backends: {a: 10.0.0.3}}"

    expected = ["192.0.2.53:53-54/udp", "192.0.2.53:56-59/udp"]
    assert expected == [one for one in listeners("eth0:53-60/udp", "a: 10.0.0.1", others) if "2001" not in one]


def test_a_server_on_this_host_keeps_its_port() -> None:
    """A backend at an address and port of this host would be balanced again."""
    assert at("192.0.2.53") == listeners("eth0:53/udp", "a: 192.0.2.54:53")
    assert ["eth1:53/udp"] == listeners("eth1:53/udp", "a: 10.0.0.254")
    assert at("192.0.2.53", "192.0.2.54") == listeners("eth0:53/udp", "a: 192.0.2.54:5353")


@pytest.mark.parametrize(("backend", "port"), [("ns.lab:53", None), ("ns.lab", None), ("{srv: _dns._udp.lab}", 53)])
def test_a_server_of_a_name_on_this_host_keeps_its_port(backend: str, port: int | None) -> None:
    """The same counts for the servers of names, and for those of other pools."""
    config = parse_config(
        "pools: {a: {listen: 'eth0:53-54/udp', backends: {a: 10.0.0.1}}, "
        f"b: {{listen: 192.0.2.9:53/udp, backends: {{n: {backend}}}}}}}"
    )
    named = config.pools[1].named[0]
    answers = {named.lookup: (FoundServer(ip_address("192.0.2.54"), port=port),)}
    found = resolve(config, answers, HOST).config

    assert isinstance(named.lookup, HostLookup)
    assert ["192.0.2.53:53-54/udp", "192.0.2.54:54/udp"] == [str(one) for one in found.pools[0].listen]
    assert ("192.0.2.54",) == tuple(str(one.address) for one in found.pools[1].backends)


def test_an_address_of_two_interfaces_is_listened_on_once() -> None:
    """Two interfaces may have the same address: the first pool gets its packets."""
    host = {"eth0": (ip_address("192.0.2.53"),), "eth1": (ip_address("192.0.2.53"),)}
    others = ", b: {listen: [eth1:53/udp], backends: {a: 10.0.0.2}}"

    assert at("192.0.2.53") == listeners("eth0:53/udp", "a: 10.0.0.1", others, host)
    assert at("192.0.2.53") == listeners("'*:53/udp'", "a: 10.0.0.1", host=host)


def test_rules_are_made_without_addresses_too() -> None:
    """A configuration compiles before this host has an address, and other pools do not depend on it."""
    exact = "pools: {a: {listen: 192.0.2.53:53/udp, backends: {a: 10.0.0.1}}"
    waiting = parse_config(
        exact + ", b: {listen: ['*:54/udp', vip0:55/udp], backends: {a: 10.0.0.2, b: '2001:db8::2'}}}"
    )

    assert waiting.listens_on_host
    assert not parse_config(exact + "}").listens_on_host
    assert Compiled(resolve(waiting, {}).config).ruleset().tables


@pytest.mark.parametrize("forward", ["nat", "dsr", "dsr, ingress: eth1"])
def test_a_listener_without_an_address_adds_no_rule_for_any_address(forward: str) -> None:
    """No packet has the unspecified address, and elements of several pools for that address would collide."""
    backends = "{a: {address: 10.0.0.1, device: eth1}, b: {address: '2001:db8::1', device: eth1}}"
    pools = [f"{name}: {{forward: {forward}, listen: {name}:53/udp, backends: {backends}}}" for name in ("x0", "x1")]
    config = parse_config(f"pools: {{{', '.join(pools)}}}")
    one = resolve(config, {}, {"x0": (ip_address("192.0.2.53"),)}).config

    rules = file_text(Compiled(resolve(config, {}).config).ruleset())
    assert not re.findall(r".*(?:0\.0\.0\.0| :: | 53 ).*", rules)
    assert "192.0.2.53" in file_text(Compiled(one).ruleset())


def test_dsr_backends_have_the_addresses_of_an_interface() -> None:
    """An interface with the addresses of services works with `dsr`, also on the fast path."""
    backends = "{a: {address: 10.0.0.1, device: eth1}}"
    text = f"pools: {{a: {{forward: dsr, ingress: eth1, listen: eth0:53/udp, backends: {backends}}}}}"
    config = resolve(parse_config(text), {}, HOST).config

    assert at("192.0.2.53", "192.0.2.54") == [str(one) for one in config.pools[0].listen]
    assert "ip daddr 192.0.2.54 udp dport 53" in file_text(Compiled(config).ruleset())


def test_backends_change_at_run_time() -> None:
    """A pool listens in the families of the backends that it has now."""
    text = "pools: {{a: {{listen: ['*:53/udp', eth0:54/udp], backends: {{{}}}}}}}"
    four, both = (parse_config(text.format(some)) for some in ("a: 10.0.0.1", "a: 10.0.0.1, b: '2001:db8::2'"))
    added = amend(four, "a", add=both.pools[0].backends[1:])

    assert added == both
    assert added.pools[0].listen == both.pools[0].listen
    assert amend(both, "a", remove=["b"]) == four


PORTS = st.tuples(st.integers(1, 30), st.integers(1, 30)).map(sorted)


@given(PORTS, st.lists(PORTS, max_size=5))
def test_all_other_ports_of_a_range_are_listened_on(wanted: list[int], exact: list[list[int]]) -> None:
    """Every port of a range is listened on exactly once, by the exact listener or by the other."""
    taken: set[int] = set()
    listen = []
    for first, last in exact:
        if taken.isdisjoint(range(first, last + 1)):
            taken.update(range(first, last + 1))
            listen.append(f"10.0.0.254:{first}-{last}/udp")
    text = ", ".join((*listen, f"eth1:{wanted[0]}-{wanted[1]}/udp"))
    found = [read_listener(one) for one in listeners(f"[{text}]", "a: 10.0.0.1")]

    ports = [port for one in found if not one.host for port in range(one.first_port, one.last_port + 1)]
    assert sorted(ports) == sorted({*taken, *range(wanted[0], wanted[1] + 1)})


@given(st.sampled_from(["*", str(UNSPECIFIED[Family.IP]), "::", "eth0", "eth0.100", "br-lan", "wg0", "a@b"]), PORTS)
def test_a_listener_for_this_host_is_read_from_its_text(host: str, ports: list[int]) -> None:
    """The text of a listener reads as the same listener."""
    first, last = ports
    listener = Listener(UNSPECIFIED[Family.IP6 if host == "::" else Family.IP], first, last, Protocol.UDP, host)

    assert listener == read_listener(str(listener))
