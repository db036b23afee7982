"""Balancers whose interfaces are bridges or macvlans, or that have two interfaces to a client.

ONE client socket sends everything.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pool_lab import DSR, DSR_INGRESS, NAT, PORT, STATELESS_INGRESS, PoolLab, close_slow_path, down, vip

from nftlb.lab import links
from nftlb.model import Forward

if TYPE_CHECKING:
    from pool_lab import Mode

    from nftlb.lab import Host, LabClient

TURNS = ["b1", "b2", "b3"]
FRAGMENTED = 4000
BRIDGE = "type bridge forward_delay 0 mcast_snooping 0"
# Tests do not load br_netfilter: then packets in all bridges of this machine would pass its rules.
PASSES_RULES = Path("/proc/sys/net/bridge").exists()
needs_rules = pytest.mark.skipif(not PASSES_RULES, reason="without br_netfilter, no packet in a bridge passes rules")


@dataclass(frozen=True)
class Kind:
    """A kind of interface. `of`: how `ip link add` makes one. `port`: the interface below becomes a port of it."""

    name: str
    of: str
    port: bool = False

    def __str__(self) -> str:
        return self.name

    def command(self, name: str, below: str) -> list[str]:
        return ["ip", "link", "add", *(() if self.port else ("link", below)), "name", name, *self.of.split()]


BRIDGED = Kind("bridge", BRIDGE, port=True)
MACVLAN = Kind("macvlan", "type macvlan mode private")


def put_above(kind: Kind, host: Host, name: str) -> None:
    """Give the name and the addresses of an interface to an interface of this kind above it."""
    below = f"{name}-below"

    def ip(*words: str) -> None:
        host.run(["ip", *words])

    ip("link", "set", name, "down")
    ip("link", "set", name, "name", below)
    ip("address", "flush", "dev", below)
    host.sysctl(f"net.ipv6.conf.{below}.disable_ipv6", 1)
    host.sysctl(f"net.ipv4.conf.{below}.arp_ignore", 1)  # the interface below must not answer for the addresses
    host.run(kind.command(name, below))
    if kind.port:
        ip("link", "set", below, "master", name)
    ip("link", "set", below, "up")
    ip("link", "set", name, "up")
    for plan in host.plan.interfaces:
        for address in plan.addresses if plan.name == name else ():
            ip("address", "add", address, "dev", name, *(["nodad"] if ":" in address else []))
    for route in host.plan.routes:
        via = ["via", route.gateway] if route.gateway else []
        ip("-6" if ":" in route.destination else "-4", "route", "add", route.destination, *via, "dev", name)


def put_all_above(kind: Kind, pool_lab: PoolLab) -> None:
    """Change the balancer's interfaces to the client and to the backend b1."""
    lab = pool_lab.lab
    names = ["eth0"] if pool_lab.mode.dsr else ["client1", "b1"]
    for name in names:
        put_above(kind, lab.balancer, name)
    lab.balancer.call(links.await_running, names)
    for host in lab.hosts.values():
        host.run(["ip", "neigh", "flush", "all"])


def bridge_rules(pool_lab: PoolLab, *, on: bool) -> None:
    """Let packets in bridges of the balancer pass rules of IP, or not."""
    for setting in ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables") if PASSES_RULES else ():
        pool_lab.lab.balancer.sysctl(f"net.bridge.{setting}", int(on))


def assert_turns(client: LabClient, version: int, size: int = 64, turns: list[str] = TURNS) -> None:
    """The backends get datagrams in strict order, and every reply comes once and from the service."""
    answers = client.exchange(6, size=size)
    first = answers[0].backend
    assert first in turns
    order = list(islice(cycle(turns), turns.index(first), turns.index(first) + len(answers)))
    assert order == [answer.backend for answer in answers]
    assert {((vip(version), PORT), 1)} == {(answer.source, answer.copies) for answer in answers}


@pytest.mark.parametrize("offload", [True, False], ids=["offload", "no-offload"])
@pytest.mark.parametrize("mode", [NAT, STATELESS_INGRESS, DSR_INGRESS], ids=str)
@pytest.mark.parametrize("kind", [BRIDGED, MACVLAN], ids=str)
def test_turns_through_other_kinds_of_interfaces(kind: Kind, mode: Mode, offload: bool) -> None:
    """Datagrams of any size are balanced, also after a swap. Unfragmented datagrams take the fast path."""
    with PoolLab(mode, offload=offload) as pool_lab:
        bridge_rules(pool_lab, on=False)
        put_all_above(kind, pool_lab)
        pool_lab.load(pool_lab.pool())
        for version in (4, 6):
            with pool_lab.lab.client.connect((vip(version), PORT), connected=False) as client:
                assert_turns(client, version)
                assert_turns(client, version, FRAGMENTED)
                pool_lab.update(down("b2"))
                assert_turns(client, version, turns=["b1", "b3"])
                pool_lab.load(pool_lab.pool())
        close_slow_path(pool_lab)
        for version in (4, 6) if mode.ingress else ():
            with pool_lab.lab.client.connect((vip(version), PORT), connected=False) as client:
                assert_turns(client, version)


@needs_rules
@pytest.mark.parametrize("mode", [NAT, STATELESS_INGRESS, DSR_INGRESS], ids=str)
def test_rules_in_bridges(mode: Mode) -> None:
    """Rules see the packets of a bridge before its fast path, and join fragments: `dsr` loses them on the fast path.

    `nftlb doctor` warns of this.
    """
    with PoolLab(mode) as pool_lab:
        bridge_rules(pool_lab, on=True)
        put_all_above(BRIDGED, pool_lab)
        pool_lab.load(pool_lab.pool())
        for version in (4, 6):
            with pool_lab.lab.client.connect((vip(version), PORT), connected=False) as client:
                assert_turns(client, version)
                if mode.dsr:
                    assert [""] == [answer.backend for answer in client.exchange(1, size=FRAGMENTED, timeout=0.2)]
                else:
                    assert_turns(client, version, FRAGMENTED)


@needs_rules
@pytest.mark.parametrize("version", [4, 6])
def test_rules_in_a_bridge_with_clients_and_backends_behind_one_port(version: int) -> None:
    """A limit, of which `nftlb doctor` warns: a bridge sends no packet out of the port of its arrival."""
    with PoolLab(DSR) as pool_lab, pool_lab.lab.client.connect((vip(version), PORT), connected=False) as client:
        bridge_rules(pool_lab, on=True)
        put_all_above(BRIDGED, pool_lab)
        pool_lab.load(replace(pool_lab.pool(), forward=Forward.NAT))
        assert [""] == [answer.backend for answer in client.exchange(1, timeout=0.2)]
        bridge_rules(pool_lab, on=False)
        assert_turns(client, version)
        assert_turns(client, version, FRAGMENTED)


@pytest.mark.parametrize("mode", [NAT, STATELESS_INGRESS], ids=str)
def test_two_interfaces_to_the_client(mode: Mode) -> None:
    """Requests arrive at either interface, and replies leave by the first: turns go on, also on the fast path."""
    with PoolLab(mode) as pool_lab:
        client, balancer = pool_lab.lab.client, pool_lab.lab.balancer
        balancer.call(links.make_veths, [links.Veth("second", "eth1", client.fileno())])
        for host, name in ((balancer, "second"), (client, "eth1")):
            host.sysctl(f"net.ipv4.conf.{name}.rp_filter", 0)
            host.run(["ip", "link", "set", name, "up"])
        for host, name in ((balancer, "second"), (client, "eth1")):
            host.run(
                ["ip", "-6", "address", "add", "fe80::1:1" if host is balancer else "fe80::1:2", "dev", name, "nodad"]
            )
            host.call(links.await_running, [name])
        pool = pool_lab.pool()
        pool_lab.load(replace(pool, ingress=(*pool.ingress, "second")) if mode.ingress else pool)
        close_slow_path(pool_lab)
        for version, near, gateway in ((4, client.ipv4, "198.51.100.1"), (6, client.ipv6, "fe80::1:1")):
            with client.connect((vip(version), PORT), connected=False, source_address=near) as socket:
                assert TURNS[:2] == [answer.backend for answer in socket.exchange(2)]
                client.run(["ip", f"-{version}", "route", "add", vip(version), "via", gateway, "dev", "eth1", "onlink"])
                answers = socket.exchange(4)
                assert ["b3", *TURNS] == [answer.backend for answer in answers]
                assert {(vip(version), PORT)} == {answer.source for answer in answers}
