"""What became of the kernel's tables: counted, shown, and told to the log, to listeners and to Prometheus."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from nftlb.apply import unknown_nft
from nftlb.service import Event, EventKind, KernelStatus

from .clock import wall

if TYPE_CHECKING:
    from datetime import datetime

    from nftlb.daemon.bus import Bus
    from nftlb.daemon.faults import Faults
    from nftlb.daemon.reconciler import Commit, Reconciler
    from nftlb.errors import NftlbError
    from nftlb.metrics import Metrics

_log = logging.getLogger(__name__)

_KERNEL, _INTERFACES, _READING = "kernel", "interfaces", "nftables"


class Chronicle:
    """Hears of everything that the reconciler does."""

    def __init__(self, metrics: Metrics, bus: Bus, faults: Faults) -> None:
        self._metrics = metrics
        self._bus = bus
        self._faults = faults
        self._swaps = self._failures = self._restored = 0
        self._last_swap: datetime | None = None

    def committed(self, commit: Commit) -> None:
        """Hear of a change of the kernel's tables."""
        self._swaps += 1
        self._last_swap = wall()
        self._metrics.swapped(commit.seconds)
        transactions = len(commit.applied.transactions)
        details = {
            "seconds": round(commit.seconds, 6),
            "transaction_seconds": round(commit.applied.seconds, 6),
            "transactions": transactions,
            "restored": commit.restored,
        }
        if commit.restored:
            self._restored += 1
            self._metrics.restored()
            _log.warning("somebody else changed our tables or routes: restored in %.1f ms", commit.seconds * 1000)
        else:
            _log.info("kernel follows after %.1f ms: %d transaction(s)", commit.seconds * 1000, transactions)
        self._bus.publish(Event(kind=EventKind.SWAP, at=wall(), details=details))
        self._judge_reading(commit.applied.unrecognised)

    def _judge_reading(self, unrecognised: tuple[str, ...]) -> None:
        """Tell of rules that can't be told from somebody else's; a commit that did not look says nothing of them."""
        if unrecognised:
            self._faults.set(_READING, unknown_nft(unrecognised))

    def refusal(self, error: NftlbError) -> None:
        """Hear that the kernel refused."""
        self._failures += 1
        self._metrics.swap_failed()
        words = "; ".join(str(error).splitlines())
        self._faults.set(_KERNEL, f"the old rules stay, and it is tried again: {words}")
        self._bus.publish(Event(kind=EventKind.SWAP_FAILED, at=wall(), reason=str(error)))

    def mended(self) -> None:
        """Hear that the kernel has what it refused, or that this is not wanted any more."""
        self._faults.clear(_KERNEL)

    def lacking(self, what: tuple[str, ...]) -> None:
        """Hear what the rules have to do without: an interface that is missing, or down."""
        if what:
            self._faults.set(_INTERFACES, "; ".join(what))
        else:
            self._faults.clear(_INTERFACES)

    def status(self, reconciler: Reconciler) -> KernelStatus:
        return KernelStatus(
            synced=reconciler.synced,
            error=reconciler.error,
            swaps=self._swaps,
            failures=self._failures,
            restored=self._restored,
            last_swap=self._last_swap,
        )
