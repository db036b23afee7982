"""Finds the rules in tables of other programs that affect nftlb's packets. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from nftlb.model import Forward, Per, Protocol, SourceKind

from .finding import Finding, error, ok, warning
from .matching import (
    Match,
    follow_chain,
    forwarded_traffic,
    own_request_traffic,
    read_chains,
    reply_traffic,
    request_traffic,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from nftlb.model import Config

    from .host import HostFacts, NftFacts
    from .matching import Chains, ForeignChain, ForeignRule, Traffic

_RAW, _CONNTRACK, _DSTNAT = -300, -200, -100
# The most kinds of packets to try: enough for a configuration with thousands of listeners.
_MOST = 2000
_ENTRANCES = ("prerouting", "output")
_BUILT_IN = {"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"}


@dataclass(frozen=True)
class _Trouble:
    """A way in which rules do harm: by which statements, in which chains (`where`), to which packets (`concerns`)."""

    message: str
    statements: Collection[str]
    where: Callable[[ForeignChain], bool]
    concerns: Callable[[Traffic], bool]
    packets: Callable[[Config], Iterator[Traffic]]


def _is_spread_by_packet(traffic: Traffic) -> bool:
    pool = traffic.pool
    return traffic.tracked and pool.per is Per.PACKET and traffic.protocol is Protocol.UDP


def _translates_sources(chain: ForeignChain) -> bool:
    return chain.kind == "nat" and chain.hook == "postrouting"


_SOURCE_NAT = ("snat", "masquerade", "SNAT", "MASQUERADE")
_TROUBLES = (
    _Trouble(
        "keeps packets from conntrack, which `forward: nat` needs",
        ("notrack", "CT", "NOTRACK"),
        lambda chain: chain.hook in _ENTRANCES and chain.priority < _CONNTRACK,
        lambda traffic: traffic.tracked,
        lambda config: (traffic for source in (request_traffic, reply_traffic) for traffic in source(config)),
    ),
    _Trouble(
        "translates packets that nftlb translates",
        ("dnat", "redirect", "tproxy", "DNAT", "REDIRECT", "TPROXY"),
        lambda chain: chain.hook in _ENTRANCES and chain.priority <= _DSTNAT,
        lambda traffic: traffic.tracked,
        request_traffic,
    ),
    _Trouble(
        "changes the source address of packets, which `source` sets",
        _SOURCE_NAT,
        _translates_sources,
        lambda traffic: traffic.tracked and traffic.pool.source is not SourceKind.MASQUERADE,
        forwarded_traffic,
    ),
    _Trouble(
        "changes the source address of requests of backends, which `outbound` sets",
        _SOURCE_NAT,
        _translates_sources,
        lambda traffic: traffic.own,
        own_request_traffic,
    ),
    _Trouble(
        "sends all but the first packets of a client past the rules, to a single backend",
        ("flow",),
        lambda chain: chain.hook == "forward",
        _is_spread_by_packet,
        lambda config: (traffic for source in (forwarded_traffic, reply_traffic) for traffic in source(config)),
    ),
    _Trouble(
        "may overwrite the mark by which `forward: dsr` routes packets",
        ("MARK", "CONNMARK", "meta mark"),
        lambda chain: chain.hook == "prerouting" and chain.priority >= _RAW,
        lambda traffic: traffic.pool.forward is Forward.DSR,
        request_traffic,
    ),
)


def check_other_tables(nft: NftFacts, config: Config) -> Iterator[Finding]:
    """Find the rules of other tables that do harm. There are no findings if nftables can't be used."""
    if nft.problem:
        return
    objects = nft.foreign
    chains = read_chains(objects)
    bases = sorted((chain for chain in chains.values() if chain.hook), key=lambda chain: (chain.priority, chain.table))
    findings = [finding for trouble in _TROUBLES for finding in _check_trouble(trouble, chains, bases, config)]
    findings += _check_filters(chains, bases, config)
    yield from findings
    tables = dict.fromkeys(f"{item['table']['family']} {item['table']['name']}" for item in objects if "table" in item)
    if not findings:
        yield ok("other tables", f"no rule of {', '.join(tables)} does harm" if tables else "this host has none")


def _check_trouble(
    trouble: _Trouble, chains: Chains, bases: Iterable[ForeignChain], config: Config
) -> Iterator[Finding]:
    """One finding for each rule, with the first packets that the rule concerns."""
    seen: set[tuple[str, str, int]] = set()
    for base in bases:
        if not trouble.where(base):
            continue
        for traffic in islice(trouble.packets(config), _MOST):
            if not (trouble.concerns(traffic) and base.sees(traffic.family)):
                continue
            for rule, match in follow_chain(chains, base, traffic).rules:
                key = (rule.table, rule.chain, rule.handle)
                if key not in seen and any(statement in trouble.statements for statement in _statements(rule)):
                    seen.add(key)
                    certain = match is Match.YES and "CT" not in dict(rule.statements())
                    say = error if certain else warning
                    possibly = "" if certain else "perhaps "
                    message = f"{possibly}{trouble.message}: {traffic} (pool {traffic.pool.name})"
                    yield say(str(rule), message, _let_pass(base, traffic))


def _statements(rule: ForeignRule) -> Iterator[str]:
    for name, value in rule.statements():
        if name == "mangle":
            key = value.get("key", {})
            yield "meta mark" if key.get("meta", {}).get("key") == "mark" else name
        else:
            yield name


def _check_filters(chains: Chains, bases: Iterable[ForeignChain], config: Config) -> Iterator[Finding]:
    """One finding for each chain that drops packets of nftlb; for untracked packets, one for each kind of packets."""
    for base in bases:
        if base.hook != "forward" or base.kind != "filter":
            continue
        for source in (forwarded_traffic, reply_traffic, own_request_traffic):
            found = next(_dropped(chains, base, islice(source(config), _MOST)), None)
            if found is None:
                continue
            traffic, possible = found
            say, verb = (error, "drops") if "accept" not in possible else (warning, "perhaps drops")
            way = "requests of backends" if traffic.own else "replies" if traffic.reply else "packets for the backends"
            subject, message = (
                f"table {base.table}, chain {base.name}",
                f"{verb} {way}: {traffic} (pool {traffic.pool.name})",
            )
            yield say(subject, message, _let_pass(base, traffic, translated=traffic.tracked and not traffic.own))
            if traffic.tracked:
                break


def _dropped(chains: Chains, base: ForeignChain, packets: Iterable[Traffic]) -> Iterator[tuple[Traffic, set[str]]]:
    for traffic in packets:
        if base.sees(traffic.family) and "drop" in (possible := follow_chain(chains, base, traffic).fates):
            yield traffic, possible


def _let_pass(base: ForeignChain, traffic: Traffic, *, translated: bool = False) -> str:
    """The command for a rule that accepts these packets or, with `translated`, all that conntrack translates."""
    family, table = base.table.split(" ", 1)
    if base.name in _BUILT_IN and table in ("raw", "mangle", "nat", "filter", "security"):
        # iptables refuses to show a table with rules that iptables can't have written.
        program = {"ip": "iptables", "ip6": "ip6tables"}.get(family, "iptables")
        match = "-m conntrack --ctstate DNAT" if translated else traffic.iptables()
        return f"{program} -t {table} -I {base.name} {match} -j ACCEPT"
    return f"nft insert rule {base.table} {base.name} {'ct status dnat' if translated else traffic.nft()} accept"


_LEGACY_PROGRAMS = {"ip": "iptables-legacy-save", "ip6": "ip6tables-legacy-save"}


def check_legacy_tables(host: HostFacts) -> Iterator[Finding]:
    """Find the tables of the old iptables, whose rules nftables can't show: one finding for each family."""
    for family, program in _LEGACY_PROGRAMS.items():
        tables = [name.split()[1] for name in host.legacy if name.startswith(f"{family} ")]
        if tables:
            yield warning(
                f"{family}tables (legacy)",
                f"has tables: {', '.join(tables)}; they see the same packets, and nft can't show a DNAT, NOTRACK or "
                "DROP there",
                program,
            )
