"""A file that is bad at a restart or a reload: traffic and checks go on, and whoever asked is told what is wrong."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from running import NFTLB, PATIENCE, Running, dns

from nftlb.lab import VIP4, Lab

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHECK = {"tcp": {}, "port": 9, "interval": "100ms", "rise": 1, "fall": 1, "timeout": "5s"}


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab(backends=2) as built, built.serve(), built.serve_tcp(9, backends=built.backends[:1]):
        yield built


def told(daemon: Running, *words: str) -> tuple[int, str, str]:
    """What a command says."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NFTLB_")}
    done = subprocess.run(
        [str(NFTLB), *words], capture_output=True, text=True, timeout=3 * PATIENCE, check=False, env=environment
    )
    assert daemon.process.poll() is None
    return done.returncode, done.stdout, done.stderr


def reload(daemon: Running) -> tuple[int, str, str]:
    """As the unit for systemd does."""
    return told(daemon, "reload", "--pid", str(daemon.process.pid), "--file", str(daemon.file))


def spoil(daemon: Running, text: str) -> list[str]:
    """Write a bad file; return what `check` says of it."""
    daemon.file.write_text(text)
    status, _, said = told(daemon, "check", str(daemon.file))
    assert 1 == status
    return said.splitlines()


def pools(lab: Lab, **options: Any) -> dict[str, Any]:
    return dns(lab, health=CHECK, **options)


def test_a_restart_with_a_bad_file(lab: Lab, tmp_path: Path) -> None:
    """After a kill -9 too the daemon balances and checks by the last good copy, until the file is good again."""
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
        assert [] == [line for line in problems if line not in daemon.log.read_text()]
        _, shown, _ = told(daemon, "status", "--socket", str(daemon.socket))
        assert [] == [line for line in (*problems, "its last good copy") if line not in shown]
        with lab.serve_tcp(9, backends=lab.backends[1:]):
            daemon.poll_status(lambda _: daemon.backend("dns", "b2")["up"], "b2 up: it is checked")
        daemon.file.write_text(before)
        assert (0, "", "") == reload(daemon)
        config = daemon.client.document()["config"]
        assert (True, None) == (config["success"], config["copy_in_use"])


def test_a_reload_by_signal_waits_for_its_end(lab: Lab, tmp_path: Path) -> None:
    """Silent when it is done; with a bad file it fails with the words of `check`, also the second time."""
    with Running(lab.balancer, tmp_path, pools(lab)) as daemon:
        daemon.poll_status(lambda _: list(daemon.state.glob("*.yaml")), "a copy")
        fewer = pools(lab)
        del fewer["dns"]["backends"]["b2"]
        daemon.write(fewer)
        assert (0, "", "") == reload(daemon)
        assert ["b1"] == [one["name"] for one in daemon.client.document()["pools"][0]["backends"]]

        problems = spoil(daemon, f"state_dir: {daemon.state}\npools:\n  dns: {{listen: nowhere, backends: {{}}}}\n")
        for _ in range(2):
            status, out, error = reload(daemon)
            assert (1, "", problems) == (status, out, error.splitlines()[1:])
        assert ["b1"] == [one["name"] for one in daemon.client.document()["pools"][0]["backends"]]


def test_a_reload_that_moves_the_api(lab: Lab, tmp_path: Path) -> None:
    """What became of it is heard at the new place."""
    with Running(lab.balancer, tmp_path, pools(lab)) as daemon:
        daemon.poll_status(lambda _: list(daemon.state.glob("*.yaml")), "a copy")
        daemon.socket = tmp_path / "other.sock"
        daemon.write(pools(lab))

        assert (0, "", "") == reload(daemon)
        assert daemon.client.document()["config"]["success"]


@pytest.mark.parametrize("name", ["nftlb.json", "nftlb.new", "other.yaml", "nftlb.yaml"])
def test_a_fifo_in_the_state_directory(name: str, lab: Lab, tmp_path: Path) -> None:
    """The daemon starts, and ends when it is told to."""
    daemon = Running(lab.balancer, tmp_path, dns(lab))
    daemon.state.mkdir()
    os.mkfifo(daemon.state / name)
    with daemon:
        assert daemon.client.document()["ready"]
    assert 0 == daemon.process.returncode
