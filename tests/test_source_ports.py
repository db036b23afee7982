"""The ports that new flows leave from: the widest range without a listener, and only where it is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pools import backends, config, pool

from nftlb.compiler import Compiled, read_back
from nftlb.compiler.membership import targets
from nftlb.compiler.source_ports import FIRST, LAST, PortRange, read_ports, source_ports, widest_gap
from nftlb.kernel.fake import FakeNft
from nftlb.model import Family, Forward, Per, Protocol, SourceKind
from nftlb.model.reading import read_listener
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
    """What a person would pick."""
    listeners = [read_listener(f"192.0.2.1:{one}/udp") for one in ports]
    assert widest == str(widest_gap((one.first_port, one.last_port) for one in listeners))


@given(
    st.lists(
        st.tuples(st.integers(1, LAST), st.integers(0, 30000)).map(lambda one: (one[0], min(one[0] + one[1], LAST))),
        max_size=8,
    )
)
def test_no_wider_range_is_free(taken: list[tuple[int, int]]) -> None:
    """Nothing listens in it, and no other range without a listener has more ports."""
    found = widest_gap(taken)
    free = [True] * (LAST + 1)
    for first, last in taken:
        free[first : last + 1] = [False] * (last + 1 - first)
    runs = "".join("x" if one else " " for one in free[FIRST:]).split()
    assert all(free[port] for port in range(found.first, found.last + 1))
    assert max((len(run) for run in runs), default=0) == len(found)


def test_families_and_protocols_are_apart() -> None:
    """A listener takes ports from its own family and protocol alone; TCP by flow needs no range."""
    one = config(
        pool("a", ("192.0.2.1:40000-65535/udp", "192.0.2.1:80/tcp"), SERVERS),
        pool("b", "[2001:db8::1]:1024-9999/udp", backends("fd00::1")),
    )
    assert {
        Family.IP: {Protocol.UDP: PortRange(1024, 39999)},
        Family.IP6: {Protocol.UDP: PortRange(10000, 65535)},
    } == source_ports(one)


def test_tcp_beside_stateless() -> None:
    """A pool that decides on each packet by itself would take the replies of the other's connections.

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
    """One rule for each way to see a client, and one for each kind of own port; TCP has none but the plain one."""
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


def test_no_range_no_own_rules() -> None:
    """Without room, sources are translated as before."""
    wide = pool("wide", "192.0.2.1:1024-65535/udp", SERVERS)
    assert ("ct direction . ct original zone @masqueraded masquerade",) == postrouting(NTP, wide)


def test_the_kernel_remembers_the_range() -> None:
    """Zones belong to the range with which they were made, so a change of it gives new ones, and back others again."""
    more = pool("more", "192.0.2.1:40000/udp", SERVERS, per=Per.FLOW)
    kernel, zones = FakeNft(), []
    for pools in ((NTP,), (NTP, more), (NTP,)):
        compiled = Compiled(config(*pools), read_back(kernel.list("nftlb")))
        swapper = Swapper(kernel, "nftlb", wait=lambda: None)
        swapper.swap(compiled.ruleset())
        swapper.sweep(compiled.ruleset())
        assert compiled.allocation == read_back(kernel.list("nftlb"))
        zones.append({compiled.allocation.zone(NTP, one) for one in targets(NTP, Family.IP)})
    first, second, third = zones
    assert not first & second
    assert not second & third


def test_reading_back() -> None:
    """The first rule of a protocol counts: an old one may still stand behind it."""
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
