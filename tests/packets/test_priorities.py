"""Priorities under full load: no datagram is lost or doubled when another priority serves, in every mode.

The tests use ONE client socket, and count the datagrams at the backends.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pytest
from blaster import Membership as Members
from pool_lab import DSR_INGRESS, MODES, NAT, PORT, STATELESS, PoolLab, of, vip
from under_fire import fire, swap_in_turn

from nftlb.model import BackendState, Per

if TYPE_CHECKING:
    from blaster import Blaster
    from pool_lab import Mode

    from nftlb.model import Pool

pytest_plugins = ("lab_fixtures",)

DOWN, WAITING = BackendState(up=False), BackendState(waiting=True)
CASES = [*((mode, 4) for mode in MODES), (NAT, 6), (STATELESS, 6), (DSR_INGRESS, 6)]

Step = tuple[dict[str, BackendState], tuple[str, ...]]
"""The states of backends, and the backends that get the packets. b1 has priority 1, b2 and b3 have priority 2."""

LOSS_AND_RETURN: tuple[Step, ...] = (
    ({}, ("b1",)),
    ({"b1": DOWN}, ("b2", "b3")),
    ({"b1": WAITING, "b3": DOWN}, ("b2",)),
    ({"b3": DOWN}, ("b1",)),
    ({"b1": DOWN, "b2": DOWN}, ("b3",)),
    ({"b1": WAITING}, ("b2", "b3")),
)
# Flows stay with a backend that is healthy. So in each step the backend that has the flow is down.
FAILOVERS: tuple[Step, ...] = (({"b2": DOWN, "b3": DOWN}, ("b1",)), ({"b1": DOWN, "b3": DOWN}, ("b2",)))


def with_priorities(pool: Pool, **options: object) -> Pool:
    """The pool of the lab, with b1 in priority 1, and b2 and b3 in priority 2."""
    backends = tuple(replace(backend, priority=1 if backend.name.startswith("b1") else 2) for backend in pool.backends)
    return replace(pool, backends=backends, **options)  # type: ignore[arg-type]


@pytest.mark.alone
@pytest.mark.parametrize(("mode", "version"), CASES, ids=lambda value: f"{value}")
def test_changes_of_priority_under_full_load(blaster: Blaster, mode: Mode, version: int) -> None:
    """All datagrams of a full load arrive once, at a backend of the priority that serves at the time."""
    run_under_load(blaster, mode, version, LOSS_AND_RETURN, Per.PACKET)


@pytest.mark.alone
@pytest.mark.parametrize("version", [4, 6])
def test_failovers_of_a_flow_under_full_load(blaster: Blaster, version: int) -> None:
    """`per: flow`: the flow of a full load moves to the other priority at each failover, without a loss."""
    run_under_load(blaster, NAT, version, FAILOVERS, Per.FLOW)


def run_under_load(blaster: Blaster, mode: Mode, version: int, steps: tuple[Step, ...], per: Per) -> None:
    """Change the states during a full load of one socket. Check that each datagram arrived once, at a right backend."""
    with PoolLab(mode, serve=False) as pool_lab:
        pool_lab.load(with_priorities(pool_lab.pool(), per=per), membership=of(steps[0][0]))
        sets = [(of(states), Members(0, 0, frozenset(names))) for states, names in steps]
        fired = fire(blaster, pool_lab, version, partial(swap_in_turn, pool_lab, steps=sets, least=20))
    history = fired.found
    print(f"{mode} IPv{version} per {per}: {len(history) - 1} changes, {fired}")  # noqa: T201
    assert {} == fired.faults
    assert [] == fired.ledger.outside(history)
    assert len(history) > 20  # with fewer changes, the test would prove nothing


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_exact_turns_in_each_priority(mode: Mode, version: int) -> None:
    """Datagrams of one socket take strict turns among the backends of the serving priority; other backends get none."""
    with PoolLab(mode) as pool_lab, pool_lab.lab.client.connect((vip(version), PORT)) as client:
        pool_lab.load(with_priorities(pool_lab.pool()))
        for states, names in LOSS_AND_RETURN:
            pool_lab.update(of(states))
            answers = client.exchange(4)
            assert sorted(names * (4 // len(names))) == sorted(answer.backend for answer in answers)
            assert {(vip(version), PORT)} == {answer.source for answer in answers}


@pytest.mark.parametrize("version", [4, 6])
def test_flows_stay_when_a_priority_returns(version: int) -> None:
    """`per: flow`: a return moves only new flows; a failover moves the flows of backends that are down."""
    with PoolLab(NAT) as pool_lab:
        pool_lab.load(with_priorities(pool_lab.pool(), per=Per.FLOW))
        with (
            pool_lab.lab.client.connect((vip(version), PORT)) as early,
            pool_lab.lab.client.connect((vip(version), PORT)) as late,
        ):
            assert ["b1"] * 3 == [answer.backend for answer in early.exchange(3)]
            pool_lab.update(of({"b1": DOWN, "b3": DOWN}))
            assert ["b2"] * 3 == [answer.backend for answer in early.exchange(3)]
            pool_lab.update(of({}))
            assert ["b2"] * 3 == [answer.backend for answer in early.exchange(3)]
            assert ["b1"] * 3 == [answer.backend for answer in late.exchange(3)]
