"""A flood of requests without a token, of the most expensive kinds: `python api_flood.py PLACE SECONDS`.

PLACE is `unix:PATH` or `ADDRESS:PORT`. Many clients disconnect at once, many never read, some read everything, some
pipeline requests, and some send endless heads or large bodies. At the end, the number of requests of each kind is
printed.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from contextlib import suppress
from itertools import cycle
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

PATHS = ("/api/v1/ruleset", "/api/v1/status", "/metrics", "/api/v1/pools", "/api/v1/pools/dns", "/readyz", "/")
ABANDONED = 2000
"""Requests at the beginning whose client disconnects before the response; later there are fewer."""
SILENT, READING, PIPELINED, POSTING, DRIPPING = 100, 16, 4, 4, 20
_paths = cycle(PATHS)


def request(path: str, method: str = "GET", more: str = "") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n".encode()


class Flood:
    def __init__(self, place: str) -> None:
        self._place = place
        self.done: Counter[str] = Counter()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._place.startswith("unix:"):
            return await asyncio.open_unix_connection(self._place.removeprefix("unix:"))
        host, _, port = self._place.rpartition(":")
        return await asyncio.open_connection(host, int(port))

    async def abandon(self) -> None:
        _, writer = await self.connect()
        writer.write(request(PATHS[0]) if self.done["abandon"] < ABANDONED else request(next(_paths)))
        await writer.drain()
        writer.close()

    async def stay_silent(self) -> None:
        _, writer = await self.connect()
        writer.write(request(next(_paths)))
        await asyncio.sleep(5)
        writer.close()

    async def read(self) -> None:
        reader, writer = await self.connect()
        writer.write(request(next(_paths), more="Connection: close\r\n"))
        while await reader.read(1 << 20):
            pass
        writer.close()

    async def pipeline(self) -> None:
        reader, writer = await self.connect()
        for _ in range(100):
            if writer.is_closing():
                break
            writer.write(request("/api/v1/status") * 100)
            await asyncio.sleep(0.01)
        async with asyncio.timeout(2):
            while await reader.read(1 << 20):
                pass
        writer.close()

    async def post(self) -> None:
        _, writer = await self.connect()
        writer.write(request("/api/v1/reload", "POST", f"Content-Length: {1 << 30}\r\n"))
        for _ in range(100):
            if writer.is_closing():
                break
            writer.write(bytes(1 << 16))
            await writer.drain()

    async def drip(self) -> None:
        _, writer = await self.connect()
        writer.write(request("/api/v1/status")[:-2])
        for number in range(50):
            if writer.is_closing():
                break
            writer.write(f"X-{number}: {'x' * 8000}\r\n".encode())
            await asyncio.sleep(0.1)
        writer.close()

    async def again(self, attack: Callable[[], Awaitable[None]], pause: float) -> None:
        while True:
            with suppress(OSError, TimeoutError):
                await attack()
            self.done[attack.__name__] += 1
            if self.done["abandon"] >= ABANDONED:
                await asyncio.sleep(pause)


async def main(place: str, seconds: float) -> None:
    flood = Flood(place)
    numbers = {
        flood.abandon: (50, 0.2),
        flood.stay_silent: (SILENT, 0.1),
        flood.read: (READING, 0.05),
        flood.pipeline: (PIPELINED, 0.1),
        flood.post: (POSTING, 0.1),
        flood.drip: (DRIPPING, 0.1),
    }
    tasks = [
        asyncio.create_task(flood.again(attack, pause))
        for attack, (count, pause) in numbers.items()
        for _ in range(count)
    ]
    print("begun", flush=True)  # noqa: T201 - the parent process waits for this line
    await asyncio.sleep(seconds)
    for task in tasks:
        task.cancel()
    print(dict(flood.done), flush=True)  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2])))
