"""Measures the figures of the documents: `make bench`. Both parts of each ratio are from one run on one machine.

Needs root or a user namespace: rules are loaded in a new network namespace.
"""

from __future__ import annotations

import gc
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pools import odd_text, text

from nftlb.compiler import Compiled
from nftlb.config import parse_config, read_file
from nftlb.config.assemble import assemble
from nftlb.config.document import read_yaml
from nftlb.config.source_lists import SourceLists
from nftlb.kernel import LibNftables
from nftlb.lab import Namespace, userns
from nftlb.model import Membership
from nftlb.ruleset import Operation, Ruleset, Transaction, Verb
from nftlb.swap.applier import Applier
from nftlb.swap.plan import make

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

COMMAND = Path(sys.executable).with_name("nftlb")
POOLS, BACKENDS = 1000, 10
MOST_POOLS, FEW_BACKENDS = 10_000, 4
ROUNDS = 31
SIZES = (1001, 3000, MOST_POOLS)
"""Numbers of pools. With each of them, rules choose the slots, and not maps."""


def main() -> None:
    userns.ensure()
    with tempfile.TemporaryDirectory() as folder:
        small, large = Path(folder) / "small.yaml", Path(folder) / "large.yaml"
        small.write_text(text(1, 3))
        large.write_text(text(POOLS, BACKENDS))
        show("nftlb compile, 1 pool x 3, whole process", seconds(lambda: command("compile", small), 11))
        show("... processor time", processor(lambda: command("compile", small), 15))
        show(f"nftlb compile, {POOLS} pools x {BACKENDS}, whole process", seconds(lambda: command("compile", large), 5))
        show_peak()
        odd = Path(folder) / "odd.yaml"
        odd.write_text(odd_text(100, 250))
        show("nftlb compile, 100 pools x 250 with odd weights", seconds(lambda: command("compile", odd), 5))
        show("... processor time", processor(lambda: command("compile", odd), 5))
        show_peak()
        most = Path(folder) / "most.yaml"
        most.write_text(text(MOST_POOLS, FEW_BACKENDS))
        with Namespace("bench") as namespace:
            show(f"nftlb apply, {MOST_POOLS} pools x {FEW_BACKENDS}, processor time", first_load(namespace, most, 5))
            show_peak()
            for pools in (1, 100, POOLS):
                namespace.call(swaps, pools)
            for pools in SIZES:
                namespace.call(parts, pools)


def first_load(namespace: Namespace, file: Path, rounds: int) -> float:
    """The median processor time of `nftlb apply` without tables before, in seconds, with that of the kernel."""
    times = []
    for _ in range(rounds):
        times.append(processor(lambda: namespace.run([str(COMMAND), "apply", "--quiet", str(file)]), 1))
        namespace.run(["nft", "flush", "ruleset"])
    return statistics.median(times)


def swaps(pools: int) -> None:
    """Change one of many pools, and compare the time of `update` with that of its transaction alone."""
    config = parse_config(text(pools, BACKENDS), "bench.yaml")
    with TimedKernel() as kernel:
        applier = Applier(kernel, config.table)
        begin = time.perf_counter()
        applier.load(config)
        show(f"first load of {pools} x {BACKENDS}", time.perf_counter() - begin)
        bare, whole = [], []
        for number in range(ROUNDS):
            down = Membership.with_down([(f"pool{number % pools}", f"b{number % BACKENDS}")])
            kernel.taken = 0.0
            begin = time.perf_counter()
            applier.update(down)
            whole.append(time.perf_counter() - begin)
            bare.append(kernel.taken)
        applier.remove()
    show(f"bare transaction for one pool of {pools}", statistics.median(bare))
    show("Applier.update, that transaction included", statistics.median(whole))
    print(f"{'... relative to the bare transaction':<60} {statistics.median(whole) / statistics.median(bare):8.2f}")


def parts(pools: int) -> None:
    """Measure the parts of a first load, without garbage collection, as in a command: the least of three, each."""
    least: dict[str, float] = {}

    def measured(part: str, action: Callable[[], T]) -> T:
        before = resource.getrusage(resource.RUSAGE_SELF)
        found = action()
        after = resource.getrusage(resource.RUSAGE_SELF)
        user, kernel = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
        for name, taken in ((part, user), (f"{part}, in the kernel", kernel)):
            least[name] = min(taken, least.get(name, taken))
        return found

    gc.disable()
    for _ in range(3):
        load_in_parts(text(pools, FEW_BACKENDS), measured)
        gc.collect()
    gc.enable()
    for name, taken in least.items():
        show(f"{pools} x {FEW_BACKENDS}, {name}", taken)


def load_in_parts(written: str, measured: Callable[[str, Callable[[], Any]], Any]) -> None:
    document = measured("read YAML", lambda: read_yaml(written, "bench.yaml"))
    config = measured("validate", lambda: assemble(document, "bench.yaml", SourceLists(read_file, lenient=False)))
    ruleset = measured("compile", lambda: Compiled(config).ruleset())
    transaction = make(Ruleset(config.table), ruleset)
    measured("write the text", lambda: transaction.text)
    with LibNftables() as kernel:
        measured("libnftables", lambda: kernel.apply(transaction))
        kernel.apply(Transaction(config.table, tuple(Operation(Verb.DELETE, family) for family in ruleset.tables)))


class TimedKernel(LibNftables):
    """Adds up the seconds that libnftables and the kernel take for transactions."""

    taken = 0.0

    def apply(self, transaction: Transaction) -> None:
        begin = time.perf_counter()
        super().apply(transaction)
        self.taken += time.perf_counter() - begin


def command(*words: object) -> None:
    subprocess.run([COMMAND, *map(str, words)], check=True, stdout=subprocess.DEVNULL)


def seconds(action: Callable[[], None], rounds: int) -> float:
    """The median duration of `rounds` calls, in seconds."""
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        action()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def processor(action: Callable[[], object], rounds: int) -> float:
    """The median processor time of the processes that `rounds` calls run, in seconds."""
    times = []
    for _ in range(rounds):
        before = os.times()
        action()
        after = os.times()
        times.append(after.children_user + after.children_system - before.children_user - before.children_system)
    return statistics.median(times)


def show_peak() -> None:
    """The peak memory of the largest command so far."""
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"{'... and its peak memory':<60} {peak:8.0f} MB")


def show(what: str, taken: float) -> None:
    print(f"{what:<60} {taken * 1000:8.2f} ms")


if __name__ == "__main__":
    main()
