"""Listeners for addresses of this host, with the real daemon and ONE client socket for each address."""

from __future__ import annotations

import subprocess
from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from daemon_process import NFTLB, PORT, VIP, Running, at
from steady_traffic import Flow, lost, sources, twice

from nftlb.lab import Lab

if TYPE_CHECKING:
    from pathlib import Path

    from nftlb.lab import Host

NEW = {4: "192.0.2.77", 6: "2001:db8:77::77"}
GATEWAY = {4: "198.51.100.1", 6: "2001:db8:1::1"}
"""The balancer's addresses in the segment of the client."""
TWO = {"b1": 10, "b2": 10}


def change(host: Host, what: str, version: int) -> None:
    """Add or delete the address that the interface vip0 has for a time."""
    length = {4: 32, 6: 128}[version]
    host.run(["ip", "address", what, f"{NEW[version]}/{length}", "dev", "vip0"])


def run(host: Host, command: str, file: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return host.call(
        lambda: subprocess.run([NFTLB, command, file, *arguments], capture_output=True, check=False, text=True)
    )


def await_listener(daemon: Running, pool: int, address: str, *, there: bool) -> None:
    daemon.poll_status(
        lambda found: (f"{address}/udp" in found["pools"][pool]["listen"]) is there,
        f"listener {address}: {there}",
    )


def shares(host: Host, target: tuple[str, int], source: tuple[str, int] = ("", 0)) -> Counter[str]:
    """Send 20 datagrams from one socket, and return how many each backend answered, all of them from the target."""
    address, port = source
    with host.connect(target, connected=False, source_address=address, source_port=port) as client:
        answers = client.exchange(20)
    assert {target} == {answer.source for answer in answers}
    return Counter(answer.backend for answer in answers)


@pytest.mark.slow
def test_addresses_of_this_host_come_and_go(tmp_path: Path) -> None:
    """A new address is served at once, and the others lose nothing. Packets for other hosts are only forwarded."""
    with Lab(backends=2) as lab, lab.serve([PORT, 53]), ExitStack() as stack:
        balancer, (b1, b2) = lab.balancer, lab.backends
        one = {f"b1-{version}": at(b1.address(version), PORT) for version in VIP}
        two = {f"b2-{version}": at(b2.address(version), PORT) for version in VIP}
        pools = {
            "any": {"listen": ["*:53/udp", "*:98-100/udp"], "backends": {**one, **two}},
            "exact": {"listen": [f"{at(VIP[version], 99)}/udp" for version in VIP], "backends": one},
            "interface": {"listen": "vip0:99/udp", "backends": two},
        }
        balancer.run(["ip", "link", "add", "vip0", "type", "veth", "peer", "name", "vip1"])
        balancer.run(["ip", "link", "set", "vip0", "up"])
        daemon = stack.enter_context(Running(balancer, tmp_path, pools))
        targets = [(VIP[version], port) for version in VIP for port in (53, 99)]
        flows = [stack.enter_context(Flow(lab.client, target, rate=300)) for target in targets]
        for version in VIP:
            for _ in range(3):
                change(balancer, "add", version)
                await_listener(daemon, 0, at(NEW[version], 53), there=True)
                change(balancer, "del", version)
                await_listener(daemon, 0, at(NEW[version], 53), there=False)
            change(balancer, "add", version)
            await_listener(daemon, 2, at(NEW[version], 99), there=True)
            for flow in flows:
                flow.pause()  # all listeners of a pool share its turns
            own = GATEWAY[version]
            assert TWO == shares(lab.client, (NEW[version], 53)) == shares(lab.client, (own, 53))
            assert TWO == shares(balancer, (NEW[version], 53))
            assert {"b2": 20} == shares(lab.client, (NEW[version], 99))
            assert TWO == shares(lab.client, (own, 99)) == shares(lab.client, (NEW[version], 98))
            # Only forwarded, and requests of this host itself from the port of the service.
            assert {"b1": 20} == shares(lab.client, (b1.address(version), 53))
            for source in (own, NEW[version]):
                assert {"b2": 20} == shares(balancer, (b2.address(version), 53), (source, 53))
            for flow in flows:
                flow.resume()
        for flow, target in zip(flows, targets, strict=True):
            sent = flow.stop()
            assert ([], [], {target}) == (lost(sent), twice(sent), sources(sent))
            assert ({"b1", "b2"} if target[1] == 53 else {"b1"}) == {datagram.backend for datagram in sent}
        assert not daemon.client.document()["faults"]

        # Commands without the daemon see the same addresses.
        assert 0 == run(balancer, "diff", daemon.file).returncode
        explained = run(balancer, "explain", daemon.file, "198.51.100.2:4000", f"{NEW[4]}:99/udp").stdout
        assert f"pool interface, which listens on {NEW[4]}:99/udp (vip0:99/udp)" in explained
        found = run(balancer, "doctor", daemon.file).stdout
        assert f"address {NEW[6]}: is an address of this host" in found
        change(balancer, "del", 4)
        assert (
            "listener vip0:99/udp: gets no IPv4 packets: interface vip0 has no"
            in run(balancer, "doctor", daemon.file).stdout
        )
        await_listener(daemon, 2, "vip0:99", there=True)
