"""Measures what a packet costs with nftlb's rules and with others, in a virtual machine.

Say what to measure: --all-tables, --tables, one or more of the dimensions (--pools, --backends, --flows, --bytes and
--packets: all combinations are measured), or --pieces. Each comparison is measured in several boots of the machine. The
raw data is written to DATA after each boot, so a stop loses the data of one boot.

The machine gets real-time priority, if permitted, so that other processes hardly use its processor.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from itertools import product
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import conditions
import pieces
import report
from cases import CLIENT, COLLECTOR_PORT, NAMES, NOBODY, REPLY, REQUEST, Case, Setting, address, cases, host
from tables import BASE, BOOTS, ROUNDS, TABLES, Table, table_of

if TYPE_CHECKING:
    from report import Data

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BATCH = 256
"""Datagrams of a system call."""
DIMENSIONS = ("pools", "backends", "flows", "bytes", "packets")


def main() -> None:
    options = read_options()
    conditions.keep_others_out()
    failed = []
    if options.pieces:
        data = measure(options, Table("pieces", "", BASE), "pieces", pieces.cases())
        added = {result.name: median(result.added) for result in report.results(data)}
        for kind, nanoseconds in pieces.weights(added).items():
            print(f"{kind:20}{nanoseconds:6.1f} ns")
    for table in options.chosen:
        try:
            ways = tuple(options.only or table.ways)
            measure(options, table, table.file, cases(table.setting, ways))
        except subprocess.CalledProcessError as error:
            print(f"{table.name}: {error}", file=sys.stderr)
            failed.append(table.name)
    if options.report:
        report.write(options.data, ROOT / ".venv-bench" / "bin" / "python")
    if failed:
        sys.exit(f"forwarding.sh: not measured: {', '.join(failed)}")


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="forwarding.sh",
        description=__doc__,
        epilog=f"Tables: {', '.join(table.name for table in TABLES)}.\nWays: {', '.join(NAMES)}.",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kit", type=Path, metavar="IPVS_VM", help="the folder of tools that boot a kernel with IPVS")
    what = parser.add_argument_group("what to measure")
    what.add_argument("--all-tables", action="store_true", help="all tables of docs/performance.md, and the report")
    what.add_argument(
        "--tables",
        nargs="+",
        default=[],
        metavar="NAME[=BOOTSxROUNDS]",
        help="these tables; with --all-tables: other numbers of boots and rounds for these tables",
    )
    for name, of in (("pools", "pools"), ("backends", "backends of a pool"), ("flows", "sockets of clients")):
        what.add_argument(f"--{name}", nargs="+", type=int, metavar="N", help=f"so many {of}")
    what.add_argument("--bytes", nargs="+", type=int, metavar="N", help="datagrams with so many bytes of payload")
    what.add_argument(
        "--packets", nargs="+", choices=(REQUEST, REPLY, NOBODY), metavar="KIND", help="request, reply or nobody"
    )
    what.add_argument("--pieces", action="store_true", help="the expressions of rules, for the weights of make costs")
    what.add_argument("--only", nargs="+", choices=NAMES, metavar="WAY", help="only these ways")
    how = parser.add_argument_group("how long, and the result")
    how.add_argument("--boots", type=int, metavar="N", help=f"boots of the machine ({BOOTS})")
    how.add_argument("--rounds", type=int, metavar="N", help=f"slices of each case in each boot ({ROUNDS})")
    how.add_argument("--slice", type=int, default=2048, metavar="N", help="datagrams in a slice (2048)")
    how.add_argument("--data", type=Path, default=ROOT / "docs" / "performance", help="the folder of raw data")
    how.add_argument("--report", action="store_true", help="then write docs/performance.md and its plots from DATA")
    options = parser.parse_args()
    try:
        options.chosen = chosen(options)
    except ValueError as error:
        parser.error(str(error))
    options.report = options.report or options.all_tables
    if not (options.chosen or options.pieces or options.report):
        parser.error("nothing to measure; needed: --all-tables, --tables, a dimension such as --pools, or --pieces")
    return options


def chosen(options: argparse.Namespace) -> list[Table]:
    """Return the tables to measure. Raises ValueError for a name or a size that is not valid."""
    named = {table.name: table for table in map(table_of, options.tables)}
    found = [named.get(table.name, table) for table in TABLES if options.all_tables or table.name in named]
    if any(getattr(options, name) for name in DIMENSIONS):
        values = [getattr(options, name) or [getattr(BASE, name)] for name in DIMENSIONS]
        settings = [Setting(*of) for of in product(*values)]
        found += [Table(str(setting), "", setting) for setting in settings]
    return found


def measure(options: argparse.Namespace, table: Table, name: str, compared: list[Case]) -> Data:
    """Measure in several boots; write the raw data after each, and return all."""
    boots, rounds = options.boots or table.boots, options.rounds or table.rounds
    data: Data = {
        "setting": asdict(table.setting),
        **conditions.description(),
        "command": shlex.join(["bench/forwarding.sh", "IPVS_VM", *sys.argv[2:]]),
        "sent": warming(table.setting) + rounds * (options.slice + BATCH),
        "cases": [{"name": case.name, "packets": case.packets} for case in compared],
        "boots": [],
    }
    data["machine"] = f"{data.pop('processor')}, Linux {data['kernel']}"
    options.data.mkdir(parents=True, exist_ok=True)
    for boot in range(boots):
        begin = time.monotonic()
        result = boot_once(options, compared, table.setting, rounds)
        data["kernel"] = f"user-mode Linux {result.pop('kernel')}"
        data["boots"].append(result)
        (options.data / f"{name}.json").write_text(report.raw_text(data))
        taken = time.monotonic() - begin
        print(f"{table.name}: boot {boot + 1} of {boots}, {len(compared)} cases, {taken:.0f} s", file=sys.stderr)
    print(report.summary(data))
    return data


def boot_once(options: argparse.Namespace, compared: list[Case], setting: Setting, rounds: int) -> dict[str, Any]:
    plan = {
        "rounds": rounds,
        "packets": options.slice,
        "batch": BATCH,
        "bytes": setting.bytes,
        "warming": warming(setting),
        "flows": setting.flows,
        "client": CLIENT,
        "collector": COLLECTOR_PORT,
        "backends": [(host(backend), address(backend)) for backend in range(setting.backends)],
        "cases": [asdict(case) for case in compared],
    }
    with tempfile.TemporaryDirectory() as folder:
        work, out = Path(folder) / "work", Path(folder) / "out"
        work.mkdir()
        out.mkdir()
        (work / "plan.json").write_text(json.dumps(plan))
        subprocess.run(["gcc", "-O2", "-Wall", "-static", "-o", work / "send", HERE / "send.c"], check=True)
        kit: Path = options.kit
        shown = ["-f", str(kit / "bench"), "-f", str(work), "-o", str(out)]
        machine = [str(kit / "run.sh"), "-t", "900", "-m", "4G", *shown]
        subprocess.run([*machine, str(HERE / "in_vm.py"), "work/plan.json", "out/result.json"], check=True)
        found: dict[str, Any] = json.loads((out / "result.json").read_text())
        return found


def warming(setting: Setting) -> int:
    """Return how many datagrams are not timed: with three backends, each flow meets each backend."""
    return 3000 + 4 * setting.flows


if __name__ == "__main__":
    main()
