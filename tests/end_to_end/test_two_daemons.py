"""Two daemons with separate tables in one network namespace, both with default settings."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from daemon_process import NFTLB, PORT, Running, at
from pool_builders import backend, config, pool

from nftlb.kernel import LibNftables
from nftlb.kernel.policy_routing import PolicyRouting
from nftlb.lab import VIP4, Host, Lab
from nftlb.model import Forward
from nftlb.swap.applier import Applier

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from nftlb.model import Config


def daemon(lab: Lab, directory: Path, table: str, port: int, hosts: Sequence[Host]) -> Running:
    directory.mkdir()
    backends = {host.name: at(host.address(4), PORT) for host in hosts}
    pools: dict[str, Any] = {table: {"listen": f"{VIP4}:{port}/udp", "backends": backends}}
    running = Running(lab.balancer, directory, pools)
    running.top = {"table": table}
    running.write(pools)
    return running


def served(lab: Lab, port: int) -> Counter[str]:
    with lab.client.connect((VIP4, port), connected=False) as client:
        return Counter(answer.backend for answer in client.exchange(8))


def test_each_balances_its_own(tmp_path: Path) -> None:
    """No packet goes to the other daemon's backends, also after a kill and restart, or a removal of the rules."""
    with Lab(backends=4) as lab, lab.serve(PORT):
        left, right = lab.backends[:2], lab.backends[2:]
        shares = [{host.name: 4 for host in hosts} for hosts in (left, right)]
        first = daemon(lab, tmp_path / "one", "one", 53, left)
        second = daemon(lab, tmp_path / "two", "two", 54, right)
        with first:
            with second:
                assert shares == [served(lab, 53), served(lab, 54)]
                for again in (first, second):
                    again.kill()
                    again.start()
                    assert shares == [served(lab, 53), served(lab, 54)]
            assert "conntrack" in lab.balancer.run([str(NFTLB), "remove", str(second.file)])
            assert shares[0] == served(lab, 53)


def steered(number: int) -> Config:
    behind = (backend("a", f"10.0.{number}.2"),)
    return config(pool("cast", f"192.0.2.53:{number}/udp", behind, forward=Forward.DSR))


def test_each_steers_its_own() -> None:
    """A daemon neither uses nor deletes the marks and routing rules of the other when it loads, changes or ends."""
    with Lab(backends=3) as lab, lab.balancer.call(LibNftables) as kernel:
        appliers = [Applier(kernel, table, wait=lambda: None) for table in ("one", "two")]
        configs = [replace(steered(number), table=applier.table) for number, applier in enumerate(appliers, 1)]

        def marks() -> list[str]:
            return [str(hop.via) for _, hop in sorted(lab.balancer.call(PolicyRouting().current).items())]

        for _ in range(2):
            for applier, wanted in zip(appliers, configs, strict=True):
                lab.balancer.call(applier.load, wanted)
        assert ["10.0.1.2", "10.0.2.2"] == marks()
        for applier, wanted in zip(appliers, configs, strict=True):
            assert "" == lab.balancer.call(applier.diff, wanted)
        lab.balancer.call(appliers[0].remove, configs[0])
        assert ["10.0.2.2"] == marks()
        lab.balancer.call(appliers[1].remove, configs[1])
        assert [] == marks()


def test_a_table_without_our_chain_belongs_to_no_daemon() -> None:
    """Such a table does not count, whatever its zones; a table with the chain counts in any family."""
    with Lab(backends=1) as lab, lab.balancer.call(LibNftables) as kernel:
        lab.nft("add table ip theirs; add chain ip theirs made; add table ip6 two; add chain ip6 two made-by-nftlb")
        lab.balancer.call(Applier(kernel, "cast", wait=lambda: None).load, replace(steered(1), table="cast"))
        assert {"two"} == lab.balancer.call(kernel.siblings, "cast")
        assert {"cast", "two"} == lab.balancer.call(kernel.siblings, "nftlb")
