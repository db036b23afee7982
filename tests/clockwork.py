"""An event loop whose time passes at once: when nothing is left to do, the clock jumps to the next timer.

What is tested is therefore exact to the microsecond, and takes no time. Work for threads is done on the spot.
"""

from __future__ import annotations

import asyncio
import selectors
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")

START = 1000.0
"""What the clock says when it is set going."""


class Clockwork(asyncio.SelectorEventLoop):
    """Fails instead of waiting for ever: in a test nobody else will do anything."""

    def __init__(self) -> None:
        self.now = START
        super().__init__(_Jumping(self))
        self._clock_resolution = 1e-9

    def time(self) -> float:
        return self.now

    def run_in_executor(  # type: ignore[override]  # what it is called with
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> Any:
        """Do it now."""
        del executor
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - it is the caller's
            future.set_exception(error)
        return future


class _Jumping(selectors.SelectSelector):
    def __init__(self, loop: Clockwork) -> None:
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
    """Run it by the clockwork."""
    with asyncio.Runner(loop_factory=Clockwork) as runner:
        return runner.run(scene)


def elapsed() -> float:
    """Seconds since the clock was set going."""
    return round(asyncio.get_running_loop().time() - START, 6)


async def settle() -> None:
    """Let everything happen that is due now."""
    for _ in range(20):
        await asyncio.sleep(0)
