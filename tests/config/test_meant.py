"""Messages about bad values say what the user probably means, and how to write it."""

from __future__ import annotations

import os
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from processor_time import takes_less

from nftlb.config import load, meant, parse_config
from nftlb.config.reading import Unfit
from nftlb.errors import ConfigError
from nftlb.model.constraints import TextPattern

if TYPE_CHECKING:
    from collections.abc import Callable

FILE = """\
pools:
  dns:
    listen: {listen}
    backends: {{b1: {backend}}}
    {option}
"""
SEVERAL = "write a list with one address, one port or range of ports, and one protocol in each item"
PLAIN = {"listen": "192.0.2.53:53/udp", "backend": "10.0.0.1:53", "option": "per: packet"}


def text_advice(what: str) -> Callable[[object], str]:
    """The function that gives advice about one kind of text, of which every text is allowed."""
    return partial(meant.text, TextPattern(what, "any text", re.compile(".*", re.DOTALL)))


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
        ("192.0.2.53.:53/udp", "write 192.0.2.53, without the dot at the end"),
        ("192.0.2.0/24:53/udp", "a network does not work here; write the address of one host, such as 192.0.2.0"),
        ("192.0.2.53-54:53/udp", "a range of addresses does not work here; write one address, such as 192.0.2.53"),
        ("192.0.2:53/udp", "an IPv4 address has 4 numbers, and 192.0.2 has 3"),
        ("192.0.2.53:53 UDP", "write 192.0.2.53:53/udp"),
        ("192.0.2.53 53/udp", "write 192.0.2.53:53/udp"),
        ("'[2001:db8::1]:53 udp'", 'write "[2001:db8::1]:53/udp"'),
        ("192.0.2.53:53/udp,tcp", SEVERAL),
        ("192.0.2.53:53/udp/tcp", SEVERAL),
        ("192.0.2.53:53,54/udp", SEVERAL),
        ("192.0.2.53,192.0.2.54:53/udp", SEVERAL),
        ("53", "the address is missing; write ADDRESS:53/udp"),
        ("'*'", 'the port is missing; write "*:PORT/udp", such as "*:53/udp"'),
        ("'*/tcp'", 'the port is missing; write "*:PORT/tcp", such as "*:53/tcp"'),
        ("192.0.2.53:60-50/udp", "write 50-60"),
        ("192.0.2.53:53/udp#dns", "a comment needs a blank before #"),
        ("192.0.2.53:0053/udp", "write 53, without leading zeros"),
        ("http://ns.example.com:53", "a URL does not work here"),
        ("\uff11\uff19\uff12.0.2.53:53/udp", "some characters are not ASCII; in ASCII: 192.0.2.53:53/udp"),
        ("192.0.2.53\uff1a53/udp", "some characters are not ASCII; in ASCII: 192.0.2.53:53/udp"),
        ("192.0.2.53:53/\uff35\uff24\uff30", "some characters are not ASCII; in ASCII: 192.0.2.53:53/UDP"),
        ("\u201c192.0.2.53:53/udp\u201d", "some characters are not ASCII; in ASCII: 192.0.2.53:53/udp"),
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
        ("10.0.0.1:dns", "write the number of the port; names of services are not looked up"),
        ("https://ns.example.com/health?x", "write ns.example.com"),
        ("10.0.0.1.", "write 10.0.0.1, without the dot at the end"),
        ("10.0.0.1-2:53", "a range of addresses does not work here; write one address, such as 10.0.0.1"),
        ("10.0.0.1-10.0.0.9", "a range of addresses does not work here; write one address, such as 10.0.0.1"),
        ("10.0.0.1/24", "a network does not work here; write the address of one host, such as 10.0.0.1"),
        ("10.0.0.0.1:53", "an IPv4 address has 4 numbers, and 10.0.0.0.1 has 5"),
        ("10.0.0.1 53", "write 10.0.0.1:53"),
        ("'10.0.0.1,10.0.0.2'", "write one address here"),
        ("10.0.0.1\u200b", "some characters are not ASCII; in ASCII: 10.0.0.1"),
        ("10.0.0.1 weight 2", "write {address: 10.0.0.1, weight: 2}"),
        ("10.0.0.1:53 weight=2", "write {address: ADDRESS, port: 53, weight: 2}"),
        ("{address: '10.0.0.1:53'}", "write the address 10.0.0.1 and the port 53 as two values"),
        ("{address: 10.0.0.1, weight: abc}", "write a whole number"),
        ("{address: 10.0.0.1, weight: '3'}", "write 3, without quotes"),
        ("{address: 10.0.0.1, weight: '0'}", "write 0, without quotes"),
        ("{address: 10.0.0.1, port: '053'}", "write 53, without leading zeros or quotes"),
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
        ("health: {icmp: true}", "write {}"),
        ("health: {icmp: [1]}", "write {}"),
        ("labels: {data center: fra}", "write data_center"),
        ("health: {exec: /bin/check -v}", "write [/bin/check, -v]"),
        ("health: {exec: {argv: /bin/check}}", "write [/bin/check]"),
        ("health: {http: {path: 'http://www.example.com/health'}}", "write /health"),
        ("health: {http: {path: health}}", "write /health"),
        ("health: {http: {status: 2xx}}", "write 200-299"),
        ("hooks: {backend_up: /bin/true}", "write [/bin/true]"),
        ("mirror: [10.0.0.9]", "write NAME: before each value, in place of -"),
        ("mirror:", "indent the names further than this key, or delete this key"),
        ("hooks:", "indent the keys further than this key, or delete this key"),
        ("slow_start: 0.5s", "write 500ms"),
        ("health: {dns: {type: aaaa}}", "write AAAA"),
        ("health: {http: {method: get}}", "write GET"),
        ("mirror: archive:10.0.0.9", "a blank is missing behind the colon; write archive: 10.0.0.9"),
        ("mirror: {archive: '[10.0.0.9]:53'}", "write 10.0.0.9:53, without brackets"),
        ("mirror: {archive: '[2001:db8::9] 53'}", 'write "[2001:db8::9]:53"'),
        ("mirror: {archive: {address: '[2001:db8::9]'}}", "write 2001:db8::9, without brackets"),
        ("guard: {rate: 100}", "the period is missing; write 100/s or 100/m"),
        ("guard: {rate: 100pps}", "write 100/s"),
        ("guard: {rate: 100 packets/sec}", "write 100/s"),
        ("guard: {rate: 5 per minute}", "write 5/m"),
        ("guard: {rate: 5/s, deny: 10.0.0.1-9}", "a range of addresses does not work here; write prefixes"),
        ("guard: {rate: 5/s, deny: x.example.com}", "host names and relative paths do not work here"),
        ("guard: {rate: 5/s, deny: 010.0.0.1}", "write 10.0.0.1, without leading zeros"),
        ("panic: 50 %", "write 50%"),
        ("key: src", "write source"),
        ("ingress: eth0, eth1", "write a list: [eth0, eth1]"),
        ("balance: \uff48ash", "some characters are not ASCII; in ASCII: hash"),
    ],
)
def test_options(written: str, advice: str) -> None:
    """Words of keepalived, HAProxy and LVS, durations, shares, rates, booleans, and values in place of mappings."""
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
        ("health: {http: {url: /}}", "path"),
        ("hooks: {up: [/bin/true]}", "backend_up"),
        ("hash: source", "balance"),
        ("fwd: nat", "forward"),
        ("\uff46orward: nat", "forward"),
    ],
)
def test_keys(written: str, meant_key: str) -> None:
    """Keys of keepalived, HAProxy and LVS, other letters, a slip of the keyboard."""
    assert f"; did you mean '{meant_key}'? allowed: " in message(option=written)


@pytest.mark.parametrize(
    ("written", "place"),
    [
        ("weight: 3", "pools.dns.backends.NAME"),
        ("interval: 2s", "pools.dns.health"),
        ("rate: 5/s", "pools.dns.guard"),
        ("address: 10.0.0.1", "pools.dns.backends.NAME and pools.dns.mirror.NAME"),
        ("health: {icmp: {port: 7}}", "pools.dns.health"),
        ("health: [{icmp: {}, quorum: 2}]", "pools.dns"),
    ],
)
def test_keys_in_the_wrong_mapping(written: str, place: str) -> None:
    """The message names the mapping, one level above or below, that has the key."""
    assert f"; it is a key of {place}; allowed: " in message(option=written)


def test_keys_at_the_wrong_level() -> None:
    """A key of a pool at the top or in place of the name of a pool, and a key of the top that only defaults lack."""
    text = FILE.format(**PLAIN)
    for written, said in {
        f"{text}forward: nat": "unknown key 'forward'; it is a key of defaults and pools.NAME; allowed: ",
        f"{text}  forward: nat": "nat is not a mapping; forward is a key of pools.NAME, so indent the key further ",
        f"{text}defaults: {{resolver: {{}}}}": "unknown key 'resolver'; allowed: ",
    }.items():
        with pytest.raises(ConfigError) as caught:
            parse_config(written)
        assert said in str(caught.value)


def test_a_misspelt_key_is_not_missing_too() -> None:
    """A key that is needed and misspelt gives one message, at its place."""
    text = FILE.format(**PLAIN).replace("listen", "listn").replace("10.0.0.1:53", "{adress: 10.0.0.1}")
    with pytest.raises(ConfigError) as caught:
        parse_config(text)
    assert ["pools.dns.listn", "pools.dns.backends.b1.adress"] == [one.path for one in caught.value.problems]


@pytest.mark.parametrize("written", ["colour: red", "timeout_client: 1m", '"": 1', "api: {}"])
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
        ("helper: FTP", "FTP is not a helper; allowed: tftp"),
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
    [meant.boolean, meant.duration, meant.percent, meant.listener, meant.endpoint, meant.address, meant.rate,
     meant.api_place, meant.listed, meant.without_blank, meant.status_codes, meant.in_ascii,
     meant.comment, text_advice("a host name"),
     lambda text: meant.server(str(text)), lambda text: meant.prefix(str(text)),
     text_advice("a path of a URL"), text_advice("a name of a pool"),
     lambda text: meant.word(text, ["nat", "flow"]), lambda text: meant.number("a port", text)],
)  # fmt: skip
@given(found=st.one_of(st.text(), st.from_regex(r"[0-9a-f:./\[\] ]{0,40}"), st.integers(), st.booleans(), st.none()))
def test_any_value_gets_advice_or_none(advise: Callable[[object], str], found: object) -> None:
    """The advice never fails, and advice for a value of no clear intention is empty."""
    assert isinstance(advise(found), str)


@pytest.mark.parametrize(
    "advise",
    [meant.listener, meant.endpoint, meant.address, meant.rate, meant.api_place, meant.listed, meant.without_blank,
     meant.comment, meant.in_ascii, meant.server, meant.prefix, text_advice("a path of a URL"),
     text_advice("a name of a pool"), text_advice("an interface")],
)  # fmt: skip
@pytest.mark.parametrize("part", [" ", "1 ", "1.", "a:", ":", "1/", "1-", "a,", "a b ", "/a", "\uff11"])
def test_long_values_take_linear_time(advise: Callable[[str], str], part: str) -> None:
    """A value of 100,000 characters takes little time, and its message is short."""
    text = f"1{part * (100_000 // len(part))}x"
    assert takes_less(0.2, lambda: advise(text))
    assert len(str(Unfit(text, "not a value", "another", advise(text)))) < 400


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


@pytest.mark.parametrize(
    ("written", "advice"),
    [
        ("9146", "the address is missing; write 127.0.0.1:9146"),
        ("localhost:9146", "a host name does not work here; write 127.0.0.1:9146"),
        ("lb1.example.net:9146", "a host name does not work here; write an address"),
        ("'*:9146'", "write 0.0.0.0:9146, or [::]:9146 with quotes"),
        ("http://127.0.0.1:9146/", "write 127.0.0.1:9146"),
        ("10.0.0.1", "the port is missing; write 10.0.0.1:PORT"),
        ("/run/nftlb/api.sock", "write unix:/run/nftlb/api.sock"),
    ],
)
def test_the_place_of_the_api(written: str, advice: str) -> None:
    """A port or a path alone, a host name, a URL."""
    with pytest.raises(ConfigError) as caught:
        parse_config(f"{FILE.format(**PLAIN)}api: {{listen: {written}}}")
    assert f"is not a place for the API; {advice}; allowed: " in str(caught.value)


@pytest.mark.parametrize("written", ["lb1.example.net:9146", "http://lb1.example.net:9146/"])
def test_the_names_of_the_api(written: str) -> None:
    """A name with a port, or a URL."""
    with pytest.raises(ConfigError, match=r"is not a host name; write lb1\.example\.net; allowed: "):
        parse_config(f"{FILE.format(**PLAIN)}api: {{hosts: ['{written}']}}")


@pytest.mark.parametrize(
    ("written", "place", "advice"),
    [
        ("pools:\n\tdns:\n", "2:1", "indent with spaces, not tabs"),
        ("pools:\n  dns:\n    listen: *:53/udp\n", "3:14", "quote a value that begins with *"),
        ("pools:\n  dns:\n    forward: %x\n", "3:14", "quote a value that begins with %"),
        ("pools:\n  dns:\n    forward: @x\n", "3:14", "quote a value that begins with @"),
        (
            "pools:\n  dns:\n    forward:nat\n    per: flow\n",
            "4:8",
            "line 3: a blank is missing behind the colon; write forward: nat",
        ),
        ("pools:\n  dns:\n    listen: 10.0.0.1:53/udp\n     per: flow\n", "4:9", "SAME"),
        ("pools:\n  dns:\n    per: flow\n    forward:nat\n", "5:1", "write a blank behind the colon of a key"),
        ("pools:\n  dns:\n   per: flow\n    forward: nat\n", "4:12", "SAME"),
        ("pools:\n  dns:\n    per: flow\n   forward: nat\n", "4:4", "SAME"),
        ("pools:\n  dns:\n    forward: 'nat\n", "4:1", "the closing quote is missing"),
    ],
)
def test_text_that_is_not_yaml(written: str, place: str, advice: str) -> None:
    """Tabs, characters that need quotes, a missing blank or quote, and other indentation than the line above."""
    with pytest.raises(ConfigError) as caught:
        parse_config(written, "x.yaml")
    expected = "indent all keys of a mapping by the same number of spaces" if advice == "SAME" else advice
    (problem,) = caught.value.problems
    assert str(problem).startswith(f"x.yaml:{place}: not YAML: ")
    assert f"; {expected}" in problem.message


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
