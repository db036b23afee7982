"""Whether connection tracking can hold what `forward: nat` puts into it. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nftlb.model import Forward, Per, Protocol

from .finding import Finding, error, ok, sysctls, warning

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from nftlb.model import Config, Pool

    from .host import Host

# Clients that send within one timeout; the default limit of 262,144 entries suffices for 26 backends.
_ENOUGH_CLIENTS = 10_000
_AMPLE_CLIENTS = 100_000
_FULL_PERCENT = 80
# Of seconds; the kernel's own are 30 and 120. With longer ones, a flood of forged senders fills the table sooner.
_LONG_TIMEOUTS = {"nf_conntrack_udp_timeout": 60, "nf_conntrack_udp_timeout_stream": 180}
_DEFAULT_TIMEOUTS = {"nf_conntrack_udp_timeout": 30, "nf_conntrack_udp_timeout_stream": 120}
_LAST_ZONE = 65535


def judge(config: Config, host: Host) -> Iterator[Finding]:
    """Look at the size of the table, at timeouts and at SCTP; nothing to say without a pool that uses it."""
    pools = [pool for pool in config.pools if pool.forward is Forward.NAT]
    limit = host.sysctls.get("net/netfilter/nf_conntrack_max")
    if not pools or limit is None:  # or it is not loaded, which it will be together with the rules
        return
    yield from _judge_size(pools, limit, host)
    yield from _judge_timeouts(host)
    sctp = any(listener.protocol is Protocol.SCTP for pool in pools for listener in pool.listen)
    if sctp and "net/netfilter/nf_conntrack_sctp_timeout_established" not in host.sysctls:
        message = "the kernel's conntrack does not know SCTP, so it can't translate its ports"
        yield error("conntrack", message, "a kernel with CONFIG_NF_CT_PROTO_SCTP")
    if host.sysctls.get("net/netfilter/nf_conntrack_checksum"):
        yield ok("conntrack", "datagrams with a wrong checksum are not translated (nf_conntrack_checksum)")


def _judge_size(pools: Collection[Pool], limit: int, host: Host) -> Iterator[Finding]:
    count = host.sysctls.get("net/netfilter/nf_conntrack_count", 0)
    if limit and count * 100 >= limit * _FULL_PERCENT:
        yield warning(
            "conntrack",
            f"{count} of at most {limit} entries are in use; when it is full, datagrams of new clients are lost",
            sysctls({"net/netfilter/nf_conntrack_max": 2 * limit}),
        )
    pool, entries = max(((pool, _entries_per_client(pool)) for pool in pools), key=lambda pair: pair[1])
    # A limit of 0 is none.
    if limit and limit < entries * _ENOUGH_CLIENTS:
        yield warning(
            "conntrack",
            f"room for {limit} entries: {limit // entries} clients of pool {pool.name}, each of which takes {entries}",
            sysctls({"net/netfilter/nf_conntrack_max": entries * _AMPLE_CLIENTS}),
        )
    else:
        room = f"{limit // entries} clients" if limit else "any number of clients"
        yield ok("conntrack", f"room for {room} at a time, with {entries} entries each (pool {pool.name})")


def _entries_per_client(pool: Pool) -> int:
    """One a backend where packets are spread, one a connection otherwise; the sorry server apart."""
    if pool.per is Per.FLOW or all(listener.protocol is not Protocol.UDP for listener in pool.listen):
        return 1
    families = [backend.family for backend in pool.backends]
    return max((families.count(family) for family in set(families)), default=1)


def _judge_timeouts(host: Host) -> Iterator[Finding]:
    values = {name: host.sysctls.get(f"net/netfilter/{name}", 0) for name in _LONG_TIMEOUTS}
    long = [name for name, seconds in values.items() if seconds > _LONG_TIMEOUTS[name]]
    if long:
        yield warning(
            "conntrack",
            f"{', '.join(f'{name} is {values[name]} s' for name in long)}: entries of clients that are gone "
            "stay for long, so that the table fills sooner",
            sysctls({f"net/netfilter/{name}": _DEFAULT_TIMEOUTS[name] for name in long}),
        )


def judge_zones(own: Collection[int], foreign: Iterable[Mapping[str, Any]], host: Host) -> Iterator[Finding]:
    """Tell whether the zones that are ours are others' too; `foreign` is nft's JSON of their tables."""
    if not own:
        return
    entries = host.shared_zones or {}
    ruled = {zone for one in foreign for zone in _zones_set(one.get("rule", {}))}
    taken = ruled | entries.keys()
    common = sorted(taken.intersection(own))
    if not common:
        yield ok("conntrack zones", f"{min(own)} to {max(own)} are nobody else's")
        return
    free = max(taken) + 1
    yield warning(
        "conntrack zones",
        f"{', '.join(map(str, common))}: used by others too "
        f"({sum(entries.get(zone, 0) for zone in common)} entries, {len(ruled.intersection(own))} by rules)",
        f"zones: {{first: {free}}}" if free + len(own) <= _LAST_ZONE else "zones: {first: ...}, beyond theirs",
    )


def _zones_set(rule: Mapping[str, Any]) -> Iterator[int]:
    for expression in rule.get("expr", ()):
        mangle = expression.get("mangle", {})
        if mangle.get("key", {}).get("ct", {}).get("key") == "zone":
            value = mangle.get("value")
            if isinstance(value, int):
                yield value
            elif isinstance(value, dict) and "map" in value:
                data = value["map"].get("data")
                elements = data.get("set", []) if isinstance(data, dict) else []
                yield from (one[1] for one in elements if isinstance(one, list) and isinstance(one[1], int))
