"""Packets and bits per second of backends, from two readings of the daemon's counters, and their table. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from .status import admin_cell, daemon_line, fault_lines, health_cell
from .terminal import Cell, Column, aligned_lines, number_text, share_text

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime

    from nftlb.client import BackendView, StatusView

    from .terminal import TextStyle

MOST_FAULTS = 4
"""Lines with faults that are shown, so that there is space for backends."""


class Order(StrEnum):
    """The order of the rows."""

    RATE = "rate"
    PACKETS = "packets"
    NAME = "name"
    STATE = "state"


@dataclass(frozen=True, slots=True)
class Sample:
    """The daemon's status, and the time of its arrival: seconds of a monotonic clock."""

    seen: StatusView
    at: float

    def of(self, pools: Collection[str]) -> Sample:
        """The sample with these pools only; without names, with all pools."""
        if not pools:
            return self
        return replace(self, seen=self.seen.of(one for one in self.seen.pools if one.name in pools))


@dataclass(frozen=True, slots=True)
class RateRow:
    """The rates of one backend per second. None: it is in one sample only, or its counters were reset in between.

    `part`: the part of the packets of its pool that it got. None: the pool got no packets.
    """

    pool: str
    backend: BackendView
    packets: float | None
    bits: float | None
    part: float | None = None

    @property
    def name(self) -> str:
        return f"{self.pool}/{self.backend.name}"

    def of(self, total: float) -> RateRow:
        """The row with its part of the packets of its pool."""
        return replace(self, part=(self.packets or 0.0) / total)


def rate_rows(before: Sample | None, now: Sample, order: Order) -> list[RateRow]:
    """The row of each backend."""
    earlier = {} if before is None else _backends(before)
    seconds = 0.0 if before is None else now.at - before.at
    found = []
    for (pool, name), backend in _backends(now).items():
        old = earlier.get((pool, name))
        if old is None or seconds <= 0 or backend.packets < old.packets or backend.bytes < old.bytes:
            found.append(RateRow(pool, backend, None, None))
        else:
            packets, count = backend.packets - old.packets, backend.bytes - old.bytes
            found.append(RateRow(pool, backend, packets / seconds, count * 8 / seconds))
    totals: dict[str, float] = {}
    for row in found:
        totals[row.pool] = totals.get(row.pool, 0.0) + (row.packets or 0.0)
    parted = [row if row.packets is None or not totals[row.pool] else row.of(totals[row.pool]) for row in found]
    return sorted(parted, key=_KEYS[order])


def _backends(reading: Sample) -> dict[tuple[str, str], BackendView]:
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
    Column("ADMIN", least=12, spare=4),
    Column("WT", right=True, spare=3),
    Column("SHARE", right=True, spare=5),
    Column("NOW", right=True),
    Column("PKT/S", right=True),
    Column("BIT/S", right=True, spare=2),
    Column("PACKETS", right=True, spare=1),
    Column("ADDRESS", least=0, whole=True),
)


def head_lines(
    now: Sample, shown: list[RateRow], moment: datetime, style: TextStyle, note: str = "", most: int | None = None
) -> list[str]:
    """The daemon, its faults (at most `most` lines) and the sum of the rates. `note` replaces the faults."""
    bad = [note] if note else list(fault_lines(now.seen, moment, style))
    if most is not None and len(bad) > most:
        bad = [*bad[: most - 1], f"! and {len(bad) - most + 1} more: nftlb status"]
    total = f"{number_text(sum(row.packets or 0.0 for row in shown))} packets/s to {len(shown)} backends"
    return [daemon_line(now.seen, moment, style), *bad, total]


def rate_table_lines(shown: list[RateRow], style: TextStyle, indent: str = "") -> list[str]:
    """The titles, and a line for each backend."""
    return aligned_lines(COLUMNS, [_cells(row, style) for row in shown], style, indent)


def rate_data(row: RateRow) -> dict[str, str | int | float | bool | dict[str, str] | None]:
    """A row as JSON has it, with the names of the API's status. docs/commands.md lists the fields."""
    backend = row.backend
    return {
        "pool": row.pool,
        "name": backend.name,
        "address": backend.address,
        "port": backend.port,
        "labels": backend.labels,
        "up": backend.up,
        "in_rotation": backend.in_rotation,
        "admin": backend.admin,
        "weight": backend.weight,
        "share": backend.share,
        "measured_share": row.part,
        "packets_per_second": row.packets,
        "bits_per_second": row.bits,
    }


def _cells(row: RateRow, style: TextStyle) -> list[Cell]:
    backend = row.backend
    unknown = "-"
    return [
        Cell(row.name),
        health_cell(backend, style),
        admin_cell(backend),
        Cell(str(backend.weight)),
        Cell(share_text(backend.share)),
        Cell(unknown if row.part is None else share_text(row.part)),
        Cell(unknown if row.packets is None else number_text(row.packets)),
        Cell(unknown if row.bits is None else number_text(row.bits)),
        Cell(number_text(backend.packets)),
        Cell(backend.endpoint),
    ]
