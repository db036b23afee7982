"""Whether the marks and routing tables of `forward: dsr` are somebody else's too. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nftlb.kernel.steering import PROTOCOL

from .finding import Finding, ok, warning

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from nftlb.kernel.rtnetlink import Rule

    from .host import Host


# Where to begin instead: round numbers, which are also the tables' numbers.
_CANDIDATES = range(10_000, 1_000_000, 10_000)


def judge(own: Collection[int], host: Host) -> Iterator[Finding]:
    """Look through the routing rules of others."""
    if not own:
        return
    others = [rule for rule in host.rules if rule.protocol != PROTOCOL]
    clashes = [rule for rule in others if _clashes(own, rule)]
    free = next(
        (first for first in _CANDIDATES if not any(_clashes(range(first, first + len(own)), r) for r in others)), 0
    )
    for rule in clashes:
        yield warning(
            "marks",
            f"somebody's rule is for marks or tables of ours, {min(own)} to {max(own)}: {rule.command('add')}",
            f"marks: {{first: {free or '...'}}}",
        )
    if not clashes:
        yield ok("marks", f"{min(own)} to {max(own)} are nobody else's")


def _clashes(marks: Collection[int], rule: Rule) -> bool:
    return rule.table in marks or bool(rule.mask and any(mark & rule.mask == rule.mark for mark in marks))
