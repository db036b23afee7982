"""Backends that send harmful answers: `python bench/hostile.py PORT`, on all addresses of its network namespace.

Each kind of health check has a backend, at the ports from PORT on, in the order of KINDS. Prints a line when all
listen.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from contextlib import suppress
from threading import Thread
from typing import Any

EVIL = b"status" * 170_000
OK = b"HTTP/1.1 200 OK\r\n"
# The kind of check, the first bytes, the bytes that are then repeated endlessly, and seconds between two repetitions.
KINDS: tuple[tuple[dict[str, Any], bytes, bytes, float], ...] = (
    ({"http": {"body": "status.*ok"}}, OK + b"Content-Length: 1020000\r\n\r\n" + EVIL, b"", 0.0),
    ({"http": {"body": "status.*ok"}}, OK + b"\r\n", EVIL[:60_000], 0.0),
    ({"http": {"body": "x"}}, OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\ny\r\n" * 5_000, 0.0),
    ({"http": {}}, OK, b"a: b\r\n" * 10_000, 0.0),
    ({"http": {}}, b"", b"HTTP/1.1 100 Go on\r\n\r\n" * 3_000, 0.0),
    ({"http": {"tls": True, "verify": False}}, b"", b"\x16\x03\x03\x40\x00" * 5_000, 0.0),
    ({"tcp": {"match": "status.*ok"}}, b"", EVIL[:60_000], 0.0),
    ({"tcp": {"match": "(a|b)*a(a|b){200}c"}}, b"", b"abbaab", 0.002),
    ({"dns": {"transport": "tcp"}}, b"", b"\0\0" * 30_000, 0.0),
    ({"sip": {"transport": "tcp"}}, b"", b"SIP/2.0 100 Trying\r\n\r\n" * 3_000, 0.0),
    ({"snmp": {}}, b"", b"", 0.0),
    ({"udp": {"send": "x", "match": "status.*ok"}}, b"", b"", 0.0),
)
_DATAGRAMS = {"snmp": (b"\x30\x82\x05\x00" + b"\x30\x00" * 600, 200), "udp": (EVIL[:60_000], 1)}
_IP_PKTINFO = 8
ANYWHERE = "0.0.0.0"  # noqa: S104 - of a namespace that has nothing but lo and a lab


async def main(port: int) -> None:
    servers = []
    for number, (check, first, again, pause) in enumerate(KINDS):
        (kind,) = check
        if kind in _DATAGRAMS:
            Thread(target=datagrams, args=(port + number, *_DATAGRAMS[kind]), daemon=True).start()
        else:
            serve = flood(first, again, pause)
            servers.append(await asyncio.start_server(serve, ANYWHERE, port + number, backlog=4096))
    print("ready", flush=True)
    await asyncio.gather(*(server.serve_forever() for server in servers))


def flood(first: bytes, again: bytes, pause: float) -> Any:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            writer.write(first)
            while again and not writer.is_closing():
                writer.write(again)
                await writer.drain()
                await asyncio.sleep(pause)
            while await reader.read(65536):
                pass
        writer.transport.abort()

    return serve


def datagrams(port: int, reply: bytes, times: int) -> None:
    """Answer from the address to which the request was sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        server.bind((ANYWHERE, port))
        while True:
            request, ancillary, _, client = server.recvmsg(2048, 64)
            info = ancillary[0][2]
            ours = [(socket.IPPROTO_IP, _IP_PKTINFO, info[:4] + info[8:12] + info[8:12])]
            for _ in range(times):
                server.sendmsg([reply + request if times > 1 else reply], ours, 0, client)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
