"""Which backends a refused datagram is about."""

from __future__ import annotations

from ipaddress import ip_address
from textwrap import indent

import pytest

from nftlb.config import parse_config
from nftlb.health.passive_targets import PassiveTargets


def witness(*pools: str) -> PassiveTargets:
    """The targets of pools in YAML, each with its name on the first line."""
    return PassiveTargets(parse_config("pools:\n" + "".join(indent(text.strip("\n") + "\n", "  ") for text in pools)))


def pool(name: str = "dns", *, listen: str = "192.0.2.53:53/udp", more: str = "", **backends: str) -> str:
    lines = [f"{name}:", f"  listen: [{listen}]", "  passive: true", *(f"  {line}" for line in more.splitlines())]
    if "health:" not in more:
        lines.append("  health: {icmp: }")
    lines += ["  backends:", *(f"    {backend}: {written}" for backend, written in backends.items())]
    return "\n".join(lines)


def against(targets: PassiveTargets, address: str, *ports: int) -> list[tuple[tuple[str, str], ...]]:
    return [targets.down_targets(ip_address(address), port) for port in ports]


def test_the_backend_of_that_address_and_port() -> None:
    """A refusal is only about the backend with this address and port."""
    targets = witness(pool(ns1="10.0.0.11:5353", ns2="10.0.0.12:5353"))
    assert [(("dns", "ns1"),), ()] == against(targets, "10.0.0.11", 5353, 53)
    assert [(("dns", "ns2"),)] == against(targets, "10.0.0.12", 5353)
    assert [()] == against(targets, "10.0.0.13", 5353)


def test_ipv6_addresses() -> None:
    """IPv6 addresses work like IPv4 addresses."""
    targets = witness(pool(listen='"[2001:db8::53]:53/udp"', ns1='"[fd00::11]:5353"'))
    assert [(("dns", "ns1"),)] == against(targets, "fd00::11", 5353)


def test_all_pools_that_use_the_server() -> None:
    """Several backends are named in the order of the file, if their pools ask for passive detection."""
    other = pool("other", listen="192.0.2.54:53/udp", a="10.0.0.11:5353")
    silent = pool("silent", listen="192.0.2.55:53/udp", ns1="10.0.0.11:5353").replace("true", "false")
    targets = witness(pool(ns1="10.0.0.11:5353"), silent, other)
    assert [(("dns", "ns1"), ("other", "a"))] == against(targets, "10.0.0.11", 5353)


def test_a_sorry_server_is_never_named() -> None:
    """A sorry server is never named."""
    assert [()] == against(witness(pool(more="fallback: 10.0.0.99:53", ns1="10.0.0.11:53")), "10.0.0.99", 53)


def test_a_kept_port_of_a_single_listener() -> None:
    """The only UDP port of the listeners stands for the server; other protocols and families don't count."""
    listen = "192.0.2.53:53/udp, 192.0.2.54:53/udp, 192.0.2.53:443/tcp"
    assert [(("dns", "ns1"),), (), ()] == against(
        witness(pool(listen=listen, ns1="10.0.0.11")), "10.0.0.11", 53, 443, 80
    )


@pytest.mark.parametrize("listen", ["192.0.2.53:16384-16484/udp", "192.0.2.53:16384/udp, 192.0.2.53:16385/udp"])
def test_a_kept_port_of_several(listen: str) -> None:
    """With many ports, a closed port takes no backend down; a backend with its own port has only this port."""
    targets = witness(pool(listen=listen, kept="10.0.0.11", own="10.0.0.12:16384"))
    assert [()] * 3 == against(targets, "10.0.0.11", 16384, 16385, 16484)
    assert [(("dns", "own"),)] == against(targets, "10.0.0.12", 16384)


@pytest.mark.parametrize(
    ("check", "tells"),
    [
        ("sip: {}", True),
        ("sip: {transport: tcp}", False),
        ("udp: {send: ping}", True),
        ("dns: {}", True),
        ("dns: {transport: tcp}", False),
        ("ntp: {}", True),
        ("snmp: {}", True),
        ("radius: {secret: testing}", True),
        ("tcp: {}", False),
        ("http: {}", False),
    ],
)
def test_the_port_of_a_udp_check_stands_for_the_server(check: str, tells: bool) -> None:
    """In a range, the port of a UDP check stands for the server; the port of a TCP check does not."""
    more = f"health:\n  {check}\n  port: 16400"
    targets = witness(pool(listen="192.0.2.53:16384-16484/udp", more=more, rtp1="10.0.0.11"))
    assert [(("dns", "rtp1"),) if tells else (), ()] == against(targets, "10.0.0.11", 16400, 16401)


def doubted(*pools: str) -> list[tuple[str, str]]:
    return list(witness(*pools).check_targets(ip_address("10.0.0.11"), 5353))


def test_by_default_refusals_are_hints() -> None:
    """By default, a refusal only starts a check; a pool with its own `passive` value gets no such checks."""
    silent = pool(ns1="10.0.0.11:5353").replace("  passive: true\n", "")
    assert [("dns", "ns1")] == doubted(silent)
    assert [()] == against(witness(silent), "10.0.0.11", 5353)
    assert [()] == [witness(silent).check_targets(ip_address("10.0.0.11"), 53)]
    assert [] == doubted(pool(ns1="10.0.0.11:5353")) == doubted(pool(ns1="10.0.0.11:5353").replace("true", "false"))


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("source: masquerade", True),
        ("source: 10.0.0.1", True),
        ("per: flow", True),
        ("source: keep", False),  # the host's limit of errors is by destination: checks have their own destination
        ("forward: stateless", False),
        ("forward: dsr", False),
        ("health: []", False),
    ],
)
def test_where_refusals_are_hints_by_default(more: str, expected: bool) -> None:
    """Refusals start checks only if traffic and checks have the same source, and a check can decide."""
    port = "" if "dsr" in more else ":5353"
    text = pool(ns1=f"10.0.0.11{port}", listen="192.0.2.53:5353/udp", more=more).replace("  passive: true\n", "")
    assert expected is bool(doubted(text))


def test_refusals_are_about_udp() -> None:
    """A pool without a UDP listener has no targets."""
    assert [] == doubted(pool(listen="192.0.2.53:53/tcp", ns1="10.0.0.11:5353").replace("  passive: true\n", ""))


def test_when_a_monitor_is_needed() -> None:
    """No monitor is needed if no pool asks for it, or if a refusal would mean nothing."""
    assert witness(pool(ns1="10.0.0.11:53"))
    assert not witness(pool(ns1="10.0.0.11:53").replace("true", "false"))
    assert not witness(pool(listen="192.0.2.53:1-9/udp", ns1="10.0.0.11"))
