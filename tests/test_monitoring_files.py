"""The files for Nagios, Icinga and Zabbix in deploy/monitoring: they name commands, options and fields that exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest
import yaml
from check_programs import example_host

from nftlb.cli.group import root
from nftlb.service import BackendStatus, PoolStatus, Status

if TYPE_CHECKING:
    from collections.abc import Iterator

MONITORING = Path(__file__).parents[1] / "deploy/monitoring"
TEMPLATE = yaml.safe_load((MONITORING / "zabbix.yaml").read_text())["zabbix_export"]["templates"][0]

INNER: dict[str, Any] = {"pools": PoolStatus, "backends": BackendStatus}


def dicts(found: Any) -> Iterator[dict[str, Any]]:
    """All mappings in a document."""
    if isinstance(found, dict):
        yield found
    for inner in found.values() if isinstance(found, dict) else found if isinstance(found, list) else ():
        yield from dicts(inner)


@pytest.mark.parametrize("path", sorted(
    step["parameters"][0] for step in dicts(TEMPLATE) if step.get("type") == "JSONPATH"
))  # fmt: skip
def test_zabbix_reads_fields_of_the_status(path: str) -> None:
    """Each JSONPath names fields that the models of the API have."""
    model: Any = Status
    for part in re.sub(r"\.(?:first|length)\(\)$", "", path).removeprefix("$.").split("."):
        if part.startswith("name=="):  # the rest of a filter [?(@.name=="X")]
            continue
        name = re.sub(r"\[\?\(@$", "", part)
        assert name in model.model_fields
        model = INNER.get(name) or model.model_fields[name].annotation


def test_triggers_of_zabbix_name_items() -> None:
    """Each trigger uses keys of items of the template, and no identifier is given twice."""
    found = list(dicts(TEMPLATE))
    keys = {item["key"] for item in found if "key" in item}
    expressions = [item["expression"] for item in found if "expression" in item]
    used = {key for text in expressions for key in re.findall(r"/nftlb/([\w.]+(?:\[[^\]]*\])?)", text)}
    uuids = [item["uuid"] for item in found if "uuid" in item]

    assert len(expressions) == 5
    assert set() == used - keys
    kept = {item["key"] for item in found if "key" in item and item.get("history") != "0"}
    assert set() == used - kept  # Zabbix evaluates no trigger of an item without history
    assert len(uuids) == len(set(uuids))
    assert all(re.fullmatch(r"[0-9a-f]{12}4[0-9a-f]{3}[89ab][0-9a-f]{15}", text) for text in uuids)


def test_commands_of_nagios_and_icinga() -> None:
    """The command lines have a command and options of nftlb."""
    command = root.get_command(click.Context(root), "health")
    assert command is not None
    text = (MONITORING / "nagios.cfg").read_text()
    lines = re.findall(r"/usr/bin/nftlb health (.*)", text.replace("$ARG1$", ""))
    arguments = re.findall(r"check_command +check_nftlb!(.*)", text)
    icinga = (MONITORING / "icinga2.conf").read_text()
    for words in [*lines, *arguments, *(f"{option} 1" for option in re.findall(r'"(--(?!nagios)[a-z]+)" =', icinga))]:
        command.make_parser(click.Context(command)).parse_args(shlex.split(words))
    assert (2, 1) == (len(lines), len(arguments))
    assert '[ "/usr/bin/nftlb", "health", "--nagios" ]' in icinga


def test_an_agent_of_icinga_has_a_zone() -> None:
    """Icinga refuses a check with `command_endpoint` if its host, for instance in conf.d, has no zone."""
    lines = example_host().splitlines()
    assert {"vars.agent_endpoint = name", "zone = ZoneName"} <= set(lines)
