"""Whether rules of others meet certain packets, as far as can be told from nft's JSON. Pure.

Much can't be told: sets with their elements left out, interfaces, iptables' own matches. `MAYBE` stands for all of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any, TypeAlias

from nftlb.model import Family

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from ipaddress import IPv4Address, IPv6Address

    from .traffic import Ports, Traffic

Expression: TypeAlias = Mapping[str, Any]


class Match(IntEnum):
    """Ordered, so that the weakest part of a rule is its minimum."""

    NO = 0
    MAYBE = 1
    YES = 2


@dataclass(frozen=True)
class Rule:
    """A rule of somebody else's, by the table, chain and handle that `nft -a list` shows."""

    table: str
    chain: str
    handle: int
    expressions: tuple[Expression, ...]

    def __str__(self) -> str:
        return f"table {self.table}, chain {self.chain}, handle {self.handle}"

    def statements(self) -> Iterator[tuple[str, Any]]:
        """What it does, by name; iptables' targets by theirs."""
        for expression in self.expressions:
            for name, value in expression.items():
                if name == "xt" and isinstance(value, Mapping):
                    if value.get("type") == "target":
                        yield str(value.get("name")), value
                else:
                    yield name, value


@dataclass
class Chain:
    """A chain; of a base chain also the hook and the rest."""

    table: str
    name: str
    kind: str = ""
    hook: str = ""
    priority: int = 0
    policy: str = "accept"
    rules: list[Rule] = field(default_factory=list)

    @property
    def family(self) -> str:
        return self.table.split()[0]

    def sees(self, family: Family) -> bool:
        return self.family in ("inet", family)


Chains: TypeAlias = Mapping[tuple[str, str], Chain]
"""By table, as `FAMILY NAME`, and name."""


def read_chains(objects: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], Chain]:
    """The chains with their rules, out of nft's JSON."""
    chains: dict[tuple[str, str], Chain] = {}
    for one in objects:
        if "chain" in one:
            found = one["chain"]
            table = f"{found['family']} {found['table']}"
            chains[table, found["name"]] = Chain(
                table,
                found["name"],
                found.get("type", ""),
                found.get("hook", ""),
                found.get("prio", 0),
                found.get("policy", "accept"),
            )
    for one in objects:
        if "rule" in one:
            found = one["rule"]
            table, name = f"{found['family']} {found['table']}", found["chain"]
            if (table, name) in chains:
                rule = Rule(table, name, found.get("handle", 0), tuple(found.get("expr", ())))
                chains[table, name].rules.append(rule)
    return chains


# There may be many ways through a set of chains that jump to each other; nobody reads about more rules than that.
_MOST_RULES = 10_000


@dataclass
class Way:
    """The way of some packets through a base chain: the rules that they may meet, and what may become of them."""

    rules: list[tuple[Rule, Match]] = field(default_factory=list)
    fates: set[str] = field(default_factory=set)
    """`accept`, `drop` or, where it can't be told, both."""


def follow(chains: Chains, base: Chain, traffic: Traffic) -> Way:
    """Go through a base chain with these packets."""
    way = Way()
    if not _walk(chains, base, traffic, Match.YES, way, {base.name}):
        way.fates.add("drop" if base.policy == "drop" else "accept")
    return way


def _walk(chains: Chains, chain: Chain, traffic: Traffic, reached: Match, way: Way, passed: set[str]) -> bool:
    """Go through a chain, which `reached` of the packets get to; tell whether every packet's fate is sealed there."""
    for rule in chain.rules:
        match = matches(rule, traffic)
        if match is Match.NO or len(way.rules) > _MOST_RULES:
            continue
        way.rules.append((rule, min(reached, match)))
        verdicts, certain = _rule_verdicts(rule)
        certain = certain and match is Match.YES
        sealed = bool(verdicts)
        for verdict, target in verdicts:
            if verdict in ("accept", "drop"):
                way.fates.add(verdict)
            elif verdict == "return":
                if certain:
                    return False
                sealed = False
            else:
                following = None if target in passed else chains.get((chain.table, target))
                here = min(reached, Match.YES if certain else Match.MAYBE)
                sealed &= following is not None and _walk(chains, following, traffic, here, way, passed | {target})
        if sealed and certain:
            return True
    return False


_ENDS = {"reject": "drop", "DROP": "drop", "REJECT": "drop", "ACCEPT": "accept", "RETURN": "return", "queue": "accept"}


def _rule_verdicts(rule: Rule) -> tuple[list[tuple[str, str]], bool]:
    """The verdicts that a rule may come to, with their targets, and whether it surely comes to one of them."""
    found: list[tuple[str, str]] = []
    certain = True
    for name, value in rule.statements():
        if name in ("accept", "drop", "return"):
            found.append((name, ""))
        elif name in _ENDS:
            found.append((_ENDS[name], ""))
        elif name in ("jump", "goto"):
            found.append((name, value["target"]))
        elif name == "vmap":
            certain = False
            for verdict in _verdicts(value):
                found += [(one, verdict[one]["target"] if _leads(one) else "") for one in verdict]
    return found, certain


def matches(rule: Rule, traffic: Traffic) -> Match:
    """Whether a rule's conditions hold for these packets: for all of them, for none, or who knows."""
    result = Match.YES
    for expression in rule.expressions:
        for name, value in expression.items():
            if name == "match":
                result = min(result, _match(value, traffic))
            elif name == "xt" and isinstance(value, Mapping) and value.get("type") == "match":
                protocol = value.get("name")
                other = protocol in ("tcp", "udp", "sctp") and protocol != traffic.protocol
                result = min(result, Match.NO if other else Match.MAYBE)
            elif name in ("limit", "quota", "ct count"):
                result = min(result, Match.MAYBE)
    return result


def _match(value: Mapping[str, Any], traffic: Traffic) -> Match:
    left, right = value.get("left"), value.get("right")
    if not isinstance(left, Mapping) or value.get("op") not in ("==", "!=", "in"):
        return Match.MAYBE
    kind, subject = next(iter(left.items()))
    if not isinstance(subject, Mapping):
        return Match.MAYBE
    if kind == "payload":
        header = subject.get("protocol", "")
        if header not in ("th", str(traffic.family), str(traffic.protocol)):
            # A condition on a header that the packet hasn't got fails, also where it says "not".
            return Match.NO if header in _HEADERS else Match.MAYBE
        found = _payload(str(subject.get("field")), _elements(right), traffic)
    elif kind == "meta":
        found = _meta(str(subject.get("key")), _elements(right), traffic)
    elif kind == "ct":
        found = _conntrack(str(subject.get("key")), _elements(right), traffic)
    else:
        return Match.MAYBE
    return Match(Match.YES - found) if value.get("op") == "!=" else found


_HEADERS = ("ip", "ip6", "tcp", "udp", "sctp", "dccp", "udplite", "icmp", "icmpv6", "esp", "ah", "comp", "arp", "igmp")
_NUMBERS = {"tcp": "6", "udp": "17", "sctp": "132"}


def _payload(field: str, elements: list[Any] | None, traffic: Traffic) -> Match:
    match field:
        case "saddr" | "daddr":
            return _address(traffic.saddr if field == "saddr" else traffic.daddr, elements)
        case "sport" | "dport":
            return _ports(traffic.sport if field == "sport" else traffic.dport, elements)
        case "protocol" | "nexthdr":
            return _word({str(traffic.protocol), _NUMBERS[traffic.protocol]}, elements)
    return Match.MAYBE


def _meta(key: str, elements: list[Any] | None, traffic: Traffic) -> Match:
    four = traffic.family is Family.IP
    match key:
        case "l4proto":
            return _word({str(traffic.protocol), _NUMBERS[traffic.protocol]}, elements)
        case "nfproto":
            return _word({"ipv4" if four else "ipv6"}, elements)
        case "protocol":
            return _word({"ip" if four else "ip6"}, elements)
    return Match.MAYBE


def _conntrack(key: str, elements: list[Any] | None, traffic: Traffic) -> Match:
    if elements is None:
        return Match.MAYBE
    match key:
        case "state":
            # Of requests, the first of each client: what stops that one stops all.
            own = "untracked" if not traffic.tracked else "established" if traffic.reply else "new"
            return _word({own}, elements)
        case "status":
            return (Match.YES if traffic.tracked else Match.NO) if "dnat" in elements else Match.MAYBE
    return Match.MAYBE


def _word(own: set[str], elements: list[Any] | None) -> Match:
    if elements is None:
        return Match.MAYBE
    return Match.YES if own.intersection(map(str, elements)) else Match.NO


def _address(own: IPv4Address | IPv6Address | None, elements: list[Any] | None) -> Match:
    if own is None or elements is None:
        return Match.MAYBE
    try:
        return Match.YES if any(_has_address(one, own) for one in elements) else Match.NO
    except (ValueError, KeyError, TypeError):  # a way of writing addresses that is not known here
        return Match.MAYBE


def _has_address(element: Any, own: IPv4Address | IPv6Address) -> bool:
    if isinstance(element, Mapping) and "range" in element:
        first, last = map(ip_address, element["range"])
        return int(first) <= int(own) <= int(last)
    if isinstance(element, Mapping):
        prefix = element["prefix"]
        return own in ip_network(f"{prefix['addr']}/{prefix['len']}", strict=False)
    return ip_address(element) == own


def _ports(own: Ports, elements: list[Any] | None) -> Match:
    if elements is None:
        return Match.MAYBE
    result = Match.NO
    for element in elements:
        ends = element["range"] if isinstance(element, Mapping) and "range" in element else [element, element]
        if not all(isinstance(end, int) for end in ends):
            return Match.MAYBE
        first, last = ends
        if first <= own[0] and own[1] <= last:
            return Match.YES
        if first <= own[1] and own[0] <= last:
            result = Match.MAYBE
    return result


def _elements(right: Any) -> list[Any] | None:
    """What a value may be, one by one; None where that can't be told (a named set)."""
    if isinstance(right, Mapping) and "set" in right:
        right = right["set"]
    found = []
    for one in right if isinstance(right, list) else [right]:
        element = one["elem"]["val"] if isinstance(one, Mapping) and "elem" in one else one
        if isinstance(element, str) and element.startswith("@"):
            return None
        found.append(element)
    return found


def _verdicts(vmap: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The verdicts of a map that stands in its rule."""
    data = vmap.get("data")
    elements = data.get("set", []) if isinstance(data, Mapping) else []
    return [element[1] for element in elements if isinstance(element, list) and isinstance(element[1], Mapping)]


def _leads(verdict: str) -> bool:
    return verdict in ("jump", "goto")
