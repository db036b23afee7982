"""`nftlb check`, and the warnings that `nftlb import` prints too."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from nftlb.compiler.cautions import cautions
from nftlb.config import load, lookups_of
from nftlb.files import exposure
from nftlb.model.checks import Radius, Snmp

from .arguments import examples, file_argument
from .output import write_error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nftlb.model import Config


@click.command("check", epilog=examples("nftlb check pools.yaml", "nftlb check - < pools.yaml"))
@file_argument
def check_command(file: str) -> None:
    """Validate FILE (- for standard input). Prints nothing if it is valid, else every error with its line and column.

    Prints warnings on standard error, with exit status 0, about valid settings that lose packets or have no effect, and
    about files with secrets that every user of this host may read.
    """
    config = load(file)
    for warning in _exposed_secrets(config, file):
        write_error(f"nftlb: warning: {warning}\n")
    if names := lookups_of(config):
        write_error(f"nftlb: {file}: warning: not looked up: {', '.join(map(str, names))}; use nftlb doctor {file}\n")
    warn_of_cautions(config, file)


def warn_of_cautions(config: Config, file: str) -> None:
    """Print a warning for each setting that is valid but loses packets or has no effect."""
    for caution in cautions(config):
        if caution.warns:
            write_error(f"nftlb: {file}: warning: pools.{caution.pool}: {caution.message}; use {caution.fix}\n")


def _exposed_secrets(config: Config, file: str) -> Iterator[str]:
    """Yield a warning for each file with a secret that other users may read or replace.

    Files that are missing, or can't be looked at, are skipped: the daemon reports them when it reads them.
    """
    checks = [(pool.name, health.check) for pool in config.pools for health in pool.health]
    if any(_holds_secret(check) for _, check in checks):
        yield from _exposed(file, "it contains a secret of a health check")
    if config.api.token_file is not None:
        yield from _exposed(config.api.token_file, "it is api.token_file; the daemon will accept no token from it")
    named = {check.secret_file: pool for pool, check in checks if isinstance(check, Radius) and check.secret_file}
    for secret_file, pool in named.items():
        yield from _exposed(secret_file, f"it is a secret_file of pool {pool}")


def _holds_secret(check: object) -> bool:
    if isinstance(check, Radius):
        return check.secret is not None
    return isinstance(check, Snmp) and check.community != "public"


def _exposed(file: str, purpose: str) -> Iterator[str]:
    try:
        exposed = exposure(os.stat(file))  # noqa: PTH116 - `file` may be "-", standard input
    except OSError:
        return
    if exposed:
        yield f"{file}: {exposed}, and {purpose}; fix: chmod 640 {file}, and chgrp nftlb {file}"
