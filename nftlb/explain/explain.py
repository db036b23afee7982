"""From a configuration and a packet to the explanation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nftlb.compiler import BackendState, Membership, Routes
from nftlb.compiler.aliases import aliases
from nftlb.compiler.allocation import allocate, flow_owner, is_flow, mark_owner
from nftlb.compiler.membership import select, targets
from nftlb.compiler.source_ports import is_asked_from, source_ports
from nftlb.compiler.versions import HASH_SEED, wheel
from nftlb.model import Admin, Balance, Forward
from nftlb.model.kinds import endpoint_text

from .answer import Answer, Candidate, Explanation
from .jhash import slot_of
from .match import near, refusal, taker
from .remarks import fast_path, remarks
from .ways import reply, request, sources

if TYPE_CHECKING:
    from nftlb.compiler import Allocation
    from nftlb.compiler.membership import PoolState, Selection, Target
    from nftlb.model import Config, Listener, Pool

    from .answer import Question

IN = "in"


def explain(
    config: Config,
    question: Question,
    membership: Membership | None = None,
    allocation: Allocation | None = None,
    routes: Routes | None = None,
) -> Explanation:
    """Explain what becomes of a packet; `allocation` and `routes` as the kernel has them, where they are known."""
    found = taker(config, question)
    if found is None:
        return Explanation(question, None, refusal(config, question), near(config, question))
    pool, listener = found
    state = (membership or Membership()).of(pool.name)
    selection = select(pool, listener.family, state)
    slots = tuple(selection.targets[index][0].name for index in wheel(pool, listener.family, selection))
    by_flow = is_flow(pool, listener.protocol)
    answer = Answer(
        pool=pool,
        listener=listener,
        by_flow=by_flow,
        why=selection.why,
        verdict=None if selection.targets else selection.verdict,
        candidates=_candidates(config, pool, listener, question, state, selection, slots, allocate(config, allocation)),
        slots=slots,
        slot=_own_slot(pool, question, slots),
        fast_path=fast_path(pool, listener.family, routes or Routes()),
        remarks=remarks(
            config,
            pool,
            listener,
            question,
            selection,
            routes or Routes(),
            by_flow=by_flow,
            leaves_from=_leaves_from(config, pool, listener, question.service.port),
        ),
    )
    return Explanation(question, answer)


def _leaves_from(config: Config, pool: Pool, listener: Listener, port: int) -> str:
    """The port or ports from which this host's own packets leave in place of a listener's; empty if it is the same."""
    alias = aliases(config).get(listener, {}).get(port)
    if alias is not None:
        return f"{alias}"
    ports = source_ports(config).get(listener.family, {}).get(listener.protocol)
    return f"{ports}" if ports and is_asked_from(pool, listener) else ""


def _candidates(
    config: Config,
    pool: Pool,
    listener: Listener,
    question: Question,
    state: PoolState,
    selection: Selection,
    slots: tuple[str, ...],
    allocation: Allocation,
) -> tuple[Candidate, ...]:
    family = listener.family
    weights = dict(selection.targets)
    flows = allocation.zones.get(flow_owner(pool, family)) if is_flow(pool, listener.protocol) else None
    source = sources(config, question, allocation.ports.get(family, {}).get(question.protocol))
    return tuple(
        Candidate(
            name=target.name,
            address=endpoint_text(target.address, target.port or question.service.port),
            weight=weights.get(target, 0),
            state=_state(pool, target, dict(state), taking_part=target in weights),
            slots=slots.count(target.name),
            zone=flows or allocation.zone(pool, target) or None,
            mark=allocation.marks.get(mark_owner(target)) if pool.forward is Forward.DSR else None,
            request=request(pool, target, question, source),
            reply=reply(pool, target, question, source),
        )
        for target in targets(pool, family)
    )


def _state(pool: Pool, target: Target, states: dict[str, BackendState], *, taking_part: bool) -> str:
    backend = pool.backend(target.name)
    if backend is None:
        return IN if taking_part else "waits until no backend is left"
    state = states.get(backend.name, BackendState())
    admin = state.admin or backend.admin
    if admin is not Admin.ENABLED:
        return str(admin)
    if not (backend.weight if state.weight is None else state.weight):
        return "weight 0"
    if state.up:
        return IN if taking_part else "not needed"
    return f"{IN}, though down" if taking_part else "down"


def _own_slot(pool: Pool, question: Question, slots: tuple[str, ...]) -> int | None:
    """The packet's slot, where its client's address decides."""
    if not slots or pool.balance is not Balance.HASH:
        return None
    return slot_of(question.client.address.packed, len(slots), int(HASH_SEED, 16))
