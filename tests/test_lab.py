"""The lab itself: what it shows must be what the kernel does, and nothing may remain of it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from array import array
from pathlib import Path
from typing import TYPE_CHECKING

import pyroute2
import pytest
from lab import rules
from lab.blaster import Ledger, Membership
from pyroute2 import IPRoute
from unprivileged import NOBODY

from nftlb.errors import KernelError, SystemFault
from nftlb.lab import VIP4, VIP6, Checksum, Lab, Namespace, sctp, userns
from nftlb.lab.datagram import Datagram, Kind, decode
from nftlb.lab.offload import get_offload

if TYPE_CHECKING:
    from typing import Any

    from lab.blaster import Blaster

pytest_plugins = ("lab.fixtures",)

REPOSITORY = Path(__file__).resolve().parent.parent
VIP = {4: VIP4, 6: VIP6}
TURNS = ["b1", "b2", "b3"]

both_versions = pytest.mark.parametrize("version", [4, 6])
with_and_without_offload = pytest.mark.parametrize("offload", [False, True], ids=["wire", "offload"])


@pytest.fixture(scope="module", autouse=True)
def _may_make_namespaces() -> None:
    """Run without root too, in a user namespace."""
    userns.ensure()


# ---- balancing, seen through it ----


@both_versions
@with_and_without_offload
def test_rule_in_nat_chain_balances_flows_only(version: int, offload: bool) -> None:
    """The trap: 12 datagrams of one socket all reach the first backend."""
    with Lab(offload=offload) as lab, lab.serve() as servers, lab.client.connect((VIP[version], 53)) as client:
        lab.nft(rules.per_flow(version))
        assert [answer.backend for answer in client.exchange(12)] == ["b1"] * 12
        assert servers.counts == {"b1": 12, "b2": 0, "b3": 0}


@both_versions
@with_and_without_offload
def test_zone_per_backend_balances_packets(version: int, offload: bool) -> None:
    """12 datagrams of one socket reach three backends in strict turn, and are answered from the VIP."""
    with Lab(offload=offload) as lab, lab.serve() as servers:
        lab.nft(rules.per_packet(version))
        with lab.client.connect((VIP[version], 53), connected=False) as client:
            answers = client.exchange(12)
            servers.settle()
            assert client.drain() == []
        assert [answer.backend for answer in answers] == TURNS * 4
        assert {(answer.source, answer.whole, answer.copies) for answer in answers} == {((VIP[version], 53), True, 1)}
        assert [(record.backend, record.sequence) for record in servers.received] == [
            (TURNS[n % 3], n) for n in range(12)
        ]


@both_versions
def test_client_on_balancer_and_backend_as_client(version: int) -> None:
    """Any host can be the client: the balancer itself, and a backend that is balanced to itself too."""
    with Lab() as lab, lab.serve():
        lab.nft(rules.per_packet(version))
        for host in (lab.balancer, lab.backends[0]):
            with host.connect((VIP[version], 53)) as client:
                assert sorted(answer.backend for answer in client.exchange(6)) == ["b1", "b1", "b2", "b2", "b3", "b3"]


@both_versions
def test_two_clients_with_one_source_port(version: int) -> None:
    """Each of two sockets with the same port on different hosts gets its own replies."""
    with Lab(clients=2) as lab, lab.serve() as servers:
        lab.nft(rules.per_packet(version))
        first, second = (host.connect((VIP[version], 53), source_port=4000) for host in lab.clients)
        with first, second:
            for client in (first, second, first, second):
                assert all(answer.whole for answer in client.exchange(6, pipelined=True))
        assert servers.counts == {"b1": 8, "b2": 8, "b3": 8}
        assert {record.sender for record in servers.received} == {"client1", "client2"}


@both_versions
@with_and_without_offload
def test_large_datagrams_arrive_whole(version: int, offload: bool) -> None:
    """60,000 bytes, in fragments, both ways."""
    with Lab(offload=offload) as lab, lab.serve(), lab.client.connect((VIP[version], 53)) as client:
        lab.nft(rules.per_packet(version))
        answers = client.exchange(9, size=60_000, pipelined=True)
        assert [(answer.backend, answer.size, answer.whole) for answer in answers] == [
            (name, 60_000, True) for name in TURNS * 3
        ]


@with_and_without_offload
def test_zero_checksums_are_on_the_wire(offload: bool) -> None:
    """A socket can leave the checksum out, and the tap tells that from finished and unfinished ones."""
    ordinary = Checksum.UNFINISHED if offload else Checksum.GOOD
    for zero, expected in ((True, Checksum.ABSENT), (False, ordinary)):
        with Lab(offload=offload) as lab, lab.serve(zero_checksum=zero), lab.balancer.tap("b1") as tap:
            for address in (lab.backends[0].ipv4, lab.backends[0].ipv6):
                with lab.client.connect((address, 5353), zero_checksum=zero) as client:
                    assert client.exchange(1)[0].whole
            assert [packet.checksum for packet in tap.datagrams()] == [expected] * 4


def test_port_ranges_and_foreign_payloads() -> None:
    """Servers listen on many ports, and answer what is not the lab's with name, blank and payload."""
    with Lab(backends=1) as lab, lab.serve(range(6000, 6010), versions=(4,)) as servers:
        for port in (6000, 6009):
            with lab.client.connect((lab.backends[0].ipv4, port)) as client:
                assert client.exchange(1)[0].source == (lab.backends[0].ipv4, port)
        with lab.client.call(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(5)
            sock.sendto(b"hello", (lab.backends[0].ipv4, 6005))
            assert sock.recv(100) == b"b1 hello"
        assert [record.destination[1] for record in servers.received] == [6000, 6009, 6005]
        assert (servers.received[-1].sequence, servers.received[-1].payload) == (None, b"hello")


# ---- what does not arrive ----


@pytest.mark.parametrize("version", [4, 6])
def test_answer_without_a_route(version: int) -> None:
    """A backend that has lost its route gives no answer; its servers go on, and answer when the route is back."""
    with Lab(backends=1) as lab, lab.serve() as servers, lab.serve_sctp(5353) as associations:
        backend = lab.backends[0]
        with lab.client.connect((backend.address(version), 5353)) as client:
            route = backend.run(["ip", f"-{version}", "route", "show", "default"]).split()
            backend.run(["ip", f"-{version}", "route", "flush", "default"])
            assert client.exchange(1, timeout=0.2)[0].copies == 0
            servers.wait(1)
            with pytest.raises(TimeoutError):
                lab.client.associate((backend.address(version), 5353), source_port=4000)
            backend.run(["ip", f"-{version}", "route", "add", *route])
            assert client.exchange(1)[0].whole
        with lab.client.associate((backend.address(version), 5353), source_port=4001) as association:
            assert association.beat() == "b1"
        assert associations.counts == {"b1": 2}


@both_versions
def test_plain_route_and_one_way(version: int) -> None:
    """Without rules datagrams reach the backend they are addressed to; what asks for no reply gets none."""
    with Lab() as lab, lab.serve() as servers, lab.client.connect((lab.backends[1].address(version), 5353)) as client:
        numbers = client.send(20)
        assert [record.sequence for record in servers.wait(20)] == list(numbers)
        assert servers.counts == {"b1": 0, "b2": 20, "b3": 0}
        servers.settle()
        assert client.drain() == []


def test_losses_are_seen_without_waiting() -> None:
    """A fence shows that what is not there will not come: every second datagram is dropped."""
    with Lab() as lab, lab.serve(answer=False) as servers:
        lab.nft(rules.one_rule("ip", "filter hook forward priority 0", "udp length 72 numgen inc mod 2 0 drop"))
        with lab.client.connect((lab.backends[0].ipv4, 5353)) as client:
            client.send(10)
            assert [record.sequence for record in servers.settle()] == [1, 3, 5, 7, 9]


def test_missing_reply_is_a_loss() -> None:
    """An exchange goes on after a reply that never comes, and says which."""
    with Lab() as lab, lab.serve(), lab.client.connect((lab.backends[0].ipv4, 5353)) as client:
        lab.nft(rules.one_rule("ip", "filter hook forward priority 0", "udp sport 5353 numgen inc mod 3 1 drop"))
        assert [answer.copies for answer in client.exchange(3, timeout=0.05)] == [1, 0, 1]


def test_duplicates_are_counted() -> None:
    """A reply that comes twice is noticed, also when the second copy comes after the exchange."""
    with Lab() as lab, lab.serve() as servers, lab.client.connect((lab.backends[0].ipv4, 5353)) as client:
        lab.nft(rules.one_rule("netdev", "filter hook ingress device b1 priority 0", "udp sport 5353 dup to client1"))
        # `dup` keeps the Ethernet header, so the client must have the address that the backend sends to.
        (router,) = json.loads(lab.balancer.run(["ip", "-j", "link", "show", "b1"]))
        lab.client.run(["ip", "link", "set", "eth0", "address", router["address"]])
        answers = client.exchange(5)
        servers.settle()
        assert sum(answer.copies for answer in answers) + sum(answer.copies for answer in client.drain()) == 10


@both_versions
def test_refusal_comes_back(version: int) -> None:
    """A backend without a server refuses: a connected socket sees it at once, an error queue also says who."""
    with Lab() as lab:
        backend = lab.backends[0].address(version)
        with lab.client.connect((backend, 5353)) as client:
            assert [answer.error and answer.error.errno for answer in client.exchange(1)] == [errno.ECONNREFUSED]
        with lab.client.connect((backend, 5353), connected=False, error_queue=True) as client:
            client.exchange(1)
            (error,) = client.icmp_errors()
            assert (error.errno, error.offender, error.sequence) == (errno.ECONNREFUSED, backend, 0)


@both_versions
def test_narrow_link_reports_its_mtu(version: int) -> None:
    """Behind a link of 1,400 bytes a full-sized datagram brings an error with that MTU, and smaller ones pass."""
    with Lab(mtu={"b1": 1400}) as lab, lab.serve():
        backend, router = lab.backends[0].address(version), {4: "198.51.100.1", 6: "2001:db8:1::1"}[version]
        with lab.client.connect((backend, 5353), dont_fragment=True, error_queue=True) as client:
            (answer,) = client.exchange(1, size=1450)
            assert answer.error is not None
            assert answer.error.errno == errno.EMSGSIZE
            (error,) = client.icmp_errors()
            assert (error.mtu, error.offender, error.sequence) == (1400, router, 0)
            assert client.exchange(1, size=1350)[0].whole


# ---- the shapes ----


@with_and_without_offload
def test_offload_is_as_asked(offload: bool) -> None:
    """Every end of every link has its checksum offload on or off, and never segments."""
    for dsr in (False, True):
        with Lab(offload=offload, dsr=dsr) as lab:
            for host in lab.hosts.values():
                for interface in host.plan.interfaces:
                    if interface.name not in ("lo", "br0"):
                        flags = host.call(get_offload, interface.name)
                        assert (flags.tx_checksum, flags.rx_checksum) == (offload, offload)
                        assert (flags.segmentation, flags.generic_receive) == (False, False)


@both_versions
def test_direct_return_passes_the_balancer_by(version: int) -> None:
    """Backends that hold the VIP answer the client themselves; the balancer sees requests only."""
    with (
        Lab(dsr=True) as lab,
        lab.serve() as servers,
        lab.client.connect((VIP[version], 5353)) as client,
        lab.balancer.tap() as tap,
    ):
        lab.nft(rules.direct_return(5353))
        answers = client.exchange(9)
        assert [(answer.backend, answer.source) for answer in answers] == [(n, (VIP[version], 5353)) for n in TURNS * 3]
        seen = tap.datagrams()
        assert {packet.destination[0] for packet in seen} == {VIP[version]}
        assert [packet.outgoing for packet in seen] == [False, True] * 9
        assert {record.source[0] for record in servers.received} == {lab.client.address(version)}


def test_only_the_balancer_answers_for_the_vip() -> None:
    """On the segment ARP and ND for the VIPs lead to the balancer, though every backend holds them."""
    with Lab(dsr=True) as lab, lab.serve(backends=[lab.balancer]):
        link = json.loads(lab.balancer.run(["ip", "-j", "link", "show", "eth0"]))[0]["address"]
        for version in (4, 6):
            with lab.client.connect((VIP[version], 5353)) as client:
                assert client.exchange(1)[0].backend == "balancer"
            (neighbour,) = json.loads(lab.client.run(["ip", "-j", "neigh", "show", VIP[version]]))
            assert neighbour["lladdr"] == link


@both_versions
def test_flows_of_tcp_and_sctp(version: int) -> None:
    """Each connection and each association stays whole and with its backend; SCTP's checksums are right after NAT."""
    for offload in (False, True):
        with Lab(offload=offload) as lab, lab.serve_tcp(5353) as tcp, lab.serve_sctp(5353) as associations:
            lab.nft(rules.whole_flows())
            for _ in range(3):
                with lab.client.dial((VIP[version], 5353)) as flow:
                    assert flow.echo(bytes(100_000)) == bytes(100_000)
            assert tcp.counts == {"b1": 1, "b2": 1, "b3": 1}
            for port in (4001, 4002, 4003):
                with lab.client.associate((VIP[version], 5353), source_port=port) as association:
                    assert association.beat() == association.backend
            assert associations.counts == {"b1": 1, "b2": 1, "b3": 1}
            assert associations.bad_checksums == 0


def test_wrong_sctp_checksum_is_seen() -> None:
    """The SCTP server does not answer a packet whose CRC32c is wrong, and counts it."""
    assert sctp.crc32c(b"123456789") == 0xE3069283
    with Lab(backends=1) as lab, lab.serve_sctp(5353) as associations:
        packet = bytearray(sctp.SctpPacket(4000, 5353, 0, sctp.Chunk.INIT, bytes(16)).encode())
        packet[-1] ^= 1
        with lab.client.call(socket.socket, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_SCTP) as sock:
            sock.sendto(packet, (lab.backends[0].ipv4, 0))
        with lab.client.associate((lab.backends[0].ipv4, 5353), source_port=4001):
            assert (associations.counts, associations.bad_checksums) == ({"b1": 1}, 1)


def test_rules_are_the_balancers_only() -> None:
    """Rules act in the balancer's namespace, interface names included; what nft refuses is an error in its words."""
    with Lab() as lab:
        lab.nft(rules.one_rule("netdev", "filter hook ingress device client1 priority 0", "fwd to b1"))
        assert 'fwd to "b1"' in lab.nft("list ruleset")
        assert lab.client.run(["nft", "list", "ruleset"]) == ""
        with pytest.raises(KernelError, match="does not exist"):
            lab.nft(rules.one_rule("netdev", "filter hook ingress device client1 priority 0", "fwd to b99"))


def test_payload_shows_every_change() -> None:
    """A payload that is altered, cut or lengthened is not whole."""
    payload = Datagram(Kind.REQUEST, 7, "client1", 100).encode()
    assert len(payload) == 100
    assert decode(payload) == (Datagram(Kind.REQUEST, 7, "client1", 100), True)
    for position in range(40, 100):
        altered = bytearray(payload)
        altered[position] ^= 1
        decoded = decode(bytes(altered))
        assert decoded is not None
        assert not decoded[1]
    assert [decoded[1] for decoded in (decode(payload[:-1]), decode(payload + b"x")) if decoded] == [False, False]


# ---- nothing remains ----


def test_nothing_remains() -> None:
    """After `with` there are no links, named namespaces, descriptors or threads that were not there before."""

    def traces() -> tuple[object, ...]:
        named, mine = Path("/run/netns"), Path("/proc/self/fd")
        with IPRoute() as netlink:
            links = [link.get_attr("IFLA_IFNAME") for link in netlink.get_links()]
        names = sorted(path.name for path in named.iterdir()) if named.exists() else []
        return links, names, sorted(path.name for path in mine.iterdir()), threading.active_count()

    traces()  # what pyroute2 keeps open once it was used is there before
    before = traces()
    for dsr in (False, True):
        with Lab(dsr=dsr) as lab, lab.serve() as servers, lab.serve_tcp(), lab.serve_sctp(), lab.balancer.tap("lo"):
            lab.nft("table ip t { }")
            servers.settle()
    assert traces() == before


def test_namespaces_end_with_the_lab() -> None:
    """A link from the balancer to an observer outside vanishes by itself when the lab is closed."""
    with Namespace("observer") as observer:
        with Lab() as lab:
            lab.balancer.call(_tie, observer.fileno())
            assert _links(observer) == ["lo", "observed"]
        _await_no_links(observer)


def test_namespaces_end_with_a_killed_process() -> None:
    """A process that is killed leaves no namespace behind either."""
    script = (
        "import sys, nftlb.lab\n"
        "sys.path.insert(0, 'tests')\n"
        "from test_lab import _tie\n"
        "with nftlb.lab.Lab() as lab:\n"
        "    lab.balancer.call(_tie, int(sys.argv[1]))\n"
        "    print('up', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with Namespace("observer") as observer:
        argv = [sys.executable, "-c", script, str(observer.fileno())]
        pipe = subprocess.PIPE
        with subprocess.Popen(argv, stdin=pipe, stdout=pipe, cwd=REPOSITORY, pass_fds=(observer.fileno(),)) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"up\n"
            assert _links(observer) == ["lo", "observed"]
            process.send_signal(signal.SIGKILL)
        _await_no_links(observer)


def _tie(observer: int) -> None:
    """Make a link from this thread's namespace to the observer's."""
    with IPRoute() as netlink:
        netlink.link("add", ifname="tie", kind="veth", peer={"ifname": "observed", "net_ns_fd": observer})


def _links(namespace: Namespace) -> list[str]:
    def look() -> list[str]:
        with IPRoute() as netlink:
            return [link.get_attr("IFLA_IFNAME") for link in netlink.get_links()]

    return namespace.call(look)


def _await_no_links(namespace: Namespace) -> None:
    """Wait for the kernel, which takes a namespace down in the background."""

    def listen() -> socket.socket:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        sock.bind((0, 1))  # RTMGRP_LINK
        return sock

    with namespace.call(listen) as events:
        events.settimeout(30)
        while _links(namespace) != ["lo"]:
            events.recv(65536)


# ---- without root ----

UNPRIVILEGED = """
import json, os, sys
sys.path.insert(0, {folder!r})
from nftlb.errors import SystemFault
from nftlb.lab import Lab, VIP4, userns
userns.ensure()
"""

BALANCE = """
from lab import rules
with Lab() as lab, lab.serve() as servers, lab.client.connect((VIP4, 53)) as client:
    lab.nft(rules.per_packet(4))
    print(json.dumps([answer.backend for answer in client.exchange(12)]))
"""

FORBID = """
open("/proc/sys/user/max_user_namespaces", "w").write("0")  # within the user namespace that we are in now
userns.permitted = lambda: False
try:
    userns.ensure()
except SystemFault as fault:
    print(json.dumps(str(fault)))
"""


def test_without_root() -> None:
    """An ordinary user sees datagrams balanced."""
    assert _run_without_root(BALANCE) == TURNS * 4


def test_forbidden_user_namespaces() -> None:
    """Where user namespaces are forbidden, the error names the mend."""
    assert "run it as root or sysctl -w user.max_user_namespaces=" in str(_run_without_root(FORBID))


def _run_without_root(script: str) -> object:
    """Run a script as nobody; when we are an ordinary user ourselves, as that user. Return what it prints."""
    *_, length = Path("/proc/self/uid_map").read_text(encoding="ascii").split()
    user: dict[str, Any] = {}
    wrapper: list[str] = []
    if os.geteuid() == 0 and int(length) > NOBODY:
        user = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    elif os.geteuid() == 0:  # `ensure` has moved this process already: what the script forbids, it forbids in one more
        wrapper = ["unshare", "--user", "--map-root-user"]
    with tempfile.TemporaryDirectory() as folder:
        # A copy, since the checkout and its virtual environment may be in a place that only their owner can read.
        for source in (REPOSITORY / "nftlb", REPOSITORY / "tests" / "lab", Path(pyroute2.__file__).parent):
            shutil.copytree(source, Path(folder, source.name), ignore=shutil.ignore_patterns("__pycache__"))
        subprocess.run(["chmod", "-R", "go=rX", folder], check=True)  # nor need the files be for everybody
        code = UNPRIVILEGED.format(folder=folder) + script
        argv = [*wrapper, str(Path(sys.executable).resolve()), "-B", "-c", code]
        done = subprocess.run(argv, cwd="/", capture_output=True, text=True, timeout=60, check=False, **user)
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_threads_forbid_user_namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process with threads can't move into a user namespace, and is told so rather than moved by half."""
    monkeypatch.setattr(userns, "permitted", lambda: False)
    release = threading.Event()
    thread = threading.Thread(target=release.wait)
    thread.start()
    try:
        with pytest.raises(SystemFault, match="more than one thread"):
            userns.ensure()
    finally:
        release.set()
        thread.join()


# ---- the blaster ----


@both_versions
def test_blast_through_zones(blaster: Blaster, version: int) -> None:
    """60,000 datagrams of one socket at full speed: none lost, none twice, strict turn, all answered from the VIP."""
    count = 60_000
    with Lab() as lab, blaster.sinks(lab.backends, version=version, echo=True, log=count) as sinks:
        lab.nft(rules.per_packet(version))
        sent = sinks.send(lab.client, (VIP[version], 53), count=count, replies=True)
    vip = {4: f"{VIP4}:53", 6: f"[{VIP6}]:53"}[version]
    assert (sent.sent, sent.replies, sent.sources) == (count, count, {vip: count})
    assert (sent.duplicates, sent.damaged, sent.strange, sent.errors, sent.written_off) == (0, 0, 0, 0, 0)
    assert sum(report.buffer_drops for report in sinks.reports.values()) == 0
    ledger = sinks.ledger(count)
    assert (ledger.missing, ledger.twice) == ([], [])
    assert ledger.follows("b1", "b2", "b3")
    assert ledger.counts == {"b1": 20_000, "b2": 20_000, "b3": 20_000}


def test_blast_with_direct_return(blaster: Blaster) -> None:
    """The same without the balancer on the way back; one-way at once, with the kernel's times of arrival."""
    count = 30_000
    for echo in (True, False):
        with Lab(dsr=True) as lab:
            lab.nft(rules.direct_return(5353))
            with blaster.sinks(lab.backends, address=VIP4, echo=echo, log=count, stamps=True) as sinks:
                sent = sinks.send(lab.client, (VIP4, 5353), count=count, replies=echo)
        assert sent.sources == ({f"{VIP4}:5353": count} if echo else {})
        assert sinks.ledger(count).follows("b1", "b2", "b3")
        assert all(left <= arrived for name in TURNS for _, left, arrived in sinks.ledger(count).records(name))


def test_blast_sees_losses(blaster: Blaster) -> None:
    """Datagrams that are dropped on the way are missing by number, and the sender goes on after them."""
    count = 3_000
    with Lab() as lab, blaster.sinks(lab.backends[:1], log=count) as sinks:
        lab.nft(rules.one_rule("ip", "filter hook forward priority 0", "udp dport 5353 numgen inc mod 1000 7 drop"))
        sent = sinks.send(lab.client, (lab.backends[0].ipv4, 5353), count=count, timeout_ms=50)
    assert sinks.ledger(count).missing == [7, 1007, 2007]
    assert (sent.sent, sent.written_off) == (count, 3)


def test_blast_sees_the_wrong_source(blaster: Blaster) -> None:
    """Replies that do not come from the VIP are counted where they came from."""
    with Lab(backends=1) as lab, blaster.sinks(lab.backends, echo=True) as sinks:
        rule = f"ip daddr {VIP4} notrack ip daddr set 10.0.1.2 udp dport set 5353"
        lab.nft(rules.one_rule("ip", "filter hook prerouting priority raw", rule))
        sent = sinks.send(lab.client, (VIP4, 53), count=1000, replies=True)
    assert sent.sources == {"10.0.1.2:5353": 1000}


def test_blast_holds_its_rate_and_can_be_stopped(blaster: Blaster) -> None:
    """A rate is a ceiling, and a sender that is told to stop reports what it has sent."""
    with Lab() as lab, blaster.sinks(lab.backends[:1]) as sinks:
        paced = sinks.send(lab.client, (lab.backends[0].ipv4, 5353), count=2_000, rate=10_000)
        endless = sinks.start(lab.client, (lab.backends[0].ipv4, 5353), count=1 << 30, rate=1_000)
        endless.stop()
        stopped = endless.report()
    assert paced.seconds >= 0.19
    assert stopped.sent < 1 << 30


def test_ledger_judges_by_time() -> None:
    """A datagram is outside the pool only when no moment of its journey can explain its backend."""
    history = [
        Membership(0, 0, frozenset({"b1", "b2"})),
        Membership(100, 110, frozenset({"b2"})),
        Membership(200, 210, frozenset({"b1", "b2"})),
    ]
    on_time = [0, 50, 60, 1, 105, 120, 2, 109, 199, 3, 190, 200]
    too_late = [4, 111, 199]
    ledger = Ledger(6, {"b1": array("Q", on_time + too_late), "b2": array("Q", [4, 150, 160])})
    assert ledger.outside(history) == [("b1", 4)]
    assert (ledger.missing, ledger.twice, ledger.counts) == ([5], [4], {"b1": 5, "b2": 1})
