"""What plugins and hooks leave behind, in sessions of their own: bounded while the daemon runs, gone when it ends."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from running import PATIENCE, Running, dns

from nftlb.lab import Lab

if TYPE_CHECKING:
    from collections.abc import Iterator

LEAVE = "setsid sh -c 'echo $$ >> {0}; exec sleep 1000' &"


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab(backends=1) as built:
        yield built


def alive(file: Path) -> int:
    """How many of the processes that wrote their number into a file are there, dead ones that are not reaped too."""
    return sum(Path(f"/proc/{pid}").exists() for pid in file.read_text().split()) if file.exists() else 0


def wait_for(file: Path, count: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while not file.exists() or len(file.read_text().split()) < count:
        assert time.monotonic() < deadline, "nothing was started"
        time.sleep(0.01)


@pytest.mark.parametrize(("end", "timeout"), [("sleep 0.1", "5s"), ("sleep 1000", "200ms")], ids=["ends", "hangs"])
def test_of_plugins(end: str, timeout: str, lab: Lab, tmp_path: Path) -> None:
    """Each check leaves a process: hardly more are there than checks run, and none is when the daemon has ended."""
    file = tmp_path / "pids"
    check = {"exec": ["sh", "-c", LEAVE.format(file) + end], "interval": "100ms", "timeout": timeout}
    with Running(lab.balancer, tmp_path, dns(lab, health=check)) as daemon:
        wait_for(file, 20)
        most = alive(file)
    assert most <= 8  # each lives for one check, and what it takes to kill it
    assert (0, 0) == (daemon.process.returncode, alive(file))


def test_of_hooks(lab: Lab, tmp_path: Path) -> None:
    """A hook ends at once, and what it left goes on; when the daemon has ended, that is gone."""
    file = tmp_path / "pids"
    options: dict[str, Any] = {
        "health": {"exec": ["sh", "-c", "exit 2"], "interval": "100ms", "rise": 1, "fall": 1},
        "hooks": {"backend_down": ["sh", "-c", LEAVE.format(file)]},
    }
    with Running(lab.balancer, tmp_path, dns(lab, **options)) as daemon:
        wait_for(file, 1)
        assert 1 == alive(file)
    assert (0, 0) == (daemon.process.returncode, alive(file))


def test_capabilities(lab: Lab, tmp_path: Path) -> None:
    """Of the daemon's own capabilities plugins and hooks have those that the file names, and without a word none."""
    files = {name: tmp_path / name for name in ("check", "named check", "hook")}

    def tell(name: str) -> list[str]:
        return ["sh", "-c", 'grep CapEff /proc/self/status > "$0.new"; mv "$0.new" "$0"; exit 2', str(files[name])]

    check = {"interval": "100ms", "rise": 1, "fall": 1}
    options: dict[str, Any] = {
        "health": [
            {"exec": tell("check"), **check},
            {"exec": {"argv": tell("named check"), "capabilities": "net_raw"}, **check},
        ],
        "hooks": {"backend_down": tell("hook"), "capabilities": ["net_admin", "net_raw"]},
    }
    with Running(lab.balancer, tmp_path, dns(lab, **options)):
        found = {}
        for name, file in files.items():
            wait_for(file, 2)
            found[name] = int(file.read_text().split()[1], 16) >> 12 & 3
    assert {"check": 0, "named check": 2, "hook": 3} == found
