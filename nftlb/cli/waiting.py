"""Waits until a backend that is drained gets no more packets, and its connections have ended."""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from nftlb.errors import SystemFault
from nftlb.sockets import namespace, sockets_here

if TYPE_CHECKING:
    from collections.abc import Callable

    from nftlb.client import BackendView, DaemonClient, PoolView, StatusView

_QUIET = 3.0
"""Seconds without a packet after which a backend counts as drained. The daemon's counters are up to one second old."""
_PAUSE = 0.5


def wait_until_drained(client: DaemonClient, pool: str, name: str, timeout: float, drain: Callable[[], None]) -> bool:
    """Call `drain`, and return True when the backend gets no packets any more and conntrack has no connection to it.

    Return False if the backend leaves its pool before, because then the status has no counts of its packets.

    SystemFault if that takes longer than `timeout` seconds. `drain` is not called, and SystemFault raised, if the pool
    has connections, and the conntrack of the daemon can't be read here.
    """
    seen = client.status()
    before = _find(seen, pool, name)
    connections = None
    if before is not None and _has_connections(before[0]):
        if not _is_here(client, seen):
            raise SystemFault(
                f"{pool}/{name} was not drained: --wait reads the connections from conntrack, and the daemon at "
                f"{client.address} runs on another host or in another network namespace; run this command there, or "
                "without --wait"
            )
        connections = _connection_counter(before[1])
    drain()
    began = quiet_since = time.monotonic()
    packets = -1
    while True:
        found = _find(client.status(), pool, name)
        if found is None:  # deleted meanwhile
            return False
        now = time.monotonic()
        if found[1].packets != packets:
            packets, quiet_since = found[1].packets, now
        left = connections() if connections is not None else 0
        if not left and now - quiet_since >= _QUIET:
            return True
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


def _find(seen: StatusView, pool: str, name: str) -> tuple[PoolView, BackendView] | None:
    found = next((candidate for candidate in seen.pools if candidate.name == pool), None)
    backend = next((candidate for candidate in found.backends if candidate.name == name), None) if found else None
    return (found, backend) if found and backend else None


def _has_connections(pool: PoolView) -> bool:
    """Whether a pool has connections, which go on after a drain; else it balances each packet by itself."""
    return pool.per == "flow" or not all(listener.endswith("/udp") for listener in pool.listen)


def _is_here(client: DaemonClient, seen: StatusView) -> bool:
    """Whether the daemon shares conntrack with this command: it is in the same network namespace of the same host.

    An address of this host is not enough: a tunnel or a proxy may lead to another host.
    """
    if client.address.socket in sockets_here().values():
        return True
    with suppress(OSError):
        return seen.host == socket.gethostname() and namespace(str(seen.pid)) == namespace()
    return False


def _connection_counter(backend: BackendView) -> Callable[[], int]:
    """A function that counts the connections to a backend."""
    from nftlb.kernel.conntrack import count_connections  # noqa: PLC0415 - only needed for pools with connections

    def count() -> int:
        return count_connections(backend.address, backend.port)

    count()  # an error must come before the change
    return count
