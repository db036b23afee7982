"""What answers that are under way need, of a ruleset that another takes over from. Pure.

A backend, a pool or a way of forwarding that goes gets no packet any more, but what it got before it may still answer.
With `stateless`, an element that names the backend is all that gives its answers the service's address. With `nat` each
answer has its conntrack entry, but the kernel translates, and tracks at all, only while some rule asks for that.

Datagrams alone are thought of: what a TCP or SCTP connection sends once its backend is gone helps nobody.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from nftlb.model import Protocol
from nftlb.ruleset import Chain, Ruleset, TableFamily

from . import hairpin
from .allocation import FLOWS, HOSTS, TARGETS
from .part import Part
from .source_ports import OWN_RANGES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nftlb.ruleset import Table

_SOURCE = re.compile(r"(\S+) \. (\S+) \. (\d+)(?:-(\d+))?")
_TRANSLATION = Chain(
    "answers",
    ('ct state established accept comment "never reached: keeps answers under way translated"',),
    "type nat hook postrouting priority srcnat; policy accept;",
)


@dataclass(frozen=True)
class Reply:
    """The answers of a backend get a service's address and port, in a chain; `key`: the element that leads there."""

    family: TableFamily
    key: str
    ranged: bool
    chain: Chain
    owner: str

    def add_to(self, part: Part) -> None:
        """Have them rewritten, and kept out of conntrack."""
        part.chain(self.chain.name, *self.chain.rules)
        part.add("reply-ranges" if self.ranged else "replies", self.key, f"goto {self.chain.name}", self.owner)
        part.add("reply-source-ranges" if self.ranged else "reply-sources", self.key, comment=self.owner)

    @property
    def source(self) -> tuple[str, str, range]:
        """The address, the protocol and the ports that they come from."""
        found = _SOURCE.fullmatch(self.key)
        if found is None:
            raise AssertionError(f"no address, protocol and ports: {self.key}")
        address, protocol, first, last = found.groups()
        return address, protocol, range(int(first), int(last or first) + 1)


@dataclass(frozen=True)
class Translation:
    """The kernel translates whatever has a conntrack entry that says so."""

    family: TableFamily

    def add_to(self, part: Part) -> None:
        """Have it go on doing so."""
        part.chains[_TRANSLATION.name] = _TRANSLATION


Need: TypeAlias = "Reply | Translation"


def left_behind(before: Ruleset, target: Ruleset) -> list[Need]:
    """What the target does not have, and could have without doing otherwise to anything else."""
    return [
        need
        for family, table in before.tables.items()
        for need in _without(_needs(table), target.tables.get(family))
        if isinstance(need, Translation) or need.source[1] == Protocol.UDP
    ]


def answering(needs: Iterable[Need]) -> Part:
    """What all of them add to a table."""
    part = Part()
    for need in needs:
        need.add_to(part)
    return part


def _without(needs: list[Need], table: Table | None) -> Iterable[Need]:
    if table is None:
        return needs
    taken: dict[tuple[str, str], list[range]] = {}
    has = _needs(table)
    for need in has:
        if isinstance(need, Reply):
            address, protocol, ports = need.source
            taken.setdefault((address, protocol), []).append(ports)
    return [
        need for need in needs if (not _overlaps(need.source, taken) if isinstance(need, Reply) else need not in has)
    ]


def _overlaps(source: tuple[str, str, range], taken: dict[tuple[str, str], list[range]]) -> bool:
    address, protocol, ports = source
    return any(one.start < ports.stop and ports.start < one.stop for one in taken.get((address, protocol), ()))


def _needs(table: Table) -> list[Need]:
    found: list[Need] = []
    translated = table.sets.keys() & {TARGETS, HOSTS, FLOWS, hairpin.HOSTS, *OWN_RANGES.values()}
    if translated or _TRANSLATION.name in table.chains:
        found.append(Translation(table.family))
    for name, ranged in (("replies", False), ("reply-ranges", True)):
        if name not in table.sets:
            continue
        for element in table.sets[name].elements:
            chain = table.chains.get(element.data.removeprefix("goto "))
            if chain is not None and _SOURCE.fullmatch(element.key) and _is_alone(chain):
                found.append(Reply(table.family, element.key, ranged, chain, element.comment))
    return found


def _is_alone(chain: Chain) -> bool:
    """Whether it needs nothing else. Ours do not; but the kernel may hold somebody else's under our name."""
    return not any("@" in rule or "jump " in rule or "goto " in rule for rule in chain.rules)
