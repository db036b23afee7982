"""Health checks leave from ports at which the checked pool listens, and get their replies."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from daemon_process import PORT, Running, at
from lab_parameters import version_and_offload

from nftlb.lab import Lab

if TYPE_CHECKING:
    from pathlib import Path

    from nftlb.lab import Servers

CHECK = {
    "udp": {"send": "ping", "match": "ping"},
    "port": PORT,
    "interval": "100ms",
    "timeout": "500ms",
    "rise": 2,
    "fall": 2,
    "initial": "down",
}
BALANCER = {4: "198.51.100.1", 6: "2001:db8:1::1"}
TOWARDS_B1 = {4: "10.0.1.1", 6: "fd00:1::1"}


def pool(lab: Lab, version: int, listen: str, **options: Any) -> dict[str, Any]:
    backends = {host.name: host.address(version) for host in lab.backends}
    return {"rtp": {"listen": f"{listen}/udp", "backends": backends, "health": CHECK, **options}}


def checks_from(lab: Lab, ports: str) -> None:
    """Limit the ephemeral ports to ports at which the pool listens."""
    lab.balancer.sysctl("net.ipv4.ip_local_port_range", ports.replace("-", " "))


def asked(servers: Servers) -> dict[str, int]:
    return {name: count for name, count in servers.counts.items() if count}


@version_and_offload
@pytest.mark.parametrize("ports", ["40000-40100", "33000-60000"], ids=["narrow", "wide"])
@pytest.mark.parametrize("forward", ["stateless", "dsr"])
def test_checks_see_that_backends_are_up(forward: str, ports: str, version: int, offload: bool, tmp_path: Path) -> None:
    """Backends that reply come up and stay up: no reply to a check is balanced to a backend."""
    dsr = forward == "dsr"
    with Lab(backends=2, offload=offload, dsr=dsr) as lab, ExitStack() as stack:
        checks_from(lab, ports)
        servers = stack.enter_context(lab.serve(PORT))
        inside = stack.enter_context(lab.serve(range(40000, 40101)))  # would get replies that are balanced
        address = (BALANCER if dsr else TOWARDS_B1)[version]
        pools = pool(lab, version, at(address, 0).removesuffix("0") + ports, forward=forward)
        daemon = stack.enter_context(Running(lab.balancer, tmp_path, pools))
        for host in lab.backends:
            daemon.wait("backend_up", host.name)
        enough = {name: count + 10 for name, count in asked(servers).items()}
        servers.wait(sum(enough.values()))

        assert {"b1", "b2"} == set(enough)
        assert [] == [event for event in daemon.events if event.kind == "backend_down"]
        assert {} == asked(inside)
