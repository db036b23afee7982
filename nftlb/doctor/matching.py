"""The packets of a configuration, and whether the rules of other tables match these packets. Pure.

nft's JSON leaves much open: the elements of sets, interfaces, iptables' own matches. The result is `MAYBE` then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any, TypeAlias

from nftlb.model import Family, Forward, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from ipaddress import IPv4Address, IPv6Address

    from nftlb.model import Config, IPAddress, Pool


Ports = tuple[int, int]
# Ports of clients: nearly all leave the choice to their system, which picks a high port.
_CLIENT: Ports = (1024, 65535)


@dataclass(frozen=True, slots=True)
class Traffic:
    """Packets of a pool with these addresses and ports; an address of None stands for any client.

    `own`: they are requests that backends themselves send (`outbound`).
    """

    pool: Pool
    family: Family
    protocol: Protocol
    saddr: IPAddress | None = None
    sport: Ports = _CLIENT
    daddr: IPAddress | None = None
    dport: Ports = _CLIENT
    reply: bool = False
    own: bool = False

    @property
    def tracked(self) -> bool:
        """Whether conntrack tracks these packets."""
        return self.pool.forward is Forward.NAT

    def __str__(self) -> str:
        where = " ".join([*self._side("from", self.saddr, self.sport), *self._side("to", self.daddr, self.dport)])
        return f"{self.protocol} {where}"

    def nft(self) -> str:
        """The nft expression that matches these packets."""
        return " ".join(self._conditions(f"{self.family} {{}}addr {{}}", f"{self.protocol} {{}}port {{}}", "-"))

    def iptables(self) -> str:
        """The iptables options that match these packets."""
        return " ".join([f"-p {self.protocol}", *self._conditions("-{} {}", "--{}port {}", ":")])

    def _conditions(self, of_address: str, of_ports: str, dash: str) -> Iterator[str]:
        """The conditions on addresses and ports; in the forms, {} stands for the way (s or d) and for the value."""
        for way, address, ports in (("s", self.saddr, self.sport), ("d", self.daddr, self.dport)):
            if address is not None:
                yield of_address.format(way, address)
            if ports != _CLIENT:
                yield of_ports.format(way, _range(ports, dash))

    @staticmethod
    def _side(word: str, address: IPAddress | None, ports: Ports) -> Iterator[str]:
        if address is not None:
            yield f"{word} {address}" + ("" if ports == _CLIENT else f" port {_range(ports, '-')}")


def request_traffic(config: Config) -> Iterator[Traffic]:
    """The packets that clients send to the listeners."""
    for pool in config.pools:
        for listener in pool.listen:
            ports = (listener.first_port, listener.last_port)
            yield Traffic(pool, listener.family, listener.protocol, daddr=listener.address, dport=ports)


def forwarded_traffic(config: Config) -> Iterator[Traffic]:
    """The requests as they leave this host for each backend."""
    for request in request_traffic(config):
        for address, ports in _backends(request):
            # With `dsr` the packet is the same for all backends.
            daddr, dport = (request.daddr, request.dport) if request.pool.forward is Forward.DSR else (address, ports)
            yield Traffic(request.pool, request.family, request.protocol, daddr=daddr, dport=dport)
            if request.pool.forward is Forward.DSR:
                break


def reply_traffic(config: Config) -> Iterator[Traffic]:
    """The replies of backends that pass this host."""
    for request in request_traffic(config):
        if request.pool.forward is not Forward.DSR:
            for address, ports in _backends(request):
                yield Traffic(request.pool, request.family, request.protocol, saddr=address, sport=ports, reply=True)


def own_request_traffic(config: Config) -> Iterator[Traffic]:
    """The requests of backends themselves whose source `outbound` sets."""
    for request in request_traffic(config):
        if request.pool.outbound and request.tracked and request.protocol is Protocol.UDP:
            for address, ports in _backends(request):
                yield Traffic(request.pool, request.family, request.protocol, saddr=address, sport=ports, own=True)


def _backends(request: Traffic) -> Iterator[tuple[IPAddress, Ports]]:
    for backend in request.pool.backends:
        if backend.family == request.family:
            yield backend.address, (backend.port, backend.port) if backend.port else request.dport


def _range(ports: Ports, dash: str) -> str:
    first, last = ports
    return f"{first}" if first == last else f"{first}{dash}{last}"


Expression: TypeAlias = Mapping[str, Any]


# --- rules of other tables --------------------------------------------------------------------------------------------


class Match(IntEnum):
    """Whether packets match. In order: a rule matches as well as the weakest of its conditions."""

    NO = 0
    MAYBE = 1
    YES = 2


@dataclass(frozen=True)
class ForeignRule:
    """A rule of another program, with the table, chain and handle that `nft -a list` shows."""

    table: str
    chain: str
    handle: int
    expressions: tuple[Expression, ...]

    def __str__(self) -> str:
        return f"table {self.table}, chain {self.chain}, handle {self.handle}"

    def statements(self) -> Iterator[tuple[str, Any]]:
        """The statements of the rule with their names; an iptables target has the target's name."""
        for expression in self.expressions:
            for name, value in expression.items():
                if name == "xt" and isinstance(value, Mapping):
                    if value.get("type") == "target":
                        yield str(value.get("name")), value
                else:
                    yield name, value


@dataclass
class ForeignChain:
    """A chain. `kind`, `hook`, `priority` and `policy` are those of a base chain."""

    table: str
    name: str
    kind: str = ""
    hook: str = ""
    priority: int = 0
    policy: str = "accept"
    rules: list[ForeignRule] = field(default_factory=list)

    @property
    def family(self) -> str:
        return self.table.split()[0]

    def sees(self, family: Family) -> bool:
        return self.family in ("inet", family)


Chains: TypeAlias = Mapping[tuple[str, str], ForeignChain]
"""Chains by table, as `FAMILY NAME`, and name."""


def read_chains(objects: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], ForeignChain]:
    """Read the chains with their rules from nft's JSON."""
    chains: dict[tuple[str, str], ForeignChain] = {}
    for item in objects:
        if "chain" in item:
            found = item["chain"]
            table = f"{found['family']} {found['table']}"
            chains[table, found["name"]] = ForeignChain(
                table,
                found["name"],
                found.get("type", ""),
                found.get("hook", ""),
                found.get("prio", 0),
                found.get("policy", "accept"),
            )
    for item in objects:
        if "rule" in item:
            found = item["rule"]
            table, name = f"{found['family']} {found['table']}", found["chain"]
            if (table, name) in chains:
                rule = ForeignRule(table, name, found.get("handle", 0), tuple(found.get("expr", ())))
                chains[table, name].rules.append(rule)
    return chains


# Chains that jump to each other can have very many paths; more rules than this are not followed.
_MOST_RULES = 10_000


@dataclass
class ForeignPath:
    """The path of packets through a base chain: the rules that may match them, and their possible fates."""

    rules: list[tuple[ForeignRule, Match]] = field(default_factory=list)
    fates: set[str] = field(default_factory=set)
    """`accept`, `drop`, or both if the result is not certain."""


def follow_chain(chains: Chains, base: ForeignChain, traffic: Traffic) -> ForeignPath:
    """Follow packets through a base chain."""
    path = ForeignPath()
    if not _walk(chains, base, traffic, Match.YES, path, {base.name}):
        path.fates.add("drop" if base.policy == "drop" else "accept")
    return path


def _walk(
    chains: Chains, chain: ForeignChain, traffic: Traffic, reached: Match, path: ForeignPath, passed: set[str]
) -> bool:
    """Follow packets through a chain, which they reach for certain or maybe. Return whether no packet gets past it."""
    for rule in chain.rules:
        match = matches(rule, traffic)
        if match is Match.NO or len(path.rules) > _MOST_RULES:
            continue
        path.rules.append((rule, min(reached, match)))
        verdicts, certain = _rule_verdicts(rule)
        certain = certain and match is Match.YES
        final = bool(verdicts)
        for verdict, target in verdicts:
            if verdict in ("accept", "drop"):
                path.fates.add(verdict)
            elif verdict == "return":
                if certain:
                    return False
                final = False
            else:
                following = None if target in passed else chains.get((chain.table, target))
                here = min(reached, Match.YES if certain else Match.MAYBE)
                final &= following is not None and _walk(chains, following, traffic, here, path, passed | {target})
        if final and certain:
            return True
    return False


_ENDS = {"reject": "drop", "DROP": "drop", "REJECT": "drop", "ACCEPT": "accept", "RETURN": "return", "queue": "accept"}


def _rule_verdicts(rule: ForeignRule) -> tuple[list[tuple[str, str]], bool]:
    """The possible verdicts of a rule, with their targets, and whether the rule always has one of them."""
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
                found += [(kind, verdict[kind]["target"] if kind in ("jump", "goto") else "") for kind in verdict]
    return found, certain


def matches(rule: ForeignRule, traffic: Traffic) -> Match:
    """Whether a rule's conditions hold for all of these packets, for none, or maybe for some."""
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
            # A condition on a header that the packet does not have fails, even with `!=`.
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
    words = {
        "l4proto": {str(traffic.protocol), _NUMBERS[traffic.protocol]},
        "nfproto": {"ipv4" if traffic.family is Family.IP else "ipv6"},
        "protocol": {str(traffic.family)},
    }
    return _word(words[key], elements) if key in words else Match.MAYBE


def _conntrack(key: str, elements: list[Any] | None, traffic: Traffic) -> Match:
    if elements is None:
        return Match.MAYBE
    match key:
        case "state":
            # The first request of a client: a rule that stops it stops the client.
            own = "untracked" if not traffic.tracked else "established" if traffic.reply else "new"
            return _word({own}, elements)
        case "status":
            return (
                (Match.YES if traffic.tracked and not traffic.own else Match.NO) if "dnat" in elements else Match.MAYBE
            )
    return Match.MAYBE


def _word(own: set[str], elements: list[Any] | None) -> Match:
    if elements is None:
        return Match.MAYBE
    return Match.YES if own.intersection(map(str, elements)) else Match.NO


def _address(own: IPv4Address | IPv6Address | None, elements: list[Any] | None) -> Match:
    if own is None or elements is None:
        return Match.MAYBE
    try:
        return Match.YES if any(_has_address(element, own) for element in elements) else Match.NO
    except (ValueError, KeyError, TypeError):  # a notation of addresses that is not known here
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
    """The values that a condition compares with; None if they are not known (a named set)."""
    if isinstance(right, Mapping) and "set" in right:
        right = right["set"]
    found = []
    for value in right if isinstance(right, list) else [right]:
        element = value["elem"]["val"] if isinstance(value, Mapping) and "elem" in value else value
        if isinstance(element, str) and element.startswith("@"):
            return None
        found.append(element)
    return found


def _verdicts(vmap: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The verdicts of an anonymous map."""
    data = vmap.get("data")
    elements = data.get("set", []) if isinstance(data, Mapping) else []
    return [element[1] for element in elements if isinstance(element, list) and isinstance(element[1], Mapping)]
