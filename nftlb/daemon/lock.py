"""Only one daemon writes a table: it holds an abstract socket, which belongs to the network namespace as tables do."""

from __future__ import annotations

import errno
import socket

from nftlb.errors import SystemFault


def hold(table: str) -> socket.socket:
    """Be the only daemon of that table in this namespace, until the socket is closed or the process ends, however."""
    lock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        lock.bind(f"\0nftlb/{table}")
    except OSError as error:
        lock.close()
        if error.errno == errno.EADDRINUSE:
            raise SystemFault(
                f"another nftlb runs for the table {table} in this network namespace; stop it, or set `table:`"
            ) from None
        raise
    return lock
