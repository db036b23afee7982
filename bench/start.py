"""Measures how soon the first datagram is answered: after starts, and after `nft flush ruleset`, by size.

`python bench/start.py [POOLSxLISTENERSxBACKENDS ...]`. All in one network namespace, where every address is local and
one process answers for all backends. Starts find no tables: the first an empty state directory, the later one what the
first has left there. Processor time is that of
the daemon until then, which says more than seconds while the machine does other things.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pools import text

from nftlb.lab import Namespace, userns

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMAND = Path(sys.executable).with_name("nftlb")
ROUNDS = 5
TICKS = os.sysconf("SC_CLK_TCK")
SIZES = ("1x1x3", "100x2x3", "500x2x3", "1500x2x3", "1000x1x4", "3000x1x4", "10000x1x4")

RESPONDER = """
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.setsockopt(socket.IPPROTO_IP, 8, 1)  # IP_PKTINFO: answer from the address that was asked
server.bind(("0.0.0.0", 5353))
print("ready", flush=True)
while True:
    payload, ancillary, _, peer = server.recvmsg(2048, 64)
    info = ancillary[0][2]
    server.sendmsg([payload], [(socket.IPPROTO_IP, 8, info[:4] + info[8:12] + info[8:12])], 0, peer)
"""


class Took(NamedTuple):
    """Seconds of the clock, and of the daemon's processor time."""

    wall: float
    processor: float

    def __str__(self) -> str:
        return f"{self.wall * 1e3:7.0f} ms ({self.processor * 1e3:6.0f} ms)"


def main() -> None:
    userns.ensure()
    for words in ("pass", "import asyncio", "import nftlb.cli.run"):
        print(f"{f'python -c {words!r}':<30}{median(tuple(alone(words) for _ in range(ROUNDS)))!s:>30}")
    columns = ("first start to answer (CPU)", "later start to answer (CPU)", "flush to next answer (CPU)")
    print(f"{'pools x listeners x backends':<30}{''.join(f'{one:>30}' for one in columns)}")
    with Namespace("start") as namespace:
        namespace.run(["ip", "link", "set", "lo", "up"])
        for network in ("10.0.0.0/8", "192.0.0.0/8"):
            namespace.run(["ip", "address", "add", network, "dev", "lo"])
        with answering(namespace):
            for size in sys.argv[1:] or SIZES:
                figures = zip(*(once(namespace, size) for _ in range(ROUNDS)), strict=True)
                print(f"{size:<30}{''.join(f'{median(one)!s:>30}' for one in figures)}", flush=True)


def alone(words: str) -> Took:
    """What a process takes that does this alone: a start can't take less."""
    before, begin = os.times(), time.perf_counter()
    subprocess.run([sys.executable, "-c", words], check=True)
    wall, after = time.perf_counter() - begin, os.times()
    return Took(wall, after.children_user + after.children_system - before.children_user - before.children_system)


def median(times: tuple[Took, ...]) -> Took:
    return Took(*map(statistics.median, zip(*times, strict=True)))


@contextlib.contextmanager
def answering(namespace: Namespace) -> Iterator[None]:
    responder = namespace.popen([sys.executable, "-c", RESPONDER], stdout=subprocess.PIPE)
    try:
        if responder.stdout is not None:
            responder.stdout.readline()
        yield
    finally:
        responder.kill()
        responder.wait()


def once(namespace: Namespace, size: str) -> tuple[Took, Took, Took]:
    """A first start, a later one, and a restore."""
    pools, listeners, backends = map(int, size.split("x"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        head = f"state_dir: {folder}/state\napi: {{listen: 'unix:{folder}/api.sock'}}\n"
        (folder / "nftlb.yaml").write_text(head + text(pools, backends, listeners))
        with started(namespace, folder) as (_, first):
            pass
        with started(namespace, folder) as (daemon, later):
            used, begin = cpu(daemon.pid), time.perf_counter()
            namespace.run(["nft", "flush", "ruleset"])
            restore = Took(namespace.call(answered) - begin, cpu(daemon.pid) - used)
    return first, later, restore


@contextlib.contextmanager
def started(namespace: Namespace, folder: Path) -> Iterator[tuple[subprocess.Popen[str], Took]]:
    """A daemon that has come to rest, and what it took until the first answer; it takes its rules along."""
    begin = time.perf_counter()
    daemon = namespace.popen(
        [str(COMMAND), "run", "--remove", "--log-level", "error", str(folder / "nftlb.yaml")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        took = Took(namespace.call(answered) - begin, cpu(daemon.pid))
        quiet(daemon.pid)
        yield daemon, took
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait()


def answered() -> float:
    """Ask until there is an answer, and return when that came."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(0.01)
        while True:
            with contextlib.suppress(OSError):
                client.connect(("192.0.0.1", 53))
                client.send(b"?")
                client.recv(16)
                return time.perf_counter()
            time.sleep(0.001)


def quiet(pid: int) -> None:
    """Return when a process has not been doing anything for half a second."""
    before = -1.0
    while before != (before := cpu(pid)):
        time.sleep(0.5)


def cpu(pid: int) -> float:
    """Seconds of processor time so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


if __name__ == "__main__":
    main()
