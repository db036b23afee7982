"""What several commands take: a configuration file, and backends to take for down."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from nftlb.cli.examples import examples
from nftlb.cli.names import suggestion
from nftlb.compiler import Membership
from nftlb.errors import ConfigError, Problem
from nftlb.model.reading import show

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from nftlb.model import Config

__all__ = ["down_option", "examples", "file_argument", "optional_file_argument", "without"]

file_argument = click.argument("file", type=click.Path(allow_dash=True), metavar="FILE")
"""The configuration; `-` is standard input."""

optional_file_argument = click.argument(
    "file", type=click.Path(allow_dash=True), metavar="[FILE]", required=False, default=None
)


def _pools_and_backends(_: click.Context, __: click.Parameter, values: Iterable[str]) -> tuple[tuple[str, str], ...]:
    pairs = tuple(value.partition("/")[::2] for value in values)
    for value, pair in zip(values, pairs, strict=True):
        if not all(pair):
            raise click.BadParameter(f"{show(value)} is not POOL/BACKEND")
    return pairs


down_option = click.option(
    "--down",
    multiple=True,
    callback=_pools_and_backends,
    metavar="POOL/BACKEND",
    help="Take this backend for down. Repeatable.",
)


def without(config: Config, down: Iterable[tuple[str, str]]) -> Membership:
    """Everybody up but these; ConfigError if the configuration has no such pools and backends."""
    if problems := list(_unknown(config, down)):
        raise ConfigError(problems)
    return Membership.with_down(down)


def _unknown(config: Config, down: Iterable[tuple[str, str]]) -> Iterator[Problem]:
    for pool_name, name in down:
        pool = config.pool(pool_name)
        where = f"--down {show(f'{pool_name}/{name}')}"
        if pool is None:
            yield Problem(where, 0, 0, "", f"no such pool{suggestion(pool_name, (one.name for one in config.pools))}")
        elif pool.backend(name) is None:
            yield Problem(where, 0, 0, "", f"no such backend{suggestion(name, (one.name for one in pool.backends))}")
