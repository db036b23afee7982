"""Whether processes that tests killed have ended."""

from __future__ import annotations

import os
import select


def ends(pid: int) -> bool:
    """Whether a process ends soon: a killed process needs a moment, on a busy machine a longer one."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        ready, _, _ = select.select([descriptor], [], [], 30)
    finally:
        os.close(descriptor)
    return bool(ready)
