"""Whether a server that is gone is found as soon as the documents say. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nftlb.model import Forward, Passive, Protocol, SourceKind
from nftlb.model.checks import asks_over_udp

from .finding import Finding, warning

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nftlb.model import Config, Pool


def judge(config: Config) -> Iterator[Finding]:
    """Find the pools whose traffic uses up the ICMP errors that their checks wait for."""
    for pool in config.pools:
        if pool.refusals is Passive.OFF and _starved(pool):
            yield warning(
                f"pool {pool.name}",
                "its checks and its traffic leave from one address, for which a backend's host has one limit of ICMP "
                "errors (net.ipv4.icmp_ratelimit): under traffic, a server that is gone is found by time-outs",
                "leave out `passive: false`, or give the checks an address of their own: `source` under `health`",
            )


def _starved(pool: Pool) -> bool:
    shared = pool.forward is Forward.NAT and pool.source is not SourceKind.KEEP
    by_udp = any(listener.protocol is Protocol.UDP for listener in pool.listen)
    return shared and by_udp and any(asks_over_udp(one.check) and not one.source for one in pool.health)
