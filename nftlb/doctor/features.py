"""What the rules need of libnftables and the kernel: tried out, one by one, in transactions that are never committed.

A list of modules would not tell: what is missing may be built in, or loaded when it is first asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nftlb.model import Balance, Family, Forward, Passive, Protocol, SourceKind

from .finding import Finding, error, ok

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from nftlb.model import Config

TABLE = "nftlb-doctor"


@dataclass(frozen=True, slots=True)
class Feature:
    """Something to try. `lines` are rules of a chain or, with a colon, what a table holds; `{ip}` is the family.

    It is needed where a configuration has all of `uses`; see `_uses`. `module` is what provides it, with its option.
    """

    name: str
    module: str
    lines: tuple[str, ...]
    uses: frozenset[str] = frozenset()
    hook: str = ""
    netdev: bool = False


def _uses(*words: str) -> frozenset[str]:
    return frozenset(words)


_SERVICE = "{address} . inet_proto . inet_service"
FEATURES = (
    Feature("maps of addresses, protocols and ports", "nf_tables", ("map m {{ type " + _SERVICE + " : verdict; }}",)),
    Feature(
        "ranges of ports in such maps (Linux 5.6)",
        "nf_tables",
        ("map m {{ type " + _SERVICE + " : verdict; flags interval; }}",),
        _uses("range"),
    ),
    Feature(
        "choosing packet by packet",
        "nft_numgen (CONFIG_NFT_NUMGEN)",
        ("numgen inc mod 2 vmap {{ 0 : accept, 1 : drop }}", "numgen random mod 2 vmap {{ 0 : accept, 1 : drop }}"),
        _uses("numgen"),
    ),
    Feature(
        "choosing by the client's address",
        "nft_hash (CONFIG_NFT_HASH)",
        ("jhash {ip} saddr mod 2 seed 0x1 vmap {{ 0 : accept, 1 : drop }}",),
        _uses("hash"),
    ),
    Feature("refusing packets", "nft_reject (CONFIG_NFT_REJECT)", ("reject", "reject with tcp reset")),
    Feature(
        "conntrack zones",
        "nft_ct (CONFIG_NFT_CT, CONFIG_NF_CONNTRACK_ZONES)",
        ("ct original zone set 1", "ct direction . ct original zone vmap {{ original . 1 : accept }}"),
        _uses("nat"),
    ),
    Feature(
        "counting the elements of a set (Linux 5.7)",
        "nf_tables",
        ("set s {{ typeof ct original zone . {ip} daddr . th dport; counter; }}",),
        _uses("nat"),
    ),
    Feature(
        "translating destinations by zone",
        "nft_nat (CONFIG_NFT_NAT)",
        (
            "map m {{ typeof ct direction . ct original zone : {ip} daddr . th dport; }}",
            "meta l4proto {{ tcp, udp, sctp }} dnat {ip} to ct direction . ct original zone map @m",
        ),
        _uses("nat"),
        "type nat hook prerouting priority dstnat;",
    ),
    Feature(
        "masquerading",
        "nft_masq (CONFIG_NFT_MASQ)",
        ("masquerade", "meta l4proto udp masquerade to :1024-65535"),
        _uses("masquerade"),
        "type nat hook postrouting priority srcnat;",
    ),
    Feature(
        "translating sources by zone",
        "nft_nat (CONFIG_NFT_NAT)",
        (
            "map m {{ typeof ct direction . ct original zone : {ip} saddr; }}",
            "snat to ct direction . ct original zone map @m",
            "meta l4proto udp snat to ct direction . ct original zone map @m:1024-65535",
        ),
        _uses("snat"),
        "type nat hook postrouting priority srcnat;",
    ),
    Feature(
        "telling the daemon of refused packets",
        "nfnetlink_log (CONFIG_NETFILTER_NETLINK_LOG)",
        ('log prefix "hint" group 1 snaplen 160',),
        _uses("passive"),
    ),
    Feature(
        "translating the ports of this host's own packets",
        "nft_nat (CONFIG_NFT_NAT)",
        ("iif 0 udp sport 53 snat to :1024-65535",),
        _uses("nat"),
        "type nat hook postrouting priority srcnat;",
    ),
    Feature(
        "packets without a conntrack entry",
        "nft_ct (CONFIG_NFT_CT)",
        ("notrack",),
        _uses("untracked"),
        "type filter hook prerouting priority raw;",
    ),
    Feature(
        "rewriting addresses, ports and checksums",
        "nf_tables",
        ("{ip} daddr set {sample} udp dport set 1 udp checksum set 0",),
        _uses("stateless"),
    ),
    Feature(
        "telling local addresses from others",
        "nft_fib (CONFIG_NFT_FIB, CONFIG_NFT_FIB_IPV4, CONFIG_NFT_FIB_IPV6)",
        ("fib daddr type != local accept",),
        _uses("stateless"),
        "type filter hook prerouting priority raw;",
    ),
    Feature(
        "joining fragments",
        "nft_tproxy (CONFIG_NFT_TPROXY)",
        ("meta l4proto udp tproxy to :1",),
        _uses("untracked"),
    ),
    Feature(
        "sending on from the ingress hook",
        "nft_fwd_netdev (CONFIG_NFT_FWD_NETDEV, CONFIG_NF_TABLES_NETDEV)",
        ('fwd {ip} to {sample} device "lo"',),
        _uses("ingress"),
        'type filter hook ingress device "lo" priority filter;',
        netdev=True,
    ),
)


def needed(config: Config | None) -> dict[str, str]:
    """What to try for a configuration, by name: the text to have checked. Everything, if there is none."""
    used = _used(config)
    texts: dict[str, str] = {}
    for feature in FEATURES:
        for family in Family:
            if config is not None and not feature.uses | {family} <= used:
                continue
            # A table of its own: libnftables takes what it has once checked for real, until something is committed.
            texts[_subject(feature, family)] = _text(feature, family, f"{TABLE}-{len(texts)}")
    return texts


def judge(refused: Mapping[str, str], tried: Mapping[str, str]) -> Iterator[Finding]:
    """Tell what the kernel or libnftables refused, by name, of what was tried."""
    modules = {_subject(feature, family): feature.module for feature in FEATURES for family in Family}
    for subject, message in refused.items():
        module, _, options = modules[subject].partition(" ")
        built = f"; or a kernel with {options.strip('()')}" if options else ""
        yield error(f"nftables, {subject}", f"refused: {message}", f"modprobe {module}{built}, and nft 1.0 or later")
    if tried and not refused:
        yield ok("nftables", f"all {len(tried)} things that the rules need are there")


def _subject(feature: Feature, family: Family) -> str:
    return f"{feature.name} ({family})"


def _text(feature: Feature, family: Family, name: str) -> str:
    four = family is Family.IP
    words = {
        "ip": str(family),
        "address": "ipv4_addr" if four else "ipv6_addr",
        "sample": "192.0.2.1" if four else "2001:db8::1",
    }
    lines = [line.format(**words) for line in feature.lines]
    declared = [line for line in lines if line.startswith(("map ", "set "))]
    rules = [line for line in lines if line not in declared]
    hook = [feature.hook] if feature.hook else []
    table = "netdev" if feature.netdev else str(family)
    body = [*declared, "chain c {", *hook, *rules, "}"]
    return "\n".join([f"table {table} {name} {{", *body, "}", ""])


def _used(config: Config | None) -> frozenset[str]:
    """The words for what a configuration makes use of."""
    used: set[str] = set()
    for pool in config.pools if config else ():
        used |= {listener.family for listener in pool.listen}
        used.add("hash" if pool.balance is Balance.HASH else "numgen")
        used.add(str(pool.forward))
        if pool.forward is not Forward.NAT:
            used.add("untracked")
        elif pool.source is not SourceKind.KEEP:
            used.add("masquerade" if pool.source is SourceKind.MASQUERADE else "snat")
        if pool.refusals is not Passive.OFF:
            used.add("passive")
        if pool.ingress:
            used.add("ingress")
        if any(listener.first_port != listener.last_port for listener in pool.listen):
            used.add("range")
        if any(listener.protocol is Protocol.SCTP for listener in pool.listen):
            used.add("sctp")
    return frozenset(used)
