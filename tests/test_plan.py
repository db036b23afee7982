"""Plans: what is added, what is left over, and when a map needs a detour."""

from __future__ import annotations

from dataclasses import replace

import pytest
from comparing import comparable

from nftlb.kernel.fake import FakeNft
from nftlb.ruleset import Chain, Element, Ruleset, Set, Table, TableFamily
from nftlb.swap.operations import Transaction
from nftlb.swap.plan import Kind, Leftover, after, entries, leftovers, make, remove, waypoints

IP, NETDEV = TableFamily.IP, TableFamily.NETDEV
SERVICE = "type ipv4_addr . inet_service"
RAW = "type filter hook prerouting priority raw; policy accept;"
NAT = "type nat hook prerouting priority dstnat; policy accept;"
KEY = "192.0.2.1 . 53"

DOOR = Chain("raw", ("ip daddr . th dport vmap @services",), RAW)
TRANSLATE = Chain("nat", ("dnat to ct original zone map @hosts",), NAT)
POOL = Chain("pool", ("goto pool/v1",))
VERSION = Chain("pool/v1", ("numgen inc mod 2 vmap { 0 : accept, 1 : drop }",))
SERVICES = Set("services", SERVICE, "verdict", elements=(Element(KEY, "goto pool"),))
HOSTS = Set("hosts", "typeof ct original zone", "ip daddr", elements=(Element("1", "10.0.0.1"),))


def ruleset(*parts: Chain | Set, family: TableFamily = IP) -> Ruleset:
    sets = {part.name: part for part in parts if isinstance(part, Set)}
    chains = {part.name: part for part in parts if isinstance(part, Chain)}
    return Ruleset("t", {family: Table(family, "t", sets, chains)})


def with_elements(one: Set, *elements: tuple[str, str]) -> Set:
    return replace(one, elements=tuple(Element(key, data) for key, data in elements))


WHOLE = ruleset(SERVICES, HOSTS, DOOR, TRANSLATE, POOL, VERSION)
NOTHING = Ruleset("t")


def test_what_is_referred_to_is_made_first() -> None:
    """Chains without rules, then sets, then elements, then rules: in that order nothing refers to what is not there."""
    assert (
        "create table ip t\n"
        f"add chain ip t raw {{ {RAW} }}\n"
        "add chain ip t pool\n"
        f"add map ip t services {{ {SERVICE} : verdict ; }}\n"
        f"add element ip t services {{ {KEY} : goto pool }}\n"
        "add rule ip t raw ip daddr . th dport vmap @services\n"
        "add rule ip t pool goto pool/v1\n"
    ) == make(NOTHING, ruleset(SERVICES, DOOR, POOL)).text


def test_the_same_is_no_transaction() -> None:
    """Neither for the same objects, nor for equal ones, nor for what a listing shows differently."""
    listed = replace(POOL, rules=("counter packets 7 bytes 100 meta mark set 0x0000ea61",))
    written = replace(POOL, rules=("counter meta mark set 0xea61",))

    assert not make(WHOLE, WHOLE)
    assert not make(WHOLE, ruleset(SERVICES, HOSTS, DOOR, TRANSLATE, POOL, VERSION))
    assert not make(ruleset(listed), ruleset(written))
    assert [] == list(leftovers(ruleset(listed), ruleset(written)))


def test_elements_in_another_order_are_the_same() -> None:
    """The kernel lists them in an order of its own."""
    two = with_elements(HOSTS, ("1", "10.0.0.1"), ("2", "10.0.0.2"))

    assert not make(ruleset(two), ruleset(replace(two, elements=two.elements[::-1])))


def test_rules_are_replaced_in_one_step() -> None:
    """Flushed and added; elements and chains that go are not touched yet."""
    target = ruleset(replace(POOL, rules=("goto pool/v2",)), Chain("pool/v2", ("accept",)))

    assert (
        "add chain ip t pool/v2\nflush chain ip t pool\nadd rule ip t pool goto pool/v2\nadd rule ip t pool/v2 accept\n"
    ) == make(ruleset(POOL, VERSION), target).text


def test_what_is_left_over() -> None:
    """Chains, sets and elements that the target lacks, a later hook's rules, or whole tables."""
    smaller = ruleset(with_elements(SERVICES), DOOR, replace(TRANSLATE, rules=("accept",)), POOL)

    assert {
        Leftover(Kind.CHAIN, IP, "pool/v1"),
        Leftover(Kind.SET, IP, "hosts"),
        Leftover(Kind.ELEMENT, IP, "hosts", "1"),
        Leftover(Kind.ELEMENT, IP, "services", KEY),
        Leftover(Kind.RULE, IP, "nat", TRANSLATE.rules[0]),
    } == set(leftovers(WHOLE, smaller))
    assert [Leftover(Kind.TABLE, IP)] == list(leftovers(WHOLE, NOTHING))
    assert [] == list(leftovers(WHOLE, WHOLE))


def test_entries_are_the_elements_that_the_first_hook_looks_up() -> None:
    """Not those of later hooks, nor of maps that the target no longer looks up."""
    left = [
        Leftover(Kind.ELEMENT, IP, "services", KEY),
        Leftover(Kind.ELEMENT, IP, "hosts", "1"),
        Leftover(Kind.CHAIN, IP, "pool/v1"),
    ]

    assert left[:1] == entries(ruleset(DOOR, TRANSLATE, SERVICES, HOSTS), left)
    assert [] == entries(ruleset(TRANSLATE, SERVICES, HOSTS), left)


def test_removal_begins_with_what_refers_to_others() -> None:
    """Rules, then elements, then sets, then chains, then tables."""
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
    ) == remove(kernel, list(leftovers(kernel, smaller))).text


STAND_IN = replace(SERVICES, name="services-next")


@pytest.mark.parametrize(
    ("before", "wanted"),
    [
        (SERVICES, with_elements(SERVICES, (KEY, "accept"))),
        (SERVICES, replace(SERVICES, elements=(Element(KEY, "goto pool", "comment"),))),
        (SERVICES, replace(SERVICES, key_type="type ipv4_addr . inet_proto")),
        (SERVICES, replace(SERVICES, counter=True)),
        (
            with_elements(replace(SERVICES, interval=True), ("192.0.2.1 . 1-9", "accept")),
            with_elements(replace(SERVICES, interval=True), ("192.0.2.1 . 5-10", "accept")),
        ),
    ],
    ids=["data", "comment", "type", "counter", "interval"],
)
def test_a_map_that_must_lose_before_it_gains_is_gone_around(before: Set, wanted: Set) -> None:
    """Two steps: rules on the stand-in, which holds what is wanted; then back. Nothing is left over in between."""
    kernel, target = ruleset(before, DOOR, POOL), ruleset(wanted, DOOR, POOL)
    around, last = waypoints(kernel, target)
    table = around.tables[IP]

    assert target is last
    assert replace(wanted, name="services-next") == table.sets["services-next"]
    assert ("ip daddr . th dport vmap @services-next",) == table.chains["raw"].rules
    agreed = [one for one in before.elements if one in wanted.elements and before.same_kind(wanted)]
    assert agreed == [element for name, one in table.sets.items() if name == "services" for element in one.elements]


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
def test_a_map_that_can_gain_first_is_not(wanted: Set) -> None:
    """Elements that come and elements that go do not need a detour."""
    target = ruleset(wanted, DOOR, POOL)

    assert [target] == waypoints(ruleset(SERVICES, DOOR, POOL), target)


def test_a_map_that_nobody_looks_up_needs_no_detour() -> None:
    """It can be put right at once."""
    target = ruleset(with_elements(SERVICES, (KEY, "accept")), DOOR)

    assert [target] == waypoints(ruleset(SERVICES, POOL), target)
    assert f"delete element ip t services {{ {KEY} }}\nadd element ip t services {{ {KEY} : accept }}\n" in (
        make(ruleset(SERVICES, POOL), target).text
    )


def test_a_detour_leaves_another_alone() -> None:
    """If the rules are on a detour already, and their map proper is still looked up, the next one has another name."""
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
def test_what_is_foretold_is_what_happens(target: Ruleset) -> None:
    """`after` knows what the kernel has after each step, without asking it."""
    kernel = FakeNft()
    kernel.apply(make(NOTHING, WHOLE))
    known = WHOLE
    for left in ([], list(leftovers(WHOLE, target))):
        steps = make(known, target, left).operations + remove(known, left).operations
        kernel.apply(Transaction("t", steps))
        known = after(known, target, left)

        listed = {family: listing.table for family, listing in kernel.list("t").items()}
        assert comparable(listed) == comparable(known.tables)
    assert comparable(target.tables) == comparable(known.tables)
