"""The Unix socket on which a daemon listens without being asked to: its place in /run/nftlb.

Network namespaces share the folder, and only one daemon may write a table of a namespace. So the name has the table and
the namespace, as the name of the lock has (`nftlb.kernel.lock`). A client finds the daemons of its own namespace.
"""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = "/run/nftlb"
LONGEST = 107
"""The most bytes of the path of a Unix socket."""
_END = ".sock"


def namespace(process: str = "thread-self") -> str:
    """The network namespace of a process, by default of this thread, as part of a file name.

    OSError without /proc, and for a process that does not exist or that this user may not examine.
    """
    status = Path(f"/proc/{process}/ns/net").stat()
    return f"{status.st_dev}-{status.st_ino}"


def socket_path(folder: str | os.PathLike[str], table: str) -> str:
    """The path of the socket of the daemon that writes this table, in the network namespace of this thread."""
    return f"{os.fspath(folder)}/{table}.{namespace()}{_END}"


def sockets_here(folder: str | os.PathLike[str] = FOLDER) -> dict[str, str]:
    """The sockets in the folder that are of the network namespace of this thread: paths by table."""
    try:
        end = f".{namespace()}{_END}"
        names = os.listdir(folder)  # noqa: PTH208 - names are what is needed
    except OSError:
        return {}
    return {name.removesuffix(end): f"{os.fspath(folder)}/{name}" for name in sorted(names) if name.endswith(end)}
