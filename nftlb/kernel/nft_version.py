"""Which versions of nft are known to do as nftlb expects."""

from __future__ import annotations

import json
from contextlib import suppress

OLDEST, NEWEST = (1, 0, 6), (1, 1, 7)
"""The versions between which the tests ran: 1.0.6, 1.1.3 and 1.1.7."""


def doubt(version: str) -> str:
    """Why a version may not do as expected; empty for those that are known."""
    number = tuple(int(part) for part in version.split(".") if part.isdecimal())
    if not number or OLDEST <= number <= NEWEST:
        return ""
    how = "older than" if number < OLDEST else "newer than"
    known = " to ".join(".".join(map(str, one)) for one in (OLDEST, NEWEST))
    return f"version {version} is {how} those that nftlb is tested with ({known})"


def read_version() -> str:
    """The version of the libnftables that this Python uses; empty if that can't be found out."""
    with suppress(ImportError, ValueError, KeyError, IndexError):
        import nftables  # noqa: PLC0415 - belongs to the distribution; compile and check do without it

        nft = nftables.Nftables()
        nft.set_json_output(True)
        _, output, _ = nft.cmd("list tables")
        return str(json.loads(output)["nftables"][0]["metainfo"]["version"])
    return ""
