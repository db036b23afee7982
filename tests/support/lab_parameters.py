"""Parameters of the tests in the lab."""

from __future__ import annotations

import pytest

from nftlb.lab import VIP4, VIP6

VIP = {4: VIP4, 6: VIP6}
TURNS = ["b1", "b2", "b3"]
"""The backends in the order in which they get datagrams."""

both_versions = pytest.mark.parametrize("version", [4, 6])
with_and_without_offload = pytest.mark.parametrize("offload", [False, True], ids=["wire", "offload"])
version_and_offload = pytest.mark.parametrize(
    ("version", "offload"), [(4, False), (6, True)], ids=["4", "6-with-offload"]
)
"""For tests of the daemon: tests/packets/test_spread.py has each mode with each of the four pairs."""
