"""Arguments, options and help texts that several commands share.

Commands that talk to the daemon import this module and have to begin fast. What only the others need is imported in the
functions: `nftlb.compiler` and `nftlb.model` take longer to import than `nftlb status` takes to run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from nftlb.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from nftlb.model import Config, HostAddresses, Membership

_MOST_LISTED = 10
"""Names that an error message lists; more would not be read."""

file_argument = click.argument("file", type=click.Path(allow_dash=True), metavar="FILE")
"""The configuration file; `-` is standard input."""

optional_file_argument = click.argument(
    "file", type=click.Path(allow_dash=True), metavar="[FILE]", required=False, default=None
)


def limit_option(things: str, usual: int, most: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The option `--limit N` of a command that prints a list of things."""
    kind = click.IntRange(1, most)
    words = f"How many {things} to print."
    return click.option("--limit", type=kind, default=usual, show_default=True, metavar="N", help=words)


def load_resolved(file: str) -> Config:
    """Read and validate a file, and look its names up in DNS now. ConfigError, or SystemFault if DNS does not answer.

    Names of backends get the addresses of this moment. Addresses that can't be backends are left out with a warning.
    Listeners for addresses of this host get the addresses of this moment too. KernelError if they can't be read.
    """
    from nftlb.config import load  # noqa: PLC0415 - see the module's docstring

    return resolved_now(load(file), file)


def resolved_now(config: Config, file: str) -> Config:
    """Put names and addresses of this moment into the configuration of a file, as `load_resolved()` does."""
    from nftlb.config import lookups_of, resolve  # noqa: PLC0415 - see the module's docstring

    from .output import write_error  # noqa: PLC0415 - as above

    addresses: HostAddresses = {}
    if config.listens_on_host:
        from nftlb.kernel.surroundings import read_host_addresses  # noqa: PLC0415 - as above

        addresses = read_host_addresses()
    wanted = lookups_of(config)
    if not wanted:
        return resolve(config, {}, addresses).config
    from nftlb.resolver import look_up_now  # noqa: PLC0415 - as above

    resolution = resolve(config, look_up_now(wanted, config.resolver), addresses)
    for (pool, name), notes in resolution.notes.items():
        for note in notes:
            write_error(f"{file}: warning: pools.{pool}.backends.{name}: {note}\n")
    return resolution.config


def examples(*lines: str) -> str:
    """The examples at the end of a command's help. A backspace keeps click from joining the lines."""
    return "\n".join(["\b", "Example:" if len(lines) == 1 else "Examples:", *(f"  {line}" for line in lines)])


def suggestion(name: str, known: Iterable[str]) -> str:
    """The end of an error message about an unknown name: the most similar known name, else a short list of all."""
    from difflib import get_close_matches  # noqa: PLC0415 - only needed for an unknown name

    known = list(known)
    near = get_close_matches(name, known, n=1)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; known: {', '.join(known)}" if len(known) <= _MOST_LISTED else ""


def no_such(kind: str, asked: str, name: str, known: Iterable[str]) -> Problem:
    """The problem that no pool or backend has that name. `asked` is the text that the user wrote."""
    from nftlb.printable import printable  # noqa: PLC0415 - see the module's docstring

    return Problem(printable(asked), 0, 0, "", f"no such {kind}{suggestion(name, known)}")


def _pools_and_backends(_: click.Context, __: click.Parameter, values: Iterable[str]) -> tuple[tuple[str, str], ...]:
    from nftlb.printable import show  # noqa: PLC0415 - see the module's docstring

    pairs = tuple(value.partition("/")[::2] for value in values)
    for value, pair in zip(values, pairs, strict=True):
        if not all(pair):
            raise click.BadParameter(f"{show(value)} is not POOL/BACKEND; allowed: two names, such as dns/ns1")
    return pairs


down_option = click.option(
    "--down",
    multiple=True,
    callback=_pools_and_backends,
    metavar="POOL/BACKEND",
    help="Treat this backend as down. Repeatable.",
)


def membership_without(config: Config, down: Iterable[tuple[str, str]]) -> Membership:
    """The membership with all backends up except `down`. ConfigError if a pool or backend of `down` is unknown."""
    from nftlb.model import Membership  # noqa: PLC0415 - see the module's docstring

    if problems := list(_unknown(config, down)):
        raise ConfigError(problems)
    return Membership.with_down(down)


def _unknown(config: Config, down: Iterable[tuple[str, str]]) -> Iterator[Problem]:
    from nftlb.printable import show  # noqa: PLC0415 - see the module's docstring

    for pool_name, name in down:
        pool = config.pool(pool_name)
        where = f"--down {show(f'{pool_name}/{name}')}"
        if pool is None:
            yield no_such("pool", where, pool_name, (known.name for known in config.pools))
        elif pool.backend(name) is None:
            yield no_such("backend", where, name, (backend.name for backend in pool.backends))
