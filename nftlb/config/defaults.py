"""What a pool gets from `defaults`. No I/O.

Mappings are merged deeply, all else a pool says itself replaces the default. Two kinds of defaults are left out where
they can't be meant: what the pool's way to forward has no use for, and a check of another kind than the pool's own.
"""

from __future__ import annotations

from typing import Any

from nftlb.model.checks import CHECKS
from nftlb.model.kinds import Forward

USELESS: dict[object, set[str]] = {
    Forward.NAT: {"ingress", "hairpin"},
    Forward.STATELESS: {"source", "passive"},
    Forward.DSR: {"source", "passive", "hairpin"},
}


def merge(defaults: dict[str, Any], pool: dict[str, Any]) -> dict[str, Any]:
    """Give a pool's settings with the defaults that apply to it."""
    forward = pool.get("forward", defaults.get("forward", Forward.NAT))
    useless = USELESS.get(forward, set()) if isinstance(forward, str) else set()
    general = {key: value for key, value in defaults.items() if key not in useless}
    merged = _deep(general, pool)
    if "health" in general:
        merged.pop("health")
        if "health" in pool:
            merged["health"] = _health(general["health"], pool["health"])
        elif _names_check(general["health"]):
            merged["health"] = general["health"]
    return merged


def _deep(general: dict[str, Any], special: dict[str, Any]) -> dict[str, Any]:
    merged = {**general, **special}
    for key in general.keys() & special.keys():
        if isinstance(general[key], dict) and isinstance(special[key], dict):
            merged[key] = _deep(general[key], special[key])
    return merged


def _names_check(health: Any) -> bool:
    return not isinstance(health, dict) or bool(CHECKS.keys() & health.keys())


def _health(general: Any, special: Any) -> Any:
    if not isinstance(general, dict):
        return special
    if isinstance(special, list):
        return [_check(general, one) for one in special]
    return _check(general, special)


def _check(general: dict[str, Any], special: Any) -> Any:
    if not isinstance(special, dict):
        return special
    named = CHECKS.keys() & special.keys()
    others = CHECKS.keys() - named if named else set()
    return _deep({key: value for key, value in general.items() if key not in others}, special)
