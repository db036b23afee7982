"""Measures how soon the first datagram is answered: after starts, and after `nft flush ruleset`, by size.

`python bench/start.py [POOLSxLISTENERSxBACKENDS ...]`. All in one network namespace, where every address is local and
one process answers for all backends. A start is that of the units: nftlb/preload.sh, then the daemon. No start finds
tables. At the first start, the state directory is empty; at the prepared start, it has the files of `nftlb prepare`; at
the later start, the files of a daemon. Processor time is that of the script and the daemon until the answer. While the
machine has other work, compare processor time, and not seconds.
"""

from __future__ import annotations

import contextlib
import os
import shutil
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
PRELOAD = Path(__file__).parents[1] / "nftlb" / "preload.sh"
START = '"$0" "$2" "$3"; exec "$1" run --remove --log-level error "$2"'
"""The shell becomes the daemon, so the processor time of the daemon includes that of the script."""
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
    columns = (
        "first start to answer (CPU)",
        "prepared start to answer (CPU)",
        "later start to answer (CPU)",
        "flush to next answer (CPU)",
    )
    print(f"{'pools x listeners x backends':<30}{''.join(f'{column:>32}' for column in columns)}")
    with Namespace("start") as namespace:
        namespace.run(["ip", "link", "set", "lo", "up"])
        for network in ("10.0.0.0/8", "192.0.0.0/8"):
            namespace.run(["ip", "address", "add", network, "dev", "lo"])
        with answering(namespace):
            for size in sys.argv[1:] or SIZES:
                figures = zip(*(once(namespace, size) for _ in range(ROUNDS)), strict=True)
                print(f"{size:<30}{''.join(f'{median(values)!s:>32}' for values in figures)}", flush=True)


def alone(words: str) -> Took:
    """Return the cost of a process that only does this: the least cost of a start."""
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


def once(namespace: Namespace, size: str) -> tuple[Took, Took, Took, Took]:
    """Measure a first start, a prepared start, a later start, and a restore."""
    pools, listeners, backends = map(int, size.split("x"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        head = f"state_dir: {folder}/state\napi: {{listen: 'unix:{folder}/api.sock'}}\n"
        (folder / "nftlb.yaml").write_text(head + text(pools, backends, listeners))
        with started(namespace, folder) as (_, first):
            pass
        shutil.rmtree(folder / "state")
        namespace.run([str(COMMAND), "prepare", str(folder / "nftlb.yaml")])
        with started(namespace, folder) as (_, prepared):
            pass
        with started(namespace, folder) as (daemon, later):
            used, begin = cpu(daemon.pid), time.perf_counter()
            namespace.run(["nft", "flush", "ruleset"])
            restore = Took(namespace.call(answered) - begin, cpu(daemon.pid) - used)
    return first, prepared, later, restore


@contextlib.contextmanager
def started(namespace: Namespace, folder: Path) -> Iterator[tuple[subprocess.Popen[str], Took]]:
    """Run a daemon, yield it when it is idle, with its cost until the first answer, and end it with its rules."""
    begin = time.perf_counter()
    daemon = namespace.popen(
        ["sh", "-c", START, str(PRELOAD), str(COMMAND), str(folder / "nftlb.yaml"), str(folder / "state")],
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
    """Send requests until an answer arrives. Return the time of the answer."""
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
    """Return when a process has used no processor time for half a second."""
    before = -1.0
    while before != (before := cpu(pid)):
        time.sleep(0.5)


def cpu(pid: int) -> float:
    """Return the seconds of processor time until now, including children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / TICKS


if __name__ == "__main__":
    main()
