"""What `check` and `doctor` warn of, in configurations that are valid."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
from pools import backend, backends, config, pool

from nftlb.compiler.cautions import cautions
from nftlb.model import Forward, SourceKind

if TYPE_CHECKING:
    from nftlb.model import Pool

SERVERS = backends("10.0.0.1", "10.0.0.2")


def told(*pools: Pool) -> list[tuple[str, bool, str]]:
    """Whom cautions are about, whether packets are lost, and what to change."""
    return [(one.pool, one.lossy, one.mend) for one in cautions(config(*pools))]


@pytest.mark.parametrize("listen", ["192.0.2.1:67/udp", "192.0.2.1:60-70/udp", "[2001:db8::1]:547/udp"])
def test_dhcp_relays(listen: str) -> None:
    """A DHCP server's answer finds no conntrack entry unless it sees the relay's own address."""
    servers = (*SERVERS, *backends("fd00::1"))
    assert [("dhcp", True, "source: keep")] == told(pool("dhcp", listen, servers))
    assert [] == told(pool("dhcp", listen, servers, source=SourceKind.KEEP))
    assert [] == told(pool("dhcp", listen, servers, forward=Forward.DSR))


@pytest.mark.parametrize(
    "listen", ["192.0.2.1:67/tcp", "192.0.2.1:547/udp", "192.0.2.1:66/udp", "[2001:db8::1]:67/udp"]
)
def test_other_ports_are_not_dhcp(listen: str) -> None:
    """Each family has its own port, of UDP."""
    assert [] == told(pool("other", listen, (*SERVERS, *backends("fd00::1"))))


def test_no_room_for_source_ports() -> None:
    """Who translates to an address that something listens at is named, and nobody else."""
    every = "192.0.2.1:1024-65535/udp"
    mend = "source: an address of this host at which nothing listens, or fewer ports"
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
    assert [("rtp", True, mend), ("ntp", True, mend)] == told(*pools)
    assert "(at most 0)" in next(cautions(config(*pools))).message
    assert [] == told(pool("web", "192.0.2.1:1-65535/tcp", SERVERS))


def test_a_narrow_gap_is_too_little() -> None:
    """4,096 ports in a row suffice, 4,095 do not."""
    assert [] == told(pool("rtp", ("192.0.2.1:1024-30000/udp", "192.0.2.1:34097-65535/udp"), SERVERS))
    assert 1 == len(told(pool("rtp", ("192.0.2.1:1024-30000/udp", "192.0.2.1:34096-65535/udp"), SERVERS)))


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
    """Two services that lead to one server's port: not lossy, and the later one is named."""
    mend = "a backend port of its own for each listener"
    assert ("b", False, mend) in told(*pools)
    assert {("b", False, mend)} == set(told(*pools))


def test_servers_that_are_not_shared() -> None:
    """Another port, protocol, address or family is another server; masqueraded clients have no port of their own."""
    assert [] == told(
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
