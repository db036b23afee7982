"""Measures the daemon with ten thousand backends: `make bench` calls it, or `python bench/checks.py [SECONDS [KIND]]`.

1,000 pools of 10 backends, each checked every 5 s by udp or another KIND (silent: by udp, without an answer), on the
loopback of a network namespace; one process answers for all. Then, with udp, some backends stop answering, one at a
time. The results are the seconds from the transition to the commit in the kernel, and the seconds that libnftables and
the kernel alone take for the same transactions.

NFTLB=COMMAND measures another nftlb, such as that of an older checkout. To compare two programs, run them in turn:
other work of the machine changes the processor time of a check.
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

from nftlb.config import parse_config
from nftlb.lab import Namespace, userns
from nftlb.model import Membership
from nftlb.swap.applier import Applier

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

COMMAND = os.environ.get("NFTLB", str(Path(sys.executable).with_name("nftlb")))
POOLS, BACKENDS = 1000, 10
INTERVAL = 5.0
TRANSITIONS, SPACED = 400, 0.3
UDP = "udp: {send: are you there, match: there}"
KINDS = {"udp": UDP, "silent": UDP, "dns": "dns: {name: example.com}", "icmp": "icmp: {}", "tcp": "tcp: {}"}
TIMES = "interval: 5s, timeout: 1s, fall: 2"
HEALTH = f"{{{UDP}, {TIMES}}}"
TICKS = os.sysconf("SC_CLK_TCK")

RESPONDER = """
import os, socket, sys
from threading import Thread
control, kind = int(sys.argv[1]), sys.argv[2]
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
server.setsockopt(socket.IPPROTO_IP, 8, 1)  # IP_PKTINFO: answer from the address that was asked
server.bind(("0.0.0.0", 5353))
silent = set()
os.set_blocking(control, False)
listener = socket.create_server(("0.0.0.0", 5353), backlog=4096)
def accept():
    while True:
        listener.accept()[0].close()
Thread(target=accept, daemon=True).start()
print("ready", flush=True)
while True:
    payload, ancillary, _, peer = server.recvmsg(2048, 64)
    try:
        for line in os.read(control, 65536).decode().split():
            (silent.add if line[0] == "-" else silent.discard)(socket.inet_aton(line[1:]))
    except BlockingIOError:
        pass
    if kind == "silent":
        continue
    if kind == "dns":  # set the bit of replies
        payload = payload[:2] + bytes([payload[2] | 0x80]) + payload[3:]
    info = ancillary[0][2]
    if info[8:12] not in silent:
        server.sendmsg([payload], [(socket.IPPROTO_IP, 8, info[:4] + info[8:12] + info[8:12])], 0, peer)
"""


def address(pool: int, backend: int) -> str:
    return f"10.{1 + pool // 250}.{pool % 250}.{backend + 1}"


def text(folder: Path, health: str = HEALTH) -> str:
    """Return the configuration file."""
    lines = [f"state_dir: {folder}/state", f"api: {{listen: 'unix:{folder}/api.sock'}}", "pools:"]
    for pool in range(POOLS):
        lines += [
            f"  pool{pool}:",
            f"    listen: 192.0.{pool // 250}.{pool % 250 + 1}:53/udp",
            f"    health: {health}",
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
def serving(name: str, content: Callable[[Path], str], kind: str = "udp") -> Iterator[Scene]:
    """Run a daemon, and one process that answers for all backends. `content` returns the file for a folder."""
    with Namespace(name) as namespace, tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "nftlb.yaml").write_text(content(folder))
        namespace.run(["ip", "link", "set", "lo", "up"])
        namespace.run(["ip", "route", "add", "local", "10.0.0.0/8", "dev", "lo"])
        control, orders = os.pipe()
        responder = namespace.popen(
            [sys.executable, "-c", RESPONDER, str(control), kind], pass_fds=[control], stdout=subprocess.PIPE
        )
        if responder.stdout is not None:
            responder.stdout.readline()
        command = [COMMAND, "run", str(folder / "nftlb.yaml"), "--log-level", "error"]
        stderr = subprocess.DEVNULL if kind == "silent" else None  # there is a line for each pool
        daemon = namespace.popen(command, cwd=folder, stderr=stderr)
        try:
            await_api(folder)
            yield Scene(namespace, folder, daemon, orders)
        finally:
            for process in (daemon, responder):
                process.send_signal(signal.SIGTERM)
                process.wait()
            if responder.stdout is not None:
                responder.stdout.close()


def main() -> None:
    userns.ensure()
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    kind = sys.argv[2] if len(sys.argv) > 2 else "udp"
    health = f"{{{KINDS[kind]}, {TIMES}}}"
    with serving("bench", lambda folder: text(folder, health), kind) as scene:
        steady(scene.daemon, scene.folder, seconds)
        if kind != "udp":
            return
        begins, latencies, commits = zip(*transitions(scene.folder, scene.orders), strict=True)
        end(scene.daemon)
        bare = scene.namespace.call(transactions, text(scene.folder))
    for what, times in (
        ("transition to the begin of its commit", begins),
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
    """Measure the processor time and the memory while only checks run."""
    time.sleep(4 * INTERVAL)  # every backend has had its first check, and silent backends are out of the rules
    before = metrics(folder)
    begin, used, kernel = time.monotonic(), cpu(daemon.pid), cpu(daemon.pid, 1)
    time.sleep(seconds)
    took, share, kernel = time.monotonic() - begin, cpu(daemon.pid) - used, cpu(daemon.pid, 1) - kernel
    share, kernel = share / took, kernel / took
    after = metrics(folder)
    rated = time.monotonic() - begin
    scrape = cpu(daemon.pid) - used - share * rated
    checks = sum(value for name, value in after.items() if name.startswith("nftlb_checks_total"))
    checks -= sum(value for name, value in before.items() if name.startswith("nftlb_checks_total"))
    failed = sum(value for name, value in after.items() if name.startswith("nftlb_checks_total") and 'fail"' in name)
    print(f"{checks / rated:.0f} checks a second, {failed:.0f} failed in all, for {took:.0f} s")
    whole, system = (part / checks * rated * 1e6 for part in (share, kernel))
    print(f"{'processor':<46} {share:.1%} of one core, {whole:.1f} us a check, {system:.1f} of them in system calls")
    print(f"{'a scrape of all metrics':<46} {scrape:.2f} s of processor time")
    print(f"{'memory':<46} {resident(daemon.pid):.1f} MB")
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


def transitions(folder: Path, orders: int) -> Iterator[tuple[float, float, float]]:
    """Yield seconds from the transition of a backend to the begin and to the end of its commit, and of its transaction.

    Only commits during which the daemon did no other work count.
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
                latency = moment(event) - seen[0]
                yield latency - float(event["details"]["seconds"]), latency, took
            left -= len(seen)
            seen, ended = [], moment(event)
            if not left:
                return


def silence(places: list[tuple[int, int]], orders: int) -> None:
    for pool, backend in places:
        os.write(orders, f"-{address(pool, backend)}\n".encode())
        time.sleep(SPACED)


def transactions(text: str) -> list[float]:
    """Return the seconds that libnftables and the kernel take for the same commits.

    The pauses between commits are those of the daemon, because a commit right after another commit is faster.
    """
    config = parse_config(text, "bench.yaml")
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


def cpu(pid: int, parts: int = 2) -> float:
    """Return the seconds of processor time until now; with `parts` 1, only those in system calls."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[13 - parts : 13])) / TICKS


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
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:  # the response keeps it open
        connection.connect(str(folder / "api.sock"))
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
        response = HTTPResponse(connection)
        response.begin()
        return response


if __name__ == "__main__":
    main()
