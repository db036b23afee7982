"""Starts programs from threads that are confined as the programs are to be: a thread for each set of capabilities.

The alternatives cost more: a launcher such as setpriv(1) is one more exec(2) for each check, and hides why a program
can't be run; code between fork(2) and exec(2) keeps Python from using vfork(2).
"""

from __future__ import annotations

import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from .capabilities import confine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nftlb.model import Capability


class _Threads(threading.local):
    """Those of the calling thread, whose network namespace they share."""

    def __init__(self) -> None:
        self.by_capabilities: dict[frozenset[Capability], ThreadPoolExecutor] = {}


_threads = _Threads()


def spawn(
    argv: Sequence[str],
    environment: dict[str, str],
    capabilities: frozenset[Capability],
    stdin: int,
    outputs: tuple[int | None, int | None],
) -> subprocess.Popen[bytes]:
    """Start a program, the leader of its own session, with these of our capabilities. Raises OSError, ValueError."""
    thread = _threads.by_capabilities.get(capabilities)
    if thread is None:
        thread = ThreadPoolExecutor(1, "programs")
        try:
            thread.submit(confine, capabilities).result()
        except OSError as error:
            thread.shutdown()
            names = ", ".join(sorted(capabilities)) or "no capabilities"
            raise OSError(error.errno, f"nftlb can't give it {names}, being without ({error.strerror})") from error
        _threads.by_capabilities[capabilities] = thread

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(  # noqa: S603 - it is what the configuration asks for
            argv, stdin=stdin, stdout=outputs[0], stderr=outputs[1], env=environment, start_new_session=True
        )

    return thread.submit(start).result()
