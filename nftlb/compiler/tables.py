"""The tables around the pools: the shared sets, and the base chains in the order in which a packet meets them.

Only what the pools at hand need is there. A packet of no pool costs one lookup, however many pools there are.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING

from nftlb.model import Protocol
from nftlb.ruleset import MARK, Chain, Set, Table, TableFamily

from . import aliases, hairpin
from .allocation import FLOWS, HOSTS, POSTROUTING, TARGETS
from .ingress import services as ingress_services
from .part import Part
from .source_ports import HAIRPINS, MASQUERADED, OWN, OWN_RANGES, SOURCES, own_rules, translations
from .watched import HINTING, WATCHED, hint_forwarded, hint_local, log_forwarded, log_local
from .words import BY_ZONE, WORDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .source_ports import Ports
    from .words import Words

_ZONE = "typeof ct original zone"
# The key of all that is looked up by zone. Where a named map's key is one plain number in the host's byte order, nft
# 1.1.7 writes its bytes the wrong way round, and no look-up finds the element. Sets and concatenated keys are right in
# all versions. Only the first packet of a connection is looked up by this key.
_BY_ZONE = f"typeof {BY_ZONE}"
_TO = ". meta l4proto . th dport"
_FROM = ". meta l4proto . th sport"


def merge(parts: Iterable[Part]) -> Part:
    """All parts as one."""
    whole = Part()
    for part in parts:
        for name, elements in part.elements.items():
            whole.elements.setdefault(name, {}).update(elements)
        whole.chains.update(part.chains)
        whole.redirects += part.redirects
        for name, protocols in part.translated.items():
            whole.translated.setdefault(name, {}).update(protocols)
    return whole


def ip_table(name: str, words: Words, part: Part, ports: Ports) -> Table:
    """The table of one IP family; `ports`: where new flows leave from."""
    service, ip = words.service_key, words.ip
    kinds = {
        "services": Set("services", service, "verdict"),
        "service-ranges": Set("service-ranges", service, "verdict", interval=True),
        "local-services": Set("local-services", service, "verdict"),
        "local-service-ranges": Set("local-service-ranges", service, "verdict", interval=True),
        TARGETS: Set(TARGETS, _BY_ZONE, f"{ip} daddr . udp dport"),
        HOSTS: Set(HOSTS, _BY_ZONE, f"{ip} daddr"),
        FLOWS: Set(FLOWS, _BY_ZONE, "verdict"),
        # By the zone alone, this would be a bitmap to the kernel, which walks over all elements to add another.
        MASQUERADED: Set(MASQUERADED, _BY_ZONE),
        SOURCES: Set(SOURCES, _BY_ZONE, f"{ip} saddr"),
        HAIRPINS: Set(HAIRPINS, f"{_ZONE} . {ip} saddr . {ip} daddr"),
        OWN: Set(OWN, f"type {words.address} . inet_service"),
        "flow-backends": Set("flow-backends", f"{_ZONE} . {ip} daddr . th dport", counter=True),
        "flow-hosts": Set("flow-hosts", f"{_ZONE} . {ip} daddr", counter=True),
        "replies": Set("replies", service, "verdict"),
        "reply-ranges": Set("reply-ranges", service, "verdict", interval=True),
        WATCHED: Set(WATCHED, f"{_ZONE} . {ip} saddr"),
        HINTING: Set(HINTING, f"type {words.address}"),
        "reply-sources": Set("reply-sources", service),
        "reply-source-ranges": Set("reply-source-ranges", service, interval=True),
    }
    for name_of, protocol in product(("aliases", "aliased"), Protocol):
        one = f"{name_of}-{protocol}"
        kinds[one] = Set(one, f"type {words.address} . inet_service", "inet_service")
    pair = f"type {words.address} . {words.address}"
    kinds[hairpin.SERVICES] = Set(hairpin.SERVICES, f"{pair} . inet_proto . inet_service", "verdict")
    kinds[hairpin.SERVICE_RANGES] = replace(kinds[hairpin.SERVICES], name=hairpin.SERVICE_RANGES, interval=True)
    kinds[hairpin.HOSTS] = Set(hairpin.HOSTS, pair)
    for one in OWN_RANGES.values():
        kinds[one] = Set(one, f"type {words.address} . inet_service", interval=True)
    sets = _filled(kinds, part)
    lookup = _Lookups(sets)
    zoned = bool({TARGETS, HOSTS, FLOWS} & sets.keys())
    translate = lookup.rules(
        # Backends have zones for UDP only. With `th dport`, nft 1.0.6 refuses the rule once the kernel has the map.
        (TARGETS, f"meta l4proto udp dnat {ip} to {BY_ZONE} map @{TARGETS}"),
        (HOSTS, f"dnat to {BY_ZONE} map @{HOSTS}"),
        (FLOWS, f"{BY_ZONE} vmap @{FLOWS}"),
    )
    # Locally sent packets can only be translated by conntrack: a packet that is merely rewritten keeps its old route.
    local = (
        ("local-services", "local-service-ranges")
        if "local-services" in sets or "local-service-ranges" in sets
        else (
            "services",
            "service-ranges",
        )
    )
    counted = lookup.rules(
        # One address may be two backends, one with a port and one without: the packet is counted for the first.
        ("flow-backends", f"ct original zone . {ip} daddr . th dport @flow-backends accept"),
        ("flow-hosts", f"ct original zone . {ip} daddr @flow-hosts"),
    )
    aliased = [protocol for protocol in Protocol if f"aliases-{protocol}" in sets]
    base = [
        Chain(
            "prerouting-raw",
            (
                *lookup.rules(*((one, f"{ip} daddr {_TO} vmap @{one}") for one in ("services", "service-ranges"))),
                *lookup.rules(
                    *(
                        # The balancer's own exchanges with a backend, health checks for instance, stay tracked.
                        (one, f"{ip} saddr {_FROM} @{one} fib daddr type != local notrack")
                        for one in ("reply-sources", "reply-source-ranges")
                    )
                ),
                *lookup.rules((HINTING, hint_forwarded(name, words))),
            ),
            _hook("filter", "prerouting", "raw"),
        ),
        Chain(
            "output-raw",
            lookup.rules(*((one, f"{ip} daddr {_TO} vmap @{one}") for one in local), (HINTING, hint_local(name, words)))
            if zoned
            else (),
            _hook("filter", "output", "raw"),
        ),
        # Behind conntrack, which knows what an error is about, and before it translates what the error quotes.
        Chain(
            "prerouting-refused",
            lookup.rules((WATCHED, log_forwarded(name, words))),
            _hook("filter", "prerouting", "mangle"),
        ),
        Chain("output-refused", lookup.rules((WATCHED, log_local(name, words))), _hook("filter", "output", "mangle")),
        Chain("prerouting", translate, _hook("nat", "prerouting", "dstnat")),
        Chain("prerouting-count", counted, _hook("filter", "prerouting", "dstnat + 10")),
        Chain("output", translate, _hook("nat", "output", "-100")),
        Chain("output-count", counted, _hook("filter", "output", "-90")),
        Chain("output-redirects", tuple(dict.fromkeys(part.redirects)), _hook("filter", "output", "filter")),
        Chain(
            "postrouting-raw",
            lookup.rules(*((one, f"{ip} saddr {_FROM} vmap @{one}") for one in ("replies", "reply-ranges"))),
            _hook("filter", "postrouting", "raw"),
        ),
        Chain(
            POSTROUTING,
            (
                *translations(words, part, ports),
                *lookup.rules(*own_rules(words, ports)),
                *lookup.rules(*((hairpin.HOSTS, rule) for rule in hairpin.source_rules(ip, ports))),
            ),
            _hook("nat", "postrouting", "srcnat"),
        ),
        Chain(
            "output-own",
            tuple(rule for protocol in aliased for rule in aliases.question_rules(ip, protocol)),
            _hook("filter", "output", "security"),
        ),
        Chain("prerouting-hairpin", lookup.rules(*hairpin.destination_rules(ip)), _hook("nat", "prerouting", "dstnat")),
        Chain(aliases.ANSWERS, tuple(rule for protocol in aliased for rule in aliases.answer_rules(ip, protocol))),
    ]
    if not zoned and sets:
        base.append(
            Chain(
                "defragment",
                ('meta l4proto udp tproxy to :1 comment "never reached: makes the kernel join fragments"',),
            )
        )
    return Table(words.table, name, sets, _chains(base, part))


def netdev_table(name: str, part: Part, interfaces: Iterable[str]) -> Table:
    """The table of the ingress fast path."""
    kinds: dict[str, Set] = {}
    base: list[Chain] = []
    for interface in interfaces:
        rules = []
        for family, words in WORDS.items():
            for ranged in (False, True):
                one = ingress_services(family, interface, ranged=ranged)
                kinds[one] = Set(one, words.service_key, "verdict", interval=ranged)
                if one in part.elements:
                    rules.append(f"{words.ip} daddr {_TO} vmap @{one}")
        hook = f'type filter hook ingress device "{interface}" priority filter; policy accept;'
        base.append(Chain(f"ingress-{interface}", tuple(rules), hook))
    return Table(TableFamily.NETDEV, name, _filled(kinds, part), _chains(base, part))


def _chains(base: Iterable[Chain], part: Part) -> dict[str, Chain]:
    return {MARK.name: MARK} | {chain.name: chain for chain in base if chain.rules} | part.chains


class _Lookups:
    """Keeps the rules whose set exists."""

    def __init__(self, sets: Mapping[str, Set]) -> None:
        self._sets = sets

    def rules(self, *candidates: tuple[str, str]) -> tuple[str, ...]:
        return tuple(rule for one, rule in candidates if one in self._sets)


def _hook(kind: str, hook: str, priority: str) -> str:
    return f"type {kind} hook {hook} priority {priority}; policy accept;"


def _filled(kinds: Mapping[str, Set], part: Part) -> dict[str, Set]:
    unknown = part.elements.keys() - kinds.keys()
    if unknown:
        raise AssertionError(f"no such set: {unknown}")
    return {
        name: Set(name, kind.key_type, kind.data_type, kind.interval, kind.counter, tuple(part.elements[name].values()))
        for name, kind in kinds.items()
        if name in part.elements
    }
