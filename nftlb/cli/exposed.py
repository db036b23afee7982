"""Files with secrets that others may use: the configuration itself, and those that it names."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from nftlb.model.checks import Radius, Snmp
from nftlb.permissions import exposure

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nftlb.model import Config


def exposed(config: Config, file: str) -> Iterator[str]:
    """Give a warning for each. What is not there yet, or can't be looked at, is left to who needs it."""
    checks = [(pool.name, health.check) for pool in config.pools for health in pool.health]
    if any(_holds_secret(check) for _, check in checks):
        yield from _warning(file, "it holds a secret of a health check")
    if config.api.token_file is not None:
        yield from _warning(config.api.token_file, "it is api.token_file; the daemon will take no token of it")
    named = {check.secret_file: pool for pool, check in checks if isinstance(check, Radius) and check.secret_file}
    for secret_file, pool in named.items():
        yield from _warning(secret_file, f"it is a secret_file of pool {pool}")


def _holds_secret(check: object) -> bool:
    if isinstance(check, Radius):
        return check.secret is not None
    return isinstance(check, Snmp) and check.community != "public"


def _warning(file: str, what: str) -> Iterator[str]:
    try:
        who = exposure(os.stat(file))  # noqa: PTH116 - of "-" too, which is no file
    except OSError:
        return
    if who:
        yield f"{file}: {who}, and {what}; mend: chmod 640 {file}, and chgrp nftlb {file}"
