"""Waits until a backend that is drained gets no more packets, and its connections have ended."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from nftlb.errors import SystemFault

if TYPE_CHECKING:
    from collections.abc import Callable

    from nftlb.client import BackendView, DaemonClient, PoolView

_QUIET = 3.0
"""Seconds without a packet after which a backend counts as drained. The daemon's counters are up to one second old."""
_PAUSE = 0.5


def wait_until_drained(client: DaemonClient, pool: str, name: str, timeout: float, drain: Callable[[], None]) -> None:
    """Call `drain`, and return when the backend gets no packets any more and conntrack has no connection to it.

    SystemFault if that takes longer than `timeout` seconds, or if conntrack can't be read; `drain` is not called then.
    """
    before = _find(client, pool, name)
    connections = _connection_counter(*before) if before is not None else None
    drain()
    began = quiet_since = time.monotonic()
    packets = -1
    while True:
        found = _find(client, pool, name)
        if found is None:  # deleted meanwhile
            return
        now = time.monotonic()
        if found[1].packets != packets:
            packets, quiet_since = found[1].packets, now
        left = connections() if connections is not None else 0
        if not left and now - quiet_since >= _QUIET:
            return
        if now - began >= timeout:
            rest = (
                "it still gets packets"
                if not left
                else f"{left} connections are left"
                if left > 1
                else "1 connection is left"
            )
            raise SystemFault(f"{pool}/{name} is drained, but after {timeout:g} s {rest}; wait longer with --timeout")
        time.sleep(_PAUSE)


def _find(client: DaemonClient, pool: str, name: str) -> tuple[PoolView, BackendView] | None:
    found = next((seen for seen in client.status().pools if seen.name == pool), None)
    backend = next((seen for seen in found.backends if seen.name == name), None) if found else None
    return (found, backend) if found and backend else None


def _connection_counter(pool: PoolView, backend: BackendView) -> Callable[[], int] | None:
    """A function that counts the connections to a backend; None if its pool balances each packet by itself."""
    if pool.per != "flow" and all(listener.endswith("/udp") for listener in pool.listen):
        return None
    from nftlb.kernel.conntrack import count_connections  # noqa: PLC0415 - only needed for pools with connections

    def count() -> int:
        return count_connections(backend.address, backend.port)

    count()  # an error must come before the change
    return count
