"""Listeners with wide port ranges: which of them need other source ports for this host's own requests."""

from __future__ import annotations

import pytest
from pool_builders import backends, config, pool

from nftlb.compiler import Compiled
from nftlb.compiler.source_ports import PortRange, is_asked_from, source_ports
from nftlb.model import Balance, Family, Forward, Pool, Protocol
from nftlb.ruleset import TableFamily


def listening(*listen: str, forward: Forward = Forward.STATELESS) -> Pool:
    behind = backends("2001:db8:2::11" if listen[0].startswith("[") else "10.0.0.11")
    return pool("p", listen, behind, forward=forward, balance=Balance.HASH)


@pytest.mark.parametrize(
    ("listen", "expected"),
    [
        ("192.0.2.1:40000-50000/udp", True),
        ("192.0.2.1:60999-65535/tcp", True),
        ("[2001:db8::1]:1-65535/sctp", True),
        ("192.0.2.1:16384-32767/udp", False),
        ("192.0.2.1:61000-65535/udp", False),
        ("192.0.2.1:40000-40100/udp", False),
        ("192.0.2.1:40000/udp", False),
    ],
)
def test_which_ranges_need_other_ports(listen: str, expected: bool) -> None:
    """Ranges that are too wide for aliases and have ports that Linux gives to sockets; never those of `nat`."""
    for forward in Forward:
        pool_ = listening(listen, forward=forward)
        assert (expected and forward is not Forward.NAT) is is_asked_from(pool_, pool_.listen[0])


@pytest.mark.parametrize(
    ("listen", "expected"),
    [
        (["192.0.2.1:40000-50000/udp"], PortRange(1024, 39999)),
        (["192.0.2.1:40000-50000/udp", "192.0.2.9:20000-30000/udp"], PortRange(1024, 19999)),
        (["192.0.2.1:40000-50000/udp", "192.0.2.9:20000-30000/tcp"], PortRange(1024, 39999)),
        (["192.0.2.1:10000-50000/udp"], PortRange(50001, 65535)),
        (["192.0.2.1:10000-50000/udp", "192.0.2.1:123/udp"], PortRange(50001, 61122)),
        (["192.0.2.1:1-65535/udp"], None),
    ],
)
def test_the_range_that_requests_leave_from(listen: list[str], expected: PortRange | None) -> None:
    """Requests leave from the widest range without listeners of the protocol and without aliases."""
    assert ({Family.IP: {Protocol.UDP: expected}} if expected else {}) == source_ports(config(listening(*listen)))


@pytest.mark.parametrize("forward", [Forward.STATELESS, Forward.DSR])
def test_only_a_wide_range_needs_conntrack(forward: Forward) -> None:
    """Without a wide range there is no chain of type nat, so conntrack is not used."""

    def types(listen: str) -> set[str]:
        table = Compiled(config(listening(listen, forward=forward))).ruleset().tables[TableFamily.IP]
        return {chain.hook.type for chain in table.chains.values() if chain.hook}

    assert "nat" not in types("192.0.2.1:16384-32767/udp")
    assert "nat" in types("192.0.2.1:16384-32768/udp")


def test_no_port_is_left() -> None:
    """If listeners have all ports, sources are not translated, because no port is left."""
    table = Compiled(config(listening("192.0.2.1:1-65535/udp"))).ruleset().tables[TableFamily.IP]
    assert "postrouting" not in table.chains
