"""The tables around the pools: the shared sets, and the base chains, in the order in which a packet passes them.

A table has only the sets and base chains that its pools need. A packet that goes to no pool costs one look-up, however
many pools there are.

To add a base chain, write a method of `_IpHooks`, and name it in `chains()`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from nftlb.model import Family, Protocol
from nftlb.ruleset import MARK, Chain, Hook, Set, Table, TableFamily

from . import aliases, hairpin
from .allocation import FLOWS, HOSTS, POSTROUTING, TARGETS
from .copies import COLLECTORS, dropping_replies, finding_refusals, refused_copies, without_overlaps
from .doors import Door, Entrance, Finder
from .first_packets import HELPED
from .ingress import ingress_services
from .layout import choose, is_crowded
from .outbound import OUTBOUND, outbound_rule
from .reply_counts import COUNTED, FLOWS_COUNTED, counting_rules
from .reply_form import EARLY, LATE, UNTRACKED, look_up_comment
from .services import LOCAL_SERVICES, SERVICES
from .source_ports import HAIRPINS, MASQUERADED, OWN, OWN_RANGES, SOURCES, own_rules, translations
from .watched import HINTING, WATCHED, hint_forwarded, hint_local, log_forwarded, log_local
from .words import BY_ZONE, WORDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from .pool_rules import PoolRules
    from .services import ServicePort
    from .source_ports import Ports
    from .words import Words

_ZONE = "typeof ct original zone"
# The key of all sets that are looked up by zone. Where the key of a named map is one plain number in the host's byte
# order, nft 1.1.7 writes its bytes in the wrong order, and no look-up finds the element. Sets and concatenated keys are
# right in all versions. Only the first packet of a connection is looked up by this key.
_BY_ZONE = f"typeof {BY_ZONE}"
_DESTINATIONS = {Family.IP: "@nh,128,32", Family.IP6: "@nh,192,128"}
"""The destination of a packet, without a comparison of the type of the frame before. The comparison costs 6 ns."""


def ip_table(name: str, words: Words, part: PoolRules, ports: Ports, *, many: bool) -> tuple[Table, list[Entrance]]:
    """Return the table of one IP family, and its entrances.

    `ports` are the ranges that translated sources get their ports from; `many`: there are more than `MOST_MAPS` pools.
    """
    ranges = COLLECTORS[1]
    if ranges in part.elements:
        part.elements[ranges] = without_overlaps(part.elements[ranges].values())
    finder = Finder(words, choose(part.services.get(SERVICES, {}), many=many))
    local = Finder(words, choose(part.services.get(LOCAL_SERVICES, {}), many=many), prefix="local-")
    sets = {set_.name: set_ for set_ in (*finder.sets(), *local.sets())} | _filled(_ip_sets(words), part) | part.sets
    hooks = _IpHooks(name, words, part, ports, sets)
    own = local if LOCAL_SERVICES in part.services else finder
    entrances = [
        Entrance((hooks.prerouting_raw(finder), *finder.doors()), finder.in_maps),
        Entrance((hooks.output_raw(own), *local.doors()), own.in_maps),
    ]
    return Table(words.table, name, sets, _chains(entrances, hooks.chains(), part), part.objects), entrances


def netdev_table(name: str, part: PoolRules, interfaces: Iterable[str]) -> tuple[Table, list[Entrance]]:
    """Return the table of the fast path, with an ingress chain for each interface; and its entrances."""
    doors: dict[str, Door] = {}
    found = _ingress_finders(part, interfaces)
    for interface, finders in found.items():
        rules = tuple(rule for finder in finders for rule in finder.rules())
        chain = Chain(f"ingress-{interface}", rules, Hook("filter", "ingress", "filter", (interface,)))
        doors[chain.name] = Door(chain, tuple(entry for finder in finders for entry in finder.entries()))
    every = [finder for finders in found.values() for finder in finders]
    doors |= {door.chain.name: door for finder in every for door in finder.doors()}
    sets = {set_.name: set_ for finder in every for set_ in finder.sets()} | part.sets
    entrances = [Entrance((*doors.values(),), frozenset().union(*(finder.in_maps for finder in every)))]
    return Table(TableFamily.NETDEV, name, sets, _chains(entrances, (), part)), entrances


def _ingress_finders(part: PoolRules, interfaces: Iterable[str]) -> dict[str, list[Finder]]:
    """Return how each interface finds services.

    Interfaces share the chain of an address, and so the turns of its pools, if the chain has the same rules for all.
    """
    layouts = {
        (interface, family): choose(part.services.get(ingress_services(family, interface), {}))
        for interface in interfaces
        for family in WORDS
    }
    first: dict[str, Sequence[ServicePort]] = {}
    own = frozenset(
        address
        for layout in layouts.values()
        for address, services in layout.addresses.items()
        if is_crowded(services) or first.setdefault(address, services) != services
    )
    found: dict[str, list[Finder]] = {}
    for (interface, family), layout in layouts.items():
        # With both families, IPv4 packets fail the comparison. Otherwise, they would meet a look-up of 16 bytes.
        both = all(ingress_services(any_family, interface) in part.services for any_family in WORDS)
        raw = "" if both and family is Family.IP6 else _DESTINATIONS[family]
        finder = Finder(WORDS[family], layout, suffix=f"-{family}-{interface}", raw=raw, own=own)
        found.setdefault(interface, []).append(finder)
    return found


def _from(words: Words) -> str:
    return f"{words.ip} saddr . {words.protocol} . th sport"


def _ip_sets(words: Words) -> Iterable[Set]:
    """Return all sets and maps that a table of an IP family may have, without elements, in the order of the text."""
    service, ip = words.service_key, words.ip
    endpoint = f"type {words.address} . inet_service"
    pair = f"type {words.address} . {words.address}"
    yield Set(TARGETS, _BY_ZONE, f"{ip} daddr . udp dport")
    yield Set(HOSTS, _BY_ZONE, f"{ip} daddr")
    yield Set(FLOWS, _BY_ZONE, "verdict")
    # With the zone alone as its key, this set would be a bitmap to the kernel. To add an element to a bitmap, the
    # kernel walks over all elements.
    yield Set(MASQUERADED, _BY_ZONE)
    yield Set(SOURCES, _BY_ZONE, f"{ip} saddr")
    yield Set(HAIRPINS, f"{_ZONE} . {ip} saddr . {ip} daddr")
    yield Set(OWN, endpoint)
    yield Set("flow-backends", f"{_ZONE} . {ip} daddr . th dport", counter=True)
    yield Set("flow-hosts", f"{_ZONE} . {ip} daddr", counter=True)
    for single, ranges in (EARLY, LATE):
        yield Set(single, service, "verdict")
        yield Set(ranges, service, "verdict", interval=True)
    yield Set(WATCHED, f"{_ZONE} . {ip} saddr")
    yield Set(COUNTED, f"{_ZONE} . {ip} saddr", counter=True)
    yield Set(FLOWS_COUNTED, f"{_ZONE} . {ip} saddr . th sport", counter=True)
    yield Set(OUTBOUND, endpoint, words.address, interval=True)
    yield Set(HINTING, f"type {words.address}")
    single, ranges = UNTRACKED
    yield Set(single, service)
    yield Set(ranges, service, interval=True)
    for name in ("aliases", "aliased"):
        for protocol in Protocol:
            yield Set(f"{name}-{protocol}", endpoint, "inet_service")
    yield Set(hairpin.SERVICES, f"{pair} . inet_proto . inet_service", "verdict")
    yield Set(hairpin.SERVICE_RANGES, f"{pair} . inet_proto . inet_service", "verdict", interval=True)
    yield Set(hairpin.HOSTS, pair)
    for name in OWN_RANGES.values():
        yield Set(name, endpoint, interval=True)
    yield Set(HELPED, f"type {words.address}", "verdict")
    single, ranges = COLLECTORS
    yield Set(single, endpoint)
    yield Set(ranges, endpoint, interval=True)


class _IpHooks(NamedTuple):
    """The base chains of the table of an IP family, one method for each hook and priority.

    A rule that looks up a set is there only if the table has the set.
    """

    table: str
    words: Words
    part: PoolRules
    ports: Ports
    sets: Mapping[str, Set]

    def chains(self) -> list[Chain]:
        """Return the other base chains, and the chains that belong to no pool; some have no rules."""
        return [
            self._prerouting_refused(),
            self._output_refused(),
            self._prerouting_replies(),
            self._output_replies(),
            Chain("prerouting", self._translate(), Hook("nat", "prerouting", "dstnat")),
            Chain("prerouting-count", self._count(), Hook("filter", "prerouting", "dstnat + 10")),
            Chain("output", self._translate(), Hook("nat", "output", "-100")),
            Chain("output-count", self._count(), Hook("filter", "output", "-90")),
            *self._output_redirects(),
            self._postrouting_raw(),
            self._postrouting(),
            self._input_outbound(),
            self._output_own(),
            self._prerouting_hairpin(),
            self._own_answers(),
            self._refused_copies(),
            self._defragment(),
        ]

    def prerouting_raw(self, finder: Finder) -> Door:
        """Lead requests to the chains of their pools; rewrite stateless replies, or keep them out of conntrack."""
        rules = self._with_sets(
            *dropping_replies(self.words),
            *((replies, self._rewrite(replies, early=True)) for replies in EARLY),
            *(
                # What the balancer itself exchanges with a backend stays tracked, for instance health checks.
                (replies, f"{self._sport(replies)}{_from(self.words)} @{replies} fib daddr type != local notrack")
                for replies in UNTRACKED
            ),
            (HINTING, hint_forwarded(self.table, self.words)),
            self._expected(),
        )
        rules = (*rules, *self._refusals())
        chain = Chain("prerouting-raw", (*finder.rules(), *rules), Hook("filter", "prerouting", "raw"))
        return Door(chain, finder.entries())

    def output_raw(self, finder: Finder) -> Door:
        """Lead requests of this host itself to the chains of pools.

        Only conntrack can translate packets that are sent locally: a packet that is only rewritten keeps its old route.
        """
        hook = Hook("filter", "output", "raw")
        copies = (*self._with_sets(*dropping_replies(self.words)), *self._refusals())
        if not self._has_zones:
            return Door(Chain("output-raw", copies, hook))
        rules = (
            *finder.rules(),
            *self._with_sets((HINTING, hint_local(self.table, self.words)), self._expected()),
            *copies,
        )
        return Door(Chain("output-raw", rules, hook), finder.entries())

    def _refusals(self) -> tuple[str, ...]:
        """Return the rule that leads to the chain of ICMP errors about copies, if there are collectors."""
        return tuple(dict.fromkeys(self._with_sets(*finding_refusals(self.words))))

    def _refused_copies(self) -> Chain:
        """Drop ICMP errors about copies."""
        return refused_copies(self.words, (key for name in COLLECTORS for key in self.part.elements.get(name, ())))

    def _expected(self) -> tuple[str, str]:
        """Return the rule that leads packets of backends to the zone in which a helper expects flows."""
        return HELPED, f"meta l4proto udp {self.words.ip} saddr vmap @{HELPED}"

    def _sport(self, replies: str) -> str:
        """Return a match, which ends with a space, for the port of all replies; empty if replies have several ports.

        Requests and packets of others then pass a comparison, which costs a seventh of the look-up.
        """
        ports = {key.rpartition(" . ")[2] for key in self.part.elements.get(replies, ())}
        port = ports.pop() if len(ports) == 1 else ""
        return f"th sport {port} " if port.isdecimal() else ""

    def _prerouting_refused(self) -> Chain:
        """Log ICMP errors of backends.

        This is after conntrack has found the flow that an error is about, and before conntrack translates the quoted
        packet.
        """
        rules = self._with_sets((WATCHED, log_forwarded(self.table, self.words)))
        return Chain("prerouting-refused", rules, Hook("filter", "prerouting", "mangle"))

    def _output_refused(self) -> Chain:
        """Log ICMP errors of backends on this host."""
        rules = self._with_sets((WATCHED, log_local(self.table, self.words)))
        return Chain("output-refused", rules, Hook("filter", "output", "mangle"))

    def _prerouting_replies(self) -> Chain:
        """Count the replies of backends, before conntrack gives them the address of the service."""
        rules = self._with_sets(*counting_rules(self.words))
        return Chain("prerouting-replies", rules, Hook("filter", "prerouting", "mangle"))

    def _output_replies(self) -> Chain:
        """Count the replies of backends on this host."""
        rules = self._with_sets(*counting_rules(self.words))
        return Chain("output-replies", rules, Hook("filter", "output", "mangle"))

    def _translate(self) -> tuple[str, ...]:
        """Return the rules that translate the destination according to the zone."""
        return self._with_sets(
            # Backends have zones for UDP only. With `th dport`, nft 1.0.6 refuses the rule if the kernel has the map.
            (TARGETS, f"meta l4proto udp dnat {self.words.ip} to {BY_ZONE} map @{TARGETS}"),
            (HOSTS, f"dnat to {BY_ZONE} map @{HOSTS}"),
            (FLOWS, f"{BY_ZONE} vmap @{FLOWS}"),
        )

    def _count(self) -> tuple[str, ...]:
        """Return the rules that count packets of flows for the backends that they go to."""
        key = f"ct original zone . {self.words.ip} daddr"
        return self._with_sets(
            # One address may be two backends, with and without a port: the packet counts for the first.
            ("flow-backends", f"{key} . th dport @flow-backends accept"),
            ("flow-hosts", f"{key} @flow-hosts"),
        )

    def _output_redirects(self) -> Iterator[Chain]:
        """Drop ICMP redirects that would make clients send past this host.

        All packets that this host sends pass the first chain, so this chain has one rule.
        """
        redirect = "icmp type redirect"
        rules = tuple(dict.fromkeys(self.part.redirects))
        if len(rules) > 1:
            yield Chain("redirects", rules)
            rules = ("goto redirects",)
        hook = Hook("filter", "output", "filter")
        yield Chain("output-redirects", tuple(f"{redirect} {rule}" for rule in rules), hook)

    def _postrouting_raw(self) -> Chain:
        """Give stateless replies the source of the service."""
        rules = self._with_sets(*((replies, self._rewrite(replies, early=False)) for replies in LATE))
        return Chain("postrouting-raw", rules, Hook("filter", "postrouting", "raw"))

    def _rewrite(self, replies: str, *, early: bool) -> str:
        """Return the rule that leads replies to the chains that rewrite them, with the reason for this hook."""
        comment = look_up_comment(form for form in self.part.reply_forms if form.early is early)
        return f"{self._sport(replies)}{_from(self.words)} vmap @{replies}{comment}"

    def _postrouting(self) -> Chain:
        """Translate sources, and choose the ports that new flows leave from."""
        rules = (
            *translations(self.words, self.part, self.ports),
            *self._with_sets(outbound_rule(self.words.ip)),
            *self._with_sets(*own_rules(self.words, self.ports)),
            *self._with_sets(*((hairpin.HOSTS, rule) for rule in hairpin.source_rules(self.words.ip, self.ports))),
        )
        return Chain(POSTROUTING, rules, Hook("nat", "postrouting", "srcnat"))

    def _input_outbound(self) -> Chain:
        """Translate the sources of requests that backends send to this host itself."""
        rules = self._with_sets(outbound_rule(self.words.ip))
        return Chain("input-outbound", rules, Hook("nat", "input", "100"))

    def _output_own(self) -> Chain:
        """Make requests of this host itself leave from aliases of service ports."""
        rules = (rule for protocol in self._aliased for rule in aliases.question_rules(self.words.ip, protocol))
        return Chain("output-own", tuple(rules), Hook("filter", "output", "security"))

    def _prerouting_hairpin(self) -> Chain:
        """Translate what a backend sends to itself through its own pool."""
        rules = self._with_sets(*hairpin.destination_rules(self.words.ip))
        return Chain("prerouting-hairpin", rules, Hook("nat", "prerouting", "dstnat"))

    def _own_answers(self) -> Chain:
        """Give replies to an alias the port that the alias stands for."""
        rules = (rule for protocol in self._aliased for rule in aliases.answer_rules(self.words.ip, protocol))
        return Chain(aliases.ANSWERS, tuple(rules))

    def _defragment(self) -> Chain:
        """Make the kernel join fragments where no rule needs conntrack: a `tproxy` rule does so without packets."""
        rule = 'meta l4proto udp tproxy to :1 comment "never reached: makes the kernel join fragments"'
        return Chain("defragment", () if self._has_zones or not self.part.services else (rule,))

    def _with_sets(self, *candidates: tuple[str, str]) -> tuple[str, ...]:
        """Return the rules whose set exists; a candidate is the name of a set and a rule that looks it up."""
        return tuple(rule for name, rule in candidates if name in self.sets)

    @property
    def _has_zones(self) -> bool:
        return bool({TARGETS, HOSTS, FLOWS} & self.sets.keys())

    @property
    def _aliased(self) -> list[Protocol]:
        return [protocol for protocol in Protocol if f"aliases-{protocol}" in self.sets]


def _chains(entrances: Iterable[Entrance], base: Iterable[Chain], part: PoolRules) -> dict[str, Chain]:
    doors = (door.open() for entrance in entrances for door in entrance.doors)
    return {MARK.name: MARK} | {chain.name: chain for chain in (*doors, *base) if chain.rules} | part.chains


def _filled(kinds: Iterable[Set], part: PoolRules) -> dict[str, Set]:
    """Return the sets that have elements, with these elements."""
    by_name = {kind.name: kind for kind in kinds}
    unknown = part.elements.keys() - by_name.keys()
    if unknown:
        raise AssertionError(f"no such set: {unknown}")
    return {
        name: replace(kind, elements=tuple(part.elements[name].values()))
        for name, kind in by_name.items()
        if name in part.elements
    }
