"""The nftables objects that nftlb makes, as values; nothing here knows what a pool is.

Words and spelling are nft's own. A rule is one line of nft text, written exactly as `nft -s list` prints it, so that
what was compiled and what the kernel holds can be compared.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class TableFamily(StrEnum):
    """The kinds of tables that nftlb makes."""

    IP = "ip"
    IP6 = "ip6"
    NETDEV = "netdev"


@dataclass(frozen=True, slots=True)
class Element:
    """An element of a set (no data) or of a map. The comment names whom it belongs to."""

    key: str
    data: str = ""
    comment: str = ""


@dataclass(frozen=True, slots=True)
class Set:
    """A named set, or a map where `data_type` is not empty; `key_type` is nft's whole `type ...` or `typeof ...`.

    `counter` gives each element a counter that a lookup advances (Linux 5.7 and later): ten thousand counted backends
    are then one object, where ten thousand named counters would make every transaction several times as slow, because
    libnftables asks the kernel for all of them.
    """

    name: str
    key_type: str
    data_type: str = ""
    interval: bool = False
    counter: bool = False
    elements: tuple[Element, ...] = ()

    @property
    def keyword(self) -> str:
        return "map" if self.data_type else "set"

    def same_kind(self, other: Set) -> bool:
        """Whether the two differ in their elements at most."""
        return (self.key_type, self.data_type, self.interval, self.counter) == (
            other.key_type,
            other.data_type,
            other.interval,
            other.counter,
        )


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain; a base chain where `hook` is not empty (the whole `type ...; policy ...;` line).

    It has no comment of its own, since the kernel can't change that without deleting the chain: rules carry them.
    """

    name: str
    rules: tuple[str, ...] = ()
    hook: str = ""


@dataclass(frozen=True)
class Table:
    """A table with its sets and chains by name."""

    family: TableFamily
    name: str
    sets: Mapping[str, Set] = field(default_factory=dict)
    chains: Mapping[str, Chain] = field(default_factory=dict)


@dataclass(frozen=True)
class Ruleset:
    """All tables of one name: what nftlb owns in a network namespace. An absent family is an absent table."""

    name: str
    tables: Mapping[TableFamily, Table] = field(default_factory=dict)
