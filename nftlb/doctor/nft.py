"""Asks libnftables: what it is, what it can do, and which tables others have."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Nft:
    """What was found out. `problem`: why nothing else could be; the rest is empty then."""

    problem: str = ""
    mend: str = ""
    version: str = ""
    tried: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    """What was refused of what was tried, by name: the first line of the reason."""
    foreign: tuple[Mapping[str, Any], ...] = ()
    """Everything in the tables of others, as `nft --json list` has it, without the elements of sets."""


def read_nft(tried: Mapping[str, str], own_table: str) -> Nft:
    """Try these texts without loading them, and read all tables but those called `own_table`."""
    try:
        import nftables  # noqa: PLC0415 - belongs to the distribution, and its absence is a finding
    except ImportError as problem:
        return Nft(f"no binding of libnftables for this Python: {problem}", "apt install python3-nftables")
    nft = nftables.Nftables()
    nft.set_json_output(True)
    nft.set_terse_output(True)
    status, output, message = nft.cmd("list tables")
    if status:
        if "not permitted" in message:
            return Nft("not permitted to use nftables", "run it as root, or with CAP_NET_ADMIN")
        return Nft(f"nf_tables can't be used: {_first_line(message)}", "modprobe nf_tables")
    objects = json.loads(output)["nftables"]
    tables = [one["table"] for one in objects if "table" in one]
    foreign: list[Mapping[str, Any]] = []
    for table in tables:
        if table["name"] != own_table:
            status, output, _ = nft.cmd(f"list table {table['family']} {table['name']}")
            if status == 0:  # it may be gone by now
                foreign += json.loads(output)["nftables"][1:]
    version = next((one["metainfo"]["version"] for one in objects if "metainfo" in one), "")
    return Nft("", "", version, tried, _refused(nft, tried), tuple(foreign))


def _refused(nft: Any, tried: Mapping[str, str]) -> dict[str, str]:
    refused = {}
    nft.set_dry_run(True)
    for name, text in tried.items():
        status, _, message = nft.cmd(text)
        if status:
            refused[name] = _first_line(message)
    return refused


def _first_line(message: str) -> str:
    """Return the reason without where it occurred and without the echo of the text."""
    line = next((line for line in message.splitlines() if "rror" in line), message.strip())
    return line.partition("Error: ")[2] or line
