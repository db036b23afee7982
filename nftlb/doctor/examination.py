"""One examination: what to read, then every check in turn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nftlb.compiler import Compiled, Routes
from nftlb.compiler.cautions import cautions
from nftlb.kernel.nft_version import doubt
from nftlb.kernel.steering import hops
from nftlb.ruleset import file_text

from . import (
    addresses,
    backends,
    conntrack,
    devices,
    direct,
    features,
    foreign,
    forwarding,
    legacy,
    marks,
    own_ports,
    refusals,
    sources,
)
from .finding import Finding, error, ok, warning
from .host import Host, read_host

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nftlb.model import Config

_OWN_TABLE = "nftlb"
_WHOLE = "the compiled ruleset"


def examine(config: Config | None) -> list[Finding]:
    """Examine this host, the network namespace of this thread; without a configuration, only what all of them need.

    Changes nothing but that the kernel may load modules. Raises KernelError when the routing tables can't be read or
    the configuration needs more zones or marks than there are.
    """
    texts = features.needed(config)
    if config is None:
        host = read_host(texts, _OWN_TABLE, ())
        return [*_judge_nft(host), *forwarding.judge(None, host), *legacy.judge(host)]
    destinations = list(backends.destinations(config))
    compiled = Compiled(config, routes=Routes(hops(destinations)))
    host = read_host({**texts, _WHOLE: file_text(compiled.ruleset())}, config.table, destinations)
    return [*_judge_nft(host), *judge(config, compiled, host)]


def judge(config: Config, compiled: Compiled, host: Host) -> Iterator[Finding]:
    """All checks of a configuration, on a host as it was read. Pure."""
    own_zones, own_marks = compiled.allocation.zones.values(), compiled.allocation.marks.values()
    yield from forwarding.judge(config, host)
    yield from addresses.judge(config, host)
    yield from sources.judge(config, host)
    yield from backends.judge(config, host)
    yield from devices.judge(config, host)
    yield from conntrack.judge(config, host)
    yield from conntrack.judge_zones(set(own_zones), host.nft.foreign, host)
    yield from marks.judge(set(own_marks), host)
    yield from refusals.judge(config)
    yield from (warning(f"pool {one.pool}", one.message, one.mend) for one in cautions(config))
    yield from own_ports.judge(config, host)
    yield from direct.judge(config, host)
    if not host.nft.problem:
        yield from foreign.judge(host.nft.foreign, config)
    yield from legacy.judge(host)


def _judge_nft(host: Host) -> Iterator[Finding]:
    nft = host.nft
    if nft.problem:
        yield error("nftables", nft.problem, nft.mend)
        return
    if doubtful := doubt(nft.version):
        mend = "after `nftlb apply FILE`, `nftlb diff FILE` should say nothing; try a client of each pool"
        yield warning("libnftables", doubtful, mend)
    else:
        yield ok("libnftables", f"version {nft.version}")
    whole = nft.refused.get(_WHOLE)
    if whole:
        yield error(_WHOLE, f"refused: {whole}", "nftlb compile FILE | nft -c -f -")
    tried = {name: text for name, text in nft.tried.items() if name != _WHOLE}
    yield from features.judge({name: why for name, why in nft.refused.items() if name != _WHOLE}, tried)
