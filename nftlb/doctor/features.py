"""Checks libnftables and the kernel: each feature that the rules need is tried in a transaction that is not committed.

A list of loaded modules is not enough: a feature may be built in, or the kernel may load its module on first use.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nftlb.kernel.libnftables import version_warning
from nftlb.model import Balance, Family, Forward, Passive, Protocol, SourceKind

from .finding import Finding, error, ok, warning

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nftlb.model import Config, Pool

    from .host import NftFacts

TABLE = "nftlb-doctor"
WHOLE_RULESET = "the compiled ruleset"


@dataclass(frozen=True, slots=True)
class Feature:
    """A feature of nftables. A configuration needs it if it has all of `uses` (see `_used`).

    `lines` are the rules, and the sets, maps and named objects (`doctor`), to try; `{ip}` is the family. `module` is
    the kernel's module, with its option.
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
        "choosing by a hash",
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
        "time-outs of flows",
        "nft_ct (CONFIG_NFT_CT, CONFIG_NF_CONNTRACK_TIMEOUT)",
        (
            "ct timeout doctor {{ protocol udp; policy = {{ unreplied : 2, replied : 2 }}; }}",
            'ct timeout set "doctor"',
        ),
        _uses("session_timeout"),
    ),
    Feature(
        "the helper for TFTP",
        "nf_nat_tftp (CONFIG_NF_CONNTRACK_TFTP, CONFIG_NF_NAT_TFTP)",
        ('ct helper doctor {{ type "tftp" protocol udp; l3proto {ip}; }}', 'ct helper set "doctor"'),
        _uses("tftp"),
    ),
    Feature(
        "reporting refused packets to the daemon",
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
        "copying datagrams",
        "nft_dup_ipv4 (CONFIG_NFT_DUP_IPV4, CONFIG_NFT_DUP_IPV6)",
        ("{ip} daddr set {sample} udp dport set 1 dup to {sample}", "fib daddr type != local accept"),
        _uses("copies"),
        "type filter hook prerouting priority raw;",
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


def feature_texts(config: Config | None) -> dict[str, str]:
    """By name, the texts to try for the features that a configuration needs; without one, for all features."""
    used = _used(config)
    texts: dict[str, str] = {}
    for feature in FEATURES:
        for family in Family:
            if config is not None and not feature.uses | {family} <= used:
                continue
            # Each text has its own table: libnftables assumes until the next commit that a checked table exists.
            texts[_subject(feature, family)] = _text(feature, family, f"{TABLE}-{len(texts)}")
    return texts


def check_nft(nft: NftFacts) -> Iterator[Finding]:
    """Check libnftables, the compiled ruleset as a whole, and each feature that it needs."""
    if nft.problem:
        yield error("nftables", nft.problem, nft.fix)
        return
    if doubtful := version_warning(nft.version):
        fix = "after `nftlb apply FILE`, `nftlb diff FILE` should print nothing; try a client of each pool"
        yield warning("libnftables", doubtful, fix)
    else:
        yield ok("libnftables", f"version {nft.version}")
    if reason := nft.refused.get(WHOLE_RULESET):
        yield error(WHOLE_RULESET, f"refused: {reason}", "nftlb compile FILE | nft -c -f -")
    tried = nft.tried.keys() - {WHOLE_RULESET}
    refused = {name: reason for name, reason in nft.refused.items() if name != WHOLE_RULESET}
    modules = {_subject(feature, family): feature.module for feature in FEATURES for family in Family}
    for subject, message in refused.items():
        module, _, options = modules[subject].partition(" ")
        built = f"\nor use a kernel with {options.strip('()')}" if options else ""
        fix = f"modprobe {module}{built}\nand nft 1.0 or later"
        yield error(f"nftables, {subject}", f"refused: {message}", fix)
    if tried and not refused:
        yield ok("nftables", f"has all {len(tried)} features that the rules need")


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
    declared = [line for line in lines if line.startswith(("map ", "set ", "ct timeout doctor ", "ct helper doctor "))]
    rules = [line for line in lines if line not in declared]
    hook = [feature.hook] if feature.hook else []
    table = "netdev" if feature.netdev else str(family)
    body = [*declared, "chain c {", *hook, *rules, "}"]
    return "\n".join([f"table {table} {name} {{", *body, "}", ""])


def _drawn_by(pool: Pool) -> set[str]:
    """Return the words for how slots are drawn. Datagrams without a key in the payload take turns."""
    if pool.balance is not Balance.HASH:
        return {"numgen"}
    return {"hash", "numgen"} if pool.key.places else {"hash"}


def _used(config: Config | None) -> frozenset[str]:
    """The words for what a configuration uses, as in `Feature.uses`."""
    used: set[str] = set()
    for pool in config.pools if config else ():
        used |= {listener.family for listener in pool.listen}
        used |= _drawn_by(pool)
        used.add(str(pool.forward))
        if pool.forward is not Forward.NAT:
            used.add("untracked")
        elif pool.source is not SourceKind.KEEP:
            used.add("masquerade" if pool.source is SourceKind.MASQUERADE else "snat")
        options = {
            "passive": pool.refusals is not Passive.OFF,
            "copies": pool.mirror or pool.templates,
            str(pool.helper): pool.helper,
            "session_timeout": pool.session_timeout,
            "ingress": pool.ingress,
            "range": any(listener.first_port != listener.last_port for listener in pool.listen),
            "sctp": any(listener.protocol is Protocol.SCTP for listener in pool.listen),
        }
        used |= {word for word, given in options.items() if given}
    return frozenset(used)
