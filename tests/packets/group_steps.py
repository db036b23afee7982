"""Changes of a pool with two priorities and weights, step by step, and the backends that get the packets of each step.

b1, b2 and b3 have priority 1, b4 and b5 have priority 2. b1 has weight 2. b6 is the sorry server.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pool_lab import of

from nftlb.compiler.selection import SORRY
from nftlb.model import Admin, BackendState, Endpoint, Fallback, FallbackKind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nftlb.model import Membership, Pool

BACKENDS = ("b1", "b2", "b3", "b4", "b5")
SORRY_HOST = "b6"
HOSTS = (*BACKENDS, SORRY_HOST)
WEIGHTS = (2, 1, 1, 1, 1, 1)
"""The weights of all hosts; the sorry server has none."""
_FIRST = frozenset(("b1", "b2", "b3"))
_DOWN, _WAITING = BackendState(up=False), BackendState(waiting=True)
_DRAINED, _AWAY = BackendState(admin=Admin.DRAIN), BackendState(admin=Admin.MAINTENANCE)


def host_of(target: str) -> str:
    """The host of a target, as `nftlb explain` names the target."""
    return SORRY_HOST if target == SORRY else target.removesuffix("-6")


@dataclass(frozen=True)
class Step:
    """The states of backends, and the shares of the backends that get the packets."""

    about: str
    states: Mapping[str, BackendState]
    shares: Mapping[str, int]

    @property
    def membership(self) -> Membership:
        return of(self.states)


_LOST = {"b1": _DOWN, "b2": _DRAINED, "b3": _DOWN}
STEPS = (
    Step("all", {}, {"b1": 2, "b2": 1, "b3": 1}),
    Step("one is drained", {"b2": _DRAINED}, {"b1": 2, "b3": 1}),
    Step("one has weight 0", {"b1": BackendState(weight=0)}, {"b2": 1, "b3": 1}),
    Step("maintenance, and another weight", {"b1": _AWAY, "b3": BackendState(weight=3)}, {"b2": 1, "b3": 3}),
    Step("the first priority is lost", _LOST, {"b4": 1, "b5": 1}),
    Step("one of the second too", {**_LOST, "b5": _DRAINED}, {"b4": 1}),
    Step("all are lost", {**_LOST, "b4": _DOWN, "b5": _AWAY}, {SORRY_HOST: 1}),
    Step("the first waits", dict.fromkeys(sorted(_FIRST), _WAITING), {"b4": 1, "b5": 1}),
    Step("the first is back", {}, {"b1": 2, "b2": 1, "b3": 1}),
    Step("one has a part of its weight", {"b1": BackendState(percent=50)}, {"b1": 1, "b2": 1, "b3": 1}),
    Step("one joins the first", {"b4": BackendState(priority=1)}, {"b1": 2, "b2": 1, "b3": 1, "b4": 1}),
)


def in_groups(pool: Pool, **options: object) -> Pool:
    """The pool of a lab with these hosts: the backends with their priorities, and the sorry server."""
    backends = tuple(
        replace(one, priority=1 if one.name[:2] in _FIRST else 2)
        for one in pool.backends
        if not one.name.startswith(SORRY_HOST)
    )
    port = pool.listen[0].first_port
    last = tuple(Endpoint(one.address, one.port or port) for one in pool.backends if one.name.startswith(SORRY_HOST))
    return replace(pool, backends=backends, fallback=Fallback(FallbackKind.SORRY, last), **options)  # type: ignore[arg-type]
