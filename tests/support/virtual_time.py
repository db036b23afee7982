"""An event loop with virtual time: when nothing is left to do, the clock jumps to the next timer.

Tests are therefore exact to the microsecond and take no time. Work for threads is done at once, in the same thread.
"""

from __future__ import annotations

import asyncio
import selectors
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")

START = 1000.0
"""The time of the clock at the start of a test."""


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Fails instead of an endless wait, because no other thread or process acts in a test."""

    def __init__(self) -> None:
        self.now = START
        super().__init__(_Jumping(self))
        self._clock_resolution = 1e-9

    def time(self) -> float:
        return self.now

    def run_in_executor(  # type: ignore[override]  # only the arguments that are used
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> Any:
        """Call the function now."""
        del executor
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - the caller gets it
            future.set_exception(error)
        return future


class _Jumping(selectors.SelectSelector):
    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise AssertionError("nothing will ever happen")
        if not ready and timeout:
            self._loop.now += timeout
        return ready


def play(scene: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in virtual time."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(scene)


def elapsed() -> float:
    """Seconds since the start of the test."""
    return round(asyncio.get_running_loop().time() - START, 6)


async def settle() -> None:
    """Run everything that is due now."""
    for _ in range(20):
        await asyncio.sleep(0)
