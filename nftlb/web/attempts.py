"""How often each client was wrong lately. Pure but for being mutable: time is an argument."""

from __future__ import annotations

MOST = 1024
"""Clients that are remembered; one more has the one forgotten that failed longest ago."""


class Attempts:
    """`burst` failures in a row are free; after that, one in `seconds`."""

    def __init__(self, burst: int, seconds: float) -> None:
        self._seconds = seconds
        self._slack = (burst - 1) * seconds
        # When all of a client's failures will be forgotten, in the order of its last one.
        self._until: dict[str, float] = {}

    def wait(self, who: str, now: float) -> float:
        """Seconds until this client may try again; 0: now."""
        return max(0.0, self._until.get(who, now) - now - self._slack)

    def failed(self, who: str, now: float) -> None:
        """Note a failure."""
        self._until[who] = max(now, self._until.pop(who, now)) + self._seconds
        if len(self._until) > MOST:
            del self._until[next(iter(self._until))]
