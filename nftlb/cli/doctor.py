"""`nftlb doctor`."""

from __future__ import annotations

import json
from dataclasses import asdict
from textwrap import indent
from typing import TYPE_CHECKING

import click

from nftlb.config import load, lookups_of, resolve
from nftlb.doctor import Severity, examine
from nftlb.doctor.finding import error, warning
from nftlb.errors import SystemFault
from nftlb.printable import printable
from nftlb.resolver import look_up_now

from .arguments import addresses_for, examples, optional_file_argument
from .output import write_output

if TYPE_CHECKING:
    from nftlb.doctor import Finding
    from nftlb.model import Config

_FOUND_ERRORS = 3


@click.command("doctor", epilog=examples("nftlb doctor", "nftlb doctor pools.yaml"))
@optional_file_argument
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor_command(file: str | None, as_json: bool) -> int:
    """Check whether nftlb, or FILE in particular, can work on this host, and say how to fix each problem.

    Changes nothing. Exit status: 0 if nothing prevents nftlb from working, 3 if something does.
    """
    config, findings = (None, []) if file is None else _looked_up(load(file))
    findings += examine(config)
    if as_json:
        write_output(json.dumps([asdict(finding) for finding in findings], indent=2) + "\n")
    else:
        write_output("".join(map(_text, findings)))
    return _FOUND_ERRORS if any(finding.severity is Severity.ERROR for finding in findings) else 0


def _looked_up(config: Config) -> tuple[Config, list[Finding]]:
    """The configuration with the addresses of this host and of the answers of DNS, and faults of the answers."""
    wanted, addresses = lookups_of(config), addresses_for(config)
    if not wanted:
        return resolve(config, {}, addresses).config, []
    try:
        resolution = resolve(config, look_up_now(wanted, config.resolver), addresses)
    except SystemFault as fault:
        fix = "correct the name or `resolver`; a daemon uses its last good answer meanwhile"
        return resolve(config, {}, addresses).config, [error("names", line, fix) for line in str(fault).splitlines()]
    return resolution.config, [
        warning(f"backend {pool}/{name}", note, "correct the records of the name")
        for (pool, name), notes in resolution.notes.items()
        for note in notes
    ]


def _text(finding: Finding) -> str:
    fix = f"{indent(finding.fix, ' ' * 9)}\n" if finding.fix else ""
    return f"{finding.severity:<8} {printable(finding.subject)}: {printable(finding.message)}\n{fix}"
