"""The time of a load grows with the number of pools and the length of lists, not with their squares."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from pool_builders import DNS, backend, config, pool
from real_kernel import real_kernel

from nftlb.compiler import Compiled
from nftlb.compiler.guard import guard_lists
from nftlb.compiler.versions import MOST_MAPS, MOST_RULES
from nftlb.model import Balance, Config, Forward, Guard, Per, SourceEntry
from nftlb.ruleset import Operation, Ruleset, TableFamily, Transaction, Verb
from nftlb.swap import Swapper
from nftlb.swap.plan import PART, make

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nftlb.kernel import LibNftables

FEW, MANY = 400, 4000  # below MOST_MAPS, and beyond
PARTS = 20
MODES: dict[str, dict[str, Any]] = {
    "nat": {},
    "random": {"balance": Balance.RANDOM},
    "flows": {"per": Per.FLOW},
    "stateless": {"forward": Forward.STATELESS},
    "dsr": {"forward": Forward.DSR},
}


def many(pools: int, **options: Any) -> Config:
    """A number of pools with three backends each."""
    return config(
        *(
            pool(
                f"p{number}",
                f"192.0.{number >> 8}.{number & 255}:53/udp",
                tuple(backend(f"b{last}", f"10.{number >> 8}.{number & 255}.{last}:53") for last in (1, 2, 3)),
                **options,
            )
            for number in range(pools)
        )
    )


def processor_times(pools: int, options: dict[str, Any]) -> Iterator[float]:
    """The processor time of each of three first loads in seconds. A load begins when its time is asked for."""
    target = Compiled(many(pools, **options)).ruleset()
    load = make(Ruleset(target.name), target)
    remove = Transaction(target.name, tuple(Operation(Verb.DELETE, family) for family in target.tables))
    for _ in range(3):
        with real_kernel() as inside:
            yield inside.namespace.call(_timed, inside.kernel, load)
            inside.apply(remove)


def _timed(kernel: LibNftables, load: Transaction) -> float:
    before = time.thread_time()
    kernel.apply(load)
    return time.thread_time() - before


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_a_load_grows_with_the_number_of_pools(mode: str) -> None:
    """Ten times as many pools take less than twenty times as long. Walks over lists make it forty and more."""
    few = min(processor_times(FEW, MODES[mode]))

    assert any(many < 20 * few for many in processor_times(MANY, MODES[mode]))


@pytest.mark.parametrize("mode", MODES)
def test_pools_of_few_backends_add_no_sets(mode: str) -> None:
    """The number of sets, also within rules, is the same for 1,001 and 1,050 pools. Few pools have maps."""

    def sets(pools: int) -> int:
        tables = Compiled(many(pools, **MODES[mode])).ruleset().tables.values()
        inside = sum("{" in rule for table in tables for chain in table.chains.values() for rule in chain.rules)
        return inside + sum(len(table.sets) for table in tables)

    assert sets(MOST_MAPS + 1) == sets(MOST_MAPS + 50)
    assert sets(2) < sets(50)


@pytest.mark.parametrize("mode", MODES)
def test_no_set_is_a_bitmap(mode: str) -> None:
    """No large set has a key of two bytes: the kernel then walks over all elements to add one."""
    tables = Compiled(many(2, **MODES[mode], passive=True)).ruleset().tables.values()

    short = {
        found.name for table in tables for found in table.sets.values() if found.key_type == "typeof ct original zone"
    }
    assert set() == {name for table in tables for name in short & table.sets.keys() if not table.sets[name].data_type}


def test_many_slots_use_a_map() -> None:
    """A packet meets no more rules than a map would cost."""

    def rules(backends: int) -> tuple[str, ...]:
        behind = tuple(backend(f"b{last}", f"10.0.0.{last}:53") for last in range(1, backends + 1))
        pools = many(MOST_MAPS).pools
        whole = config(pool("p", "192.0.2.1:53/udp", behind), *pools)
        chains = Compiled(whole).ruleset().tables[TableFamily.IP].chains
        return chains["pool/p"].rules

    assert ('numgen inc mod 2 0 goto backend/p/b1 comment "b1, b2"', "goto backend/p/b2") == rules(2)
    assert MOST_RULES == len(rules(MOST_RULES))
    assert 1 == len(rules(MOST_RULES + 1))
    assert f"numgen inc mod {MOST_RULES + 1} vmap @" in rules(MOST_RULES + 1)[0]


def test_parts_of_a_list_take_the_same_time() -> None:
    """The last part of a list takes less than three times as long as the first: nothing reads the parts before."""
    spans = tuple((first, first + 127) for first in range(20 << 24, (20 << 24) + (PARTS * PART << 8), 256))
    wanted = config(replace(DNS, guard=Guard(deny=(SourceEntry(ip=spans),))))
    with real_kernel() as inside:
        swapper = inside.namespace.call(Swapper, inside.kernel, wanted.table, lambda: None)
        inside.namespace.call(swapper.swap, Compiled(config(DNS)).ruleset())
        swapper.staged = guard_lists(wanted)
        parts = [inside.namespace.call(_stage_time, swapper) for _ in range(PARTS)]
        assert not inside.namespace.call(swapper.stage)

    assert min(parts[-3:]) < 3 * min(parts[:3])


def _stage_time(swapper: Swapper) -> float:
    """The processor time of a part in seconds."""
    before = time.thread_time()
    assert swapper.stage()
    return time.thread_time() - before
