"""The log of refusals: the listener's socket, and the parsing of logged packets."""

from __future__ import annotations

import errno
import select
import socket
from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st
from icmp_errors import HOST, Unreachable, send
from unprivileged import unprivileged

from nftlb.compiler.watched import GROUP, HINT, PREFIX, group_of
from nftlb.errors import SystemFault
from nftlb.kernel.netlink import Netlink
from nftlb.kernel.nflog import PortUnreachable, RefusalMonitor, can_log, read_refusal
from nftlb.lab import Namespace

if TYPE_CHECKING:
    from collections.abc import Iterator

ERROR4 = Unreachable("10.0.0.11", "10.0.0.1", ("10.0.0.1", 4000), ("10.0.0.11", 5353))
ERROR6 = Unreachable("fd00::11", "fd00::1", ("fd00::1", 4000), ("fd00::11", 5353))
ERRORS = [pytest.param(ERROR4, id="ipv4"), pytest.param(ERROR6, id="ipv6")]
REFUSED = {4: PortUnreachable(ip_address("10.0.0.11"), 5353), 6: PortUnreachable(ip_address("fd00::11"), 5353)}


def refused(error: Unreachable) -> PortUnreachable:
    return REFUSED[6 if ":" in error.target else 4]


@pytest.fixture
def host() -> Iterator[Namespace]:
    """A host that logs all ICMP packets that it sends to itself to our group."""
    with Namespace("nflog") as namespace:
        namespace.run(["ip", "link", "set", "lo", "up"])
        namespace.run(["nft", "add table ip t; add chain ip t out { type filter hook output priority 0; }"])
        yield namespace


def log(host: Namespace, prefix: str = PREFIX) -> None:
    host.run(["nft", f'flush chain ip t out; add rule ip t out meta l4proto icmp log prefix "{prefix}" group {GROUP}'])


def report(host: Namespace, *ports: int) -> None:
    """Send port-unreachable errors for these ports of the host itself."""
    send(host, *(Unreachable("127.0.0.1", "127.0.0.1", ("127.0.0.1", 4000), ("127.0.0.1", port)) for port in ports))


@pytest.mark.parametrize("error", ERRORS)
def test_a_refusal_has_the_destination_of_the_datagram(error: Unreachable) -> None:
    """The destination and port of the quoted datagram."""
    assert refused(error) == read_refusal(error.packet())


@pytest.mark.parametrize("error", ERRORS)
def test_other_packets_are_no_refusals(error: Unreachable) -> None:
    """Another sender, another kind of error, another protocol, and port 0 are not refusals."""
    (address, _), v6 = error.receiver, ":" in error.target
    others = [
        replace(error, reporter="fd00::12" if v6 else "10.0.0.12"),
        replace(error, what=HOST),
        replace(error, protocol=socket.IPPROTO_TCP),
        replace(error, receiver=(address, 0)),
    ]
    assert [None] * 4 == [read_refusal(error.packet()) for error in others]


@pytest.mark.parametrize("error", ERRORS)
def test_a_packet_that_ends_too_early(error: Unreachable) -> None:
    """A packet with an incomplete quoted UDP header is not a refusal."""
    whole = error.packet()
    assert {None} == {read_refusal(whole[:end]) for end in range(len(whole))}


@pytest.mark.parametrize("error", ERRORS)
def test_the_length_of_a_quotation_does_not_matter(error: Unreachable) -> None:
    """A quotation may be longer or shorter than the datagram."""
    assert refused(error) == read_refusal(error.packet() + bytes(100))


def test_headers_of_other_lengths() -> None:
    """IPv4 options and IPv6 extension headers are skipped, also in the quotation."""
    packet = ERROR4.packet()
    outer, icmp, inner, udp = packet[:20], packet[20:28], packet[28:48], packet[48:]
    options = bytes([1] * 40)
    longer = bytes([0x4F]) + outer[1:] + options + icmp + bytes([0x4F]) + inner[1:] + options + udp
    assert REFUSED[4] == read_refusal(longer)

    packet = ERROR6.packet()
    outer, icmp, inner, udp = packet[:40], packet[40:48], packet[48:88], packet[88:]
    hops, fragment = bytes([58, 1]) + bytes(14), bytes([17, 0, 0, 1]) + bytes(4)
    longer = outer[:6] + b"\0" + outer[7:] + hops + icmp + inner[:6] + bytes([44]) + inner[7:] + fragment + udp
    assert REFUSED[6] == read_refusal(longer)


def test_later_fragments_have_no_ports() -> None:
    """A quotation from the middle of a datagram has no header, and is not read."""
    packet = ERROR4.packet()
    assert read_refusal(packet[:34] + b"\0\1" + packet[36:]) is None

    packet = ERROR6.packet()
    fragment = bytes([17, 0, 0, 9]) + bytes(4)
    assert read_refusal(packet[:54] + bytes([44]) + packet[55:88] + fragment + packet[88:]) is None


@given(st.binary(max_size=200))
def test_odd_bytes(packet: bytes) -> None:
    """Reading arbitrary logged bytes never raises an exception."""
    found = read_refusal(packet)
    assert found is None or found.port


@given(st.data(), st.sampled_from([ERROR4, ERROR6]))
def test_odd_bytes_in_the_right_place(data: st.DataObject, error: Unreachable) -> None:
    """Neither do damaged errors raise; and an error can only report its sender's address."""
    packet = bytearray(error.packet())
    for place in data.draw(st.lists(st.integers(0, len(packet) - 1), max_size=4)):
        packet[place] = data.draw(st.integers(0, 255))
    found = read_refusal(bytes(packet))
    sender = packet[8:24] if ":" in error.target else packet[12:16]
    assert found is None or found.address.packed == sender or packet[0] >> 4 != error.packet()[0] >> 4


def test_a_single_refusal_is_delivered_at_once(host: Namespace) -> None:
    """A single entry arrives at once."""
    log(host)
    with host.call(RefusalMonitor) as refusals:
        assert [] == refusals.read()

        report(host, 5353)

        assert [refusals] == select.select([refusals], [], [], 0.5)[0]
        assert [PortUnreachable(ip_address("127.0.0.1"), 5353)] == refusals.read()
        assert [] == refusals.read()


def test_repeated_refusals_are_returned_once(host: Namespace) -> None:
    """Of a flood of refusals each address and port is returned once."""
    log(host)
    with host.call(RefusalMonitor) as refusals:
        report(host, *[5353, 53] * 50)
        assert [5353, 53] == [refusal.port for refusal in refusals.read()]


def test_log_entries_of_other_rules_are_ignored(host: Namespace) -> None:
    """An entry without our prefix is ignored: it does not come from our rules."""
    log(host, "another program")
    with host.call(RefusalMonitor) as refusals:
        report(host, 5353)
        log(host)
        report(host, 53)
        assert [53] == [refusal.port for refusal in refusals.read()]


def test_the_prefix_distinguishes_hints_from_refusals(host: Namespace) -> None:
    """The prefix marks a hint: the rules have not verified the quoted datagram."""
    log(host, HINT)
    with host.call(RefusalMonitor) as refusals:
        report(host, 5353)
        log(host)
        report(host, 5353)
        assert [True, False] == [refusal.hint for refusal in refusals.read()]


def test_each_table_has_a_group() -> None:
    """Listeners for several groups can exist in a network namespace, for instance one daemon for each table."""
    groups = [group_of(name) for name in ("nftlb", "nftlb2", "lb", "a", "b")]
    assert GROUP == groups[0]
    assert 5 == len(set(groups))
    assert all(0 < group < 65536 for group in groups)


def test_whether_the_kernel_can_log(host: Namespace) -> None:
    """This kernel can log, also with a listener present; a kernel without the module can't."""
    with host.call(RefusalMonitor):
        assert host.call(can_log)
    for number in (errno.EINVAL, errno.EOPNOTSUPP):
        with patch.object(Netlink, "change", side_effect=OSError(number, "")):
            assert not host.call(can_log)


def test_support_for_logging_is_found_without_privileges(host: Namespace) -> None:
    """Without privileges the result is the same: the error comes when rules are loaded."""
    assert unprivileged(host, can_log)


def test_a_flood_is_survived(host: Namespace) -> None:
    """When the buffer is full, entries are lost; entries after the next reading arrive again."""
    log(host)
    with host.call(RefusalMonitor) as refusals:
        refusals._announcements._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        report(host, *range(1, 200))
        assert len(refusals.read()) < 199

        report(host, 5353)
        assert [5353] == [refusal.port for refusal in refusals.read()]


def test_a_group_has_one_listener(host: Namespace) -> None:
    """A second listener gets an error while the first exists, and the group afterwards."""
    with host.call(RefusalMonitor), pytest.raises(SystemFault, match=f"another process listens to NFLOG group {GROUP}"):
        host.call(RefusalMonitor)
    host.call(RefusalMonitor).close()


def test_without_privileges_the_error_says_so(host: Namespace) -> None:
    """Missing privileges are distinguished from a taken group, though the kernel's error is the same."""
    with pytest.raises(SystemFault, match="run nftlb as root"):
        unprivileged(host, RefusalMonitor)


def test_a_kernel_that_can_not_log(host: Namespace) -> None:
    """The message names a missing kernel module."""
    refusal = OSError(errno.EINVAL, "Invalid argument")
    with (
        patch.object(Netlink, "change", side_effect=refusal),
        pytest.raises(SystemFault, match="modprobe nfnetlink_log"),
    ):
        host.call(RefusalMonitor)
