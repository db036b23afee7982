"""Makes ready what the daemon's next start loads first, before it has imported anything: see nftlb/preload.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nftlb import preload
from nftlb.apply import without_hints
from nftlb.compiler import Allocation, Compiled
from nftlb.compiler.connections import cuts
from nftlb.errors import NftlbError
from nftlb.health.memory import write
from nftlb.kernel.conntrack import Kept
from nftlb.kernel.nflog import can_log
from nftlb.model import Forward
from nftlb.ruleset import Ruleset
from nftlb.swap.plan import make

from .runtime import begin

if TYPE_CHECKING:
    from nftlb.compiler.connections import Keep
    from nftlb.health import Memory
    from nftlb.model import Config

MOST_BACKENDS = 1000
"""A larger configuration is not made ready: each change of a backend's health would cost all of its text, and its start
takes long for the kernel's sake."""


def prepare(base: Config, source: bytes, memory: Memory) -> bytes | None:
    """What a start with this configuration (`source` is its text) and this memory loads into a kernel without tables.

    None for what can't be made ready: what depends on the host's interfaces and routes, what needs routing rules, what
    is too large, what a start complains of, and a file whose `state_dir` or `table` a start would not find at once.
    """
    if preload.places(source) != (base.state_dir, base.table) or not _alone(base):
        return None
    config, fleet, misfits = begin(base, memory.pools, 0.0)
    if misfits or not _alone(config):
        return None
    if not can_log():
        config = without_hints(config)
    membership = fleet.membership(0.0)
    try:
        compiled = Compiled(config, Allocation())
    except NftlbError:
        return None
    target = compiled.ruleset(membership)
    before = cuts(Allocation(), compiled.allocation, compiled.connections(membership)).before
    return preload.Prepared(
        source=source,
        memory=write(memory).encode(),
        code=preload.code(),
        library=preload.library(),
        cuts=_lines(before),
        text=make(Ruleset(config.table, {}), target).text.encode() + b"\0",
    ).write()


def _alone(config: Config) -> bool:
    """Whether its rules depend on nothing of this host, and are all that it needs."""
    few = sum(len(pool.backends) for pool in config.pools) <= MOST_BACKENDS
    return few and not any(pool.ingress or pool.forward is Forward.DSR for pool in config.pools)


def _lines(keep: Keep) -> bytes:
    return b"".join(b"%d %s\n" % (zone, Kept.of(what).text()) for zone, what in sorted(keep.items()))
