"""The documents name all keys, metrics, alerts, calls of the API, events, exit statuses and commands of the code."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest
import yaml
from reference_tables import PAGES, filled, tables

import nftlb.cli.diff
import nftlb.client  # noqa: F401 - for its exit statuses
from nftlb.cli.group import COMMANDS, root
from nftlb.config import json_schema
from nftlb.errors import EXIT_STATUSES, NftlbError
from nftlb.model import EVENT_MEANINGS, EventKind
from nftlb.model.checks import CHECKS
from nftlb.web.routes import ROUTES

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


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


@pytest.mark.parametrize("page", PAGES)
def test_tables_are_those_of_the_code(page: str) -> None:
    """The tables of metrics, events and exit statuses are as `make tables` writes them."""
    text = (DOCS / page).read_text()

    assert filled(text, tables()) == text, "run make tables"


def test_all_tables_are_written() -> None:
    """Each table that comes from the code is in a document, and no document has another one."""
    places = re.findall(r"<!-- table ([a-z ]+): written", "".join(path.read_text() for path in DOCS.rglob("*.md")))

    assert sorted(tables()) == sorted(places)


def test_tables_have_everything() -> None:
    """The tables name each metric of the code, each kind of event, and the exit status of each error."""
    named = set(re.findall(r"(?<=\")nftlb_[a-z_]+(?=[\" ])", (ROOT / "nftlb/metrics.py").read_text()))
    named |= {f"nftlb_conntrack_{what}" for what in ("entries", "limit")}
    assert named == {names(row[0])[0] for row in table("monitoring.md", "Metrics")}

    assert set(EventKind) == EVENT_MEANINGS.keys()
    assert EXIT_STATUSES.keys() == {0, 2, *(kind.exit_status for kind in _errors(NftlbError))}


def test_metrics_of_a_pool_name_it() -> None:
    """What happens to pools and backends has their names as labels, and each duration ends in `_duration_seconds`."""
    written = {names(row[0])[0]: set(names(row[2])) for row in table("monitoring.md", "Metrics")}
    of_the_loop = {"nftlb_check_lag_seconds"}
    happening = {name for name in written if re.search("check|refusal|transition|mode|hook|guard", name)} - of_the_loop
    assert set() == {name for name in happening if "pool" not in written[name]}
    of_a_backend = {name for name in written if re.match("nftlb_(backend|checks|check_duration)", name)}
    assert set() == {name for name in of_a_backend if not written[name] >= {"pool", "backend"}}
    assert set() == {name for name in written if "duration" in name and not name.endswith("_duration_seconds")}


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


@pytest.mark.parametrize(
    ("page", "heading", "mapping", "column"),
    [
        ("configuration.md", "A pool", "WrittenPool", 2),
        ("configuration.md", "A backend", "WrittenBackend", 2),
        ("configuration.md", "Backends by name", "WrittenNameServers", 1),
        ("configuration.md", "Silent backends", "WrittenPassiveReplies", 1),
        ("configuration.md", "Copies to collectors", "WrittenCollector", 2),
        ("configuration.md", "Guard", "WrittenGuard", 2),
        ("daemon.md", "Health checks", "WrittenHealth", 1),
    ],
)
def test_defaults_are_those_of_the_code(page: str, heading: str, mapping: str, column: int) -> None:
    """A table of keys has the default of each key that has one, and the keys are those of the mapping."""
    known = _properties(mapping)
    compared = 0
    for row in table(page, heading):
        written = row[column].replace("`", "").replace(",", "" if len(names(row[0])) == 1 else ",").split(", ")
        for key, shown in zip(names(row[0]), written * len(names(row[0])), strict=False):
            default = known[key].get("default")
            if default not in (None, [], {}):
                assert _shown(default) == shown, key
                compared += 1
    assert compared


def test_defaults_of_checks_are_those_of_the_code() -> None:
    """The table of checks has every kind and all of its options, and the defaults in brackets are right."""
    section = (DOCS / "daemon.md").read_text().split("The kinds of checks:")[1].split("\n\n")[1]
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in section.splitlines()[2:]]
    assert list(CHECKS) == [names(row[0])[0] for row in rows]
    for kind, _, options in rows:
        known = _properties(f"Written{names(kind)[0].title()}")
        named = {name.split(":")[0] for name in names(options)}
        assert names(kind)[0] == "exec" or known.keys() <= named, kind
        for key, default in re.findall(r"`(\w+)` \(`?([\w.-]+)`?\)", options):
            assert _shown(known[key]["default"]) == default, key


def _shown(default: object) -> str:
    """A default of the schema, as a reader writes it."""
    text = str(default).lower() if isinstance(default, bool) else str(default)
    return {"3600s": "1h", "1.3.6.1.2.1.1.3.0": "sysUpTime"}.get(text, text)


def _properties(mapping: str) -> dict[str, dict[str, Any]]:
    """The keys of a mapping of the file, each with its schema."""
    schema = json_schema()["$defs"][mapping]
    forms = [schema, *schema.get("anyOf", ())]
    return {name: key for form in forms for name, key in form.get("properties", {}).items()}


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
