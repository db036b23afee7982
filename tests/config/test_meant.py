"""Messages about bad values say what the user probably means, and how to write it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from nftlb.config import load, meant, parse_config
from nftlb.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

FILE = """\
pools:
  dns:
    listen: {listen}
    backends: {{b1: {backend}}}
    {option}
"""
PLAIN = {"listen": "192.0.2.53:53/udp", "backend": "10.0.0.1:53", "option": "per: packet"}


def message(**changed: str) -> str:
    """The only problem of a file, without its place and path."""
    with pytest.raises(ConfigError) as caught:
        parse_config(FILE.format(**{**PLAIN, **changed}))
    assert 1 == len(caught.value.problems)
    return caught.value.problems[0].message


@pytest.mark.parametrize(
    ("written", "advice"),
    [
        ("ns.example.com:53/udp", "a host name does not work here; write an address"),
        ("localhost:53/udp", "a host name does not work here; write an address"),
        ("2001:db8::1:53/udp", 'the IPv6 address needs brackets; write "[2001:db8::1]:53/udp"'),
        ("2001:db8::dead/udp", 'the IPv6 address needs brackets; write "[2001:db8::dead]:PORT/udp"'),
        ("2001:db8::1:53", 'the IPv6 address needs brackets; write "[2001:db8::1]:53/udp"'),
        ("192.0.2.53:53/UDP", "write udp"),
        ("192.0.2.53:53", "the protocol is missing; write 192.0.2.53:53/udp or 192.0.2.53:53/tcp"),
        ("192.0.2.53/tcp", "the port is missing; write 192.0.2.53:PORT/tcp, such as 192.0.2.53:53/tcp"),
        ("53/udp", "the address is missing; write ADDRESS:53/udp"),
        (":53/udp", "the address is missing; write ADDRESS:53/udp"),
        ("udp://192.0.2.53:53", "write 192.0.2.53:53/udp"),
        ("192.0.2.053:53/udp", "write 192.0.2.53, without leading zeros"),
        ("192.0.2.x:53/udp", "x in 192.0.2.x is not a number from 0 to 255"),
        ("10.0.0.256:53", "256 in 10.0.0.256 is not a number from 0 to 255"),
        ("10.0.0.1:99999", "99999 is not a port from 1 to 65535"),
        ("2001:db8::1:99999", "99999 is not a port from 1 to 65535"),
        ("udp://10.0.0.1", "the port is missing; write 10.0.0.1:PORT/udp, such as 10.0.0.1:53/udp"),
        ("'[::1]'", 'the port is missing; write "[::1]:PORT/udp", such as "[::1]:53/udp"'),
        ("'[2001:db8::1]:53'", 'the protocol is missing; write "[2001:db8::1]:53/udp" or "[2001:db8::1]:53/tcp"'),
        ("'[192.0.2.53]:53/udp'", "write 192.0.2.53:53/udp, without brackets"),
        ("192.0.2.53:domain/udp", "write the number of the port; names of services are not looked up"),
    ],
)
def test_listeners(written: str, advice: str) -> None:
    """A host name, an IPv6 address without brackets, capital letters, a missing part, a URL."""
    assert f"; {advice}; allowed: " in message(listen=written)


@pytest.mark.parametrize(
    ("written", "advice"),
    [
        ("http://10.0.0.1:80", "write 10.0.0.1:80"),
        ("http://10.0.0.1", "write 10.0.0.1"),
        ("10.0.0.1l", "1l in 10.0.0.1l is not a number from 0 to 255"),
        ("10.0.0.1l:53", "1l in 10.0.0.1l is not a number from 0 to 255"),
        ("{address: 10.0.0.1l}", "1l in 10.0.0.1l is not a number from 0 to 255"),
        ("10.0.0.x", "x in 10.0.0.x is not a number from 0 to 255"),
        ("10.0.0.lO:53", "lO in 10.0.0.lO is not a number from 0 to 255"),
        ("'[10.0.0.1]:53'", "write 10.0.0.1:53, without brackets"),
        ("'[10.0.0.1]'", "write 10.0.0.1, without brackets"),
        ("10.0.0.256:53", "256 in 10.0.0.256 is not a number from 0 to 255"),
        ("{address: '10.0.0.1:99999'}", "99999 is not a port from 1 to 65535"),
        ("{address: '[2001:db8::1]'}", "write 2001:db8::1, without brackets"),
        ("10.0.0.1:53/udp", "write 53; the protocol belongs to listen"),
        ("10.0.0.1 weight 2", "write {address: 10.0.0.1, weight: 2}"),
        ("10.0.0.1:53 weight=2", "write {address: ADDRESS, port: 53, weight: 2}"),
        ("{address: '10.0.0.1:53'}", "write the address 10.0.0.1 and the port 53 as two values"),
        ("{address: 10.0.0.1, weight: abc}", "write a whole number"),
        ("{address: 10.0.0.1, weight: 1.5}", "write a whole number"),
        ("{address: 10.0.0.1, admin: disabled}", "write maintenance"),
        ("{address: 10.0.0.1, admin: Drain}", "write drain"),
    ],
)
def test_backends(written: str, advice: str) -> None:
    """A URL, a weight behind the address, a port within the address, other words for states."""
    assert f"; {advice}; allowed: " in message(backend=written)


@pytest.mark.parametrize(
    ("written", "advice"),
    [
        ("forward: DR", "write dsr"),
        ("forward: tun", "write dsr, with encap: ipip"),
        ("forward: IPIP", "write dsr, with encap: ipip"),
        ("forward: gre", "write dsr, with encap: gre"),
        ("encap: IPIP", "write ipip"),
        ("encap: tun", "write ipip"),
        ("encap: ip6ip6", "write ipip"),
        ("encap: ipip6", "write ipip"),
        ("encap: ip6tnl", "write ipip"),
        ("encap: ip6gre", "write gre"),
        ("forward: masq", "write nat"),
        ("balance: rr", "write round-robin"),
        ("balance: roundrobin", "write round-robin"),
        ("balance: wrr", "write round-robin"),
        ("balance: sh", "write hash"),
        ("balance: leastconn", "nftlb does not count connections; write round-robin"),
        ("per: session", "write flow"),
        ("slow_start: 5", "the unit is missing; write 5s or 5ms"),
        ("slow_start: 5sec", "write 5s"),
        ("slow_start: 5 S", "write 5s"),
        ("slow_start: 1.5s", "write 1500ms"),
        ("slow_start: 1.05 seconds", "write 1050ms"),
        ("slow_start: 2 days", "write 48h"),
        ("panic: 50", "write 50%"),
        ("panic: 0.5", "write 50%"),
        ("hairpin: 'yes'", "write true"),
        ("hairpin: N", "write false"),
        ("fallback: DROP", "write drop"),
        ("fallback: sorry.example.com:80", "a host name does not work here; write an address"),
        ("fallback: udp://10.0.0.1", "the port is missing; write 10.0.0.1:PORT"),
        ("source: 10.0.0.1l", "1l in 10.0.0.1l is not a number from 0 to 255"),
        ("fallback: 2001:db8::1:80", 'the IPv6 address needs brackets; write "[2001:db8::1]:80"'),
        ("fallback: rejct", "write reject"),
        ("source: masquarade", "write masquerade"),
        ("forward: stateles", "write stateless"),
        ("balance: ronud-robin", "write round-robin"),
        ("fallback: '[10.0.0.1]:53'", "write 10.0.0.1:53, without brackets"),
        ("health: icmp", "write {icmp: {}}"),
    ],
)
def test_options(written: str, advice: str) -> None:
    """Words of keepalived, HAProxy and LVS, durations, shares, booleans, a check without options."""
    assert f"; {advice}; allowed: " in message(option=written)


@pytest.mark.parametrize(
    ("written", "meant_key"),
    [
        ("scheduler: wrr", "balance"),
        ("lb_kind: DR", "forward"),
        ("persistence-timeout: 50", "per"),
        ("real_servers: {}", "backends"),
        ("bind: '*:53'", "listen"),
        ("Source: keep", "source"),
        ("helth: {icmp: {}}", "health"),
        ("health: {icmp: {}, inter: 2s}", "interval"),
        ("health: {icmp: {}, fals: 2}", "fall"),
    ],
)
def test_keys(written: str, meant_key: str) -> None:
    """Keys of keepalived, HAProxy and LVS, other letters, a slip of the keyboard."""
    assert f"; did you mean '{meant_key}'? allowed: " in message(option=written)


@pytest.mark.parametrize("written", ["colour: red", "timeout_client: 1m", '"": 1'])
def test_no_key_is_guessed_without_a_likeness(written: str) -> None:
    """The message names only the keys that are allowed."""
    assert "did you mean" not in message(option=written)


@pytest.mark.parametrize(
    "name", ["10.0.0.lan", "1.2.3.example", "4.3.2.com", "10-0-0-1", "3com", "ns.1a", "1.1.1.1.nip.io"]
)
def test_names_that_look_like_addresses(name: str) -> None:
    """A name whose last part can be a top-level domain, or that has fewer or more than four parts, is a name."""
    config = parse_config(FILE.format(**{**PLAIN, "backend": f"{name}:53"}))
    assert name == config.pools[0].named[0].address


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("forward: teleport", "teleport is not a way to forward; allowed: nat, stateless, dsr"),
        ("balance: luck", "luck is not a way to balance; allowed: round-robin, random, hash"),
        (
            "slow_start: soon",
            "soon is not a duration; allowed: a whole number with a unit, such as 500ms, 2s, 1m or 1h",
        ),
        ("hairpin: maybe", "maybe is not a boolean; allowed: true or false, without quotes"),
        (
            "source: none",
            "none is not an address; allowed: masquerade, keep, an address, or a list of one address per family",
        ),
    ],
)
def test_no_advice_if_the_intention_is_not_clear(written: str, text: str) -> None:
    """The message is the plain one."""
    assert text == message(option=written)


@pytest.mark.parametrize(
    "advise",
    [meant.boolean, meant.duration, meant.percent, meant.listener, meant.endpoint, meant.address,
     lambda text: meant.word(text, ["nat", "flow"]), lambda text: meant.number("a port", text)],
)  # fmt: skip
@given(found=st.one_of(st.text(), st.from_regex(r"[0-9a-f:./\[\] ]{0,40}"), st.integers(), st.booleans(), st.none()))
def test_any_value_gets_advice_or_none(advise: Callable[[object], str], found: object) -> None:
    """The advice never fails, and advice for a value of no clear intention is empty."""
    assert isinstance(advise(found), str)


@pytest.mark.parametrize("written", ["[2001:db8::]:53 weight=2", "10.0.0.1:53 weight 2", "ns.example.com weight 2"])
def test_advice_for_a_weight_is_valid(written: str) -> None:
    """What the advice says to write is YAML with the same address."""
    found = yaml.safe_load(meant.address(written).removeprefix("write "))
    address = written.partition(" ")[0].removeprefix("[").replace("]", "").removesuffix(":53")
    assert {"address": address, "weight": 2, **({"port": 53} if ":53 " in written else {})} == found


@pytest.mark.parametrize("advise", [meant.listener, meant.endpoint, meant.address])
@pytest.mark.parametrize("written", ["2001:db8:::1", "[2001:db8:::1]:53", "[2001:db8::1", "10.0..1"])
def test_no_advice_for_what_is_no_address(advise: Callable[[object], str], written: str) -> None:
    """There is no advice if it is not clear which colon is too many, or which part is wrong."""
    assert "" == advise(written)


@pytest.mark.parametrize("written", ["5", "5sec", "1.5s", "1 day", "3 Hours"])
def test_advice_for_durations_is_valid(written: str) -> None:
    """What the advice says to write is accepted."""
    for text in meant.duration(written).removeprefix("the unit is missing; ").removeprefix("write ").split(" or "):
        config = parse_config(FILE.format(**{**PLAIN, "option": f"slow_start: {text}"}))
        assert config.pools[0].slow_start


def test_files_that_can_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing file, a directory, an empty name, a device, a file of another user."""
    monkeypatch.chdir(tmp_path)
    Path("secret").touch(0o000)
    cases = {
        "missing.yaml": f"no such file in the current directory, {tmp_path}",
        "/missing.yaml": "no such file",
        str(tmp_path): f"a directory; name a file in it, such as {tmp_path}/nftlb.yaml",
        "": "the name is empty",
        "/dev/null": "not a regular file",
    }
    for path, reason in cases.items():
        with pytest.raises(ConfigError) as caught:
            load(path)
        assert f"{path}: {reason}; allowed: a readable file, or - for standard input" == str(caught.value)
    os.setegid(65534)
    os.seteuid(65534)
    try:
        with pytest.raises(ConfigError, match="this user may not read the file; run nftlb as root"):
            load("/etc/shadow")
    finally:
        os.seteuid(0)
        os.setegid(0)
