"""Summaries of the raw data: text, and the Markdown and the plots of docs/performance.md.

The figure to quote is the added cost relative to `ipvs-ops`: what a packet takes beyond plain routing, divided by what
a request through IPVS with `--ops` takes beyond plain routing in the same boot. There are two estimates. The estimate
to quote takes the fastest twentieth of the slices of a case, because other work of the host only makes slices slower.
The other estimate is the median of pairs: the difference between a slice and the slice of plain routing in the same
round.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tables import TABLES

Data = dict[str, Any]
HERE = Path(__file__).parent
ROOT = HERE.parents[1]
DOCUMENT = ROOT / "docs" / "performance.md"
MARKER = "<!-- What follows is written by bench/forwarding.sh. -->\n"
REFERENCE = ("request", "ipvs-ops")


@dataclass(frozen=True)
class Result:
    """The result of a case. `added` (in ns), `relative` and `paired` have a value for each boot."""

    name: str
    packets: str
    total: float
    added: list[float]
    relative: list[float]
    paired: list[float]
    """As `relative`, but from the medians of pairs."""
    missing: int
    """Datagrams that did not arrive, of all boots."""
    spread: tuple[float, ...]
    """The shares of the three hosts."""


def raw_text(data: Data) -> str:
    """Return JSON with one line for the result of a case, and one for its slices in a boot, in the order of rounds."""
    boots = data["boots"]
    text = json.dumps({**data, "boots": []}, indent=1)
    summaries = ",\n".join(f"  {_summary_of(result)}" for result in results(data))
    text = text.replace('"boots": []', f'"results": [\n{summaries}\n ],\n "boots": []')
    rows = []
    for boot in boots:
        slices = ",\n".join(f"   {json.dumps([round(duration) for duration in of_case])}" for of_case in boot["slices"])
        rest = {key: value for key, value in boot.items() if key != "slices"}
        rows.append(f'  {json.dumps(rest)[:-1]}, "slices": [\n{slices}]}}')
    joined = ",\n".join(rows)
    return text.replace('"boots": []', f'"boots": [\n{joined}\n ]') + "\n"


def _summary_of(result: Result) -> str:
    values = {name: [round(value, 3) for value in getattr(result, name)] for name in ("added", "relative", "paired")}
    return json.dumps({"name": result.name, "packets": result.packets, **values})


def results(data: Data) -> list[Result]:
    """Return the result of each case."""
    names = [(case["packets"], case["name"]) for case in data["cases"]]
    boots = [boot["slices"] for boot in data["boots"]]
    found = []
    for number, (packets, name) in enumerate(names):
        base = names.index((packets, "routing"))
        relative: list[float] = []
        paired: list[float] = []
        if REFERENCE in names:
            routing, reference = names.index((REFERENCE[0], "routing")), names.index(REFERENCE)
            for estimate, values in ((by_fast_slices, relative), (by_pairs, paired)):
                values += [estimate(of[number], of[base]) / estimate(of[reference], of[routing]) for of in boots]
        received = [boot["received"][number] for boot in data["boots"]]
        got = sum(map(sum, received))
        found.append(
            Result(
                name=name,
                packets=packets,
                total=median(fast(of[number]) for of in boots),
                added=[by_fast_slices(of[number], of[base]) for of in boots],
                relative=relative,
                paired=paired,
                missing=data["sent"] * len(received) - got,
                spread=tuple(sum(counts) / got for counts in zip(*received, strict=True)),
            )
        )
    return found


def figure(values: list[float]) -> str:
    """Return the median, the lowest and the highest value."""
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})" if values else ""


def summary(data: Data) -> str:
    """Return a table as text."""
    heads = f"{'relative to ipvs-ops':24}{'by pairs':24}"
    lines = [f"{'packets':9}{'case':24}{'ns':>6}{'added':>7}  {heads}missing  spread"]
    for result in results(data):
        spread = "/".join(f"{100 * share:.0f}" for share in result.spread)
        costs = (
            f"{result.total:6.0f}{median(result.added):7.0f}  {figure(result.relative):24}{figure(result.paired):24}"
        )
        lines.append(f"{result.packets:9}{result.name:24}{costs}{result.missing:7}  {spread}")
    return "\n".join(lines)


def write(folder: Path, python: Path) -> None:
    """Write the part of docs/performance.md behind the marker, and its plots. `python` has matplotlib."""
    found = [(table.title, folder / f"{table.file}.json") for table in TABLES]
    measured = [(title, path.stem, json.loads(path.read_text())) for title, path in found if path.exists()]
    before = DOCUMENT.read_text().partition(MARKER)[0]
    DOCUMENT.write_text(before + MARKER + "\n" + "\n".join(_section(*section) for section in measured))
    plots = [
        {
            "title": title,
            "file": str(folder / f"{name}.svg"),
            "bars": [
                {"name": result.name, "values": result.relative}
                for result in results(data)
                if result.packets == data["setting"]["packets"] and result.name != "routing"
            ],
        }
        for title, name, data in measured
    ]
    subprocess.run([python, HERE / "plot.py"], input=json.dumps(plots), text=True, check=True)


def _section(title: str, name: str, data: Data) -> str:
    rows = [
        f"| `{result.name}` | {result.total:.0f} | {median(result.added):.0f} | {figure(result.relative)} | "
        f"{figure(result.paired)} | {result.missing} |"
        for result in results(data)
        if result.packets == data["setting"]["packets"]
    ]
    slices = len(data["boots"][0]["slices"][0])
    return "\n".join(
        [
            f"## {title}",
            "",
            f"![{title}](performance/{name}.svg)",
            "",
            "| way | ns a packet | added ns | relative to `ipvs-ops` | the same by pairs | lost |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
            f"{data['date']}, {data['kernel']} on {data['machine']}; {len(data['boots'])} boots with {slices} slices",
            f"of each case; version {data['commit']}. `{data['command']}`, [raw data](performance/{name}.json).",
            "",
        ]
    )


def fast(slices: list[float]) -> float:
    """Return the time that a twentieth of the slices do not exceed."""
    return sorted(slices)[(len(slices) - 1) // 20]


def by_fast_slices(slices: list[float], base: list[float]) -> float:
    """Return the difference between the fast slices, in ns."""
    return fast(slices) - fast(base)


def by_pairs(slices: list[float], base: list[float]) -> float:
    """Return the median of the differences between slices of the same round, in ns."""
    return median(duration - base_duration for duration, base_duration in zip(slices, base, strict=True))
