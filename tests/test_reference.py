"""The documents name all keys, metrics, alerts, calls of the API, events, exit statuses and commands of the code."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import yaml
from fake_service import NOON, a_backend, a_collector, a_pool, an_overview
from prometheus_client.parser import text_string_to_metric_families

import nftlb.cli.diff
import nftlb.client  # noqa: F401 - for its exit statuses
from nftlb.cli.group import COMMANDS, root
from nftlb.config import json_schema, parse_config
from nftlb.daemon.journal import message_id
from nftlb.errors import NftlbError
from nftlb.metrics import Metrics
from nftlb.model import EventKind
from nftlb.service import Fault, GuardStatus
from nftlb.web.routes import ROUTES

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
HOOKED = """
pools:
  dns:
    listen: 192.0.2.53:53/udp
    backends: {a: 10.0.0.11:53}
    mirror: {archive: 10.0.9.9:53}
    hooks: {backend_up: [/bin/true]}
"""


def table(page: str, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading of a page, without the line of names."""
    section = re.split(rf"(?m)^#+ {heading}$", (DOCS / page).read_text())[1]
    lines = re.findall(r"(?m)^\|.*\|$", section.split("\n#")[0])
    rules = [number for number, line in enumerate(lines) if set(line) <= set("|-")]
    last = rules[1] - 1 if len(rules) > 1 else len(lines)
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[rules[0] + 1 : last]]


def names(cell: str) -> list[str]:
    """The words in backticks of a cell."""
    return re.findall(r"`([^`]+)`", cell)


def test_metrics_are_those_of_the_code() -> None:
    """docs/monitoring.md has every metric, with its type and labels, and no other metric of nftlb."""
    metrics = Metrics()
    metrics.follow(parse_config(HOOKED, "test.yaml"))
    metrics.checked("dns", "a", "icmp", True, 0.1)
    metrics.checked("dns", "archive", "icmp", True, 0.1)
    metrics.watch(_NoLoop(), lambda: {"entries": 1, "limit": 2})  # type: ignore[arg-type]
    page = metrics.page()
    backend = a_backend("a", requests=4, replies=3, answered=0.75, labels={"NAME": "x"})
    guard = GuardStatus(rate=0, banned=0, denied=0, full=0)
    page.add(a_pool("dns", backend, priority=1, collectors=(a_collector("archive"),), guard=guard))
    text = page.finish(an_overview(faults=(Fault(what="x", message="", since=NOON),))).decode()
    found = set()
    for family in text_string_to_metric_families(text):
        if family.name.startswith("nftlb_"):
            labels = {label for sample in family.samples for label in sample.labels} - {"le"}
            name = f"{family.name}_total" if family.type == "counter" else family.name
            found.add((name, family.type, frozenset(labels)))

    written = {(names(row[0])[0], row[1], frozenset(names(row[2]))) for row in table("monitoring.md", "Metrics")}

    assert found == written


def test_metrics_of_a_pool_name_it() -> None:
    """What happens to pools and backends has their names as labels, and each duration ends in `_duration_seconds`."""
    written = {names(row[0])[0]: set(names(row[2])) for row in table("monitoring.md", "Metrics")}
    of_the_loop = {"nftlb_check_lag_seconds"}
    happening = {name for name in written if re.search("check|refusal|transition|mode|hook|guard", name)} - of_the_loop
    assert set() == {name for name in happening if "pool" not in written[name]}
    of_a_backend = {name for name in written if re.match("nftlb_(backend|checks|check_duration)", name)}
    assert set() == {name for name in of_a_backend if not written[name] >= {"pool", "backend"}}
    assert set() == {name for name in written if "duration" in name and not name.endswith("_duration_seconds")}


class _NoLoop:
    """An event loop for `asyncio.all_tasks`, which compares loops only."""


def test_alerts_are_those_of_the_rules() -> None:
    """docs/monitoring.md explains every alert of deploy/monitoring/alerts.yml, in the same order."""
    groups = yaml.safe_load((ROOT / "deploy/monitoring/alerts.yml").read_text())["groups"]

    rules = [rule for group in groups for rule in group["rules"]]

    assert [rule["alert"] for rule in rules] == [names(row[0])[0] for row in table("monitoring.md", "Alerts")]
    assert [] == [rule for rule in rules if {"severity"} != rule["labels"].keys()]
    assert [] == [rule for rule in rules if {"summary", "description"} != rule["annotations"].keys()]


def test_panels_are_complete() -> None:
    """Every panel has a title, a description and an expression, has its own id, and covers no other panel."""
    panels = json.loads((ROOT / "deploy/monitoring/dashboard.json").read_text())["panels"]

    assert len(panels) == len({panel["id"] for panel in panels})
    for panel in panels:
        assert panel["title"]
        assert panel["type"] == "row" or (panel["description"] and all(one["expr"] for one in panel["targets"]))
    covered = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(covered) == len(set(covered))
    assert max(x for x, _ in covered) < 24


def test_events_are_those_of_the_code() -> None:
    """docs/monitoring.md has every kind of event, with its id in the journal."""
    written = {names(row[0])[0]: names(row[2])[0] for row in table("monitoring.md", "Events")}

    assert {kind: message_id(kind) for kind in EventKind} == written


def test_calls_are_those_of_the_api() -> None:
    """docs/daemon.md has every call of the API."""
    written = set()
    for row in table("daemon.md", "HTTP"):
        method = ""
        for name in names(row[0]):
            *before, path = name.split()
            method = before[0] if before else method
            path = re.sub(r"\[.*\]", "", path)
            path = path if path.startswith("/api") or before else f"/api/v1{path}"
            written.add((method, re.sub(r"/P\b", "/{pool}", re.sub(r"/B\b", "/{backend}", path))))

    assert {(route.method, route.path) for route in ROUTES} == written


def _errors(kind: type[NftlbError]) -> Iterator[type[NftlbError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _errors(below)


def test_exit_statuses_are_those_of_the_errors() -> None:
    """docs/commands.md has the exit status of every error, and those of success and of a wrong command line."""
    rows = re.findall(r"(?m)^\| (\d) \|", (DOCS / "commands.md").read_text())

    assert {0, 2, *(kind.exit_status for kind in _errors(NftlbError))} == set(map(int, rows))


def _keys(schema: Any) -> Iterator[str]:
    """The keys of all mappings of a JSON Schema. Names that the user chooses are no keys."""
    if isinstance(schema, dict):
        for name, below in schema.items():
            if name == "properties":
                yield from below
                for one in below.values():
                    yield from _keys(one)
            else:
                yield from _keys(below)
    elif isinstance(schema, list):
        for one in schema:
            yield from _keys(one)


def test_keys_are_documented() -> None:
    """Every key of the file is in docs/configuration.md or docs/daemon.md."""
    text = "".join((DOCS / page).read_text() for page in ("configuration.md", "daemon.md"))
    written = set(re.findall(r"[a-z]\w*", " ".join(re.findall(r"`[^`\n]+`|(?m:^    .*$)", text))))

    assert set() == set(_keys(json_schema())) - written


def test_commands_are_documented() -> None:
    """Every command is in a document."""
    text = "".join(path.read_text() for path in [ROOT / "README.md", *DOCS.rglob("*.md")])

    assert set() == COMMANDS.keys() - set(re.findall(r"nftlb ([a-z]+)", text))


def test_generated_pages_have_everything() -> None:
    """The pages that `make docs` generates have every command with its options, every key, and every call."""
    pages = runpy.run_path(str(ROOT / "tools/reference.py"))["pages"]()

    assert list(COMMANDS) == re.findall(r"(?m)^## (.*)$", pages["commands.md"])
    for name in COMMANDS:
        command = root.get_command(click.Context(root), name)
        assert command is not None
        section = pages["commands.md"].split(f"\n## {name}\n")[1].split("\n## ")[0]
        long_ones = {
            max(one.opts, key=len) for one in command.params if isinstance(one, click.Option) and not one.hidden
        }
        assert set() == long_ones - set(re.findall(r"(--[\w-]+)", section)), name
    assert set(_keys(json_schema())) == set(re.findall(r"(?m)^\| `([^`]+)` \|", pages["keys.md"]))
    calls = {(route.method, route.path) for route in ROUTES}
    assert calls == {tuple(call.split()) for call in re.findall(r"(?m)^## (.*)$", pages["api.md"])}
