"""Configurations into the kernel and out of it: in which order, what is cut, what is left alone."""

from __future__ import annotations

import re
import socket
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
from pools import DNS, backend, backends, config, pool, sorry
from unprivileged import unprivileged

from nftlb.apply import Applied, Applier
from nftlb.compiler import Allocation, BackendState, Compiled, Hop, Membership, read_back
from nftlb.compiler.connections import Stay, cuts
from nftlb.errors import KernelError, NftlbError, SystemFault
from nftlb.kernel import LibNftables
from nftlb.kernel.fake import FakeNft
from nftlb.kernel.grace import wait_for_packets
from nftlb.kernel.steering import Steering
from nftlb.lab import VIP4, VIP6, Lab, Namespace
from nftlb.model import Admin, Balance, Forward, Per, SourceKind
from nftlb.ruleset import file_text
from nftlb.swap import Swapper

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from nftlb.compiler.connections import Keep
    from nftlb.model import Backend, Config, IPAddress, Pool
    from nftlb.swap import Transaction

B1, B2, B3 = (f"10.0.{number}.2" for number in (1, 2, 3))
THREE = backends(f"{B1}:5353", f"{B2}:5353", f"{B3}:5353")
TCP = "192.0.2.53:53/tcp"
UDP = "192.0.2.53:53/udp"


def text_of(applier: Applier) -> str:
    """What it has loaded, as a file."""
    return "" if applier.accepted is None else file_text(applier.accepted)


def end(text: str, port: int | None = 5353) -> tuple[IPAddress, int | None]:
    return ip_address(text), port


def state(**backends_of: BackendState) -> Membership:
    """States of the backends of the pool `dns`."""
    return Membership({"dns": frozenset(backends_of.items())})


DOWN = BackendState(up=False)
DRAIN = BackendState(admin=Admin.DRAIN)
MAINTENANCE = BackendState(admin=Admin.MAINTENANCE)


# --- the order of things ----------------------------------------------------------------------------------------------


@dataclass
class Record(FakeNft):
    """A kernel, conntrack and routing rules that write down what they are told; `refuse` names what is to fail."""

    told: list[str] = field(default_factory=list)
    refuse: str = ""
    hops: dict[int, Hop] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()

    def _tell(self, what: str) -> None:
        self.told.append(what)
        if what.split(maxsplit=1)[0] == self.refuse:
            raise KernelError(f"{what} refused")

    def apply(self, transaction: Transaction) -> None:
        self._tell("nft")
        super().apply(transaction)

    def cut(self, keep: Keep) -> int:
        self._tell(f"cut {sorted(keep)}")
        return 1

    def wait(self) -> None:
        self._tell("wait")

    def lookup(self, addresses: Iterable[IPAddress]) -> Mapping[IPAddress, Hop]:
        self._tell(f"lookup {' '.join(map(str, addresses))}")
        return {address: Hop(address, "eth1") for address in addresses}

    @property
    def steering(self) -> Recorded:
        return Recorded(self)

    def applier(self) -> Applier:
        return Applier(self, cut=self.cut, steering=self.steering, lookup=self.lookup, wait=self.wait)


@dataclass
class Recorded:
    record: Record

    def apply(self, wanted: Mapping[int, Hop]) -> list[str]:
        self.record._tell(f"steer {sorted(wanted)}")
        changed = self.record.hops != wanted
        self.record.hops = dict(wanted)
        return ["changed"] if changed else []

    def current(self) -> Mapping[int, Hop]:
        return self.record.hops


def mixed(*marked: Backend) -> Config:
    """A pool with a zone for each packet's backend and one for flows, and a pool that steers by marks."""
    return config(DNS, cast(*marked))


def cast(*marked: Backend) -> Pool:
    return pool("cast", "192.0.2.53:514/udp", marked, forward=Forward.DSR)


def test_what_new_rules_need_comes_before_them_and_what_old_ones_needed_goes_after() -> None:
    """Marks are steered, and zones are rid of what was there before, before packets can meet them."""
    a, b, c = (backend(name, f"10.0.7.{number}") for number, name in enumerate("abc", 1))
    record = Record()
    applier = record.applier()
    applied = applier.load(mixed(a, b))
    assert ["steer [60001, 60002]", "cut [1, 2, 3]", "nft", "cut [3]", "steer [60001, 60002]"] == record.told
    assert (1, 1, 2) == (len(applied.transactions), len(applied.steered), applied.cut)

    record.told.clear()
    applier.load(config(cast(b, c)))
    first, *middle, cut, last = record.told
    assert ["steer [60001, 60002, 60003]", "cut [3]", "steer [60002, 60003]"] == [first, cut, last]
    assert {"nft", "wait"} == set(middle)


def test_nothing_is_asked_of_what_is_not_used() -> None:
    """Without marks nobody looks at routing rules, without zones nobody at conntrack, without ingress at no route."""
    record = Record()
    record.applier().load(config(pool("log", UDP, THREE, forward=Forward.STATELESS)))
    assert ["nft"] == record.told


def test_next_hops_are_looked_up_for_the_fast_path_only() -> None:
    """Of pools with ingress interfaces, and of targets whose device the file does not tell."""
    record = Record()
    behind = (backend("a", "10.0.7.1:53", device="eth1"), backend("b", "10.0.7.2:53", via=ip_address("10.0.8.1")))
    fast = pool("fast", UDP, behind, forward=Forward.STATELESS, ingress=("eth0",))
    slow = pool("slow", TCP, THREE, forward=Forward.STATELESS, balance=Balance.HASH)
    record.applier().load(config(fast, slow))
    assert ["lookup 10.0.8.1", "nft"] == record.told


@pytest.mark.parametrize("refused", ["steer", "cut", "nft"])
def test_nothing_stays_behind_of_what_was_refused(refused: str) -> None:
    """Whether a step before the rules fails or the rules themselves: rules and steering are as before."""
    record = Record()
    applier = record.applier()
    applier.load(config(DNS))
    before, hops = record.list("nftlb"), dict(record.hops)
    new = mixed(backend("a", "10.0.7.1"))
    new = replace(new, pools=(*new.pools, pool("log", "192.0.2.53:5140/udp", THREE)))

    record.refuse = refused
    with pytest.raises(KernelError, match=f"^{refused} .*refused"):
        applier.load(new)
    assert before == record.list("nftlb")
    if refused != "steer":  # what refuses can't be told to go back, but it changed nothing
        assert hops == record.hops

    record.refuse = ""
    applier.update(state())  # the configuration in force is still the first
    assert before == record.list("nftlb")
    applier.load(new)
    assert "" == applier.diff(new)


def test_an_update_waits_for_nothing_and_cuts_only_flows_that_lost_a_backend() -> None:
    """One transaction a change; conntrack is left in peace unless connections have to go."""
    record = Record()
    applier = record.applier()
    applier.load(config(DNS))  # zones 1 and 2 for packets, 3 for TCP

    def told(membership: Membership) -> list[str]:
        record.told.clear()
        applier.update(membership)
        return record.told

    assert ["nft", "cut [3]"] == told(state(b1=DOWN))
    assert [] == told(state(b1=DOWN))
    assert ["nft"] == told(state())
    assert ["nft"] == told(state(b1=DRAIN))
    assert ["cut [3]"] == told(state(b1=MAINTENANCE))


def test_a_missing_interface_keeps_nothing_else_from_being_loaded() -> None:
    """A lenient load leaves out the fast path there, and says so; once it is there, all is loaded."""
    record = Record()
    applier = record.applier()
    behind = (backend("a", "10.0.7.1", device="eth1"),)
    fast = config(pool("fast", UDP, behind, forward=Forward.STATELESS, ingress=("eth0", "eth9")))
    there = ["eth0", "eth1"]
    applier.interfaces = lambda: there

    applied = applier.load(fast, lenient=True)

    assert ("pool fast: there is no interface eth9, so its fast path is left out there",) == applied.lacking
    assert "eth0" in text_of(applier)
    assert "eth9" not in text_of(applier)
    there.append("eth9")
    assert () == applier.load(fast, lenient=True).lacking
    assert "eth9" in text_of(applier)


def test_a_route_that_is_refused_keeps_nothing_else_from_being_loaded() -> None:
    """A lenient load says what could not be steered; another load takes it all back."""
    record = Record()
    applier = record.applier()
    record.refuse = "steer"

    applied = applier.load(mixed(backend("a", "10.0.7.1")), lenient=True)

    assert ("steer [60001] refused",) == applied.lacking
    assert applied.transactions
    with pytest.raises(KernelError, match="steer"):
        applier.load(mixed(backend("a", "10.0.7.1")))


def test_tidying_removes_what_updates_left_over() -> None:
    """It waits until no packet needs that; where nothing was loaded or is left over, it does nothing."""
    record = Record()
    applier = record.applier()
    assert not applier.tidy()
    applier.load(config(DNS))
    assert not applier.tidy()
    applier.update(state(b1=DOWN))
    assert "" != applier.diff(config(DNS), state(b1=DOWN))
    record.told.clear()

    assert applier.tidy()

    assert {"wait", "nft"} == set(record.told)
    assert "" == applier.diff(config(DNS), state(b1=DOWN))


def test_the_text_of_what_was_loaded_last() -> None:
    """A file that loads to the same, by the states of the moment; what was refused is not in it."""
    record = Record()
    applier = record.applier()
    assert "" == text_of(applier)
    applier.load(config(DNS))
    applier.update(state(b1=DOWN))
    text = text_of(applier)
    assert file_text(Compiled(config(DNS), Allocation()).ruleset(state(b1=DOWN))) == text

    record.refuse = "nft"
    with pytest.raises(KernelError):
        applier.update(state(b2=DOWN))
    assert text == text_of(applier)


def test_whether_nobody_else_has_written() -> None:
    """Not before the first load; then until somebody does; and again once that was looked at and put right."""
    record = Record()
    applier = record.applier()
    assert not applier.untouched
    applier.load(config(DNS))
    assert applier.untouched
    applier.update(state(b1=DOWN))
    assert applier.untouched

    record.flush()
    assert not applier.untouched
    applier.tidy()
    assert not applier.untouched  # it has looked, but put nothing right
    applier.update(state(b1=DOWN))
    assert applier.untouched
    assert "" == applier.diff(config(DNS), state(b1=DOWN))


def test_what_an_update_could_not_cut_is_cut_by_the_next() -> None:
    """A membership counts as known only when all of it was carried out."""
    record = Record()
    applier = record.applier()
    applier.load(config(DNS))
    record.refuse = "cut"
    with pytest.raises(KernelError):
        applier.update(state(b1=DOWN))
    record.refuse = ""
    record.told.clear()
    applier.update(state(b1=DOWN))
    assert ["cut [3]"] == record.told


def test_the_name_of_the_tables_is_the_appliers() -> None:
    """A configuration for other tables is refused before anything is done."""
    record = Record()
    with pytest.raises(NftlbError, match="table other, but the tables of nftlb"):
        record.applier().load(replace(config(DNS), table="other"))
    assert [] == record.told


# --- which connections go ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("membership", "expected"),
    [
        (state(), {B1, B2, B3}),
        (state(b1=DOWN), {B2, B3}),
        (state(b1=DRAIN), {B1, B2, B3}),
        (state(b1=MAINTENANCE), {B2, B3}),
        (state(b1=BackendState(weight=0)), {B1, B2, B3}),
        (state(b1=BackendState(up=False, admin=Admin.DRAIN)), {B2, B3}),
        (state(b1=DOWN, b2=DOWN, b3=DOWN), {"10.0.9.2"}),
    ],
)
def test_connections_that_may_stay(membership: Membership, expected: set[str]) -> None:
    """Those of backends in use, and of healthy ones that get nothing new; the sorry server's while it is used."""
    compiled = Compiled(config(pool("dns", TCP, THREE, fallback=sorry("10.0.9.2:5353"))))
    assert {1: frozenset(map(end, expected))} == compiled.connections(membership)


def test_connections_below_the_panic_threshold() -> None:
    """Backends that are down but used keep theirs."""
    compiled = Compiled(config(pool("dns", TCP, THREE, panic=50)))
    assert {1: frozenset(map(end, (B1, B2, B3)))} == compiled.connections(state(b1=DOWN, b2=DOWN))


def test_connections_have_a_zone_in_each_family_and_backends_without_a_port_have_any() -> None:
    """And a pool without flows has none."""
    both = pool("dns", (TCP, "[2001:db8::53]:53/tcp"), backends("10.0.0.1", "[fd00::1]:5353"))
    packets = pool("log", "192.0.2.53:514/udp", THREE)
    flows = pool("sip", "192.0.2.53:5060/udp", backends("10.0.0.9:5060"), per=Per.FLOW)
    compiled = Compiled(config(both, packets, flows))
    assert {
        compiled.allocation.zones["dns ip"]: frozenset({end("10.0.0.1", None)}),
        compiled.allocation.zones["dns ip6"]: frozenset({end("fd00::1")}),
        compiled.allocation.zones["sip ip"]: frozenset({end("10.0.0.9", 5060)}),
    } == compiled.connections()


def test_zones_are_cut_when_they_change_hands() -> None:
    """New ones before their rules; flows by what may stay. Who has left may still answer what was under way."""
    old = Compiled(config(DNS, pool("log", "192.0.2.53:514/udp", backends("10.0.0.9:514"))))
    new = Compiled(config(DNS, pool("lag", "192.0.2.53:514/udp", backends("10.0.0.9:514"))), old.allocation)
    assert {
        "dns/b1 10.0.0.11 5353 masquerade:1024-65535": 1,
        "dns/b2 10.0.0.12 5353 masquerade:1024-65535": 2,
        "dns ip": 3,
        "log/b1 10.0.0.9 514 masquerade:1024-65535": 4,
    } == old.allocation.zones
    assert {
        "dns/b1 10.0.0.11 5353 masquerade:1024-65535": 1,
        "dns/b2 10.0.0.12 5353 masquerade:1024-65535": 2,
        "dns ip": 3,
        "lag/b1 10.0.0.9 514 masquerade:1024-65535": 5,
    } == new.allocation.zones

    flows = new.connections()
    due = cuts(old.allocation, new.allocation, flows)
    assert ({5: Stay.NOTHING}, {3: flows[3]}) == (due.before, due.after)

    none = Compiled(config(), new.allocation)
    gone = cuts(new.allocation, none.allocation, none.connections())
    assert ({}, {3: Stay.DATAGRAMS}) == (gone.before, gone.after)

    first = cuts(Allocation(), new.allocation, flows)
    assert (dict.fromkeys((1, 2, 5), Stay.NOTHING) | {3: flows[3]}, {3: flows[3]}) == (first.before, first.after)


def test_a_zone_that_goes_from_one_owner_to_the_next_is_cut_afterwards() -> None:
    """It happens when numbers run out: until the swap the old rules make entries."""
    old = Compiled(config(pool("dns", UDP, backends("10.0.0.1:1", "10.0.0.2:1")), zones=65534))
    new = Compiled(config(pool("dns", UDP, backends("10.0.0.1:1", "10.0.0.3:1")), zones=65534), old.allocation)
    due = cuts(old.allocation, new.allocation, new.connections())
    assert ({}, {65535: Stay.NOTHING}) == (due.before, due.after)


def test_a_backend_that_sees_another_source_has_another_zone() -> None:
    """Packets of a client that never pauses would keep the source of their entry; connections may keep it."""
    old = Compiled(config(DNS))
    for options in (
        {"source": SourceKind.KEEP},
        {"source": SourceKind.ADDRESS, "source_addresses": (ip_address("10.9.9.9"),)},
    ):
        new = Compiled(config(replace(DNS, **options)), old.allocation)
        due = cuts(old.allocation, new.allocation, new.connections())
        assert ({4: Stay.NOTHING, 5: Stay.NOTHING}, {3: new.connections()[3]}) == (due.before, due.after)
        kernel = FakeNft()
        Swapper(kernel, "nftlb", lambda: None).swap(new.ruleset())
        assert new.allocation == read_back(kernel.list("nftlb"))


# --- what differs -----------------------------------------------------------------------------------------------------


def differences(applier: Applier, one: Config) -> list[str]:
    return applier.diff(one).splitlines()


def test_a_difference_is_shown_by_object() -> None:
    """Elements in whatever order; what goes with a minus, what comes with a plus, and rules that lead to a version."""
    record = Record()
    applier = record.applier()
    applier.load(config(DNS))
    assert "" == applier.diff(config(DNS))

    more = replace(DNS, backends=(backend("new", "10.0.0.13:5353"), *DNS.backends))
    lines = differences(applier, config(more))
    at = lines.index("@@ table ip nftlb: map targets @@")
    assert [
        ' original . 1 comment "dns/b1" : 10.0.0.11 . 5353',
        ' original . 2 comment "dns/b2" : 10.0.0.12 . 5353',
        '+original . 4 comment "dns/new" : 10.0.0.13 . 5353',
    ] == lines[at + 1 : at + 4]
    at = lines.index("@@ table ip nftlb: chain pool/dns @@")
    assert re.fullmatch(r"-goto pool/dns/\w+ comment b1, b2", lines[at + 2])
    assert re.fullmatch(r"\+goto pool/dns/\w+ comment new, b1, b2", lines[at + 3])
    assert [] == [one for one in record.told if one.startswith("nft")][1:]


def test_steering_that_is_missing_is_a_difference() -> None:
    """Somebody may have deleted our routing rules; the tables are as they should be."""
    record = Record()
    applier = record.applier()
    one = mixed(backend("a", "10.0.7.1"), backend("b", "10.0.7.2", device="eth1"))
    applier.load(one)
    record.hops = {60001: Hop(ip_address("10.0.7.1"), "eth3"), 60002: Hop(ip_address("10.0.7.2"), "eth3")}
    assert [
        "@@ ip rule @@",
        "-fwmark 60002 via 10.0.7.2 dev eth3",
        "+fwmark 60002 via 10.0.7.2 dev eth1",
    ] == differences(applier, one)


# --- the real kernel --------------------------------------------------------------------------------------------------

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
class Box:
    """The balancer of a lab, and what brings configurations into it."""

    lab: Lab
    applier: Applier

    def load(self, one: Config, membership: Membership | None = None) -> Applied:
        return self.lab.balancer.call(self.applier.load, one, membership)

    def update(self, membership: Membership) -> Applied:
        return self.lab.balancer.call(self.applier.update, membership)

    def remove(self, one: Config | None = None) -> Applied:
        return self.lab.balancer.call(self.applier.remove, one)

    def diff(self, one: Config) -> str:
        return self.lab.balancer.call(self.applier.diff, one)

    def counters(self) -> dict[str, int]:
        counts = self.lab.balancer.call(self.applier.kernel.counters, "nftlb")
        return {name: count.packets for name, count in counts.items()}

    def zones(self) -> dict[str, int]:
        """The zone of each owner's packets, as the kernel's tables have it."""
        text = self.lab.nft("list map ip nftlb targets")
        return {name: int(zone) for zone, name in re.findall(r'(\d+) comment "([^"]+)"', text)}

    def entries(self) -> list[str]:
        """What conntrack holds, without what changes by itself."""
        return sorted(
            re.sub(r"(udp|tcp) +(\d+) \d+ ", r"\1 \2 ", line)
            for version in ("ipv4", "ipv6")
            for line in self.lab.balancer.run(["conntrack", "-L", "-f", version]).splitlines()
        )

    def everything(self) -> str:
        """Rules of nft with their handles, routing rules and routes of both families, conntrack."""
        ip = [
            self.lab.balancer.run(["ip", f"-{version}", *what])
            for version in (4, 6)
            for what in (["rule"], ["route", "show", "table", "all"])
        ]
        return "\n".join([self.lab.balancer.run(["nft", "-a", "-s", "list", "ruleset"]), *ip, *self.entries()])


@contextmanager
def box(*, dsr: bool = False, wait: Callable[[], None] = wait_for_packets) -> Iterator[Box]:
    with Lab(backends=3, dsr=dsr) as lab, lab.balancer.call(LibNftables) as kernel:
        yield Box(lab, Applier(kernel, wait=wait))


def dns(*behind: Backend, **options: object) -> Config:
    return config(pool("dns", UDP, behind or THREE, **options))


def every_mode() -> Config:
    """All that can be in a table, in both families."""
    six = backends(*(f"[fd00:{number}::2]:5353" for number in (1, 2, 3)))
    six = tuple(replace(one, name=f"{one.name}-6") for one in six)
    vips, bare = (VIP4, f"[{VIP6}]"), tuple(replace(one, port=None) for one in (*THREE, *six))

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
    return tuple(replace(one, port=port) for one in behind)


def test_the_second_time_changes_nothing() -> None:
    """Of every mode and family: not even the generation number moves, and there is no difference to be shown."""
    with box() as one:
        assert one.diff(every_mode())
        assert one.load(every_mode())
        generation = one.applier.kernel.generation()
        before = one.everything()
        assert "" == one.diff(every_mode())
        assert Applied() == one.load(every_mode())
        assert generation == one.applier.kernel.generation()
        assert before == one.everything()
        with one.lab.balancer.call(LibNftables) as kernel:  # and by a process that remembers nothing
            assert Applied() == one.lab.balancer.call(Applier(kernel).load, every_mode())
        assert generation == one.applier.kernel.generation()


def test_diff_sees_what_a_hand_did() -> None:
    """An element of ours deleted, a rule of another's making in our chain, a leftover: all are differences."""
    with box() as one:
        one.load(dns())
        for command, shown in (
            ("delete element ip nftlb targets { original . 2 }", '+original . 2 comment "dns/b2" : 10.0.2.2 . 5353'),
            ("add rule ip nftlb prerouting counter accept", "-counter accept"),
            ("add chain ip nftlb mine", "-chain mine"),
        ):
            one.lab.nft(command)
            assert shown in one.diff(dns()).splitlines()
            assert one.load(dns())
            assert "" == one.diff(dns())


def test_remove_leaves_no_trace_and_both_leave_others_alone() -> None:
    """Of every mode, after packets have passed: rules, routes and connections are as before, others' included."""
    with (
        box() as one,
        one.lab.serve(),
        one.lab.serve_tcp(),
        one.lab.client.connect((VIP4, 8053)) as other,
    ):
        one.lab.nft(FOREIGN)
        assert ["b3"] * 2 == [answer.backend for answer in other.exchange(2)]
        before = one.everything()
        foreign = one.lab.balancer.run(["nft", "-a", "-s", "list", "table", "inet", "firewall"])
        assert before.startswith(foreign)

        one.load(every_mode())
        for vip in (VIP4, VIP6):
            with one.lab.client.connect((vip, 53)) as client, one.lab.client.dial((vip, 53)) as flow:
                assert ["b1", "b2", "b3"] == [answer.backend for answer in client.exchange(3)]
                assert b"ping" == flow.echo(b"ping")
        assert ["b3"] * 2 == [answer.backend for answer in other.exchange(2)]
        assert one.lab.balancer.run(["nft", "-a", "-s", "list", "ruleset"]).startswith(foreign)

        removed = one.remove()
        assert removed.cut >= 8
        assert before == one.everything()
        assert Applied() == one.remove()


def test_a_removal_with_the_file_finds_what_the_tables_no_longer_tell() -> None:
    """After somebody's `flush ruleset`, connections and routing rules of ours are still there."""
    with box() as one, one.lab.serve(), one.lab.client.connect((VIP4, 53)) as client:
        before = one.everything()
        one.load(every_mode())
        client.exchange(3)
        one.lab.nft("flush ruleset")
        assert before != one.everything()
        assert 3 == one.remove(every_mode()).cut
        assert before == one.everything()


def test_zones_and_counters_stay_when_the_file_changes() -> None:
    """Pools and backends in another order, one more, one gone and back: the others keep zone and count."""
    a, b, c = (replace(one, name=name) for one, name in zip(THREE, "abc", strict=True))
    other = pool("other", "192.0.2.53:5300/udp", backends("10.0.3.2:5354"))
    with box() as one, one.lab.serve(), one.lab.client.connect((VIP4, 53)) as client:
        one.load(config(pool("dns", UDP, (a, b)), other))
        zones = one.zones()
        assert {"dns/a": 1, "dns/b": 2, "other/b1": 3} == zones
        client.exchange(10)

        one.load(config(other, pool("dns", UDP, (c, b, a))))
        assert zones | {"dns/c": 4} == one.zones()
        assert {"dns/a": 5, "dns/b": 5, "dns/c": 0, "other/b1": 0} == one.counters()
        client.exchange(9)

        one.load(config(pool("dns", UDP, (b, c)), other))
        assert {"dns/b": 2, "other/b1": 3, "dns/c": 4} == one.zones()
        one.load(config(pool("dns", UDP, (b, c, a)), other))
        assert {"dns/b": 2, "other/b1": 3, "dns/c": 4} == {
            name: zone for name, zone in one.zones().items() if name != "dns/a"
        }
        assert {"dns/a": 0, "dns/b": 8, "dns/c": 3, "other/b1": 0} == one.counters()
        assert {"b1": 3, "b2": 3, "b3": 3} == _tally(client.exchange(9))


def _tally(answers: Iterable[object]) -> dict[str, int]:
    found: dict[str, int] = {}
    for answer in answers:
        found[answer.backend] = found.get(answer.backend, 0) + 1  # type: ignore[attr-defined]
    return dict(sorted(found.items()))


def test_a_connection_is_cut_when_its_backend_must_not_be_used() -> None:
    """TCP: drained it goes on; in maintenance, down or removed it breaks at once; nobody else's breaks."""
    one_pool = pool("dns", TCP, THREE)
    with box() as one, one.lab.serve_tcp():
        one.load(config(one_pool))
        flows = {flow.backend: flow for flow in (one.lab.client.dial((VIP4, 53)) for _ in range(3))}
        assert {"b1", "b2", "b3"} == flows.keys()

        assert not one.update(state(b1=DRAIN)).cut
        assert b"drained" == flows["b1"].echo(b"drained")

        assert 1 == one.update(state(b1=MAINTENANCE)).cut
        _assert_broken(flows["b1"])

        assert 1 == one.update(state(b1=MAINTENANCE, b2=DOWN)).cut
        _assert_broken(flows["b2"])

        assert b"untouched" == flows["b3"].echo(b"untouched")
        assert 1 == one.load(config(replace(one_pool, backends=THREE[:2]))).cut
        _assert_broken(flows["b3"])
        for flow in flows.values():
            flow.close()


def _assert_broken(flow: object) -> None:
    with pytest.raises(ConnectionResetError):
        flow.echo(b"anybody?")  # type: ignore[attr-defined]


def test_a_socket_balanced_by_flow_moves_when_its_backend_goes() -> None:
    """UDP `per: flow`: all datagrams to one backend, until that is down; then all to another, none lost."""
    with box() as one, one.lab.serve(), one.lab.client.connect((VIP4, 53)) as client:
        one.load(dns(per=Per.FLOW))
        assert {"b1": 5} == _tally(client.exchange(5))
        assert 1 == one.update(state(b1=DOWN)).cut
        assert {"b2": 5} == _tally(client.exchange(5))
        assert 0 == one.update(state()).cut
        assert {"b2": 5} == _tally(client.exchange(5))


def test_a_change_of_source_is_seen_at_once() -> None:
    """A client that never pauses keeps its conntrack entries alive, and with them the source they were born with."""
    with box() as one, one.lab.serve() as servers, one.lab.client.connect((VIP4, 53)) as client:
        for options, seen in (({}, "10.0.1.1"), ({"source": SourceKind.KEEP}, one.lab.client.ipv4)):
            one.load(dns(THREE[0], **options))
            servers.clear()
            client.exchange(2)
            assert [seen, seen] == [record.source[0] for record in servers.received]


def test_a_backend_that_was_removed_still_answers_what_was_under_way() -> None:
    """It has a datagram, and takes its time: its reply reaches the client, from the service's address."""
    with box() as one:
        client = one.lab.client.call(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
        slow = one.lab.backends[0].call(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
        with client, slow:
            slow.bind((B1, 5353))
            one.load(dns(THREE[0]))
            client.sendto(b"query", (VIP4, 53))
            slow.settimeout(5)
            query, sender = slow.recvfrom(100)

            one.load(dns(THREE[1]))
            slow.sendto(b"answer to " + query, sender)
            client.settimeout(5)
            assert (b"answer to query", (VIP4, 53)) == client.recvfrom(100)


def test_a_new_owner_of_a_zone_meets_no_connections_of_an_earlier_one() -> None:
    """The tables were flushed, so that the kernel knows of no owner, but the client's entries are still there."""
    with box() as one, one.lab.serve(), one.lab.client.connect((VIP4, 53)) as client:
        one.load(dns(THREE[0]))
        assert {"b1": 2} == _tally(client.exchange(2))
        one.lab.nft("flush ruleset")
        assert 1 == one.load(dns(THREE[1])).cut
        assert {"dns/b2": 1} == one.zones()
        assert {"b2": 2} == _tally(client.exchange(2))


def test_an_update_restores_what_others_have_flushed() -> None:
    """The resident process remembers who has which zone, and its next change brings everything back."""
    with box() as one, one.lab.serve(), one.lab.client.connect((VIP4, 53)) as client:
        one.load(config(pool("log", "192.0.2.53:514/udp", THREE[:1]), *dns().pools))
        one.load(dns())
        zones = one.zones()
        assert [2, 3, 4] == list(zones.values())
        one.lab.nft("flush ruleset")
        one.update(state(b1=DOWN))
        assert zones == one.zones()
        assert {"b2": 2, "b3": 2} == _tally(client.exchange(4))


def test_marks_are_steered_while_packets_have_them() -> None:
    """`dsr` on a segment: a backend comes and another goes, and every datagram arrives."""
    behind = [backend(f"b{number}", f"198.51.100.{10 + number}") for number in (1, 2, 3)]
    with box(dsr=True) as one, one.lab.serve(53), one.lab.client.connect((VIP4, 53)) as client:
        before = one.everything()
        for members in ((0, 1), (1, 2), (0, 1, 2), (2,)):
            one.load(dns(*(behind[number] for number in members), forward=Forward.DSR))
            each = 6 // len(members)
            assert {f"b{number + 1}": each for number in members} == _tally(client.exchange(6))
            assert len(members) == len(one.lab.balancer.call(Steering().current))
        one.remove()
        assert before == one.everything()


def test_what_the_kernel_refuses_leaves_everything_as_it_was() -> None:
    """Rules are refused, since another process owns the table, after routing was prepared: that is taken back."""
    good = mixed(backend("a", "10.0.1.2"))
    six = pool("six", "[2001:db8::53]:53/udp", backends("[fd00:1::2]:53"))
    bad = config(*mixed(backend("a", "10.0.1.2"), backend("b", "10.0.2.2")).pools, six)
    with box() as one:
        one.lab.nft("add table ip6 nftlb { flags owner; }")  # the lab's context holds it
        for loaded in (None, good):
            if loaded:
                one.load(loaded)  # what is not ours and not needed stays
            before = one.everything()
            with pytest.raises(KernelError, match="Operation not permitted"):
                one.load(bad)
            assert before == one.everything()


def shapes() -> dict[str, tuple[Pool, ...]]:
    """Configurations that need different base chains."""
    alone = {one.name: (one,) for one in every_mode().pools}
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
def test_from_every_shape_to_every_other(first: str) -> None:
    """A reload may change everything at once: the kernel takes it, and has exactly what it should then."""
    with box(wait=lambda: None) as one:  # there are no packets to wait for
        for second in shapes():
            one.load(config(*shapes()[first]))
            together = config(*{pool.name: pool for pool in (*shapes()[first], *shapes()[second])}.values())
            for target in (together, config(*shapes()[second])):
                one.load(target)
                assert "" == one.diff(target)


def test_an_ordinary_user_is_told_what_is_missing() -> None:
    """Nobody but root may: an error of ours that says so, from every way in."""
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
    """The chains of a pool's versions have the same name: the kernel still does what each membership asks for."""

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
            assert {"b1", "b2", "b3"} - {down} == {one.backend for one in client.exchange(6)}
        lab.balancer.call(lambda: applier.update(Membership()))
        assert ["b1", "b2", "b3"] == sorted(one.backend for one in client.exchange(3))
