"""Remarks for operators about the treatment of a packet, in sentences."""

from __future__ import annotations

from ipaddress import ip_network
from typing import TYPE_CHECKING

from nftlb.compiler.cautions import cautions
from nftlb.compiler.copies import has_copies
from nftlb.compiler.ingress import has_fast_path, longest_in_tunnel
from nftlb.compiler.reply_form import reply_form
from nftlb.compiler.selection import targets
from nftlb.compiler.source_ports import source_ports
from nftlb.model import SOURCE, Balance, Encap, FallbackKind, Forward, Protocol, Replies, RotationMode, SourceKind

from .choice import has_source, is_denied

if TYPE_CHECKING:
    from nftlb.compiler import Routes
    from nftlb.compiler.selection import Selection
    from nftlb.model import Backend, Config, Family, Listener, Pool

    from .explanation import Question

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
    """Return all remarks that apply, each with its heading. If the guard drops the packet, only this remark applies.

    `leaves_from` is the port or range that this host's own packets leave from instead of the listener's port.
    """
    datagrams = listener.protocol is Protocol.UDP
    if pool.guard and is_denied(pool.guard, question.client):
        return (("guard", "the client is in `deny`, so its packets are dropped."),)
    found = {
        "forward": _forward(pool),
        "spread": _spread(pool, question, by_flow=by_flow),
        "guard": _guard(pool, question),
        "helper": _HELPER.format(pool.helper) if pool.helper and by_flow else "",
        "copies": _copies(pool, listener) if datagrams else "",
        "answers": _ANSWERS if datagrams and pool.outbound and pool.forward is Forward.NAT else "",
        "now": _now(pool, selection),
        "priority": _priority(pool, selection),
        "fragments": _FRAGMENTS[pool.forward] if datagrams else "",
        "zero checksum": _ZERO_CHECKSUM[pool.forward] if datagrams else "",
        "ICMP": _ICMP[pool.forward].format(service=question.service.address),
        "last hop": _last_hop(pool, copied=datagrams),
        "replies": _replies(pool, listener.family),
        "fast path": _fast_path(pool, listener.family, routes),
        "source ports": _source_ports(config, pool, listener) if pool.forward is Forward.NAT else "",
        "own client": _own_client(pool, question, selection),
        "caution": " ".join(
            f"{caution.message}; use {caution.fix}." for caution in cautions(config) if caution.pool == pool.name
        ),
        "own packets": "" if pool.forward is Forward.NAT else _own_packets(question, leaves_from),
        "none left": _NONE_LEFT[_fallback(pool, listener.family)],
    }
    return tuple((heading, text) for heading, text in found.items() if text)


def takes_fast_path(pool: Pool, family: Family, routes: Routes) -> bool | None:
    """Whether the fast path takes the pool's packets; None if that depends on routes that are not known."""
    if not pool.ingress:
        return False
    return True if has_fast_path(pool, family, routes) else None


_KEPT = " Backends see the client's own address and must route replies through this host."
_FORWARD = {
    Forward.NAT: "nat: conntrack rewrites the request, and the reply back; each has an entry in a zone of ours.",
    Forward.STATELESS: "stateless: every packet is rewritten separately, without conntrack." + _KEPT,
    Forward.DSR: (
        "dsr: addresses stay as they are. Backends hold the service's address on loopback, and answer clients "
        "directly; replies don't pass this host."
    ),
}

_TUNNEL = (
    "dsr: addresses stay as they are, and each packet goes to its backend in a tunnel ({encap}). Backends open the "
    "tunnel, hold the service's address on loopback, and answer clients directly; replies don't pass this host."
)


def _forward(pool: Pool) -> str:
    if pool.encap is not Encap.NONE:
        return _TUNNEL.format(encap=pool.encap)
    return _FORWARD[pool.forward] + (_KEPT if pool.source is SourceKind.KEEP else "")


def _spread(pool: Pool, question: Question, *, by_flow: bool) -> str:
    who = {
        Balance.ROUND_ROBIN: "takes the next slot; all clients of the pool share the turns",
        Balance.RANDOM: "draws a slot at random",
        Balance.HASH: _hashed(pool, question),
    }[pool.balance]
    if not by_flow:
        return f"per packet: every packet, also of one and the same socket, {who}."
    if question.protocol is not Protocol.UDP:
        return f"per flow: the first packet of a connection {who}; conntrack sends the rest the same way."
    kernel = "a while (Linux: 30 s, or 120 s once there were several both ways)"
    pause = f"{pool.session_timeout // 1000} s (`session_timeout`)" if pool.session_timeout else kernel
    return (
        f"per flow: the first datagram {who}. conntrack sends all others of that socket to the same backend, "
        f"until none has come for {pause}."
    )


def _hashed(pool: Pool, question: Question) -> str:
    if pool.key == SOURCE:
        return f"takes the slot of its client's address, the same for every port of {question.client.address}"
    without = "; a datagram without them takes the next turn" if pool.key.places else ""
    return f"takes the slot of its key, {pool.key.meaning}{without}"


def _guard(pool: Pool, question: Question) -> str:
    """Say what the guard of the pool does with packets of this client."""
    guard, client = pool.guard, question.client
    if guard is None:
        return ""
    if has_source(guard.allow, client):
        return "the client is in `allow`, so its packets always pass."
    if guard.rate is None:
        return "the client is in no list, so its packets pass."
    source = ip_network((client.address, guard.per.of(client.family)), strict=False)
    what = "packets" if question.protocol is Protocol.UDP else "new connections"
    ban = f" Then it is banned for {guard.ban // 1000} s." if guard.ban else ""
    who = (
        f"{client.address}" if guard.per.is_whole(client.family) else f"all clients in {source}, which are one source,"
    )
    shared = guard.shared_rate
    full = (
        f"While {guard.sources} other sources have a limit (`sources`), this source shares a limit with all sources "
        f"that have none: {shared.packets if shared else guard.most_at_once} {what} at once and "
        f"{shared or guard.rate} later."
    )
    return (
        f"{who} may send {guard.most_at_once} {what} at once and {guard.rate} later; the rest is dropped.{ban} {full}"
    )


_HELPER = (
    "{}: the backend answers from a new port. The client gets that answer from the service's address and that port. "
    "Packets of the client to that port reach the same backend."
)


def _copies(pool: Pool, listener: Listener) -> str:
    """Say where copies of the datagrams go."""
    sentences = []
    names = [
        f"{collector.name} (1 in {collector.one_in})" if collector.one_in > 1 else collector.name
        for collector in pool.mirror
        if collector.family is listener.family
    ]
    if names:
        sentences.append(
            f"{', '.join(names)}: copies with the source of the client. Replies of collectors that pass this host "
            "are dropped."
        )
    if pool.templates:
        sentences.append(
            "templates: a datagram that begins with templates of NetFlow v9 or IPFIX goes to every backend in "
            "rotation, and takes no turn."
        )
    return " ".join(sentences)


# With stateless, a caution says who gets the answers.
_ANSWERS = (
    "outbound: a packet that answers a request of a backend goes to the backend that asked, also while that backend is "
    "drained, down or on standby. All other packets go as the slots say."
)


def _now(pool: Pool, selection: Selection) -> str:
    if selection.mode is RotationMode.PANIC:
        return f"panic: less than {pool.panic}% of the weight is usable, so all enabled backends are used."
    if selection.mode is RotationMode.HEALTHY:
        return ""
    return {
        FallbackKind.REJECT: "no backend is left: packets are rejected with an ICMP error or, for TCP, a reset.",
        FallbackKind.DROP: "no backend is left: packets are dropped.",
        FallbackKind.ALL: "no backend is usable, so all enabled ones are used.",
        FallbackKind.SORRY: "no backend is left: the sorry server gets all packets.",
    }[pool.fallback.kind if selection.targets else selection.verdict]


def _priority(pool: Pool, selection: Selection) -> str:
    """Say which priority serves, if the backends of the family have several."""
    if len(selection.priorities) <= 1 or selection.mode is not RotationMode.HEALTHY:
        return ""
    enough = f"enough usable backends (min_healthy: {pool.min_healthy})"
    waits = f"waits for {pool.preempt_delay / 1000:g} s (preempt_delay)"
    if selection.priority is None:
        return f"no priority has {enough}, or one that has {waits}, so all usable backends are used."
    if selection.priority == min(selection.priorities):
        return f"priority {selection.priority} serves: it has {enough}, and the lowest number is preferred."
    return f"priority {selection.priority} serves: no lower number has {enough}, or one that has {waits}."


def _fallback(pool: Pool, family: Family) -> FallbackKind:
    """Return the fallback of a family. A family without its own sorry server rejects packets."""
    kind = pool.fallback.kind
    no_sorry = kind is FallbackKind.SORRY and all(endpoint.family is not family for endpoint in pool.fallback.sorry)
    return FallbackKind.REJECT if no_sorry else kind


_FRAGMENTS = {
    Forward.NAT: "joined before a slot is picked, so no datagram is split over two backends.",
    Forward.STATELESS: "joined before a slot is picked, so no datagram is split; the fast path leaves them alone.",
    Forward.DSR: "joined before a slot is picked, so no datagram is split; the fast path leaves them alone.",
}
_ZERO_CHECKSUM = {
    Forward.NAT: "a datagram without a UDP checksum arrives without one.",
    Forward.STATELESS: "put back to zero after the port was rewritten; the fast path leaves such datagrams alone.",
    Forward.DSR: "a datagram without a UDP checksum arrives without one.",
}
_ICMP = {
    Forward.NAT: (
        "a backend's errors reach the client as from {service} (port unreachable: ECONNREFUSED at once); a path-MTU "
        "error from the client's side finds the backend whose packet it is about."
    ),
    Forward.STATELESS: (
        "not translated: an error about a request quotes an address that the client never sent to, so its socket "
        "gets no error; a path-MTU error about a reply, from beyond this host, is sent to {service} and ends here."
    ),
    Forward.DSR: (
        "an error about a request reaches the client, since addresses stay; a path-MTU error about a reply is sent to "
        "{service} and ends at this host, not at the backend."
    ),
}


def _last_hop(pool: Pool, *, copied: bool) -> str:
    """Say what happens to a packet with a TTL of 1. `copied`: options for copies concern packets of the protocol."""
    quoted = " The error quotes the address of a backend." if pool.forward is Forward.STATELESS else ""
    return (
        "a packet of another host with a TTL (hop limit) of 1 reaches no backend elsewhere: its sender gets an ICMP "
        f"error (time exceeded), as from a router.{quoted}"
    ) + (" Such a packet is not copied." if copied and has_copies(pool) else "")


def _replies(pool: Pool, family: Family) -> str:
    """Say in which hook replies of `stateless` are rewritten."""
    if pool.forward is not Forward.STATELESS:
        return ""
    form = reply_form(pool, family, {})
    if not form.early:
        return f"get the service's address in {form}."
    return (
        "get the service's address in prerouting where this host permits it (`nftlb doctor` says whether), else in "
        "postrouting. In prerouting, this host's own path-MTU errors about replies end here, not at the backend."
    )


_NONE_LEFT = {
    FallbackKind.REJECT: "reject: the client gets an ICMP error or, for TCP, a reset at once.",
    FallbackKind.DROP: "drop: the client gets no reply.",
    FallbackKind.ALL: "all: every enabled backend is used, healthy or not.",
    FallbackKind.SORRY: "sorry server: it gets all packets.",
}


_MASQUERADED_CLIENT = (
    "the client is backend {name} itself: packets that it gets from itself are masqueraded, because a host drops "
    "packets with its own source address. Other backends see its address and must answer through this host too."
)


def _source_ports(config: Config, pool: Pool, listener: Listener) -> str:
    """Say which ports new flows leave from, and why."""
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
        sentences.append(f"requests of this host itself from {listener} leave from one of {ports}.")
    sentences.append("No service listens there, so no reply looks like a request.")
    return " ".join(sentences)


def _serves(pool: Pool, backend: Backend, port: int) -> bool:
    """Whether a backend gets packets of the pool at the port."""
    if backend.port is not None:
        return backend.port == port
    return any(
        listener.family is backend.family and listener.first_port <= port <= listener.last_port
        for listener in pool.listen
    )


def _own_client(pool: Pool, question: Question, selection: Selection) -> str:
    """Say what happens to packets of a client that is also a backend of the pool."""
    own = [backend.name for backend in pool.backends if backend.address == question.client.address]
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
    """Say the same for a `stateless` pool. `own`: the backends that are this client."""
    name = " and ".join(own)
    late = pool.replies is Replies.POSTROUTING
    if late and any(_serves(pool, backend, question.client.port) for backend in pool.backends if backend.name in own):
        return (
            f"the client is backend {name} itself, and sends from a port at which it serves: its requests look like "
            "replies to the service's clients. Other backends see the service as their client, and answer that. Let it "
            "send from another port, or use `replies: prerouting` or `forward: nat`."
        )
    if pool.hairpin:
        return (
            f"the client is backend {name} itself: conntrack translates packets that it gets from itself "
            "(`hairpin: true`): it sees this host's address as the source."
        )
    if any(target.name in own for target, _ in selection.targets):
        return (
            f"the client is backend {name} itself: packets that it gets from itself are lost, because a host "
            "drops packets with its own source address. Use `hairpin: true` or `forward: nat`."
        )
    return ""


def _own_packets(question: Question, leaves_from: str) -> str:
    not_balanced = "packets of this host itself to the service are not balanced: they would keep their first route."
    if leaves_from:
        return (
            f"{not_balanced} What this host sends from {question.service} to other hosts leaves from port "
            f"{leaves_from}, so that replies are not taken for requests."
        )
    return f"{not_balanced} Replies to packets that this host sends from {question.service} are taken for requests."


def _fast_path(pool: Pool, family: Family, routes: Routes) -> str:
    if pool.forward is Forward.NAT:
        return "no: conntrack comes after the ingress hook."
    if not pool.ingress:
        return "no: the pool names no `ingress` interfaces."
    exceptions = f"except {', '.join(_slow_packets(pool, family))}, and a TTL of 1"
    where = ", ".join(pool.ingress)
    unknown = [target.name for target in targets(pool, family) if routes.hop(target) is None]
    if unknown:
        return (
            f"on {where}, if there is a route to {', '.join(unknown)} when the rules are loaded (or a `device` "
            f"in the file); {exceptions}."
        )
    return f"on {where}: past routing and the forward chain of other firewalls; {exceptions}."


def _slow_packets(pool: Pool, family: Family) -> list[str]:
    """Return the packets that leave the fast path."""
    longest = longest_in_tunnel(pool.encap, family)
    return [
        "fragments",
        *(["datagrams without a checksum"] if pool.forward is Forward.STATELESS else ()),
        "IPv6 with extension headers",
        *([f"packets longer than {longest} bytes"] if pool.encap is not Encap.NONE else ()),
        *(["templates of NetFlow v9 and IPFIX"] if pool.templates else ()),
        *(["packets of the pool's own backends"] if pool.hairpin else ()),
    ]
