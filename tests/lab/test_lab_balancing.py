"""Datagrams and connections are balanced in the lab as the loaded rules say."""

from __future__ import annotations

import json

import lab_rules as rules
import pytest
from lab_parameters import TURNS, VIP, both_versions, with_and_without_offload
from packet_tap import Tap
from sctp_associations import SctpAssociation, SctpServers
from tcp_connections import TcpConnection, TcpServers

from nftlb.errors import KernelError
from nftlb.lab import Lab


@both_versions
@with_and_without_offload
def test_rule_in_nat_chain_balances_flows_only(version: int, offload: bool) -> None:
    """With a rule in a nat chain, 12 datagrams of one socket all reach the first backend."""
    with Lab(offload=offload) as lab, lab.serve() as servers, lab.client.connect((VIP[version], 53)) as client:
        lab.nft(rules.per_flow(version))
        assert [answer.backend for answer in client.exchange(12)] == ["b1"] * 12
        assert servers.counts == {"b1": 12, "b2": 0, "b3": 0}


@both_versions
@with_and_without_offload
def test_zone_per_backend_balances_packets(version: int, offload: bool) -> None:
    """12 datagrams of one socket reach three backends in strict turn, and the replies come from the VIP."""
    with Lab(offload=offload) as lab, lab.serve() as servers:
        lab.nft(rules.per_packet(version))
        with lab.client.connect((VIP[version], 53), connected=False) as client:
            answers = client.exchange(12)
            servers.settle()
            assert client.drain() == []
        assert [answer.backend for answer in answers] == TURNS * 4
        assert {(answer.source, answer.whole, answer.copies) for answer in answers} == {((VIP[version], 53), True, 1)}
        assert [(record.backend, record.sequence) for record in servers.received] == [
            (TURNS[n % 3], n) for n in range(12)
        ]


@both_versions
def test_client_on_balancer_and_backend_as_client(version: int) -> None:
    """Any host can be the client: the balancer, and also a backend whose datagrams are balanced to itself."""
    with Lab() as lab, lab.serve():
        lab.nft(rules.per_packet(version))
        for host in (lab.balancer, lab.backends[0]):
            with host.connect((VIP[version], 53)) as client:
                assert sorted(answer.backend for answer in client.exchange(6)) == ["b1", "b1", "b2", "b2", "b3", "b3"]


@both_versions
def test_two_clients_with_one_source_port(version: int) -> None:
    """Each of two sockets with the same port on different hosts gets its own replies."""
    with Lab(clients=2) as lab, lab.serve() as servers:
        lab.nft(rules.per_packet(version))
        first, second = (host.connect((VIP[version], 53), source_port=4000) for host in lab.clients)
        with first, second:
            for client in (first, second, first, second):
                assert all(answer.whole for answer in client.exchange(6, pipelined=True))
        assert servers.counts == {"b1": 8, "b2": 8, "b3": 8}
        assert {record.sender for record in servers.received} == {"client1", "client2"}


@both_versions
@with_and_without_offload
def test_large_datagrams_arrive_whole(version: int, offload: bool) -> None:
    """Datagrams of 60,000 bytes arrive whole, in fragments, in both directions."""
    with Lab(offload=offload) as lab, lab.serve(), lab.client.connect((VIP[version], 53)) as client:
        lab.nft(rules.per_packet(version))
        answers = client.exchange(9, size=60_000, pipelined=True)
        assert [(answer.backend, answer.size, answer.whole) for answer in answers] == [
            (name, 60_000, True) for name in TURNS * 3
        ]


@both_versions
def test_direct_return_passes_the_balancer_by(version: int) -> None:
    """Backends with the VIP reply to the client directly; only requests pass the balancer."""
    with (
        Lab(dsr=True) as lab,
        lab.serve() as servers,
        lab.client.connect((VIP[version], 5353)) as client,
        Tap(lab.balancer) as tap,
    ):
        lab.nft(rules.direct_return(5353))
        answers = client.exchange(9)
        assert [(answer.backend, answer.source) for answer in answers] == [(n, (VIP[version], 5353)) for n in TURNS * 3]
        seen = tap.datagrams()
        assert {packet.destination[0] for packet in seen} == {VIP[version]}
        assert [packet.outgoing for packet in seen] == [False, True] * 9
        assert {record.source[0] for record in servers.received} == {lab.client.address(version)}


def test_only_the_balancer_answers_for_the_vip() -> None:
    """Only the balancer answers ARP and ND for the VIPs, though every backend has them."""
    with Lab(dsr=True) as lab, lab.serve(backends=[lab.balancer]):
        link = json.loads(lab.balancer.run(["ip", "-j", "link", "show", "eth0"]))[0]["address"]
        for version in (4, 6):
            with lab.client.connect((VIP[version], 5353)) as client:
                assert client.exchange(1)[0].backend == "balancer"
            (neighbour,) = json.loads(lab.client.run(["ip", "-j", "neigh", "show", VIP[version]]))
            assert neighbour["lladdr"] == link


@both_versions
def test_flows_of_tcp_and_sctp(version: int) -> None:
    """Each TCP connection and SCTP association stays with its backend; SCTP checksums are right after NAT."""
    for offload in (False, True):
        with Lab(offload=offload) as lab, TcpServers(lab.backends) as tcp, SctpServers(lab.backends) as associations:
            lab.nft(rules.whole_flows())
            for _ in range(3):
                with TcpConnection(lab.client, (VIP[version], 5353)) as flow:
                    assert flow.echo(bytes(100_000)) == bytes(100_000)
            assert tcp.counts == {"b1": 1, "b2": 1, "b3": 1}
            for port in (4001, 4002, 4003):
                with SctpAssociation(lab.client, (VIP[version], 5353), source_port=port) as association:
                    assert association.beat() == association.backend
            assert associations.counts == {"b1": 1, "b2": 1, "b3": 1}
            assert associations.bad_checksums == 0


def test_rules_are_the_balancers_only() -> None:
    """Rules and interface names belong to the balancer's namespace. An error of nft has nft's message."""
    with Lab() as lab:
        lab.nft(rules.one_rule("netdev", "filter hook ingress device client1 priority 0", "fwd to b1"))
        assert 'fwd to "b1"' in lab.nft("list ruleset")
        assert lab.client.run(["nft", "list", "ruleset"]) == ""
        with pytest.raises(KernelError, match="does not exist"):
            lab.nft(rules.one_rule("netdev", "filter hook ingress device client1 priority 0", "fwd to b99"))
