"""What the operator set of addresses that DNS does not have at the moment. Pure.

An address may be missing in an answer for a short time, for instance while its server restarts. When the address
returns, a drain of the operator must still hold.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from nftlb.model import BackendChange

from .memory import BackendMemory

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from nftlb.model import NamedBackend, Pool

KEPT = 24 * 3600.0
"""Seconds for which the wishes for an absent address are kept. After that, another machine may have the address."""
KEPT_AFTER_START = 3600.0
"""Seconds for which saved wishes are kept at least: the clock may be ahead at a start, until a time server sets it."""
MOST = 128
"""The most absent addresses of a pool whose wishes are kept: those that left last."""


class Absent(NamedTuple):
    """The wishes of the operator for an absent address, and the time until which they are kept."""

    wishes: BackendMemory
    until: float


AbsentBackends: TypeAlias = "Mapping[str, Absent]"
"""By the name of the backend, in the order in which the addresses left."""


def still_absent(
    pool: Pool, known: AbsentBackends, gone: Mapping[str, BackendMemory], now: float, at: datetime | None = None
) -> dict[str, Absent]:
    """The wishes for absent addresses of the pool's names: `known` are those of before, `gone` the backends that left.

    What the operator did not touch is not kept. Nothing of an address is kept that is present, or that no name has.
    `at`: the time of day, for a saved state in `gone`.
    """
    kept = {name: absent for name, absent in known.items() if absent.until > now and name not in gone}
    kept |= {
        name: Absent(wishes, now + _left(memory, at)) for name, memory in gone.items() if (wishes := _wishes(memory))
    }
    present = {backend.name for backend in pool.backends}
    own = [name for name in kept if name not in present and any(is_of(named, name) for named in pool.named)]
    return {name: kept[name] for name in own[-MOST:]}


def kept_wishes(known: AbsentBackends, now: float) -> dict[str, BackendChange]:
    """What the operator set of the absent addresses, by the name of the backend."""
    return {name: absent.wishes.wish for name, absent in known.items() if absent.until > now}


def changed(
    known: AbsentBackends, names: Collection[str], change: BackendChange, at: datetime | None
) -> dict[str, Absent]:
    """The wishes after the operator has changed those for some absent addresses. `at`: the time of day of the change.

    An admin state as in the file is no wish.
    """
    found = {}
    for name, (wishes, until) in known.items():
        new = _with(wishes, change, at) if name in names else wishes
        if kept := _wishes(new):
            found[name] = Absent(kept, until)
    return found


def _with(wishes: BackendMemory, change: BackendChange, at: datetime | None) -> BackendMemory:
    new = {key: value for key, value in change._asdict().items() if value is not None}
    if change.admin is wishes.file_admin:
        new |= {"admin": None, "admin_since": None}
    elif change.admin is not None:
        new["admin_since"] = at
    return wishes.model_copy(update=new)


def is_of(named: NamedBackend, backend: str) -> bool:
    """Whether a name of the file may have a backend of this name: the name and an address, with SRV also a port.

    `web-old` beside the name `web` is a backend of the file.
    """
    prefix = f"{named.name}-"
    address = backend.removeprefix(prefix)
    if named.srv is not None:
        address, _, port = address.rpartition("-")
        if not port.isdecimal():
            return False
    try:
        ip_address(address.replace("-", ":"))
    except ValueError:
        return False
    return backend.startswith(prefix)


def memories(known: AbsentBackends, now: float, at: datetime) -> Iterable[tuple[str, BackendMemory]]:
    """The wishes in the form that is saved. `at`: the time of day, which may have jumped since the last save."""
    for name, (wishes, until) in known.items():
        if until > now:
            # Whole seconds: the clocks are never read at exactly the same time, and the text should not change by that.
            day = round((at + timedelta(seconds=until - now)).timestamp())
            yield name, wishes.model_copy(update={"kept_until": datetime.fromtimestamp(day, UTC)})


def _left(memory: BackendMemory, at: datetime | None) -> float:
    """The seconds for which the wishes for an address are kept that has left or, in a saved state, was absent."""
    if memory.kept_until is None or at is None:
        return KEPT
    return min(max((memory.kept_until - at).total_seconds(), KEPT_AFTER_START), KEPT)


def _wishes(memory: BackendMemory) -> BackendMemory | None:
    """The memory of a backend without what its checks and its agent said; None if the operator wished nothing."""
    if memory.wish == BackendChange():
        return None
    return BackendMemory(**memory.model_dump(exclude={"checks", "agent_admin", "agent_percent", "kept_until"}))
