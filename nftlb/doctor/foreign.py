"""Tables of others that may do something to our packets, told apart from those that can't. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from nftlb.model import Forward, Per, Protocol, SourceKind

from .finding import Finding, error, ok, warning
from .matching import Match, follow, read_chains
from .traffic import forwarded, replies, requests

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
    from typing import Any

    from nftlb.model import Config

    from .matching import Chain, Chains, Rule
    from .traffic import Traffic

_RAW, _CONNTRACK, _DSTNAT = -300, -200, -100
# Of a configuration with thousands of listeners, so many kinds of packets are enough to tell.
_MOST = 2000
_ENTRANCES = ("prerouting", "output")
_BUILT_IN = {"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"}


@dataclass(frozen=True)
class _Trouble:
    """One way of getting in the way: where, by which statements, for which packets, and what it comes to."""

    message: str
    statements: Collection[str]
    where: Callable[[Chain], bool]
    concerns: Callable[[Traffic], bool]
    packets: Callable[[Config], Iterator[Traffic]]


def _packetwise(traffic: Traffic) -> bool:
    pool = traffic.pool
    return traffic.tracked and pool.per is Per.PACKET and traffic.protocol is Protocol.UDP


_TROUBLES = (
    _Trouble(
        "takes packets away from conntrack, which `forward: nat` needs",
        ("notrack", "CT", "NOTRACK"),
        lambda chain: chain.hook in _ENTRANCES and chain.priority < _CONNTRACK,
        lambda traffic: traffic.tracked,
        lambda config: (one for source in (requests, replies) for one in source(config)),
    ),
    _Trouble(
        "translates packets that are ours to translate",
        ("dnat", "redirect", "tproxy", "DNAT", "REDIRECT", "TPROXY"),
        lambda chain: chain.hook in _ENTRANCES and chain.priority <= _DSTNAT,
        lambda traffic: traffic.tracked,
        requests,
    ),
    _Trouble(
        "gives packets another source address, where `source` says which they should have",
        ("snat", "masquerade", "SNAT", "MASQUERADE"),
        lambda chain: chain.kind == "nat" and chain.hook == "postrouting",
        lambda traffic: traffic.tracked and traffic.pool.source is not SourceKind.MASQUERADE,
        forwarded,
    ),
    _Trouble(
        "sends all packets of a client after the first ones past the rules, to a single backend",
        ("flow",),
        lambda chain: chain.hook == "forward",
        _packetwise,
        lambda config: (one for source in (forwarded, replies) for one in source(config)),
    ),
    _Trouble(
        "may overwrite the mark by which `forward: dsr` steers packets",
        ("MARK", "CONNMARK", "meta mark"),
        lambda chain: chain.hook == "prerouting" and chain.priority >= _RAW,
        lambda traffic: traffic.pool.forward is Forward.DSR,
        requests,
    ),
)


def judge(objects: Iterable[Mapping[str, Any]], config: Config) -> Iterator[Finding]:
    """Say what is in the way; `objects` is nft's JSON of all tables but ours."""
    objects = list(objects)
    chains = read_chains(objects)
    bases = sorted((chain for chain in chains.values() if chain.hook), key=lambda chain: (chain.priority, chain.table))
    findings = [finding for trouble in _TROUBLES for finding in _judge_trouble(trouble, chains, bases, config)]
    findings += _judge_filters(chains, bases, config)
    yield from findings
    tables = dict.fromkeys(f"{one['table']['family']} {one['table']['name']}" for one in objects if "table" in one)
    if not findings:
        yield ok("other tables", f"nothing in the way in {', '.join(tables)}" if tables else "there are none")


def _judge_trouble(trouble: _Trouble, chains: Chains, bases: Iterable[Chain], config: Config) -> Iterator[Finding]:
    """One finding a rule, for the first of our packets that it concerns."""
    seen: set[tuple[str, str, int]] = set()
    for base in bases:
        if not trouble.where(base):
            continue
        for traffic in islice(trouble.packets(config), _MOST):
            if not (trouble.concerns(traffic) and base.sees(traffic.family)):
                continue
            for rule, match in follow(chains, base, traffic).rules:
                key = (rule.table, rule.chain, rule.handle)
                if key not in seen and any(one in trouble.statements for one in _statements(rule)):
                    seen.add(key)
                    certain = match is Match.YES and "CT" not in dict(rule.statements())
                    say = error if certain else warning
                    possibly = "" if certain else "perhaps "
                    message = f"{possibly}{trouble.message}: {traffic} (pool {traffic.pool.name})"
                    yield say(str(rule), message, _let_pass(base, traffic))


def _statements(rule: Rule) -> Iterator[str]:
    for name, value in rule.statements():
        if name == "mangle":
            key = value.get("key", {})
            yield "meta mark" if key.get("meta", {}).get("key") == "mark" else name
        else:
            yield name


def _judge_filters(chains: Chains, bases: Iterable[Chain], config: Config) -> Iterator[Finding]:
    """One finding a chain that drops what has to be forwarded, or for untracked packets, one each way."""
    for base in bases:
        if base.hook != "forward" or base.kind != "filter":
            continue
        for source in (forwarded, replies):
            found = next(_dropped(chains, base, islice(source(config), _MOST)), None)
            if found is None:
                continue
            traffic, possible = found
            say, verb = (error, "drops") if "accept" not in possible else (warning, "perhaps drops")
            way = "answers" if traffic.reply else "packets for the backends"
            subject, message = (
                f"table {base.table}, chain {base.name}",
                f"{verb} {way}: {traffic} (pool {traffic.pool.name})",
            )
            yield say(subject, message, _let_pass(base, traffic, translated=traffic.tracked))
            if traffic.tracked:
                break


def _dropped(chains: Chains, base: Chain, packets: Iterable[Traffic]) -> Iterator[tuple[Traffic, set[str]]]:
    for traffic in packets:
        if base.sees(traffic.family) and "drop" in (possible := follow(chains, base, traffic).fates):
            yield traffic, possible


def _let_pass(base: Chain, traffic: Traffic, *, translated: bool = False) -> str:
    """The command that has a chain leave these packets alone or, in short, all that conntrack translates."""
    family, table = base.table.split(" ", 1)
    if base.name in _BUILT_IN and table in ("raw", "mangle", "nat", "filter", "security"):
        # iptables refuses to show a table that has been given rules that it can't have written itself.
        program = {"ip": "iptables", "ip6": "ip6tables"}.get(family, "iptables")
        match = "-m conntrack --ctstate DNAT" if translated else traffic.iptables()
        return f"{program} -t {table} -I {base.name} {match} -j ACCEPT"
    return f"nft insert rule {base.table} {base.name} {'ct status dnat' if translated else traffic.nft()} accept"
