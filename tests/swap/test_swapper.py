"""Swaps between rulesets in difficult cases: detours, leftovers, and writes of other programs."""

from __future__ import annotations

from typing import TYPE_CHECKING
from unittest.mock import patch

import pytest
from fake_kernel import FakeNft
from pool_builders import DNS, backend, backends, config, pool
from recording_kernel import GRACE, TABLE, Recorder
from table_comparison import comparable

from nftlb.compiler import Compiled
from nftlb.errors import KernelError
from nftlb.model import Forward, Membership
from nftlb.ruleset import Chain, Element, Elements, Operation, Rules, Ruleset, TableFamily, Transaction, Verb
from nftlb.swap import Swapper

if TYPE_CHECKING:
    from nftlb.model import Pool

IP = TableFamily.IP
HOST_ONLY = pool("dns", "192.0.2.53:53/udp", backends("10.0.0.21", "10.0.0.22"))
WITH_PORT = pool("dns", "192.0.2.53:53/udp", backends("10.0.0.11:5353", "10.0.0.12:5353"))
THREE = pool("dns", "192.0.2.53:53/udp", backends("10.0.0.11:5353", "10.0.0.12:5353", "10.0.0.13:5353"))
STATELESS = pool("dns", "192.0.2.53:53/udp", backends("10.0.0.11:5353", "10.0.0.12:5353"), forward=Forward.STATELESS)
MOVED = (pool("a", "192.0.2.53:53/udp", backends("10.0.0.1:1")), pool("b", "192.0.2.53:54/udp", backends("10.0.0.2:2")))
MOVED_BACK = (
    pool("a", "192.0.2.53:54/udp", backends("10.0.0.1:1")),
    pool("b", "192.0.2.53:53/udp", backends("10.0.0.2:2")),
)


def ruleset(*pools_: Pool, down: tuple[str, ...] = ()) -> Ruleset:
    compiled = Compiled(config(*pools_))
    return compiled.ruleset(Membership.with_down((pools_[0].name, name) for name in down))


def rules(kernel: Recorder, chain: str) -> tuple[str, ...]:
    return kernel.list(TABLE)[IP].table.chains[chain].rules


def maps(kernel: Recorder) -> set[str]:
    """Return the names of the maps of all versions of the pool."""
    return {name for name in kernel.list(TABLE)[IP].table.sets if name.startswith("pool/dns/")}


def test_the_first_swap_is_one_transaction() -> None:
    """The first swap is one transaction without a wait."""
    kernel = Recorder()

    assert 1 == len(kernel.swap(ruleset(DNS)).transactions)
    assert 0 == kernel.waits


def test_a_change_of_membership_touches_one_map_and_two_rules() -> None:
    """A new map is added, and two rules use it; the old map stays for packets in the hooks."""
    kernel = Recorder()
    kernel.swap(ruleset(THREE))
    old = maps(kernel)

    swap = kernel.swap(ruleset(THREE, down=("b1",)))
    new = (maps(kernel) - old).pop()

    draw = f'ip daddr 192.0.2.53 ip protocol udp udp dport 53 numgen inc mod 2 vmap @{new} comment "1 service; b2, b3"'
    slots = "0 : goto backend/dns/b2, 1 : goto backend/dns/b3, 16777216 : goto backend/dns/b3"
    steps = (
        f"add map ip nftlb {new} {{ typeof numgen inc mod 2 : verdict; size 3; elements = {{ {slots} }} ; }}",
        "flush chain ip nftlb prerouting-raw",
        f"add rule ip nftlb prerouting-raw {draw}",
        "flush chain ip nftlb output-raw",
        f"add rule ip nftlb output-raw {draw}",
    )
    assert ("".join(f"{step}\n" for step in steps),) == swap.transactions
    assert old < maps(kernel)


def test_a_single_target_needs_no_map() -> None:
    """With one backend left, the entry chain leads straight to this backend."""
    kernel = Recorder()
    kernel.swap(ruleset(WITH_PORT, down=("b1",)))

    assert set() == maps(kernel)
    assert ["goto backend/dns/b2 comment"] == [
        rule.partition("dport 53 ")[2].partition(' "')[0] for rule in rules(kernel, "prerouting-raw")
    ]


def test_an_equal_target_causes_no_transaction() -> None:
    """The same target again causes no transaction and no wait, also for a new Swapper."""
    kernel = Recorder()
    kernel.swap(ruleset(DNS))
    generation = kernel.generation()

    assert not kernel.swap(ruleset(DNS))
    assert not Swapper(kernel, TABLE, kernel.wait).swap(ruleset(DNS))
    assert (generation, 0) == (kernel.generation(), kernel.waits)


def test_leftovers_are_deleted_by_a_later_swap() -> None:
    """An old version is deleted by the first swap after the grace period, and not before."""
    kernel = Recorder()
    first, second = ruleset(WITH_PORT), ruleset(WITH_PORT, down=("b1",))
    kernel.swap(first)
    (version,) = maps(kernel)
    kernel.swap(second)

    kernel.now += GRACE / 2
    kernel.swap(ruleset(WITH_PORT, down=("b2",)))
    assert version in maps(kernel)
    kernel.now += GRACE / 2
    kernel.swap(second)
    assert version not in maps(kernel)


def test_a_leftover_version_is_used_again() -> None:
    """A version that is left over and used again stays."""
    kernel = Recorder()
    first, second = ruleset(WITH_PORT), ruleset(WITH_PORT, down=("b1",))
    for target in (first, second, first):
        kernel.swap(target)
    kernel.now += GRACE
    kernel.swap(first)

    assert comparable(first.tables) == kernel.comparable()


def test_the_age_of_a_reused_leftover_starts_again() -> None:
    """The age of a leftover starts again when its version goes out of use for the second time."""
    kernel = Recorder()
    first, second = ruleset(WITH_PORT), ruleset(WITH_PORT, down=("b1",))
    for target in (first, second, first):
        kernel.swap(target)
        kernel.now += 0.6 * GRACE
    version = next(name for name in first.tables[IP].sets if name.startswith("pool/dns/"))

    kernel.swap(second)

    assert version in maps(kernel)


LOOKED_UP = patch("nftlb.compiler.layout.MOST_DIRECT", 0)
"""Makes the compiler look services up in the map, as for many services."""
KEPT = pool("kept", "192.0.2.53:98/udp", backends("10.0.9.8:9"))
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
def test_leftovers_are_deleted_after_leftovers_that_refer_to_them(pools: list[tuple[Pool, ...]]) -> None:
    """An old leftover to which a younger leftover refers stays, and the swap succeeds."""
    kernel = Recorder()
    for some in pools:
        kernel.swap(ruleset(*some))
        kernel.now += GRACE
    kernel.remove_leftovers()

    assert comparable(ruleset(*pools[-1]).tables) == kernel.comparable()


def test_later_hooks_keep_their_rules_for_packets_that_passed_the_first() -> None:
    """Later hooks keep rules for packets that got their zone by the old rules, until leftovers are deleted."""
    kernel = Recorder()
    kernel.swap(ruleset(WITH_PORT))
    old = rules(kernel, "prerouting")
    kernel.swap(ruleset(HOST_ONLY))
    new = ruleset(HOST_ONLY).tables[IP].chains["prerouting"].rules

    assert (*new, *old) == rules(kernel, "prerouting")
    kernel.remove_leftovers()
    assert new == rules(kernel, "prerouting")


@LOOKED_UP
def test_sweeping_deletes_entry_elements_first() -> None:
    """Entry elements are deleted in a transaction before their targets."""
    kernel = Recorder()
    kernel.swap(ruleset(WITH_PORT, KEPT, OTHER))
    kernel.swap(ruleset(WITH_PORT, KEPT))

    door, rest = kernel.remove_leftovers().transactions

    assert "delete element ip nftlb services { 192.0.2.53 . udp . 99 }\n" == door
    assert "delete chain ip nftlb pool/other\n" in rest
    assert 2 == kernel.waits


def test_sweeping_does_not_wait_for_old_leftovers() -> None:
    """Old leftovers are deleted without a wait, new leftovers with a wait."""
    kernel = Recorder()
    compiled = Compiled(config(THREE))
    first, second = (compiled.ruleset(Membership.with_down([("dns", name)])) for name in ("b1", "b2"))
    kernel.swap(first)
    kernel.swap(second)
    kernel.now += GRACE
    assert kernel.remove_leftovers()
    assert 0 == kernel.waits
    kernel.swap(first)
    assert kernel.remove_leftovers()
    assert 1 == kernel.waits


@LOOKED_UP
def test_a_swap_deletes_entry_elements_first() -> None:
    """The age of a leftover starts when packets can't enter it any more."""
    kernel = Recorder()
    kernel.swap(ruleset(WITH_PORT, KEPT, OTHER))
    kernel.swap(ruleset(WITH_PORT, KEPT))
    removed: list[str] = []
    for _ in range(2):
        kernel.now += GRACE
        removed += kernel.swap(ruleset(WITH_PORT, KEPT)).transactions

    assert ["delete element ip nftlb services { 192.0.2.53 . udp . 99 }\n"] == removed[:1]
    assert comparable(ruleset(WITH_PORT, KEPT).tables) == kernel.comparable()


def test_a_removed_fast_path_gets_no_packets() -> None:
    """First chains that the target lacks are emptied by the swap itself."""
    kernel = Recorder()
    near = backends("10.0.0.11", device="eth1")
    kernel.swap(ruleset(pool("dns", "192.0.2.53:53/udp", near, forward=Forward.DSR, ingress=("eth0",))))

    kernel.swap(ruleset(pool("dns", "192.0.2.53:53/udp", near, forward=Forward.DSR)))

    assert () == kernel.list(TABLE)[TableFamily.NETDEV].table.chains["ingress-eth0"].rules


@LOOKED_UP
def test_an_element_is_changed_by_a_detour() -> None:
    """If listeners change their pools, the map is built under another name first."""
    kernel = Recorder()
    kernel.swap(ruleset(*MOVED))

    around, *_, back = kernel.swap(ruleset(*MOVED_BACK)).transactions

    assert "add map ip nftlb services-next" in around
    assert "vmap @services-next" in around
    assert "delete element ip nftlb services {" not in around
    assert "delete element ip nftlb services-next" not in back
    assert "vmap @services comment" in back


def test_a_detour_waits_for_packets_of_the_detour_before() -> None:
    """The substitute of a map is not changed while packets may look it up."""
    kernel = Recorder()
    kernel.swap(ruleset(*MOVED))
    kernel.swap(ruleset(*MOVED_BACK))
    waited = kernel.waits
    kernel.swap(ruleset(*MOVED))

    assert waited < next(generation.waits for generation in kernel.generations if generation.target == 3)


@LOOKED_UP
def test_after_a_failed_detour_the_next_swap_loses_nothing() -> None:
    """After a swap that failed on a detour, the next swap loses no packet."""
    kernel = Recorder()
    kernel.swap(ruleset(*MOVED))
    kernel.fail_after(1)
    with pytest.raises(KernelError):
        kernel.swap(ruleset(*MOVED_BACK))
    assert "vmap @services-next comment" in rules(kernel, "address/192.0.2.53")[0]

    for target in (ruleset(*MOVED), ruleset(*MOVED_BACK)):
        kernel.swap(target)
        kernel.remove_leftovers()
        assert comparable(target.tables) == kernel.comparable()


def test_foreign_changes_are_undone_by_the_next_swap() -> None:
    """Changes by other programs show in the generation number, and the next swap undoes them."""
    kernel = Recorder()
    target = ruleset(DNS, HOST_ONLY_TOO)
    edits = [
        Transaction(TABLE, (Operation(Verb.FLUSH, IP, Chain("prerouting-raw")),)),
        Transaction(TABLE, (Operation(Verb.DELETE, IP, Elements("targets", (Element("original . 1"),))),)),
        Transaction(
            TABLE,
            (Operation(Verb.FLUSH, IP, Chain("prerouting-raw")), Operation(Verb.DELETE, IP, Chain("prerouting-raw"))),
        ),
        Transaction(TABLE, (Operation(Verb.ADD, IP, Rules("postrouting", ("counter drop",))),)),
        Transaction(TABLE, (Operation(Verb.ADD, IP, Rules("pool/dns", ("accept",))),)),
        Transaction(TABLE, (Operation(Verb.DELETE, IP),)),
    ]
    kernel.swap(target)
    for edit in edits:
        kernel.apply(edit)
        assert kernel.swap(target) or kernel.remove_leftovers()
        kernel.remove_leftovers()
        assert comparable(target.tables) == kernel.comparable()
    kernel.flush()

    assert kernel.swap(target)
    assert comparable(target.tables) == kernel.comparable()


HOST_ONLY_TOO = pool("more", "192.0.2.53:99/udp", (backend("x", "10.0.9.9"),))


def test_a_foreign_transaction_right_after_ours_is_noticed() -> None:
    """After a foreign transaction right after ours, our tables are listed again."""
    kernel = Recorder()
    kernel.swap(ruleset(DNS))
    target = ruleset(DNS, down=("b1",))
    kernel.interloper = Transaction(TABLE, (Operation(Verb.FLUSH, IP, Chain("prerouting-raw")),))
    kernel.swap(target)

    assert kernel.swap(target)
    assert target.tables[IP].chains["prerouting-raw"].rules == rules(kernel, "prerouting-raw")


def test_foreign_changes_of_other_tables_cause_no_transaction() -> None:
    """A foreign transaction on another table causes a listing, and no transaction."""
    kernel = Recorder()
    kernel.swap(ruleset(DNS))
    kernel.apply(Transaction("foreign", (Operation(Verb.ADD, IP),)))

    assert not kernel.swap(ruleset(DNS))


def test_a_confirmed_generation_needs_no_listing() -> None:
    """With a monitor that vouches, a foreign transaction causes no listing."""
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
            kernel.apply(Transaction("foreign", (Operation(Verb.ADD, IP),)))
            assert swapper.swap(ruleset(DNS, down=(down,)))

    assert [(first, first + 1), (first + 2, first + 3)] == asked


def test_unchanged_by_others_is_false_after_an_unknown_write() -> None:
    """unchanged_by_others() is False after an unknown write until the next swap, also after remove_leftovers()."""
    kernel = FakeNft()
    swapper = Swapper(kernel, TABLE, lambda: None, vouches=lambda _since, _now: vouched)
    vouched = True
    target = ruleset(DNS)
    assert not swapper.unchanged_by_others()
    swapper.swap(target)
    kernel.flush()
    assert swapper.unchanged_by_others()  # so it was said

    vouched = False
    assert not swapper.unchanged_by_others()
    swapper.remove_leftovers(target)
    assert not swapper.unchanged_by_others()
    assert swapper.swap(target)
    assert swapper.unchanged_by_others()


def test_an_unconfirmed_generation_is_listed_again() -> None:
    """Without a voucher, an edit of our tables is undone."""
    kernel = Recorder()
    kernel.swap(ruleset(DNS))
    kernel.swapper.vouches = lambda _since, _now: False
    kernel.apply(Transaction(TABLE, (Operation(Verb.FLUSH, IP, Chain("prerouting-raw")),)))

    assert kernel.swap(ruleset(DNS))
    assert ruleset(DNS).tables[IP].chains["prerouting-raw"].rules == rules(kernel, "prerouting-raw")


def test_a_refused_transaction_changes_nothing() -> None:
    """A refused transaction raises, leaves the kernel as it was, and the same swap succeeds later."""
    kernel = Recorder()
    kernel.swap(ruleset(DNS))
    before = kernel.comparable()
    target = ruleset(DNS, down=("b1",))
    kernel.fail_next("Device or resource busy")

    with pytest.raises(KernelError, match="busy"):
        kernel.swap(target)

    assert before == kernel.comparable()
    assert kernel.swap(target)
    kernel.remove_leftovers()
    assert comparable(target.tables) == kernel.comparable()


def test_an_empty_target_deletes_all_tables() -> None:
    """An empty target deletes every table, and a later swap adds them again."""
    kernel = Recorder()
    kernel.swap(ruleset(DNS))
    kernel.swap(Ruleset(TABLE))
    kernel.remove_leftovers()
    assert {} == kernel.list(TABLE)

    kernel.swap(ruleset(DNS))
    assert comparable(ruleset(DNS).tables) == kernel.comparable()
