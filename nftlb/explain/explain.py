"""Explains a packet by a configuration and the states of backends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nftlb.compiler import Routes
from nftlb.compiler.aliases import aliases
from nftlb.compiler.allocation import FlowZone, allocate, is_flow, mark_owner
from nftlb.compiler.routes import tunnel_hop
from nftlb.compiler.selection import select, targets
from nftlb.compiler.source_ports import is_asked_from, source_ports
from nftlb.compiler.versions import turns
from nftlb.model import Admin, BackendState, Encap, Forward, Membership, Protocol
from nftlb.model.kinds import endpoint_text

from .choice import choice_of
from .explanation import Candidate, Explanation, NearListener, Treatment
from .packet_paths import reply_path, request_path, sources_of_flows
from .remarks import remarks, takes_fast_path

if TYPE_CHECKING:
    from nftlb.compiler import Allocation
    from nftlb.compiler.selection import Selection, Target
    from nftlb.model import Config, Listener, Pool, PoolState

    from .explanation import Question


_MOST_NEAR = 5


def find_listener(config: Config, question: Question) -> tuple[Pool, Listener] | None:
    """Return the pool and the listener that take the packet; None if no pool does. Listeners don't overlap."""
    for pool in config.pools:
        for listener in pool.listen:
            if not _differences(listener, question):
                return pool, listener
    return None


def why_none_matches(config: Config, question: Question) -> str:
    """Return a sentence that says why no pool takes the packet."""
    service, port = question.service, f"port {question.service.port}/{question.protocol}"
    for pool in config.pools:
        for backend in pool.backends:
            if backend.address == service.address and backend.port in (None, service.port):
                return f"{service} is backend {pool.name}/{backend.name} itself: what is sent there is not balanced"
    if asking := _asking_backend(config, question):
        return asking
    for listener, found in aliases(config).items():
        if (listener.address, listener.protocol) == (service.address, question.protocol):
            for own, alias in found.items():
                if alias == service.port:
                    return (
                        f"{service} stands for port {own} of this host itself: replies to packets that this host sends "
                        f"from there come in for {port}, and go to its own socket"
                    )
    if any(listener.address == service.address for pool in config.pools for listener in pool.listen):
        return f"{service.address} has listeners, but none of them for {port}"
    return f"no pool listens on {service.address}"


def _asking_backend(config: Config, question: Question) -> str:
    """Return a sentence about a request that a backend itself sends; empty for any other packet."""
    client = question.client
    for pool in config.pools if question.protocol is Protocol.UDP else ():
        for backend in pool.backends if pool.outbound else ():
            for listener in pool.listen if backend.address == client.address else ():
                port = client.port if backend.port in (None, client.port) else 0
                ours = listener.family is backend.family and listener.protocol is Protocol.UDP
                if ours and listener.first_port <= port <= listener.last_port:
                    source = endpoint_text(listener.address, port)
                    return f"it is a request of backend {pool.name}/{backend.name}, and leaves from {source}"
    return ""


def nearest_listeners(config: Config, question: Question) -> tuple[NearListener, ...]:
    """Return the listeners that differ least. A different protocol or port is less than a different address."""
    found = []
    for pool in config.pools:
        for listener in pool.listen:
            differences = _differences(listener, question)
            if len(differences) == 1 or "address" not in differences:
                distance = abs(listener.first_port - question.service.port)
                rank = ("address" in differences, len(differences), distance)
                found.append((rank, NearListener(listener, pool.name, " and ".join(differences))))
    found.sort(key=lambda pair: pair[0])
    return tuple(near for _, near in found[:_MOST_NEAR])


def _differences(listener: Listener, question: Question) -> list[str]:
    differences = []
    if listener.address != question.service.address:
        differences.append("address")
    if not listener.first_port <= question.service.port <= listener.last_port:
        differences.append("port")
    if listener.protocol is not question.protocol:
        differences.append("protocol")
    return differences


# --- the explanation --------------------------------------------------------------------------------------------------

IN = "in"


def explain_packet(
    config: Config,
    question: Question,
    membership: Membership | None = None,
    routes: Routes | None = None,
    allocation: Allocation | None = None,
) -> Explanation:
    """Explain what happens to a packet. `routes` and `allocation` are those of the kernel's rules, if known."""
    if question.client.family is not question.service.family:
        return Explanation(question, None, "the client and the service have addresses of two address families")
    found = find_listener(config, question)
    if found is None:
        return Explanation(question, None, why_none_matches(config, question), nearest_listeners(config, question))
    pool, listener = found
    state = (membership or Membership()).of(pool.name)
    selection = select(pool, listener.family, state)
    slots = tuple(selection.targets[index][0].name for index in turns(pool, listener.family, selection))
    choice = choice_of(pool, question, selection, slots)
    if choice and choice.dropped:
        slots = ()
    by_flow = is_flow(pool, listener.protocol)
    answer = Treatment(
        pool=pool,
        listener=listener,
        by_flow=by_flow,
        mode=selection.mode,
        priority=selection.priority,
        verdict=None if selection.targets else selection.verdict,
        candidates=_candidates(
            config, pool, listener, question, state, selection, slots, allocation or allocate(config)
        ),
        slots=slots,
        choice=choice,
        fast_path=takes_fast_path(pool, listener.family, routes or Routes()),
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
    """Return the port or range that this host's own packets leave from; empty if they keep the listener's port."""
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
    flows = allocation.zones.get(FlowZone(pool.name, family)) if is_flow(pool, listener.protocol) else None
    source = sources_of_flows(config, question, allocation.ports.get(family, {}).get(question.protocol))
    return tuple(
        Candidate(
            name=target.name,
            address=endpoint_text(target.address, target.port or question.service.port),
            weight=weights.get(target, 0),
            state=_state(pool, target, dict(state), taking_part=target in weights),
            slots=slots.count(target.name),
            zone=flows or allocation.zone(pool, target) or None,
            mark=allocation.marks.get(mark_owner(target)) if pool.forward is Forward.DSR else None,
            tunnel=tunnel_hop(pool.encap, target.address).device if pool.encap is not Encap.NONE else None,
            request=request_path(pool, target, question, source),
            reply=reply_path(pool, target, question, source),
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
        priority = backend.priority if state.priority is None else state.priority
        waiting = f"priority {priority} waits to take over" if state.waiting else f"standby, priority {priority}"
        return IN if taking_part else waiting
    return f"{IN}, though down" if taking_part else "down"
