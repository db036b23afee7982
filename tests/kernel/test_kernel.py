"""The fake kernel and the real kernel: the same cases give the same results."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from fake_kernel import FakeNft
from kernel_cases import (
    CHAINS,
    COUNTING,
    GROUND,
    IP,
    OBJECTS,
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
from table_comparison import Comparable, comparable

from nftlb.errors import KernelError
from nftlb.kernel import libnftables
from nftlb.kernel.values import of_newer_nft
from nftlb.ruleset import (
    AddressRanges,
    Chain,
    Count,
    Element,
    Elements,
    Operation,
    ReplyCount,
    Rules,
    Ruleset,
    Set,
    Table,
    TableFamily,
    Transaction,
    Verb,
    file_text,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nftlb.kernel import Kernel


@pytest.fixture(scope="module")
def resident() -> Iterator[Inside]:
    """The real kernel, in a separate network namespace."""
    with real_kernel() as kernel:
        yield kernel


@pytest.fixture
def real(resident: Inside) -> Inside:
    """The real kernel, with only the base objects of the cases."""
    resident.apply(Transaction(TABLE, tuple(Operation(Verb.DELETE, family) for family in resident.list(TABLE))))
    resident.apply(GROUND)
    return resident


@pytest.fixture
def fake() -> FakeNft:
    """The fake kernel, with the base objects of the cases."""
    kernel = FakeNft()
    kernel.apply(GROUND)
    return kernel


@pytest.fixture(params=["fake", "real"])
def kernel(request: pytest.FixtureRequest) -> Kernel:
    """The fake kernel and the real kernel, in turn."""
    found: Kernel = request.getfixturevalue(request.param)
    return found


def tables_of(kernel: Kernel) -> Comparable:
    """Return all tables, in a comparable form."""
    return comparable({family: listing.table for family, listing in kernel.list(TABLE).items()})


@pytest.mark.parametrize("case", REFUSED, ids=str)
def test_an_impossible_transaction_is_refused_and_changes_nothing(kernel: Kernel, case: Case) -> None:
    """A transaction with an impossible step raises KernelError; tables and generation stay unchanged."""
    before = tables_of(kernel), kernel.generation()

    with pytest.raises(KernelError):
        kernel.apply(transaction(*case.operations))

    assert before == (tables_of(kernel), kernel.generation())


@pytest.mark.parametrize("case", TAKEN, ids=str)
def test_an_accepted_transaction_is_one_generation(real: Inside, fake: FakeNft, case: Case) -> None:
    """Both kernels accept a transaction, and then have the same tables, one generation later."""
    before = real.generation(), fake.generation()

    real.apply(transaction(*case.operations))
    fake.apply(transaction(*case.operations))

    assert tables_of(real) == tables_of(fake)
    assert (before[0] + 1, before[1] + 1) == (real.generation(), fake.generation())


def test_an_empty_transaction_changes_nothing(kernel: Kernel) -> None:
    """An empty transaction changes nothing: the generation stays."""
    generation = kernel.generation()

    kernel.apply(transaction())

    assert generation == kernel.generation()


def test_a_listing_equals_the_loaded_objects(kernel: Kernel) -> None:
    """Sets, elements with comments, chains, rules and other objects are listed as they were loaded."""
    sets, chains = {set_.name: set_ for set_ in SETS}, {chain.name: chain for chain in CHAINS}
    expected = Table(IP, TABLE, sets, chains, {object_.key: object_ for object_ in OBJECTS})

    assert comparable({IP: expected}) == tables_of(kernel)


def test_tables_of_another_name_are_not_listed(kernel: Kernel) -> None:
    """A listing has only the tables of the given name."""
    kernel.apply(Transaction("other", (Operation(Verb.CREATE, IP),)))

    assert [IP] == list(kernel.list(TABLE))
    assert {} == kernel.list("unused")


def test_an_element_that_stays_keeps_its_comment(kernel: Kernel) -> None:
    """Adding an element again, with another comment, is accepted and changes nothing."""
    kernel.apply(transaction(Operation(Verb.ADD, IP, Elements("backends", (Element("1", comment="another program"),)))))

    assert {"1": "dns/ns1", "2": "dns/ns2"} == {
        element.key: element.comment for element in kernel.list(TABLE)[IP].table.sets["backends"].elements
    }


def test_counters_begin_at_zero(kernel: Kernel) -> None:
    """Every backend with a counter is found: by the element's comment, or by its own chain."""
    assert {"dns/ns1": Count(0, 0), "dns/ns2": Count(0, 0)} == kernel.counters(TABLE)


def test_counters_of_replies_begin_at_zero(kernel: Kernel) -> None:
    """Replies are counted by an element, or by a chain of the backend; they do not count as packets to the backend."""
    zero, before = Count(0, 0), kernel.counters(TABLE)
    assert {} == kernel.reply_counts(TABLE)
    replies = Set("replies-counted", "typeof ct original zone . ip saddr", counter=True)
    element = Element("1 . 10.0.0.11", comment="dns/ns1 replies")
    chain = "reply/dns/192.0.2.53/udp/53/ns9"
    kernel.apply(
        transaction(
            Operation(Verb.ADD, IP, replies),
            Operation(Verb.ADD, IP, Elements(replies.name, (element,))),
            Operation(Verb.ADD, IP, Chain(chain)),
            Operation(Verb.ADD, IP, Rules(chain, ("counter ip saddr set 192.0.2.53 accept",))),
        )
    )
    assert {"dns/ns1": ReplyCount(zero, zero), "dns/ns9": ReplyCount(zero, zero)} == kernel.reply_counts(TABLE)
    assert before == kernel.counters(TABLE)


def test_check_accepts_a_transaction_and_changes_nothing(kernel: Kernel) -> None:
    """Valid text passes the check, and is not loaded."""
    before = tables_of(kernel), kernel.generation()

    kernel.check(
        transaction(
            Operation(Verb.CREATE, TableFamily.IP6), *GROUND.operations, Operation(Verb.ADD, IP, Chain("new"))
        ).text
    )

    assert before == (tables_of(kernel), kernel.generation())


@pytest.mark.parametrize("case", REFUSED, ids=str)
def test_check_refuses_what_apply_refuses(kernel: Kernel, case: Case) -> None:
    """The check of a transaction's text has the same result as the transaction."""
    with pytest.raises(KernelError):
        kernel.check(transaction(*case.operations).text)


def test_check_accepts_a_file_that_replaces_all_tables(kernel: Kernel) -> None:
    """A file that replaces all tables passes the check, although the tables exist."""
    table = kernel.list(TABLE)[IP].table

    kernel.check(file_text(Ruleset(TABLE, {IP: table})))


@pytest.mark.parametrize(
    "text", ["add tabel ip x", "add chain ip", "add table ipx x", "delete everything", "table ip x {"]
)
def test_check_refuses_invalid_nft_text(kernel: Kernel, text: str) -> None:
    """Unknown commands of nft are refused."""
    with pytest.raises(KernelError):
        kernel.check(text)


# --- only the fake kernel ---------------------------------------------------------------------------------


def test_a_chain_with_rules_stays(fake: FakeNft) -> None:
    """The fake kernel refuses to delete a chain with rules. The real kernel deletes both, against its manual."""
    with pytest.raises(KernelError, match="has rules"):
        fake.apply(transaction(Operation(Verb.DELETE, IP, COUNTING)))


def test_no_range_may_be_within_another(fake: FakeNft) -> None:
    """The fake kernel refuses overlapping ranges. The real kernel accepts a range that encloses another."""
    with pytest.raises(KernelError, match="overlaps"):
        fake.apply(
            transaction(Operation(Verb.ADD, IP, Elements("ranges", (Element("192.0.2.1 . udp . 1-3000", "accept"),))))
        )


def test_a_failure_can_be_ordered(fake: FakeNft) -> None:
    """The next transaction fails with the given message; later transactions succeed."""
    before = tables_of(fake), fake.generation()
    fake.fail_next("Device or resource busy")

    with pytest.raises(KernelError, match="Device or resource busy"):
        fake.apply(GROUND)

    assert before == (tables_of(fake), fake.generation())
    fake.apply(GROUND)


def test_others_may_flush_everything(fake: FakeNft) -> None:
    """After a foreign `nft flush ruleset` no table is left, and the generation has grown by one."""
    generation = fake.generation()

    fake.flush()

    assert ({}, generation + 1) == (fake.list(TABLE), fake.generation())


def test_a_replaced_object_gets_a_new_handle(fake: FakeNft) -> None:
    """A replaced rule or set gets a new handle, even with the same text; the others keep their handles."""
    before = fake.handles(IP, TABLE)
    spare = Set("spare", "type ipv4_addr")

    fake.apply(
        transaction(
            Operation(Verb.FLUSH, IP, POOL),
            Operation(Verb.ADD, IP, Rules(POOL.name, POOL.rules)),
            Operation(Verb.DELETE, IP, spare),
            Operation(Verb.ADD, IP, spare),
        )
    )
    after = fake.handles(IP, TABLE)

    assert before.rules[POOL.name] != after.rules[POOL.name]
    assert before.rules[VERSION.name] == after.rules[VERSION.name]
    assert ["spare"] == [name for name in before.sets if before.sets[name] != after.sets[name]]


def test_packets_to_a_backend_are_counted(fake: FakeNft) -> None:
    """Packets are counted for a backend as long as it exists. Counting is not a transaction."""
    generation = fake.generation()

    fake.send(IP, TABLE, "dns/ns2", 3, 300)
    fake.send(IP, TABLE, "dns/ns2", 1, 100)

    assert {"dns/ns1": Count(0, 0), "dns/ns2": Count(4, 400)} == fake.counters(TABLE)
    assert generation == fake.generation()


def test_a_new_element_counts_from_zero(fake: FakeNft) -> None:
    """A deleted element loses its counter."""
    fake.send(IP, TABLE, "dns/ns2", 3, 300)
    second = (Element("2", comment="dns/ns2"),)

    fake.apply(
        transaction(
            Operation(Verb.DELETE, IP, Elements("backends", second)),
            Operation(Verb.ADD, IP, Elements("backends", second)),
        )
    )

    assert Count(0, 0) == fake.counters(TABLE)["dns/ns2"]


# The data of nft 1.1.2 and later beside a set that was declared by `type`; earlier versions crash on it.
LEFT_BY_NEWER = bytes.fromhex("0004010000000104000000000308000404000000010004080004010000000100060400000000")


@pytest.mark.parametrize(("version", "crashes"), [("1.0.6", True), ("1.1.1", True), ("1.1.2", False), ("1.1.7", False)])
def test_an_older_nft_does_not_read_tables_of_a_newer_nft(
    resident: Inside, real: Inside, monkeypatch: pytest.MonkeyPatch, version: str, crashes: bool
) -> None:
    """The change is refused with a message instead of a crash; reading works without nft."""
    assert of_newer_nft(LEFT_BY_NEWER)
    monkeypatch.setattr(libnftables, "read_version", lambda: version)
    resident.list(TABLE)
    monkeypatch.setattr(resident.kernel._readers[TABLE], "newer", True)
    change = transaction(Operation(Verb.ADD, IP, Chain("more")))

    if not crashes:
        real.apply(change)
        return
    with pytest.raises(KernelError, match=f"libnftables {version} would crash"):
        real.apply(change)
    assert [IP] == list(real.list(TABLE))


RANGES = (
    (0, 5),
    (0x0A000000, 0x0A0000FF),
    (0xC0000201, 0xC0000207),
    (0xC0000209, 0xC0000209),
    (0xFF000000, 0xFFFFFFFF),
)


@pytest.mark.parametrize("spans", [RANGES, RANGES[1:], RANGES[:-1], RANGES[2:3], ((0, 0xFFFFFFFF),)])
@pytest.mark.parametrize("size", [4, 16])
def test_ranges_of_addresses_are_listed_as_written(real: Inside, spans: tuple[tuple[int, int], ...], size: int) -> None:
    """Ranges come back as they were written: at both ends of the address space, and beside each other."""
    shift = 8 * size - 32
    wide = tuple((first << shift, (last + 1 << shift) - 1) for first, last in spans)
    family = {4: IP, 16: TableFamily.IP6}[size]
    written = Set(
        "ranges", {4: "type ipv4_addr", 16: "type ipv6_addr"}[size], interval=True, elements=AddressRanges(wide, size)
    )
    table = "ranges"
    real.apply(
        Transaction(
            table,
            (
                Operation(Verb.ADD, family),
                Operation(Verb.DELETE, family),
                Operation(Verb.ADD, family),
                Operation(Verb.ADD, family, written),
                Operation(Verb.ADD, family, Elements("ranges", written.elements)),
            ),
        )
    )

    assert written == real.list(table)[family].table.sets["ranges"]


@pytest.mark.parametrize("size", [4, 16])
def test_a_set_of_ranges_grows_when_it_is_added_again(real: Inside, size: int) -> None:
    """Each time, the set has its former ranges and the new ones, whichever come first."""
    family, kind = {4: (IP, "type ipv4_addr"), 16: (TableFamily.IP6, "type ipv6_addr")}[size]
    table, shift = "ranges", 8 * size - 32
    wide = [(first << shift, (last + 1 << shift) - 1) for first, last in RANGES]
    real.apply(Transaction(table, (Operation(Verb.ADD, family), Operation(Verb.DELETE, family))))
    real.apply(Transaction(table, (Operation(Verb.ADD, family),)))

    for order in (wide, wide[::-1]):
        there: list[tuple[int, int]] = []
        for span in order:
            there.append(span)
            part = Set("ranges", kind, interval=True, elements=AddressRanges((span,), size))
            real.apply(Transaction(table, (Operation(Verb.ADD, family, part),)))
            whole = AddressRanges(tuple(sorted(there)), size)
            assert whole == real.list(table)[family].table.sets["ranges"].elements
        real.apply(Transaction(table, (Operation(Verb.DELETE, family, Set("ranges", kind)),)))


def test_an_element_that_others_added_to_ranges_is_listed(real: Inside) -> None:
    """A range of another program is a difference; so is a comment, which nftlb does not write there."""
    table, written = "ranges", Set("ranges", "type ipv4_addr", interval=True, elements=AddressRanges(((1, 5),), 4))
    for addition in (Element("192.0.2.0/24"), Element("192.0.2.0/24", comment="mine")):
        real.apply(
            Transaction(
                table,
                (
                    Operation(Verb.ADD, IP),
                    Operation(Verb.DELETE, IP),
                    Operation(Verb.ADD, IP),
                    Operation(Verb.ADD, IP, written),
                    Operation(Verb.ADD, IP, Elements("ranges", (*written.elements, addition))),
                ),
            )
        )
        assert written != real.list(table)[IP].table.sets["ranges"]


def test_elements_that_packets_add_are_no_part_of_a_set(real: Inside) -> None:
    """A dynamic set is listed without its elements, and is the same with and without elements."""
    table, written = "filled", Set("seen", "type ipv4_addr", size=99, dynamic=True)
    real.apply(Transaction(table, (Operation(Verb.ADD, IP), Operation(Verb.ADD, IP, written))))
    real.apply(Transaction(table, (Operation(Verb.ADD, IP, Elements("seen", (Element("192.0.2.7"),))),)))

    assert written == real.list(table)[IP].table.sets["seen"]
