"""Parameters of the tests in the lab."""

from __future__ import annotations

import pytest

from nftlb.lab import VIP4, VIP6

VIP = {4: VIP4, 6: VIP6}
TURNS = ["b1", "b2", "b3"]
"""The backends in the order in which they get datagrams."""


def offload_id(value: object) -> str:
    """The id of a parameter. `--offload-only` leaves out tests with `no-offload`, the id of `False`, in their id.

    A test whose offload follows its IP version is not repeated, so its id has another word.
    """
    return {True: "offload", False: "no-offload"}[value] if isinstance(value, bool) else str(value)


both_versions = pytest.mark.parametrize("version", [4, 6])
with_and_without_offload = pytest.mark.parametrize("offload", [False, True], ids=offload_id)
version_and_offload = pytest.mark.parametrize(
    ("version", "offload"), [(4, False), (6, True)], ids=["4", "6-with-offload"]
)
"""For tests of the daemon: tests/packets/test_spread.py has each mode with each of the four pairs."""
