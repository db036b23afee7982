"""What happens per second: two readings of the daemon's counters, and the picture that they make. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from nftlb.cli.columns import Cell, Column, table
from nftlb.cli.looks import per_cent, short
from nftlb.cli.overview import admin, headline, state, troubles

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from nftlb.cli.looks import Looks
    from nftlb.client import Backend, Seen

TROUBLES = 4
"""So many lines of troubles are shown, so that backends are seen too."""


class Order(StrEnum):
    """What the rows are sorted by."""

    RATE = "rate"
    PACKETS = "packets"
    NAME = "name"
    STATE = "state"


@dataclass(frozen=True, slots=True)
class Reading:
    """The status, and when it came by a clock that only goes forward, in seconds."""

    seen: Seen
    at: float


@dataclass(frozen=True, slots=True)
class Row:
    """One backend; rates are per second, and None where only one reading knows it, or its counters began anew."""

    pool: str
    backend: Backend
    packets: float | None
    bits: float | None

    @property
    def name(self) -> str:
        return f"{self.pool}/{self.backend.name}"


def rows(before: Reading | None, now: Reading, order: Order, pools: Iterable[str] = ()) -> list[Row]:
    """One for each backend of these pools, or of all."""
    earlier = {} if before is None else _backends(before)
    seconds = 0.0 if before is None else now.at - before.at
    wanted = frozenset(pools)
    found = []
    for (pool, name), backend in _backends(now).items():
        if wanted and pool not in wanted:
            continue
        old = earlier.get((pool, name))
        if old is None or seconds <= 0 or backend.packets < old.packets or backend.bytes < old.bytes:
            found.append(Row(pool, backend, None, None))
        else:
            packets, count = backend.packets - old.packets, backend.bytes - old.bytes
            found.append(Row(pool, backend, packets / seconds, count * 8 / seconds))
    return sorted(found, key=_KEYS[order])


def _backends(reading: Reading) -> dict[tuple[str, str], Backend]:
    return {(pool.name, backend.name): backend for pool in reading.seen.pools for backend in pool.backends}


_KEYS = {
    Order.RATE: lambda row: (-(row.packets or 0.0), row.name),
    Order.PACKETS: lambda row: (-row.backend.packets, row.name),
    Order.NAME: lambda row: (row.name,),
    Order.STATE: lambda row: (row.backend.up, row.backend.in_rotation, row.name),
}
COLUMNS = (
    Column("POOL/BACKEND", least=16),
    Column("STATE"),
    Column("ADMIN", least=12),
    Column("WT", right=True),
    Column("SHARE", right=True),
    Column("NOW", right=True),
    Column("PKT/S", right=True),
    Column("BIT/S", right=True),
    Column("PACKETS", right=True),
    Column("ADDRESS", least=0, whole=True),
)


def picture(
    now: Reading, shown: list[Row], moment: datetime, looks: Looks, height: int | None = None, note: str = ""
) -> list[str]:
    """The lines to show, at most `height`. `note` is what is wrong with the readings themselves."""
    head = [headline(now.seen, moment, looks)]
    bad = [note] if note else list(troubles(now.seen, moment, looks))
    if height is not None and len(bad) > TROUBLES:
        bad = [*bad[: TROUBLES - 1], f"! and {len(bad) - TROUBLES + 1} more: nftlb status"]
    totals: dict[str, float] = {}
    for row in shown:
        totals[row.pool] = totals.get(row.pool, 0.0) + (row.packets or 0.0)
    lines = table(COLUMNS, [_cells(row, totals[row.pool], looks) for row in shown], looks)
    total = f"{short(sum(totals.values()))} packets/s to {len(shown)} backends"
    frame = [*head, *bad, total, "", *lines]
    if height is not None and len(frame) > height:
        kept = max(height - 1, 1)
        frame = [*frame[:kept], f"... {len(frame) - kept} more"][:height]
    return [looks.fit(line) for line in frame]


def _cells(row: Row, total: float, looks: Looks) -> list[Cell]:
    backend = row.backend
    unknown = "-"
    return [
        Cell(row.name),
        state(backend, looks),
        admin(backend),
        Cell(str(backend.weight)),
        Cell(per_cent(backend.share)),
        Cell(per_cent(row.packets / total) if row.packets is not None and total else unknown),
        Cell(unknown if row.packets is None else short(row.packets)),
        Cell(unknown if row.bits is None else short(row.bits)),
        Cell(short(backend.packets)),
        Cell(backend.endpoint),
    ]
