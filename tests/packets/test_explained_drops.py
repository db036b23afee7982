"""What `nftlb explain` says about clients of a guard happens to their packets, with ONE socket for each client."""

from __future__ import annotations

import re
from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
from added_addresses import add_addresses
from copies_lab import CopiesLab
from keyed_clients import Asker, explained
from packet_tap import Tap
from pool_lab import DSR, DSR_INGRESS, MODES, NAT, STATELESS, STATELESS_INGRESS, PoolLab, down

from nftlb.model import DropReason, Fallback, FallbackKind, Guard, Per, Rate, SourceEntry

if TYPE_CHECKING:
    from pool_lab import Mode

    from nftlb.explain import Treatment
    from nftlb.lab import Host
    from nftlb.model import Pool

VERSIONS = (4, 6)
SLOW = Rate(1, 3600)
"""No packet comes back while a test runs, so a burst is exact."""
NUMBERS = re.compile(r"(\d+) packets at once")


def entry(host: Host) -> SourceEntry:
    """An entry of a list with the addresses of a host."""
    spans = [(int(ip_address(address)),) * 2 for address in (host.ipv4, host.ipv6)]
    return SourceEntry(ip=(spans[0],), ip6=(spans[1],))


def said(pool: Pool, host: Host, version: int) -> Treatment:
    """The treatment of a packet of a host."""
    with Asker(host, version) as asker:
        return explained(pool, asker.endpoint(host.address(version)), b"")


def allowed_by(pool: Pool, host: Host, version: int) -> tuple[int, int]:
    """How many packets of a host pass at once, as `explain` says: with a place in the table, and without one."""
    own, shared = NUMBERS.findall(dict(said(pool, host, version).remarks)["guard"])
    return int(own), int(shared)


def passed(pool_lab: PoolLab, host: Host, version: int, count: int) -> int:
    """Send packets from one socket of a host, and return how many arrive."""
    pool_lab.servers.clear()
    with Asker(host, version) as asker:
        for number in range(count):
            asker.send(f"{number}".encode())
        return len(pool_lab.servers.settle())


def dropped(pool_lab: PoolLab) -> dict[str, int]:
    """What the guard dropped, by reason."""
    found = pool_lab.lab.balancer.call(pool_lab.applier.counters)
    counts = {str(reason): found[reason.owner("dns")].packets for reason in DropReason if reason.owner("dns") in found}
    return {reason: count for reason, count in counts.items() if count}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("mode", "per"), [*((mode, Per.PACKET) for mode in MODES), (NAT, Per.FLOW)], ids=str)
def test_lists(mode: Mode, per: Per, version: int) -> None:
    """No packet of a denied client arrives, all of an allowed client do, also if the client is denied too."""
    with PoolLab(mode, clients=3) as pool_lab:
        both, denied, other = hosts = pool_lab.lab.clients
        guard = Guard(allow=(entry(both),), deny=(entry(both), entry(denied)))
        ingress = tuple(host.name for host in hosts) if mode.ingress and not mode.dsr else pool_lab.pool().ingress
        pool = replace(pool_lab.pool(), guard=guard, per=per, ingress=ingress)
        pool_lab.load(pool)
        for host in hosts:
            choice = said(pool, host, version).choice
            expected = 0 if choice and choice.dropped else 4
            assert (host is not denied) * 4 == expected == passed(pool_lab, host, version, 4)
        assert {"denied": 4} == dropped(pool_lab)
        assert "no list" in dict(said(pool, other, version).remarks)["guard"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("mode", [NAT, STATELESS, DSR], ids=str)
def test_nothing_else_happens_to_a_packet_of_a_denied_client(mode: Mode, version: int) -> None:
    """Collectors get no copy, and while no backend is left, the client gets no error: `explain` speaks of neither."""
    with CopiesLab(mode) as lab, Tap(lab.lab.client) as tap:
        client = lab.lab.client
        pool = replace(lab.mirrored(), fallback=Fallback(FallbackKind.REJECT))
        lab.load(pool)
        assert {"copies", "none left"} <= dict(said(pool, client, version).remarks).keys()
        denying = replace(pool, guard=Guard(deny=(entry(client),)))
        treatment = said(denying, client, version)
        assert ["guard"] == [heading for heading, _ in treatment.remarks]
        assert () == treatment.slots
        lab.load(denying)
        assert 0 == passed(lab, client, version, 3)
        lab.update(down("b1", "b2"))
        assert 0 == passed(lab, client, version, 3)
        assert [] == lab.copies()
        assert not [packet for packet in tap.packets() if packet.protocol in ICMP and is_error(packet.payload)]
        assert {"denied": 6} == dropped(lab)


ICMP = {1, 58}


def is_error(message: bytes) -> bool:
    """Whether an ICMP message says that a packet did not arrive: unreachable, too big or time exceeded."""
    return message[0] in {1, 2, 3, 11}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("ban", [0, 3_600_000])
@pytest.mark.parametrize("mode", [NAT, STATELESS_INGRESS, DSR_INGRESS], ids=str)
def test_above_the_rate(mode: Mode, ban: int, version: int) -> None:
    """As many packets arrive as the remark says. If the remark names a ban, later packets are dropped by the ban."""
    with PoolLab(mode) as pool_lab:
        host = pool_lab.lab.client
        pool = replace(pool_lab.pool(), guard=Guard(rate=SLOW, burst=7, ban=ban))
        pool_lab.load(pool)
        most, _ = allowed_by(pool, host, version)
        assert most == passed(pool_lab, host, version, 10)
        banned = "banned for 3600 s" in dict(said(pool, host, version).remarks)["guard"]
        assert ({"rate": 1, "banned": 2} if banned else {"rate": 3}) == dropped(pool_lab)
        assert banned == bool(ban)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("shared", [None, Rate(4, 3600)])
@pytest.mark.parametrize("mode", [NAT, STATELESS_INGRESS, DSR], ids=str)
def test_a_full_table(mode: Mode, shared: Rate | None, version: int) -> None:
    """While other sources have all places, the packets of a client share the limit that the remark names."""
    with PoolLab(mode, clients=2) as pool_lab:
        late, many = pool_lab.lab.clients
        ingress = (late.name, many.name) if mode.ingress else ()
        guard = Guard(rate=SLOW, burst=2, sources=16, shared_rate=shared)
        pool = replace(pool_lab.pool(), guard=guard, ingress=ingress)
        pool_lab.load(pool)
        sources = [str(ip_address(many.address(version)) + 100 + number) for number in range(16)]
        add_addresses(many, "lo", *(f"{source}/{32 if version == 4 else 128}" for source in sources))
        for source in sources:
            with Asker(many, version, source=(source, 0)) as asker:
                asker.send(b"first")
        assert len(sources) == len(pool_lab.servers.settle())
        own, most = allowed_by(pool, late, version)
        assert (2, shared.packets if shared else 2) == (own, most)
        assert most == passed(pool_lab, late, version, 9)
        assert {"full": 9 - most} == dropped(pool_lab)
