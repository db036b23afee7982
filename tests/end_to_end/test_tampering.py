"""Other software changes nftables: our tables are restored within a second, other tables do not change."""

from __future__ import annotations

import re
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from daemon_process import PORT, Running, dns
from machine_stalls import Stalls
from steady_traffic import Flow, lost

from nftlb.lab import VIP4, VIP6, Lab

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from daemon_process import Seen


def shape(lab: Lab) -> str:
    """The listing of our table by nft, without counters and versions of chains."""
    text = lab.nft("list table ip nftlb")
    return re.sub(r"packets \d+ bytes \d+", "", text)


def repair(daemon: Running, hurt: Callable[[], object]) -> tuple[Seen, float]:
    """Damage our rules. Return the swap that repaired the damage, and the seconds it took, without stalls."""
    with Stalls(lambda: [daemon.process.pid]) as stalls:
        mark = stalls.mark()
        hurt()
        hurt_at = time.monotonic()
        restored = daemon.wait("swap", since=mark.at)
        return restored, restored.at - hurt_at - stalls.since(mark, turns=3)


HURTS = {
    "flush ruleset": "flush ruleset",
    "table deleted": "delete table ip nftlb",
    "rule edited": "flush chain ip nftlb prerouting-raw; add rule ip nftlb prerouting-raw drop",
    "rule added": "insert rule ip nftlb prerouting-raw drop",
    "element deleted": "delete element ip nftlb targets { original . 1 }",
    "element added": "add element ip nftlb targets { original . 999 : 10.9.9.9 . 9 }",
    "chain added": "add chain ip nftlb intruder",
    "table emptied": "flush table ip nftlb",
}


@pytest.mark.parametrize("hurt", HURTS)
def test_restored(hurt: str, tmp_path: Path) -> None:
    """Within a second of a change, our tables are restored, the repair is logged and counted, and traffic continues."""
    with Lab(backends=3) as lab, lab.serve(PORT), Running(lab.balancer, tmp_path, dns(lab)) as daemon:
        before = shape(lab)
        restored, took = repair(daemon, lambda: lab.nft(HURTS[hurt]))
        with lab.client.connect((VIP4, 53), connected=False) as client:
            answers = client.exchange(12)

        assert took < 1
        assert restored.event["details"]["restored"]
        assert before == shape(lab)
        assert 4 == max(map([answer.backend for answer in answers].count, ("b1", "b2", "b3")))
        assert 1 == daemon.client.document()["kernel"]["restored"]


@pytest.mark.parametrize(
    "hurt",
    [
        "add element ip nftlb {} {{ 10.0.1.0/24 }}",
        'add element ip nftlb {} {{ 10.0.9.0/24 comment "mine" }}',
        "delete element ip nftlb {} {{ 10.0.0.0/24 }}",
    ],
    ids=["touching", "with a comment", "deleted"],
)
def test_a_list_of_sources_is_restored(hurt: str, tmp_path: Path) -> None:
    """An edit of a `deny` list is undone, also if the kernel lists the edited ranges in another form than they have."""
    with Lab(backends=3) as lab, lab.serve(PORT):
        pools = dns(lab, guard={"deny": ["10.0.0.0/24"]})
        with Running(lab.balancer, tmp_path, pools) as daemon:
            before = sorted(shape(lab).splitlines())  # a set that was added again is at the end
            (name,) = set(re.findall(r"guard/dns/deny/\w+", "".join(before)))
            restored, took = repair(daemon, lambda: lab.nft(hurt.format(name)))
            daemon.poll_status(lambda status: status["kernel"]["synced"], "the list")

            assert took < 1
            assert restored.event["details"]["restored"]
            assert before == sorted(shape(lab).splitlines())


def test_a_large_ruleset_is_restored_as_fast(tmp_path: Path) -> None:
    """A second is enough for 1,500 pools with two listeners and three backends each."""
    pools = {
        f"p{number}": {
            "listen": [f"192.0.{number >> 8}.{number & 255}:{port}/udp" for port in (53, 54)],
            "backends": {f"b{last}": f"10.{number >> 8}.{number & 255}.{last}:53" for last in (1, 2, 3)},
        }
        for number in range(1500)
    }
    with Lab(backends=1) as lab:
        # A backend without a route would be down.
        lab.balancer.run(["ip", "route", "add", "10.0.0.0/8", "via", lab.backends[0].ipv4])
        _flushed_and_restored(lab, tmp_path, pools)


def _flushed_and_restored(lab: Lab, tmp_path: Path, pools: dict[str, Any]) -> None:
    with Running(lab.balancer, tmp_path, pools) as daemon:
        before = shape(lab)
        _, took = repair(daemon, lambda: lab.nft("flush ruleset"))

        assert took < 1
        assert before == shape(lab)


def everything(lab: Lab) -> list[str]:
    """All our objects on this host: tables of every family, and routing rules and routes by mark, sorted."""
    tables = "".join(lab.nft(f"list table {family} nftlb") for family in ("ip", "ip6", "netdev"))
    shown = [re.sub(r"packets \d+ bytes \d+", "", tables)]
    for version in ("-4", "-6"):
        for what in (["rule", "show"], ["route", "show", "table", "all"]):
            shown += sorted(lab.balancer.run(["ip", version, *what]).splitlines())
    return shown


@pytest.mark.parametrize(
    "hurt",
    [
        ["nft", "delete table ip6 nftlb"],
        ["nft", "flush chain ip6 nftlb prerouting-raw; add rule ip6 nftlb prerouting-raw drop"],
        ["nft", "delete table netdev nftlb"],
        ["nft", "flush chain netdev nftlb pool/dns/ip6"],
        ["nft", "flush ruleset"],
        ["ip", "-4", "rule", "del", "fwmark", "60001"],
        ["ip", "-6", "rule", "del", "fwmark", "60005"],
        ["ip", "-6", "route", "flush", "table", "60005"],
    ],
    ids=lambda hurt: " ".join(hurt[:4]),
)
def test_all_tables_rules_and_routes_are_restored(hurt: list[str], tmp_path: Path) -> None:
    """Tables of IPv6 and of the fast path, and routing rules and routes of `forward: dsr`, are restored too."""
    with Lab(backends=3, dsr=True) as lab, lab.serve(53), Running(lab.balancer, tmp_path, dsr(lab)) as daemon:
        before = everything(lab)
        _, took = repair(daemon, lambda: lab.balancer.run(hurt))

        assert took < 1
        assert before == everything(lab)
        for vip in (VIP4, VIP6):
            with lab.client.connect((vip, 53), connected=False) as client:
                assert {"b1", "b2", "b3"} == {answer.backend for answer in client.exchange(12)}


def dsr(lab: Lab) -> dict[str, Any]:
    """A pool with IPv4 and IPv6, and the fast path."""
    backends = {
        f"{host.name}-{version}": {"address": host.address(version), "device": "eth0"}
        for version in (4, 6)
        for host in lab.backends
    }
    return {
        "dns": {
            "listen": [f"{VIP4}:53/udp", f"[{VIP6}]:53/udp"],
            "forward": "dsr",
            "ingress": "eth0",
            "backends": backends,
        }
    }


def test_changes_of_another_table_cause_no_repair(tmp_path: Path) -> None:
    """A change of another table causes no repair and no loss, and the table stays."""
    with Lab(backends=3) as lab, lab.serve(PORT), Running(lab.balancer, tmp_path, dns(lab)) as daemon:
        with Flow(lab.client, (VIP4, 53), rate=1000) as flow:
            flow.wait(100)
            lab.nft("add table ip theirs; add chain ip theirs forward { type filter hook forward priority 0; }")
            for _ in range(20):
                lab.nft("add rule ip theirs forward counter accept")
            flow.wait(1000)
        sent = flow.stop()
        theirs = lab.nft("list table ip theirs")

        assert 20 == theirs.count("accept\n")
        assert (1, 0) == tuple(daemon.client.document()["kernel"][key] for key in ("swaps", "restored"))
        assert [] == lost(sent)


def test_repairs_do_not_touch_other_tables(tmp_path: Path) -> None:
    """Another table, even with our name in another family, stays through starts, repairs and the end."""
    with Lab(backends=3) as lab, lab.serve(PORT):
        lab.nft("add table inet nftlb; add chain inet nftlb theirs; add rule inet nftlb theirs counter accept")
        lab.nft("add table ip theirs; add set ip theirs marks { type mark; elements = { 1, 2 }; }")
        theirs = ("list table inet nftlb", "list table ip theirs")
        before = [lab.nft(table) for table in theirs]
        with Running(lab.balancer, tmp_path, dns(lab), options=("--remove",)) as daemon:
            for hurt in ("table deleted", "rule edited"):
                changed = time.monotonic()
                lab.nft(HURTS[hurt])
                daemon.wait("swap", since=changed)
            assert before == [lab.nft(table) for table in theirs]
            daemon.kill()
            daemon.start()
            assert before == [lab.nft(table) for table in theirs]

        assert before == [lab.nft(table) for table in theirs]
        assert "table ip nftlb" not in lab.nft("list tables")


def test_two_at_odds(tmp_path: Path) -> None:
    """If another program undoes every repair, the daemon makes only a few repairs per second, and continues."""
    with Lab(backends=3) as lab, lab.serve(PORT), Running(lab.balancer, tmp_path, dns(lab)) as daemon:
        begin = time.monotonic()
        for number in range(1, 6):
            lab.nft("delete table ip nftlb")
            daemon.wait("swap", since=begin, count=number)
        took = time.monotonic() - begin
        with lab.client.connect((VIP4, 53), connected=False) as client:
            answers = client.exchange(3)

        assert took > 4 * 0.2
        assert {"b1", "b2", "b3"} == {answer.backend for answer in answers}


def test_a_foreign_table_in_place_of_ours_is_reported(tmp_path: Path) -> None:
    """A table in place of ours is not changed; log and status report it. When it is deleted, our table is back."""
    with Lab(backends=3) as lab, lab.serve(PORT), Running(lab.balancer, tmp_path, dns(lab)) as daemon:
        lab.nft("delete table ip nftlb; add table ip nftlb; add chain ip nftlb theirs; add rule ip nftlb theirs accept")
        before = lab.nft("list table ip nftlb")
        message = daemon.poll_status(lambda status: status["kernel"]["error"], "the error")
        assert "table ip nftlb (chain theirs) was not made by nftlb, and stays as it is" in message
        daemon.kill()
        daemon.start()
        daemon.poll_status(lambda status: not status["kernel"]["synced"], "a refusal")
        assert before == lab.nft("list table ip nftlb")
        daemon.wait_for_log(message)
        lab.nft("delete table ip nftlb")
        daemon.poll_status(lambda status: status["kernel"]["synced"], "ours")
        assert "made-by-nftlb" in lab.nft("list table ip nftlb")
        with lab.client.connect((VIP4, 53), connected=False) as client:
            assert {"b1", "b2", "b3"} == {answer.backend for answer in client.exchange(3)}


def test_sockets_made_during_repeated_flushes_are_balanced(tmp_path: Path) -> None:
    """After repeated flushes, new sockets are balanced like others: conntrack entries from meanwhile are deleted."""
    with (
        Lab(backends=3) as lab,
        lab.serve(PORT),
        Running(lab.balancer, tmp_path, dns(lab)) as daemon,
        ExitStack() as all_,
    ):
        begin = time.monotonic()
        clients = [all_.enter_context(lab.client.connect((VIP4, 53), connected=False)) for _ in range(3)]
        for client in clients:
            for _ in range(10):
                lab.nft("flush ruleset")
                client.send(1)
        daemon.wait("swap", since=begin)
        daemon.poll_status(lambda status: status["kernel"]["synced"] and "pool/dns" in lab.nft("list ruleset"), "ours")
        for client in clients:
            client.drain()
            assert {"b1", "b2", "b3"} == {answer.backend for answer in client.exchange(3)}
