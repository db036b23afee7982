"""The selection of targets by health, the operator's settings, weights, panic and fallback."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from math import gcd
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pool_builders import ALL, DROP, backend, backends, pool, sorry

from nftlb.compiler.selection import MOST_SLOTS, SLOTS_PER_BACKEND, select, targets, weights_of_parts
from nftlb.compiler.versions import turns
from nftlb.model import Admin, BackendState, Balance, FallbackKind, Family, Membership, Pool, PoolState, RotationMode

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DOWN = BackendState(up=False)
THREE = pool("dns", "192.0.2.53:53/udp", backends("10.0.0.11:5353", "10.0.0.12:5353", "10.0.0.13:5353"))


def chosen(of: Pool, states: Mapping[str, BackendState] | None = None, family: Family = Family.IP) -> dict[str, int]:
    """Return the names and weights of the targets."""
    selection = select(of, family, frozenset((states or {}).items()))
    return {target.name: weight for target, weight in selection.targets}


def why(of: Pool, states: Mapping[str, BackendState]) -> tuple[RotationMode, FallbackKind]:
    selection = select(of, Family.IP, frozenset(states.items()))
    return selection.mode, selection.verdict


def changed(of: Pool, **options: object) -> Pool:
    return Pool(**{name: getattr(of, name) for name in of.__dataclass_fields__} | options)


def test_all_backends_are_selected_by_default() -> None:
    """By default all backends of a pool are selected, with the weights of the file."""
    assert {"b1": 1, "b2": 1, "b3": 1} == chosen(THREE)


def test_backends_that_are_down_are_left_out() -> None:
    """A backend that is down gets no packets, and the others keep their weights."""
    assert {"b1": 1, "b3": 1} == chosen(THREE, {"b2": DOWN})


@pytest.mark.parametrize("admin", [Admin.DRAIN, Admin.MAINTENANCE])
def test_the_operator_can_take_a_backend_out(admin: Admin) -> None:
    """A backend in drain or maintenance, set in the file or at run time, gets no new packets."""
    drained = changed(THREE, backends=(*THREE.backends[:2], backend("b3", "10.0.0.13:5353", admin=admin)))

    assert {"b1": 1, "b2": 1} == chosen(drained)
    assert {"b1": 1, "b2": 1} == chosen(THREE, {"b3": BackendState(admin=admin)})


def test_run_time_settings_override_the_file() -> None:
    """A backend that the file drains can be enabled at run time, and given another weight."""
    drained = changed(THREE, backends=(backend("b1", "10.0.0.11", admin=Admin.DRAIN, weight=3), *THREE.backends[1:]))

    assert {"b1": 7, "b2": 1, "b3": 1} == chosen(drained, {"b1": BackendState(admin=Admin.ENABLED, weight=7)})


def test_a_backend_of_weight_0_is_not_selected() -> None:
    """A backend of weight 0 is not a target, whether the weight is from the file or set at run time."""
    assert {"b1": 1, "b2": 1} == chosen(THREE, {"b3": BackendState(weight=0)})


def test_unknown_names_are_ignored() -> None:
    """A state of a backend that the file no longer has changes nothing."""
    assert {"b1": 1, "b2": 1, "b3": 1} == chosen(THREE, {"gone": DOWN})


def test_backends_are_selected_per_family() -> None:
    """A listener's packets go to backends of its family. Failures in one family do not affect the other."""
    both = changed(THREE, backends=(*THREE.backends, backend("b6", "[2001:db8::6]:5353")))

    assert {"b6": 1} == chosen(both, {"b1": DOWN, "b2": DOWN, "b3": DOWN}, Family.IP6)
    assert {} == chosen(both, {"b6": DOWN}, Family.IP6)


@pytest.mark.parametrize(
    ("panic", "down", "expected"),
    [
        (0, ["b1", "b2", "b3"], {}),
        (50, ["b1"], {"b2": 1, "b3": 2}),
        (50, ["b3"], {"b1": 1, "b2": 1}),
        (51, ["b3"], {"b1": 1, "b2": 1, "b3": 2}),
        (51, ["b1", "b2", "b3"], {"b1": 1, "b2": 1, "b3": 2}),
        (100, [], {"b1": 1, "b2": 1, "b3": 2}),
        (100, ["b1"], {"b1": 1, "b2": 1, "b3": 2}),
    ],
)
def test_panic_is_about_the_share_of_weight(panic: int, down: list[str], expected: dict[str, int]) -> None:
    """Below `panic` per cent of healthy weight all backends are selected; at exactly that, the healthy."""
    heavy = changed(THREE, backends=(*THREE.backends[:2], backend("b3", "10.0.0.13", weight=2)), panic=panic)

    assert expected == chosen(heavy, dict.fromkeys(down, DOWN))


def test_panic_leaves_out_backends_that_are_not_enabled() -> None:
    """A backend that is not enabled stays out in panic, and its weight does not count."""
    states = {"b1": DOWN, "b2": BackendState(admin=Admin.DRAIN), "b3": DOWN}

    assert {"b1": 1, "b3": 1} == chosen(changed(THREE, panic=50), states)
    assert (RotationMode.PANIC, FallbackKind.REJECT) == why(changed(THREE, panic=50), states)


ALL_DOWN = dict.fromkeys(("b1", "b2", "b3"), DOWN)


def test_without_a_backend_packets_are_refused() -> None:
    """Without a backend packets are rejected by default, or dropped with `drop`."""
    assert (RotationMode.FALLBACK, FallbackKind.REJECT) == why(THREE, ALL_DOWN)
    assert (RotationMode.FALLBACK, FallbackKind.DROP) == why(changed(THREE, fallback=DROP), ALL_DOWN)


def test_fallback_all_uses_unhealthy_backends() -> None:
    """`all` means every backend that is enabled; if none is, packets are refused."""
    pool_all = changed(THREE, fallback=ALL)
    drained = {name: BackendState(admin=Admin.DRAIN) for name in ("b1", "b2", "b3")}

    assert {"b1": 1, "b2": 1, "b3": 1} == chosen(pool_all, ALL_DOWN)
    assert (RotationMode.FALLBACK, FallbackKind.REJECT) == why(pool_all, drained)


def test_the_sorry_server_is_used_without_a_backend() -> None:
    """The sorry server is selected for its own family, and only while no backend is left."""
    excused = changed(THREE, fallback=sorry("10.0.0.99:53"))

    assert {"_sorry": 1} == chosen(excused, ALL_DOWN)
    assert {"b1": 1} == chosen(excused, {"b2": DOWN, "b3": DOWN})
    assert {} == chosen(excused, ALL_DOWN, Family.IP6)


def test_targets_are_all_possible_servers() -> None:
    """The backends of the family in the order of the file, then the sorry server."""
    excused = changed(THREE, fallback=sorry("10.0.0.99:53", "[2001:db8::99]:53"))

    assert ["dns/b1", "dns/b2", "dns/b3", "dns/_sorry"] == [target.owner for target in targets(excused, Family.IP)]
    assert ["dns/_sorry"] == [target.owner for target in targets(excused, Family.IP6)]


def test_a_membership_with_backends_down() -> None:
    """`with_down` is what `nftlb compile --down` asks for; pools that are not named are untouched."""
    membership = Membership.with_down([("dns", "b1"), ("dns", "b2"), ("log", "b1")])
    untouched: PoolState = frozenset()

    assert frozenset({("b1", DOWN), ("b2", DOWN)}) == membership.of("dns")
    assert untouched == membership.of("other")


@pytest.mark.parametrize(
    ("weights", "percents", "expected"),
    [
        ((1, 2), (100, 100), (1, 2)),
        ((1, 1, 1), (100, 100, 50), (2, 2, 1)),
        ((1, 1), (100, 75), (4, 3)),
        ((3, 1), (50, 100), (3, 2)),
        ((1, 1), (10, 10), (1, 1)),
        ((1, 1), (100, 200), (1, 2)),
    ],
)
def test_weights_in_proportion(weights: tuple[int, ...], percents: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """Weight times per cent, in the smallest whole numbers."""
    assert expected == weights_of_parts(weights, percents, MOST_SLOTS)


def test_weights_without_fractions_are_not_changed() -> None:
    """If all parts are whole, weights are not even divided, so the ruleset does not change."""
    assert (256, 2) == weights_of_parts((256, 2), (100, 100), MOST_SLOTS)


PARTS = st.lists(st.tuples(st.integers(1, 256), st.sampled_from([100, 100, 37, 1])), min_size=1, max_size=400)


@given(pairs=PARTS)
def test_cycles_are_bounded_and_complete(pairs: list[tuple[int, int]]) -> None:
    """With any weights and parts, the cycle stays small, every backend keeps a share, and every share is nearly right.

    A small enough cycle is exact. docs/configuration.md gives the same limit of the error.
    """
    weights, percents = zip(*pairs, strict=True)
    most = max(MOST_SLOTS, SLOTS_PER_BACKEND * len(pairs))
    found = weights_of_parts(weights, percents, most)
    exact = [weight * percent for weight, percent in pairs]
    slots, total = sum(found), sum(exact)

    assert min(found) > 0
    if total // gcd(*exact) <= most:
        assert [Fraction(weight, slots) for weight in found] == [Fraction(due, total) for due in exact]
    else:
        assert slots < most + len(pairs)
        for weight, due in zip(found, exact, strict=True):
            share = Fraction(due, total)
            assert abs(Fraction(weight, slots) - share) < (1 + len(pairs) * share) / slots


def large_pool(weights: Sequence[int]) -> Pool:
    return pool(
        "dns",
        "192.0.2.53:53/udp",
        tuple(backend(f"b{n}", f"10.0.{n >> 8}.{n & 255}:5353", weight=weight) for n, weight in enumerate(weights)),
    )


ODD = [1 + number * 37 % 100 for number in range(250)]
"""Weights from 1 to 100 without a common divisor. Their sum is 12,625."""


def test_selected_weights_are_the_slots_of_the_cycle() -> None:
    """The weights of a selection, from which `share` is reported, are the slots of a rounded cycle."""
    large = large_pool(ODD)
    selection = select(large, Family.IP, frozenset())
    slots = Counter(turns(large, Family.IP, selection))

    assert [weight for _, weight in selection.targets] == [slots[index] for index in range(250)]
    assert slots.total() == pytest.approx(MOST_SLOTS, abs=125)


@pytest.mark.parametrize("count", [1, 2, 8])
def test_a_few_backends_of_any_weights_are_exact(count: int) -> None:
    """Eight backends with the largest weights fit into the largest cycle, so their shares are exact."""
    weights = tuple(range(256, 256 - count, -1))

    assert weights == weights_of_parts(weights, (100,) * count, MOST_SLOTS)


@pytest.mark.parametrize("count", [250, 5000])
def test_equal_backends_are_exact_in_any_number(count: int) -> None:
    """Equal weights give a cycle with one slot for each backend, however many backends there are."""
    equal = large_pool([256] * count)

    assert tuple(range(count)) == turns(equal, Family.IP, select(equal, Family.IP, frozenset()))


def test_weights_of_hash_pools_are_not_rounded() -> None:
    """A hash table has its own size, so that the exact weights cost nothing."""
    hashed = changed(large_pool(ODD), balance=Balance.HASH)

    assert ODD == list(chosen(hashed).values())
