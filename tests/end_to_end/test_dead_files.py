"""The file system of a file never answers: traffic fails over, the API answers, the status shows the fault."""

from __future__ import annotations

import signal
import time
from contextlib import ExitStack
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import pytest
from daemon_process import PORT, Running, at, dns, mounted
from dead_files import dead
from servers.certificate import self_signed

from nftlb.lab import VIP4, Lab

if TYPE_CHECKING:
    from pathlib import Path

CHECK = {"udp": {"send": "a", "match": "a"}, "interval": "200ms", "timeout": "1s"}
UNANSWERED = "its file system has not answered within 3 s"
PATCH = "PATCH", "/api/v1/pools/dns/backends/b1", {"weight": 2}


def checked(lab: Lab, port: int, check: dict[str, Any]) -> dict[str, Any]:
    """A pool whose only backend serves nothing, with a check."""
    backend = at(lab.backends[0].ipv4, 9)
    return {"listen": f"{VIP4}:{port}/udp", "backends": {"b": backend}, "health": {**check, "interval": "200ms"}}


class Setup:
    """A balancer with a pool that works, two pools whose checks use files, and lists of a guard."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        self.lab = lab
        self.files = directory / "files"
        self.files.mkdir()
        self.token, self.list = self.files / "token", self.files / "list"
        self.token.write_text("a-token-of-the-tests\n")
        self.list.write_text("198.51.100.0/24\n")
        secret = self.files / "secret"
        secret.write_text("secret\n")
        for file in (self.token, secret):
            file.chmod(0o600)
        pools = {
            **dns(lab, health=CHECK),
            "web": checked(lab, 443, {"http": {"tls": True, "ca_file": str(self_signed(self.files).file)}}),
            "login": checked(lab, 1812, {"radius": {"secret_file": str(secret)}}),
        }
        pools["web"]["guard"] = {"deny": [str(self.list)]}
        self.daemon = Running(lab.balancer, directory, pools, wrapper=mounted("true"))
        self.daemon.top = {"api": {"listen": f"unix:{self.daemon.socket}", "token_file": str(self.token)}}
        self.daemon.write(pools)

    def faults(self, *needed: str) -> None:
        """Wait until the faults of the status have all these texts."""

        def found(status: dict[str, Any]) -> bool:
            text = "\n".join(f"{fault['what']}: {fault['message']}" for fault in status["faults"])
            return all(any(one in line for line in text.splitlines()) for one in needed)

        self.daemon.poll_status(found, "the faults")


def test_all_files_are_dead(tmp_path: Path) -> None:
    """Each fault is shown; a backend that fails leaves; a change is refused, and made when the files are back."""
    with Lab(backends=3) as lab, ExitStack() as servers:
        third = servers.enter_context(ExitStack())
        third.enter_context(lab.serve(PORT, backends=[lab.backends[2]]))
        servers.enter_context(lab.serve(PORT, backends=lab.backends[:2]))
        setup = Setup(lab, tmp_path)
        with setup.daemon as daemon:
            with dead(setup.files, daemon.process.pid):
                began = time.monotonic()
                third.close()
                daemon.wait("swap", since=daemon.wait("backend_down", "b3").at)
                with lab.client.connect((VIP4, 53), connected=False) as client:
                    answers = client.exchange(6)
                refused = daemon.call(*PATCH)
                daemon.process.send_signal(signal.SIGHUP)
                failed = daemon.wait("reload_failed", since=began)
                setup.faults(f"token_file: the token file {setup.token} can't be read: {UNANSWERED}", "checks: ")
                known = daemon.backend("dns", "b1")["up"]
            daemon.poll_status(lambda status: not status["faults"], "an end of all faults")
            made = daemon.call(*PATCH)[0]
            reloaded = daemon.call("POST", "/api/v1/reload")[0]
        log = daemon.log.read_text()

    assert {"b1", "b2"} == {reply.backend for reply in answers}
    assert (HTTPStatus.SERVICE_UNAVAILABLE, True) == (refused[0], UNANSWERED in refused[1]["error"])
    assert f"{setup.list}: {UNANSWERED}" in failed.event["reason"]
    assert known
    assert (HTTPStatus.OK, HTTPStatus.OK) == (made, reloaded)
    assert f"_file {setup.files}" in log
    assert log.count("\n") < 200


def test_the_end_while_all_files_are_dead(tmp_path: Path) -> None:
    """SIGTERM ends the daemon, although threads wait for the files."""
    with Lab(backends=1) as lab, lab.serve(PORT):
        setup = Setup(lab, tmp_path)
        with setup.daemon as daemon, dead(setup.files, daemon.process.pid):
            daemon.process.send_signal(signal.SIGHUP)
            setup.faults("checks: ", "token_file: ")
            asked = time.monotonic()
            status = daemon.stop()
            took = time.monotonic() - asked

    assert 0 == status
    assert took < 25


@pytest.mark.parametrize("with_state", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_directory_of_the_configuration_is_dead(with_state: bool, tmp_path: Path) -> None:
    """The file, the socket of the API and perhaps the saved state do not answer: as `test_all_files_are_dead`."""
    folder = tmp_path / "etc"
    folder.mkdir()
    with Lab(backends=3) as lab, ExitStack() as servers:
        third = servers.enter_context(ExitStack())
        third.enter_context(lab.serve(PORT, backends=[lab.backends[2]]))
        servers.enter_context(lab.serve(PORT, backends=lab.backends[:2]))
        daemon = Running(lab.balancer, folder, dns(lab, health=CHECK), wrapper=mounted("true"))
        daemon.state = folder / "state" if with_state else tmp_path / "state"
        daemon.write(dns(lab, health=CHECK))
        with daemon:
            with dead(folder, daemon.process.pid):
                began = time.monotonic()
                daemon.process.send_signal(signal.SIGHUP)
                failed = daemon.wait("reload_failed", since=began)
                third.close()
                daemon.wait("swap", since=daemon.wait("backend_down", "b3").at)
                ready = daemon.call("GET", "/healthz")[0]
            daemon.poll_status(lambda status: not status["faults"], "an end of all faults")
            assert HTTPStatus.OK == daemon.call("POST", "/api/v1/reload")[0]
            with dead(folder, daemon.process.pid):
                asked = time.monotonic()
                assert 0 == daemon.stop()

    assert f"{daemon.file}: {UNANSWERED}" in failed.event["reason"]
    assert HTTPStatus.OK == ready
    assert time.monotonic() - asked < 25
