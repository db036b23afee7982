"""A bad file at a restart or reload: traffic and checks continue, and the caller gets the errors."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from daemon_process import NFTLB, PATIENCE, Running, dns
from tcp_connections import TcpServers

from nftlb.lab import VIP4, Lab

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHECK = {"tcp": {}, "port": 9, "interval": "100ms", "rise": 1, "fall": 1, "timeout": "5s"}


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab(backends=2) as built, built.serve(), TcpServers(built.backends[:1], 9):
        yield built


def run_command(daemon: Running, *words: str) -> tuple[int, str, str]:
    """The exit status, standard output and standard error of a command."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NFTLB_")}
    done = subprocess.run(
        [str(NFTLB), *words], capture_output=True, text=True, timeout=3 * PATIENCE, check=False, env=environment
    )
    assert daemon.process.poll() is None
    return done.returncode, done.stdout, done.stderr


def reload(daemon: Running) -> tuple[int, str, str]:
    """Reload as the unit for systemd does."""
    return run_command(daemon, "reload", "--pid", str(daemon.process.pid), "--file", str(daemon.file))


def spoil(daemon: Running, text: str) -> list[str]:
    """Write a bad file, and return the output of `check` for it."""
    daemon.file.write_text(text)
    status, _, said = run_command(daemon, "check", str(daemon.file))
    assert 1 == status
    return said.splitlines()


def pools(lab: Lab, **options: Any) -> dict[str, Any]:
    return dns(lab, health=CHECK, **options)


def test_a_restart_with_a_bad_file(lab: Lab, tmp_path: Path) -> None:
    """The daemon uses the last good copy until the file is good again, also after kill -9."""
    with Running(lab.balancer, tmp_path, pools(lab)) as daemon:
        daemon.poll_status(lambda _: not daemon.backend("dns", "b2")["up"], "b2 down")
        before = daemon.file.read_text()
        daemon.poll_status(lambda _: list(daemon.state.glob("*.yaml")), "a copy")
        problems = spoil(daemon, f"state_dir: {daemon.state}\npools: {{dns: {{listen: nowhere}}}}\n")
        daemon.kill()
        lab.balancer.run(["nft", "flush", "ruleset"])

        daemon.start()

        config = daemon.client.document()["config"]
        assert (False, str(daemon.state / "nftlb.yaml")) == (config["success"], config["copy_in_use"])
        assert problems == config["problems"]
        with lab.client.connect((VIP4, 53)) as client:
            assert {"b1"} == {answer.backend for answer in client.exchange(4)}
        daemon.wait_for_log(*problems)
        _, shown, _ = run_command(daemon, "status", "--socket", str(daemon.socket))
        assert [] == [line for line in (*problems, "its last good copy") if line not in shown]
        with TcpServers(lab.backends[1:], 9):
            daemon.poll_status(lambda _: daemon.backend("dns", "b2")["up"], "b2 up: it is checked")
        daemon.file.write_text(before)
        assert (0, "", "") == reload(daemon)
        config = daemon.client.document()["config"]
        assert (True, None) == (config["success"], config["copy_in_use"])


def test_a_reload_by_signal_waits_for_its_end(lab: Lab, tmp_path: Path) -> None:
    """Silent on success; with a bad file it fails with the output of `check`, also the second time."""
    with Running(lab.balancer, tmp_path, pools(lab)) as daemon:
        daemon.poll_status(lambda _: list(daemon.state.glob("*.yaml")), "a copy")
        fewer = pools(lab)
        del fewer["dns"]["backends"]["b2"]
        daemon.write(fewer)
        assert (0, "", "") == reload(daemon)
        assert ["b1"] == [backend["name"] for backend in daemon.client.document()["pools"][0]["backends"]]

        problems = spoil(daemon, f"state_dir: {daemon.state}\npools:\n  dns: {{listen: nowhere, backends: {{}}}}\n")
        for _ in range(2):
            status, out, error = reload(daemon)
            assert (1, "", problems) == (status, out, error.splitlines()[1:])
        assert ["b1"] == [backend["name"] for backend in daemon.client.document()["pools"][0]["backends"]]


def test_a_reload_that_moves_the_api(lab: Lab, tmp_path: Path) -> None:
    """The command finds the result of the reload at the new address."""
    with Running(lab.balancer, tmp_path, pools(lab)) as daemon:
        daemon.poll_status(lambda _: list(daemon.state.glob("*.yaml")), "a copy")
        daemon.socket = tmp_path / "other.sock"
        daemon.write(pools(lab))

        assert (0, "", "") == reload(daemon)
        assert daemon.client.document()["config"]["success"]


@pytest.mark.parametrize("name", ["nftlb.json", "nftlb.new", "other.yaml", "nftlb.yaml"])
def test_a_fifo_in_the_state_directory(name: str, lab: Lab, tmp_path: Path) -> None:
    """The daemon starts, and ends on request."""
    daemon = Running(lab.balancer, tmp_path, dns(lab))
    daemon.state.mkdir()
    os.mkfifo(daemon.state / name)
    with daemon:
        status = daemon.client.document()
        assert status["ready"]
    assert 0 == daemon.process.returncode
    if name == "nftlb.json":
        (found,) = status["faults"]
        assert found["message"].endswith("nftlb.json: not a regular file; it was renamed to nftlb.bad")
        assert (daemon.state / "nftlb.bad").is_fifo()
