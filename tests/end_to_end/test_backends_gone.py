"""A backend that is switched off sends nothing, and is removed because its neighbour entry in the kernel fails.

Each test has ONE client socket. A backend's machine is off if its interface is down, so that its neighbour loses the
carrier, or if it drops all packets while the carrier stays, as behind a switch.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import yaml
from daemon_process import PORT, VIP, Running, dns
from machine_stalls import Stalls
from servers.link import Link
from servers.processes import await_that
from steady_traffic import Flow
from tcp_connections import TcpServers

from nftlb.lab import Lab

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nftlb.lab import Host
    from nftlb.lab.servers import Servers

RULES = Path(__file__).parents[2] / "rules"
RATE = 200
ASKING = 3.0
"""Seconds until a neighbour entry fails: the kernel sends three requests, a second apart.

A lost carrier makes the kernel delete its neighbour entries, perhaps in the middle of a search, which then begins
again. This happened once in some twenty runs: the entry failed after 6.2 s.
"""
SLACK = 1.0
"""Seconds for the kernel's timers, which are up to a quarter late, and for the rest."""
STEPS = 6
"""How often a change waits for a processor, at most: switching off or on, the check, the survey and the commit."""
OFF = """
table netdev away {
  chain ingress {
    type filter hook ingress device "eth0" priority -500
    drop
  }
}
"""


def carrier(lab: Lab, host: Host) -> Callable[[], Callable[[], None]]:
    """Switch a backend off: its interface goes down."""

    def off() -> Callable[[], None]:
        link = Link(lab, host)
        host.sysctl("net.ipv6.conf.eth0.keep_addr_on_down", 1)
        host.run(["ip", "link", "set", "eth0", "down"])
        link._down = True
        return link.up

    return off


def silence(_lab: Lab, host: Host) -> Callable[[], Callable[[], None]]:
    """Switch a backend off: it drops all incoming packets, ARP and neighbour discovery too."""

    def off() -> Callable[[], None]:
        host.run(["nft", "-f", "-"], input=OFF)

        def on() -> None:
            host.run(["nft", "delete", "table", "netdev", "away"])

        return on

    return off


class Course(NamedTuple):
    """The times at which b2 was switched off, was out of the kernel's rules, was switched on, and was in rotation.

    `left` and `returned`: the seconds from `off` to `out`, and from `on` to `back`, without stalls of the machine.
    """

    off: float
    out: float
    on: float
    back: float
    reason: str
    left: float
    returned: float


def suffer(daemon: Running, flow: Flow, off: Callable[[], Callable[[], None]]) -> Course:
    """Switch b2 off and on again, with traffic before, while b2 is out, and after its return."""
    with Stalls(lambda: [daemon.process.pid]) as stalls:
        flow.wait(RATE // 2)
        began = stalls.mark()
        on = off()
        down = daemon.wait("backend_down", "b2", since=began.at)
        out = daemon.wait("swap", since=down.at).at
        left = out - began.at - stalls.since(began, STEPS)
        flow.wait(RATE // 2)
        switched_on = stalls.mark()
        on()
        back = daemon.wait("swap", since=daemon.wait("backend_up", "b2", since=out).at).at
        returned = back - switched_on.at - stalls.since(switched_on, STEPS)
        flow.wait(RATE // 2)
    return Course(began.at, out, switched_on.at, back, down.event["reason"], left, returned)


def nothing_more_is_lost(flow: Flow, servers: Servers, course: Course) -> None:
    """Check that only b2 lost datagrams, only until it was out, and that all three backends take turns again."""
    arrived = {datagram.sequence: datagram.backend for datagram in servers.received if datagram.sender == "client1"}
    assert {"b1", "b3"} == {
        arrived.get(datagram.number) for datagram in flow.sent if course.out < datagram.at < course.on
    }
    after = [arrived.get(datagram.number) for datagram in flow.sent if datagram.at > course.back + 0.1]
    assert {"b1", "b2", "b3"} == set(after)
    missing = [datagram for datagram in flow.sent if datagram.number not in arrived]
    assert all(course.off - 0.1 < datagram.at < course.out for datagram in missing)
    assert len(missing) <= (course.out - course.off + 0.1) * RATE / 3 + 2


def as_shipped(lab: Lab, version: int) -> dict[str, Any]:
    """The pools of rules/syslog.yaml, with the addresses of the lab."""
    pools: dict[str, Any] = yaml.safe_load((RULES / "syslog.yaml").read_text())["pools"]
    address = VIP[version]
    pools["syslog"]["listen"] = f"[{address}]:514/udp" if version == 6 else f"{address}:514/udp"
    pools["syslog"]["backends"] = {host.name: host.address(version) for host in lab.backends}
    return pools


@contextmanager
def scene(
    directory: Path, pools: Callable[[Lab], dict[str, Any]], version: int, port: int, *, dsr: bool = False
) -> Iterator[tuple[Lab, Running, Flow, Servers]]:
    """A lab of three backends whose servers never reply, with the daemon and traffic."""
    with Lab(backends=3, dsr=dsr) as lab, ExitStack() as stack:
        servers = stack.enter_context(lab.serve(port, answer=False))
        daemon = stack.enter_context(Running(lab.balancer, directory, pools(lab)))
        listen = 514 if port == 514 else 53
        yield lab, daemon, stack.enter_context(Flow(lab.client, (VIP[version], listen), rate=RATE)), servers


@pytest.mark.kernel
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("switched_off", [carrier, silence])
def test_syslog_as_shipped(
    switched_off: Callable[[Lab, Host], Callable[[], Callable[[], None]]], version: int, tmp_path: Path
) -> None:
    """Silence is success for this check: each check makes the kernel ask the neighbour, which is out 3 s later."""
    with scene(tmp_path, lambda lab: as_shipped(lab, version), version, 514) as (lab, daemon, flow, servers):
        address = lab.backends[1].address(version)
        course = suffer(daemon, flow, switched_off(lab, lab.backends[1]))
        shown = daemon.backend("syslog", "b2")

    assert {4: " to ARP: ", 6: " to neighbour discovery: "}[version] in course.reason
    assert f"neighbour {address} on b2" in course.reason
    assert course.left < 2.0 + ASKING + SLACK
    assert course.returned < 2.0 + 0.5 + ASKING + SLACK
    assert shown["up"]
    nothing_more_is_lost(flow, servers, course)


WEAK = {"udp": {"send": "there?", "expect": "no-icmp-error"}, "interval": "1s"}


@pytest.mark.kernel
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
    """In every mode, the backend is out, and is in again when it replies."""
    port = 53 if dsr else PORT

    def pools(lab: Lab) -> dict[str, Any]:
        pools = dns(lab, version, **options)
        if dsr:
            pools["dns"]["backends"] = {host.name: host.address(version) for host in lab.backends}
        return pools

    with scene(tmp_path, pools, version, port, dsr=dsr) as (lab, daemon, flow, servers):
        course = suffer(daemon, flow, silence(lab, lab.backends[1]))

    assert " failed" in course.reason
    assert course.left < 1.0 + ASKING + SLACK
    if options.get("per") != "flow":
        nothing_more_is_lost(flow, servers, course)


@pytest.mark.kernel
@pytest.mark.parametrize("version", [4, 6])
def test_without_health_checks(version: int, tmp_path: Path) -> None:
    """The kernel itself finds the failure within 6 s; then it asks the neighbour until it replies."""
    with scene(tmp_path, lambda lab: dns(lab, version), version, PORT) as (lab, daemon, flow, servers):
        course = suffer(daemon, flow, carrier(lab, lab.backends[1]))

    assert " failed" in course.reason
    assert course.left < 2 * ASKING + SLACK
    assert course.returned < 1.0 + ASKING + SLACK
    nothing_more_is_lost(flow, servers, course)


@pytest.mark.kernel
@pytest.mark.parametrize("version", [4, 6])
def test_sooner_than_a_slow_check(version: int, tmp_path: Path) -> None:
    """A TCP check once a minute needs minutes; the neighbour entry fails after 3 s, at most 6."""
    health = {"tcp": {}, "interval": "1m", "fast_interval": "10s", "rise": 1}
    with Lab(backends=3) as lab, TcpServers(lab.backends, PORT), lab.serve(PORT) as servers:
        daemon = Running(lab.balancer, tmp_path, dns(lab, version, health=health))
        with daemon, Flow(lab.client, (VIP[version], 53), rate=RATE) as flow:
            daemon.poll_status(
                lambda it: all(backend["checks"][0]["passed"] for backend in it["pools"][0]["backends"]), "first checks"
            )
            course = suffer(daemon, flow, carrier(lab, lab.backends[1]))

    assert course.left < 2 * ASKING + SLACK
    nothing_more_is_lost(flow, servers, course)


def test_a_static_neighbour_is_not_a_failure(tmp_path: Path) -> None:
    """A static entry does not count as a failure, and does not change."""
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
def test_backends_behind_a_failed_router_are_out(version: int, tmp_path: Path) -> None:
    """A backend is out if its router is off; other backends stay."""
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
        reported = {event.backend for event in daemon.events if event.kind == "backend_down"}

    assert f"neighbour {router} on b2" in reason
    assert {"b2", "far"} == reported


def test_the_check_fails_while_the_neighbour_does_not_reply(tmp_path: Path) -> None:
    """A check for which silence is success fails, with the reason, and passes when the neighbour has replied."""
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
