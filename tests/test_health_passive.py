"""Whom a refusal speaks against."""

from __future__ import annotations

from ipaddress import ip_address
from textwrap import indent

import pytest

from nftlb.config import parse
from nftlb.health.passive import Witness


def witness(*pools: str) -> Witness:
    """Of pools in YAML, each with its name on the first line."""
    return Witness(parse("pools:\n" + "".join(indent(one.strip("\n") + "\n", "  ") for one in pools)))


def pool(name: str = "dns", *, listen: str = "192.0.2.53:53/udp", more: str = "", **backends: str) -> str:
    lines = [f"{name}:", f"  listen: [{listen}]", "  passive: true", *(f"  {line}" for line in more.splitlines())]
    if "health:" not in more:
        lines.append("  health: {icmp: }")
    lines += ["  backends:", *(f"    {backend}: {written}" for backend, written in backends.items())]
    return "\n".join(lines)


def against(one: Witness, address: str, *ports: int) -> list[tuple[tuple[str, str], ...]]:
    return [one.against(ip_address(address), port) for port in ports]


def test_the_backend_of_that_address_and_port() -> None:
    """Nobody else's address, and no other port of the same host."""
    one = witness(pool(ns1="10.0.0.11:5353", ns2="10.0.0.12:5353"))
    assert [(("dns", "ns1"),), ()] == against(one, "10.0.0.11", 5353, 53)
    assert [(("dns", "ns2"),)] == against(one, "10.0.0.12", 5353)
    assert [()] == against(one, "10.0.0.13", 5353)


def test_ipv6() -> None:
    """An address is an address."""
    one = witness(pool(listen='"[2001:db8::53]:53/udp"', ns1='"[fd00::11]:5353"'))
    assert [(("dns", "ns1"),)] == against(one, "fd00::11", 5353)


def test_all_pools_that_use_the_server() -> None:
    """In the order of the file, and of those only the ones that asked for it."""
    other = pool("other", listen="192.0.2.54:53/udp", a="10.0.0.11:5353")
    silent = pool("silent", listen="192.0.2.55:53/udp", ns1="10.0.0.11:5353").replace("true", "false")
    one = witness(pool(ns1="10.0.0.11:5353"), silent, other)
    assert [(("dns", "ns1"), ("other", "a"))] == against(one, "10.0.0.11", 5353)


def test_a_sorry_server_is_nobodys_backend() -> None:
    """There is nothing to take it out of."""
    assert [()] == against(witness(pool(more="fallback: 10.0.0.99:53", ns1="10.0.0.11:53")), "10.0.0.99", 53)


def test_a_kept_port_of_a_single_listener() -> None:
    """The one port is the server's; listeners of other protocols, and at other addresses, don't matter."""
    listen = "192.0.2.53:53/udp, 192.0.2.54:53/udp, 192.0.2.53:443/tcp"
    assert [(("dns", "ns1"),), (), ()] == against(
        witness(pool(listen=listen, ns1="10.0.0.11")), "10.0.0.11", 53, 443, 80
    )


@pytest.mark.parametrize("listen", ["192.0.2.53:16384-16484/udp", "192.0.2.53:16384/udp, 192.0.2.53:16385/udp"])
def test_a_kept_port_of_several(listen: str) -> None:
    """One closed port of many is a call that is over, and takes no server out; a backend with a port has only that."""
    one = witness(pool(listen=listen, kept="10.0.0.11", own="10.0.0.12:16384"))
    assert [()] * 3 == against(one, "10.0.0.11", 16384, 16385, 16484)
    assert [(("dns", "own"),)] == against(one, "10.0.0.12", 16384)


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
def test_the_port_that_the_checks_ask(check: str, tells: bool) -> None:
    """In a range, the port that a check asks over UDP stands for the server; one that it asks over TCP doesn't."""
    more = f"health:\n  {check}\n  port: 16400"
    one = witness(pool(listen="192.0.2.53:16384-16484/udp", more=more, rtp1="10.0.0.11"))
    assert [(("dns", "rtp1"),) if tells else (), ()] == against(one, "10.0.0.11", 16400, 16401)


def doubted(*pools: str) -> list[tuple[str, str]]:
    return list(witness(*pools).doubted(ip_address("10.0.0.11"), 5353))


def test_by_default_refusals_are_hints() -> None:
    """They speak against nobody, and have the backend doubted; a pool that says a word of its own has no doubts."""
    silent = pool(ns1="10.0.0.11:5353").replace("  passive: true\n", "")
    assert [("dns", "ns1")] == doubted(silent)
    assert [()] == against(witness(silent), "10.0.0.11", 5353)
    assert [()] == [witness(silent).doubted(ip_address("10.0.0.11"), 53)]
    assert [] == doubted(pool(ns1="10.0.0.11:5353")) == doubted(pool(ns1="10.0.0.11:5353").replace("true", "false"))


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("source: masquerade", True),
        ("source: 10.0.0.1", True),
        ("per: flow", True),
        ("source: keep", False),  # the host's limit of errors is by destination: to checks there is one of their own
        ("forward: stateless", False),
        ("forward: dsr", False),
        ("health: []", False),
    ],
)
def test_where_refusals_are_hints_by_default(more: str, expected: bool) -> None:
    """Where traffic leaves from the checks' address, and a check can decide."""
    port = "" if "dsr" in more else ":5353"
    text = pool(ns1=f"10.0.0.11{port}", listen="192.0.2.53:5353/udp", more=more).replace("  passive: true\n", "")
    assert expected is bool(doubted(text))


def test_refusals_are_about_udp() -> None:
    """A pool without a UDP listener has none."""
    assert [] == doubted(pool(listen="192.0.2.53:53/tcp", ns1="10.0.0.11:5353").replace("  passive: true\n", ""))


def test_whether_there_is_anything_to_listen_for() -> None:
    """Not without a pool that asks for it, nor where no refusal would say anything."""
    assert witness(pool(ns1="10.0.0.11:53"))
    assert not witness(pool(ns1="10.0.0.11:53").replace("true", "false"))
    assert not witness(pool(listen="192.0.2.53:1-9/udp", ns1="10.0.0.11"))
