"""Swaps: nothing is lost on the way from one ruleset to another, whatever the two are."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn, TypeAlias
from unittest.mock import patch

import pytest
from comparing import comparable
from configs import changed, documents, load, memberships
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from outcomes import locals_of, outcomes, outcomes_between, packets
from pools import DNS, backend, backends, config, pool
from recorder import GRACE, TABLE, Recorder

from nftlb.compiler import Compiled, Membership, read_back
from nftlb.errors import KernelError
from nftlb.kernel.fake import FakeNft
from nftlb.model import Config, Forward
from nftlb.ruleset import Chain, Element, Layers, Ruleset, TableFamily
from nftlb.swap import Swapper, Transaction
from nftlb.swap.operations import (
    AddElements,
    AddRules,
    AddSet,
    AddTable,
    DeleteChain,
    DeleteElements,
    DeleteSet,
    DeleteTable,
    FlushChain,
)

if TYPE_CHECKING:
    from nftlb.model import Pool

Step: TypeAlias = tuple[Config, Membership, float]
IP = TableFamily.IP
UNSHRUNK = tuple(phase for phase in Phase if phase is not Phase.shrink)  # shrinking takes minutes and finds little


@st.composite
def journeys(draw: st.DrawFn) -> list[Step]:
    """Configurations one after the other, now and then an earlier one again; with states, and times that pass."""
    files = [draw(documents(2))]
    for _ in range(draw(st.integers(1, 3))):
        files.append(draw(st.one_of(changed(files[-1]), changed(files[-1]), st.sampled_from(files))))
    steps = []
    for file in files:
        config = load(file)
        times = range(draw(st.integers(1, 2)))
        steps += [(config, draw(memberships(config)), draw(st.sampled_from((0.0, 0.0, 0.3, 0.6)))) for _ in times]
    return steps


def travel(steps: list[Step], *, tidy: bool) -> Recorder:
    """Load each configuration that is another one than before, as a reload does, and follow memberships.

    A reload is `tidy`, unless the kernel refuses to have cleared up what is left over.
    """
    kernel = Recorder()
    loaded: Compiled | None = None
    for config_, membership, pause in steps:
        reload = loaded is None or loaded.config is not config_
        if loaded is None or reload:
            loaded = Compiled(config_, read_back(kernel.list(TABLE)))
        kernel.swap(loaded.ruleset(membership))
        if reload and tidy:
            kernel.sweep()
        kernel.now += pause
    return kernel


def present(kernel: Recorder) -> object:
    return comparable(kernel.snapshot().ruleset.tables)


@pytest.mark.slow
@settings(max_examples=30, deadline=None, phases=UNSHRUNK)
@given(steps=journeys())
def test_no_packet_is_lost_on_the_way(steps: list[Step]) -> None:
    """A packet that meets rules of one generation and elements of a later one still gets where one of both sends it.

    That is asked of packets to listeners that are there all along, and of the replies of their backends. Not asked for
    is a connection that begins in the very moment in which its listener is given to another pool: the raw hook may
    still mean the one and the nat hook the other.
    """
    kernel = travel(steps, tidy=True)
    seen = [one for one, _, _ in steps]
    local = locals_of(seen)
    own = [packets(one) for one in seen]
    for packet in dict.fromkeys(packet for some in own for packet in some):
        right = [outcomes(target, packet, local) for target in kernel.targets]
        for early, late in kernel.overlaps():
            between = range(max(early.target - 1, 0), late.target + 1)
            whose = {own[number - 1].get(packet) if number else None for number in between}
            if None not in whose and len(whose) == 1:
                allowed = set().union(*(right[number] for number in between))

                assert outcomes_between(early.snapshot, late.snapshot, packet, local) <= allowed


@settings(max_examples=50, deadline=None)
@given(steps=journeys())
def test_what_packets_may_be_looking_at_stays(steps: list[Step]) -> None:
    """No transaction replaces a rule that holds a map, nor deletes and re-adds an element while rules lead there."""
    kernel = travel(steps, tidy=False)
    for early, transaction in zip(kernel.generations, kernel.transactions, strict=False):
        replaced = {(one.family, one.chain.name) for one in transaction.operations if isinstance(one, AddRules)}
        again = {
            (one.family, one.set, element.key)
            for one in transaction.operations
            if isinstance(one, AddElements)
            for element in one.elements
        }
        recreated = {(one.family, one.set.name) for one in transaction.operations if isinstance(one, AddSet)}
        for family, table in early.snapshot.ruleset.tables.items():
            rules = {(family, name): rule for name, chain in table.chains.items() for rule in chain.rules}
            used = {word[1:] for rule in rules.values() for word in rule.split() if word.startswith("@")}
            for one in transaction.operations:
                match one:
                    case FlushChain() if (one.family, one.name) in replaced and one.family is family:
                        assert "map {" not in rules.get((family, one.name), "")
                    case DeleteElements() if one.family is family and one.set in used:
                        assert not {(family, one.set, element.key) for element in one.elements} & again
                    case DeleteSet() if one.family is family and one.set.name in used:
                        assert (family, one.set.name) not in recreated


def test_what_makes_way_is_not_removed_once_more() -> None:
    """A range that was left over, and goes as another one comes, goes once: the kernel refuses a second time."""
    kernel = Recorder()
    targets = [
        Compiled(config(pool("p", listen, DNS.backends))).ruleset()
        for listen in ("192.0.2.54:150-250/udp", "192.0.2.54:53/udp", "192.0.2.54:160-250/udp")
    ]
    for target in targets:
        kernel.swap(target)
        kernel.now += GRACE

    kernel.sweep()
    assert comparable(targets[-1].tables) == present(kernel)


def test_what_did_not_change_is_not_looked_at() -> None:
    """Once a configuration is loaded, a change of membership costs the same however many other pools there are."""
    kernel = Recorder()
    others = (pool(f"p{number}", f"192.0.2.60:{number + 1000}/udp", DNS.backends) for number in range(20))
    compiled = Compiled(config(DNS, *others))
    kernel.swap(compiled.ruleset())
    swapper = Swapper(kernel, TABLE, kernel.wait)
    swapper.swap(compiled.ruleset())

    def none(_: object) -> NoReturn:
        raise AssertionError("all chains are looked at")

    with patch.object(Layers, "flat", none), patch.object(Layers, "__iter__", none):
        for down in ([("dns", "b1")], [("dns", "b2"), ("p7", "b1")], []):
            assert swapper.swap(compiled.ruleset(Membership.with_down(down)))


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(steps=journeys())
def test_the_kernel_comes_to_the_target(steps: list[Step]) -> None:
    """What is known of the kernel is what it has; after a sweep that is the target, and then there is nothing to do."""
    kernel = travel(steps, tidy=False)
    assert comparable(kernel.swapper.present().tables) == present(kernel)

    kernel.sweep()

    target = kernel.targets[-1]
    assert comparable(target.tables) == present(kernel) == comparable(kernel.swapper.present().tables)
    for swapper in (kernel.swapper, Swapper(kernel, TABLE, kernel.wait)):
        assert not swapper.swap(target)
        assert not swapper.sweep(target)


@settings(max_examples=50, deadline=None)
@given(steps=journeys())
def test_numbers_and_counters_stay_with_their_owners(steps: list[Step]) -> None:
    """A backend that stays keeps its zone; and while nothing about it changes, what counts for it is left alone."""
    kernel = Recorder()
    before: Compiled | None = None
    for config_, membership, _ in steps:
        counted = _counters(kernel)
        after = Compiled(config_, read_back(kernel.list(TABLE)))
        kernel.swap(after.ruleset(membership))

        if before is not None:
            for owner in before.allocation.zones.keys() & after.allocation.zones.keys():
                assert before.allocation.zones[owner] == after.allocation.zones[owner]
            for counter, handle in _counters(kernel).items():
                assert handle == counted.get(counter, handle)
        before = after


def _counters(kernel: Recorder) -> dict[object, object]:
    """The rules that count for a backend and where they stand, with their numbers in the kernel."""
    snapshot = kernel.snapshot()
    return {
        (family, name, chain.rules): snapshot.rules[family, name]
        for family, table in snapshot.ruleset.tables.items()
        for name, chain in table.chains.items()
        if name.startswith("backend/")
    }


# --- cases to remember -----------------------------------------------------------------------------------------------


HOST_ONLY = pool("dns", "192.0.2.53:53/udp", backends("10.0.0.21", "10.0.0.22"))
WITH_PORT = pool("dns", "192.0.2.53:53/udp", backends("10.0.0.11:5353", "10.0.0.12:5353"))
STATELESS = pool("dns", "192.0.2.53:53/udp", backends("10.0.0.11:5353", "10.0.0.12:5353"), forward=Forward.STATELESS)
MOVED = (pool("a", "192.0.2.53:53/udp", backends("10.0.0.1:1")), pool("b", "192.0.2.53:54/udp", backends("10.0.0.2:2")))
MOVED_BACK = (
    pool("a", "192.0.2.53:54/udp", backends("10.0.0.1:1")),
    pool("b", "192.0.2.53:53/udp", backends("10.0.0.2:2")),
)


def ruleset(*pools_: Pool, down: tuple[str, ...] = ()) -> Ruleset:
    compiled = Compiled(config(*pools_))
    return compiled.ruleset(Membership.with_down((pools_[0].name, one) for one in down))


def rules(kernel: Recorder, chain: str) -> tuple[str, ...]:
    return kernel.list(TABLE)[IP].table.chains[chain].rules


def chains(kernel: Recorder) -> set[str]:
    return set(kernel.list(TABLE)[IP].table.chains)


def test_the_first_swap_is_one_transaction() -> None:
    """From nothing to a whole ruleset in one step, and without waiting."""
    kernel = Recorder()

    assert 1 == len(kernel.swap(ruleset(DNS)).transactions)
    assert 0 == kernel.waits


def test_a_change_of_membership_touches_only_two_chains() -> None:
    """The new version is added and the entry chain led there; the old version stays for the packets on their way."""
    kernel = Recorder()
    kernel.swap(ruleset(WITH_PORT))
    old = chains(kernel)

    swap = kernel.swap(ruleset(WITH_PORT, down=("b1",)))
    new = (chains(kernel) - old).pop()

    steps = (
        f"add chain ip nftlb {new}",
        "flush chain ip nftlb pool/dns",
        f'add rule ip nftlb pool/dns goto {new} comment "b2"',
        f"add rule ip nftlb {new} goto backend/dns/b2",
    )
    assert ("".join(f"{step}\n" for step in steps),) == swap.transactions
    assert old < chains(kernel)


def test_nothing_differs_so_nothing_is_done() -> None:
    """The same target again is no transaction, and is not waited for; neither for a swapper that begins anew."""
    kernel = Recorder()
    kernel.swap(ruleset(DNS))
    generation = kernel.generation()

    assert not kernel.swap(ruleset(DNS))
    assert not Swapper(kernel, TABLE, kernel.wait).swap(ruleset(DNS))
    assert (generation, 0) == (kernel.generation(), kernel.waits)


def test_leftovers_go_with_a_later_swap() -> None:
    """An old version is deleted by the first swap that comes after the grace period, and by none before."""
    kernel = Recorder()
    first, second = ruleset(WITH_PORT), ruleset(WITH_PORT, down=("b1",))
    kernel.swap(first)
    version = next(name for name in chains(kernel) if name.startswith("pool/dns/"))
    kernel.swap(second)

    kernel.now += GRACE / 2
    kernel.swap(ruleset(WITH_PORT, down=("b2",)))
    assert version in chains(kernel)
    kernel.now += GRACE / 2
    kernel.swap(second)
    assert version not in chains(kernel)


def test_back_and_forth_uses_what_is_still_there() -> None:
    """A -> B -> A before B's packets are through: A's version was left over, is used again, and stays."""
    kernel = Recorder()
    first, second = ruleset(WITH_PORT), ruleset(WITH_PORT, down=("b1",))
    for target in (first, second, first):
        kernel.swap(target)
    kernel.now += GRACE
    kernel.swap(first)

    assert comparable(first.tables) == present(kernel)


def test_what_was_used_again_is_young_again() -> None:
    """A version that goes out of use for the second time is not taken for an old leftover."""
    kernel = Recorder()
    first, second = ruleset(WITH_PORT), ruleset(WITH_PORT, down=("b1",))
    for target in (first, second, first):
        kernel.swap(target)
        kernel.now += 0.6 * GRACE
    version = next(name for name in first.tables[IP].chains if name.startswith("pool/dns/"))

    kernel.swap(second)

    assert version in chains(kernel)


OTHER = pool("other", "192.0.2.53:99/udp", backends("10.0.9.9:9"))
OTHER_STATELESS = pool("other", "192.0.2.53:99/udp", backends("10.0.9.9:9"), forward=Forward.STATELESS)


@pytest.mark.parametrize(
    "pools",
    [
        # The chain that an element leads to is old, and the element, whose whole map has just been left over.
        [(STATELESS, OTHER_STATELESS), (STATELESS,), (STATELESS,), (WITH_PORT,)],
        # A map is old, but a rule that was kept still looks it up, in a chain that has just been left over.
        [(WITH_PORT,), (HOST_ONLY,), (STATELESS,)],
    ],
    ids=["element", "rule"],
)
def test_leftovers_of_different_ages_go_as_they_can(pools: list[tuple[Pool, ...]]) -> None:
    """What is old enough to go, but is still referred to by what is not, does not make a swap fail."""
    kernel = Recorder()
    for some in pools:
        kernel.swap(ruleset(*some))
        kernel.now += GRACE
    kernel.sweep()

    assert comparable(ruleset(*pools[-1]).tables) == present(kernel)


def test_later_hooks_keep_their_rules_for_packets_that_passed_the_first() -> None:
    """A packet that was given a zone by the old rules finds its translation in the new ones, until it is swept."""
    kernel = Recorder()
    kernel.swap(ruleset(WITH_PORT))
    old = rules(kernel, "prerouting")
    kernel.swap(ruleset(HOST_ONLY))
    new = ruleset(HOST_ONLY).tables[IP].chains["prerouting"].rules

    assert (*new, *old) == rules(kernel, "prerouting")
    kernel.sweep()
    assert new == rules(kernel, "prerouting")


def test_sweeping_shuts_the_door_first() -> None:
    """The elements that let packets in go in a transaction of their own, and what they lead to only in the next."""
    kernel = Recorder()
    kernel.swap(ruleset(WITH_PORT, OTHER))
    kernel.swap(ruleset(WITH_PORT))

    door, rest = kernel.sweep().transactions

    assert "delete element ip nftlb services { 192.0.2.53 . udp . 99 }\n" == door
    assert "delete chain ip nftlb pool/other\n" in rest
    assert 2 == kernel.waits


def test_sweeping_waits_for_nothing_that_is_long_over() -> None:
    """What has been left over for long enough needs no wait; what a change of the moment left over does."""
    kernel = Recorder()
    compiled = Compiled(config(DNS))
    one, other = (compiled.ruleset(Membership.with_down([("dns", name)])) for name in ("b1", "b2"))
    kernel.swap(one)
    kernel.swap(other)
    kernel.now += GRACE
    assert kernel.sweep()
    assert 0 == kernel.waits
    kernel.swap(one)
    assert kernel.sweep()
    assert 1 == kernel.waits


def test_the_door_is_shut_first_without_sweeping_too() -> None:
    """What packets are still let in to grows old only from when they are not."""
    kernel = Recorder()
    kernel.swap(ruleset(WITH_PORT, OTHER))
    kernel.swap(ruleset(WITH_PORT))
    removed: list[str] = []
    for _ in range(2):
        kernel.now += GRACE
        removed += kernel.swap(ruleset(WITH_PORT)).transactions

    assert ["delete element ip nftlb services { 192.0.2.53 . udp . 99 }\n"] == removed[:1]
    assert comparable(ruleset(WITH_PORT).tables) == present(kernel)


def test_a_fast_path_that_is_no_more_takes_no_packets() -> None:
    """The chains at which packets come in are emptied at once where the target has none, not only when it is swept."""
    kernel = Recorder()
    near = backends("10.0.0.11", device="eth1")
    kernel.swap(ruleset(pool("dns", "192.0.2.53:53/udp", near, forward=Forward.DSR, ingress=("eth0",))))

    kernel.swap(ruleset(pool("dns", "192.0.2.53:53/udp", near, forward=Forward.DSR)))

    assert () == kernel.list(TABLE)[TableFamily.NETDEV].table.chains["ingress-eth0"].rules


def test_an_element_gets_other_data_by_a_detour() -> None:
    """Listeners that change pools: the map is rebuilt under another name before it is touched."""
    kernel = Recorder()
    kernel.swap(ruleset(*MOVED))

    around, *_, back = kernel.swap(ruleset(*MOVED_BACK)).transactions

    assert "add map ip nftlb services-next" in around
    assert "vmap @services-next" in around
    assert "delete element ip nftlb services {" not in around
    assert "delete element ip nftlb services-next" not in back
    assert "vmap @services\n" in back


def test_one_detour_waits_for_the_packets_of_another() -> None:
    """The stand-in of a map is not rewritten while packets may still be looking at it."""
    kernel = Recorder()
    kernel.swap(ruleset(*MOVED))
    kernel.swap(ruleset(*MOVED_BACK))
    waited = kernel.waits
    kernel.swap(ruleset(*MOVED))

    assert waited < next(generation.waits for generation in kernel.generations if generation.target == 3)


def test_a_detour_that_was_cut_short_is_no_trap() -> None:
    """A swap that fails half-way leaves rules on the detour; whatever comes next still loses nothing."""
    kernel = Recorder()
    kernel.swap(ruleset(*MOVED))
    kernel.fail_after(1)
    with pytest.raises(KernelError):
        kernel.swap(ruleset(*MOVED_BACK))
    assert ("ip daddr . meta l4proto . th dport vmap @services-next",) == rules(kernel, "prerouting-raw")

    for target in (ruleset(*MOVED), ruleset(*MOVED_BACK)):
        kernel.swap(target)
        kernel.sweep()
        assert comparable(target.tables) == present(kernel)


def test_what_others_do_is_noticed_and_mended() -> None:
    """`nft flush ruleset`, and edits in our tables, show in the generation; the next swap sets things right."""
    kernel = Recorder()
    target = ruleset(DNS, HOST_ONLY_TOO)
    edits = [
        Transaction(TABLE, (FlushChain(IP, "prerouting-raw"),)),
        Transaction(TABLE, (DeleteElements(IP, "targets", (Element("original . 1"),)),)),
        Transaction(TABLE, (FlushChain(IP, "prerouting-raw"), DeleteChain(IP, "prerouting-raw"))),
        Transaction(TABLE, (AddRules(IP, Chain("postrouting", ("counter drop",))),)),
        Transaction(TABLE, (AddRules(IP, Chain("pool/dns", ("accept",))),)),
        Transaction(TABLE, (DeleteTable(IP),)),
    ]
    kernel.swap(target)
    for edit in edits:
        kernel.apply(edit)
        assert kernel.swap(target) or kernel.sweep()
        kernel.sweep()
        assert comparable(target.tables) == present(kernel)
    kernel.flush()

    assert kernel.swap(target)
    assert comparable(target.tables) == present(kernel)


HOST_ONLY_TOO = pool("more", "192.0.2.53:99/udp", (backend("x", "10.0.9.9"),))


def test_what_others_do_right_behind_our_back_is_noticed() -> None:
    """A foreign transaction between ours and the look at the generation: what is known is not trusted."""
    kernel = Recorder()
    kernel.swap(ruleset(DNS))
    target = ruleset(DNS, down=("b1",))
    kernel.interloper = Transaction(TABLE, (FlushChain(IP, "pool/dns"),))
    kernel.swap(target)

    assert kernel.swap(target)
    assert target.tables[IP].chains["pool/dns"].rules == rules(kernel, "pool/dns")


def test_what_others_do_elsewhere_is_no_reason_to_act() -> None:
    """A foreign transaction on another table makes the swapper look, and find nothing to do."""
    kernel = Recorder()
    kernel.swap(ruleset(DNS))
    kernel.apply(Transaction("foreign", (AddTable(IP, anew=False),)))

    assert not kernel.swap(ruleset(DNS))


def test_what_is_known_is_kept_when_somebody_vouches_for_it() -> None:
    """Then a foreign transaction costs no listing; the next one is vouched for from there, and ours need nobody."""
    asked: list[tuple[int, int]] = []

    def vouches(since: int, now: int) -> bool:
        asked.append((since, now))
        return True

    kernel = FakeNft()
    swapper = Swapper(kernel, TABLE, lambda: None, vouches=vouches)
    swapper.swap(ruleset(DNS))
    first = kernel.generation()
    with patch.object(kernel, "list", side_effect=AssertionError("listed")):
        for down in ("b1", "b2"):
            kernel.apply(Transaction("foreign", (AddTable(IP, anew=False),)))
            assert swapper.swap(ruleset(DNS, down=(down,)))

    assert [(first, first + 1), (first + 2, first + 3)] == asked


def test_whether_our_tables_were_left_alone() -> None:
    """Until somebody writes for whom nobody vouches; a sweep that sees it puts nothing right, and hides nothing."""
    kernel = FakeNft()
    swapper = Swapper(kernel, TABLE, lambda: None, vouches=lambda _since, _now: vouched)
    vouched = True
    target = ruleset(DNS)
    assert not swapper.untouched()
    swapper.swap(target)
    kernel.flush()
    assert swapper.untouched()  # so it was said

    vouched = False
    assert not swapper.untouched()
    swapper.sweep(target)
    assert not swapper.untouched()
    assert swapper.swap(target)
    assert swapper.untouched()


def test_what_is_not_vouched_for_is_read_anew() -> None:
    """So an edit of ours by another hand is mended."""
    kernel = Recorder()
    kernel.swap(ruleset(DNS))
    kernel.swapper.vouches = lambda _since, _now: False
    kernel.apply(Transaction(TABLE, (FlushChain(IP, "pool/dns"),)))

    assert kernel.swap(ruleset(DNS))
    assert ruleset(DNS).tables[IP].chains["pool/dns"].rules == rules(kernel, "pool/dns")


def test_a_refused_transaction_changes_nothing() -> None:
    """The error is the caller's, the kernel stays as it was, and the same swap later succeeds."""
    kernel = Recorder()
    kernel.swap(ruleset(DNS))
    before = present(kernel)
    target = ruleset(DNS, down=("b1",))
    kernel.fail_next("Device or resource busy")

    with pytest.raises(KernelError, match="busy"):
        kernel.swap(target)

    assert before == present(kernel)
    assert kernel.swap(target)
    kernel.sweep()
    assert comparable(target.tables) == present(kernel)


def test_to_nothing_and_back() -> None:
    """An empty target takes every table away, and the way back is open."""
    kernel = Recorder()
    kernel.swap(ruleset(DNS))
    kernel.swap(Ruleset(TABLE))
    kernel.sweep()
    assert {} == kernel.list(TABLE)

    kernel.swap(ruleset(DNS))
    assert comparable(ruleset(DNS).tables) == present(kernel)
