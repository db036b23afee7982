"""An nft whose rules read back in a way that nftlb does not know: they are written once, and edits are still found."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from pools import DNS
from recorder import TABLE, Recorder

from nftlb.compiler import Compiled
from nftlb.model import Config
from nftlb.ruleset import Chain, Listing, Ruleset, Set, Table, TableFamily
from nftlb.swap import Swapper, Transaction
from nftlb.swap.operations import AddRules, DeleteElements, FlushChain

if TYPE_CHECKING:
    from collections.abc import Mapping

IP = TableFamily.IP
TARGET = Compiled(Config(pools=(DNS,))).ruleset()


class Stranger(Recorder):
    """A kernel whose rules and sets read back in words that nobody else uses."""

    sets_too = True

    def list(self, table: str) -> Mapping[TableFamily, Listing]:
        listings = super().list(table)
        return {family: Listing(_strange(one.table, sets_too=self.sets_too)) for family, one in listings.items()}


def _strange(table: Table, *, sets_too: bool) -> Table:
    def chain(one: Chain) -> Chain:
        return replace(one, rules=tuple(rule.replace("vmap", "verdict-map") for rule in one.rules))

    def of(one: Set) -> Set:
        return replace(one, key_type=one.key_type.replace("type ipv4_addr", "type address4"))

    return replace(
        table,
        sets={name: of(one) for name, one in table.sets.items()} if sets_too else table.sets,
        chains={name: chain(one) for name, one in table.chains.items()},
    )


def another_look(kernel: Stranger) -> None:
    """Have the kernel read anew, as after something that somebody else did."""
    kernel.apply(Transaction("other", ()))
    kernel.swapper._generation = -1


def restored(kernel: Stranger, target: Ruleset = TARGET) -> int:
    """How many transactions bring the kernel to the target."""
    return len(kernel.swapper.swap(target).transactions) + len(kernel.swapper.sweep(target).transactions)


@pytest.fixture
def kernel() -> Stranger:
    """A kernel with a ruleset that has been looked at since, as after somebody else's transaction."""
    one = Stranger()
    one.swap(TARGET)
    one.sweep()
    assert not one.swapper.spellings.unrecognised
    another_look(one)
    return one


def test_what_reads_back_otherwise_is_written_once(kernel: Stranger) -> None:
    """The first look can't tell it from an edit; once it was written and read back, later looks can."""
    assert restored(kernel)

    for _ in range(3):
        another_look(kernel)
        assert restored(kernel) == 0
    assert "table ip: chain prerouting-raw" in kernel.swapper.spellings.unrecognised
    assert "table ip: set services" in kernel.swapper.spellings.unrecognised
    assert "table ip: chain pool/dns" not in kernel.swapper.spellings.unrecognised


@pytest.mark.parametrize(
    "edit",
    [
        FlushChain(IP, "prerouting-raw"),
        AddRules(IP, Chain("prerouting-raw", ("accept",))),
        AddRules(IP, Chain("pool/dns", ("drop",))),
        DeleteElements(IP, "services", TARGET.tables[IP].sets["services"].elements[:1]),
    ],
    ids=lambda edit: type(edit).__name__,
)
def test_edits_are_found_all_the_same(kernel: Stranger, edit: FlushChain | AddRules | DeleteElements) -> None:
    """In objects that read back otherwise as well as in others."""
    restored(kernel)
    another_look(kernel)
    before = kernel.list(TABLE)

    kernel.apply(Transaction(TABLE, (edit,)))

    assert restored(kernel)
    assert before[IP].table.chains == kernel.list(TABLE)[IP].table.chains
    assert {name: frozenset(one.elements) for name, one in before[IP].table.sets.items()} == {
        name: frozenset(one.elements) for name, one in kernel.list(TABLE)[IP].table.sets.items()
    }
    another_look(kernel)
    assert restored(kernel) == 0


def test_nothing_is_concluded_from_what_somebody_else_wrote_since(kernel: Stranger) -> None:
    """An edit right behind our own transaction is not taken for the way in which our rules read back."""
    kernel.sets_too = False
    edit = Transaction(TABLE, (AddRules(IP, Chain("pool/dns", ("drop",))),))
    kernel.swapper.swap(TARGET)
    kernel.apply(edit)
    kernel.swapper.sweep(TARGET)
    restored(kernel)

    assert ("drop",) != kernel.list(TABLE)[IP].table.chains["pool/dns"].rules[-1:]
    assert "table ip: chain prerouting-raw" in kernel.swapper.spellings.unrecognised
    assert "table ip: chain pool/dns" not in kernel.swapper.spellings.unrecognised


def test_where_all_is_known_nothing_is_unrecognised() -> None:
    """An edit that was undone reads back as it was written."""
    kernel = Recorder()
    kernel.swap(TARGET)
    kernel.apply(Transaction(TABLE, (FlushChain(IP, "prerouting-raw"),)))
    other = Swapper(kernel, TABLE, kernel.wait)

    assert other.swap(TARGET)
    other.sweep(TARGET)
    assert () == other.spellings.unrecognised
