"""The tables of documents that come from the code: metrics, events and exit statuses. `make tables` writes them.

A table stands between two comments: `<!-- table NAME: written by make tables -->` and `<!-- end of table -->`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from fake_service import NOON, a_backend, a_collector, a_pool, an_overview
from prometheus_client.parser import text_string_to_metric_families

from nftlb.config import parse_config
from nftlb.daemon.journal import message_id
from nftlb.errors import EXIT_STATUSES
from nftlb.metrics import Metrics
from nftlb.model import EVENT_MEANINGS
from nftlb.service import Fault, GuardStatus

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from prometheus_client.metrics_core import Metric

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ("monitoring.md", "commands.md")
_TABLE = re.compile(r"(?s)(<!-- table ([a-z ]+): written by make tables -->\n\n).*?(\n<!-- end of table -->)")
_EVERYTHING = """
pools:
  dns:
    listen: 192.0.2.53:53/udp
    backends: {a: 10.0.0.11:53}
    mirror: {archive: 10.0.9.9:53}
    hooks: {backend_up: [/bin/true]}
"""


def tables() -> dict[str, str]:
    """Each table by its name, as Markdown."""
    return {
        "metrics": _table(("metric", "type", "labels", "meaning"), map(_metric_row, metric_families())),
        "events": _table(
            ("event", "when", "MESSAGE_ID"),
            ((f"`{kind}`", meaning, f"`{message_id(kind)}`") for kind, meaning in EVENT_MEANINGS.items()),
        ),
        "exit statuses": _table(
            ("exit status", "meaning"), ((str(status), meaning) for status, meaning in EXIT_STATUSES.items())
        ),
    }


def filled(text: str, made: Mapping[str, str]) -> str:
    """The text of a document with its tables written again. KeyError for a table that does not come from the code."""
    return _TABLE.sub(lambda found: found[1] + made[found[2]] + found[3], text)


def metric_families() -> list[Metric]:
    """Every metric of nftlb, from the page of a daemon with one pool that uses all features."""
    metrics = Metrics()
    metrics.follow(parse_config(_EVERYTHING, "test.yaml"))
    metrics.checked("dns", "a", "icmp", True, 0.1)
    metrics.checked("dns", "archive", "icmp", True, 0.1)
    metrics.watch(_NoLoop(), lambda: {"entries": 1, "limit": 2})  # type: ignore[arg-type]
    page = metrics.page()
    backend = a_backend("a", copies=2, requests=4, replies=3, answered=0.75, labels={"NAME": "x"})
    guard = GuardStatus(rate=0, banned=0, denied=0, full=0)
    page.add(a_pool("dns", backend, priority=1, collectors=(a_collector("archive"),), guard=guard))
    text = page.finish(an_overview(faults=(Fault(what="x", message="", since=NOON),))).decode()
    return [family for family in text_string_to_metric_families(text) if family.name.startswith("nftlb_")]


class _NoLoop:
    """An event loop for `asyncio.all_tasks`, which compares loops only."""


def _metric_row(family: Metric) -> tuple[str, ...]:
    labels = [f"`{label}`" for label in dict.fromkeys(label for one in family.samples for label in one.labels)]
    written = ", ".join(label for label in labels if label != "`le`")
    name = f"{family.name}_total" if family.type == "counter" else family.name
    # A sample has the label of a backend, or that of a collector.
    either = written.replace(", `collector`", "").replace("`backend`", "`backend` or `collector`")
    meaning = family.documentation.removesuffix(".")
    return f"`{name}`", family.type, either if "`backend`" in labels and "`collector`" in labels else written, meaning


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    names = list(heads)
    lines = [f"| {' | '.join(cells)} |\n" for cells in (names, *rows)]
    return "".join([lines[0], f"|{'---|' * len(names)}\n", *lines[1:]]).replace("|  |", "| |")


def main() -> None:
    """Write the tables into the documents."""
    made = tables()
    for page in PAGES:
        path = DOCS / page
        path.write_text(filled(path.read_text(), made))


if __name__ == "__main__":
    main()
