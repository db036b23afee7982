"""A backend fails and returns while ONE client socket sends on: what is lost, and what is not."""

from __future__ import annotations

import time
from contextlib import ExitStack
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from flowing import Flow, Sent, lost, sources, twice
from running import Running

from nftlb.lab import VIP4, VIP6, Lab

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

PORT = 5353
BACKLOG = 0.25
"""Seconds for which a datagram may wait for its server to read it: a server that dies takes those along. 50 ms were too
few where two other runs of tests kept both processors busy."""
HANDFUL = 5
UDP = {"udp": {"send": "are you there", "match": "are you there"}}
FAST = {"interval": "400ms", "fast_interval": "100ms", "timeout": "200ms", "rise": 2, "fall": 3}


def dns(lab: Lab, version: int = 4, **options: Any) -> dict[str, Any]:
    """The pool, with a backend on every host of the lab."""
    vip = {4: f"{VIP4}:53/udp", 6: f"[{VIP6}]:53/udp"}[version]
    written = {4: "{}:{}", 6: "[{}]:{}"}[version]
    backends = {host.name: written.format(host.address(version), PORT) for host in lab.backends}
    return {"dns": {"listen": vip, "backends": backends, "health": UDP | FAST, **options}}


def during(sent: Sequence[Sent], begin: float, end: float) -> list[Sent]:
    return [one for one in sent if begin <= one.at < end]


def its_turns_alone(missing: Sequence[Sent]) -> bool:
    """Whether the lost ones are one of three backends' alone: between two of them, two others were answered."""
    return all(later.number - one.number >= 3 for one, later in pairwise(missing))


@pytest.mark.parametrize("offload", [False, True], ids=["offload-off", "offload-on"])
@pytest.mark.parametrize("version", [4, 6])
def test_killed_with_passive(version: int, offload: bool, tmp_path: Path) -> None:
    """A process that dies loses a handful of datagrams; from then on, and when it returns, nothing is lost."""
    vip = {4: VIP4, 6: VIP6}[version]
    with Lab(backends=3, offload=offload) as lab, ExitStack() as servers:
        first = servers.enter_context(ExitStack())
        first.enter_context(lab.serve(PORT, backends=[lab.backends[1]]))
        servers.enter_context(lab.serve(PORT, backends=[lab.backends[0], lab.backends[2]]))
        with Running(lab.balancer, tmp_path, dns(lab, version, passive=True)) as daemon:
            with Flow(lab.client, (vip, 53), rate=3000) as flow:
                flow.wait(1000)
                killed = time.monotonic()
                first.close()
                out = daemon.wait("swap", since=daemon.wait("backend_down", "b2").at)
                flow.wait(1000)
                servers.enter_context(lab.serve(PORT, backends=[lab.backends[1]]))
                daemon.wait("swap", since=daemon.wait("backend_up", "b2").at)
                flow.wait(1000)
            sent = flow.stop()
        missing = lost(sent)

        assert "passive: port unreachable" == daemon.wait("backend_down", "b2").event["reason"]
        assert missing == during(missing, killed - BACKLOG, out.at)
        assert 0 < len(missing) <= 3000 * (out.at - killed + BACKLOG) / 3 + 1
        assert its_turns_alone(missing)
        assert [] == twice(sent)
        assert {(vip, 53)} == sources(sent)
        assert {"b1", "b3"} == {one.backend for one in during(sent, out.at, daemon.wait("backend_up", "b2").happened)}
        assert {"b1", "b2", "b3"} == {one.backend for one in sent[-300:]}


@pytest.mark.parametrize("offload", [False, True], ids=["offload-off", "offload-on"])
@pytest.mark.parametrize("version", [4, 6])
def test_a_refusal_costs_a_handful(version: int, offload: bool, tmp_path: Path) -> None:
    """Where a server has left nothing unread when it dies, its first refused datagrams are all that is lost."""
    vip = {4: VIP4, 6: VIP6}[version]
    with Lab(backends=3, offload=offload) as lab, ExitStack() as servers:
        first = servers.enter_context(ExitStack())
        first.enter_context(lab.serve(PORT, backends=[lab.backends[1]]))
        servers.enter_context(lab.serve(PORT, backends=[lab.backends[0], lab.backends[2]]))
        slow = dns(lab, version, passive=True, health=UDP | FAST | {"interval": "1m"})
        with Running(lab.balancer, tmp_path, slow) as daemon:
            # Slow enough that a machine that stalls for a tenth of a second does not pass for one that loses more.
            with Flow(lab.client, (vip, 53), rate=100) as flow:
                flow.wait(30)
                flow.pause()
                first.close()
                flow.resume()
                out = daemon.wait("swap", since=daemon.wait("backend_down", "b2").at)
                flow.wait(60)
            sent = flow.stop()
        missing = lost(sent)

        assert "passive: port unreachable" == daemon.wait("backend_down", "b2").event["reason"]
        assert 0 < len(missing) <= HANDFUL
        assert its_turns_alone(missing)
        assert [] == [one for one in missing if one.at > out.at]


@pytest.mark.parametrize("version", [4, 6])
def test_link_down(version: int, tmp_path: Path) -> None:
    """A host that can't be reached loses only what was its turn before it was out."""
    vip = {4: VIP4, 6: VIP6}[version]
    with Lab(backends=3) as lab, lab.serve(PORT), Running(lab.balancer, tmp_path, dns(lab, version)) as daemon:
        with Flow(lab.client, (vip, 53), rate=2000) as flow:
            flow.wait(1000)
            cut = time.monotonic()
            lab.balancer.run(["ip", "link", "set", "b2", "down"])
            out = daemon.wait("swap", since=daemon.wait("backend_down", "b2").at)
            flow.wait(1000)
        sent = flow.stop()
        missing = lost(sent)

        assert missing == during(missing, cut - BACKLOG, out.at)
        assert {"b1", "b3"} == {one.backend for one in during(sent, cut, out.at)} - {"", "b2"}
        assert its_turns_alone(missing)
        assert [] == twice(sent)
        assert {(vip, 53)} == sources(sent)
