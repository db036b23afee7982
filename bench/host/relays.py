"""Compares nftlb with relays in user space, on the kernel of this host: processor time for each datagram, and loss.

The network has a client, a balancer and three backends that echo. One client socket sends DNS queries at a fixed rate
through one way after the other, in an order that is shuffled for each round. The processor time is that of client,
backends and relay, with the work of the kernel for them. Other processes of this host do not count, so the figures are
usable in spite of other processes. The processor time of plain routing in the same round is subtracted.

Client and backends run on processor 0, relays on processor 1. All have real-time priority, if permitted, so that
answers are not lost because other processes have the processors.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import conditions
from hosts import BACKEND_PORT, BACKENDS, PORT, VIP, Network, network, rules

from nftlb.lab import userns

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ROUTING = "routing"
RELAY_PROCESSOR = 1
"""Client and backends have processor 0."""
READY = 0.2
"""Seconds between two attempts to get an answer from a relay that starts."""

NGINX = """
load_module {root}/usr/lib/nginx/modules/ngx_stream_module.so;
worker_processes auto;
pid {work}/nginx.pid;
error_log /dev/null crit;
events {{ worker_connections 60000; }}
stream {{
  upstream dns {{ {servers} }}
  server {{
    listen {vip}:{port} udp reuseport;
    proxy_pass dns;
    proxy_requests 1;
    proxy_responses 1;
    proxy_timeout 1s;
  }}
}}
"""
DNSDIST = """
setLocal("{vip}:{port}", {{reusePort=true}})
setACL("0.0.0.0/0")
{servers}
setServerPolicy(roundrobin)
setSecurityPollSuffix("")
"""

DOCUMENT = """\
# Relays in user space

What a datagram and its answer cost beyond plain routing, in processor time of client, backends and relay, with the
work of the kernel for them; and how many of the datagrams were answered. Median of the slices, lowest and highest. One
client socket, three backends that echo, on processor 0; the relays run on processor 1. nftlb, nginx and dnsdist balance
each datagram; socat has a process for each client socket and sends to one backend. `bench/relays.sh` writes this page.

{table}

{date}, {processor}, {processors} processors, Linux {kernel}; version {commit}. {rounds} slices of {seconds} s for each
way and rate. `{command}`, [raw data](relays.json).
"""


@dataclass(frozen=True)
class Lab:
    network: Network
    programs: Path
    work: Path
    processes: list[subprocess.Popen[str]]
    """The backends, and the relay."""


@dataclass(frozen=True)
class Slice:
    """The result of a slice: processor time of all processes in µs, and counts of datagrams."""

    busy: float
    sent: int
    answered: int
    foreign: int


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="relays.sh",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("programs", type=Path, help=argparse.SUPPRESS)  # relays.sh gives it
    parser.add_argument(
        "--only", nargs="+", choices=list(WAYS), default=list(WAYS), help="these ways, and routing (all)"
    )
    parser.add_argument(
        "--rates", nargs="+", type=int, default=[5000, 20000], help="datagrams a second (5000 and 20000)"
    )
    parser.add_argument("--rounds", type=int, default=15, help="slices of each way for each rate (15)")
    parser.add_argument("--seconds", type=float, default=0.5, help="the length of a slice (0.5)")
    parser.add_argument("--data", type=Path, default=ROOT / "docs" / "performance", help="the folder for the results")
    options = parser.parse_args()
    userns.ensure()
    conditions.keep_others_out()
    os.sched_setaffinity(0, {0})  # of future children, too
    ways = list(dict.fromkeys((ROUTING, *options.only)))
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        subprocess.run(["gcc", "-O2", "-Wall", "-o", work / "traffic", HERE / "traffic.c"], check=True)
        labs = {name: stack.enter_context(lab_of(name, options.programs.resolve(), work)) for name in ways}
        found = {rate: measure(labs, rate, options) for rate in options.rates}
    data = {
        **conditions.description(),
        "command": shlex.join(["bench/relays.sh", *sys.argv[2:]]),
        "seconds": options.seconds,
        "rates": {
            rate: {name: [vars(slice_) for slice_ in slices] for name, slices in of.items()}
            for rate, of in found.items()
        },
    }
    options.data.mkdir(parents=True, exist_ok=True)
    (options.data / "relays.json").write_text(json.dumps(data, indent=1) + "\n")
    text = DOCUMENT.format(table=table(found), rounds=options.rounds, **data)
    (options.data / "relays.md").write_text(text)
    print(text)


def measure(labs: dict[str, Lab], rate: int, options: argparse.Namespace) -> dict[str, list[Slice]]:
    found: dict[str, list[Slice]] = defaultdict(list)
    for _ in range(options.rounds):
        for name in random.sample(sorted(labs), len(labs)):
            found[name].append(send(name, labs[name], rate, options.seconds))
            time.sleep(options.seconds / 2)  # for the other processes of this host
    return {name: found[name] for name in labs}


def send(name: str, lab: Lab, rate: int, seconds: float) -> Slice:
    address, port = (BACKENDS[0], BACKEND_PORT) if name == ROUTING else (VIP, PORT)
    before = processor_times([process.pid for process in lab.processes])
    printed = lab.network.client.run([str(lab.work / "traffic"), "load", address, str(port), str(rate), str(seconds)])
    sent, answered, foreign, client = map(int, printed.split())
    others = spent(before, processor_times([process.pid for process in lab.processes]))
    return Slice((client + others) / 1000, sent, answered, foreign)


def processor_times(processes: Sequence[int]) -> dict[int, int]:
    """Return the processor time in ns of each thread of these processes and of their children."""
    found = {}
    for process in processes:
        for thread in Path("/proc", str(process), "task").iterdir():
            try:
                found[int(thread.name)] = int((thread / "schedstat").read_text().split()[0])
                children = (thread / "children").read_text().split()
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has ended meanwhile
            found |= processor_times([int(child) for child in children if Path("/proc", child, "task").exists()])
    return found


def spent(before: Mapping[int, int], after: Mapping[int, int]) -> int:
    """Return the time between two results of `processor_times`. Threads that ended meanwhile do not count."""
    return sum(time - before.get(thread, 0) for thread, time in after.items())


def table(found: dict[int, dict[str, list[Slice]]]) -> str:
    """Return a Markdown table."""
    lines = ["| way | a second | µs a datagram beyond routing | answered | from the service |", "|---|---|---|---|---|"]
    for rate, of in found.items():
        for name, slices in of.items():
            sent, answered = sum(slice_.sent for slice_ in slices), sum(slice_.answered for slice_ in slices)
            costs = [
                slice_.busy / slice_.sent - base.busy / base.sent
                for slice_, base in zip(slices, of[ROUTING], strict=True)
            ]
            cost = f"{median(costs):.1f} ({min(costs):.1f} to {max(costs):.1f})"
            right = answered - sum(slice_.foreign for slice_ in slices)
            shares = f"{100 * answered / sent:.2f} % | {100 * right / max(answered, 1):.0f} %"
            lines.append(f"| `{name}` | {rate:,} | {cost} | {shares} |")
    return "\n".join(lines)


# --- what the balancer runs


@contextmanager
def lab_of(name: str, programs: Path, work: Path) -> Iterator[Lab]:
    with ExitStack() as stack:
        own = work / name
        own.mkdir()
        (own / "traffic").symlink_to(work / "traffic")
        lab = Lab(stack.enter_context(network(name)), programs, own, [])
        for backend, address in zip(lab.network.backends, BACKENDS, strict=True):
            lab.processes.append(backend.popen([str(own / "traffic"), "echo", address, str(BACKEND_PORT)]))
            stack.callback(stop, lab.processes[-1])
        stack.enter_context(WAYS[name](lab))
        deadline = time.monotonic() + 20
        while not send(name, lab, 100, READY).answered:
            if time.monotonic() > deadline:
                sys.exit(f"relays.sh: {name}: no answer within 20 s")
        yield lab


def stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    process.wait()


@contextmanager
def routing(_: Lab) -> Iterator[None]:
    yield


@contextmanager
def compiled(lab: Lab, options: str) -> Iterator[None]:
    lab.network.balancer.run(["nft", "-f", "-"], input=rules(options))
    yield


@contextmanager
def program(lab: Lab, *argv: str) -> Iterator[None]:
    libraries = ":".join(str(lab.programs / folder / "x86_64-linux-gnu") for folder in ("usr/lib", "lib"))
    options: dict[str, Any] = {"env": {**os.environ, "LD_LIBRARY_PATH": libraries}, "stdout": subprocess.DEVNULL}
    pinned = ("taskset", "--cpu-list", str(RELAY_PROCESSOR), *argv)
    process = lab.network.balancer.popen(pinned, stderr=subprocess.DEVNULL, start_new_session=True, **options)
    lab.processes.append(process)
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)  # socat starts children
        process.wait()


@contextmanager
def nginx(lab: Lab) -> Iterator[None]:
    servers = " ".join(f"server {backend}:{BACKEND_PORT};" for backend in BACKENDS)
    file = lab.work / "nginx.conf"
    file.write_text(NGINX.format(root=lab.programs, work=lab.work, vip=VIP, port=PORT, servers=servers))
    argv = (str(lab.programs / "usr/sbin/nginx"), "-c", str(file), "-p", str(lab.work), "-g", "daemon off;")
    with program(lab, *argv):
        yield


@contextmanager
def dnsdist(lab: Lab) -> Iterator[None]:
    servers = "\n".join(
        f'newServer({{address="{backend}:{BACKEND_PORT}", healthCheckMode="up"}})' for backend in BACKENDS
    )
    file = lab.work / "dnsdist.conf"
    file.write_text(DNSDIST.format(vip=VIP, port=PORT, servers=servers))
    with program(lab, str(lab.programs / "usr/bin/dnsdist"), "--supervised", "--disable-syslog", "-C", str(file)):
        yield


@contextmanager
def socat(lab: Lab) -> Iterator[None]:
    """A process for each client socket, which sends to one backend: socat does not balance."""
    listen = f"UDP4-LISTEN:{PORT},bind={VIP},fork,reuseaddr"
    with program(lab, str(lab.programs / "usr/bin/socat"), "-T", "5", listen, f"UDP4:{BACKENDS[0]}:{BACKEND_PORT}"):
        yield


WAYS = {
    ROUTING: routing,
    "nat": lambda lab: compiled(lab, "forward: nat"),
    "stateless": lambda lab: compiled(lab, "forward: stateless"),
    "stateless-ingress": lambda lab: compiled(lab, "forward: stateless, ingress: c0"),
    "nginx-stream": nginx,
    "dnsdist": dnsdist,
    "socat": socat,
}
"""The ways that are compared. Each is a context in which the balancer serves."""


if __name__ == "__main__":
    main()
