"""Which versions of nft are known to do as nftlb expects."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from contextlib import suppress

_VERSION = re.compile(r"v([0-9.]+)")
OLDEST, NEWEST = (1, 0, 6), (1, 1, 7)
"""The versions between which the tests ran: 1.0.6, 1.1.3 and 1.1.7."""


def doubt(version: str) -> str:
    """Why a version may not do as expected; empty for those that are known."""
    number = _number(version)
    if not number or OLDEST <= number <= NEWEST:
        return ""
    how = "older than" if number < OLDEST else "newer than"
    known = " to ".join(".".join(map(str, one)) for one in (OLDEST, NEWEST))
    return f"version {version} is {how} those that nftlb is tested with ({known})"


def crashes_on_newer(version: str) -> bool:
    """Whether it is one that crashes on what versions from 1.1.2 on leave in the kernel beside a set."""
    return _number(version) < (1, 1, 2)


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())


def read_version() -> str:
    """The version of nft, which comes with the libnftables of the same version; empty if that can't be found out.

    Asked of the program: libnftables tells its version only along with tables, on which it may crash.
    """
    found = None
    with suppress(OSError, subprocess.SubprocessError):
        path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
        program = shutil.which("nft", path=path)
        if program is not None:
            told = subprocess.run(  # noqa: S603 - the host's own nft
                [program, "--version"], capture_output=True, text=True, timeout=5, check=False
            )
            found = _VERSION.search(told.stdout)
    return found[1] if found else ""
