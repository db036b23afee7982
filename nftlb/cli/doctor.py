"""`nftlb doctor`."""

from __future__ import annotations

import json
from dataclasses import asdict
from textwrap import indent
from typing import TYPE_CHECKING

import click

from nftlb.cli.inputs import examples, optional_file_argument
from nftlb.cli.output import write
from nftlb.config import load
from nftlb.doctor import Severity, examine
from nftlb.printable import printable

if TYPE_CHECKING:
    from nftlb.doctor import Finding

_FOUND_ERRORS = 3


@click.command(epilog=examples("nftlb doctor", "nftlb doctor pools.yaml"))
@optional_file_argument
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def doctor(file: str | None, as_json: bool) -> int:
    """Look for what would stop nftlb, or FILE in particular, from working on this host, and tell the mend.

    Changes nothing. Exit status: 0 if nothing would stop it, 3 if something would.
    """
    findings = examine(None if file is None else load(file))
    if as_json:
        write(json.dumps([asdict(one) for one in findings], indent=2) + "\n")
    else:
        write("".join(map(_text, findings)))
    return _FOUND_ERRORS if any(one.severity is Severity.ERROR for one in findings) else 0


def _text(finding: Finding) -> str:
    mend = f"{indent(finding.mend, ' ' * 9)}\n" if finding.mend else ""
    return f"{finding.severity:<8} {printable(finding.subject)}: {printable(finding.message)}\n{mend}"
