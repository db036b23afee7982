"""Writes the measured costs of a packet into docs/choosing.md and docs/operations.md, from docs/performance.md.

Run it after `bench/forwarding.sh IPVS_VM --report`. tests/test_figures.py fails if a figure is not that of the table
"One pool".
"""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"
TABLE = "One pool"
WAYS = {
    "plain routing": "routing",
    "IPVS `--ops`": "ipvs-ops",
    "`nat`": "nat",
    "`nat`, `source: keep`": "nat-keep",
    "`stateless`": "stateless",
    "`stateless`, `ingress`": "stateless-ingress",
    "`dsr`": "dsr",
    "`dsr`, `ingress`": "dsr-ingress",
}
"""What the other documents call the ways of docs/performance.md."""


def measured(performance: str) -> dict[str, tuple[int, str]]:
    """The nanoseconds of a packet, and the cost relative to IPVS, of each way in the table."""
    _, behind = performance.split(f"\n## {TABLE}\n")
    section, *_ = behind.split("\n## ")
    rows = re.findall(r"(?m)^\| `([\w-]+)` \| (\d+) \| -?\d+ \| (-?[\d.]+) ", section)
    return {way: (int(cost), relative) for way, cost, relative in rows}


def choosing(page: str, ways: dict[str, tuple[int, str]]) -> str:
    """docs/choosing.md with the costs relative to IPVS, in the fourth column of the table of the modes."""
    head, section = page.split("\n## What each mode means\n")
    table, rest = section.split("\n## ", 1)
    for label, way in WAYS.items():
        cells = rf"(?m)^(\| {re.escape(label)} \|[^|]*\|[^|]*\| )[^|]* \|"
        table = re.sub(cells, rf"\g<1>{ways[way][1]} |", table)
    return f"{head}\n## What each mode means\n{table}\n## {rest}"


def operations(page: str, ways: dict[str, tuple[int, str]]) -> str:
    """docs/operations.md with the nanoseconds of a packet, and the packets a second to three digits."""
    for label, way in WAYS.items():
        cost = ways[way][0]
        a_second = f"{round(1e9 / cost, -3):,.0f}"
        page = re.sub(rf"(?m)^\| {re.escape(label)} \| \d+ \| [\d,]+ \|$", f"| {label} | {cost} | {a_second} |", page)
    return page


PAGES = {"choosing.md": choosing, "operations.md": operations}


def main() -> None:
    """Write all figures."""
    ways = measured((DOCS / "performance.md").read_text(encoding="utf-8"))
    for name, write in PAGES.items():
        page = (DOCS / name).read_text(encoding="utf-8")
        (DOCS / name).write_text(write(page, ways), encoding="utf-8")


if __name__ == "__main__":
    main()
