"""A directory whose file system never answers, as NFS without its server, for one process.

A FUSE file system without a program that answers is mounted over the directory, in the mount namespace of the process.
Each system call that needs an answer waits until the file system is gone, or the process is killed.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_MNT_DETACH = 2
_ready = "the directory is dead"


@contextmanager
def dead(directory: Path, pid: int) -> Iterator[None]:
    """Let no file in the directory answer, inside `with`, to a process with its own mount namespace."""
    command = ("nsenter", f"--mount=/proc/{pid}/ns/mnt", sys.executable, __file__, str(directory))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as helper:
        assert helper.stdin is not None
        assert helper.stdout is not None
        assert f"{_ready}\n" == helper.stdout.readline()
        try:
            yield
        finally:
            helper.stdin.close()
            assert 0 == helper.wait(30)


def _main(directory: str) -> None:
    """Mount the file system. At the end of standard input, uncover the files, and end all calls that wait."""
    libc = ctypes.CDLL(None, use_errno=True)
    server = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={server},rootmode=40000,user_id=0,group_id=0"
    if libc.mount(b"dead", os.fsencode(directory), b"fuse", 0, options.encode()):
        raise OSError(ctypes.get_errno(), "can't mount a FUSE file system")
    sys.stdout.write(f"{_ready}\n")
    sys.stdout.flush()
    sys.stdin.read()
    libc.umount2(os.fsencode(directory), _MNT_DETACH)
    os.close(server)


if __name__ == "__main__":
    _main(sys.argv[1])
