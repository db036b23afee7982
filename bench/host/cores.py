"""Measures what a datagram costs if two processors forward datagrams of one pool at the same time.

`numgen inc` is one counter for all processors, so its cache line moves between them. These layouts are compared:

  shared    the compiler's rules: one counter
  by-map    a counter for each processor: `meta cpu vmap { 0 : goto cores/0, 1 : goto cores/1 }`
  by-rule   a counter for each processor: a copy of the compiler's rule with `meta cpu 0`, in front of the rule
  random    `balance: random`: no counter, and no exact turns
  constant  no balancing: all datagrams go to the first backend

The client has a socket on each processor. `alone`: only processor 0 sends. `apart`: both processors send, each through
a separate balancer. `together`: both send through one balancer. The difference between `apart` and `together` is the
cost of what the processors share.

The senders have real-time priority, if permitted, and sleep between slices. So other processes of this host do not
interrupt a slice, but they make caches cold.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product
from operator import sub, truediv
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import conditions
from hosts import BACKEND_PORT, BACKENDS, PORT, VIP, network, rules

from nftlb.lab import userns

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from hosts import Network

    from nftlb.lab import Namespace

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MODES = {
    "nat": "forward: nat",
    "stateless": "forward: stateless",
    "stateless-ingress": "forward: stateless, ingress: c0",
    "dsr-ingress": "forward: dsr, ingress: c0",
}
LAYOUTS = ("shared", "by-map", "by-rule", "random", "constant")
LOADS = ("alone", "apart", "together")
PROCESSORS = 2
"""Processors that send."""
OF_HOST = os.cpu_count() or 1
"""Processors with a separate counter."""
ROUTING = "routing"
BATCH, BYTES = 64, 64
UNDISTURBED = 1.02
"""A slice counts if its time by the clock is at most this times its processor time, on all processors of the case."""
LINE_OPERATIONS = 20_000_000
_TURN = re.compile(r"numgen inc mod (\d+) vmap (@\S+)")
_RULE = re.compile(rf"(?m)^(.*)({_TURN.pattern}.*)$")
SINK = """
table netdev sink {
  counter received { }
  chain ingress { type filter hook ingress device eth0 priority 0; meta protocol ip counter name received drop
  }
}
"""
DOCUMENT = """\
# Several processors

Nanoseconds of processor time for a datagram, on each processor that forwards. `alone`: one processor forwards. `apart`:
two, each through a separate balancer. `together`: two, through one balancer. Each figure is the median of {repeats}
repetitions with the lowest and the highest; a repetition makes new networks, and its figure is the median of its
undisturbed slices. "Sharing adds" is the difference between `together` and `apart` in the same round, and "to `shared`"
the ratio of `together` to `together` of the layout `shared` in the same round.
[performance.md](../performance.md#several-processors) says what the layouts are. `bench/cores.sh` writes this page.

{table}

An atomic addition takes {line[0]:.1f} ns alone, {line[1]:.1f} ns if another processor adds in another cache line, and
{line[2]:.1f} ns if both add in the same cache line without other work between.

{date}, {processor}, {processors} processors, Linux {kernel}; version {commit}. {rounds} slices of {packets} datagrams
of {bytes} bytes for each case in each repetition; {kept:.0%} of the slices were undisturbed; {lost} of {sent} datagrams
were lost. `{command}`, [raw data](cores.json).
"""


@dataclass(frozen=True)
class Case:
    mode: str
    layout: str
    load: str


@dataclass(frozen=True)
class Slice:
    """Nanoseconds for a datagram, by the clock and of processor time, on each processor that sends."""

    wall: tuple[float, ...]
    cpu: tuple[float, ...]

    @property
    def cost(self) -> float | None:
        """Processor time, or None if another process had a processor meanwhile."""
        disturbed = any(wall > UNDISTURBED * cpu for wall, cpu in zip(self.wall, self.cpu, strict=True))
        return None if disturbed else sum(self.cpu) / len(self.cpu)


@dataclass(frozen=True)
class Repetition:
    """The results of one set of networks. `slices` has a slice for each round."""

    slices: Mapping[Case, Sequence[Slice]]
    sent: int
    received: Mapping[tuple[str, str], Sequence[int]]
    """Datagrams of each backend, by mode and layout."""


def main() -> None:
    options = read_options()
    if len(os.sched_getaffinity(0)) < PROCESSORS:
        sys.exit(f"cores.sh: this process may use one processor; {PROCESSORS} are necessary")
    userns.ensure()
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(folder) / "cores")
        subprocess.run(["gcc", "-O2", "-Wall", "-pthread", "-o", program, HERE / "cores.c"], check=True)
        line = [float(word) for word in run(program, "line", str(LINE_OPERATIONS)).split()]
        found = []
        for number in range(options.repeats):
            print(f"repetition {number + 1} of {options.repeats}", file=sys.stderr)
            found.append(measure(program, options))
    write(found, line, options)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="cores.sh",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--modes", nargs="+", choices=list(MODES), default=list(MODES), help="modes to measure (all)")
    parser.add_argument("--repeats", type=int, default=5, help="how often new networks are made (5)")
    parser.add_argument("--rounds", type=int, default=150, help="slices of each case in each repetition (150)")
    parser.add_argument("--packets", type=int, default=1024, help="datagrams in a slice (1024)")
    parser.add_argument("--data", type=Path, default=ROOT / "docs" / "performance", help="the folder for the results")
    return parser.parse_args()


def measure(program: str, options: argparse.Namespace) -> Repetition:
    """Make the networks, send datagrams, and count the datagrams that arrived."""
    with ExitStack() as stack:
        ways = [(ROUTING, ROUTING), *product(options.modes, LAYOUTS)]
        networks = {
            way: [stack.enter_context(network(f"{'-'.join(way)}-{number}")) for number in range(PROCESSORS)]
            for way in ways
        }
        for (mode, layout), pair in networks.items():
            for lab in pair:
                if mode != ROUTING:
                    lab.balancer.run(["nft", "-f", "-"], input=laid_out(mode, layout))
                for backend in lab.backends:
                    backend.run(["nft", "-f", "-"], input=SINK)
        cases = [Case(mode, layout, load) for (mode, layout), load in product(networks, LOADS)]
        plan = "".join(plan_of(case, networks[case.mode, case.layout]) for case in cases)
        sizes = [str(options.rounds), str(options.packets), str(BATCH), str(BYTES)]
        clients = [lab.client.fileno() for pair in networks.values() for lab in pair]
        output = run(program, *sizes, input=plan, pass_fds=clients)
        received = {
            way: [sum(map(received_by, backends)) for backends in zip(*(lab.backends for lab in pair), strict=True)]
            for way, pair in networks.items()
        }
    return read(output, cases, received)


def laid_out(mode: str, layout: str) -> str:
    """Return the rules of a mode with another layout of the turns, as text for `nft -f`."""
    if layout == "random":
        return rules(f"{MODES[mode]}, balance: random")
    text = rules(MODES[mode])
    if layout == "shared":
        return text
    if layout == "constant":
        found, count = _TURN.subn("goto backend/dns/b1", text)
    elif layout == "by-rule":
        rules_of_processors = "".join(rf"\1meta cpu {processor} \2\n" for processor in range(OF_HOST - 1))
        found, count = _RULE.subn(rf"{rules_of_processors}\1\2", text)
    else:
        found, count = _by_map(text)
    if not count:
        sys.exit(f"cores.sh: the rules of {mode} have no `numgen inc mod N vmap @MAP`, so {layout} cannot be made")
    return found


def _by_map(text: str) -> tuple[str, int]:
    """Give each table a chain for each processor, in which the processor has its own counter."""
    head, *tables = re.split(r"(?m)^(?=table \S+ \S+ \{)", text)
    written, count = [head], 0
    for table in tables:
        turn = _TURN.search(table)
        if turn is None:
            written.append(table)
            continue
        first, _, rest = table.partition("\n")
        chains = "".join(f"\tchain cores/{processor} {{\n\t\t{turn[0]}\n\t}}\n" for processor in range(OF_HOST))
        jumps = ", ".join(f"{processor} : goto cores/{processor}" for processor in range(OF_HOST))
        changed, turns = _TURN.subn(f"meta cpu vmap {{ {jumps} }}", rest)
        written.append(f"{first}\n{chains}{changed}")
        count += turns
    return "".join(written), count


def plan_of(case: Case, pair: Sequence[Network]) -> str:
    """Return the line of a case for the program."""
    first = pair[0].client.fileno()
    second = {"alone": -1, "apart": pair[1].client.fileno(), "together": first}[case.load]
    address, port = (BACKENDS[0], BACKEND_PORT) if case.mode == ROUTING else (VIP, PORT)
    return f"{first} {address} {port} {second} {address} {port}\n"


def received_by(backend: Namespace) -> int:
    listed = json.loads(backend.run(["nft", "-j", "list", "counters"]))["nftables"]
    return int(sum(item["counter"]["packets"] for item in listed if "counter" in item))


def read(output: str, cases: Sequence[Case], received: Mapping[tuple[str, str], Sequence[int]]) -> Repetition:
    """Read what the program printed."""
    times: dict[tuple[int, int], list[tuple[float, float]]] = defaultdict(list)
    sent = 0
    for line in output.splitlines():
        match line.split():
            case ["slice", number, case, _, wall, cpu]:
                times[int(case), int(number)].append((float(wall), float(cpu)))
            case ["sent", _, count]:
                sent += int(count)
    slices: dict[Case, list[Slice]] = {case: [] for case in cases}
    for (place, _), both in sorted(times.items()):
        slices[cases[place]].append(Slice(tuple(wall for wall, _ in both), tuple(cpu for _, cpu in both)))
    return Repetition(slices, sent, received)


def write(found: Sequence[Repetition], line: Sequence[float], options: argparse.Namespace) -> None:
    """Write the raw data and the page."""
    every = [slice_ for repetition in found for slices in repetition.slices.values() for slice_ in slices]
    sent = sum(repetition.sent for repetition in found)
    received = sum(sum(map(sum, repetition.received.values())) for repetition in found)
    facts = {
        **conditions.description(),
        "command": shlex.join(["bench/cores.sh", *sys.argv[1:]]),
        "repeats": options.repeats,
        "rounds": options.rounds,
        "packets": options.packets,
        "bytes": BYTES,
        "line": line,
        "sent": sent,
        "lost": sent - received,
    }
    rows = [
        {
            "received": {" ".join(way): counts for way, counts in repetition.received.items()},
            "slices": {
                f"{case.mode} {case.layout} {case.load}": [of.cost and round(of.cost) for of in slices]
                for case, slices in repetition.slices.items()
            },
        }
        for repetition in found
    ]
    kept = sum(slice_.cost is not None for slice_ in every) / len(every)
    options.data.mkdir(parents=True, exist_ok=True)
    (options.data / "cores.json").write_text(json.dumps({**facts, "repetitions": rows}) + "\n")
    text = DOCUMENT.format(table=table(found), kept=kept, **facts)
    (options.data / "cores.md").write_text(text)
    print(text)


def table(found: Sequence[Repetition]) -> str:
    """Return a Markdown table."""
    lines = [
        "| mode | layout | alone | apart | together | sharing adds | to `shared` |",
        "|---|---|---|---|---|---|---|",
    ]
    for mode, layout in dict.fromkeys((case.mode, case.layout) for case in found[0].slices):
        costs = [
            figure([typical(repetition.slices[Case(mode, layout, load)]) for repetition in found], 0) for load in LOADS
        ]
        together = [repetition.slices[Case(mode, layout, "together")] for repetition in found]
        apart = [repetition.slices[Case(mode, layout, "apart")] for repetition in found]
        added = figure([paired(of, base, sub) for of, base in zip(together, apart, strict=True)], 0)
        ratio = ""
        if mode != ROUTING:
            shared = [repetition.slices[Case(mode, LAYOUTS[0], "together")] for repetition in found]
            ratio = figure([paired(of, base, truediv) for of, base in zip(together, shared, strict=True)], 2)
        lines.append(f"| `{mode}` | {'' if mode == ROUTING else layout} | {' | '.join(costs)} | {added} | {ratio} |")
    return "\n".join(lines)


def typical(slices: Sequence[Slice]) -> float:
    """Return the median of the undisturbed slices."""
    return _median([slice_.cost for slice_ in slices if slice_.cost is not None])


def paired(slices: Sequence[Slice], base: Sequence[Slice], compare: Callable[[float, float], float]) -> float:
    """Return the median result of `compare` in the rounds in which both slices are undisturbed."""
    pairs = zip(slices, base, strict=True)
    return _median([compare(first.cost, second.cost) for first, second in pairs if first.cost and second.cost])


def _median(values: Sequence[float]) -> float:
    if not values:
        sys.exit("cores.sh: all slices of a case were disturbed: measure again when the host has less other work")
    return median(values)


def figure(values: Sequence[float], digits: int) -> str:
    """Return the median, the lowest and the highest value."""
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def run(*argv: str, **options: Any) -> str:
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=False, **options)
    if done.returncode:
        sys.exit(f"cores.sh: {' '.join(argv)}: exit status {done.returncode}")
    return str(done.stdout)


if __name__ == "__main__":
    main()
