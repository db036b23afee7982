"""The warnings of `check` and `doctor` about valid configurations."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
from pool_builders import backend, backends, config, pool

from nftlb.compiler.cautions import cautions
from nftlb.model import (
    KEY_WORDS,
    Admin,
    Balance,
    Forward,
    Listener,
    MinHealthy,
    PassiveReplies,
    Protocol,
    SourceKind,
)

if TYPE_CHECKING:
    from nftlb.model import Pool

SERVERS = backends("10.0.0.1", "10.0.0.2")


def found_cautions(*pools: Pool) -> list[tuple[str, bool, str]]:
    """Return the pool of each caution, whether `nftlb check` warns, and the fix."""
    return [(caution.pool, caution.warns, caution.fix) for caution in cautions(config(*pools))]


@pytest.mark.parametrize("listen", ["192.0.2.1:67/udp", "192.0.2.1:60-70/udp", "[2001:db8::1]:547/udp"])
def test_dhcp_relays(listen: str) -> None:
    """A DHCP server's reply finds no conntrack entry unless the server sees the relay's own address."""
    servers = (*SERVERS, *backends("fd00::1"))
    assert [("dhcp", True, "source: keep")] == found_cautions(pool("dhcp", listen, servers))
    assert [] == found_cautions(pool("dhcp", listen, servers, source=SourceKind.KEEP))
    assert [] == found_cautions(pool("dhcp", listen, servers, forward=Forward.DSR))


@pytest.mark.parametrize(
    "listen", ["192.0.2.1:67/tcp", "192.0.2.1:547/udp", "192.0.2.1:66/udp", "[2001:db8::1]:67/udp"]
)
def test_other_ports_are_not_dhcp(listen: str) -> None:
    """Each family has its own port, of UDP."""
    assert [] == found_cautions(pool("other", listen, (*SERVERS, *backends("fd00::1"))))


def test_no_room_for_source_ports() -> None:
    """The caution names the pools that translate to an address with a listener, and no others."""
    every = "192.0.2.1:1024-65535/udp"
    fix = "source: an address of this host without a listener, or fewer ports"
    listening = {"source": SourceKind.ADDRESS, "source_addresses": (ip_address("192.0.2.1"),)}
    elsewhere = {"source": SourceKind.ADDRESS, "source_addresses": (ip_address("192.0.2.9"),)}
    pools = (
        pool("rtp", every, SERVERS),
        pool("ntp", "192.0.2.2:123/udp", SERVERS, **listening),
        pool("log", "192.0.2.2:514/udp", SERVERS, **elsewhere),
        pool("snmp", "192.0.2.2:162/udp", SERVERS, source=SourceKind.KEEP),
        pool("web", "192.0.2.2:80/tcp", SERVERS),
        pool("six", "[2001:db8::1]:53/udp", backends("fd00::1")),
    )
    assert [("rtp", True, fix), ("ntp", True, fix)] == found_cautions(*pools)
    assert "(at most 0)" in next(cautions(config(*pools))).message
    assert [] == found_cautions(pool("web", "192.0.2.1:1-65535/tcp", SERVERS))


def test_no_room_at_any_address_of_this_host() -> None:
    """With a listener for all addresses of this host, no source is without a listener, so no caution advises one."""
    elsewhere = {"source": SourceKind.ADDRESS, "source_addresses": (ip_address("192.0.2.9"),)}
    any_address = Listener(ip_address("0.0.0.0"), 1024, 65535, Protocol.UDP, host="*")  # noqa: S104 - no socket
    for options in ({}, elsewhere):
        assert [("rtp", True, "fewer ports")] == found_cautions(
            replace(pool("rtp", "192.0.2.1:1/udp", SERVERS, **options), listen=(any_address,))
        )
    kept = replace(pool("rtp", "192.0.2.1:1/udp", SERVERS, source=SourceKind.KEEP), listen=(any_address,))
    assert [] == found_cautions(kept)


def test_a_narrow_gap_is_too_little() -> None:
    """A range of 4,096 ports is enough, a range of 4,095 is not."""
    assert [] == found_cautions(pool("rtp", ("192.0.2.1:1024-30000/udp", "192.0.2.1:34097-65535/udp"), SERVERS))
    assert 1 == len(found_cautions(pool("rtp", ("192.0.2.1:1024-30000/udp", "192.0.2.1:34096-65535/udp"), SERVERS)))


KEPT = {"source": SourceKind.KEEP}


@pytest.mark.parametrize(
    "pools",
    [
        pytest.param(
            (
                pool("a", "192.0.2.1:53/udp", backends("10.0.0.1:5353"), **KEPT),
                pool("b", "192.0.2.1:54/udp", backends("10.0.0.1:5353"), **KEPT),
            ),
            id="pools",
        ),
        pytest.param((pool("b", ("192.0.2.1:53/udp", "192.0.2.2:53/udp"), SERVERS, **KEPT),), id="listeners"),
        pytest.param((pool("b", "192.0.2.1:5000-5001/udp", backends("10.0.0.1:5353"), **KEPT),), id="range"),
        pytest.param(
            (
                pool("a", "192.0.2.1:5000-6000/udp", SERVERS, **KEPT),
                pool("b", "192.0.2.1:54/udp", backends("10.0.0.1:5353"), **KEPT),
            ),
            id="range and port",
        ),
    ],
)
def test_shared_servers(pools: tuple[Pool, ...]) -> None:
    """Two services lead to one server's port: the caution names the later service, and `nftlb check` does not warn."""
    fix = "a separate backend port for each listener"
    assert ("b", False, fix) in found_cautions(*pools)
    assert {("b", False, fix)} == set(found_cautions(*pools))


def test_servers_that_are_not_shared() -> None:
    """Another port, protocol, address or family is another server; masqueraded clients do not keep their port."""
    assert [] == found_cautions(
        pool(
            "a",
            ("192.0.2.1:53/udp", "192.0.2.1:53/tcp", "[2001:db8::1]:53/udp"),
            (*SERVERS, *backends("fd00::1")),
            **KEPT,
        ),
        pool("b", "192.0.2.1:54/udp", backends("10.0.0.1:5353"), **KEPT),
        pool("c", "192.0.2.1:55/udp", backends("10.0.0.3:53"), **KEPT),
        pool("d", "192.0.2.1:56/udp", (backend("x", "10.0.0.1:5353"),)),
    )


def test_a_priority_that_never_serves_alone() -> None:
    """With fewer backends than `min_healthy`, a priority never serves alone; with a share, each priority can."""
    behind = (
        *SERVERS,
        backend("b3", "10.0.0.3", priority=2),
        backend("b4", "10.0.0.4", priority=2, admin=Admin.DRAIN),
        backend("b5", "10.0.0.5", priority=3),
        backend("b6", "10.0.0.6", priority=3, weight=0),
    )
    fix = "a lower min_healthy, a share such as 50%, or more backends of the priority"
    two = pool("dns", "192.0.2.53:53/udp", behind, min_healthy=MinHealthy(2))

    assert [("dns", True, fix)] == found_cautions(two)
    assert "priority 3 has 1 backends of IPv4 with a weight" in next(cautions(config(two))).message
    assert [] == found_cautions(pool("dns", "192.0.2.53:53/udp", behind, min_healthy=MinHealthy(100, percent=True)))
    assert [] == found_cautions(pool("dns", "192.0.2.53:53/udp", SERVERS, min_healthy=MinHealthy(3)))


def test_silence_of_the_only_backend() -> None:
    """`passive: replies` has no effect in a family with one backend."""
    fix = "another backend of the family, or count_replies: true to see the share of answered packets"
    both = ("192.0.2.1:53/udp", "[2001:db8::1]:53/udp")
    one = pool("dns", both, (*SERVERS, *backends("fd00::1")), passive=PassiveReplies())
    assert [("dns", True, fix)] == found_cautions(one)
    assert "IPv6" in next(cautions(config(one))).message
    assert [] == found_cautions(pool("dns", both, SERVERS, passive=PassiveReplies()))
    assert [] == found_cautions(pool("dns", both, backends("10.0.0.1"), count_replies=True))


def test_answers_that_stateless_cannot_return() -> None:
    """With `stateless` and `outbound`, the caution says which backend gets an answer; with nat there is none."""
    fix = "forward: nat, or another port for the requests of backends"
    sip = "192.0.2.1:5060/udp"
    for balance, where in ((Balance.HASH, "of the peer's address"), (Balance.ROUND_ROBIN, "whose turn it is")):
        one = pool("sip", sip, SERVERS, outbound=True, forward=Forward.STATELESS, balance=balance)
        assert [("sip", True, fix)] == found_cautions(one)
        assert where in next(cautions(config(one))).message
    assert [] == found_cautions(pool("sip", sip, SERVERS, outbound=True))
    assert [] == found_cautions(pool("sip", sip, SERVERS[:1], outbound=True, forward=Forward.STATELESS))


@pytest.mark.parametrize("word", ["quic-cid", "wireguard-receiver"])
def test_keys_that_servers_choose(word: str) -> None:
    """Servers choose these keys during the handshake, so sessions would change their backend."""
    options = {"balance": Balance.HASH, "key": KEY_WORDS[word]}
    of = pool("session", "192.0.2.1:443/udp", SERVERS, **options)
    assert [("session", True)] == [found[:2] for found in found_cautions(of)]
    assert [] == found_cautions(replace(of, backends=SERVERS[:1]))
    assert [] == found_cautions(replace(of, balance=Balance.ROUND_ROBIN))


def test_server_ids_need_no_caution() -> None:
    """With server ids, connections stay with their server."""
    behind = tuple(replace(server, server_id=server.address.packed) for server in SERVERS)
    of = pool("web", "192.0.2.1:443/udp", behind, balance=Balance.HASH, key=KEY_WORDS["quic-cid"])
    assert [] == found_cautions(of)
