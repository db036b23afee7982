"""What an operator should know about a packet's treatment, in sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nftlb.compiler import ingress
from nftlb.compiler.cautions import cautions
from nftlb.compiler.membership import Why, targets
from nftlb.compiler.source_ports import source_ports
from nftlb.model import Balance, FallbackKind, Forward, Protocol, SourceKind

if TYPE_CHECKING:
    from nftlb.compiler import Routes
    from nftlb.compiler.membership import Selection
    from nftlb.model import Backend, Config, Family, Listener, Pool

    from .answer import Question

Remarks = tuple[tuple[str, str], ...]


def remarks(
    config: Config,
    pool: Pool,
    listener: Listener,
    question: Question,
    selection: Selection,
    routes: Routes,
    *,
    by_flow: bool,
    leaves_from: str,
) -> Remarks:
    """All of them, each under its heading.

    `leaves_from`: the port or ports from which this host's own packets leave, in place of the listener's.
    """
    datagrams = listener.protocol is Protocol.UDP
    found = {
        "forward": _FORWARD[pool.forward] + (_KEPT if pool.source is SourceKind.KEEP else ""),
        "spread": _spread(pool, question, by_flow=by_flow),
        "now": _now(pool, selection),
        "fragments": _FRAGMENTS[pool.forward] if datagrams else "",
        "zero checksum": _ZERO_CHECKSUM[pool.forward] if datagrams else "",
        "ICMP": _ICMP[pool.forward].format(service=question.service.address),
        "fast path": _fast_path(pool, listener.family, routes),
        "source ports": _source_ports(config, pool, listener) if pool.forward is Forward.NAT else "",
        "own client": _own_client(pool, question, selection),
        "caution": " ".join(f"{one.message}; use {one.mend}." for one in cautions(config) if one.pool == pool.name),
        "own packets": "" if pool.forward is Forward.NAT else _own_packets(question, leaves_from),
        "none left": _NONE_LEFT[_fallback(pool, listener.family)],
    }
    return tuple((heading, text) for heading, text in found.items() if text)


def fast_path(pool: Pool, family: Family, routes: Routes) -> bool | None:
    """Whether the ingress hook takes the pool's packets; None where that depends on routes that are not known."""
    if not pool.ingress:
        return False
    return True if ingress.possible(pool, family, routes) else None


_KEPT = " Backends see the client's own address and must route replies through this host."
_FORWARD = {
    Forward.NAT: "nat: conntrack rewrites the request, and the reply back; each has an entry in a zone of ours.",
    Forward.STATELESS: "stateless: every packet is rewritten by itself, without conntrack." + _KEPT,
    Forward.DSR: (
        "dsr: addresses stay as they are. Backends hold the service's address on loopback, and answer clients "
        "directly; replies don't pass this host."
    ),
}


def _spread(pool: Pool, question: Question, *, by_flow: bool) -> str:
    who = {
        Balance.ROUND_ROBIN: "takes the next slot of one wheel that all clients of the pool share",
        Balance.RANDOM: "draws a slot at random",
        Balance.HASH: f"takes the slot of its client's address, the same for every port of {question.client.address}",
    }[pool.balance]
    if not by_flow:
        return f"per packet: every packet, also of one and the same socket, {who}."
    if question.protocol is not Protocol.UDP:
        return f"per flow: the first packet of a connection {who}; conntrack sends the rest the same way."
    return (
        f"per flow: the first datagram {who}. conntrack sends all others of that socket to the same backend, "
        "until none has come for a while (Linux: 30 s, or 120 s once there were several both ways)."
    )


def _now(pool: Pool, selection: Selection) -> str:
    if selection.why is Why.PANIC:
        return f"panic: less than {pool.panic}% of the weight is healthy, so all enabled backends are used."
    if selection.why is Why.HEALTHY:
        return ""
    return {
        FallbackKind.REJECT: "no backend is left: refused with an ICMP error, or a reset for TCP.",
        FallbackKind.DROP: "no backend is left: dropped without a word.",
        FallbackKind.ALL: "no backend is healthy, so all enabled ones are used.",
        FallbackKind.SORRY: "no backend is left: the sorry server gets everything.",
    }[pool.fallback.kind if selection.targets else selection.verdict]


def _fallback(pool: Pool, family: Family) -> FallbackKind:
    """What happens when no backend of that family is left: without a sorry server of its own, it refuses."""
    kind = pool.fallback.kind
    no_sorry = kind is FallbackKind.SORRY and all(one.family is not family for one in pool.fallback.sorry)
    return FallbackKind.REJECT if no_sorry else kind


_FRAGMENTS = {
    Forward.NAT: "joined before a slot is picked, so no datagram is split over two backends.",
    Forward.STATELESS: "joined before a slot is picked, so no datagram is split; the fast path leaves them alone.",
    Forward.DSR: "joined before a slot is picked, so no datagram is split; the fast path leaves them alone.",
}
_ZERO_CHECKSUM = {
    Forward.NAT: "a datagram without a UDP checksum arrives without one.",
    Forward.STATELESS: "put back to zero after the port was rewritten; the fast path leaves such datagrams alone.",
    Forward.DSR: "not touched; the fast path leaves such datagrams alone.",
}
_ICMP = {
    Forward.NAT: (
        "a backend's errors reach the client as from {service} (port unreachable: ECONNREFUSED at once); a path-MTU "
        "error from the client's side finds the backend whose packet it is about."
    ),
    Forward.STATELESS: (
        "not translated: an error about a request quotes an address that the client never sent to, so its socket is "
        "not told; a path-MTU error about a reply, from beyond this host, is sent to {service} and ends here."
    ),
    Forward.DSR: (
        "an error about a request reaches the client, since addresses stay; a path-MTU error about a reply is sent to "
        "{service} and ends at this host, not at the backend."
    ),
}
_NONE_LEFT = {
    FallbackKind.REJECT: "reject: the client is told at once, by an ICMP error or, for TCP, a reset.",
    FallbackKind.DROP: "drop: the client hears nothing.",
    FallbackKind.ALL: "all: every enabled backend is used, healthy or not.",
    FallbackKind.SORRY: "sorry server: it gets everything.",
}


_MASQUERADED_CLIENT = (
    "the client is backend {name} itself: what falls to it is masqueraded, since a host takes nothing that comes from "
    "its own address. Other backends see its address and must answer through this host too."
)


def _source_ports(config: Config, pool: Pool, listener: Listener) -> str:
    """From which ports new flows leave, and why."""
    ports = source_ports(config).get(listener.family, {}).get(listener.protocol)
    if ports is None:
        return ""
    sentences = []
    if pool.source is not SourceKind.KEEP:
        sentences.append(
            f"backends see the client's own port if it is one of {ports}, else one of those. A backend's port can have "
            f"{len(ports)} clients' sockets at a time."
        )
    if listener.protocol is Protocol.UDP:
        sentences.append(f"what this host itself asks from {listener} leaves from one of {ports}.")
    sentences.append("Nothing listens there, so no answer looks like a request.")
    return " ".join(sentences)


def _serves(pool: Pool, backend: Backend, port: int) -> bool:
    """Whether a backend gets the pool's packets at that port."""
    if backend.port is not None:
        return backend.port == port
    return any(one.family is backend.family and one.first_port <= port <= one.last_port for one in pool.listen)


def _own_client(pool: Pool, question: Question, selection: Selection) -> str:
    """What becomes of packets of a client that is a backend of the pool."""
    own = [one.name for one in pool.backends if one.address == question.client.address]
    if not own:
        return ""
    name = " and ".join(own)
    if pool.forward is Forward.NAT:
        return _MASQUERADED_CLIENT.format(name=name) if pool.source is SourceKind.KEEP else ""
    if pool.forward is Forward.DSR:
        return (
            f"the client is backend {name} itself: it holds the service's address, so it answers itself, and its "
            "packets do not leave it."
        )
    return _own_client_of_stateless(pool, question, selection, own)


def _own_client_of_stateless(pool: Pool, question: Question, selection: Selection, own: list[str]) -> str:
    """The same for a `stateless` pool; `own`: the names under which the client is a backend."""
    name = " and ".join(own)
    if any(_serves(pool, one, question.client.port) for one in pool.backends if one.name in own):
        return (
            f"the client is backend {name} itself, and sends from a port at which it serves: its requests look like "
            "replies to the service's clients. Other backends see the service as their client, and answer that. Let it "
            "send from another port, or use `forward: nat`."
        )
    if pool.hairpin:
        return (
            f"the client is backend {name} itself: conntrack translates what falls to it (`hairpin: true`), and the "
            "backend sees this host's address as the source."
        )
    if any(target.name in own for target, _ in selection.targets):
        return (
            f"the client is backend {name} itself: packets that fall to it are lost, since a host takes none that "
            "come from its own address. With `hairpin: true`, or `forward: nat`, none is."
        )
    return ""


def _own_packets(question: Question, leaves_from: str) -> str:
    not_balanced = "what this host itself sends to the service is not balanced: it would keep the route that it had."
    if leaves_from:
        return (
            f"{not_balanced} What this host sends from {question.service} to other hosts leaves from port "
            f"{leaves_from}, so that its answers are not taken for requests."
        )
    return f"{not_balanced} Answers to what this host sends from {question.service} are taken for requests."


def _fast_path(pool: Pool, family: Family, routes: Routes) -> str:
    if pool.forward is Forward.NAT:
        return "no: conntrack comes after the ingress hook."
    if not pool.ingress:
        return "no: the pool names no `ingress` interfaces."
    exceptions = "except fragments, datagrams without a checksum, IPv6 with extension headers, and a TTL of 1"
    where = ", ".join(pool.ingress)
    unknown = [target.name for target in targets(pool, family) if routes.hop(target) is None]
    if unknown:
        return (
            f"on {where}, if there is a route to {', '.join(unknown)} when the rules are loaded (or a `device` "
            f"in the file); {exceptions}."
        )
    return f"on {where}: past routing and the forward chain of other firewalls; {exceptions}."
