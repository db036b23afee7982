"""The files for Nagios and Icinga 2: the real programs load the files, and run the checks of a real daemon."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from check_programs import Icinga, Nagios, example_host
from daemon_process import PATIENCE, Running, dns
from prometheus import api_over_tcp

from nftlb.lab import Lab

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHECK = {
    "udp": {"send": "are you there", "match": "are you there"},
    "interval": "100ms",
    "timeout": "5s",  # a busy machine must not look like a dead backend; a stopped server refuses at once
    "rise": 1,
    "fall": 1,
}


class Scene:
    """A daemon with two backends, whose API listens at 127.0.0.1:9146 too."""

    def __init__(self, lab: Lab, daemon: Running, second: ExitStack) -> None:
        self.lab = lab
        self.daemon = daemon
        self._second = second

    def stop_a_backend(self) -> None:
        self._second.close()
        self.daemon.wait("backend_down", self.lab.backends[1].name)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with Lab(backends=2) as lab, ExitStack() as stack:
        first, second = lab.backends
        stack.enter_context(lab.serve(backends=[first], versions=[4]))
        servers = stack.enter_context(ExitStack())
        servers.enter_context(lab.serve(backends=[second], versions=[4]))
        second.sysctl("net.ipv4.icmp_ratelimit", 0)  # else a check of a stopped server waits for its time-out
        daemon = stack.enter_context(Running(lab.balancer, tmp_path, dns(lab, health=CHECK)))
        proxy = lab.balancer.popen(api_over_tcp(daemon.socket), env=dict(os.environ))
        stack.callback(proxy.wait, PATIENCE)
        stack.callback(proxy.send_signal, signal.SIGKILL)
        yield Scene(lab, daemon, servers)


@pytest.mark.slow
def test_nagios(scene: Scene, tmp_path: Path) -> None:
    """Both services have the state of the daemon, before and after a backend dies, and performance data."""
    with Nagios(scene.lab.balancer, tmp_path / "nagios") as nagios:
        found = nagios.wait("nftlb", "0 NFTLB OK - ")
        assert "| 'dns in service'=2;" in found
        nagios.wait("nftlb dns", "1 NFTLB WARNING - dns: 2 of 2 backends in service, wanted 3:")
        scene.stop_a_backend()
        nagios.wait("nftlb", "1 NFTLB WARNING - dns: down: b2")
        nagios.wait("nftlb dns", "2 NFTLB CRITICAL - dns: 1 of 2 backends in service, wanted 2:")


@pytest.mark.slow
@pytest.mark.parametrize(
    "place",
    [example_host(), 'vars.nftlb = true\nvars.nftlb_url = "http://127.0.0.1:9146"'],
    ids=["agent", "url"],
)
def test_icinga(place: str, scene: Scene, tmp_path: Path) -> None:
    """The service has the state of the daemon, whether an agent on the balancer or Icinga runs the command.

    The agent is that of the example in the file.
    """
    variables = 'vars.nftlb_pools = [ "dns" ]\nvars.nftlb_critical = "2:"\n'
    with Icinga(scene.lab.balancer, tmp_path / "icinga", variables + place) as icinga:
        found = icinga.wait("nftlb", "OK NFTLB OK - ")
        assert "| 'dns in service'=2;" in found
        scene.stop_a_backend()
        icinga.wait("nftlb", "CRITICAL NFTLB CRITICAL - dns: 1 of 2 backends in service, wanted 2:")
