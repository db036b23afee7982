"""Processes that plugins and hooks leave in other sessions: few while the daemon runs, none after its end."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from daemon_process import PATIENCE, Running, dns

from nftlb.lab import Lab

if TYPE_CHECKING:
    from collections.abc import Iterator

LEAVE = "setsid sh -c 'echo $$ >> {0}; exec sleep 1000' &"


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab(backends=1) as built:
        yield built


def alive(file: Path) -> int:
    """The number of existing processes, including zombies, whose ids are in a file."""
    return sum(Path(f"/proc/{pid}").exists() for pid in file.read_text().split()) if file.exists() else 0


def wait_for(file: Path, count: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while not file.exists() or len(file.read_text().split()) < count:
        assert time.monotonic() < deadline, "nothing was started"
        time.sleep(0.01)


@pytest.mark.parametrize(("end", "timeout"), [("sleep 0.1", "5s"), ("sleep 1000", "200ms")], ids=["ends", "hangs"])
def test_of_plugins(end: str, timeout: str, lab: Lab, tmp_path: Path) -> None:
    """Each check leaves a process: few more exist than checks run, and none after the daemon's end."""
    file = tmp_path / "pids"
    check = {"exec": ["sh", "-c", LEAVE.format(file) + end], "interval": "100ms", "timeout": timeout}
    with Running(lab.balancer, tmp_path, dns(lab, health=check)) as daemon:
        wait_for(file, 20)
        most = alive(file)
    assert most < 14  # each lives for the time of a check, until it is killed, which takes longer on a busy machine
    assert (0, 0) == (daemon.process.returncode, alive(file))


def test_of_hooks(lab: Lab, tmp_path: Path) -> None:
    """A hook ends at once, but leaves a process, which ends with the daemon."""
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
    """Plugins and hooks have only the configured capabilities, by default none."""
    files = {name: tmp_path / name for name in ("check", "named check", "hook")}

    def script_of(name: str) -> list[str]:
        return ["sh", "-c", 'grep CapEff /proc/self/status > "$0.new"; mv "$0.new" "$0"; exit 2', str(files[name])]

    check = {"interval": "100ms", "rise": 1, "fall": 1}
    options: dict[str, Any] = {
        "health": [
            {"exec": script_of("check"), **check},
            {"exec": {"argv": script_of("named check"), "capabilities": "net_raw"}, **check},
        ],
        "hooks": {"backend_down": script_of("hook"), "capabilities": ["net_admin", "net_raw"]},
    }
    with Running(lab.balancer, tmp_path, dns(lab, **options)):
        found = {}
        for name, file in files.items():
            wait_for(file, 2)
            found[name] = int(file.read_text().split()[1], 16) >> 12 & 3
    assert {"check": 0, "named check": 2, "hook": 3} == found
