"""The model: its values, its defaults, and that it equals what a file says."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from ipaddress import IPv4Address, IPv6Address

import pytest

from nftlb.config import parse_config
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
    SourceKind,
    Udp,
    UnixSocket,
)


def smallest() -> Pool:
    return Pool(
        name="dns",
        listen=(Listener(IPv4Address("192.0.2.53"), 53, 53, Protocol.UDP),),
        backends=(Backend(name="ns1", address=IPv4Address("10.0.0.11"), port=5353),),
    )


def test_the_address_determines_the_family() -> None:
    """Listeners, backends and endpoints have an address family, with the name that nft uses."""
    address = IPv6Address("2001:db8::1")

    assert Family.IP6 == Listener(address, 1, 1, Protocol.UDP).family
    assert Family.IP6 == Backend(name="a", address=address).family
    assert Family.IP6 == Endpoint(address, 1).family
    assert Family.IP == smallest().listen[0].family
    assert "ip6" == str(Family.IP6)


def test_pools_are_frozen() -> None:
    """A pool can't be changed, only copied with changes."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        smallest().quorum = 2  # type: ignore[misc]

    assert 2 == dataclasses.replace(smallest(), quorum=2).quorum


def test_equal_pools_have_the_same_hash() -> None:
    """Two pools with equal settings and checks are equal and have the same hash."""
    health = (Health(check=Dns(name="example.com")), Health(check=Exec(argv=("/bin/true",))), Health(check=Icmp()))
    first, two = (dataclasses.replace(smallest(), health=health) for _ in range(2))
    other = dataclasses.replace(first, health=health[:1])

    assert first == two
    assert hash(first) == hash(two)
    assert first != other
    assert 2 == len({first, two, other})


def test_two_loads_of_a_file_are_equal() -> None:
    """The same text makes an equal configuration, with equal hashes."""
    text = "pools: {dns: {listen: 192.0.2.53:53/udp, backends: {a: 10.0.0.1:53}, health: {dns: {name: example.com}}}}"

    assert parse_config(text) == parse_config(text)
    assert hash(parse_config(text).pools) == hash(parse_config(text).pools)


def test_defaults_of_model_and_file_are_the_same() -> None:
    """The defaults of a file and of the constructors of the model are the same."""
    text = "pools: {dns: {listen: 192.0.2.53:53/udp, backends: {ns1: 10.0.0.11:5353}, health: {icmp: }}}"
    pool = dataclasses.replace(smallest(), health=(Health(check=Icmp()),))

    assert Config(pools=(pool,)) == parse_config(text)


def test_pools_and_backends_are_found_by_name() -> None:
    """A configuration finds pools by name, and a pool finds backends by name."""
    config = Config(pools=(smallest(),))

    assert smallest() == config.pool("dns")
    assert config.pool("web") is None
    assert smallest().backends[0] == smallest().backend("ns1")
    assert smallest().backend("ns2") is None


def test_a_udp_check_knows_its_payload() -> None:
    """The bytes to send come from text or from hexadecimal digits."""
    assert b"" == Udp().payload
    assert b"ping" == Udp(send="ping").payload
    assert b"\x00\xff" == Udp(send_hex=b"\x00\xff").payload


def test_secrets_do_not_show() -> None:
    """The text of a configuration, which a log may contain, has no secret."""
    text = "pools: {dns: {listen: 192.0.2.53:53/udp, backends: {a: 10.0.0.1:53}, health: {radius: {secret: geheim}}}}"

    assert "geheim" not in repr(parse_config(text))


def test_every_field_of_a_file_arrives() -> None:
    """Every option of a file arrives in the model."""
    config = parse_config(
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


def test_the_model_needs_no_pydantic() -> None:
    """The model knows nothing of the syntax of the file: pydantic reads it, and only `nftlb.config` loads pydantic."""
    code = "import sys, nftlb.model; print('pydantic' in sys.modules)"

    assert (
        "False"
        == subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    )
