"""Measures the daemon with ten thousand backends: `make bench` calls it, or `python bench/checks.py [SECONDS]`.

1,000 pools of 10 backends, each checked over UDP every 5 s, on the loopback of a network namespace; one process answers
for all. Then some go silent, one at a time: how long from the transition to the kernel's having followed, beside what
such transactions take libnftables and the kernel alone.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from datetime import datetime
from http.client import HTTPResponse
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, NamedTuple

from run import TimedKernel

from nftlb.apply import Applier
from nftlb.compiler import Membership
from nftlb.config import parse
from nftlb.lab import Namespace, userns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

COMMAND = Path(sys.executable).with_name("nftlb")
POOLS, BACKENDS = 1000, 10
INTERVAL = 5.0
TRANSITIONS, SPACED = 400, 0.3
HEALTH = "{udp: {send: are you there, match: there}, interval: 5s, timeout: 1s, fall: 2}"
TICKS = os.sysconf("SC_CLK_TCK")

RESPONDER = """
import os, socket, sys
control = int(sys.argv[1])
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
server.setsockopt(socket.IPPROTO_IP, 8, 1)  # IP_PKTINFO: answer from the address that was asked
server.bind(("0.0.0.0", 5353))
silent = set()
os.set_blocking(control, False)
print("ready", flush=True)
while True:
    payload, ancillary, _, peer = server.recvmsg(2048, 64)
    try:
        for line in os.read(control, 65536).decode().split():
            (silent.add if line[0] == "-" else silent.discard)(socket.inet_aton(line[1:]))
    except BlockingIOError:
        pass
    info = ancillary[0][2]
    if info[8:12] not in silent:
        server.sendmsg([payload], [(socket.IPPROTO_IP, 8, info[:4] + info[8:12] + info[8:12])], 0, peer)
"""


def address(pool: int, backend: int) -> str:
    return f"10.{1 + pool // 250}.{pool % 250}.{backend + 1}"


def text(folder: Path) -> str:
    """The file."""
    lines = [f"state_dir: {folder}/state", f"api: {{listen: 'unix:{folder}/api.sock'}}", "pools:"]
    for pool in range(POOLS):
        lines += [
            f"  pool{pool}:",
            f"    listen: 192.0.{pool // 250}.{pool % 250 + 1}:53/udp",
            f"    health: {HEALTH}",
            "    backends:",
        ]
        lines += [f"      b{n}: {address(pool, n)}:5353" for n in range(BACKENDS)]
    return "\n".join(lines) + "\n"


class Scene(NamedTuple):
    """A daemon in a namespace, with its files in `folder`; `orders` makes servers of the responder silent."""

    namespace: Namespace
    folder: Path
    daemon: subprocess.Popen[str]
    orders: int


@contextmanager
def serving(name: str, content: Callable[[Path], str]) -> Iterator[Scene]:
    """Have a daemon with a file, and one process that answers for all backends; `content` is given the folder."""
    with Namespace(name) as namespace, tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "nftlb.yaml").write_text(content(folder))
        namespace.run(["ip", "link", "set", "lo", "up"])
        namespace.run(["ip", "route", "add", "local", "10.0.0.0/8", "dev", "lo"])
        control, orders = os.pipe()
        responder = namespace.popen(
            [sys.executable, "-c", RESPONDER, str(control)], pass_fds=[control], stdout=subprocess.PIPE
        )
        if responder.stdout is not None:
            responder.stdout.readline()
        daemon = namespace.popen([str(COMMAND), "run", str(folder / "nftlb.yaml"), "--log-level", "error"], cwd=folder)
        try:
            await_api(folder)
            yield Scene(namespace, folder, daemon, orders)
        finally:
            for process in (daemon, responder):
                process.send_signal(signal.SIGTERM)
                process.wait()


def main() -> None:
    userns.ensure()
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    with serving("bench", text) as scene:
        steady(scene.daemon, scene.folder, seconds)
        latencies, commits = zip(*transitions(scene.folder, scene.orders), strict=True)
        end(scene.daemon)
        bare = scene.namespace.call(transactions, text(scene.folder))
    for what, times in (
        ("transition to commit", latencies),
        ("the transaction within it", commits),
        ("all but the transaction", [whole - bare for whole, bare in zip(latencies, commits, strict=True)]),
        ("such transactions where nothing else runs", bare),
    ):
        median = statistics.median(times) * 1e3
        print(f"{f'{what} ({len(times)})':<46} median {median:6.1f} ms, p99 {p99(times) * 1e3:6.1f} ms")


def end(daemon: subprocess.Popen[str]) -> float:
    """Seconds from SIGTERM to the end."""
    begin = time.monotonic()
    daemon.send_signal(signal.SIGTERM)
    daemon.wait()
    return time.monotonic() - begin


def steady(daemon: subprocess.Popen[str], folder: Path, seconds: float) -> None:
    """Nothing happens but checks."""
    time.sleep(2 * INTERVAL)  # every backend has had its first
    before = metrics(folder)
    begin, used = time.monotonic(), cpu(daemon.pid)
    time.sleep(seconds)
    took, share = time.monotonic() - begin, cpu(daemon.pid) - used
    share /= took
    after = metrics(folder)
    rated = time.monotonic() - begin
    scrape = cpu(daemon.pid) - used - share * rated
    checks = sum(value for name, value in after.items() if name.startswith("nftlb_checks_total"))
    checks -= sum(value for name, value in before.items() if name.startswith("nftlb_checks_total"))
    failed = sum(value for name, value in after.items() if name.startswith("nftlb_checks_total") and 'fail"' in name)
    print(f"{checks / rated:.0f} checks a second, {failed:.0f} failed in all, for {took:.0f} s")
    print(f"{'processor':<46} {share:.1%} of one core, {share / checks * rated * 1e6:.0f} us a check")
    print(f"{'a scrape of all metrics':<46} {scrape:.2f} s of processor time")
    print(f"{'memory':<46} {resident(daemon.pid):.0f} MB")
    print(f"{'schedule lag, p99 at most':<46} {lag(before, after) * 1e3:.1f} ms")


def lag(before: dict[str, float], after: dict[str, float]) -> float:
    """The bucket of the histogram that the 99th percentile falls into, in seconds."""
    buckets = {
        float(found[1]): value - before.get(name, 0.0)
        for name, value in after.items()
        if (found := re.match(r'nftlb_check_lag_seconds_bucket\{le="(.+)"\}', name))
    }
    total = max(buckets.values())
    return min(bound for bound, count in buckets.items() if count >= 0.99 * total)


def transitions(folder: Path, orders: int) -> Iterator[tuple[float, float]]:
    """Seconds from a backend's going down to the commit that has it, and those of the bare transaction within it.

    Of those alone that came when nothing else was being done.
    """
    chance = random.Random(1)  # noqa: S311 - the same in every run
    events = listen(folder)
    places = [(pool, chance.randrange(BACKENDS)) for pool in chance.sample(range(POOLS), TRANSITIONS)]
    Thread(target=silence, args=(places, orders), daemon=True).start()
    seen: list[float] = []
    left, ended = TRANSITIONS, 0.0
    for event in events:
        if event["kind"] == "backend_down":
            seen.append(moment(event))
        elif event["kind"] == "swap":
            took = float(event["details"]["transaction_seconds"])
            if len(seen) == 1 and seen[0] - ended > 0.2:
                yield moment(event) - seen[0], took
            left -= len(seen)
            seen, ended = [], moment(event)
            if not left:
                return


def silence(places: list[tuple[int, int]], orders: int) -> None:
    for pool, backend in places:
        os.write(orders, f"-{address(pool, backend)}\n".encode())
        time.sleep(SPACED)


def transactions(text: str) -> list[float]:
    """Seconds that libnftables and the kernel take for such commits.

    They are as far apart as those of the daemon: one on the heels of another is faster.
    """
    config = parse(text, "bench.yaml")
    times = []
    with TimedKernel() as kernel:
        applier = Applier(kernel, config.table)
        applier.load(config)
        down: list[tuple[str, str]] = []
        chance = random.Random(1)  # noqa: S311 - the same in every run
        for _ in range(TRANSITIONS):
            down.append((f"pool{chance.randrange(POOLS)}", f"b{chance.randrange(BACKENDS)}"))
            time.sleep(SPACED)
            kernel.taken = 0.0
            applier.update(Membership.with_down(down))
            times.append(kernel.taken)
        applier.remove()
    return times


def p99(times: Sequence[float]) -> float:
    return sorted(times)[int(0.99 * len(times))]


def moment(event: dict[str, Any]) -> float:
    return datetime.fromisoformat(event["at"]).timestamp()


def cpu(pid: int) -> float:
    """Seconds of processor time so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def resident(pid: int) -> float:
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def await_api(folder: Path) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            get(folder, "/healthz")
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
        else:
            return


def metrics(folder: Path) -> dict[str, float]:
    lines = get(folder, "/metrics").read().decode().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


def listen(folder: Path) -> Iterator[dict[str, Any]]:
    response = get(folder, "/api/v1/events")
    return (json.loads(line[5:]) for line in response if line.startswith(b"data:"))


def get(folder: Path, path: str) -> HTTPResponse:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect(str(folder / "api.sock"))
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
    response = HTTPResponse(connection)
    response.begin()
    return response


if __name__ == "__main__":
    main()
