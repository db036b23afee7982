"""What the kernel counted, so that it never goes backwards. Pure but for being mutable.

A kernel counter begins again at zero when somebody flushes our tables and they are restored, or when a backend leaves
the configuration and comes back. What it had reached before is added then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nftlb.ruleset import Count

if TYPE_CHECKING:
    from collections.abc import Mapping

_NOTHING = Count(0, 0)


class Counters:
    """Packets and bytes by `POOL/BACKEND`."""

    def __init__(self) -> None:
        self._latest: dict[str, Count] = {}
        self._before: dict[str, Count] = {}
        self._pools: dict[str, Count] = {}

    def take(self, found: Mapping[str, Count]) -> None:
        """Hear what the kernel has now."""
        for owner, last in self._latest.items():
            now = found.get(owner, _NOTHING)
            if now.packets < last.packets or now.bytes < last.bytes:
                self._before[owner] = self._before.get(owner, _NOTHING) + last
        self._latest = dict(found)
        self._pools = {}
        for counts in (self._before, self._latest):
            for owner, count in counts.items():
                pool, _, _ = owner.rpartition("/")
                self._pools[pool] = self._pools.get(pool, _NOTHING) + count

    def of(self, pool: str, backend: str) -> Count:
        """What was sent to a backend."""
        owner = f"{pool}/{backend}"
        return self._before.get(owner, _NOTHING) + self._latest.get(owner, _NOTHING)

    def of_pool(self, pool: str) -> Count:
        """What was sent on for a pool: also to its sorry server, and to backends that it has no longer."""
        return self._pools.get(pool, _NOTHING)
