"""Copies of datagrams: `mirror` sends copies to collectors, `templates` sends templates to every backend. Pure.

A rule gives the datagram the address of the copy, copies it (`dup`), and puts the address of the service back. So a
copy needs no mark and no further rule: it leaves through the output and postrouting hooks of this host, untracked, with
the source of the client. All rules of a pool's copies are in chains before the pool's own chains:

    copies/POOL/LISTENER         jumps to the collectors, goes to the templates, then goes to the pool
    collector/POOL/NAME/LISTENER copies to a collector
    templates/POOL/LISTENER      copies to all backends in rotation but one, which gets the datagram itself
    template/POOL/NAME/LISTENER  copies to a backend, and counts the copies separately from the packets in turns

The first chain and `templates/` change with the states of collectors and backends. They look up no map, so packets that
are in them during a swap are not lost.

Replies of collectors, and ICMP errors about copies, must not reach clients. Rules drop both, by the address and the
port of the collector.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

from nftlb.model import BackendState, Family, Forward, Protocol
from nftlb.ruleset import Chain, Element

from .doors import joined
from .selection import targets
from .versions import Version
from .words import WORDS, format_address, listener_name, ports

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from nftlb.model import Collector, IPAddress, Listener, Pool, PoolState

    from .pool_rules import Forwarding, PoolRules
    from .selection import Selection, Target
    from .words import Words

COLLECTORS = ("collectors", "collector-ranges")
"""The sets with the sources of the replies of collectors: single ports, and ranges of ports."""
REFUSED = "refused-copies"
"""The chain that drops ICMP errors about copies."""
_UP = BackendState()
_UDP = 17
# The kernel takes 1 from the TTL of a copy, also from a TTL of 1 or 0. Without this rule, a datagram would circle
# without end between two balancers that copy to each other.
_LIVES = {Family.IP: "ip ttl < 2 return", Family.IP6: "ip6 hoplimit < 2 return"}
_ECHO = ("echo-request", "echo-reply")
_FRAGMENT = 44  # the number of the fragment header of IPv6
_QUOTED = {
    Family.IP: (f"@th,136,8 {_UDP} @th,192,32 {{:#x}} @th,240,16 {{}}",),
    Family.IP6: (
        f"@th,112,8 {_UDP} @th,256,128 {{:#x}} @th,400,16 {{}}",
        f"@th,112,8 {_FRAGMENT} @th,256,128 {{:#x}} @th,384,8 {_UDP} @th,400,16 & 0xfff8 != 0",
        f"@th,112,8 {_FRAGMENT} @th,256,128 {{:#x}} @th,384,8 {_UDP} @th,464,16 {{}}",
    ),
}
"""Matches for a copy that an ICMP error quotes: protocol, destination and port. The second and third of IPv6 are for
fragments: later ones, by their offset, and the first one."""


def has_copies(pool: Pool) -> bool:
    """Whether packets of the pool pass the chains of this module before the chains of the pool."""
    return bool(pool.mirror or pool.templates)


def entry_of_copies(pool: Pool, listener: Listener) -> str:
    """Return the name of the chain that the packets of a listener go to."""
    return f"copies/{pool.name}/{listener_name(listener)}"


def add_copies(part: PoolRules, pool: Pool, family: Family) -> None:
    """Add the chains that make copies, and the elements by which replies of collectors are dropped."""
    for listener in _datagrams(pool, family):
        for collector in _collectors(pool, family):
            name = _collector_chain(pool, collector, listener)
            # The numbers of the sample are in a chain that no swap replaces: a replaced rule begins with 0 again.
            sample = [f"numgen inc mod {collector.one_in} != 0 return"] if collector.one_in > 1 else []
            part.chain(name, _LIVES[family], *sample, *_copy(listener, collector.address, collector.port))
            single = collector.port is not None or listener.first_port == listener.last_port
            key = f"{format_address(collector.address)} . {collector.port or ports(listener)}"
            part.add(COLLECTORS[not single], key, comment=f"{pool.name}/{collector.name}")
        for target in targets(pool, family) if pool.templates else ():
            rules = _unchanged(target) if pool.forward is Forward.DSR else _copy(listener, target.address, target.port)
            part.chain(_template_chain(target, listener), _LIVES[family], *rules)


def copies_version(
    pool: Pool, family: Family, forwarding: Forwarding, state: PoolState, selection: Selection
) -> Version:
    """Return the chains that depend on the states of collectors and backends."""
    states = dict(state)
    up = [one for one in _collectors(pool, family) if states.get(one.name, _UP).up]
    chains: dict[str, Chain] = {}
    for listener in pool.bound:
        if listener.family is not family:
            continue
        rules, about = [], ""
        if listener.protocol is Protocol.UDP:
            rules = [f"jump {_collector_chain(pool, collector, listener)}" for collector in up]
            about = f"copies: {', '.join(one.name for one in up)}" if up else ""
            if pool.templates and len(selection.targets) > 1:
                spread = f"templates/{pool.name}/{listener_name(listener)}"
                *others, (last, _) = selection.targets
                jumps = (f"jump {_template_chain(target, listener)}" for target, _ in others)
                chains[spread] = Chain(spread, (*jumps, f"goto backend/{last.owner}"))
                rules += [f'{match}goto {spread} comment "{what}"' for match, what in TEMPLATES]
        onward = f"goto {forwarding.entry(listener.protocol)}"
        rules.append(f'{onward} comment "{joined(about)}"' if about else onward)
        name = entry_of_copies(pool, listener)
        chains[name] = Chain(name, tuple(rules))
    return Version(chains)


# A template set, or a set of option templates, is the first set of the datagram. RFC 3954 (NetFlow v9): the header has
# 20 bytes, and these sets have the numbers 0 and 1. RFC 7011 (IPFIX): 16 bytes, 2 and 3. The header of UDP has 8 bytes.
TEMPLATES = (
    ("@th,64,16 9 @th,224,16 & 0xfffe == 0 ", "templates of NetFlow v9"),
    ("@th,64,16 10 @th,192,16 & 0xfffe == 2 ", "templates of IPFIX"),
)
"""Matches for datagrams that begin with templates, which end with a space, and what they mean."""


def without_overlaps(elements: Iterable[Element]) -> dict[str, Element]:
    """Return these elements of `collector-ranges` by their keys, with ranges joined that overlap.

    Listeners of several addresses may have the same ports, and share a collector. The kernel refuses elements that
    overlap. A joined element has the comment of its first part.
    """
    found: dict[str, list[tuple[int, int, str]]] = {}
    for element in elements:
        address, _, written = element.key.partition(" . ")
        bounds = written.split("-")
        found.setdefault(address, []).append((int(bounds[0]), int(bounds[1]), element.comment))
    whole = []
    for address, ranges in found.items():
        apart: list[tuple[int, int, str]] = []
        for low, high, comment in sorted(ranges):
            if apart and low <= apart[-1][1]:
                first, last, owner = apart.pop()
                apart.append((first, max(last, high), owner))
            else:
                apart.append((low, high, comment))
        whole += [Element(f"{address} . {low}-{high}", comment=comment) for low, high, comment in apart]
    return {element.key: element for element in whole}


def dropping_replies(words: Words) -> Iterator[tuple[str, str]]:
    """Yield sets, and rules that drop replies of collectors. What this host itself gets is kept: replies to checks."""
    for name in COLLECTORS:
        match = f"{words.carries(Protocol.UDP)}{words.ip} saddr . udp sport @{name}"
        yield name, f"{match} fib daddr type != local drop"


def finding_refusals(words: Words) -> Iterator[tuple[str, str]]:
    """Yield sets, and the rule that leads ICMP for other hosts to the chain `refused-copies`."""
    icmp = "ip protocol icmp" if words is WORDS[Family.IP] else "meta l4proto ipv6-icmp"
    for name in COLLECTORS:
        yield name, f"{icmp} fib daddr type != local jump {REFUSED}"


def refused_copies(words: Words, keys: Iterable[str]) -> Chain:
    """Return the chain that drops ICMP errors about copies; `keys` are the elements of the sets of collectors.

    An ICMP error quotes the IP header of the copy, behind 8 bytes of ICMP, and then the UDP header. Over IPv6, there is
    an error for each fragment of a copy: the fragment header stands between, and only the first fragment has ports.
    """
    quoted = _QUOTED[Family.IP if words is WORDS[Family.IP] else Family.IP6]
    # These messages quote nothing, and may contain any bytes.
    rules = [f"{words.icmp} type {kind} return" for kind in _ECHO]
    for key in keys:
        address, _, written = key.partition(" . ")
        rules += [f"{match.format(int(ip_address(address)), written)} drop" for match in quoted]
    return Chain(REFUSED, tuple(dict.fromkeys(rules)) if len(rules) > len(_ECHO) else ())


def _datagrams(pool: Pool, family: Family) -> list[Listener]:
    return [one for one in pool.bound if one.family is family and one.protocol is Protocol.UDP]


def _collectors(pool: Pool, family: Family) -> list[Collector]:
    return [collector for collector in pool.mirror if collector.family is family]


def _collector_chain(pool: Pool, collector: Collector, listener: Listener) -> str:
    return f"collector/{pool.name}/{collector.name}/{listener_name(listener)}"


def _template_chain(target: Target, listener: Listener) -> str:
    return f"template/{target.owner}/{listener_name(listener)}"


def _unchanged(target: Target) -> list[str]:
    """Return the rule that counts an unchanged copy and sends it to the next hop of a `dsr` backend."""
    device = f' device "{target.device}"' if target.device else ""
    return [f"counter dup to {format_address(target.via or target.address)}{device}"]


def _copy(listener: Listener, address: IPAddress, port: int | None) -> list[str]:
    """Return the rules that count a copy and send it to a server. Of two rules, a copy meets one counter.

    A UDP checksum of zero means "no checksum". The kernel would update it like any other, so the rules reset it to 0.
    """
    words, host = WORDS[listener.family], format_address(address)
    there = f"counter {words.ip} daddr set {host}"
    copy, back = f"dup to {host}", f"{words.ip} daddr set {format_address(listener.address)}"
    if port is None or (port == listener.first_port == listener.last_port):
        return [f"{there} {copy} {back}"]
    port_there, port_back = f"udp dport set {port}", f"udp dport set {listener.first_port}"
    carries, unset = words.carries(Protocol.UDP), "udp checksum set 0"
    return [
        f"{carries}udp checksum != 0 {there} {port_there} {copy} {back} {port_back} return",
        f"{carries}{there} {port_there} {unset} {copy} {back} {port_back} {unset}",
    ]
