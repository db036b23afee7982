"""The blaster sends at full speed, and its ledger finds every lost, doubled and misplaced datagram."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

import lab_rules as rules
from blaster import Ledger, Membership
from lab_parameters import TURNS, VIP, both_versions

from nftlb.lab import VIP4, VIP6, Lab

if TYPE_CHECKING:
    from blaster import Blaster

pytest_plugins = ("lab_fixtures",)


@both_versions
def test_blast_through_zones(blaster: Blaster, version: int) -> None:
    """60,000 datagrams of one socket at full speed: none lost or doubled, in strict turn, all replies from the VIP."""
    count = 60_000
    with Lab() as lab, blaster.sinks(lab.backends, version=version, echo=True, log=count) as sinks:
        lab.nft(rules.per_packet(version))
        sent = sinks.send(lab.client, (VIP[version], 53), count=count, replies=True)
    vip = {4: f"{VIP4}:53", 6: f"[{VIP6}]:53"}[version]
    assert (sent.sent, sent.replies, sent.sources) == (count, count, {vip: count})
    assert (sent.duplicates, sent.damaged, sent.strange, sent.errors, sent.written_off) == (0, 0, 0, 0, 0)
    assert sum(report.buffer_drops for report in sinks.reports.values()) == 0
    ledger = sinks.ledger(count)
    assert (ledger.missing, ledger.twice) == ([], [])
    assert ledger.follows("b1", "b2", "b3")
    assert ledger.counts == {"b1": 20_000, "b2": 20_000, "b3": 20_000}


def test_blast_with_direct_return(blaster: Blaster) -> None:
    """The same with direct return; and one-way, with the kernel's times of arrival."""
    count = 30_000
    for echo in (True, False):
        with Lab(dsr=True) as lab:
            lab.nft(rules.direct_return(5353))
            with blaster.sinks(lab.backends, address=VIP4, echo=echo, log=count, stamps=True) as sinks:
                sent = sinks.send(lab.client, (VIP4, 5353), count=count, replies=echo)
        assert sent.sources == ({f"{VIP4}:5353": count} if echo else {})
        assert sinks.ledger(count).follows("b1", "b2", "b3")
        assert all(left <= arrived for name in TURNS for _, left, arrived in sinks.ledger(count).records(name))


def test_blast_sees_losses(blaster: Blaster) -> None:
    """Dropped datagrams are reported by number, and the sender goes on after them."""
    count = 3_000
    with Lab() as lab, blaster.sinks(lab.backends[:1], log=count) as sinks:
        lab.nft(rules.one_rule("ip", "filter hook forward priority 0", "udp dport 5353 numgen inc mod 1000 7 drop"))
        sent = sinks.send(lab.client, (lab.backends[0].ipv4, 5353), count=count, timeout_ms=50)
    assert sinks.ledger(count).missing == [7, 1007, 2007]
    assert (sent.sent, sent.written_off) == (count, 3)


def test_blast_sees_the_wrong_source(blaster: Blaster) -> None:
    """Datagrams and replies are counted by their source, so replies from another address than the VIP are seen."""
    with Lab(backends=1) as lab, blaster.sinks(lab.backends, echo=True) as sinks:
        rule = f"ip daddr {VIP4} notrack ip daddr set 10.0.1.2 udp dport set 5353"
        lab.nft(rules.one_rule("ip", "filter hook prerouting priority raw", rule))
        sent = sinks.send(lab.client, (VIP4, 53), count=1000, replies=True, source_port=40000)
    assert sent.sources == {"10.0.1.2:5353": 1000}
    assert sinks.reports["b1"].sources == {"198.51.100.2:40000": 1000}


def test_blast_holds_its_rate_and_can_be_stopped(blaster: Blaster) -> None:
    """The sender does not exceed its rate. A stopped sender reports the number of sent datagrams."""
    with Lab() as lab, blaster.sinks(lab.backends[:1]) as sinks:
        paced = sinks.send(lab.client, (lab.backends[0].ipv4, 5353), count=2_000, rate=10_000)
        endless = sinks.start(lab.client, (lab.backends[0].ipv4, 5353), count=1 << 30, rate=1_000)
        endless.stop()
        stopped = endless.report()
    assert paced.seconds >= 0.19
    assert stopped.sent < 1 << 30


def test_ledger_judges_by_time() -> None:
    """A datagram counts as outside the pool only if its backend was not a member at any moment of its journey."""
    history = [
        Membership(0, 0, frozenset({"b1", "b2"})),
        Membership(100, 110, frozenset({"b2"})),
        Membership(200, 210, frozenset({"b1", "b2"})),
    ]
    on_time = [0, 50, 60, 1, 105, 120, 2, 109, 199, 3, 190, 200]
    too_late = [4, 111, 199]
    ledger = Ledger(6, {"b1": array("Q", on_time + too_late), "b2": array("Q", [4, 150, 160])})
    assert ledger.outside(history) == [("b1", 4)]
    assert (ledger.missing, ledger.twice, ledger.counts) == ([5], [4], {"b1": 5, "b2": 1})
