"""Who takes part: health, the operator's wish, weights, panic and fallback."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from pools import ALL, DROP, backend, backends, pool, sorry

from nftlb.compiler import BackendState, Membership
from nftlb.compiler.membership import PoolState, Why, select, targets
from nftlb.model import Admin, FallbackKind, Family, Pool

if TYPE_CHECKING:
    from collections.abc import Mapping

DOWN = BackendState(up=False)
THREE = pool("dns", "192.0.2.53:53/udp", backends("10.0.0.11:5353", "10.0.0.12:5353", "10.0.0.13:5353"))


def chosen(of: Pool, states: Mapping[str, BackendState] | None = None, family: Family = Family.IP) -> dict[str, int]:
    """Names and weights of the targets."""
    selection = select(of, family, frozenset((states or {}).items()))
    return {target.name: weight for target, weight in selection.targets}


def why(of: Pool, states: Mapping[str, BackendState]) -> tuple[Why, FallbackKind]:
    selection = select(of, Family.IP, frozenset(states.items()))
    return selection.why, selection.verdict


def changed(of: Pool, **options: object) -> Pool:
    return Pool(**{name: getattr(of, name) for name in of.__dataclass_fields__} | options)


def test_all_take_part_by_default() -> None:
    """A pool of which nothing is known has all its backends, with the weights of the file."""
    assert {"b1": 1, "b2": 1, "b3": 1} == chosen(THREE)


def test_who_is_down_does_not() -> None:
    """A backend that is down gets nothing; the others keep their weights."""
    assert {"b1": 1, "b3": 1} == chosen(THREE, {"b2": DOWN})


@pytest.mark.parametrize("admin", [Admin.DRAIN, Admin.MAINTENANCE])
def test_the_operator_can_take_a_backend_out(admin: Admin) -> None:
    """Drained, or in maintenance: in the file or at run time, nothing new goes there."""
    drained = changed(THREE, backends=(*THREE.backends[:2], backend("b3", "10.0.0.13:5353", admin=admin)))

    assert {"b1": 1, "b2": 1} == chosen(drained)
    assert {"b1": 1, "b2": 1} == chosen(THREE, {"b3": BackendState(admin=admin)})


def test_run_time_goes_before_the_file() -> None:
    """A backend that the file drains can be enabled at run time, and given another weight."""
    drained = changed(THREE, backends=(backend("b1", "10.0.0.11", admin=Admin.DRAIN, weight=3), *THREE.backends[1:]))

    assert {"b1": 7, "b2": 1, "b3": 1} == chosen(drained, {"b1": BackendState(admin=Admin.ENABLED, weight=7)})


def test_weight_0_takes_nothing() -> None:
    """A backend of weight 0 is not a target, be it by the file or at run time."""
    assert {"b1": 1, "b2": 1} == chosen(THREE, {"b3": BackendState(weight=0)})


def test_unknown_names_are_nobody() -> None:
    """A state of a backend that the file no longer has changes nothing."""
    assert {"b1": 1, "b2": 1, "b3": 1} == chosen(THREE, {"gone": DOWN})


def test_families_are_chosen_from_apart() -> None:
    """A listener's packets go to backends of its family, and one family's faults are not the other's."""
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
    """With less than `panic` per cent of the weight healthy, all take part; with just that much, only the healthy."""
    heavy = changed(THREE, backends=(*THREE.backends[:2], backend("b3", "10.0.0.13", weight=2)), panic=panic)

    assert expected == chosen(heavy, dict.fromkeys(down, DOWN))


def test_panic_spares_who_is_not_enabled() -> None:
    """Whoever the operator took out stays out, and does not count."""
    states = {"b1": DOWN, "b2": BackendState(admin=Admin.DRAIN), "b3": DOWN}

    assert {"b1": 1, "b3": 1} == chosen(changed(THREE, panic=50), states)
    assert (Why.PANIC, FallbackKind.REJECT) == why(changed(THREE, panic=50), states)


ALL_DOWN = dict.fromkeys(("b1", "b2", "b3"), DOWN)


def test_without_a_backend_packets_are_refused() -> None:
    """`reject` is the default, `drop` the silent form."""
    assert (Why.FALLBACK, FallbackKind.REJECT) == why(THREE, ALL_DOWN)
    assert (Why.FALLBACK, FallbackKind.DROP) == why(changed(THREE, fallback=DROP), ALL_DOWN)


def test_fallback_all_uses_the_sick() -> None:
    """`all` means every backend that is enabled; if none is, packets are refused."""
    pool_all = changed(THREE, fallback=ALL)
    drained = {name: BackendState(admin=Admin.DRAIN) for name in ("b1", "b2", "b3")}

    assert {"b1": 1, "b2": 1, "b3": 1} == chosen(pool_all, ALL_DOWN)
    assert (Why.FALLBACK, FallbackKind.REJECT) == why(pool_all, drained)


def test_the_sorry_server_takes_what_nobody_else_can() -> None:
    """It is a target of its own family, and only while no backend is left."""
    excused = changed(THREE, fallback=sorry("10.0.0.99:53"))

    assert {"_sorry": 1} == chosen(excused, ALL_DOWN)
    assert {"b1": 1} == chosen(excused, {"b2": DOWN, "b3": DOWN})
    assert {} == chosen(excused, ALL_DOWN, Family.IP6)


def test_targets_are_everybody_who_may_ever_be_chosen() -> None:
    """The backends of the family in the order of the file, then the sorry server."""
    excused = changed(THREE, fallback=sorry("10.0.0.99:53", "[2001:db8::99]:53"))

    assert ["dns/b1", "dns/b2", "dns/b3", "dns/_sorry"] == [target.owner for target in targets(excused, Family.IP)]
    assert ["dns/_sorry"] == [target.owner for target in targets(excused, Family.IP6)]


def test_a_membership_of_who_is_down() -> None:
    """`with_down` is what `nftlb compile --down` asks for; pools that are not named are untouched."""
    membership = Membership.with_down([("dns", "b1"), ("dns", "b2"), ("log", "b1")])
    untouched: PoolState = frozenset()

    assert frozenset({("b1", DOWN), ("b2", DOWN)}) == membership.of("dns")
    assert untouched == membership.of("other")
