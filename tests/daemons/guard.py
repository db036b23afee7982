"""Sees to it that no server outlives the tests, even if they are killed and can't clean up themselves.

PR_SET_PDEATHSIG would not do: it goes by the thread that has started the process, and those of the lab end at once; nor
is it handed on to the processes that a server starts.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from daemons.processes import PATIENCE

# The last line is the process group that lives, or empty. The end of the file comes however the tests end.
_SCRIPT = """
while read -r line; do group=$line; done
[ -z "$group" ] || kill -s KILL -- "-$group"
rm -rf -- "$1"
"""


class Guard:
    """A directory for a server's files, and a shell that kills the server and takes the directory away in the end."""

    def __init__(self, name: str) -> None:
        # Not pytest's tmp_path: its length can exceed the 107 bytes that the path of a Unix socket may have.
        self.directory = Path(tempfile.mkdtemp(prefix=f"nftlb-{name}-"))
        self._shell = subprocess.Popen(
            ["/bin/sh", "-c", _SCRIPT, "guard", str(self.directory)],
            stdin=subprocess.PIPE,
            text=True,
            start_new_session=True,  # else Ctrl-C would end it before it has done its work
        )

    def watch(self, group: int | None) -> None:
        """Name the process group to kill, in place of the one before; None when there is none now."""
        assert self._shell.stdin is not None
        self._shell.stdin.write(f"{'' if group is None else group}\n")
        self._shell.stdin.flush()

    def close(self) -> None:
        """Have it do its work."""
        assert self._shell.stdin is not None
        self._shell.stdin.close()
        self._shell.wait(PATIENCE)
