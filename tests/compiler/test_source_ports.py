"""The source ports of new flows: the widest range without a listener, used only if it is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from fake_kernel import FakeNft
from hypothesis import given
from hypothesis import strategies as st
from pool_builders import backends, config, pool

from nftlb.compiler import Compiled, read_back
from nftlb.compiler.selection import targets
from nftlb.compiler.source_ports import FIRST, LAST, PortRange, read_ports, source_ports, widest_gap
from nftlb.config.reading import read_listener
from nftlb.model import Family, Forward, Per, Protocol, SourceKind
from nftlb.ruleset import TableFamily
from nftlb.swap import Swapper

if TYPE_CHECKING:
    from nftlb.model import Pool

SERVERS = backends("10.0.0.1", "10.0.0.2")
NTP = pool("ntp", "192.0.2.1:123/udp", SERVERS)


@pytest.mark.parametrize(
    ("ports", "widest"),
    [
        pytest.param([], "1024-65535", id="none"),
        pytest.param(["53", "123"], "1024-65535", id="privileged ones only"),
        pytest.param(["5060"], "5061-65535", id="above"),
        pytest.param(["60000"], "1024-59999", id="below"),
        pytest.param(["500-2000", "1500-1600", "1800-40000"], "40001-65535", id="overlapping"),
        pytest.param(["1024", "65535"], "1025-65534", id="both ends"),
        pytest.param(["33280"], "1024-33279", id="nearly in the middle"),
        pytest.param(["1024-30000", "32000-63535"], "63536-65535", id="of equal ones the highest"),
    ],
)
def test_the_widest_range(ports: list[str], widest: str) -> None:
    """The widest range without a listener, in examples."""
    listeners = [read_listener(f"192.0.2.1:{port}/udp") for port in ports]
    assert widest == str(widest_gap((listener.first_port, listener.last_port) for listener in listeners))


@given(
    st.lists(
        st.tuples(st.integers(1, LAST), st.integers(0, 30000)).map(
            lambda drawn: (drawn[0], min(drawn[0] + drawn[1], LAST))
        ),
        max_size=8,
    )
)
def test_no_wider_range_is_free(taken: list[tuple[int, int]]) -> None:
    """No listener has a port of the range, and no other range without a listener has more ports."""
    found = widest_gap(taken)
    free = [True] * (LAST + 1)
    for first, last in taken:
        free[first : last + 1] = [False] * (last + 1 - first)
    runs = "".join("x" if is_free else " " for is_free in free[FIRST:]).split()
    assert all(free[port] for port in range(found.first, found.last + 1))
    assert max((len(run) for run in runs), default=0) == len(found)


def test_each_family_and_protocol_has_its_own_range() -> None:
    """A listener takes ports from its own family and protocol alone; TCP by flow needs no range."""
    ntp = config(
        pool("a", ("192.0.2.1:40000-65535/udp", "192.0.2.1:80/tcp"), SERVERS),
        pool("b", "[2001:db8::1]:1024-9999/udp", backends("fd00::1")),
    )
    assert {
        Family.IP: {Protocol.UDP: PortRange(1024, 39999)},
        Family.IP6: {Protocol.UDP: PortRange(10000, 65535)},
    } == source_ports(ntp)


def test_tcp_beside_stateless() -> None:
    """A pool without conntrack would take the replies of the other's connections.

    Port 64544 is the alias of 8080: what comes in for it is handed to this host's own program.
    """
    web = pool("web", "192.0.2.1:80/tcp", SERVERS)
    raw = pool("raw", "192.0.2.1:8080/tcp", SERVERS, forward=Forward.STATELESS)
    assert {} == source_ports(config(web))
    assert {} == source_ports(config(raw))
    assert {Family.IP: {Protocol.TCP: PortRange(8081, 64543)}} == source_ports(config(web, raw))


def postrouting(*pools: Pool) -> tuple[str, ...]:
    table = Compiled(config(*pools)).ruleset().tables[TableFamily.IP]
    return table.chains["postrouting"].rules if "postrouting" in table.chains else ()


OWN = "iif 0 ip saddr . udp sport @own-udp snat to :1024-65535"


def test_only_rules_that_are_needed() -> None:
    """There is one rule for each kind of source, and one for each kind of the host's own ports."""
    tcp = pool("tcp", "192.0.2.1:80/tcp", SERVERS)
    kept = pool("kept", "192.0.2.1:514/udp", SERVERS, source=SourceKind.KEEP)
    plain = "ct direction . ct original zone @masqueraded masquerade"
    masqueraded = f"meta l4proto udp {plain} to :1024-65535"
    hairpin = "ct original zone . ip saddr . ip daddr @hairpins masquerade"
    assert (masqueraded, OWN) == postrouting(NTP)
    assert (plain,) == postrouting(tcp)
    assert (masqueraded, plain, OWN) == postrouting(NTP, tcp)
    assert (f"meta l4proto udp {hairpin} to :1024-65535", OWN) == postrouting(kept)
    assert (hairpin,) == postrouting(pool("kept", "192.0.2.1:80/tcp", SERVERS, source=SourceKind.KEEP))
    assert () == postrouting(pool("raw", "192.0.2.1:514/udp", SERVERS, forward=Forward.DSR))


def test_without_a_range_sources_are_translated_as_before() -> None:
    """Without room, sources are translated as before."""
    wide = pool("wide", "192.0.2.1:1024-65535/udp", SERVERS)
    assert ("ct direction . ct original zone @masqueraded masquerade",) == postrouting(NTP, wide)


def test_a_change_of_the_range_gives_new_zones() -> None:
    """Zones belong to the range with which they were made, so each change of the range gives new zones."""
    more = pool("more", "192.0.2.1:40000/udp", SERVERS, per=Per.FLOW)
    kernel, zones = FakeNft(), []
    for pools in ((NTP,), (NTP, more), (NTP,)):
        compiled = Compiled(config(*pools), read_back(kernel.list("nftlb")))
        swapper = Swapper(kernel, "nftlb", wait=lambda: None)
        swapper.swap(compiled.ruleset())
        swapper.remove_leftovers(compiled.ruleset())
        assert compiled.allocation == read_back(kernel.list("nftlb"))
        zones.append({compiled.allocation.zone(NTP, target) for target in targets(NTP, Family.IP)})
    first, second, third = zones
    assert not first & second
    assert not second & third


def test_the_zone_in_the_chain_of_a_backend_counts() -> None:
    """A process that starts after a change of the range keeps the zones in use, and gives former zones to nobody."""
    more = pool("more", "192.0.2.1:40000/udp", SERVERS, per=Per.FLOW)
    kernel, compiled = FakeNft(), Compiled(config())
    used: set[int] = set()
    for pools in ((NTP,), (NTP, more), (NTP,), (NTP,)):
        previous, compiled = compiled, Compiled(config(*pools), read_back(kernel.list("nftlb")))
        Swapper(kernel, "nftlb", wait=lambda: None).swap(compiled.ruleset())
        used |= set(compiled.allocation.zones.values())
        again = Compiled(config(*pools), read_back(kernel.list("nftlb")))
        assert compiled.allocation == again.allocation
    assert previous.allocation == compiled.allocation

    added = pool("added", "192.0.2.7:53/udp", SERVERS)
    fresh = Compiled(config(NTP, added), read_back(kernel.list("nftlb"))).allocation
    assert not used & {fresh.zone(added, target) for target in targets(added, Family.IP)}


def test_the_first_rule_of_a_protocol_counts() -> None:
    """The first rule of a protocol counts: an old rule may still follow."""
    rules = (
        "meta l4proto udp ct original zone @masqueraded masquerade to :5061-65535",
        "meta l4proto udp ct original zone @masqueraded masquerade to :1024-65535",
        "ct original zone @masqueraded masquerade",
        "meta l4proto sctp snat to ct original zone map @sources:2000-9000",
        "iif 0 ip6 saddr . tcp sport @own-tcp snat to :3000-9000",
    )
    assert {
        Protocol.UDP: PortRange(5061, 65535),
        Protocol.SCTP: PortRange(2000, 9000),
        Protocol.TCP: PortRange(3000, 9000),
    } == read_ports(rules)
    assert {} == read_ports(["ct original zone @masqueraded masquerade", "snat to ct original zone map @sources"])
