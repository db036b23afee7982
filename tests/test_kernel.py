"""The imagined kernel and the real one: the same cases, the same answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from comparing import Comparable, comparable
from kernel_cases import (
    CHAINS,
    COUNTING,
    GROUND,
    IP,
    POOL,
    REFUSED,
    SETS,
    TABLE,
    TAKEN,
    VERSION,
    Case,
    transaction,
)
from real_kernel import Inside, real_kernel

from nftlb.errors import KernelError
from nftlb.kernel import libnftables
from nftlb.kernel.fake import FakeNft
from nftlb.kernel.values import of_newer_nft
from nftlb.ruleset import Chain, Count, Element, Ruleset, Set, Table, TableFamily, file_text
from nftlb.swap import Transaction
from nftlb.swap.operations import (
    AddChain,
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
    from collections.abc import Iterator

    from nftlb.kernel import Kernel


@pytest.fixture(scope="module")
def resident() -> Iterator[Inside]:
    """The real kernel, in a network namespace that nobody else knows."""
    with real_kernel() as kernel:
        yield kernel


@pytest.fixture
def real(resident: Inside) -> Inside:
    """The real kernel, with the ground of the cases and nothing else."""
    resident.apply(Transaction(TABLE, tuple(map(DeleteTable, resident.list(TABLE)))))
    resident.apply(GROUND)
    return resident


@pytest.fixture
def fake() -> FakeNft:
    """The imagined kernel, with the ground of the cases."""
    kernel = FakeNft()
    kernel.apply(GROUND)
    return kernel


@pytest.fixture(params=["fake", "real"])
def kernel(request: pytest.FixtureRequest) -> Kernel:
    """Each of the two."""
    found: Kernel = request.getfixturevalue(request.param)
    return found


def world(kernel: Kernel) -> Comparable:
    """All there is, in a form that can be compared."""
    return comparable({family: listing.table for family, listing in kernel.list(TABLE).items()})


@pytest.mark.parametrize("case", REFUSED, ids=str)
def test_what_must_not_be_is_refused_and_changes_nothing(kernel: Kernel, case: Case) -> None:
    """A transaction with a step that can't be done is a KernelError; tables and generation stay as they were."""
    before = world(kernel), kernel.generation()

    with pytest.raises(KernelError):
        kernel.apply(transaction(*case.operations))

    assert before == (world(kernel), kernel.generation())


@pytest.mark.parametrize("case", TAKEN, ids=str)
def test_what_may_be_is_done_and_counts_as_one_generation(real: Inside, fake: FakeNft, case: Case) -> None:
    """A transaction is taken by both kernels, which then have the same tables, one generation later."""
    before = real.generation(), fake.generation()

    real.apply(transaction(*case.operations))
    fake.apply(transaction(*case.operations))

    assert world(real) == world(fake)
    assert (before[0] + 1, before[1] + 1) == (real.generation(), fake.generation())


def test_no_operation_is_no_transaction(kernel: Kernel) -> None:
    """Nothing to do is nothing done: the generation stays."""
    generation = kernel.generation()

    kernel.apply(transaction())

    assert generation == kernel.generation()


def test_a_listing_is_what_was_applied(kernel: Kernel) -> None:
    """Sets, elements with their comments, chains and rules come back as they were given."""
    expected = Table(IP, TABLE, {one.name: one for one in SETS}, {chain.name: chain for chain in CHAINS})

    assert comparable({IP: expected}) == world(kernel)


def test_tables_of_another_name_are_not_listed(kernel: Kernel) -> None:
    """A listing holds the tables of the name that was asked for."""
    kernel.apply(Transaction("other", (AddTable(IP),)))

    assert [IP] == list(kernel.list(TABLE))
    assert {} == kernel.list("nobody")


def test_an_element_that_stays_keeps_its_comment(kernel: Kernel) -> None:
    """Adding an element again, with another comment, is accepted and changes nothing."""
    kernel.apply(transaction(AddElements(IP, "backends", (Element("1", comment="somebody else"),))))

    assert {"1": "dns/ns1", "2": "dns/ns2"} == {
        element.key: element.comment for element in kernel.list(TABLE)[IP].table.sets["backends"].elements
    }


def test_counters_begin_at_zero(kernel: Kernel) -> None:
    """Every backend with a counter is there: by the element's comment, or by the chain of its own."""
    assert {"dns/ns1": Count(0, 0), "dns/ns2": Count(0, 0)} == kernel.counters(TABLE)


def test_check_takes_a_transaction_and_changes_nothing(kernel: Kernel) -> None:
    """Text that could be applied passes, and is not applied."""
    before = world(kernel), kernel.generation()

    kernel.check(transaction(AddTable(TableFamily.IP6), *GROUND.operations, AddChain(IP, Chain("new"))).text)

    assert before == (world(kernel), kernel.generation())


@pytest.mark.parametrize("case", REFUSED, ids=str)
def test_check_refuses_what_apply_refuses(kernel: Kernel, case: Case) -> None:
    """A transaction's text is judged like the transaction."""
    with pytest.raises(KernelError):
        kernel.check(transaction(*case.operations).text)


def test_check_takes_a_whole_file(kernel: Kernel) -> None:
    """The file that replaces all tables passes, though they are there."""
    table = kernel.list(TABLE)[IP].table

    kernel.check(file_text(Ruleset(TABLE, {IP: table})))


@pytest.mark.parametrize(
    "text", ["add tabel ip x", "add chain ip", "add table ipx x", "delete everything", "table ip x {"]
)
def test_check_refuses_what_is_no_nft_text(kernel: Kernel, text: str) -> None:
    """Commands that nft does not have are refused."""
    with pytest.raises(KernelError):
        kernel.check(text)


# --- what only the imagined kernel has --------------------------------------------------------------------


def test_a_chain_with_rules_stays(fake: FakeNft) -> None:
    """The real kernel deletes the rules along with their chain, against its manual; nobody should rely on it."""
    with pytest.raises(KernelError, match="has rules"):
        fake.apply(transaction(DeleteChain(IP, COUNTING.name)))


def test_no_range_may_be_within_another(fake: FakeNft) -> None:
    """The real kernel overlooks a range that encloses another; which of them it then finds, is anybody's guess."""
    with pytest.raises(KernelError, match="overlaps"):
        fake.apply(transaction(AddElements(IP, "ranges", (Element("192.0.2.1 . udp . 1-3000", "accept"),))))


def test_a_failure_can_be_ordered(fake: FakeNft) -> None:
    """The next transaction fails with the message given; the one after it does not."""
    before = world(fake), fake.generation()
    fake.fail_next("Device or resource busy")

    with pytest.raises(KernelError, match="Device or resource busy"):
        fake.apply(GROUND)

    assert before == (world(fake), fake.generation())
    fake.apply(GROUND)


def test_others_may_flush_everything(fake: FakeNft) -> None:
    """After a foreign `nft flush ruleset` nothing is left, and the generation has moved by one."""
    generation = fake.generation()

    fake.flush()

    assert ({}, generation + 1) == (fake.list(TABLE), fake.generation())


def test_what_is_replaced_is_another_thing(fake: FakeNft) -> None:
    """Handles tell a rule and a set from its successor, even if both read the same; others keep theirs."""
    before = fake.handles(IP, TABLE)
    spare = Set("spare", "type ipv4_addr")

    fake.apply(transaction(FlushChain(IP, POOL.name), AddRules(IP, POOL), DeleteSet(IP, spare), AddSet(IP, spare)))
    after = fake.handles(IP, TABLE)

    assert before.rules[POOL.name] != after.rules[POOL.name]
    assert before.rules[VERSION.name] == after.rules[VERSION.name]
    assert ["spare"] == [name for name in before.sets if before.sets[name] != after.sets[name]]


def test_what_is_sent_is_counted(fake: FakeNft) -> None:
    """Packets add up under their owner, for as long as that is there, and are no transaction."""
    generation = fake.generation()

    fake.send(IP, TABLE, "dns/ns2", 3, 300)
    fake.send(IP, TABLE, "dns/ns2", 1, 100)

    assert {"dns/ns1": Count(0, 0), "dns/ns2": Count(4, 400)} == fake.counters(TABLE)
    assert generation == fake.generation()


def test_a_new_element_counts_from_zero(fake: FakeNft) -> None:
    """A counter goes with its element."""
    fake.send(IP, TABLE, "dns/ns2", 3, 300)
    second = (Element("2", comment="dns/ns2"),)

    fake.apply(transaction(DeleteElements(IP, "backends", second), AddElements(IP, "backends", second)))

    assert Count(0, 0) == fake.counters(TABLE)["dns/ns2"]


# What nft 1.1.2 and later leave beside a set that was declared by `type`; earlier ones crash on it.
LEFT_BY_NEWER = bytes.fromhex("0004010000000104000000000308000404000000010004080004010000000100060400000000")


@pytest.mark.parametrize(("version", "crashes"), [("1.0.6", True), ("1.1.1", True), ("1.1.2", False), ("1.1.7", False)])
def test_an_older_nft_is_kept_from_what_a_newer_one_made(
    resident: Inside, real: Inside, monkeypatch: pytest.MonkeyPatch, version: str, crashes: bool
) -> None:
    """It is told instead of a crash; reading needs no nft."""
    assert of_newer_nft(LEFT_BY_NEWER)
    monkeypatch.setattr(libnftables, "read_version", lambda: version)
    resident.list(TABLE)
    monkeypatch.setattr(resident.kernel._readers[TABLE], "newer", True)
    change = transaction(AddChain(IP, Chain("more")))

    if not crashes:
        real.apply(change)
        return
    with pytest.raises(KernelError, match=f"libnftables {version} would crash"):
        real.apply(change)
    assert [IP] == list(real.list(TABLE))
