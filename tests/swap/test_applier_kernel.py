"""The Applier over the real kernel: connections, routing rules and tables of other programs."""

from __future__ import annotations

import re
import socket
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
from applier_states import B1, B3, DOWN, DRAIN, MAINTENANCE, TCP, THREE, UDP, mixed, state
from pool_builders import backend, backends, config, pool, sorry
from tcp_connections import TcpConnection, TcpServers
from unprivileged import unprivileged

from nftlb.errors import KernelError, SystemFault
from nftlb.kernel import LibNftables
from nftlb.kernel.grace import wait_for_packets
from nftlb.kernel.policy_routing import PolicyRouting
from nftlb.lab import VIP4, VIP6, Lab, Namespace
from nftlb.model import Balance, Forward, Membership, Per, SourceKind
from nftlb.swap.applier import Applied, Applier

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from nftlb.model import Backend, Config, Pool


# Other people's: a firewall, and a container engine's way to publish ports.
FOREIGN = f"""
table inet firewall {{
    set allowed {{ type inet_service; elements = {{ 22, 53, 514, 5353, 8053 }} }}
    chain input {{
        type filter hook input priority filter; policy drop;
        ct state established,related accept
        ct state invalid drop
        iif lo accept
        meta l4proto {{ icmp, ipv6-icmp }} accept
        th dport @allowed accept
    }}
    chain forward {{
        type filter hook forward priority filter; policy drop;
        ct state established,related accept
        ct status dnat accept
        th dport @allowed accept
        th sport @allowed accept
    }}
}}
table ip nat {{
    chain PREROUTING {{
        type nat hook prerouting priority dstnat; policy accept;
        fib daddr type local jump DOCKER
    }}
    chain OUTPUT {{
        type nat hook output priority -100; policy accept;
        ip daddr != 127.0.0.0/8 fib daddr type local jump DOCKER
    }}
    chain POSTROUTING {{
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr 172.17.0.0/16 oifname != "docker0" masquerade
    }}
    chain DOCKER {{ meta l4proto udp udp dport 8053 dnat to {B3}:5353; }}
}}
"""


@dataclass(frozen=True)
class BalancerLab:
    """The balancer of a lab and its Applier."""

    lab: Lab
    applier: Applier

    def load(self, configuration: Config, membership: Membership | None = None) -> Applied:
        return self.lab.balancer.call(self.applier.load, configuration, membership)

    def update(self, membership: Membership) -> Applied:
        return self.lab.balancer.call(self.applier.update, membership)

    def remove(self, configuration: Config | None = None) -> Applied:
        return self.lab.balancer.call(self.applier.remove, configuration)

    def diff(self, configuration: Config) -> str:
        return self.lab.balancer.call(self.applier.diff, configuration)

    def counters(self) -> dict[str, int]:
        counts = self.lab.balancer.call(self.applier.counters)
        return {name: count.packets for name, count in counts.items()}

    def zones(self) -> dict[str, int]:
        """The zone of each owner in the kernel's tables."""
        text = self.lab.nft("list map ip nftlb targets")
        return {name: int(zone) for zone, name in re.findall(r'(\d+) comment "([^"]+)"', text)}

    def entries(self) -> list[str]:
        """The entries of conntrack, without timers."""
        return sorted(
            re.sub(r"(udp|tcp) +(\d+) \d+ ", r"\1 \2 ", line)
            for version in ("ipv4", "ipv6")
            for line in self.lab.balancer.run(["conntrack", "-L", "-f", version]).splitlines()
        )

    def everything(self) -> str:
        """The ruleset with handles, routing rules and routes of both families, and conntrack entries."""
        ip = [
            self.lab.balancer.run(["ip", f"-{version}", *what])
            for version in (4, 6)
            for what in (["rule"], ["route", "show", "table", "all"])
        ]
        return "\n".join([self.lab.balancer.run(["nft", "-a", "-s", "list", "ruleset"]), *ip, *self.entries()])


@contextmanager
def balancer_lab(*, dsr: bool = False, wait: Callable[[], None] = wait_for_packets) -> Iterator[BalancerLab]:
    with Lab(backends=3, dsr=dsr) as lab, lab.balancer.call(LibNftables) as kernel:
        yield BalancerLab(lab, Applier(kernel, wait=wait))


def dns(*behind: Backend, **options: object) -> Config:
    return config(pool("dns", UDP, behind or THREE, **options))


def every_mode() -> Config:
    """A configuration of every mode, in both families."""
    six = backends(*(f"[fd00:{number}::2]:5353" for number in (1, 2, 3)))
    six = tuple(replace(backend, name=f"{backend.name}-6") for backend in six)
    vips, bare = (VIP4, f"[{VIP6}]"), tuple(replace(backend, port=None) for backend in (*THREE, *six))

    def at(port: str, *protocols: str) -> tuple[str, ...]:
        return tuple(f"{vip}:{port}/{protocol}" for vip in vips for protocol in protocols)

    return config(
        pool("nat", at("53", "udp", "tcp", "sctp"), (*THREE, *six), fallback=sorry("10.0.3.2:53", "[fd00:3::2]:53")),
        pool("keep", at("54", "udp", "tcp"), bare, source=SourceKind.KEEP, balance=Balance.RANDOM),
        pool("flow", at("55", "udp"), (*THREE, *six), per=Per.FLOW, balance=Balance.HASH),
        pool("range", at("1000-1999", "udp"), bare, forward=Forward.STATELESS),
        pool("fast", at("56", "udp"), _others((*THREE, *six), 5656), forward=Forward.STATELESS, ingress=("client1",)),
        pool("cast", at("57", "udp", "tcp"), bare, forward=Forward.DSR, balance=Balance.HASH),
        pool("multi", at("2000-2999", "udp"), bare, forward=Forward.DSR, ingress=("client1",)),
    )


def _others(behind: tuple[Backend, ...], port: int) -> tuple[Backend, ...]:
    return tuple(replace(backend, port=port) for backend in behind)


def test_a_second_load_changes_nothing() -> None:
    """A second load does not change the generation number, and diff() is empty."""
    with balancer_lab() as balancer:
        assert balancer.diff(every_mode())
        assert balancer.load(every_mode())
        generation = balancer.applier.kernel.generation()
        before = balancer.everything()
        assert "" == balancer.diff(every_mode())
        assert Applied() == balancer.load(every_mode())
        assert generation == balancer.applier.kernel.generation()
        assert before == balancer.everything()
        with balancer.lab.balancer.call(LibNftables) as kernel:  # and by a process that remembers nothing
            assert Applied() == balancer.lab.balancer.call(Applier(kernel).load, every_mode())
        assert generation == balancer.applier.kernel.generation()


def test_diff_shows_manual_changes() -> None:
    """A deleted element, a foreign rule in our chain and a leftover are differences."""
    with balancer_lab() as balancer:
        balancer.load(dns())
        for command, shown in (
            ("delete element ip nftlb targets { original . 2 }", '+original . 2 comment "dns/b2" : 10.0.2.2 . 5353'),
            ("add rule ip nftlb prerouting counter accept", "-counter accept"),
            ("add chain ip nftlb mine", "-chain mine"),
        ):
            balancer.lab.nft(command)
            assert shown in balancer.diff(dns()).splitlines()
            assert balancer.load(dns())
            assert "" == balancer.diff(dns())


def test_remove_restores_the_state_before_the_load() -> None:
    """After remove(), rules, routes and connections are as before the load, also those of other programs."""
    with (
        balancer_lab() as balancer,
        balancer.lab.serve(),
        TcpServers(balancer.lab.backends),
        balancer.lab.client.connect((VIP4, 8053)) as other,
    ):
        balancer.lab.nft(FOREIGN)
        assert ["b3"] * 2 == [answer.backend for answer in other.exchange(2)]
        before = balancer.everything()
        foreign = balancer.lab.balancer.run(["nft", "-a", "-s", "list", "table", "inet", "firewall"])
        assert before.startswith(foreign)

        balancer.load(every_mode())
        for vip in (VIP4, VIP6):
            with (
                balancer.lab.client.connect((vip, 53)) as client,
                TcpConnection(balancer.lab.client, (vip, 53)) as flow,
            ):
                assert ["b1", "b2", "b3"] == [answer.backend for answer in client.exchange(3)]
                assert b"ping" == flow.echo(b"ping")
        assert ["b3"] * 2 == [answer.backend for answer in other.exchange(2)]
        assert balancer.lab.balancer.run(["nft", "-a", "-s", "list", "ruleset"]).startswith(foreign)

        removed = balancer.remove()
        assert removed.deleted >= 8
        assert before == balancer.everything()
        assert Applied() == balancer.remove()


def test_remove_with_the_file_finds_connections_without_tables() -> None:
    """After `flush ruleset` by another program, remove() with the file finds our connections and routing rules."""
    with balancer_lab() as balancer, balancer.lab.serve(), balancer.lab.client.connect((VIP4, 53)) as client:
        before = balancer.everything()
        balancer.load(every_mode())
        client.exchange(3)
        balancer.lab.nft("flush ruleset")
        assert before != balancer.everything()
        assert 3 == balancer.remove(every_mode()).deleted
        assert before == balancer.everything()


def test_zones_and_counters_stay_when_the_file_changes() -> None:
    """If pools and backends are moved, added or removed, the others keep their zones and counters."""
    a, b, c = (replace(backend, name=name) for backend, name in zip(THREE, "abc", strict=True))
    other = pool("other", "192.0.2.53:5300/udp", backends("10.0.3.2:5354"))
    with balancer_lab() as balancer, balancer.lab.serve(), balancer.lab.client.connect((VIP4, 53)) as client:
        balancer.load(config(pool("dns", UDP, (a, b)), other))
        zones = balancer.zones()
        assert {"dns/a": 1, "dns/b": 2, "other/b1": 3} == zones
        client.exchange(10)

        balancer.load(config(other, pool("dns", UDP, (c, b, a))))
        assert zones | {"dns/c": 4} == balancer.zones()
        assert {"dns/a": 5, "dns/b": 5, "dns/c": 0, "other/b1": 0} == balancer.counters()
        client.exchange(9)

        balancer.load(config(pool("dns", UDP, (b, c)), other))
        assert {"dns/b": 2, "other/b1": 3, "dns/c": 4} == balancer.zones()
        balancer.load(config(pool("dns", UDP, (b, c, a)), other))
        assert {"dns/b": 2, "other/b1": 3, "dns/c": 4} == {
            name: zone for name, zone in balancer.zones().items() if name != "dns/a"
        }
        assert {"dns/a": 0, "dns/b": 8, "dns/c": 3, "other/b1": 0} == balancer.counters()
        assert {"b1": 3, "b2": 3, "b3": 3} == _tally(client.exchange(9))


def _tally(answers: Iterable[object]) -> dict[str, int]:
    found: dict[str, int] = {}
    for answer in answers:
        found[answer.backend] = found.get(answer.backend, 0) + 1  # type: ignore[attr-defined]
    return dict(sorted(found.items()))


def test_a_connection_ends_when_its_backend_is_out() -> None:
    """A TCP connection survives a drain, and breaks when its backend is in maintenance, down or removed."""
    one_pool = pool("dns", TCP, THREE)
    with balancer_lab() as balancer, TcpServers(balancer.lab.backends):
        balancer.load(config(one_pool))
        flows = {flow.backend: flow for flow in (TcpConnection(balancer.lab.client, (VIP4, 53)) for _ in range(3))}
        assert {"b1", "b2", "b3"} == flows.keys()

        assert not balancer.update(state(b1=DRAIN)).deleted
        assert b"drained" == flows["b1"].echo(b"drained")

        assert 1 == balancer.update(state(b1=MAINTENANCE)).deleted
        _assert_broken(flows["b1"])

        assert 1 == balancer.update(state(b1=MAINTENANCE, b2=DOWN)).deleted
        _assert_broken(flows["b2"])

        assert b"untouched" == flows["b3"].echo(b"untouched")
        assert 1 == balancer.load(config(replace(one_pool, backends=THREE[:2]))).deleted
        _assert_broken(flows["b3"])
        for flow in flows.values():
            flow.close()


def _assert_broken(flow: object) -> None:
    with pytest.raises(ConnectionResetError):
        flow.echo(b"hello")  # type: ignore[attr-defined]


def test_a_socket_balanced_by_flow_moves_when_its_backend_goes() -> None:
    """With `per: flow`, all datagrams go to one backend, and when it is down to another; none is lost."""
    with balancer_lab() as balancer, balancer.lab.serve(), balancer.lab.client.connect((VIP4, 53)) as client:
        balancer.load(dns(per=Per.FLOW))
        assert {"b1": 5} == _tally(client.exchange(5))
        assert 1 == balancer.update(state(b1=DOWN)).deleted
        assert {"b2": 5} == _tally(client.exchange(5))
        assert 0 == balancer.update(state()).deleted
        assert {"b2": 5} == _tally(client.exchange(5))


def test_a_change_of_source_applies_at_once() -> None:
    """A change of source applies at once to a client that sends without a pause."""
    with balancer_lab() as balancer, balancer.lab.serve() as servers, balancer.lab.client.connect((VIP4, 53)) as client:
        for options, seen in (({}, "10.0.1.1"), ({"source": SourceKind.KEEP}, balancer.lab.client.ipv4)):
            balancer.load(dns(THREE[0], **options))
            servers.clear()
            client.exchange(2)
            assert [seen, seen] == [record.source[0] for record in servers.received]


def test_in_flight_replies_of_a_removed_backend_arrive() -> None:
    """An in-flight reply of a removed backend reaches the client from the address of the service."""
    with balancer_lab() as balancer:
        client = balancer.lab.client.call(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
        slow = balancer.lab.backends[0].call(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
        with client, slow:
            slow.bind((B1, 5353))
            balancer.load(dns(THREE[0]))
            client.sendto(b"query", (VIP4, 53))
            slow.settimeout(5)
            query, sender = slow.recvfrom(100)

            balancer.load(dns(THREE[1]))
            slow.sendto(b"answer to " + query, sender)
            client.settimeout(5)
            assert (b"answer to query", (VIP4, 53)) == client.recvfrom(100)


def test_a_new_owner_of_a_zone_gets_no_old_connections() -> None:
    """After a flush of the tables, a new owner of a zone gets no old connections."""
    with balancer_lab() as balancer, balancer.lab.serve(), balancer.lab.client.connect((VIP4, 53)) as client:
        balancer.load(dns(THREE[0]))
        assert {"b1": 2} == _tally(client.exchange(2))
        balancer.lab.nft("flush ruleset")
        assert 1 == balancer.load(dns(THREE[1])).deleted
        assert {"dns/b2": 1} == balancer.zones()
        assert {"b2": 2} == _tally(client.exchange(2))


def test_an_update_restores_what_others_have_flushed() -> None:
    """After a flush, the next update restores all tables with the same zones."""
    with balancer_lab() as balancer, balancer.lab.serve(), balancer.lab.client.connect((VIP4, 53)) as client:
        balancer.load(config(pool("log", "192.0.2.53:514/udp", THREE[:1]), *dns().pools))
        balancer.load(dns())
        zones = balancer.zones()
        assert [2, 3, 4] == list(zones.values())
        balancer.lab.nft("flush ruleset")
        balancer.update(state(b1=DOWN))
        assert zones == balancer.zones()
        assert {"b2": 2, "b3": 2} == _tally(client.exchange(4))


def test_replacing_a_backend_of_dsr_loses_no_datagram() -> None:
    """With `dsr`, a backend is replaced and every datagram arrives."""
    behind = [backend(f"b{number}", f"198.51.100.{10 + number}") for number in (1, 2, 3)]
    with balancer_lab(dsr=True) as balancer, balancer.lab.serve(53), balancer.lab.client.connect((VIP4, 53)) as client:
        before = balancer.everything()
        for members in ((0, 1), (1, 2), (0, 1, 2), (2,)):
            balancer.load(dns(*(behind[number] for number in members), forward=Forward.DSR))
            share = 6 // len(members)
            assert {f"b{number + 1}": share for number in members} == _tally(client.exchange(6))
            assert len(members) == len(balancer.lab.balancer.call(PolicyRouting().current))
        balancer.remove()
        assert before == balancer.everything()


def test_a_refused_load_restores_the_routing_rules() -> None:
    """If the rules are refused after routing rules were added, the routing rules are restored."""
    good = mixed(backend("a", "10.0.1.2"))
    six = pool("six", "[2001:db8::53]:53/udp", backends("[fd00:1::2]:53"))
    bad = config(*mixed(backend("a", "10.0.1.2"), backend("b", "10.0.2.2")).pools, six)
    with balancer_lab() as balancer:
        balancer.lab.nft("add table ip6 nftlb { flags owner; }")  # the lab's context holds it
        for earlier in (None, good):
            if earlier:
                balancer.load(earlier)  # what is not ours and not needed stays
            before = balancer.everything()
            with pytest.raises(KernelError, match="Operation not permitted"):
                balancer.load(bad)
            assert before == balancer.everything()


def shapes() -> dict[str, tuple[Pool, ...]]:
    """Configurations that need different base chains."""
    alone = {member.name: (member,) for member in every_mode().pools}
    addressed = pool(
        "addr", "192.0.2.53:58/udp", THREE, source=SourceKind.ADDRESS, source_addresses=(ip_address("10.0.1.1"),)
    )
    bare = pool("bare", "192.0.2.53:59/udp", backends("10.0.1.2", "10.0.2.2"))
    return alone | {
        "addr": (addressed,),
        "bare": (bare,),
        "udp": (pool("udp", UDP, THREE),),
        "everything": every_mode().pools,
    }


@pytest.mark.parametrize("first", shapes())
def test_changes_between_all_shapes_of_tables(first: str) -> None:
    """The kernel accepts a change between all shapes of tables, and then has exactly the target."""
    with balancer_lab(wait=lambda: None) as balancer:  # there are no packets to wait for
        for second in shapes():
            balancer.load(config(*shapes()[first]))
            together = config(*{pool.name: pool for pool in (*shapes()[first], *shapes()[second])}.values())
            for target in (together, config(*shapes()[second])):
                balancer.load(target)
                assert "" == balancer.diff(target)


def test_every_call_without_root_raises_an_error() -> None:
    """Without root rights, every call raises an error that says so."""
    with Namespace("user") as namespace:

        def attempt(what: str) -> None:
            with LibNftables() as kernel:
                applier = Applier(kernel)
                getattr(applier, what)(dns())

        for what in ("load", "diff", "remove"):
            with pytest.raises(SystemFault, match="run nftlb as root"):
                unprivileged(namespace, lambda what=what: attempt(what))  # type: ignore[misc]


@pytest.mark.parametrize("forward", [Forward.NAT, Forward.STATELESS])
def test_versions_whose_hashes_are_the_same(forward: Forward, monkeypatch: pytest.MonkeyPatch) -> None:
    """Versions of a pool whose chains get the same name still do what each membership asks for."""

    class Same:
        def __init__(self, *_: object, **__: object) -> None:
            pass

        def hexdigest(self) -> str:
            return "00000000"

    monkeypatch.setattr("nftlb.compiler.versions.blake2b", Same)
    with ExitStack() as stack:
        lab = stack.enter_context(Lab(backends=3))
        stack.enter_context(lab.serve(5353, versions=[4]))
        client = stack.enter_context(lab.client.connect((VIP4, 53)))
        kernel = stack.enter_context(lab.balancer.call(LibNftables))
        applier = lab.balancer.call(lambda: Applier(kernel))
        lab.balancer.call(lambda: applier.load(config(pool("dns", f"{VIP4}:53/udp", THREE, forward=forward))))
        for down in ("b1", "b2", "b3", "b1"):
            states = state(**{down: DOWN})
            lab.balancer.call(partial(applier.update, states))
            assert {"b1", "b2", "b3"} - {down} == {datagram.backend for datagram in client.exchange(6)}
        lab.balancer.call(lambda: applier.update(Membership()))
        assert ["b1", "b2", "b3"] == sorted(datagram.backend for datagram in client.exchange(3))


FAST = {"forward": Forward.STATELESS, "ingress": ("eth1",)}


def test_a_load_follows_an_interface_that_was_replaced() -> None:
    """Another interface got the name of the fast path's interface, or of a backend's: rules had the old interface."""
    with Namespace("replaced") as host:

        def ip(command: str) -> None:
            host.run(["ip", *command.split()])

        ip("link add eth1 type veth peer name eth2")
        kernel = host.call(LibNftables)
        with closing(kernel):
            applier = host.call(Applier, kernel)
            wanted = config(pool("fast", UDP, (backend("a", "10.0.7.1", device="eth2"),), **FAST))
            assert host.call(applier.load, wanted)
            assert not host.call(applier.load, wanted)

            ip("link set eth2 name old")
            ip("link add eth2 type veth peer name eth3")
            assert host.call(applier.load, wanted)
            assert "" == host.call(applier.diff, wanted)
            assert not host.call(applier.load, wanted)

            ip("link delete eth1")
            ip("link add eth1 type veth peer name eth4")
            host.call(applier.load, wanted)
            assert "" == host.call(applier.diff, wanted)
