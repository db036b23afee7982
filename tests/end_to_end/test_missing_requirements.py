"""Something that a pool needs on the balancer vanishes and returns, under traffic of ONE client socket.

Within a second, the pool is not ready, and the missing thing is named; after its return, the pool is ready again.
Other pools do not change. The doctor finds the same.
"""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import pytest
from daemon_process import PATIENCE, PORT, VIP, Running, at, dns
from machine_stalls import Stalls
from steady_traffic import Flow, lost

from nftlb.compiler.routes import tunnel_hop
from nftlb.config import load
from nftlb.doctor import Severity, examine
from nftlb.lab import Lab
from nftlb.model import Encap

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

AT_ONCE = 1.0
"""Seconds within which a change must be seen."""
SOURCE = {4: "10.99.0.9", 6: "fd00:99::9"}
CHECK = {"udp": {"send": "are you there", "match": "are you there"}, "interval": "500ms", "fast_interval": "100ms"}


def ip(version: int, command: str) -> list[str]:
    return ["ip", f"-{version}", *command.split()]


@dataclass
class Lacking:
    """A requirement that commands remove and restore; the pool, and the expected messages."""

    name: str
    version: int
    taken: list[str]
    given: list[str]
    says: str
    subject: str
    options: dict[str, Any] = field(default_factory=dict)
    before: list[list[str]] = field(default_factory=list)
    dsr: bool = False
    doctor: str = ""
    """The doctor's subject, if it differs."""

    def __str__(self) -> str:
        return f"{self.name}-{self.version}"


def source(version: int) -> Lacking:
    """The address that backends see. They reach it by their default route."""
    address, nodad = SOURCE[version], " nodad" if version == 6 else ""
    add = ip(version, f"address add {address} dev b1{nodad}")
    return Lacking(
        "source",
        version,
        ip(version, f"address del {address} dev b1"),
        add,
        f"this host does not have {address}, `source` of pool dns; add it",
        f"address {address}",
        {"source": address, "health": CHECK},
        [add],
    )


def source_of_checks(version: int) -> Lacking:
    lacking = source(version)
    lacking.name, lacking.options = "source-of-checks", {"health": {**CHECK, "source": SOURCE[version]}}
    lacking.says = f"this host does not have {SOURCE[version]}, `source` under health of pool dns; add it"
    return lacking


def device_of_checks(version: int) -> Lacking:
    """A separate link is deleted."""
    # Up from the start: an interface that is down would be another missing requirement.
    make = "ip link add chk0 up type veth peer name chk1"
    up = ["sh", "-c", f"{make} && ip link set chk1 up"]
    return Lacking(
        "device-of-checks",
        version,
        ["ip", "link", "delete", "chk0"],
        up,
        "there is no interface chk0, `device` under health of pool dns; ip link show",
        "interface chk0",
        {"health": {"icmp": {}, "device": "chk0", "interval": "1m", "initial": "up"}},
        [up],
    )


def route(version: int) -> Lacking:
    net = {4: "10.0.2.0/24", 6: "fd00:2::/64"}[version]
    goal = {4: "10.0.2.2", 6: "fd00:2::2"}[version]
    return Lacking(
        "route",
        version,
        ip(version, f"route del {net} dev b2"),
        ip(version, f"route add {net} dev b2"),
        f"there is no route to {goal}, backend dns/b2; ip route add {goal} via ROUTER",
        "routes to backends",
        doctor="backend dns/b2",
    )


def forwarding(version: int) -> Lacking:
    setting = {4: "net.ipv4.ip_forward", 6: "net.ipv6.conf.all.forwarding"}[version]
    return Lacking(
        "forwarding",
        version,
        ["sysctl", "-qw", f"{setting}=0"],
        ["sysctl", "-qw", f"{setting}=1"],
        f"this host does not forward IPv{version} packets, which pool dns needs; sysctl -w {setting}=1",
        f"IPv{version} forwarding",
        {"health": CHECK},
        doctor="forwarding",
    )


def ingress(version: int) -> Lacking:
    """A second ingress interface is deleted; packets from other interfaces go on."""
    lacking = device_of_checks(version)
    lacking.name, lacking.options, lacking.dsr = "ingress", {"forward": "dsr", "ingress": ["eth0", "chk0"]}, True
    lacking.says = "there is no interface chk0, `ingress` of pool dns; ip link show"
    return lacking


def way_of_dsr(version: int) -> Lacking:
    """The interface to a backend, its configured device, is down."""
    lacking = device_of_checks(version)
    net = {4: "10.0.77.1/24", 6: "fd00:77::1/64"}[version]
    goal = {4: "10.0.77.2", 6: "fd00:77::2"}[version]
    nodad = " nodad" if version == 6 else ""
    lacking.name, lacking.dsr = "device-of-dsr", True
    lacking.options = {"forward": "dsr", "more": {"address": goal, "device": "chk0"}}
    there = ["sh", "-c", f"{lacking.given[2]} && ip address add {net} dev chk0{nodad}"]
    lacking.before, lacking.given = [there], there
    lacking.says = "there is no interface chk0, `device` of backend more of pool dns; ip link show"
    lacking.doctor = "backend dns/more"
    return lacking


CASES = [
    case(version)
    for case in (source, source_of_checks, device_of_checks, route, forwarding, ingress, way_of_dsr)
    for version in (4, 6)
]


def pools_of(lab: Lab, lacking: Lacking) -> dict[str, Any]:
    """The affected pool, and an unaffected pool of the other IP version."""
    options = dict(lacking.options)
    more = options.pop("more", None)
    pools = dns(lab, lacking.version, **options)
    if lacking.dsr:
        pools["dns"]["backends"] = {host.name: host.address(lacking.version) for host in lab.backends}
    if more is not None:
        pools["dns"]["backends"]["more"] = more
    other = 10 - lacking.version
    goal = lab.backends[0].address(other)
    pools["other"] = {"listen": f"{at(VIP[other], 53)}/udp", "backends": {"b1": at(goal, PORT)}}
    return pools


@contextmanager
def scene(directory: Path, lacking: Lacking, *, complete: bool = True) -> Iterator[tuple[Lab, Running]]:
    with Lab(backends=3, dsr=lacking.dsr) as lab, ExitStack() as stack:
        for scope in ("all", "eth0") if lacking.dsr else ():
            lab.balancer.sysctl(f"net.ipv4.conf.{scope}.send_redirects", 0)
        stack.enter_context(lab.serve(53 if lacking.dsr else PORT))
        for command in lacking.before if complete else ():
            lab.balancer.run(command)
        yield lab, stack.enter_context(Running(lab.balancer, directory, pools_of(lab, lacking)))


def readiness(daemon: Running, pool: str = "dns") -> tuple[int, str]:
    status, text = daemon.call("GET", f"/readyz?pool={pool}")
    return status, str(text)


def await_status(daemon: Running, expected: int) -> float:
    """Read the status of `/readyz` until it is as expected. Return the seconds, without stalls of the machine."""
    with Stalls(lambda: [daemon.process.pid]) as stalls:
        mark = stalls.mark()
        while (found := readiness(daemon))[0] != expected:
            if time.monotonic() > mark.at + PATIENCE:
                raise AssertionError(f"/readyz is {found} after {PATIENCE:g} s")
        return time.monotonic() - mark.at - stalls.since(mark, turns=3)


def findings(lab: Lab, daemon: Running) -> list[str]:
    """The subjects of the doctor's errors."""
    found = lab.balancer.call(examine, load(str(daemon.file)))
    return [finding.subject for finding in found if finding.severity is Severity.ERROR]


def fault_events(daemon: Running, lacking: Lacking) -> list[str]:
    """Wait for the end of the fault, and return the kinds of its events."""
    kinds = [event.kind for event in daemon.events if event.event["details"].get("what") == lacking.subject]
    return kinds if "fault_gone" in kinds else []


@pytest.mark.parametrize("lacking", CASES, ids=str)
def test_a_missing_requirement_is_shown_until_it_is_met(lacking: Lacking, tmp_path: Path) -> None:
    """Not ready, with the reason, while the requirement is missing; ready after; one event each; seen by the doctor."""
    with scene(tmp_path, lacking) as (lab, daemon), Flow(lab.client, (VIP[lacking.version], 53), rate=100) as flow:
        assert (200, "ready\n") == readiness(daemon)
        assert [] == findings(lab, daemon)
        flow.wait(10)

        lab.balancer.run(lacking.taken)
        took = await_status(daemon, 503)
        _, text = readiness(daemon)
        shown = {pool["name"]: pool for pool in daemon.client.document()["pools"]}
        faults = [fault for fault in daemon.client.document()["faults"] if fault["what"] == lacking.subject]
        others = readiness(daemon, "other")
        found = findings(lab, daemon)

        lab.balancer.run(lacking.given)
        returned = await_status(daemon, 200)
        events = daemon.wait_for(lambda: fault_events(daemon, lacking), "the fault's end")
        after = daemon.client.document()

    assert took < AT_ONCE
    assert returned < AT_ONCE
    assert f"dns: {lacking.says}" in text
    assert lacking.says in shown["dns"]["lacking"][0]
    assert (False, True) == (shown["dns"]["ready"], shown["other"]["ready"])
    assert [(lacking.says, ["dns"])] == [(fault["message"][: len(lacking.says)], fault["pools"]) for fault in faults]
    assert (200, "ready\n") == others
    assert (lacking.doctor or lacking.subject) in found
    assert ["fault", "fault_gone"] == events
    assert [] == [fault for fault in after["faults"] if fault["what"] == lacking.subject]


@pytest.mark.parametrize("lacking", CASES, ids=str)
def test_lacks_from_the_start(lacking: Lacking, tmp_path: Path) -> None:
    """If a requirement is missing from the start, the daemon starts and becomes ready when the requirement is met."""
    with scene(tmp_path, lacking, complete=False) as (lab, daemon):
        if not lacking.before:
            daemon.stop()
            lab.balancer.run(lacking.taken)
            daemon.start()
        status, text = readiness(daemon)
        assert 503 == status
        assert lacking.says in text
        assert (lacking.doctor or lacking.subject) in findings(lab, daemon)

        lab.balancer.run(lacking.given)
        assert await_status(daemon, 200) < AT_ONCE


@pytest.mark.parametrize("version", [4, 6])
def test_a_missing_requirement_loses_no_datagram(version: int, tmp_path: Path) -> None:
    """A missing requirement that affects no packet costs no datagram."""
    lacking = ingress(version)
    with scene(tmp_path, lacking) as (lab, daemon):
        with Flow(lab.client, (VIP[version], 53), rate=500) as flow:
            flow.wait(200)
            lab.balancer.run(lacking.taken)
            await_status(daemon, 503)
            flow.wait(200)
            lab.balancer.run(lacking.given)
            await_status(daemon, 200)
            flow.wait(200)

        assert [] == lost(flow.sent)


@pytest.mark.parametrize("version", [4, 6])
def test_a_source_that_moves_with_the_service(version: int, tmp_path: Path) -> None:
    """A VRRP backup without the service's address and source address is ready: it will get both."""
    lacking = Lacking("floating", version, [], [], "", "", {"source": VIP[version]})
    with scene(tmp_path, lacking) as (lab, daemon):
        lab.balancer.run(ip(version, f"address del {VIP[version]} dev lo"))
        lab.balancer.run(ip(version, f"address add {SOURCE[version]} dev lo"))
        daemon.poll_status(lambda it: it["ready"], "readiness")
        assert (200, "ready\n") == readiness(daemon)


def test_a_backend_in_maintenance_needs_no_route(tmp_path: Path) -> None:
    """A backend in maintenance needs no route."""
    lacking = route(4)
    with scene(tmp_path, lacking) as (lab, daemon):
        daemon.call("PATCH", "/api/v1/pools/dns/backends/b2", {"admin": "maintenance"})
        lab.balancer.run(lacking.taken)
        daemon.wait("backend_down", "b2")
        assert (200, "ready\n") == readiness(daemon)

        daemon.call("PATCH", "/api/v1/pools/dns/backends/b2", {"admin": "enabled"})
        assert 503 == readiness(daemon)[0]


def test_a_tunnel_that_can_not_be_made(tmp_path: Path) -> None:
    """The pool is not ready, and its backend gets no packets. The other pool loses no datagram.

    An interface of another program has the name of the tunnel. The kernel may lack tunnels as well.
    """
    with Lab(backends=3) as lab, ExitStack() as stack:
        goal = lab.backends[0].address(4)
        name = tunnel_hop(Encap.IPIP, ip_address(goal)).device
        lab.balancer.run(["ip", "link", "add", name, "type", "bridge"])
        stack.enter_context(lab.serve(PORT))
        far = {"listen": f"{at(VIP[4], 54)}/udp", "forward": "dsr", "encap": "ipip", "backends": {"b1": goal}}
        daemon = stack.enter_context(Running(lab.balancer, tmp_path, {**dns(lab), "far": far}))
        with Flow(lab.client, (VIP[4], 53), rate=100) as flow:
            flow.wait(10)
            status, text = readiness(daemon, "far")
            backend = daemon.backend("far", "b1")
            faults = " ".join(fault["message"] for fault in daemon.client.document()["faults"])
            other = readiness(daemon)
            flow.wait(20)

        assert (503, (200, "ready\n")) == (status, other)
        assert any(words in text for words in (f"the interface {name}", "no interfaces of the type ipip"))
        assert f"can't make the tunnel to {goal}: an interface that nftlb did not make is called {name}" in faults
        assert (False, True) == (backend["up"], name in str(backend))
        assert [] == lost(flow.sent)


@pytest.mark.parametrize("version", [4, 6])
def test_a_cause_that_concerns_many_backends(version: int, tmp_path: Path) -> None:
    """A route that vanishes for eight backends is one line of `/readyz`, one fault, and one event each way."""
    lacking = route(version)
    begin = {4: "10.0.2.", 6: "fd00:2::"}[version]
    with Lab(backends=2) as lab:
        backends = {f"x{number}": at(f"{begin}{number}", PORT) for number in range(11, 19)}
        pools = {"dns": {"listen": f"{at(VIP[version], 53)}/udp", "backends": backends}}
        with Running(lab.balancer, tmp_path, pools) as daemon:
            lab.balancer.run(lacking.taken)
            await_status(daemon, 503)
            _, text = readiness(daemon)
            faults = daemon.client.document()["faults"]
            lab.balancer.run(lacking.given)
            await_status(daemon, 200)
            events = daemon.wait_for(lambda: fault_events(daemon, lacking), "the fault's end")

    goal = f"{begin}11"
    line = f"there is no route to {goal}, backend dns/x11; ip route add {goal} via ROUTER; the same for dns/x12, "
    assert [f"dns: {line}dns/x13, dns/x14 and 4 more"] == [shown for shown in text.splitlines() if "route" in shown]
    assert [("routes to backends", f"{line}dns/x13, dns/x14 and 4 more")] == [
        (fault["what"], fault["message"]) for fault in faults
    ]
    assert ["fault", "fault_gone"] == events
