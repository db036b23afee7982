"""What in-flight replies need of a ruleset that is being replaced. Pure.

A backend that is removed gets no new packets, but may still reply to packets that it got before. The same is true when
a pool is removed, or forwards in another way. With `stateless`, one element for the backend gives its replies the
service's address: in postrouting, even if prerouting did this before, because postrouting works on every host. With
`nat` each reply has a conntrack entry, but the kernel tracks and translates packets only while some rule needs that.

Only UDP counts: what a TCP or SCTP connection sends after its backend is gone is of no use to the client.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from nftlb.model import Protocol
from nftlb.ruleset import Chain, Hook, Ruleset, TableFamily

from . import hairpin
from .allocation import FLOWS, HOSTS, TARGETS
from .pool_rules import PoolRules
from .reply_form import EARLY, LATE, UNTRACKED, as_early, as_late
from .source_ports import OWN_RANGES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nftlb.ruleset import Table

_SOURCE = re.compile(r"(\S+) \. (\S+) \. (\d+)(?:-(\d+))?")
_TRANSLATION = Chain(
    "answers",
    ('ct state established accept comment "never reached: keeps answers under way translated"',),
    Hook("nat", "postrouting", "srcnat"),
)


class ReplyRewrite(NamedTuple):
    """The replies of a backend get a service's address and port in a chain; `key` is the element that leads there.

    `chain` is the reply chain for postrouting.
    """

    family: TableFamily
    key: str
    ranged: bool
    chain: Chain
    owner: str

    def add_to(self, part: PoolRules) -> None:
        """Add the rules that rewrite the replies in postrouting and keep them out of conntrack."""
        self._lead_to(part, LATE[self.ranged], self.chain)
        part.add(UNTRACKED[self.ranged], self.key, comment=self.owner)

    def add_early_to(self, part: PoolRules) -> None:
        """Add the rules that rewrite the replies in prerouting."""
        self._lead_to(part, EARLY[self.ranged], as_early(self.chain))

    def _lead_to(self, part: PoolRules, replies: str, chain: Chain) -> None:
        part.chain(chain.name, *chain.rules)
        part.add(replies, self.key, f"goto {chain.name}", self.owner)

    @property
    def source(self) -> tuple[str, str, range]:
        """The address, the protocol and the ports that the replies come from."""
        found = _SOURCE.fullmatch(self.key)
        if found is None:
            raise AssertionError(f"no address, protocol and ports: {self.key}")
        address, protocol, first, last = found.groups()
        return address, protocol, range(int(first), int(last or first) + 1)


class Translation(NamedTuple):
    """The kernel translates all packets of a family that have a conntrack entry with a translation."""

    family: TableFamily

    def add_to(self, part: PoolRules) -> None:
        """Add the chain that keeps the kernel translating."""
        part.chains[_TRANSLATION.name] = _TRANSLATION


Need: TypeAlias = "ReplyRewrite | Translation"


def left_behind(before: Ruleset, target: Ruleset) -> list[Need]:
    """Return what in-flight replies need and `target` lacks, if it has no effect on other packets."""
    return [
        need
        for family, table in before.tables.items()
        for need in _without(_needs(table), target.tables.get(family))
        if isinstance(need, Translation) or need.source[1] == Protocol.UDP
    ]


def reply_rules(needs: Iterable[Need]) -> PoolRules:
    """Return the rules for these needs."""
    part = PoolRules()
    for need in needs:
        need.add_to(part)
    return part


def _without(needs: list[Need], table: Table | None) -> Iterable[Need]:
    if table is None:
        return needs
    taken: dict[tuple[str, str], list[range]] = {}
    has = _needs(table)
    for need in has:
        if isinstance(need, ReplyRewrite):
            address, protocol, ports = need.source
            taken.setdefault((address, protocol), []).append(ports)
    return [
        need
        for need in needs
        if (not _overlaps(need.source, taken) if isinstance(need, ReplyRewrite) else need not in has)
    ]


def _overlaps(source: tuple[str, str, range], taken: dict[tuple[str, str], list[range]]) -> bool:
    address, protocol, ports = source
    return any(
        other_ports.start < ports.stop and ports.start < other_ports.stop
        for other_ports in taken.get((address, protocol), ())
    )


def _needs(table: Table) -> list[Need]:
    found: list[Need] = []
    translated = table.sets.keys() & {TARGETS, HOSTS, FLOWS, hairpin.HOSTS, *OWN_RANGES.values()}
    if translated or _TRANSLATION.name in table.chains:
        found.append(Translation(table.family))
    for names in (LATE, EARLY):
        for ranged, name in enumerate(names):
            for element in table.sets[name].elements if name in table.sets else ():
                chain = table.chains.get(element.data.removeprefix("goto "))
                if chain is not None and names is EARLY:
                    chain = as_late(chain)
                if chain is not None and _SOURCE.fullmatch(element.key) and _is_alone(chain):
                    found.append(ReplyRewrite(table.family, element.key, bool(ranged), chain, element.comment))
    return found


def _is_alone(chain: Chain) -> bool:
    """Whether a chain refers to no other object. Another program's chain with a name of nftlb may refer to objects."""
    return not any("@" in rule or "jump " in rule or "goto " in rule for rule in chain.rules)
