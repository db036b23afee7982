"""Three thousand swaps under full load: no datagram is lost, doubled, or outside its set; replies are the service's.

In the modes on the ingress hook, a packet that the rules there miss would still reach a backend by the ordinary chains.
So a rule of the test drops such packets, and they count as lost.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from blaster import Membership as Members
from nft_listing import parse_table
from pool_lab import (
    DSR_INGRESS,
    FORMS,
    MODES,
    NAT,
    PORT,
    STATELESS,
    STATELESS_EARLY,
    STATELESS_INGRESS,
    PoolLab,
    close_slow_path,
    down,
    vip,
)
from under_fire import fire, load_in_turn, paced

from nftlb.model import Balance, payload_key
from nftlb.ruleset import Chain, Operation, Rules, Ruleset, TableFamily, Transaction, Verb

if TYPE_CHECKING:
    from blaster import Blaster, Sender
    from pool_lab import Mode
    from under_fire import Fire

    from nftlb.ruleset import Table

pytest_plugins = ("lab_fixtures",)
pytestmark = pytest.mark.alone

EVERYONE = ("b1", "b2", "b3")
SETS = (EVERYONE, ("b1", "b2"), EVERYONE, ("b2", "b3"), EVERYONE, ("b1", "b3"), ("b2",), ("b3", "b1"))
SWAPS = 3000
TRIES = 4
CASES = [*((mode, 4) for mode in MODES), (NAT, 6), (STATELESS, 6), (STATELESS_EARLY, 6), (DSR_INGRESS, 6)]


def swap_while(pool_lab: PoolLab, sender: Sender) -> list[Members]:
    """Swap from set to set until the sender has ended. Return the sets, each with its time."""
    history = [Members(0, 0, frozenset(EVERYONE))]
    while sender.running and len(history) <= SWAPS:
        names = SETS[len(history) % len(SETS)]
        begin, end = paced(partial(pool_lab.applier.update, down(*(set(EVERYONE) - set(names)))))
        history.append(Members(begin, end, frozenset(names)))
    return history


def fire_swaps(
    blaster: Blaster, pool_lab: PoolLab, version: int, count: int, swaps: int, *, replies: bool = False
) -> Fire[list[Members]]:
    """Send so many datagrams, and swap meanwhile.

    With fewer swaps than `swaps`, a test would prove nothing: it is repeated if this machine was too slow for them.
    """
    for _ in range(TRIES):
        pool_lab.update(down())
        fired = fire(blaster, pool_lab, version, partial(swap_while, pool_lab), count=count, replies=replies)
        if len(fired.found) > swaps:
            return fired
    raise AssertionError(f"{TRIES} times, there were not more than {swaps} swaps")


@pytest.mark.parametrize(("mode", "version"), CASES, ids=lambda value: f"{value}")
@pytest.mark.parametrize("echo", [False, True], ids=["one-way", "replies"])
def test_swaps_under_fire(blaster: Blaster, mode: Mode, version: int, echo: bool) -> None:
    """All datagrams of a full load from one socket arrive once, in the set of their moment. It changes every 2 ms.

    With replies, each datagram gets a reply, and all replies come from the VIP.
    """
    count = 200_000 if echo else 1_000_000 if version == 4 else 300_000
    with PoolLab(mode, serve=False) as pool_lab:
        close_slow_path(pool_lab)
        fired = fire_swaps(blaster, pool_lab, version, count, 100, replies=echo)
    history = fired.found
    print(f"{mode} IPv{version}: {len(history) - 1} swaps, {fired}")  # noqa: T201
    assert (count, {}) == (fired.sent.sent, fired.faults)
    assert [] == fired.ledger.outside(history)


@pytest.mark.parametrize(("mode", "version"), [(NAT, 4), (STATELESS_INGRESS, 4), (DSR_INGRESS, 6)], ids=str)
def test_swaps_of_keys_under_fire(blaster: Blaster, mode: Mode, version: int) -> None:
    """With a key in the payload, each datagram arrives once, at a backend of the set of its moment."""
    count = 200_000
    with PoolLab(mode, serve=False) as pool_lab:
        close_slow_path(pool_lab)
        pool_lab.load(replace(pool_lab.pool(), balance=Balance.HASH, key=payload_key(0, 8)))
        fired = fire_swaps(blaster, pool_lab, version, count, 20)
    history = fired.found
    print(f"{mode} IPv{version}: {len(history) - 1} swaps, {fired}")  # noqa: T201
    assert (count, {}) == (fired.sent.sent, fired.faults)
    assert [] == fired.ledger.outside(history)
    assert all(fired.ledger.counts.values())


@pytest.mark.parametrize(
    ("mode", "version", "form"),
    [
        *((mode, 4, form) for mode in MODES for form in FORMS),
        *((mode, 6, "many addresses, a few ports") for mode in (NAT, STATELESS, DSR_INGRESS)),
    ],
    ids=lambda value: f"{value}",
)
def test_swaps_beside_other_services(blaster: Blaster, mode: Mode, version: int, form: str) -> None:
    """Nothing is lost either if the rules find the service by its address, or by its port behind the address."""
    count = 100_000
    with PoolLab(mode, serve=False) as pool_lab:
        pool_lab.load_with(FORMS[form])
        close_slow_path(pool_lab)
        fired = fire_swaps(blaster, pool_lab, version, count, 10)
    history = fired.found
    print(f"{mode} IPv{version} {form}: {len(history) - 1} swaps, {fired}")  # noqa: T201
    assert (count, {}) == (fired.sent.sent, fired.faults)
    assert [] == fired.ledger.outside(history)


def replace_while(pool_lab: PoolLab, table: Table, chain: str, sender: Sender) -> int:
    """Replace the rule that chooses backends by the same rule with a map inside. Return the number of times."""
    slots = {
        found.name: ", ".join(f"{slot.key} : {slot.data}" for slot in found.elements) for found in table.sets.values()
    }
    rules = [
        re.sub(r"vmap @(\S+)", lambda found: f"vmap {{ {slots[found[1]]} }}", rule)
        for rule in table.chains[chain].rules
    ]
    assert any("vmap {" in rule for rule in rules)
    operations = (
        Operation(Verb.FLUSH, table.family, Chain(chain)),
        Operation(Verb.ADD, table.family, Rules(chain, tuple(rules))),
    )
    replaced = 0
    while sender.running:
        paced(partial(pool_lab.kernel.apply, Transaction(table.name, operations)))
        replaced += 1
    return replaced


@pytest.mark.parametrize("mode", [NAT, DSR_INGRESS], ids=str)
def test_a_map_inside_the_rule_loses_datagrams(blaster: Blaster, mode: Mode) -> None:
    """If the map is inside the rule that is replaced, some of the datagrams are lost, and the ledger shows it."""
    count = 1_000_000
    with PoolLab(mode, serve=False) as pool_lab:
        close_slow_path(pool_lab)
        assert pool_lab.applier.accepted is not None
        tables = pool_lab.applier.accepted.ruleset.tables
        family, chain = (TableFamily.NETDEV, "pool/dns/ip") if mode.ingress else (TableFamily.IP, "prerouting-raw")
        fired = fire(blaster, pool_lab, 4, partial(replace_while, pool_lab, tables[family], chain), count=count)
    print(f"{mode}: {fired.found} times, {len(fired.ledger.missing)} lost, {fired}")  # noqa: T201
    assert fired.ledger.missing


@pytest.mark.parametrize("version", [4, 6])
def test_reloads_that_move_source_ports(blaster: Blaster, version: int) -> None:
    """Each reload gives all backends other zones; all datagrams of one socket arrive once and get replies.

    A second pool makes the range of source ports smaller.
    """
    with PoolLab(NAT, serve=False) as pool_lab:
        pool = pool_lab.pool()
        listen = tuple(replace(listener, first_port=40000, last_port=50000) for listener in pool.listen)
        configs = [(pool,), (pool, replace(pool, name="more", listen=listen))] * 3
        fired = fire(blaster, pool_lab, version, partial(load_in_turn, pool_lab, configs=configs), replies=True)
    print(f"IPv{version}: {fired.found} reloads, {fired}")  # noqa: T201
    assert {} == fired.faults
    assert fired.found > 5  # with fewer reloads, the test would prove nothing


FORMER = Path(__file__).with_name("former_layouts")
"""What earlier versions wrote in each mode: before maps of versions had names, for the pool of this lab; and with one
look-up for all services, for this pool and the services of "many addresses, a few ports"."""
LAYOUTS = {"before-named-maps": (), "one-look-up": FORMS["many addresses, a few ports"]}


def upgrade_while(pool_lab: PoolLab, former: Ruleset, sender: Sender) -> int:
    """Change between the former layout of the rules and the present one, and stop the sender."""
    assert pool_lab.applier.accepted is not None
    present, swapper = pool_lab.applier.accepted.ruleset, pool_lab.applier.swapper
    changes = 0
    while sender.goes_on(enough=changes > 3):
        target = present if changes % 2 else former
        swapper.swap(target)
        swapper.remove_leftovers(target)
        changes += 1
    return changes


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mode", [mode for mode in MODES if not mode.early], ids=str)
def test_upgrade_from_a_former_layout(blaster: Blaster, mode: Mode, layout: str) -> None:
    """Of a blast from one socket, all arrive once while the rules change from the former layout and back."""
    text = (FORMER / layout / f"{mode}.nft").read_text()
    blocks = re.findall(r"^table \S+ \S+ \{$.*?^\}$", text, re.DOTALL | re.MULTILINE)
    former = Ruleset("nftlb", {one.family: one for one in (parse_table(block).table for block in blocks)})
    with PoolLab(mode, serve=False) as pool_lab:
        pool_lab.load_with(LAYOUTS[layout])
        close_slow_path(pool_lab)
        fired = fire(blaster, pool_lab, 4, partial(upgrade_while, pool_lab, former))
    print(f"{mode}: {fired.found} changes, {fired}")  # noqa: T201
    assert {} == fired.faults
    assert fired.found > 3  # else nothing was shown


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_removed_backend_gets_nothing_after_the_commit(mode: Mode) -> None:
    """After `update`, the socket of an old client no longer reaches the backend; after its return, the socket does."""
    with PoolLab(mode) as pool_lab, pool_lab.lab.client.connect((vip(4), PORT)) as client:
        assert ["b1", "b2", "b3"] * 2 == [answer.backend for answer in client.exchange(6)]
        for _ in range(20):
            pool_lab.update(down("b2"))
            assert ["b1", "b3"] * 2 == [answer.backend for answer in client.exchange(4)]
            pool_lab.update(down())
            assert ["b1", "b2", "b3"] == [answer.backend for answer in client.exchange(3)]
