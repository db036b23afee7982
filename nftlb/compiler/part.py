"""What one pool adds to the tables: elements of the shared sets, and chains of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nftlb.ruleset import Chain, Element

if TYPE_CHECKING:
    from nftlb.model import Protocol


@dataclass
class Part:
    """Elements by set and key, and chains by name, gathered while compiling."""

    elements: dict[str, dict[str, Element]] = field(default_factory=dict)
    chains: dict[str, Chain] = field(default_factory=dict)
    redirects: list[str] = field(default_factory=list)
    """Rules that keep clients from being told to pass us by."""
    translated: dict[str, dict[Protocol, None]] = field(default_factory=dict)
    """By set of zones whose flows get another source: the protocols of those flows."""

    def add(self, set_name: str, key: str, data: str = "", comment: str = "") -> None:
        """Add an element, unless there is one for the key: a server may have two names, and the first counts."""
        self.elements.setdefault(set_name, {}).setdefault(key, Element(key, data, comment))

    def chain(self, name: str, *rules: str) -> None:
        self.chains[name] = Chain(name, rules)
