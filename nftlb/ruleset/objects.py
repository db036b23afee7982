"""The nftables objects that nftlb makes, as values. This package knows nothing about pools.

Names and spelling are those of nft. A rule is one line of nft text, exactly as `nft -s list` prints it, so that
compiled rules can be compared with the kernel's rules.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, cast, overload

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class TableFamily(StrEnum):
    """The families of tables that nftlb makes."""

    IP = "ip"
    IP6 = "ip6"
    NETDEV = "netdev"


class Element(NamedTuple):
    """An element of a set (without data) or of a map. The comment names its owner, a pool or a backend.

    A tuple, because a table has hundreds of thousands of elements, which are made, compared and hashed in C.
    """

    key: str
    data: str = ""
    comment: str = ""


make_element = cast("Callable[[tuple[str, str, str]], Element]", partial(tuple.__new__, Element))
"""Makes an element of its three parts. The constructor of a named tuple takes three times as long."""


class MadeElements(Sequence[Element]):
    """Elements that are made only when they are read, because there may be a hundred thousand of them.

    Equal to every sequence of the same elements. Sequences of one class are compared by `source`, without elements.
    """

    __slots__ = ()

    @property
    @abstractmethod
    def source(self) -> object:
        """What the elements are made of."""

    def __eq__(self, other: object) -> bool:
        if isinstance(other, type(self)):
            return self.source == other.source
        return tuple(self) == other

    def __hash__(self) -> int:
        return hash(tuple(self))

    @overload
    def __getitem__(self, index: int) -> Element: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Element]: ...
    def __getitem__(self, index: int | slice) -> Element | Sequence[Element]:
        return tuple(self)[index]


@dataclass(frozen=True, slots=True)
class Set:
    """A named set, or a map if `data_type` is not empty. `key_type` is nft's whole `type ...` or `typeof ...`.

    `size` is the number of elements that the set has room for; 0 means no limit. With a size, the kernel finds a key
    faster, because its hash table does not have to grow.

    `dynamic`: packets add the elements, each with a time-out, and not nftlb. So these elements are never part of a
    ruleset, and no listing has them.

    `counter` gives each element a counter that look-ups advance (Linux 5.7 and later). Ten thousand counted backends
    are then one object. Ten thousand named counters would make every transaction several times as slow, because
    libnftables reads all of them from the kernel.
    """

    name: str
    key_type: str
    data_type: str = ""
    interval: bool = False
    counter: bool = False
    elements: Sequence[Element] = ()
    size: int = 0
    dynamic: bool = False

    @property
    def keyword(self) -> str:
        """`set` or `map`, as nft declares it."""
        return "map" if self.data_type else "set"

    def same_kind(self, other: Set) -> bool:
        """Whether two sets have the same properties; their elements may differ."""
        return (self.key_type, self.data_type, self.interval, self.counter, self.size, self.dynamic) == (
            other.key_type,
            other.data_type,
            other.interval,
            other.counter,
            other.size,
            other.dynamic,
        )


@dataclass(frozen=True, slots=True)
class Hook:
    """Where a base chain is attached, and what happens to packets at its end.

    `name` is the hook (`prerouting`, `ingress`), `priority` is spelled as nft prints it (`raw`, `dstnat + 10`, `-100`).
    `devices` names the interfaces of an ingress hook.
    """

    type: str
    name: str
    priority: str
    devices: tuple[str, ...] = ()
    policy: str = "accept"

    def __str__(self) -> str:
        devices = "".join(f' device "{device}"' for device in self.devices)
        return f"type {self.type} hook {self.name}{devices} priority {self.priority}; policy {self.policy};"

    @property
    def is_first(self) -> bool:
        """Whether packets come here before any other hook that nftlb uses."""
        return self.name == "ingress" or (self.priority == "raw" and self.name != "postrouting")


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain; a base chain if it has a hook.

    A chain has no comment, because the kernel can't change the comment without deleting the chain. The rules have
    comments instead.
    """

    name: str
    rules: tuple[str, ...] = ()
    hook: Hook | None = None


@dataclass(frozen=True, slots=True)
class NamedObject:
    """An object that rules refer to by kind and name: a conntrack time-out or helper, or what another program made.

    `kind` is nft's keyword (`ct timeout`, `ct helper`, `counter`), `properties` are the lines between the braces.

    The kernel changes neither a time-out nor a helper in place. So nftlb puts the properties into the name:
    another time-out is an object with another name.
    """

    kind: str
    name: str
    properties: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Kind and name: the kernel has separate names for each kind."""
        return f"{self.kind} {self.name}"


@dataclass(frozen=True)
class Table:
    """A table with its sets and chains, by name, and its other objects, by kind and name (`NamedObject.key`)."""

    family: TableFamily
    name: str
    sets: Mapping[str, Set] = field(default_factory=dict)
    chains: Mapping[str, Chain] = field(default_factory=dict)
    objects: Mapping[str, NamedObject] = field(default_factory=dict)


@dataclass(frozen=True)
class Ruleset:
    """All tables of one name in a network namespace, by family. They all belong to nftlb."""

    name: str
    tables: Mapping[TableFamily, Table] = field(default_factory=dict)
