"""A backend that is switched off, and so says nothing at all, is out by the kernel's word on its neighbour.

Each test has ONE client socket. The backend's machine is off when its interface is down, which its neighbours see by
their carrier, or when it takes no packets while the carrier stays, as behind a switch.
"""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import yaml
from daemons.link import Link
from daemons.processes import await_that
from flowing import Flow
from running import PORT, VIP, Running, dns

from nftlb.lab import Lab

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nftlb.lab import Host
    from nftlb.lab.servers import Servers

RULES = Path(__file__).parents[2] / "rules"
RATE = 200
ASKING = 3.0
"""Seconds that the kernel asks a neighbour: three times, a second apart.

A lost carrier makes the kernel forget its neighbours, perhaps in the middle of a search, which then begins again. Seen
once in some twenty runs: 6.2 s until the neighbour had failed.
"""
SLACK = 1.0
"""Seconds for the kernel's timers, which are up to a quarter late, and for a busy machine."""
OFF = """
table netdev away {
  chain ingress {
    type filter hook ingress device "eth0" priority -500
    drop
  }
}
"""


def carrier(lab: Lab, host: Host) -> Callable[[], Callable[[], None]]:
    """Switch off by taking the interface down."""

    def off() -> Callable[[], None]:
        link = Link(lab, host)
        host.sysctl("net.ipv6.conf.eth0.keep_addr_on_down", 1)
        host.run(["ip", "link", "set", "eth0", "down"])
        link._down = True
        return link.up

    return off


def silence(_lab: Lab, host: Host) -> Callable[[], Callable[[], None]]:
    """Switch off by dropping whatever comes in, ARP and neighbour discovery too."""

    def off() -> Callable[[], None]:
        host.run(["nft", "-f", "-"], input=OFF)

        def on() -> None:
            host.run(["nft", "delete", "table", "netdev", "away"])

        return on

    return off


class Course(NamedTuple):
    """When b2 was switched off, when the kernel's rules were seen without it, when it was back on, and in rotation."""

    off: float
    out: float
    on: float
    back: float
    reason: str


def suffer(daemon: Running, flow: Flow, off: Callable[[], Callable[[], None]]) -> Course:
    """Let b2 be off, with traffic before, while it is out and when it is back."""
    flow.wait(RATE // 2)
    began = time.monotonic()
    on = off()
    down = daemon.wait("backend_down", "b2")
    out = daemon.wait("swap", since=down.at).at
    flow.wait(RATE // 2)
    returned = time.monotonic()
    on()
    back = daemon.wait("swap", since=daemon.wait("backend_up", "b2").at).at
    flow.wait(RATE // 2)
    return Course(began, out, returned, back, down.event["reason"])


def nothing_more_is_lost(flow: Flow, servers: Servers, course: Course) -> None:
    """Check that b2 alone lost datagrams, until it was out, and that all three take turns again."""
    arrived = {one.sequence: one.backend for one in servers.received if one.sender == "client1"}
    assert {"b1", "b3"} == {arrived.get(one.number) for one in flow.sent if course.out < one.at < course.on}
    after = [arrived.get(one.number) for one in flow.sent if one.at > course.back + 0.1]
    assert {"b1", "b2", "b3"} == set(after)
    missing = [one for one in flow.sent if one.number not in arrived]
    assert all(course.off - 0.1 < one.at < course.out for one in missing)
    assert len(missing) <= (course.out - course.off + 0.1) * RATE / 3 + 2


def as_shipped(lab: Lab, version: int) -> dict[str, Any]:
    """Give the pools of rules/syslog.yaml, with the lab's addresses for its own."""
    pools: dict[str, Any] = yaml.safe_load((RULES / "syslog.yaml").read_text())["pools"]
    address = VIP[version]
    pools["syslog"]["listen"] = f"[{address}]:514/udp" if version == 6 else f"{address}:514/udp"
    pools["syslog"]["backends"] = {host.name: host.address(version) for host in lab.backends}
    return pools


@contextmanager
def scene(
    directory: Path, pools: Callable[[Lab], dict[str, Any]], version: int, port: int, *, dsr: bool = False
) -> Iterator[tuple[Lab, Running, Flow, Servers]]:
    """A lab of three, with servers that never answer on the port, the daemon, and traffic."""
    with Lab(backends=3, dsr=dsr) as lab, ExitStack() as stack:
        servers = stack.enter_context(lab.serve(port, answer=False))
        daemon = stack.enter_context(Running(lab.balancer, directory, pools(lab)))
        listen = 514 if port == 514 else 53
        yield lab, daemon, stack.enter_context(Flow(lab.client, (VIP[version], listen), rate=RATE)), servers


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("switched_off", [carrier, silence])
def test_syslog_as_shipped(
    switched_off: Callable[[Lab, Host], Callable[[], Callable[[], None]]], version: int, tmp_path: Path
) -> None:
    """Its check passes by silence: the neighbour is asked at each check, and is out 3 s later."""
    with scene(tmp_path, lambda lab: as_shipped(lab, version), version, 514) as (lab, daemon, flow, servers):
        address = lab.backends[1].address(version)
        course = suffer(daemon, flow, switched_off(lab, lab.backends[1]))
        shown = daemon.backend("syslog", "b2")

    assert {4: " to ARP: ", 6: " to neighbour discovery: "}[version] in course.reason
    assert f"neighbour {address} on b2" in course.reason
    assert course.out - course.off < 2.0 + ASKING + SLACK
    assert course.back - course.on < 2.0 + 0.5 + ASKING + SLACK
    assert shown["up"]
    nothing_more_is_lost(flow, servers, course)


WEAK = {"udp": {"send": "there?", "expect": "no-icmp-error"}, "interval": "1s"}


@pytest.mark.parametrize(
    ("options", "dsr"),
    [
        ({"forward": "nat", "health": WEAK}, False),
        ({"forward": "nat", "per": "flow", "balance": "random", "health": WEAK}, False),
        ({"forward": "stateless", "health": WEAK}, False),
        ({"forward": "stateless", "health": WEAK, "ingress": ["client1"]}, False),
        ({"forward": "dsr", "health": WEAK}, True),
        ({"forward": "dsr", "health": WEAK, "ingress": ["eth0"]}, True),
    ],
    ids=["nat", "flow", "stateless", "stateless-ingress", "dsr", "dsr-ingress"],
)
@pytest.mark.parametrize("version", [4, 6])
def test_every_mode(options: dict[str, Any], dsr: bool, version: int, tmp_path: Path) -> None:
    """However packets get to the backend: it is out, and in again when it answers."""
    port = 53 if dsr else PORT

    def pools(lab: Lab) -> dict[str, Any]:
        pools = dns(lab, version, **options)
        if dsr:
            pools["dns"]["backends"] = {host.name: host.address(version) for host in lab.backends}
        return pools

    with scene(tmp_path, pools, version, port, dsr=dsr) as (lab, daemon, flow, servers):
        course = suffer(daemon, flow, silence(lab, lab.backends[1]))

    assert " failed" in course.reason
    assert course.out - course.off < 1.0 + ASKING + SLACK
    if options.get("per") != "flow":
        nothing_more_is_lost(flow, servers, course)


@pytest.mark.parametrize("version", [4, 6])
def test_without_health_checks(version: int, tmp_path: Path) -> None:
    """The kernel finds out for its own sake, within 6 s; then it is asked until it is back."""
    with scene(tmp_path, lambda lab: dns(lab, version), version, PORT) as (lab, daemon, flow, servers):
        course = suffer(daemon, flow, carrier(lab, lab.backends[1]))

    assert " failed" in course.reason
    assert course.out - course.off < 2 * ASKING + SLACK
    assert course.back - course.on < 1.0 + ASKING + SLACK
    nothing_more_is_lost(flow, servers, course)


@pytest.mark.parametrize("version", [4, 6])
def test_sooner_than_a_slow_check(version: int, tmp_path: Path) -> None:
    """A check by TCP once a minute needs minutes; the neighbour tells after 3 s, at most 6."""
    health = {"tcp": {}, "interval": "1m", "fast_interval": "10s", "rise": 1}
    with Lab(backends=3) as lab, lab.serve_tcp(PORT), lab.serve(PORT) as servers:
        daemon = Running(lab.balancer, tmp_path, dns(lab, version, health=health))
        with daemon, Flow(lab.client, (VIP[version], 53), rate=RATE) as flow:
            daemon.poll_status(
                lambda it: all(one["checks"][0]["passed"] for one in it["pools"][0]["backends"]), "first checks"
            )
            course = suffer(daemon, flow, carrier(lab, lab.backends[1]))

    assert course.out - course.off < 2 * ASKING + SLACK
    nothing_more_is_lost(flow, servers, course)


def test_a_static_neighbour_says_nothing(tmp_path: Path) -> None:
    """What an administrator wrote down is believed, and is left as it is."""
    with scene(tmp_path, lambda lab: as_shipped(lab, 4), 4, 514) as (lab, daemon, flow, _):
        b2 = lab.backends[1]
        address = b2.run(["cat", "/sys/class/net/eth0/address"]).strip()
        entry = [b2.ipv4, "lladdr", address, "dev", "b2", "nud", "permanent"]
        lab.balancer.run(["ip", "neigh", "replace", *entry])
        carrier_lost = silence(lab, b2)()
        silence(lab, lab.backends[2])()
        daemon.wait("backend_down", "b3")
        flow.wait(RATE)
        shown = daemon.backend("syslog", "b2")
        carrier_lost()

        assert shown["up"]
        assert "PERMANENT" in lab.balancer.run(["ip", "neigh", "show", b2.ipv4])


@pytest.mark.parametrize("version", [4, 6])
def test_a_router_that_is_off_takes_those_behind_it(version: int, tmp_path: Path) -> None:
    """Nothing gets to a backend whose next hop is away; and others stay."""
    net, behind = {4: ("203.0.113.0/24", "203.0.113.7"), 6: ("2001:db8:77::/64", "2001:db8:77::7")}[version]

    def pools(lab: Lab) -> dict[str, Any]:
        lab.balancer.run(["ip", f"-{version}", "route", "add", net, "via", lab.backends[1].address(version)])
        pools = as_shipped(lab, version)
        pools["syslog"]["backends"]["far"] = behind
        return pools

    with scene(tmp_path, pools, version, 514) as (lab, daemon, _, _):
        off = silence(lab, lab.backends[1])()
        router = lab.backends[1].address(version)
        reason = daemon.wait("backend_down", "far").event["reason"]
        daemon.wait("backend_down", "b2")
        off()
        daemon.wait("backend_up", "far")
        told = {one.backend for one in daemon.events if one.kind == "backend_down"}

    assert f"neighbour {router} on b2" in reason
    assert {"b2", "far"} == told


def test_the_check_does_not_pass_while_nobody_answers(tmp_path: Path) -> None:
    """What silence would pass fails, with the reason; and counts again when the neighbour has answered."""
    with scene(tmp_path, lambda lab: as_shipped(lab, 4), 4, 514) as (lab, daemon, _, _):
        off = silence(lab, lab.backends[1])()
        daemon.wait("backend_down", "b2")

        def check() -> dict[str, Any]:
            return dict(daemon.backend("syslog", "b2")["checks"][0])

        await_that(lambda: not check()["passed"], "a check that fails")
        assert "ARP: neighbour" in check()["reason"]
        await_that(lambda: not check()["up"], "a verdict")
        off()
        daemon.wait("backend_up", "b2")
        assert "silence counted as success" in check()["reason"]
