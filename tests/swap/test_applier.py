"""The order in which the Applier changes tables, connections and routing rules, and the differences that it shows."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from applier_states import B1, B2, B3, DOWN, DRAIN, MAINTENANCE, TCP, THREE, UDP, cast, end, mixed, state, text_of
from fake_kernel import FakeNft
from pool_builders import DNS, backend, backends, config, pool, sorry

from nftlb.compiler import Allocation, Compiled, Hop, read_back
from nftlb.compiler.allocation import BackendZone, FlowZone
from nftlb.compiler.connections import Stay, cuts
from nftlb.compiler.source_ports import PortRange
from nftlb.errors import KernelError, NftlbError
from nftlb.kernel.policy_routing import PartlyRefusedError
from nftlb.model import (
    Admin,
    BackendKey,
    BackendState,
    Balance,
    Family,
    Forward,
    Helper,
    Membership,
    Per,
    Replies,
    SourceKind,
    Templates,
)
from nftlb.ruleset import TableFamily, file_text
from nftlb.swap import Swapper
from nftlb.swap.applier import Applier, Shortfall

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from nftlb.compiler.connections import Keep
    from nftlb.model import Config, IPAddress
    from nftlb.ruleset import Listing, Transaction


def masqueraded(pool_name: str, name: str, address: str, port: int) -> BackendZone:
    """The owner of a zone whose packets are masqueraded, with any unprivileged port."""
    return BackendZone(BackendKey(pool_name, name), address, port, "masquerade", PortRange(1024, 65535))


@dataclass
class Record(FakeNft):
    """A kernel, conntrack and routing rules that record their calls. `refuse` names the call that fails."""

    calls: list[str] = field(default_factory=list)
    refuse: str = ""
    hops: dict[int, Hop] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()

    def _record(self, what: str) -> None:
        self.calls.append(what)
        if what.split(maxsplit=1)[0] == self.refuse:
            raise KernelError(f"{what} refused")

    def apply(self, transaction: Transaction) -> None:
        self._record("nft")
        super().apply(transaction)

    def delete(self, keep: Keep) -> int:
        self._record(f"delete {sorted(keep)}")
        return 1

    def wait(self) -> None:
        self._record("wait")

    def lookup(self, addresses: Iterable[IPAddress]) -> Mapping[IPAddress, Hop]:
        self._record(f"lookup {' '.join(map(str, addresses))}")
        return {address: Hop(address, "eth1") for address in addresses}

    @property
    def routing(self) -> Recorded:
        return Recorded(self)

    def applier(self) -> Applier:
        return Applier(self, delete_connections=self.delete, routing=self.routing, lookup=self.lookup, wait=self.wait)


@dataclass
class Recorded:
    record: Record

    def apply(self, wanted: Mapping[int, Hop]) -> list[str]:
        self.record._record(f"steer {sorted(wanted)}")
        changed = self.record.hops != wanted
        self.record.hops = dict(wanted)
        return ["changed"] if changed else []

    def current(self) -> Mapping[int, Hop]:
        return self.record.hops


def test_routes_are_added_before_the_swap_and_deleted_after() -> None:
    """Routing rules are added and old connections in new zones are deleted before the swap."""
    a, b, c = (backend(name, f"10.0.7.{number}") for number, name in enumerate("abc", 1))
    record = Record()
    applier = record.applier()
    applied = applier.load(mixed(a, b))
    assert ["steer [60001, 60002]", "delete [1, 2, 3]", "nft", "delete [3]", "steer [60001, 60002]"] == record.calls
    assert (1, 1, 2) == (len(applied.transactions), len(applied.routing), applied.deleted)

    record.calls.clear()
    applier.load(config(cast(b, c)))
    first, *middle, cut, last = record.calls
    assert ["steer [60001, 60002, 60003]", "delete [3]", "steer [60002, 60003]"] == [first, cut, last]
    assert {"nft", "wait"} == set(middle)


@pytest.mark.parametrize("forward", list(Forward))
def test_labels_change_nothing_in_the_kernel(forward: Forward) -> None:
    """A configuration that differs in labels alone makes no transaction, routing rule or deletion."""
    record = Record()
    applier = record.applier()
    behind = backends("10.0.7.1", "10.0.7.2")
    assert applier.load(config(pool("dns", UDP, behind, forward=forward)))
    record.calls.clear()
    labelled = tuple(replace(one, labels=(("rack", "r12"),)) for one in behind)
    applied = applier.load(config(pool("dns", UDP, labelled, forward=forward, labels=(("site", "fra"),))))
    assert not applied
    assert "nft" not in record.calls


def test_unused_parts_of_the_host_are_not_read() -> None:
    """Without marks, zones and ingress, neither routing rules nor conntrack nor routes are read."""
    record = Record()
    record.applier().load(config(pool("log", UDP, THREE, forward=Forward.STATELESS)))
    assert ["nft"] == record.calls


def test_next_hops_are_looked_up_for_the_fast_path_only() -> None:
    """Next hops are looked up only for pools with ingress, for targets without a device in the file."""
    record = Record()
    behind = (backend("a", "10.0.7.1:53", device="eth1"), backend("b", "10.0.7.2:53", via=ip_address("10.0.8.1")))
    fast = pool("fast", UDP, behind, forward=Forward.STATELESS, ingress=("eth0",))
    slow = pool("slow", TCP, THREE, forward=Forward.STATELESS, balance=Balance.HASH)
    record.applier().load(config(fast, slow))
    assert ["lookup 10.0.8.1", "nft"] == record.calls


@pytest.mark.parametrize("refused", ["steer", "delete", "nft"])
def test_a_refused_change_leaves_nothing(refused: str) -> None:
    """If a step before the swap or the swap fails, tables and routing rules are as before."""
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
    if refused != "steer":  # after its refusal, steering can't go back, but it has changed nothing
        assert hops == record.hops

    record.refuse = ""
    applier.update(state())  # the configuration in force is still the first
    assert before == record.list("nftlb")
    applier.load(new)
    assert "" == applier.diff(new)


def test_an_update_is_one_transaction_and_deletes_only_flows_of_lost_backends() -> None:
    """Each change is one transaction, and conntrack is used only if connections have to be deleted."""
    record = Record()
    applier = record.applier()
    applier.load(config(DNS))  # zones 1 and 2 for packets, 3 for TCP

    def calls_of_update(membership: Membership) -> list[str]:
        record.calls.clear()
        applier.update(membership)
        return record.calls

    assert ["nft", "delete [3]"] == calls_of_update(state(b1=DOWN))
    assert [] == calls_of_update(state(b1=DOWN))
    assert ["nft"] == calls_of_update(state())
    assert ["nft"] == calls_of_update(state(b1=DRAIN))
    assert ["delete [3]"] == calls_of_update(state(b1=MAINTENANCE))


def test_a_lenient_load_leaves_out_a_missing_interface() -> None:
    """A lenient load leaves out a missing interface and reports it; a load after it appears is complete."""
    record = Record()
    applier = record.applier()
    behind = (backend("a", "10.0.7.1", device="eth1"),)
    fast = config(pool("fast", UDP, behind, forward=Forward.STATELESS, ingress=("eth0", "eth9")))
    there = {"eth0": 2, "eth1": 3}
    applier.interfaces = lambda: there

    applied = applier.load(fast, lenient=True)

    left_out = "pool fast: there is no interface eth9, so its fast path is left out there"
    assert (Shortfall(left_out, "fast"),) == applied.lacking
    assert "eth0" in text_of(applier)
    assert "eth9" not in text_of(applier)
    assert not applier.can_load_more()
    there["eth9"] = 4
    assert applier.can_load_more()
    assert () == applier.load(fast, lenient=True).lacking
    assert not applier.can_load_more()
    assert "eth9" in text_of(applier)


@pytest.mark.parametrize(
    ("options", "left_out", "match"),
    [
        ({"forward": Forward.DSR, "templates": Templates.ALL}, "templates go to one backend", "dup to"),
        ({"forward": Forward.STATELESS, "ingress": ("eth0",)}, "its fast path is left out", "fwd ip to"),
    ],
    ids=["templates", "fast path"],
)
def test_a_lenient_load_leaves_out_rules_with_the_missing_interface_of_a_backend(
    options: dict[str, Any], left_out: str, match: str
) -> None:
    """The kernel would refuse the rules of all pools for a rule that names a missing interface of a backend."""
    applier = Record().applier()
    apart = (backend("a", "10.0.7.1", device="eth0"), backend("b", "10.0.8.1", device="eth1"))
    there = {"eth0": 2}
    applier.interfaces = lambda: there

    lacking = applier.load(config(pool("far", UDP, apart, **options)), lenient=True).lacking

    assert (Shortfall(f"pool far: there is no interface eth1 of backend b, so {left_out}", "far"),) == lacking
    assert "eth1" not in text_of(applier)
    assert not applier.can_load_more()
    there["eth1"] = 3
    assert applier.can_load_more()
    assert () == applier.load(config(pool("far", UDP, apart, **options)), lenient=True).lacking
    assert match in text_of(applier)
    assert 'device "eth1"' in text_of(applier)


def test_a_lenient_load_reports_a_refused_routing_rule() -> None:
    """A lenient load reports a refused routing rule; another load raises the refusal."""
    record = Record()
    applier = record.applier()
    record.refuse = "steer"

    applied = applier.load(mixed(backend("a", "10.0.7.1")), lenient=True)

    assert (Shortfall("steer [60001] refused"),) == applied.lacking
    assert applied.transactions
    record.calls.clear()
    assert not applier.can_load_more()
    assert ["steer [60001]"] == record.calls  # the refused rules alone
    record.refuse = ""
    assert applier.can_load_more()
    assert () == applier.load(mixed(backend("a", "10.0.7.1")), lenient=True).lacking
    assert not applier.can_load_more()
    record.refuse = "steer"
    with pytest.raises(KernelError, match="steer"):
        applier.load(mixed(backend("a", "10.0.7.1")))


def test_the_changes_of_a_trial_are_those_of_the_next_load() -> None:
    """A trial may add some routing rules although others are refused again. The next load reports them, once."""
    applier = Record().applier()
    results = iter(["first", "second", "second", "third"])

    class Refusing(Recorded):
        def apply(self, wanted: Mapping[int, Hop]) -> list[str]:
            super().apply(wanted)
            raise PartlyRefusedError("refused", [next(results)])

    applier.routing = Refusing(Record())
    wanted = mixed(backend("a", "10.0.7.1"))
    assert ("first", "second") == applier.load(wanted, lenient=True).routing
    assert [False, False] == [applier.can_load_more() for _ in range(2)]
    applier.routing = Recorded(Record())
    assert ("second", "third", "changed") == applier.load(wanted, lenient=True).routing
    assert () == applier.load(wanted, lenient=True).routing


def test_tidy_deletes_leftovers() -> None:
    """tidy() waits until no packet needs leftovers. Without a load or leftovers, it does nothing."""
    record = Record()
    applier = record.applier()
    assert not applier.tidy()
    applier.load(config(DNS))
    assert not applier.tidy()
    applier.update(state(b1=DOWN))
    assert "" != applier.diff(config(DNS), state(b1=DOWN))
    record.calls.clear()

    assert applier.tidy()

    assert {"wait", "nft"} == set(record.calls)
    assert "" == applier.diff(config(DNS), state(b1=DOWN))


def test_the_text_is_the_last_loaded_ruleset() -> None:
    """The accepted ruleset has the present states, and no change that was refused."""
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


def test_unchanged_by_others_ends_with_a_foreign_write() -> None:
    """`unchanged_by_others` is True after a load or update, until another program writes."""
    record = Record()
    applier = record.applier()
    assert not applier.unchanged_by_others
    applier.load(config(DNS))
    assert applier.unchanged_by_others
    applier.update(state(b1=DOWN))
    assert applier.unchanged_by_others

    record.flush()
    assert not applier.unchanged_by_others
    applier.tidy()
    assert not applier.unchanged_by_others  # it has looked, but put nothing right
    applier.update(state(b1=DOWN))
    assert applier.unchanged_by_others
    assert "" == applier.diff(config(DNS), state(b1=DOWN))


def test_flows_that_an_update_could_not_delete_are_deleted_by_the_next() -> None:
    """A membership is accepted only after its connections are deleted."""
    record = Record()
    applier = record.applier()
    applier.load(config(DNS))
    record.refuse = "delete"
    with pytest.raises(KernelError):
        applier.update(state(b1=DOWN))
    record.refuse = ""
    record.calls.clear()
    applier.update(state(b1=DOWN))
    assert ["delete [3]"] == record.calls


def test_a_configuration_for_other_tables_is_refused() -> None:
    """A configuration for other tables is refused before anything is done."""
    record = Record()
    with pytest.raises(NftlbError, match="table other, but the tables of nftlb"):
        record.applier().load(replace(config(DNS), table="other"))
    assert [] == record.calls


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
    """Connections stay to used backends, to healthy drained backends, and to the sorry server while it is used."""
    compiled = Compiled(config(pool("dns", TCP, THREE, fallback=sorry("10.0.9.2:5353"))))
    assert {1: frozenset(map(end, expected))} == compiled.connections(membership)


def test_connections_below_the_panic_threshold() -> None:
    """Backends that are down but used keep their connections."""
    compiled = Compiled(config(pool("dns", TCP, THREE, panic=50)))
    assert {1: frozenset(map(end, (B1, B2, B3)))} == compiled.connections(state(b1=DOWN, b2=DOWN))


def test_connections_have_a_zone_in_each_family_and_backends_without_a_port_have_any() -> None:
    """A pool without flows has no connections to keep."""
    both = pool("dns", (TCP, "[2001:db8::53]:53/tcp"), backends("10.0.0.1", "[fd00::1]:5353"))
    packets = pool("log", "192.0.2.53:514/udp", THREE)
    flows = pool("sip", "192.0.2.53:5060/udp", backends("10.0.0.9:5060"), per=Per.FLOW)
    compiled = Compiled(config(both, packets, flows))
    assert {
        compiled.allocation.zones[FlowZone("dns", Family.IP)]: frozenset({end("10.0.0.1", None)}),
        compiled.allocation.zones[FlowZone("dns", Family.IP6)]: frozenset({end("fd00::1")}),
        compiled.allocation.zones[FlowZone("sip", Family.IP)]: frozenset({end("10.0.0.9", 5060)}),
    } == compiled.connections()


def test_zones_are_emptied_when_their_owner_changes() -> None:
    """New zones are emptied before the swap, flows after it; in-flight replies of former backends stay."""
    old = Compiled(config(DNS, pool("log", "192.0.2.53:514/udp", backends("10.0.0.9:514"))))
    new = Compiled(config(DNS, pool("lag", "192.0.2.53:514/udp", backends("10.0.0.9:514"))), old.allocation)
    assert {
        masqueraded("dns", "b1", "10.0.0.11", 5353): 1,
        masqueraded("dns", "b2", "10.0.0.12", 5353): 2,
        FlowZone("dns", Family.IP): 3,
        masqueraded("log", "b1", "10.0.0.9", 514): 4,
    } == old.allocation.zones
    assert {
        masqueraded("dns", "b1", "10.0.0.11", 5353): 1,
        masqueraded("dns", "b2", "10.0.0.12", 5353): 2,
        FlowZone("dns", Family.IP): 3,
        masqueraded("lag", "b1", "10.0.0.9", 514): 5,
    } == new.allocation.zones

    flows = new.connections()
    due = cuts(old.allocation, new.allocation, flows)
    assert ({5: Stay.NOTHING}, {3: flows[3]}) == (due.before, due.after)

    none = Compiled(config(), new.allocation)
    gone = cuts(new.allocation, none.allocation, none.connections())
    assert ({}, {3: Stay.DATAGRAMS}) == (gone.before, gone.after)

    first = cuts(Allocation(), new.allocation, flows)
    assert (dict.fromkeys((1, 2, 5), Stay.NOTHING) | {3: flows[3]}, {3: flows[3]}) == (first.before, first.after)


def test_a_zone_with_a_new_owner_is_emptied_after_the_swap_too() -> None:
    """A zone that gets another owner is emptied after the swap too: until then the old rules make entries."""
    old = Compiled(config(pool("dns", UDP, backends("10.0.0.1:1", "10.0.0.2:1")), zones=65534))
    new = Compiled(config(pool("dns", UDP, backends("10.0.0.1:1", "10.0.0.3:1")), zones=65534), old.allocation)
    due = cuts(old.allocation, new.allocation, new.connections())
    assert ({}, {65535: Stay.NOTHING}) == (due.before, due.after)


def test_a_backend_that_sees_another_source_has_another_zone() -> None:
    """A change of source deletes the entries of datagrams, but not of connections."""
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


def differences(applier: Applier, configuration: Config) -> list[str]:
    return applier.diff(configuration).splitlines()


def test_a_difference_is_shown_by_object() -> None:
    """Each object has a section with - and + lines; the order of elements does not count."""
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
    at = lines.index("@@ table ip nftlb: chain prerouting-raw @@")
    found = r"ip daddr \S+ ip protocol udp udp dport 53"
    rule = rf"{found} numgen inc mod {{}} vmap @pool/dns/\w+ comment 1 of 2 services; {{}}"
    assert re.fullmatch(f"-{rule.format(2, 'b1, b2')}", lines[at + 3])
    assert re.fullmatch(rf"\+{rule.format(3, 'new, b1, b2')}", lines[at + 4])
    assert [] == [message for message in record.calls if message.startswith("nft")][1:]


def test_missing_routing_rules_are_a_difference() -> None:
    """Deleted routing rules are a difference, even if the tables are right."""
    record = Record()
    applier = record.applier()
    configuration = mixed(backend("a", "10.0.7.1"), backend("b", "10.0.7.2", device="eth1"))
    applier.load(configuration)
    record.hops = {60001: Hop(ip_address("10.0.7.1"), "eth3"), 60002: Hop(ip_address("10.0.7.2"), "eth3")}
    assert [
        "@@ ip rule @@",
        "-fwmark 60002 via 10.0.7.2 dev eth3",
        "+fwmark 60002 via 10.0.7.2 dev eth1",
    ] == differences(applier, configuration)


@pytest.mark.parametrize("has", [["tftp", "session_timeout"], ["tftp"], ["session_timeout"], []], ids=str)
def test_a_kernel_without_an_option_of_flows_takes_the_other_rules(has: list[str]) -> None:
    """If the kernel lacks an option, its pool is loaded without the option; other pools are the same as with it."""
    asked = []

    def supports(_: object, name: str) -> bool:
        asked.append(name)
        return name in has

    boot = pool("boot", "192.0.2.69:69/udp", backends("10.0.0.21:69"), per=Per.FLOW, helper=Helper.TFTP)
    vpn = pool("vpn", "192.0.2.69:1194/udp", backends("10.0.0.22:1194"), per=Per.FLOW, session_timeout=300_000)
    kernel = FakeNft()
    applier = Applier(kernel, delete_connections=lambda _: 0, lookup=lambda _: {}, wait=lambda: None, supports=supports)
    reduced = applier.load(config(DNS, boot, vpn)).reduced

    lines = {"tftp": "pool boot: the kernel has no helper", "session_timeout": "pool vpn: the kernel has no time-outs"}
    assert [line for name, line in lines.items() if name not in has] == [line.partition(" for")[0] for line in reduced]
    table = kernel.list("nftlb")[TableFamily.IP].table
    assert ("tftp" in has) is ("ct helper tftp" in table.objects)
    assert ("tftp" in has) is ("helped" in table.sets)
    assert ("session_timeout" in has) is ("ct timeout session-300s" in table.objects)
    assert {"backend/dns/b1", "connect/boot", "connect/vpn"} <= table.chains.keys()
    assert {"tftp", "session_timeout"} == set(asked)
    asked.clear()
    applier.load(config(DNS))
    assert [] == asked


def test_unknown_settings_of_interfaces() -> None:
    """If the settings can't be read, replies are rewritten in postrouting, and the pool is loaded nevertheless."""

    def fail(_: Config) -> NoReturn:
        raise KernelError("the settings of interfaces can't be read: Permission denied")

    early = replace(DNS, forward=Forward.STATELESS, replies=Replies.PREROUTING)
    kernel = FakeNft()
    applied = Applier(kernel, delete_connections=lambda _: 0, wait=lambda: None, obstacles=fail).load(config(early))

    assert {"replies", "reply-sources"} <= kernel.list("nftlb")[TableFamily.IP].table.sets.keys()
    assert str(applied.slower[0]).endswith("the settings of interfaces can't be read: Permission denied")
    assert ("dns",) == tuple(shortfall.pool for shortfall in applied.slower)


@pytest.mark.parametrize(
    ("name", "listed"), [("eth0", True), ("eth2", True), ("eth22", False)], ids=["ingress", "backend", "other"]
)
def test_a_load_lists_the_tables_only_for_interfaces_of_rules(name: str, *, listed: bool) -> None:
    """With many ranges a listing takes seconds, and containers come and go with their interfaces."""
    listings: list[str] = []

    class Counting(Record):
        def list(self, table: str) -> Mapping[TableFamily, Listing]:
            listings.append(table)
            return super().list(table)

    interfaces = {"eth0": 2, "eth2": 3, "eth22": 4}
    kernel = Counting()
    applier = Applier(
        kernel,
        delete_connections=kernel.delete,
        routing=kernel.routing,
        wait=kernel.wait,
        obstacles=lambda _: {},
        interfaces=lambda: dict(interfaces),
    )
    wanted = config(
        pool("fast", UDP, (backend("a", "10.0.7.1", device="eth2"),), forward=Forward.DSR, ingress=("eth0",))
    )
    applier.load(wanted)
    listings.clear()
    interfaces[name] = 9
    applier.load(wanted)
    assert listed == bool(listings)
    listings.clear()
    applier.load(wanted)
    assert not listings
