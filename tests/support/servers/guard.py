"""Ends servers when the tests end, even if the tests are killed and can't clean up.

PR_SET_PDEATHSIG does not work here: it depends on the thread that started the process, and threads of the lab end at
once; and child processes of a server do not inherit it.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from servers.processes import PATIENCE

# The last line is the living process group, or empty. The input ends in whatever way the tests end.
_SCRIPT = """
while read -r line; do group=$line; done
[ -z "$group" ] || kill -s KILL -- "-$group"
rm -rf -- "$1"
"""


class Guard:
    """A directory for a server's files, and a shell that finally kills the server and deletes the directory."""

    def __init__(self, name: str) -> None:
        # Not pytest's tmp_path: its length can exceed the 107 bytes that the path of a Unix socket may have.
        self.directory = Path(tempfile.mkdtemp(prefix=f"nftlb-{name}-"))
        self._shell = subprocess.Popen(
            ["/bin/sh", "-c", _SCRIPT, "guard", str(self.directory)],
            stdin=subprocess.PIPE,
            text=True,
            start_new_session=True,  # otherwise Ctrl-C would end the shell before its work is done
        )

    def watch(self, group: int | None) -> None:
        """Set the process group to kill; None: no process group."""
        assert self._shell.stdin is not None
        self._shell.stdin.write(f"{'' if group is None else group}\n")
        self._shell.stdin.flush()

    def close(self) -> None:
        """Kill the process group and delete the directory now."""
        assert self._shell.stdin is not None
        self._shell.stdin.close()
        self._shell.wait(PATIENCE)
