"""`nftlb doctor`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from textwrap import indent
from typing import TYPE_CHECKING

import click

from nftlb.config import load, lookups_of, resolve
from nftlb.doctor import Severity, examine, fixes_of
from nftlb.doctor.finding import error, warning
from nftlb.errors import SystemFault
from nftlb.kernel.surroundings import addresses_for
from nftlb.printable import printable
from nftlb.resolver import look_up_now

from .arguments import examples, optional_file_argument
from .fixing import MODULES_FILE, SYSCTL_FILE, carry_out
from .output import write_error, write_output

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nftlb.doctor import Finding, Fixes
    from nftlb.model import Config

_FOUND_ERRORS = 3


@click.command(
    "doctor",
    epilog=examples("nftlb doctor", "nftlb doctor pools.yaml", "nftlb doctor --fix --permanent /etc/nftlb/nftlb.yaml"),
)
@optional_file_argument
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--fix", is_flag=True, help="Set the sysctls and load the modules that the findings name; asks first.")
@click.option("-y", "--yes", is_flag=True, help="With --fix: do not ask.")
@click.option("--permanent", is_flag=True, help=f"With --fix: also write {SYSCTL_FILE} and {MODULES_FILE}.")
def doctor_command(file: str | None, as_json: bool, fix: bool, yes: bool, permanent: bool) -> int:
    """Check whether nftlb, or FILE in particular, can work on this host, and say how to fix each problem.

    Changes nothing without --fix. Exit status: 0 if nothing prevents nftlb from working, 3 if something does; with
    --fix, this counts after the fixes.
    """
    if (yes or permanent) and not fix:
        raise click.UsageError("--yes and --permanent are only used with --fix.")
    if fix and as_json:
        raise click.UsageError("--json shows findings only; give it without --fix.")
    config, names = (None, []) if file is None else _looked_up(load(file))
    findings = [*names, *examine(config)]
    if as_json:
        write_output(json.dumps([asdict(finding) for finding in findings], indent=2) + "\n")
    else:
        write_output("".join(map(_text, findings)))
    if fix and (found := fixes_of(findings)):
        if not yes and not _confirmed(found, permanent):
            return _status(findings)
        carry_out(found, permanent=permanent)
        findings = [*names, *examine(config)]
        write_output(
            "After the fixes:\n" + "".join(_text(left) for left in findings if left.severity is not Severity.OK)
        )
    elif fix:
        write_output("There is nothing that --fix can change.\n")
    return _status(findings)


def _status(findings: Iterable[Finding]) -> int:
    return _FOUND_ERRORS if any(finding.severity is Severity.ERROR for finding in findings) else 0


def _confirmed(fixes: Fixes, permanent: bool) -> bool:
    """Show what would be done, and ask."""
    lines = [f"load the module {module}" for module in fixes.modules]
    lines += [f"set {name} = {value}" for name, value in fixes.sysctls.items()]
    if permanent:
        lines += [
            f"write {path}" for path, wanted in ((SYSCTL_FILE, fixes.sysctls), (MODULES_FILE, fixes.modules)) if wanted
        ]
    write_output("".join(f"- {line}\n" for line in lines) + "Do this? [y/N]: ")
    answer = "" if sys.stdin is None else sys.stdin.readline()
    if not answer:
        write_output("\n")
        write_error(
            "nftlb: there is no input to answer from, so nothing was changed; --yes changes without a question\n"
        )
    return answer.strip().lower() in {"y", "yes"}


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
