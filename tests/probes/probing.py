"""Small servers, and checks against them. Each check must leave no open files."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
from contextlib import AsyncExitStack, asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from nftlb.probes import Subject, probe_for, run_probe

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

    from nftlb.health import CheckResult
    from nftlb.model import AnyCheck
    from nftlb.probes import Probe

# Objects that stay need not be searched again each time that files are counted.
gc.collect()
gc.freeze()

V4, V6 = "127.0.0.1", "::1"
BOTH = (V4, V6)

# A datagram server is a function from a request to replies; a stream server is called for each connection.
Datagrams: TypeAlias = "Callable[[bytes], Iterable[bytes]]"
Streams: TypeAlias = "Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]"


NOTED = 0.6
"""Seconds of the time-out of a check that reads replies of no use before: a busy machine stands still for less."""


def subject(
    host: str = V4,
    port: int | None = None,
    *,
    seconds: float = 20,
    source: str | None = None,
    device: str | None = None,
    mark: int | None = None,
) -> Subject:
    from_there = ip_address(source) if source else None
    return Subject("pool", "backend", ip_address(host), port, from_there, seconds, device, mark)


def open_files() -> int:
    gc.collect()  # leftovers of the loops of other tests
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - only their number matters


def closed_port(kind: int = socket.SOCK_STREAM, host: str = V4) -> int:
    """A closed port."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind) as there:
        there.bind((host, 0))
        port: int = there.getsockname()[1]
        return port


@asynccontextmanager
async def datagrams(answer: Datagrams, host: str = V4, clients: list[str] | None = None) -> AsyncIterator[int]:
    """Serve datagrams at the yielded port. `clients` gets the address of each client."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((host, 0))
        server.setblocking(False)

        def serve() -> None:
            request, client = server.recvfrom(65535)
            if clients is not None:
                clients.append(client[0])
            for reply in answer(request):
                server.sendto(reply, client)

        loop.add_reader(server, serve)
        try:
            yield server.getsockname()[1]
        finally:
            loop.remove_reader(server)


@asynccontextmanager
async def streams(serve: Streams, host: str = V4, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Serve connections at the yielded port. A connection is closed when `serve` returns."""
    tasks = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # a check may close the connection first
        finally:
            tasks.discard(task)
            writer.transport.abort() if tls is not None else writer.close()

    server = await asyncio.start_server(handle, host, 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        if tasks:
            await asyncio.wait(list(tasks))
        await settle()


async def settle() -> None:
    """Let asyncio's transports finish closing."""
    for _ in range(20):
        await asyncio.sleep(0)


async def serving(stack: AsyncExitStack, server: Datagrams | Streams | None, kind: str, host: str) -> int:
    if server is None:
        return closed_port(socket.SOCK_DGRAM if kind == "datagrams" else socket.SOCK_STREAM, host)
    serve: Any = datagrams if kind == "datagrams" else streams
    return int(await stack.enter_async_context(serve(server, host)))


def check_datagrams(
    check: AnyCheck, answer: Datagrams | None, host: str = V4, *, seconds: float = 20, count: bool = True
) -> CheckResult:
    """Check a datagram server once; None: a closed port. `count`: verify that no file stays open."""

    async def main() -> CheckResult:
        async with AsyncExitStack() as stack:
            port = await serving(stack, answer, "datagrams", host)
            check_once = clean if count else run_probe
            return await check_once(probe_for(check), subject(host, port, seconds=seconds))

    return asyncio.run(main())


def check_streams(
    check: AnyCheck, serve: Streams | None, host: str = V4, *, seconds: float = 20, count: bool = True
) -> CheckResult:
    """Check a stream server once; None: a closed port. `count`: verify that no file stays open."""

    async def main() -> CheckResult:
        async with AsyncExitStack() as stack:
            port = await serving(stack, serve, "streams", host)
            check_once = clean if count else run_probe
            return await check_once(probe_for(check), subject(host, port, seconds=seconds))

    return asyncio.run(main())


async def clean(probe: Probe, whom: Subject) -> CheckResult:
    """Check, and verify that no file stays open. The first check of a loop opens the files that later checks share."""
    await run_probe(probe, whom)
    await _only(0)
    before = open_files()
    result = await run_probe(probe, whom)
    await _only(before)
    return result


async def _only(before: int) -> None:
    """Wait until no more files are open than before: servers need a moment to see that a client is gone."""
    async with asyncio.timeout(60):
        while before and open_files() > before:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.001)


async def cancelled(probe: Probe, whom: Subject, begun: asyncio.Event) -> None:
    """Cancel a check when the server has received it, and verify that no file stays open."""
    for _ in range(2):  # the first check opens files that all later checks share
        begun.clear()
        before = open_files()
        task = asyncio.create_task(run_probe(probe, whom))
        await begun.wait()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
    await _only(before)


def cancel_datagrams(check: AnyCheck, host: str = V4) -> None:
    """Cancel a check of a silent datagram server."""

    async def main() -> None:
        begun = asyncio.Event()

        def silent(_: bytes) -> list[bytes]:
            begun.set()
            return []

        async with datagrams(silent, host) as port:
            await cancelled(probe_for(check), subject(host, port), begun)

    asyncio.run(main())


def cancel_streams(check: AnyCheck, host: str = V4) -> None:
    """Cancel a check of a silent stream server."""

    async def main() -> None:
        begun = asyncio.Event()

        async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
            begun.set()
            await reader.read()

        async with streams(silent, host) as port:
            await cancelled(probe_for(check), subject(host, port), begun)

    asyncio.run(main())


def says(*replies: bytes) -> Datagrams:
    """Make a datagram server that sends these replies to every request."""
    return lambda _: replies


def silent(_: bytes) -> list[bytes]:
    """Send no reply."""
    return []


def sends(reply: bytes) -> Streams:
    """Make a stream server that sends these bytes and closes."""

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(reply)
        await writer.drain()

    return serve


async def mute(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    """Serve a stream silently until the client closes it."""
    while await reader.read(4096):
        pass


def no_files(directory: Path) -> list[tuple[Path, str]]:
    """Unusable objects in the place of a check's file, and their messages."""
    fifo, large = directory / "fifo", directory / "large"
    os.mkfifo(fifo)
    with large.open("wb") as file:
        file.truncate(1 << 30)
    return [
        (fifo, "is not a regular file"),
        (Path("/dev/zero"), "is not a regular file"),
        (large, "is larger than"),
    ]
