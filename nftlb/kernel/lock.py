"""Only one nftlb writes a table at a time: it holds an abstract socket, of the network namespace as tables are."""

from __future__ import annotations

import errno
import socket

from nftlb.errors import SystemFault


def hold(table: str) -> socket.socket:
    """Be the only one to write that table in this namespace, until the socket is closed or the process ends, however.

    Raises SystemFault if another is.
    """
    lock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        lock.bind(f"\0nftlb/{table}")
    except OSError as error:
        lock.close()
        if error.errno == errno.EADDRINUSE:
            raise SystemFault(
                f"another nftlb runs for the table {table} in this network namespace: stop it, have it `nftlb reload`, "
                "or set `table:`"
            ) from None
        raise
    return lock
