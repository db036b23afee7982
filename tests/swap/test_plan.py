"""Plans: what is added, what is left over, and when a map needs a detour."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fake_kernel import FakeNft
from table_comparison import comparable

from nftlb.ruleset import (
    MARK,
    AddressRanges,
    Chain,
    Element,
    Elements,
    Hook,
    NamedObject,
    Ruleset,
    Set,
    Table,
    TableFamily,
    Transaction,
)
from nftlb.swap.plan import (
    Leftover,
    LeftoverKind,
    after,
    entry_leftovers,
    leftovers,
    make,
    plan_removal,
    removable,
    waypoints,
)

IP, NETDEV = TableFamily.IP, TableFamily.NETDEV
SERVICE = "type ipv4_addr . inet_service"
RAW = Hook("filter", "prerouting", "raw")
NAT = Hook("nat", "prerouting", "dstnat")
KEY = "192.0.2.1 . 53"

DOOR = Chain("raw", ("ip daddr . th dport vmap @services",), RAW)
TRANSLATE = Chain("nat", ("dnat to ct original zone map @hosts",), NAT)
POOL = Chain("pool", ("goto pool/v1",))
VERSION = Chain("pool/v1", ("numgen inc mod 2 vmap { 0 : accept, 1 : drop }",))
SERVICES = Set("services", SERVICE, "verdict", elements=(Element(KEY, "goto pool"),))
HOSTS = Set("hosts", "typeof ct original zone", "ip daddr", elements=(Element("1", "10.0.0.1"),))


def timeout(seconds: int, name: str = "") -> NamedObject:
    return NamedObject(
        "ct timeout", name or f"session-{seconds}s", ("protocol udp", f"policy = {{ replied : {seconds} }}")
    )


TIMED = Chain("timed", ('ct timeout set "session-2s"', "accept"))


def ruleset(*parts: Chain | Set | NamedObject, family: TableFamily = IP) -> Ruleset:
    sets = {part.name: part for part in parts if isinstance(part, Set)}
    chains = {part.name: part for part in parts if isinstance(part, Chain)}
    objects = {part.key: part for part in parts if isinstance(part, NamedObject)}
    return Ruleset("t", {family: Table(family, "t", sets, chains, objects)})


def with_elements(set_: Set, *elements: tuple[str, str]) -> Set:
    return replace(set_, elements=tuple(Element(key, data) for key, data in elements))


WHOLE = ruleset(SERVICES, HOSTS, DOOR, TRANSLATE, POOL, VERSION)
NOTHING = Ruleset("t")


def test_objects_are_added_before_references_to_them() -> None:
    """Chains, sets, elements and rules are added in this order, so that no object refers to a missing object."""
    assert (
        f"add chain ip t raw {{ {RAW} }}\n"
        "add chain ip t pool\n"
        f"add map ip t services {{ {SERVICE} : verdict; elements = {{ {KEY} : goto pool }} ; }}\n"
        "add rule ip t raw ip daddr . th dport vmap @services\n"
        "add rule ip t pool goto pool/v1\n"
    ) == make(ruleset(), ruleset(SERVICES, DOOR, POOL)).text


def test_a_new_table_is_one_operation_with_its_whole_content() -> None:
    """An operation for each object would take libnftables longer. The table must be new: others may have made it."""
    assert (
        "create table ip t\n"
        "table ip t {\n"
        "\tmap services {\n"
        f"\t\t{SERVICE} : verdict\n"
        f"\t\telements = {{ {KEY} : goto pool }}\n"
        "\t}\n\n"
        "\tchain raw {\n"
        f"\t\t{RAW}\n"
        "\t\tip daddr . th dport vmap @services\n"
        "\t}\n\n"
        "\tchain pool {\n"
        "\t\tgoto pool/v1\n"
        "\t}\n"
        "}\n"
    ) == make(NOTHING, ruleset(SERVICES, DOOR, POOL)).text


def test_equal_objects_cause_no_operation() -> None:
    """Same and equal objects, and objects that are only listed in another form, cause no operation."""
    listed = replace(POOL, rules=("counter packets 7 bytes 100 meta mark set 0x0000ea61",))
    written = replace(POOL, rules=("counter meta mark set 0xea61",))

    assert not make(WHOLE, WHOLE)
    assert not make(WHOLE, ruleset(SERVICES, HOSTS, DOOR, TRANSLATE, POOL, VERSION))
    assert not make(ruleset(listed), ruleset(written))
    assert [] == list(leftovers(ruleset(listed), ruleset(written)))


def test_elements_in_another_order_are_the_same() -> None:
    """The order of elements does not count, because the kernel lists them in its own order."""
    two = with_elements(HOSTS, ("1", "10.0.0.1"), ("2", "10.0.0.2"))

    assert not make(ruleset(two), ruleset(replace(two, elements=two.elements[::-1])))


def test_an_object_is_made_before_the_rules_that_refer_to_it() -> None:
    """A new time-out comes before the rules. The time-out that the rules used before stays until it can be deleted."""
    target = ruleset(timeout(3), replace(TIMED, rules=('ct timeout set "session-3s"', "accept")))

    assert (
        "add ct timeout ip t session-3s { protocol udp; policy = { replied : 3 } ; }\n"
        "flush chain ip t timed\n"
        'add rule ip t timed ct timeout set "session-3s"\n'
        "add rule ip t timed accept\n"
    ) == make(ruleset(timeout(2), TIMED), target).text
    left = [Leftover(LeftoverKind.OBJECT, IP, "ct timeout session-2s")]
    assert left == list(leftovers(ruleset(timeout(2), TIMED), target))
    assert left == removable(ruleset(timeout(2), TIMED), target, left)
    assert "delete ct timeout ip t session-2s\n" == plan_removal(ruleset(timeout(2), TIMED), left).text


def test_an_object_stays_while_a_leftover_chain_refers_to_it() -> None:
    """The kernel deletes no object that a rule refers to."""
    kernel, target = ruleset(timeout(2), TIMED, POOL, VERSION), ruleset(POOL, VERSION)
    left = list(leftovers(kernel, target))

    assert {LeftoverKind.OBJECT, LeftoverKind.CHAIN} == {leftover.kind for leftover in left}
    alone = [leftover for leftover in left if leftover.kind is LeftoverKind.OBJECT]
    assert [] == removable(kernel, target, alone)
    assert set(left) == set(removable(kernel, target, left))


def test_objects_stay_on_a_detour() -> None:
    """While a map is corrected with the help of another map, the objects of the table stay."""
    target = ruleset(with_elements(SERVICES, (KEY, "goto pool/v1")), DOOR, POOL, VERSION, timeout(2), TIMED)
    detour, last = waypoints(ruleset(SERVICES, DOOR, POOL, VERSION, timeout(2), TIMED), target)

    assert target.tables[IP].objects == detour.tables[IP].objects == last.tables[IP].objects


def test_an_object_that_another_program_changed_is_replaced_in_one_transaction() -> None:
    """The rules that refer to the object are deleted first, and written again behind the new object."""
    wanted = ruleset(timeout(2), TIMED, DOOR)
    changed = ruleset(timeout(9, "session-2s"), TIMED, DOOR)
    kernel = FakeNft()
    kernel.apply(make(NOTHING, ruleset(timeout(9, "session-2s"), TIMED, SERVICES, DOOR, POOL, VERSION)))

    assert (
        "flush chain ip t timed\n"
        "delete ct timeout ip t session-2s\n"
        "add ct timeout ip t session-2s { protocol udp; policy = { replied : 2 } ; }\n"
        'add rule ip t timed ct timeout set "session-2s"\n'
        "add rule ip t timed accept\n"
    ) == make(changed, wanted).text
    kernel.apply(make(changed, wanted))
    assert wanted.tables[IP].objects == kernel.list("t")[IP].table.objects
    assert TIMED.rules == kernel.list("t")[IP].table.chains["timed"].rules


def test_rules_are_replaced_in_one_step() -> None:
    """Rules are flushed and added; elements and chains to delete stay."""
    target = ruleset(replace(POOL, rules=("goto pool/v2",)), Chain("pool/v2", ("accept",)))

    assert (
        "add chain ip t pool/v2\nflush chain ip t pool\nadd rule ip t pool goto pool/v2\nadd rule ip t pool/v2 accept\n"
    ) == make(ruleset(POOL, VERSION), target).text


def test_leftovers_are_objects_that_the_target_lacks() -> None:
    """Leftovers are chains, sets, elements and tables that the target lacks, and rules of later hooks."""
    smaller = ruleset(with_elements(SERVICES), DOOR, replace(TRANSLATE, rules=("accept",)), POOL)

    assert {
        Leftover(LeftoverKind.CHAIN, IP, "pool/v1"),
        Leftover(LeftoverKind.SET, IP, "hosts"),
        Leftover(LeftoverKind.ELEMENT, IP, "hosts", "1"),
        Leftover(LeftoverKind.ELEMENT, IP, "services", KEY),
        Leftover(LeftoverKind.RULE, IP, "nat", TRANSLATE.rules[0]),
    } == set(leftovers(WHOLE, smaller))
    assert [Leftover(LeftoverKind.TABLE, IP)] == list(leftovers(WHOLE, NOTHING))
    assert [] == list(leftovers(WHOLE, WHOLE))


def test_entries_are_the_elements_that_the_first_hook_looks_up() -> None:
    """Entry leftovers are only elements that the first chains of the target look up."""
    left = [
        Leftover(LeftoverKind.ELEMENT, IP, "services", KEY),
        Leftover(LeftoverKind.ELEMENT, IP, "hosts", "1"),
        Leftover(LeftoverKind.CHAIN, IP, "pool/v1"),
    ]

    assert left[:1] == entry_leftovers(ruleset(DOOR, TRANSLATE, SERVICES, HOSTS), left)
    assert [] == entry_leftovers(ruleset(TRANSLATE, SERVICES, HOSTS), left)


@pytest.mark.parametrize("way", ['ip daddr 192.0.2.1 jump address comment "why"', "ip daddr vmap @addresses"])
def test_elements_of_an_address_are_entered_from_the_base_chain(way: str) -> None:
    """A chain that packets jump to is a part of the way in: its elements go before the chains that they lead to."""
    addresses = Set("addresses", "type ipv4_addr", "verdict", elements=(Element("192.0.2.1", "jump address"),))
    at = Chain("address", DOOR.rules)
    left = [Leftover(LeftoverKind.ELEMENT, IP, name, "1") for name in ("services", "hosts")]

    target = ruleset(replace(DOOR, rules=(way,)), at, addresses, TRANSLATE, SERVICES, HOSTS)
    assert left[:1] == entry_leftovers(target, left)


def test_objects_are_deleted_after_references_to_them() -> None:
    """Rules, elements, sets, chains and tables are deleted in this order."""
    kernel = Ruleset("t", {**WHOLE.tables, **ruleset(POOL, family=NETDEV).tables})
    smaller = ruleset(with_elements(SERVICES), replace(DOOR, rules=()))

    assert (
        "flush chain ip t nat\n"
        "flush chain ip t pool\n"
        "flush chain ip t pool/v1\n"
        f"delete element ip t services {{ {KEY} }}\n"
        "delete map ip t hosts\n"
        "delete chain ip t nat\n"
        "delete chain ip t pool\n"
        "delete chain ip t pool/v1\n"
        "delete table netdev t\n"
    ) == plan_removal(kernel, list(leftovers(kernel, smaller))).text


STAND_IN = replace(SERVICES, name="services-next")


@pytest.mark.parametrize(
    ("before", "wanted"),
    [
        (SERVICES, with_elements(SERVICES, (KEY, "accept"))),
        (SERVICES, replace(SERVICES, elements=(Element(KEY, "goto pool", "comment"),))),
        (SERVICES, replace(SERVICES, key_type="type ipv4_addr . inet_proto")),
        (SERVICES, replace(SERVICES, counter=True)),
        (
            with_elements(replace(SERVICES, size=2), (KEY, "goto pool"), ("192.0.2.2 . 53", "goto pool")),
            with_elements(replace(SERVICES, size=2), (KEY, "goto pool"), ("192.0.2.3 . 53", "goto pool")),
        ),
        (
            with_elements(replace(SERVICES, interval=True), ("192.0.2.1 . 1-9", "accept")),
            with_elements(replace(SERVICES, interval=True), ("192.0.2.1 . 5-10", "accept")),
        ),
    ],
    ids=["data", "comment", "type", "counter", "room", "interval"],
)
def test_a_map_in_use_is_corrected_by_a_detour(before: Set, wanted: Set) -> None:
    """A detour has two steps: the rules use a substitute, and then the corrected map."""
    kernel, target = ruleset(before, DOOR, POOL), ruleset(wanted, DOOR, POOL)
    around, last = waypoints(kernel, target)
    table = around.tables[IP]

    assert target is last
    assert replace(wanted, name="services-next") == table.sets["services-next"]
    assert ("ip daddr . th dport vmap @services-next",) == table.chains["raw"].rules
    agreed = [kept for kept in before.elements if kept in wanted.elements and before.same_kind(wanted)]
    assert agreed == [element for name, set_ in table.sets.items() if name == "services" for element in set_.elements]


@pytest.mark.parametrize(
    "wanted",
    [
        SERVICES,
        with_elements(SERVICES),
        with_elements(SERVICES, (KEY, "goto pool"), ("192.0.2.2 . 53", "goto pool")),
        with_elements(SERVICES, ("192.0.2.2 . 53", "goto pool")),
    ],
    ids=["same", "less", "more", "other"],
)
def test_a_map_that_can_gain_elements_first_needs_no_detour(wanted: Set) -> None:
    """Elements that come and elements that go do not need a detour."""
    target = ruleset(wanted, DOOR, POOL)

    assert [target] == waypoints(ruleset(SERVICES, DOOR, POOL), target)


def test_an_unused_map_needs_no_detour() -> None:
    """A map that no rule uses is corrected without a detour."""
    target = ruleset(with_elements(SERVICES, (KEY, "accept")), DOOR)

    assert [target] == waypoints(ruleset(SERVICES, POOL), target)
    assert f"delete element ip t services {{ {KEY} }}\nadd element ip t services {{ {KEY} : accept }}\n" in (
        make(ruleset(SERVICES, POOL), target).text
    )


def test_a_second_detour_uses_another_name() -> None:
    """A second detour uses another name than the first if the first is still in use."""
    both = replace(DOOR, rules=(*DOOR.rules, "ip daddr . th dport vmap @services-next"))
    wanted = ruleset(with_elements(SERVICES, (KEY, "drop")), DOOR)
    around, _ = waypoints(ruleset(SERVICES, STAND_IN, both, POOL), wanted)

    assert ("ip daddr . th dport vmap @services-other",) == around.tables[IP].chains["raw"].rules


OTHERS = [
    ruleset(with_elements(SERVICES, ("192.0.2.2 . 53", "goto pool")), DOOR, POOL, VERSION),
    ruleset(SERVICES, HOSTS, DOOR, replace(TRANSLATE, rules=("accept",)), POOL, VERSION),
    ruleset(POOL, VERSION),
    NOTHING,
    ruleset(Chain("x", ("accept",)), family=NETDEV),
]


@pytest.mark.parametrize("target", OTHERS, ids=range(len(OTHERS)))
def test_the_predicted_ruleset_is_the_kernels(target: Ruleset) -> None:
    """`after` computes the ruleset in the kernel after each step."""
    kernel = FakeNft()
    kernel.apply(make(NOTHING, WHOLE))
    known = WHOLE
    for left in ([], list(leftovers(WHOLE, target))):
        steps = make(known, target, left).operations + plan_removal(known, left).operations
        kernel.apply(Transaction("t", steps))
        known = after(known, target, left)

        listed = {family: listing.table for family, listing in kernel.list("t").items()}
        assert comparable(listed) == comparable(known.tables)
    assert comparable(target.tables) == comparable(known.tables)


def test_new_ranges_come_before_the_rules_that_look_them_up() -> None:
    """The kernel fills a set of ranges after the rules of its transaction are in force, so the set comes before."""
    ranges = Set("ranges", "type ipv4_addr", interval=True, elements=(Element("192.0.2.0/24"),))
    door = Chain("raw", ("ip saddr @ranges drop",), RAW)
    kernel, target = ruleset(SERVICES, DOOR, POOL), ruleset(SERVICES, ranges, door, POOL)

    first, last = waypoints(kernel, target)

    assert target == last
    added = "add set ip t ranges { type ipv4_addr; flags interval; elements = { 192.0.2.0/24 } ; }\n"
    assert added == make(kernel, first).text
    assert [] == list(leftovers(kernel, first))
    assert [target] == waypoints(last, target)

    first, last = waypoints(Ruleset("t"), target)

    assert target == last
    made = first.tables[TableFamily.IP]
    assert ({"ranges": ranges}, {MARK.name: MARK}) == (dict(made.sets), made.chains)


NET = 10 << 24
LISTED = Set("ranges", "type ipv4_addr", interval=True, elements=AddressRanges(((NET, NET + 255),), 4))


@pytest.mark.parametrize(
    "edited",
    [
        AddressRanges(((NET, NET + 511),), 4),
        AddressRanges(((NET, NET + 255), (NET + 1024, NET + 1279)), 4),
        AddressRanges(((NET, NET + 127),), 4),
        tuple(map(Element, ("10.0.0.0", "up to 10.0.1.0", "10.0.4.0", "up to 10.0.5.0"))),
    ],
    ids=["touching", "apart", "shorter", "with a comment"],
)
def test_ranges_that_others_changed_are_replaced_as_a_whole(edited: AddressRanges | tuple[Element, ...]) -> None:
    """A listing does not show how ranges were added, so no element is deleted: another set comes, before its rules."""
    door = Chain("raw", ("ip saddr @ranges drop",), RAW)
    kernel, target = ruleset(replace(LISTED, elements=edited), door), ruleset(LISTED, door)

    texts, changed = [], []
    for step in waypoints(kernel, target):
        for left in ([], list(leftovers(kernel, step))):
            plan = make(kernel, step, left).operations + plan_removal(kernel, left).operations
            changed += [operation for operation in plan if isinstance(operation.object, Elements)]
            texts.append(Transaction("t", plan).text)
            kernel = after(kernel, step, left)

    add = "add set ip t {} {{ type ipv4_addr; flags interval; elements = {{ 10.0.0.0/24 }} ; }}\n"
    led = "flush chain ip t raw\nadd rule ip t raw ip saddr @ranges{} drop\n"
    assert [] == changed
    assert [
        add.format("ranges-next"),
        led.format("-next"),
        "delete set ip t ranges\n",
        add.format("ranges"),
        led.format(""),
        "delete set ip t ranges-next\n",
    ] == [text for text in texts if text]
    assert comparable(target.tables) == comparable(kernel.tables)


def test_missing_ranges_are_added_to_a_set_in_use() -> None:
    """A set that has the first of its ranges gets the others, without a detour: an addition misses no element."""
    door = Chain("raw", ("ip saddr @ranges drop",), RAW)
    whole = replace(LISTED, elements=AddressRanges(((NET, NET + 255), (NET + 1024, NET + 1024)), 4))
    kernel, target = ruleset(LISTED, door), ruleset(whole, door)

    assert [target] == waypoints(kernel, target)
    added = "add set ip t ranges { type ipv4_addr; flags interval; elements = { 10.0.4.0 } ; }\n"
    assert added == make(kernel, target).text
    assert [] == list(leftovers(kernel, target))
    assert comparable(target.tables) == comparable(after(kernel, target).tables)


def test_an_unwanted_set_is_one_leftover() -> None:
    """The elements of an unwanted set are no separate leftovers: a list has a hundred thousand. Those of a map are."""
    idle = Chain("idle")
    led = Set("led", "type ipv4_addr", "verdict", elements=(Element("192.0.2.1", "goto idle"),))

    kinds = [item.kind for item in leftovers(ruleset(LISTED, led, idle), ruleset(idle))]

    assert [LeftoverKind.SET, LeftoverKind.SET, LeftoverKind.ELEMENT] == kinds
