"""Deletion of conntrack entries. The `conntrack` program makes some entries and lists the rest."""

from __future__ import annotations

import errno
import re
import socket
import struct
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from unprivileged import unprivileged

from nftlb.compiler.connections import Stay
from nftlb.errors import KernelError, SystemFault
from nftlb.kernel import conntrack
from nftlb.kernel.conntrack import delete_entries, read_fill
from nftlb.kernel.netlink import (
    NETLINK_NETFILTER,
    NLA_F_NESTED,
    NLM_F_CREATE,
    DumpInterruptedError,
    Netlink,
    attribute,
    attributes,
)
from nftlb.lab import VIP4, VIP6, Lab, Namespace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nftlb.compiler.connections import Endpoints

# The port at the VIP selects the zone, and the zone selects the backend: 1 and 5 are b1's, 2 is b2's. Zone 1 of port
# 1003 is foreign, because it is for both directions.
ZONES = """
table inet zones {
    chain raw {
        type filter hook prerouting priority raw; policy accept;
        udp dport 1001 ct original zone set 1
        udp dport 1002 ct original zone set 2
        udp dport 1003 ct zone set 1
        udp dport 1005 ct original zone set 5
    }
    chain nat {
        type nat hook prerouting priority dstnat; policy accept;
        udp dport 1002 dnat ip to 10.0.2.2:5353
        udp dport 1002 dnat ip6 to [fd00:2::2]:5353
        ip daddr 192.0.2.53 udp dport 1-2000 dnat ip to 10.0.1.2:5353
        ip6 daddr 2001:db8::53 udp dport 1-2000 dnat ip6 to [fd00:1::2]:5353
    }
}
"""
B1 = frozenset({(ip_address("10.0.1.2"), 5353), (ip_address("fd00:1::2"), 5353)})
B2 = frozenset({(ip_address("10.0.2.2"), 5353), (ip_address("fd00:2::2"), 5353)})
NOBODY: Endpoints = frozenset()


@pytest.fixture
def host() -> Iterator[Namespace]:
    """An empty network namespace."""
    with Namespace("conntrack") as namespace:
        yield namespace


def entries(host: Namespace) -> list[str]:
    """Return all entries as `IP VERSION PORT ZONE`: the destination's port and, with a zone, the kind of zone."""
    found = []
    for version in (4, 6):
        for line in host.run(["conntrack", "-L", "-f", f"ipv{version}"]).splitlines():
            port, zone = re.search(r"dport=\d+", line), re.search(r" zone[-a-z]*=\d+", line)
            assert port, line
            found.append(f"{version} {port[0].removeprefix('dport=')}{zone[0] if zone else ''}")
    return sorted(found)


def make(host: Namespace, zone: int, backend: str, port: int = 5353, *, client: str = "", dport: int = 53) -> None:
    """Make one UDP entry with the `conntrack` program, as if it had been translated to the backend."""
    vip, own = (VIP6, client or "2001:db8:1::2") if ":" in backend else (VIP4, client or "198.51.100.2")
    zones = ["--orig-zone", str(zone)] if zone else []
    original = ["-s", own, "-d", vip, "--sport", "4000", "--dport", str(dport)]
    reply = ["-r", backend, "-q", own, "--reply-port-src", str(port), "--reply-port-dst", "4000"]
    host.run(["conntrack", "-I", "-p", "udp", "-t", "600", *zones, *original, *reply])


def make_many(host: Namespace, wanted: list[tuple[int, int, int]]) -> None:
    """Make entries of (zone, client number, backend number) by netlink, thousands in a moment."""

    def addresses(source: bytes, destination: bytes) -> bytes:
        return attribute(1 | NLA_F_NESTED, attribute(1, source) + attribute(2, destination))

    def ports(source: int, destination: int) -> bytes:
        numbers = attribute(2, struct.pack("!H", source)) + attribute(3, struct.pack("!H", destination))
        return attribute(2 | NLA_F_NESTED, attribute(1, b"\x11") + numbers)

    def body(zone: int, number: int, backend: int) -> bytes:
        client, vip, server = struct.pack("!I", 0x0B000000 + number), bytes([192, 0, 2, 53]), bytes([10, 0, backend, 2])
        original = addresses(client, vip) + ports(4000, 53) + attribute(3, struct.pack("!H", zone))
        return (
            bytes([2, 0, 0, 0])
            + attribute(1 | NLA_F_NESTED, original)
            + attribute(2 | NLA_F_NESTED, addresses(server, client) + ports(5353, 4000))
            + attribute(7, struct.pack("!I", 600))
        )

    def send() -> None:
        with Netlink(NETLINK_NETFILTER) as netlink:
            results = list(netlink.change_all(0x100, (body(*flow) for flow in wanted), NLM_F_CREATE))
        assert results == [None] * len(wanted)

    host.call(send)


def test_only_entries_of_our_zones_to_other_backends_are_deleted() -> None:
    """Entries of real packets in two of our zones, a foreign zone, a zone for both directions, and no zone."""
    with Lab(backends=2) as lab, lab.serve(answer=False) as servers:
        lab.nft(ZONES)
        for vip in (VIP4, VIP6):
            for port in (1001, 1002, 1003, 1004, 1005):
                with lab.client.connect((vip, port)) as client:
                    client.send(1)
        servers.wait(10)
        everything = entries(lab.balancer)
        assert everything == [
            f"{version} {entry}"
            for version in (4, 6)
            for entry in ("1001 zone-orig=1", "1002 zone-orig=2", "1003 zone=1", "1004", "1005 zone-orig=5")
        ]

        assert lab.balancer.call(delete_entries, {1: B1, 2: B2}) == 0
        assert everything == entries(lab.balancer)

        assert lab.balancer.call(delete_entries, {1: B2, 2: B2}) == 2
        assert entries(lab.balancer) == [entry for entry in everything if not entry.endswith("zone-orig=1")]

        assert lab.balancer.call(delete_entries, {1: Stay.NOTHING, 2: Stay.NOTHING}) == 2
        assert entries(lab.balancer) == [
            entry for entry in everything if not entry.endswith(("zone-orig=1", "zone-orig=2"))
        ]


def test_a_client_reaches_the_new_backend_after_its_entry_is_deleted() -> None:
    """Without the deletion, one socket's datagrams follow their old entry, whatever the new rules say."""
    with Lab(backends=2) as lab, lab.serve(), lab.client.connect((VIP4, 1001)) as client:
        lab.nft(ZONES)
        assert ["b1"] == [answer.backend for answer in client.exchange(1)]
        lab.nft("insert rule inet zones nat udp dport 1001 dnat ip to 10.0.2.2:5353")
        assert ["b1"] == [answer.backend for answer in client.exchange(1)]

        assert lab.balancer.call(delete_entries, {1: B2}) == 1
        assert ["b2"] == [answer.backend for answer in client.exchange(1)]


def test_the_zone_is_not_confused_with_a_port(host: Namespace) -> None:
    """In netlink's bytes a destination port looks like a zone: port 53 is not taken for zone 53."""
    make(host, 0, "10.0.1.2", dport=53)
    make(host, 7, "10.0.2.2", dport=53)

    assert host.call(delete_entries, {53: Stay.NOTHING}) == 0
    assert entries(host) == ["4 53", "4 53 zone-orig=7"]


@pytest.mark.parametrize(
    ("keep", "deleted"),
    [
        ({(ip_address("10.0.1.2"), 5353), (ip_address("fd00:1::2"), 5353)}, 0),
        ({(ip_address("10.0.1.2"), None), (ip_address("fd00:1::2"), None)}, 0),
        ({(ip_address("10.0.1.2"), 5354), (ip_address("fd00:1::2"), None)}, 1),
        ({(ip_address("10.0.1.3"), 5353), (ip_address("fd00:1::3"), None)}, 2),
        ({(ip_address("10.0.1.2"), 5353)}, 1),
        (set(), 2),
    ],
)
def test_address_and_port_are_compared(host: Namespace, keep: set[Any], deleted: int) -> None:
    """An endpoint without a port stands for all ports; an empty set keeps no entry."""
    make(host, 1, "10.0.1.2")
    make(host, 1, "fd00:1::2")

    assert deleted == host.call(delete_entries, {1: frozenset(keep)})
    assert len(entries(host)) == 2 - deleted


def test_protocols_with_and_without_ports(host: Namespace) -> None:
    """TCP, SCTP and UDP-Lite entries have ports; entries of an unknown protocol have only an address."""
    address = [
        "-s",
        "198.51.100.2",
        "-d",
        VIP4,
        "-r",
        "10.0.1.2",
        "-q",
        "198.51.100.2",
        "--orig-zone",
        "1",
        "-t",
        "600",
    ]
    ports = ["--sport", "4000", "--dport", "53", "--reply-port-src", "5353", "--reply-port-dst", "4000"]
    for protocol in (
        ["tcp", "--state", "ESTABLISHED", *ports],
        ["sctp", "--state", "ESTABLISHED", "--orig-vtag", "1", "--reply-vtag", "2", *ports],
        ["udplite", *ports],
        ["99"],
    ):
        host.run(["conntrack", "-I", *address, "-p", *protocol])

    assert host.call(delete_entries, {1: frozenset({(ip_address("10.0.1.2"), None)})}) == 0
    assert host.call(delete_entries, {1: frozenset({(ip_address("10.0.1.2"), 5353)})}) == 1
    assert host.call(delete_entries, {1: NOBODY}) == 3


def test_datagrams_may_stay(host: Namespace) -> None:
    """`Stay.DATAGRAMS` keeps all UDP entries, of IPv4 and IPv6; entries of connections are deleted."""
    make(host, 1, "10.0.1.2")
    make(host, 1, "fd00:1::2")
    tuple_ = ["-s", "198.51.100.2", "-d", VIP4, "-r", "10.0.1.2", "-q", "198.51.100.2", "--orig-zone", "1", "-t", "600"]
    ports = ["--sport", "4000", "--dport", "53", "--reply-port-src", "53", "--reply-port-dst", "4000"]
    host.run(["conntrack", "-I", *tuple_, "-p", "tcp", "--state", "ESTABLISHED", *ports])

    assert host.call(delete_entries, {1: Stay.DATAGRAMS}) == 1
    assert host.call(delete_entries, {1: Stay.DATAGRAMS}) == 0
    assert host.call(delete_entries, {1: Stay.NOTHING}) == 2


def test_an_echo_has_no_port(host: Namespace) -> None:
    """ICMP entries have other data in the place of ports: here those of a real echo to the host itself."""
    host.run(["ip", "link", "set", "lo", "up"])
    host.run(["nft", "add table ip z; add chain ip z o { type filter hook output priority raw; }"])
    host.run(["nft", "add rule ip z o icmp type echo-request ct original zone set 1"])
    with host.call(socket.socket, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
        sock.sendto(struct.pack("!BBHHH", 8, 0, 0xF7F5, 9, 1), ("127.0.0.1", 0))

    assert host.call(delete_entries, {1: frozenset({(ip_address("127.0.0.1"), None)})}) == 0
    assert host.call(delete_entries, {1: frozenset({(ip_address("127.0.0.1"), 9)})}) == 1


@pytest.mark.parametrize("zones", [1, 3, 200])
def test_ten_of_many(host: Namespace, zones: int) -> None:
    """Few zones are dumped one by one, many by one dump of all entries: both delete the same ten entries."""
    many = [(1 + number % zones, number, 1) for number in range(5000)]
    wrong = [(1 + number % zones, 100_000 + number, 2) for number in range(10)]
    foreign = [(60_000, number, 2) for number in range(100)]
    make_many(host, many + wrong + foreign)

    assert host.call(delete_entries, dict.fromkeys(range(1, 1 + zones), B1)) == 10
    assert len(entries(host)) == 5100
    assert host.call(delete_entries, dict.fromkeys(range(1, 1 + zones), Stay.NOTHING)) == 5000
    assert entries(host) == ["4 53 zone-orig=60000"] * 100


def test_kernels_that_ignore_the_filter(host: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux before 6.8 ignores the zone of a dump: one dump is enough then, and no other entry is deleted."""
    make_many(host, [(1 + number % 4, number, 2) for number in range(40)])
    dump = Netlink.dump
    dumps = []

    def ignore_filter(self: Netlink, kind: int, body: bytes) -> Iterator[bytes]:
        dumps.append(body)
        return dump(self, kind, body[:4])

    monkeypatch.setattr(Netlink, "dump", ignore_filter)

    assert host.call(delete_entries, {1: Stay.NOTHING, 2: B2, 3: B1}) == 20
    assert len(dumps) == 1
    assert entries(host) == ["4 53 zone-orig=2"] * 10 + ["4 53 zone-orig=4"] * 10


def test_entries_that_went_by_themselves_are_no_error(host: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of three entries vanish between dump and deletion: the third is deleted and counted."""
    for client in ("198.51.100.3", "198.51.100.4", "198.51.100.5"):
        make(host, 1, "10.0.1.2", client=client)
    find = conntrack._doomed

    def find_and_interfere(*arguments: Any) -> list[bytes]:
        found = find(*arguments)
        host.run(["conntrack", "-D", "-s", "198.51.100.3"])
        host.run(["conntrack", "-D", "-s", "198.51.100.5"])
        return found

    monkeypatch.setattr(conntrack, "_doomed", find_and_interfere)

    assert host.call(delete_entries, {1: Stay.NOTHING}) == 1
    assert entries(host) == []


def test_another_entry_of_the_same_tuple_is_left_alone(host: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request has the entry's id: a newer entry with another id is not deleted."""
    make(host, 1, "10.0.1.2")
    find = conntrack._doomed

    def find_another(*arguments: Any) -> list[bytes]:
        (body,) = find(*arguments)
        number = attributes(body, 4)[12]  # CTA_ID
        return [body.replace(number, bytes(byte ^ 0xFF for byte in number))]

    monkeypatch.setattr(conntrack, "_doomed", find_another)

    assert host.call(delete_entries, {1: Stay.NOTHING}) == 0
    assert entries(host) == ["4 53 zone-orig=1"]


@pytest.mark.parametrize("error", [DumpInterruptedError(errno.EINTR, ""), OSError(errno.ENOBUFS, "")])
def test_an_interrupted_dump_is_repeated(host: Namespace, monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    """An interrupted dump is repeated, and finds the entries that were missed."""
    make(host, 1, "10.0.1.2")
    dump = Netlink.dump
    troubles = [error] * 3

    def interrupted(self: Netlink, kind: int, body: bytes) -> Iterator[bytes]:
        if troubles:
            raise troubles.pop()
        return dump(self, kind, body)

    monkeypatch.setattr(Netlink, "dump", interrupted)

    assert host.call(delete_entries, {1: Stay.NOTHING}) == 1
    assert entries(host) == []


def test_the_mark_of_an_interrupted_dump_is_seen(host: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flag in any message says that a dump was interrupted. If all attempts are interrupted, an error is raised."""
    make(host, 1, "10.0.1.2")
    receive = Netlink._receive

    def flagged(self: Netlink) -> list[tuple[int, int, int, bytes]]:
        return [(kind, flags | 0x10, number, body) for kind, flags, number, body in receive(self)]

    monkeypatch.setattr(Netlink, "_receive", flagged)

    with pytest.raises(KernelError, match="interrupted by changes"):
        host.call(delete_entries, {1: Stay.NOTHING})


def test_without_zones_no_request_is_sent(host: Namespace) -> None:
    """Without zones no request is sent: a request without a tuple would delete all entries."""
    make(host, 0, "10.0.1.2")
    make(host, 1, "10.0.2.2")

    assert host.call(delete_entries, {}) == 0
    assert host.call(delete_entries, {2: Stay.NOTHING, 3: NOBODY}) == 0
    assert entries(host) == ["4 53", "4 53 zone-orig=1"]


def test_without_privileges_the_error_says_so(host: Namespace) -> None:
    """Without privileges SystemFault names the fix: the kernel does not even list entries."""
    with pytest.raises(SystemFault, match="run nftlb as root"):
        unprivileged(host, lambda: delete_entries({1: Stay.NOTHING}))


# --- the fill of the table -------------------------------------------------------------------------------------------


@pytest.fixture(params=["sysctls", "netlink"])
def sysctls(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The directory with the sysctls, and an empty directory, as the daemon's systemd unit has it."""
    return Path("/proc/sys/net/netfilter") if request.param == "sysctls" else tmp_path


def test_the_fill_is_that_of_the_namespace(host: Namespace, sysctls: Path) -> None:
    """`entries` counts those of the network namespace; `limit` is nf_conntrack_max."""
    make(host, 0, "10.0.1.2")
    make(host, 1, "10.0.2.2")
    (limit,) = host.run(["sysctl", "-n", "net.netfilter.nf_conntrack_max"]).split()

    assert {"entries": 2, "limit": int(limit)} == host.call(read_fill, sysctls)


def test_a_table_without_a_limit_has_only_entries(
    host: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit of 0 stands for none. Kernels before 4.18 do not tell the limit by netlink."""
    for answer in (attribute(1, b"\0\0\0\7") + attribute(2, bytes(4)), attribute(1, b"\0\0\0\7")):
        monkeypatch.setattr(Netlink, "ask", lambda *_, body=answer: bytes(4) + body)
        assert {"entries": 7} == host.call(read_fill, tmp_path)
    (tmp_path / "nf_conntrack_count").write_text("7\n")
    (tmp_path / "nf_conntrack_max").write_text("0\n")
    assert {"entries": 7} == host.call(read_fill, tmp_path)


def test_without_privileges_netlink_tells_no_fill(host: Namespace, tmp_path: Path) -> None:
    """Without privileges the answer of netlink is empty, and no exception is raised."""
    assert {} == unprivileged(host, lambda: read_fill(tmp_path))
