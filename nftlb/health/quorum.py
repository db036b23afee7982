"""Whether a pool has enough healthy backends to be called ready. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nftlb.model import Pool


def has_quorum(pool: Pool, healthy: int, had: bool | None) -> bool:
    """Tell for a number of healthy backends and what was told last; None: nothing was.

    With hysteresis it takes more to gain the quorum than to keep it, as keepalived has it.
    """
    if had is None:
        return healthy >= pool.quorum
    return healthy >= pool.quorum + (-pool.hysteresis if had else pool.hysteresis)
