"""The model: values, how they are read, and what is said when they can't be."""

from __future__ import annotations

import contextlib
import dataclasses
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nftlb.config import parse
from nftlb.model import (
    Admin,
    Backend,
    Balance,
    Config,
    Dns,
    Endpoint,
    Exec,
    Fallback,
    FallbackKind,
    Family,
    Forward,
    Health,
    Hooks,
    Icmp,
    Initial,
    Listener,
    Per,
    Pool,
    Protocol,
    Rcode,
    Source,
    SourceKind,
    Udp,
    UnixSocket,
    reading,
)

if TYPE_CHECKING:
    from collections.abc import Callable

V4 = st.integers(1, 0xDFFFFFFF).map(IPv4Address)
V6 = st.integers(1 << 120, (0xFF << 120) - 1).map(IPv6Address)
PORTS = st.integers(1, 65535)


def smallest() -> Pool:
    return Pool(
        name="dns",
        listen=(Listener(IPv4Address("192.0.2.53"), 53, 53, Protocol.UDP),),
        backends=(Backend(name="ns1", address=IPv4Address("10.0.0.11"), port=5353),),
    )


@given(V4 | V6, st.tuples(PORTS, PORTS), st.sampled_from(Protocol))
def test_a_listener_reads_what_it_writes(
    address: IPv4Address | IPv6Address, ports: tuple[int, int], protocol: Protocol
) -> None:
    """A listener's text, read again, is the listener."""
    listener = Listener(address, min(ports), max(ports), protocol)

    assert listener == reading.read_listener(str(listener))


@given(V4 | V6, PORTS)
def test_an_endpoint_reads_what_it_writes(address: IPv4Address | IPv6Address, port: int) -> None:
    """An endpoint's text, read again, is the endpoint."""
    assert Endpoint(address, port) == reading.read_endpoint(str(Endpoint(address, port)))


@pytest.mark.parametrize(
    ("text", "milliseconds"), [("10ms", 10), ("2s", 2000), ("1m", 60_000), ("24h", 86_400_000), ("000s", 0)]
)
def test_durations_are_milliseconds(text: str, milliseconds: int) -> None:
    """A duration of any unit is a number of milliseconds."""
    assert milliseconds == reading.read_duration(0, text)


@pytest.mark.parametrize(
    ("read", "found", "message"),
    [
        (reading.read_address, "::", ":: is the unspecified address; allowed: a unicast address"),
        (
            reading.read_address,
            "::ffff:10.0.0.1",
            "::ffff:10.0.0.1 is an IPv4-mapped address; allowed: a unicast address",
        ),
        (reading.read_boolean, 1, "1 is not a boolean; allowed: true or false, without quotes"),
        (reading.read_percent, 50, "50 is not a share; allowed: 0% to 100%, in whole per cent"),
        (reading.read_port, True, "true is not a port; allowed: 1 to 65535"),
        (reading.read_port, "53", "53 is not a port; allowed: 1 to 65535, without quotes or leading zeros"),
    ],
)
def test_an_unfit_value_says_what_is_allowed(read: Callable[[object], object], found: object, message: str) -> None:
    """What can't be read is named, and what could be is told."""
    with pytest.raises(reading.Unfit) as caught:
        read(found)

    assert message == str(caught.value)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3)))
def test_readers_only_raise_unfit(found: object) -> None:
    """Whatever plain data a reader gets, it returns a value or raises `Unfit`."""
    for read in (
        reading.read_address,
        reading.read_api_listen,
        reading.read_boolean,
        reading.read_endpoint,
        reading.read_fallback,
        reading.read_hex,
        reading.read_listener,
        reading.read_percent,
        reading.read_port,
        reading.read_regex,
        reading.read_source,
        reading.read_status,
    ):
        with contextlib.suppress(reading.Unfit):
            read(found)


@given(st.text())
def test_shown_values_are_short_and_harmless(text: str) -> None:
    """A value in a message is one short line that no terminal takes for a command."""
    shown = reading.show(text)

    assert shown.isprintable()
    assert len(shown) <= 6 * 60 + 2


def test_families_are_told_from_addresses() -> None:
    """Listeners, backends and endpoints know their family, in nft's words."""
    address = IPv6Address("2001:db8::1")

    assert Family.IP6 == Listener(address, 1, 1, Protocol.UDP).family
    assert Family.IP6 == Backend(name="a", address=address).family
    assert Family.IP6 == Endpoint(address, 1).family
    assert Family.IP == smallest().listen[0].family
    assert "ip6" == str(Family.IP6)


def test_pools_are_frozen() -> None:
    """A pool can't be changed, only replaced."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        smallest().quorum = 2  # type: ignore[misc]

    assert 2 == dataclasses.replace(smallest(), quorum=2).quorum


def test_equal_pools_are_one_key() -> None:
    """Pools, checks included, are equal and hash alike when all they say is equal."""
    health = (Health(check=Dns(name="example.com")), Health(check=Exec(argv=["/bin/true"])), Health(check=Icmp()))
    one, two = (dataclasses.replace(smallest(), health=health) for _ in range(2))
    other = dataclasses.replace(one, health=health[:1])

    assert one == two
    assert hash(one) == hash(two)
    assert one != other
    assert 2 == len({one, two, other})


def test_two_loads_of_a_file_are_equal() -> None:
    """The same text makes an equal configuration, with equal hashes."""
    text = "pools: {dns: {listen: 192.0.2.53:53/udp, backends: {a: 10.0.0.1:53}, health: {dns: {name: example.com}}}}"

    assert parse(text) == parse(text)
    assert hash(parse(text).pools) == hash(parse(text).pools)


def test_defaults_of_model_and_file_are_the_same() -> None:
    """What a file leaves out is what the model's constructors leave out."""
    text = "pools: {dns: {listen: 192.0.2.53:53/udp, backends: {ns1: 10.0.0.11:5353}, health: {icmp: }}}"
    pool = dataclasses.replace(smallest(), health=(Health(check=Icmp()),))

    assert Config(pools=(pool,)) == parse(text)


def test_pools_and_backends_are_found_by_name() -> None:
    """A configuration knows its pools by name, and a pool its backends."""
    config = Config(pools=(smallest(),))

    assert smallest() == config.pool("dns")
    assert config.pool("web") is None
    assert smallest().backends[0] == smallest().backend("ns1")
    assert smallest().backend("ns2") is None


def test_a_udp_check_knows_its_payload() -> None:
    """The bytes to send come from text or from hexadecimal digits."""
    assert b"" == Udp().payload
    assert b"ping" == Udp(send="ping").payload
    assert b"\x00\xff" == Udp.model_validate({"send_hex": "00 ff"}).payload


def test_secrets_do_not_show() -> None:
    """A secret is in no text that a log could hold."""
    text = "pools: {dns: {listen: 192.0.2.53:53/udp, backends: {a: 10.0.0.1:53}, health: {radius: {secret: geheim}}}}"

    assert "geheim" not in repr(parse(text))


def test_every_field_of_a_file_arrives() -> None:
    """What a file says is what the model says, field by field."""
    config = parse(
        """
        table: lb
        zones: {first: 100}
        marks: {first: 1000}
        state_dir: /var/lib/lb
        api: {listen: "unix:/run/lb.sock", token_file: /etc/lb/token}
        pools:
          dns:
            listen: ["192.0.2.53:53-54/udp", "[2001:db8::53]:53/tcp"]
            balance: hash
            per: flow
            forward: nat
            source: [10.0.0.1]
            backends: {ns1: {address: 10.0.0.11, port: 53, weight: 5, admin: drain, device: eth1, via: 10.0.0.9}}
            health:
              dns: {rcode: [noerror, nxdomain]}
              interval: 3s
              fast_interval: 300ms
              timeout: 2s
              rise: 4
              fall: 5
              initial: down
              port: 5353
            passive: true
            slow_start: 1m
            panic: 30%
            fallback: [10.0.0.99:53, "[2001:db8::99]:53"]
            hooks: {backend_up: [/bin/up, 1], quorum_down: [/bin/down]}
        """
    )

    expected = Pool(
        name="dns",
        listen=(
            Listener(IPv4Address("192.0.2.53"), 53, 54, Protocol.UDP),
            Listener(IPv6Address("2001:db8::53"), 53, 53, Protocol.TCP),
        ),
        balance=Balance.HASH,
        per=Per.FLOW,
        forward=Forward.NAT,
        source=SourceKind.ADDRESS,
        source_addresses=(IPv4Address("10.0.0.1"),),
        backends=(
            Backend(
                name="ns1",
                address=IPv4Address("10.0.0.11"),
                port=53,
                weight=5,
                admin=Admin.DRAIN,
                device="eth1",
                via=IPv4Address("10.0.0.9"),
            ),
        ),
        health=(
            Health(
                check=Dns(rcode=(Rcode.NOERROR, Rcode.NXDOMAIN)),
                interval=3000,
                fast_interval=300,
                timeout=2000,
                rise=4,
                fall=5,
                initial=Initial.DOWN,
                port=5353,
            ),
        ),
        passive=True,
        slow_start=60_000,
        panic=30,
        fallback=Fallback(
            FallbackKind.SORRY,
            (Endpoint(IPv4Address("10.0.0.99"), 53), Endpoint(IPv6Address("2001:db8::99"), 53)),
        ),
        hooks=Hooks(backend_up=("/bin/up", "1"), quorum_down=("/bin/down",)),
    )
    assert (expected,) == config.pools
    assert UnixSocket("/run/lb.sock") == config.api.listen
    assert ("lb", 100, 1000, "/var/lib/lb", "/etc/lb/token") == (
        config.table,
        config.zones.first,
        config.marks.first,
        config.state_dir,
        config.api.token_file,
    )


def test_sources_are_read() -> None:
    """A source is a word, an address, or one address per family."""
    v4, v6 = IPv4Address("10.0.0.1"), IPv6Address("2001:db8::1")

    assert Source(SourceKind.KEEP) == reading.read_source("keep")
    assert Source(SourceKind.ADDRESS, (v4,)) == reading.read_source("10.0.0.1")
    assert Source(SourceKind.ADDRESS, (v6, v4)) == reading.read_source(["2001:db8::1", "10.0.0.1"])
