"""Policy routing around a swap: adds the rules of the new tables before it, and deletes those of the old after it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from nftlb.errors import KernelError
from nftlb.kernel.policy_routing import PartlyRefusedError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from nftlb.compiler import Hop


class RoutingRules(Protocol):
    """The kernel's routing rules that send marked packets to their backends."""

    def apply(self, wanted: Mapping[int, Hop]) -> list[str]:
        """Make the rules exactly those for `wanted`. Return the changes as texts. Raises KernelError."""

    def current(self) -> Mapping[int, Hop]:
        """The present next hop of each mark."""


@dataclass
class RoutingChange:
    """The change of routing rules that belongs to one load.

    `had` are the marks that the old tables use, `wanted` the next hops of the marks that the new tables use, `others`
    the marks of daemons with other tables, whose rules stay. The kernel is not asked if `had` and `wanted` are empty.
    With a list in `lacking`, a refusal is added to the list; without it, the refusal is raised. `refused` has the lines
    of the last call, and `failed` tells whether there was a refusal in any call.
    """

    rules: RoutingRules
    had: Collection[int]
    wanted: Mapping[int, Hop]
    others: Collection[int] = ()
    lacking: list[str] | None = None
    changes: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    failed: bool = False
    _before: Mapping[int, Hop] | None = None
    _theirs: Mapping[int, Hop] = field(default_factory=dict)

    def add(self) -> None:
        """Add the rules that the new tables need. Call this before the swap."""
        if self.had or self.wanted:
            self._before = self.rules.current()
            self._theirs = {mark: hop for mark, hop in self._before.items() if mark in self.others}
            still_needed = {mark: hop for mark, hop in self._before.items() if mark in self.had}
            self._apply({**still_needed, **self.wanted})

    def undo(self) -> None:
        """Put the rules back that were there before `add()`. Call this if the swap failed."""
        if self._before is not None:
            self.rules.apply(self._before)

    def finish(self) -> None:
        """Delete the rules that only the old tables needed. Call this after the swap."""
        if self.had or self.wanted:
            self._apply(self.wanted)

    def is_refused_again(self, theirs: Mapping[int, Hop]) -> bool:
        """Try the rules once more, after `finish()`. Return whether the refusal is the same as before.

        Rules that the kernel accepts now stay, and are changes of this object, also if others are refused again.
        `theirs` are the rules that other daemons have now.
        """
        before, self._theirs, self.lacking = self.refused, theirs, []
        self._apply(self.wanted)
        return bool(self.refused) and self.refused == before

    def take_changes(self) -> tuple[str, ...]:
        """Return the changes since the last call, each once."""
        taken, self.changes = tuple(self.changes), []
        return taken

    def _apply(self, wanted: Mapping[int, Hop]) -> None:
        self.refused = []
        try:
            self._add(self.rules.apply({**self._theirs, **wanted}))
        except KernelError as error:
            if isinstance(error, PartlyRefusedError):
                self._add(error.changes)
            if self.lacking is None:
                raise
            self.refused, self.failed = str(error).splitlines(), True
            self.lacking += self.refused

    def _add(self, changes: Iterable[str]) -> None:
        """Keep each change once: a rule may be made and refused again for hours."""
        self.changes = list(dict.fromkeys((*self.changes, *changes)))
