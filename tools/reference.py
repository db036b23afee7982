"""Writes the reference pages of `make docs` from the code: reference.py DIRECTORY.

DIRECTORY gets commands.md, keys.md and api.md: each command with its options, each key of the file with its values and
its default, and each call of the API. `make tables` writes the tables of metrics, events and exit statuses into docs/.
tests/test_reference.py compares the other documents with the code.
"""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nftlb.cli.group import COMMANDS
from nftlb.config import json_schema
from nftlb.web.openapi import openapi

if TYPE_CHECKING:
    from collections.abc import Iterator

_MANUAL = runpy.run_path(str(Path(__file__).with_name("manual.py")))


def pages() -> dict[str, str]:
    """The pages by the names of their files, as Markdown."""
    return {
        "commands.md": "\n".join(_commands()) + "\n",
        "keys.md": "\n".join(_keys(json_schema())) + "\n",
        "api.md": "\n".join(_calls(openapi())) + "\n",
    }


def _commands() -> Iterator[str]:
    yield from ["# Every command", "", "The text of `nftlb COMMAND --help`, which `man nftlb-COMMAND` has too."]
    for name, line in COMMANDS.items():
        context = _MANUAL["command_context"](name)
        usage = " ".join(context.command.collect_usage_pieces(context))
        yield from ["", f"## {name}", "", f"    nftlb {name} {usage}"]
        for verbatim, text in _MANUAL["paragraphs"](context.command.help or line):
            yield from ["", *(f"    {part}" for part in text.split("\n"))] if verbatim else ["", text]
        yield from ["", "| option | |", "|---|---|"]
        for option, text in _MANUAL["options"](context):
            yield f"| `{_cell(option)}` | {_cell(text)} |"
        for verbatim, text in _MANUAL["paragraphs"](context.command.epilog or ""):
            yield from ["", *(f"    {part.strip()}" for part in text.split("\n")[1:])] if verbatim else ["", text]


def _keys(schema: dict[str, Any]) -> Iterator[str]:
    yield from [
        "# Every key of the file",
        "",
        "[The configuration file](../../docs/configuration.md) explains the keys.",
    ]
    yield from _mapping("The file", schema)
    for name, one in sorted(schema["$defs"].items(), key=lambda item: _title(*item)):
        yield from _mapping(_title(name, one), one)


def _title(name: str, schema: dict[str, Any]) -> str:
    return str(schema.get("title", name.removeprefix("Written").lower()))


def _mapping(title: str, schema: dict[str, Any]) -> Iterator[str]:
    """The keys of a mapping, also if the value may have another form. Nothing for other values."""
    forms = [schema, *schema.get("anyOf", ())]
    keys = {name: key for form in forms for name, key in form.get("properties", {}).items()}
    if not keys:
        return
    needed = {name for form in forms for name in form.get("required", ())}
    yield from ["", f"## {title}", "", schema.get("description", ""), "", "| key | default | |", "|---|---|---|"]
    for name, key in keys.items():
        default = "required" if name in needed else f"`{key['default']}`" if key.get("default") is not None else ""
        yield f"| `{name}` | {_cell(default)} | {_cell(key.get('description', ''))} |"


def _calls(api: dict[str, Any]) -> Iterator[str]:
    yield from ["# Every call of the API", "", "[The daemon](../../docs/daemon.md#http) explains the API."]
    for path, calls in api["paths"].items():
        for method, call in calls.items():
            if "responses" in call:
                yield from ["", f"## {method.upper()} {path}", "", call.get("description") or call.get("summary", "")]
                yield from ["", "| status | |", "|---|---|"]
                for status, response in call["responses"].items():
                    yield f"| {status} | {_cell(response.get('description', ''))} |"


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", r"\|")


if __name__ == "__main__":
    _MANUAL["write"](pages(), *sys.argv[1:])
