"""Limits for the processor time of a piece of code, which hold on a busy machine too."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_RUNS = 4


def processor_time(run: Callable[[], object]) -> float:
    """The seconds of processor time of this thread that `run` takes."""
    before = time.thread_time()
    run()
    return time.thread_time() - before


def takes_less(seconds: float, run: Callable[[], object]) -> bool:
    """Whether `run` takes less processor time than `seconds`, once in a few runs.

    The processor time of a single run grows with the load of the machine, because other programs use the caches.
    """
    return any(processor_time(run) < seconds for _ in range(_RUNS))
