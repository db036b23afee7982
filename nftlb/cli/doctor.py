"""`nftlb doctor`."""

from __future__ import annotations

import json
from dataclasses import asdict
from textwrap import indent
from typing import TYPE_CHECKING

import click

from nftlb.config import load
from nftlb.doctor import Severity, examine
from nftlb.printable import printable

from .arguments import examples, optional_file_argument
from .output import write_output

if TYPE_CHECKING:
    from nftlb.doctor import Finding

_FOUND_ERRORS = 3


@click.command("doctor", epilog=examples("nftlb doctor", "nftlb doctor pools.yaml"))
@optional_file_argument
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor_command(file: str | None, as_json: bool) -> int:
    """Check whether nftlb, or FILE in particular, can work on this host, and say how to fix each problem.

    Changes nothing. Exit status: 0 if nothing prevents nftlb from working, 3 if something does.
    """
    findings = examine(None if file is None else load(file))
    if as_json:
        write_output(json.dumps([asdict(finding) for finding in findings], indent=2) + "\n")
    else:
        write_output("".join(map(_text, findings)))
    return _FOUND_ERRORS if any(finding.severity is Severity.ERROR for finding in findings) else 0


def _text(finding: Finding) -> str:
    fix = f"{indent(finding.fix, ' ' * 9)}\n" if finding.fix else ""
    return f"{finding.severity:<8} {printable(finding.subject)}: {printable(finding.message)}\n{fix}"
