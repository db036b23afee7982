"""Tries `per: flow` with other options while backends change (`group_steps`): where flows go, and where they stay."""

from __future__ import annotations

import select
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import cycle, islice
from typing import TYPE_CHECKING

from conntrack_entries import udp_entries
from group_steps import BACKENDS, SORRY_HOST, STEPS, in_groups
from group_trial import CYCLES, collecting, compare, counted, exceed, with_options
from keyed_clients import Asker, expected, order_of_turns
from pool_lab import BACKEND_PORT, PORT, of

from nftlb.kernel.nflog import RefusalMonitor
from nftlb.model import KEY_WORDS, Admin, BackendState, Balance, Forward, Per

if TYPE_CHECKING:
    from group_steps import Step
    from pool_lab import PoolLab

    from nftlb.model import Endpoint, Pool

SECONDS = 600
"""The `session_timeout`, which is longer than the time-outs of the host."""
AWAY = of(dict.fromkeys(BACKENDS, BackendState(admin=Admin.MAINTENANCE)))


def flows_with_extras(pool_lab: PoolLab, extras: frozenset[str], balance: Balance) -> Pool:
    """The pool of the lab in groups, `per: flow`, with options.

    The options are those of `with_options`, `passive` and `session_timeout`. The guard lets exactly the datagrams of
    all steps pass.
    """
    key = {"key": KEY_WORDS["source-port"]} if balance is Balance.HASH else {}
    pool = in_groups(pool_lab.pool(), balance=balance, per=Per.FLOW, passive="passive" in extras, **key)
    if "session_timeout" in extras:
        pool = replace(pool, session_timeout=SECONDS * 1000)
    flows = sent = 0
    for step in STEPS:
        flows += _new(step)
        sent += flows
    return with_options(pool_lab, pool, extras, sent)


def _new(step: Step) -> int:
    """The number of flows that begin in a step."""
    return CYCLES * sum(step.shares.values())


def keeps_flows(backend: str, step: Step) -> bool:
    """Whether a backend keeps its flows: also if it is drained, waits or stands by, but not if it is down or away."""
    if backend == SORRY_HOST:
        return SORRY_HOST in step.shares
    state = step.states.get(backend, BackendState())
    return state.up and state.admin is not Admin.MAINTENANCE


def try_flows(pool_lab: PoolLab, pool: Pool, version: int) -> None:
    """Take the pool through all steps, with ONE socket for each flow, and compare all that can be counted."""
    lab = pool_lab.lab
    # The flows, and the sources in the guard, of an earlier trial end.
    pool_lab.load(replace(pool, guard=None), membership=AWAY)
    lab.balancer.call(pool_lab.applier.tidy, at_once=True)
    pool_lab.load(pool)
    pool_lab.servers.clear()
    with ExitStack() as stack:
        archive = stack.enter_context(collecting(pool_lab, version))
        monitor = stack.enter_context(lab.balancer.call(RefusalMonitor)) if pool.passive else None
        trial = _Trial(pool_lab, pool, version, stack)
        before = counted(pool_lab)
        for step in STEPS:
            trial.take(step)
        exceed(pool, trial.flows[0].asker)
        sent = [
            (payload, (str(flow.client.address), flow.client.port)) for flow in trial.flows for payload in flow.sent
        ]
        compare(pool_lab, pool, before, trial.got, sent, archive)
        assert all(flow.asker.is_idle() for flow in trial.flows)
        if pool.forward is Forward.NAT:
            trial.check_entries()
        if monitor:
            assert [] == monitor.read()
            trial.refuse(monitor)


@dataclass
class _Flow:
    """All datagrams of ONE socket. `backend`: where the last datagram arrived."""

    asker: Asker
    client: Endpoint
    sent: list[bytes]
    backend: str = ""


class _Trial:
    """Sends the datagrams of the steps. `got`: how many reached each backend."""

    def __init__(self, pool_lab: PoolLab, pool: Pool, version: int, stack: ExitStack) -> None:
        self.flows: list[_Flow] = []
        self.got: Counter[str] = Counter()
        self._pool_lab, self._pool, self._version, self._stack = pool_lab, pool, version, stack

    def take(self, step: Step) -> None:
        """Change the states of backends, and send a datagram of each former flow, then of new flows."""
        self._pool_lab.update(step.membership)
        # Without conntrack, the key decides about each datagram.
        kept = [flow for flow in self.flows if self._pool.forward is Forward.NAT and keeps_flows(flow.backend, step)]
        moved = [flow for flow in self.flows if flow not in kept]
        for flow in kept:
            assert flow.backend == self._ask(flow), step.about
        moved += [self._begin() for _ in range(_new(step))]
        reached = [self._ask(flow) for flow in moved]
        if self._pool.balance is Balance.HASH:
            assert [expected(self._pool, flow.client, b"", step.membership) for flow in moved] == reached, step.about
        else:
            order = order_of_turns(self._pool, moved[0].client, step.membership)
            assert list(islice(cycle(order), len(moved))) == reached, step.about
            assert step.shares == Counter(order), step.about

    def check_entries(self) -> None:
        """Each flow has one entry of conntrack, with the time-out of the pool."""
        found = udp_entries(self._pool_lab.lab.balancer, self._version, PORT)
        assert sorted(flow.client.port for flow in self.flows) == sorted(entry.source[1] for entry in found)
        timed = self._pool.session_timeout is not None
        assert {timed} == {SECONDS - 100 < entry.seconds <= SECONDS for entry in found}

    def refuse(self, monitor: RefusalMonitor) -> None:
        """A backend refuses a datagram of a flow: the error is reported. The flow moves when the backend is down."""
        self._pool_lab.load(replace(self._pool, guard=None))
        flow = next(one for one in self.flows if one.backend == "b1")
        (host,) = (one for one in self._pool_lab.lab.backends if one.name == "b1")
        host.run(["nft", "add table inet wall"])
        host.run(["nft", "add chain inet wall input { type filter hook input priority 0; }"])
        host.run(["nft", f"add rule inet wall input udp dport {BACKEND_PORT} reject"])
        flow.asker.send(b"refused")
        select.select([monitor], [], [], 20)
        found = monitor.read()
        host.run(["nft", "delete table inet wall"])
        assert [(host.address(self._version), BACKEND_PORT)] == [(str(error.address), error.port) for error in found]
        self._pool_lab.update(of({"b1": BackendState(up=False)}))
        assert flow.asker.ask(b"again") in {"b2", "b3"}

    def _begin(self) -> _Flow:
        client = self._pool_lab.lab.client
        asker = self._stack.enter_context(Asker(client, self._version))
        flow = _Flow(asker, asker.endpoint(client.address(self._version)), [])
        self.flows.append(flow)
        return flow

    def _ask(self, flow: _Flow) -> str:
        # The fast path leaves fragments alone.
        large = len(flow.sent) % 3 == 1 and not self._pool.ingress
        payload = f"{flow.client.port} {len(flow.sent)} ".encode() + bytes(3000 if large else 0)
        flow.backend = flow.asker.ask(payload)
        flow.sent.append(payload)
        self.got[flow.backend] += 1
        return flow.backend
