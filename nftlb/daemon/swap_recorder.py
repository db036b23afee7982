"""Reports the results of the reconciler to the log, to listeners, to the status and to Prometheus."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from nftlb.model import EventKind
from nftlb.service import Event, KernelStatus
from nftlb.swap.spellings import unknown_nft

from .events import wall
from .ruleset_changes import ChangeLog

if TYPE_CHECKING:
    from datetime import datetime

    from nftlb.errors import NftlbError
    from nftlb.metrics import Metrics
    from nftlb.ruleset import Ruleset
    from nftlb.swap import Shortfall

    from .events import ActiveFaults, Bus
    from .reconciler import Commit, Reconciler

_log = logging.getLogger(__name__)

_CAUSES = frozenset(
    {EventKind.BACKEND_UP, EventKind.BACKEND_DOWN, EventKind.BACKEND_CHANGED, EventKind.PRIORITY_CHANGED}
    | {EventKind.COLLECTOR_UP, EventKind.COLLECTOR_DOWN}
)
"""The events that change rules."""
_KERNEL, _INTERFACES, _READING, _REPLIES = "kernel", "interfaces", "nftables", "replies"


class SwapRecorder:
    """Implements SwapObserver."""

    def __init__(self, metrics: Metrics, bus: Bus, faults: ActiveFaults) -> None:
        self._metrics = metrics
        self._bus = bus
        self._faults = faults
        self._swaps = self._failures = self._restored = 0
        self._last_swap: datetime | None = None
        self._seen = 0  # the id of the last event before the last swap
        self._ruleset: Ruleset | None = None
        self.changes = ChangeLog()

    def committed(self, commit: Commit) -> None:
        """Record a change of the kernel's tables."""
        self._swaps += 1
        at = self._last_swap = wall(commit.ended)  # this thread may have waited for a processor since
        self._metrics.swapped(commit.seconds)
        transactions = len(commit.applied.transactions)
        details = {
            "seconds": round(commit.seconds, 6),
            "transaction_seconds": round(commit.applied.seconds, 6),
            "transactions": transactions,
            "restored": commit.restored,
        }
        extra = {"fields": {"event": EventKind.SWAP}}
        milliseconds = commit.seconds * 1000
        if commit.restored:
            self._restored += 1
            self._metrics.restored()
            words = "another program changed our tables or routes; restored after %.1f ms"
            _log.warning(words, milliseconds, extra=extra)
        else:
            _log.info("kernel updated in %.1f ms, %d transaction(s)", milliseconds, transactions, extra=extra)
        self._record(commit)
        self._bus.publish(Event(kind=EventKind.SWAP, at=at, details=details))
        self._report_unrecognised(commit.applied.unrecognised)

    def _record(self, commit: Commit) -> None:
        """Record what the commit changed, and the events that led to the commit."""
        if commit.ruleset is None:
            return
        reason = "another program had changed the rules" if commit.restored else commit.reason
        since, self._seen = self._bus.history.after(self._seen), self._bus.history.last
        causes = [] if reason else [event for event in since if event.kind in _CAUSES]
        self.changes.record(wall(commit.ended), reason, causes, self._ruleset, commit.ruleset)
        self._ruleset = commit.ruleset

    def _report_unrecognised(self, unrecognised: tuple[str, ...]) -> None:
        """Set a fault for objects that this nft lists in another form; a commit that did not list says nothing."""
        if unrecognised:
            self._faults.set(_READING, unknown_nft(unrecognised))

    def refused(self, error: NftlbError) -> None:
        """Record that the kernel refused a commit."""
        self._failures += 1
        self._metrics.swap_failed()
        words = "; ".join(str(error).splitlines())
        self._faults.set(
            _KERNEL, f"the kernel refuses the new rules; the old rules stay, and nftlb tries again: {words}"
        )
        self._bus.publish(Event(kind=EventKind.SWAP_FAILED, at=wall(), reason=str(error)))

    def recovered(self) -> None:
        """Record that the kernel has what it refused, or that this is not wanted any more."""
        self._faults.clear(_KERNEL)

    def lacking(self, what: tuple[Shortfall, ...]) -> None:
        """Record what the last load left out: an interface that is missing or down."""
        self._set_fault(_INTERFACES, what)

    def slower(self, pools: tuple[Shortfall, ...]) -> None:
        """Record which pools' replies are not rewritten in prerouting, although the file asks for that."""
        self._set_fault(_REPLIES, pools)

    def _set_fault(self, what: str, shortfalls: tuple[Shortfall, ...]) -> None:
        """Set a fault, or clear it if there is no shortfall. The fault concerns the host if one shortfall does."""
        pools = dict.fromkeys(shortfall.pool for shortfall in shortfalls)
        self._faults.set(what, "; ".join(map(str, shortfalls)), () if "" in pools else pools)

    def status(self, reconciler: Reconciler) -> KernelStatus:
        """The status of the kernel's tables."""
        return KernelStatus(
            synced=reconciler.synced,
            error=reconciler.error,
            swaps=self._swaps,
            failures=self._failures,
            restored=self._restored,
            last_swap=self._last_swap,
        )
