"""Faults of the host under load: interfaces vanish, and few conntrack zones are free."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from daemon_process import PORT, VIP, Running, dns
from servers.processes import await_that
from steady_traffic import Flow, lost, sources, twice

from nftlb.lab import Lab, links

if TYPE_CHECKING:
    from pathlib import Path

BACKENDS = "/api/v1/pools/dns/backends"
LAST_ZONE = 0xFFFF
MOST = 3
"""Backends for which `zones` has numbers: the file may need two more than there are backends."""
INGRESS = "client1"


def fast_path(lab: Lab) -> int:
    """The number of datagrams on the fast path since its chain was made."""
    counters = lab.nft("list ruleset netdev").split("counter packets ")[1:]
    return sum(int(counter.split()[0]) for counter in counters)


@pytest.mark.parametrize("version", [4, 6])
def test_ingress_is_renamed(version: int, tmp_path: Path) -> None:
    """If the interface of the fast path is missing, no datagram is lost: packets use the ordinary path meanwhile."""
    with Lab(backends=3) as lab, lab.serve(PORT):
        daemon = Running(lab.balancer, tmp_path, dns(lab, version, forward="stateless", ingress=[INGRESS]))
        with daemon, Flow(lab.client, (VIP[version], 53), rate=1000) as flow:
            await_that(lambda: fast_path(lab) > 100, "datagrams on the fast path")
            for _ in range(3):
                lab.balancer.run(["ip", "link", "set", INGRESS, "name", "renamed"])
                missing = daemon.poll_status(lambda it: it["pools"][0]["lacking"], "the missing interface")
                flow.wait(200)
                lab.balancer.run(["ip", "link", "set", "renamed", "name", INGRESS])
                daemon.poll_status(lambda it: not it["pools"][0]["lacking"], "the interface's return")
            before = fast_path(lab)
            await_that(lambda: fast_path(lab) > before + 100, "datagrams on the fast path")

    assert f"there is no interface {INGRESS}" in str(missing)
    assert ([], []) == (lost(flow.sent), twice(flow.sent))
    assert {(VIP[version], 53)} == sources(flow.sent)


@pytest.mark.parametrize("version", [4, 6])
def test_the_fast_path_is_made_again_for_a_new_interface(version: int, tmp_path: Path) -> None:
    """After a new interface is up, datagrams get replies, and take the fast path again."""
    with Lab(backends=3) as lab, lab.serve(PORT):
        daemon = Running(lab.balancer, tmp_path, dns(lab, version, forward="stateless", ingress=[INGRESS]))
        with daemon, Flow(lab.client, (VIP[version], 53), rate=1000) as flow:
            flow.wait(200)
            lab.balancer.run(["ip", "link", "del", INGRESS])
            daemon.poll_status(lambda it: it["pools"][0]["lacking"], "the missing interface")
            lab.balancer.call(links.make_veths, [links.Veth(INGRESS, "eth0", lab.client.fileno())])
            ends = {lab.client: "eth0", lab.balancer: INGRESS}
            for host, name in ends.items():
                mine = [interface for interface in host.plan.interfaces if interface.name == name]
                host.call(links.configure_interfaces, mine, list(host.plan.routes), checksum_offload=True)
            for host, name in ends.items():
                host.call(links.await_running, [name])
            daemon.poll_status(lambda it: not it["pools"][0]["lacking"], "the new interface")
            made = len(flow.sent)
            await_that(lambda: any(datagram.backend for datagram in flow.sent[made:]), "an answer")
            back = len(flow.sent)
            before = fast_path(lab)
            await_that(lambda: fast_path(lab) > before + 100, "datagrams on the fast path")

    assert ([], []) == (lost(flow.sent[back:]), twice(flow.sent))
    assert {(VIP[version], 53)} == sources(flow.sent)


@pytest.mark.parametrize("version", [4, 6])
def test_zones_are_used_again(version: int, tmp_path: Path) -> None:
    """Five zones serve thirty backends that come and go: one client's datagrams reach the present backends."""
    ports = range(6000, 6030)

    def backend(number: int) -> dict[str, Any]:
        host = lab.backends[number % 3]
        return {"name": f"at-{ports[number]}", "address": host.address(version), "port": ports[number]}

    with Lab(backends=3) as lab, lab.serve(ports, versions=[version]) as servers:
        pools = dns(lab, version)
        pools["dns"]["backends"] = {server.pop("name"): server for server in (backend(0), backend(1))}
        daemon = Running(lab.balancer, tmp_path, pools)
        daemon.top["zones"] = {"first": LAST_ZONE - MOST - 1}
        daemon.write(pools)
        with daemon, Flow(lab.client, (VIP[version], 53), rate=500) as flow:
            for number in range(2, len(ports)):
                flow.pause()  # a zone may still have in-flight replies of its last backend: zones are few
                assert 201 == daemon.call("POST", BACKENDS, backend(number))[0]
                flow.resume()
                status, problem = daemon.call("POST", BACKENDS, {**backend(0), "name": "more", "port": 65535})
                assert (422, True) == (status, "6 conntrack zones" in str(problem))
                flow.wait(5)
                assert 204 == daemon.call("DELETE", f"{BACKENDS}/at-{ports[number - 2]}")[0]
                flow.wait(5)
            flow.pause()
            servers.clear()
            flow.resume()
            flow.wait(100)
    reached = Counter(record.destination[1] for record in servers.received)

    assert ([], []) == (lost(flow.sent), twice(flow.sent))
    assert {(VIP[version], 53)} == sources(flow.sent)
    assert set(ports[-2:]) == set(reached)
    assert abs(reached[ports[-1]] - reached[ports[-2]]) <= 1
