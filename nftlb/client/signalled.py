"""A reload by signal, which needs no token, and what became of it."""

from __future__ import annotations

import os
import signal
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from nftlb.errors import NftlbError

from .failures import Rejected, Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .client import Client
    from .seen import ConfigState

PATIENCE = 90.0
"""Seconds that a reload may take: the unit for systemd gives 120."""
SILENCE = 10.0
"""Seconds that the API may be gone meanwhile: a reload may give it another address."""
_LOOKS = (0.05, 1.0)
"""Seconds between two looks at the status, at first and at last."""


def reload_by_signal(pid: int, clients: Sequence[Client], patience: float = PATIENCE, silence: float = SILENCE) -> None:
    """Have the daemon of this process read its file again, and wait until it has.

    The status tells what became of it, at whichever of these it can be had. Raises Rejected with all faults of the
    file, and Unreachable.
    """
    began = datetime.now(UTC)
    try:
        os.kill(pid, signal.SIGHUP)
    except OSError as error:
        raise Unreachable(f"process {pid} can't be told to reload: {error.strerror}; is it the daemon's?") from error
    config = _await(pid, clients, lambda config: config.attempted >= began, patience, silence)
    if not config.success:
        words = "the file can't be used, the configuration before stays in use:"
        raise Rejected("\n".join((words, *config.problems)))


def _await(
    pid: int,
    clients: Sequence[Client],
    ended: Callable[[ConfigState], bool],
    patience: float,
    silence: float,
) -> ConfigState:
    start = heard = time.monotonic()
    pause, longest = _LOOKS
    reason = f"no answer in {patience:g} s"
    while (now := time.monotonic()) < min(start + patience, heard + silence):
        for client in clients:
            try:
                seen = client.status()
            except NftlbError as error:
                reason = str(error)
                continue
            if seen.pid != pid:
                reason = f"what answers at {client.address} is process {seen.pid}"
                continue
            heard, reason = now, f"it has not ended after {patience:g} s"
            if ended(seen.config):
                return seen.config
        time.sleep(pause)
        pause = min(2 * pause, longest)
    raise Unreachable(f"process {pid} was told to reload, but not what became of it: {reason}; see the daemon's log")
