"""The unit for systemd: it is valid, and as restricted as the documents say."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
UNIT = ROOT / "deploy/systemd/nftlb.service"
DOCUMENT = ROOT / "docs/daemon.md"


def analyze(*words: str) -> str:
    done = subprocess.run(["systemd-analyze", *words], capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr


def test_exposure_is_as_documented() -> None:
    """`systemd-analyze security` gives 2.0 or better, and the figure in the document."""
    output = analyze("security", "--offline=true", "--no-pager", str(UNIT))
    score = re.search(r"Overall exposure level for nftlb.service: (\S+)", output)
    assert score is not None

    assert float(score[1]) <= 2.0
    assert f"exposure level of {score[1]}" in DOCUMENT.read_text()


def test_systemd_understands_every_line() -> None:
    """The unit has no key that systemd would ignore."""
    output = analyze("verify", "--man=no", str(UNIT))

    assert [] == [line for line in output.splitlines() if "Unknown" in line or "Failed to parse" in line]


def test_two_capabilities_and_no_more() -> None:
    """The daemon's user has CAP_NET_ADMIN and CAP_NET_RAW, and can get nothing else."""
    settings = dict(re.findall(r"^(\w+)=(.*)$", UNIT.read_text(), re.MULTILINE))

    assert {"CAP_NET_ADMIN CAP_NET_RAW"} == {settings[key] for key in ("AmbientCapabilities", "CapabilityBoundingSet")}
    assert ("nftlb", "yes", "strict") == tuple(settings[key] for key in ("User", "NoNewPrivileges", "ProtectSystem"))


def test_the_folder_of_the_locks_stays_when_a_unit_stops() -> None:
    """A folder that is deleted with one unit would delete the lock of a command or of the other unit."""
    for unit in (UNIT, UNIT.with_name("nftlb-restore.service")):
        settings = dict(re.findall(r"^(\w+)=(.*)$", unit.read_text(), re.MULTILINE))
        found = tuple(settings.get(f"RuntimeDirectory{end}") for end in ("", "Mode", "Preserve"))
        assert ("nftlb", "0755", "yes") == found
