"""`nftlb import`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nftlb.cli.check import warn
from nftlb.cli.includes import Includes
from nftlb.cli.inputs import examples
from nftlb.cli.output import STANDARD_OUTPUT, write_error, write_file
from nftlb.config import parse
from nftlb.config.document import MAX_BYTES
from nftlb.config.source import STDIN, read_source
from nftlb.errors import ConfigError, Problem
from nftlb.importer import from_ipvsadm, from_keepalived, from_ldirectord
from nftlb.importer.lines import Reading

if TYPE_CHECKING:
    from collections.abc import Callable

    from nftlb.importer import Imported
    from nftlb.model import Config

FROM: dict[str, Callable[..., Imported]] = {
    "keepalived": from_keepalived,
    "ldirectord": from_ldirectord,
    "ipvsadm": from_ipvsadm,
}


@click.command(
    "import",
    epilog=examples(
        "nftlb import keepalived /etc/keepalived/keepalived.conf -o pools.yaml",
        "nftlb import keepalived copy/etc/keepalived/keepalived.conf --root copy --id main",
        "nftlb import ldirectord /etc/ha.d/ldirectord.cf -o pools.yaml",
        "ipvsadm -S -n | nftlb import ipvsadm - > pools.yaml",
    ),
)
@click.argument("what", metavar="keepalived|ldirectord|ipvsadm", type=click.Choice(list(FROM)))
@click.argument("file", type=click.Path(allow_dash=True), metavar="FILE")
@click.option("-o", "--output", default="-", type=click.Path(), metavar="OUT", help="Replace this file, in one step.")
@click.option(
    "--id", "ident", metavar="ID", help="keepalived's configuration id (its -i), for lines that begin with @."
)
@click.option(
    "--root",
    type=click.Path(exists=True, file_okay=False),
    metavar="DIR",
    help="Read what keepalived's file includes, with DIR for /; use / on the host itself.",
)
def import_(what: str, file: str, output: str, ident: str | None, root: str | None) -> None:
    """Write a configuration of keepalived, of ldirectord, or of LVS as ipvsadm shows it, as one of ours.

    FILE may be - for standard input.

    What has no counterpart is named: as a comment at its place, and with its line on standard error. `ipvsadm -S -n`
    and `ipvsadm -L -n` are both understood. What is written has passed `nftlb check`.
    """
    name = "standard input" if file == STDIN else file
    source = read_source(file)
    if len(source) > MAX_BYTES:
        raise ConfigError([Problem(name, 0, 0, "", f"larger than {MAX_BYTES >> 20} MiB; allowed: less")])
    # Comments may be in any encoding; what matters is ASCII.
    found = _reader(what, file, ident, root)(source.decode("utf-8", "replace"), name)
    target = "standard output" if output == STANDARD_OUTPUT else output
    try:
        config = _checked(found, target)
        write_file(output, found.text)
    finally:
        write_error("".join(f"{remark}\n" for remark in found.remarks))
    warn(config, target)


def _reader(what: str, file: str, ident: str | None, root: str | None) -> Callable[[str, str], Imported]:
    if what != "keepalived":
        for option, value in (("--id", ident), ("--root", root)):
            if value is not None:
                raise click.UsageError(f"{option} is for keepalived's configuration")
        return FROM[what]
    includes = None if root is None else Includes(root)
    directory = None
    if file != STDIN:
        directory = str(Path(file).absolute().parent) if includes is None else includes.directory(file)
    return partial(FROM[what], directory=directory, reading=Reading(ident, includes))


def _checked(found: Imported, target: str) -> Config:
    """Check what is about to be written as `nftlb check` does; a fault is told with the line that it comes from."""
    try:
        return parse(found.text, target)
    except ConfigError as error:
        raise ConfigError([_traced(problem, found) for problem in error.problems]) from error


def _traced(problem: Problem, found: Imported) -> Problem:
    origin = found.origin(problem.line)
    message = f"what comes of this is refused by nftlb check, and nothing is written: {problem.path}: {problem.message}"
    if origin is None:
        return Problem(problem.file, 0, 0, "", message)
    file, line = origin
    return Problem(file, line, 1, "", message)
