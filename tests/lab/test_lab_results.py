"""The results of clients and servers of the lab: replies, losses, duplicates, errors and checksums."""

from __future__ import annotations

import errno
import json
import os
import re
import socket

import lab_rules as rules
import pytest
from error_queue import ErrorQueueClient
from lab_parameters import both_versions, with_and_without_offload
from packet_tap import Tap, UdpChecksum
from sctp_associations import Chunk, SctpAssociation, SctpPacket, SctpServers, crc32c

from nftlb.lab import Lab
from nftlb.lab.datagram import Datagram, DatagramKind, decode_datagram
from nftlb.lab.links import run_ethtool


@with_and_without_offload
def test_zero_checksums_are_on_the_wire(offload: bool) -> None:
    """A socket can send without a checksum, and the tap distinguishes absent, finished and unfinished checksums."""
    ordinary = UdpChecksum.UNFINISHED if offload else UdpChecksum.GOOD
    for zero, expected in ((True, UdpChecksum.ABSENT), (False, ordinary)):
        with Lab(offload=offload) as lab, lab.serve(zero_checksum=zero), Tap(lab.balancer, "b1") as tap:
            for address in (lab.backends[0].ipv4, lab.backends[0].ipv6):
                with lab.client.connect((address, 5353), zero_checksum=zero) as client:
                    assert client.exchange(1)[0].whole
            assert [packet.checksum for packet in tap.datagrams()] == [expected] * 4


def test_port_ranges_and_foreign_payloads() -> None:
    """Servers listen on many ports, and reply to foreign payloads with name, blank and payload."""
    with Lab(backends=1) as lab, lab.serve(range(6000, 6010), versions=(4,)) as servers:
        for port in (6000, 6009):
            with lab.client.connect((lab.backends[0].ipv4, port)) as client:
                assert client.exchange(1)[0].source == (lab.backends[0].ipv4, port)
        with lab.client.call(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(20)
            sock.sendto(b"hello", (lab.backends[0].ipv4, 6005))
            assert sock.recv(100) == b"b1 hello"
        assert [record.destination[1] for record in servers.received] == [6000, 6009, 6005]
        assert (servers.received[-1].sequence, servers.received[-1].payload) == (None, b"hello")


@pytest.mark.parametrize("version", [4, 6])
def test_answer_without_a_route(version: int) -> None:
    """A backend without a route sends no replies; its servers go on, and reply when the route is back."""
    with Lab(backends=1) as lab, lab.serve() as servers, SctpServers(lab.backends) as associations:
        backend = lab.backends[0]
        with lab.client.connect((backend.address(version), 5353)) as client:
            route = backend.run(["ip", f"-{version}", "route", "show", "default"]).split()
            backend.run(["ip", f"-{version}", "route", "flush", "default"])
            assert client.exchange(1, timeout=0.2)[0].copies == 0
            servers.wait(1)
            with pytest.raises(TimeoutError):
                SctpAssociation(lab.client, (backend.address(version), 5353), source_port=4000, timeout=0.5)
            backend.run(["ip", f"-{version}", "route", "add", *route])
            assert client.exchange(1)[0].whole
        with SctpAssociation(lab.client, (backend.address(version), 5353), source_port=4001) as association:
            assert association.beat() == "b1"
        assert associations.counts == {"b1": 2}


@both_versions
def test_plain_route_and_one_way(version: int) -> None:
    """Without rules, datagrams reach the addressed backend; datagrams that ask for no reply get none."""
    with Lab() as lab, lab.serve() as servers, lab.client.connect((lab.backends[1].address(version), 5353)) as client:
        numbers = client.send(20)
        assert [record.sequence for record in servers.wait(20)] == list(numbers)
        assert servers.counts == {"b1": 0, "b2": 20, "b3": 0}
        servers.settle()
        assert client.drain() == []


def test_losses_are_seen_without_waiting() -> None:
    """A fence shows, without waiting, that every second datagram is lost."""
    with Lab() as lab, lab.serve(answer=False) as servers:
        lab.nft(rules.one_rule("ip", "filter hook forward priority 0", "udp length 72 numgen inc mod 2 0 drop"))
        with lab.client.connect((lab.backends[0].ipv4, 5353)) as client:
            client.send(10)
            assert [record.sequence for record in servers.settle()] == [1, 3, 5, 7, 9]


def test_fences_come_from_each_processor() -> None:
    """A fence overtakes only packets in the queue of another processor, so each processor sends fences."""
    processors = os.sched_getaffinity(0)
    with Lab(backends=1) as lab, lab.serve(versions=(4,)) as servers:
        chain = "table ip seen { chain input { type filter hook input priority 0\n"
        counters = "\n".join(f"udp dport 5353 meta cpu {processor} counter" for processor in processors)
        lab.backends[0].run(["nft", f"{chain}{counters}\n}}\n}}"])
        servers.settle()
        listing = lab.backends[0].run(["nft", "list", "table", "ip", "seen"])
        counts = [int(count) for count in re.findall(r"packets (\d+)", listing)]
        assert len(processors) == len(counts)
        assert min(counts) >= 2
    assert processors == os.sched_getaffinity(0)


def test_missing_reply_is_a_loss() -> None:
    """An exchange goes on after a missing reply, and reports which reply is missing."""
    with Lab() as lab, lab.serve(), lab.client.connect((lab.backends[0].ipv4, 5353)) as client:
        lab.nft(rules.one_rule("ip", "filter hook forward priority 0", "udp sport 5353 numgen inc mod 3 1 drop"))
        answers = [answer for expected in (20, 0.2, 20) for answer in client.exchange(1, timeout=expected)]
        assert [answer.copies for answer in answers] == [1, 0, 1]


def test_duplicates_are_counted() -> None:
    """Doubled replies are counted, also if the second copy comes after the exchange."""
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
    """A backend without a server refuses: a connected socket gets the error, an error queue also the sender."""
    with Lab() as lab:
        backend = lab.backends[0].address(version)
        with lab.client.connect((backend, 5353)) as client:
            assert [answer.error and answer.error.errno for answer in client.exchange(1)] == [errno.ECONNREFUSED]
        with ErrorQueueClient(lab.client, (backend, 5353), connected=False) as client:
            client.exchange(1)
            (error,) = client.icmp_errors()
            assert (error.errno, error.offender, error.sequence) == (errno.ECONNREFUSED, backend, 0)


@both_versions
def test_narrow_link_reports_its_mtu(version: int) -> None:
    """A datagram too large for a link of 1,400 bytes gets an error with that MTU; smaller datagrams pass."""
    with Lab(mtu={"b1": 1400}) as lab, lab.serve():
        backend, router = lab.backends[0].address(version), {4: "198.51.100.1", 6: "2001:db8:1::1"}[version]
        with ErrorQueueClient(lab.client, (backend, 5353), dont_fragment=True) as client:
            (answer,) = client.exchange(1, size=1450)
            assert answer.error is not None
            assert answer.error.errno == errno.EMSGSIZE
            (error,) = client.icmp_errors()
            assert (error.mtu, error.offender, error.sequence) == (1400, router, 0)
            assert client.exchange(1, size=1350)[0].whole


@with_and_without_offload
def test_checksum_offload_is_as_requested(offload: bool) -> None:
    """Every end of every link has checksum offload on or off, as asked, and never segments packets."""
    for dsr in (False, True):
        with Lab(offload=offload, dsr=dsr) as lab:
            for host in lab.hosts.values():
                for interface in host.plan.interfaces:
                    if interface.name not in ("lo", "br0"):
                        # Checksums in both directions; segmentation of TCP, generic segmentation, generic receive.
                        flags = [host.call(run_ethtool, interface.name, get) for get in (0x14, 0x16, 0x1E, 0x23, 0x2B)]
                        assert [offload, offload, False, False, False] == [bool(flag) for flag in flags]


def test_wrong_sctp_checksum_is_seen() -> None:
    """The SCTP server counts packets with a wrong CRC32c and does not reply to them."""
    assert crc32c(b"123456789") == 0xE3069283
    with Lab(backends=1) as lab, SctpServers(lab.backends) as associations:
        packet = bytearray(SctpPacket(4000, 5353, 0, Chunk.INIT, bytes(16)).encode())
        packet[-1] ^= 1
        with lab.client.call(socket.socket, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_SCTP) as sock:
            sock.sendto(packet, (lab.backends[0].ipv4, 0))
        with SctpAssociation(lab.client, (lab.backends[0].ipv4, 5353), source_port=4001):
            assert (associations.counts, associations.bad_checksums) == ({"b1": 1}, 1)


def test_payload_shows_every_change() -> None:
    """A payload that is altered, shortened or lengthened does not count as whole."""
    payload = Datagram(DatagramKind.REQUEST, 7, "client1", 100).encode()
    assert len(payload) == 100
    assert decode_datagram(payload) == (Datagram(DatagramKind.REQUEST, 7, "client1", 100), True)
    for position in range(40, 100):
        altered = bytearray(payload)
        altered[position] ^= 1
        decoded = decode_datagram(bytes(altered))
        assert decoded is not None
        assert not decoded[1]
    assert [decoded[1] for decoded in (decode_datagram(payload[:-1]), decode_datagram(payload + b"x")) if decoded] == [
        False,
        False,
    ]
