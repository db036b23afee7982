"""An unknown nft that lists rules in another form: rules are written once, and edits are found."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from pool_builders import DNS
from recording_kernel import TABLE, Recorder

from nftlb.compiler import Compiled
from nftlb.model import Config
from nftlb.ruleset import (
    Chain,
    Elements,
    Listing,
    Operation,
    Rules,
    Ruleset,
    Set,
    Table,
    TableFamily,
    Transaction,
    Verb,
)
from nftlb.swap import Swapper

if TYPE_CHECKING:
    from collections.abc import Mapping

IP = TableFamily.IP
TARGET = Compiled(Config(pools=(DNS,))).ruleset()


class Stranger(Recorder):
    """A kernel that lists rules and sets in a different form."""

    sets_too = True

    def list(self, table: str) -> Mapping[TableFamily, Listing]:
        listings = super().list(table)
        return {
            family: Listing(_strange(listing.table, sets_too=self.sets_too)) for family, listing in listings.items()
        }


def _strange(table: Table, *, sets_too: bool) -> Table:
    def chain(original: Chain) -> Chain:
        return replace(original, rules=tuple(rule.replace("vmap", "verdict-map") for rule in original.rules))

    def of(original: Set) -> Set:
        return replace(original, key_type=original.key_type.replace("type ipv4_addr", "type address4"))

    return replace(
        table,
        sets={name: of(set_) for name, set_ in table.sets.items()} if sets_too else table.sets,
        chains={name: chain(original) for name, original in table.chains.items()},
    )


def another_look(kernel: Stranger) -> None:
    """Cause a listing, as after a transaction of another program."""
    kernel.apply(Transaction("other", ()))
    kernel.swapper._generation = -1


def restored(kernel: Stranger, target: Ruleset = TARGET) -> int:
    """The number of transactions that bring the kernel to the target."""
    return len(kernel.swapper.swap(target).transactions) + len(kernel.swapper.remove_leftovers(target).transactions)


@pytest.fixture
def kernel() -> Stranger:
    """A kernel with a ruleset that was listed after a transaction of another program."""
    kernel = Stranger()
    kernel.swap(TARGET)
    kernel.remove_leftovers()
    assert not kernel.swapper.unrecognised
    another_look(kernel)
    return kernel


def test_a_rule_that_is_listed_differently_is_written_once(kernel: Stranger) -> None:
    """The first listing counts as an edit; after it was written and listed again, it does not."""
    assert restored(kernel)

    for _ in range(3):
        another_look(kernel)
        assert restored(kernel) == 0
    assert "table ip: chain prerouting-raw" in kernel.swapper.unrecognised
    assert "table ip: set own-udp" in kernel.swapper.unrecognised
    assert "table ip: chain backend/dns/b1" not in kernel.swapper.unrecognised


@pytest.mark.parametrize(
    "edit",
    [
        Operation(Verb.FLUSH, IP, Chain("prerouting-raw")),
        Operation(Verb.ADD, IP, Rules("prerouting-raw", ("accept",))),
        Operation(Verb.ADD, IP, Rules("backend/dns/b1", ("drop",))),
        Operation(Verb.DELETE, IP, Elements("own-udp", TARGET.tables[IP].sets["own-udp"].elements[:1])),
    ],
    ids=lambda edit: type(edit).__name__,
)
def test_edits_are_found_beside_other_spellings(kernel: Stranger, edit: Operation) -> None:
    """Edits are found in objects of both kinds."""
    restored(kernel)
    another_look(kernel)
    before = kernel.list(TABLE)

    kernel.apply(Transaction(TABLE, (edit,)))

    assert restored(kernel)
    assert before[IP].table.chains == kernel.list(TABLE)[IP].table.chains
    assert {name: frozenset(set_.elements) for name, set_ in before[IP].table.sets.items()} == {
        name: frozenset(set_.elements) for name, set_ in kernel.list(TABLE)[IP].table.sets.items()
    }
    another_look(kernel)
    assert restored(kernel) == 0


def test_a_foreign_edit_is_not_recorded_as_a_spelling(kernel: Stranger) -> None:
    """An edit right after our own transaction is not recorded as a listed form."""
    kernel.sets_too = False
    edit = Transaction(TABLE, (Operation(Verb.ADD, IP, Rules("backend/dns/b1", ("drop",))),))
    kernel.swapper.swap(TARGET)
    kernel.apply(edit)
    kernel.swapper.remove_leftovers(TARGET)
    restored(kernel)

    assert ("drop",) != kernel.list(TABLE)[IP].table.chains["backend/dns/b1"].rules[-1:]
    assert "table ip: chain prerouting-raw" in kernel.swapper.unrecognised
    assert "table ip: chain backend/dns/b1" not in kernel.swapper.unrecognised


def test_after_an_undone_edit_the_spelling_is_known_again() -> None:
    """After an edit is undone, the listed form is known again."""
    kernel = Recorder()
    kernel.swap(TARGET)
    kernel.apply(Transaction(TABLE, (Operation(Verb.FLUSH, IP, Chain("prerouting-raw")),)))
    other = Swapper(kernel, TABLE, kernel.wait)

    assert other.swap(TARGET)
    other.remove_leftovers(TARGET)
    assert () == other.unrecognised
