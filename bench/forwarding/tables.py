"""The tables of docs/performance.md: the subject of each, and the number of boots and slices. Pure.

Each table changes one dimension of the first table, or compares other ways. A measurement of all takes about three
quarters of an hour.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from cases import BESIDE_MODES, BESIDE_OTHERS, NOBODY, REPLY, Setting

BOOTS, ROUNDS = 4, 160
"""The default numbers of boots, and of slices of each case in a boot."""
BASE = Setting()


@dataclass(frozen=True)
class Table:
    """A comparison, with its name on the command line and its title in the document."""

    name: str
    title: str
    setting: Setting
    boots: int = BOOTS
    rounds: int = ROUNDS
    ways: tuple[str, ...] = BESIDE_OTHERS

    @property
    def file(self) -> str:
        """The name of the files of data and plot, without the ending."""
        return str(self.setting) if self.ways == BESIDE_OTHERS else f"{self.name}-{self.setting}"


TABLES = (
    Table("one-pool", "One pool", BASE),
    Table("10-pools", "10 pools", replace(BASE, pools=10)),
    Table("1000-pools", "1,000 pools", replace(BASE, pools=1000)),
    Table("100-backends", "100 backends", replace(BASE, backends=100)),
    Table("10000-sockets", "10,000 client sockets", replace(BASE, flows=10000)),
    Table("1400-bytes", "1,400 bytes", replace(BASE, bytes=1400)),
    Table("replies", "Replies", replace(BASE, packets=REPLY)),
    Table("replies-1000-pools", "Replies, 1,000 pools", replace(BASE, packets=REPLY, pools=1000), 2, 100),
    Table("replies-10000-sockets", "Replies, 10,000 client sockets", replace(BASE, packets=REPLY, flows=10000), 2, 100),
    Table("nobody", "Packets of nobody", replace(BASE, packets=NOBODY)),
    Table("nobody-1000-pools", "Packets of nobody, 1,000 pools", replace(BASE, packets=NOBODY, pools=1000)),
    Table("options", "Options of a pool", BASE, ways=BESIDE_MODES),
    Table("options-1000-pools", "Options of a pool, 1,000 pools", replace(BASE, pools=1000), 2, 100, BESIDE_MODES),
    Table("options-replies", "Options of a pool, replies", replace(BASE, packets=REPLY), ways=BESIDE_MODES),
)
"""The tables in the order of the document."""


def table_of(text: str) -> Table:
    """Return the table that `NAME` or `NAME=BOOTSxROUNDS` names. Raises ValueError with a message for the user."""
    name, _, size = text.partition("=")
    found = next((table for table in TABLES if table.name == name), None)
    if found is None:
        message = f"{name}: no such table; there are {', '.join(table.name for table in TABLES)}"
        raise ValueError(message)
    if not size:
        return found
    numbers = re.fullmatch(r"([1-9][0-9]*)x([1-9][0-9]*)", size)
    if numbers is None:
        message = f"{text}: {size} is not BOOTSxROUNDS, for example {name}={BOOTS}x{ROUNDS}"
        raise ValueError(message)
    return replace(found, boots=int(numbers[1]), rounds=int(numbers[2]))
