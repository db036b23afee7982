"""The log of refusals: the listener's socket, and what it believes of what it is given."""

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
from unprivileged import unprivileged
from unreachable import HOST, Unreachable, send

from nftlb.compiler.watched import GROUP, HINT, PREFIX, group_of
from nftlb.errors import SystemFault
from nftlb.kernel.netlink import Netlink
from nftlb.kernel.nflog import Refusals, Refused, can_log, read_refusal
from nftlb.lab import Namespace

if TYPE_CHECKING:
    from collections.abc import Iterator

ERROR4 = Unreachable("10.0.0.11", "10.0.0.1", ("10.0.0.1", 4000), ("10.0.0.11", 5353))
ERROR6 = Unreachable("fd00::11", "fd00::1", ("fd00::1", 4000), ("fd00::11", 5353))
ERRORS = [pytest.param(ERROR4, id="ipv4"), pytest.param(ERROR6, id="ipv6")]
REFUSED = {4: Refused(ip_address("10.0.0.11"), 5353), 6: Refused(ip_address("fd00::11"), 5353)}


def refused(error: Unreachable) -> Refused:
    return REFUSED[6 if ":" in error.told else 4]


@pytest.fixture
def host() -> Iterator[Namespace]:
    """A host that logs to our group whatever ICMP goes out of it to itself."""
    with Namespace("nflog") as namespace:
        namespace.run(["ip", "link", "set", "lo", "up"])
        namespace.run(["nft", "add table ip t; add chain ip t out { type filter hook output priority 0; }"])
        yield namespace


def log(host: Namespace, prefix: str = PREFIX) -> None:
    host.run(["nft", f'flush chain ip t out; add rule ip t out meta l4proto icmp log prefix "{prefix}" group {GROUP}'])


def report(host: Namespace, *ports: int) -> None:
    """Send the errors that tell of these ports of the host itself, and nothing else."""
    send(host, *(Unreachable("127.0.0.1", "127.0.0.1", ("127.0.0.1", 4000), ("127.0.0.1", port)) for port in ports))


@pytest.mark.parametrize("error", ERRORS)
def test_a_refusal_tells_where_the_datagram_was_sent(error: Unreachable) -> None:
    """The destination and port of the quoted datagram."""
    assert refused(error) == read_refusal(error.packet())


@pytest.mark.parametrize("error", ERRORS)
def test_what_is_no_refusal(error: Unreachable) -> None:
    """Another reporter, another kind of error, another protocol, and a port that is none."""
    (address, _), v6 = error.receiver, ":" in error.told
    others = [
        replace(error, reporter="fd00::12" if v6 else "10.0.0.12"),
        replace(error, what=HOST),
        replace(error, protocol=socket.IPPROTO_TCP),
        replace(error, receiver=(address, 0)),
    ]
    assert [None] * 4 == [read_refusal(one.packet()) for one in others]


@pytest.mark.parametrize("error", ERRORS)
def test_a_packet_that_ends_too_early(error: Unreachable) -> None:
    """Nothing is read from a packet of which the quoted UDP header is not whole."""
    whole = error.packet()
    assert {None} == {read_refusal(whole[:end]) for end in range(len(whole))}


@pytest.mark.parametrize("error", ERRORS)
def test_what_follows_the_headers_does_not_matter(error: Unreachable) -> None:
    """Hosts quote as much of the datagram as they like."""
    assert refused(error) == read_refusal(error.packet() + bytes(100))


def test_headers_of_other_lengths() -> None:
    """IPv4 options and IPv6 extension headers, outside and in the quotation, are stepped over."""
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
    """A quotation from the middle of a datagram is not read as if it had a header."""
    packet = ERROR4.packet()
    assert read_refusal(packet[:34] + b"\0\1" + packet[36:]) is None

    packet = ERROR6.packet()
    fragment = bytes([17, 0, 0, 9]) + bytes(4)
    assert read_refusal(packet[:54] + bytes([44]) + packet[55:88] + fragment + packet[88:]) is None


@given(st.binary(max_size=200))
def test_odd_bytes(packet: bytes) -> None:
    """Whatever is logged, reading it never raises."""
    found = read_refusal(packet)
    assert found is None or found.port


@given(st.data(), st.sampled_from([ERROR4, ERROR6]))
def test_odd_bytes_in_the_right_place(data: st.DataObject, error: Unreachable) -> None:
    """Nor does an error that is nearly right; and it can't speak of another address than its sender's."""
    packet = bytearray(error.packet())
    for place in data.draw(st.lists(st.integers(0, len(packet) - 1), max_size=4)):
        packet[place] = data.draw(st.integers(0, 255))
    found = read_refusal(bytes(packet))
    sender = packet[8:24] if ":" in error.told else packet[12:16]
    assert found is None or found.address.packed == sender or packet[0] >> 4 != error.packet()[0] >> 4


def test_a_refusal_comes_at_once(host: Namespace) -> None:
    """One entry does not wait for more."""
    log(host)
    with host.call(Refusals) as refusals:
        assert [] == refusals.read()

        report(host, 5353)

        assert [refusals] == select.select([refusals], [], [], 0.5)[0]
        assert [Refused(ip_address("127.0.0.1"), 5353)] == refusals.read()
        assert [] == refusals.read()


def test_what_is_said_twice_counts_once(host: Namespace) -> None:
    """A flood of refusals is as much as one of each."""
    log(host)
    with host.call(Refusals) as refusals:
        report(host, *[5353, 53] * 50)
        assert [5353, 53] == [one.port for one in refusals.read()]


def test_what_others_log_to_the_group_does_not_count(host: Namespace) -> None:
    """An entry without our prefix has passed none of our rules."""
    log(host, "somebody")
    with host.call(Refusals) as refusals:
        report(host, 5353)
        log(host)
        report(host, 53)
        assert [53] == [one.port for one in refusals.read()]


def test_a_hint_is_told_from_a_refusal(host: Namespace) -> None:
    """By its prefix: the rules have seen nothing of what it speaks about."""
    log(host, HINT)
    with host.call(Refusals) as refusals:
        report(host, 5353)
        log(host)
        report(host, 5353)
        assert [True, False] == [one.hint for one in refusals.read()]


def test_each_table_has_a_group() -> None:
    """So that a network namespace may have a daemon for each of several tables."""
    groups = [group_of(name) for name in ("nftlb", "nftlb2", "lb", "a", "b")]
    assert GROUP == groups[0]
    assert 5 == len(set(groups))
    assert all(0 < one < 65536 for one in groups)


def test_whether_the_kernel_can_log(host: Namespace) -> None:
    """This one can, though somebody listens already; one without the module says that it can't."""
    with host.call(Refusals):
        assert host.call(can_log)
    for number in (errno.EINVAL, errno.EOPNOTSUPP):
        with patch.object(Netlink, "change", side_effect=OSError(number, "")):
            assert not host.call(can_log)


def test_whether_it_can_log_is_not_a_matter_of_rights(host: Namespace) -> None:
    """Whoever may load no rules is told so when he tries."""
    assert unprivileged(host, can_log)


def test_a_flood_is_survived(host: Namespace) -> None:
    """When the buffer is full the rest is lost; what comes after it has been read, is heard again."""
    log(host)
    with host.call(Refusals) as refusals:
        refusals._listener._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        report(host, *range(1, 200))
        assert len(refusals.read()) < 199

        report(host, 5353)
        assert [5353] == [one.port for one in refusals.read()]


def test_a_group_has_one_listener(host: Namespace) -> None:
    """The second is told that there is a first; when that has gone, it gets the group."""
    with host.call(Refusals), pytest.raises(SystemFault, match=f"another process listens to NFLOG group {GROUP}"):
        host.call(Refusals)
    host.call(Refusals).close()


def test_without_privileges_it_says_so(host: Namespace) -> None:
    """That is another fault than a group that is taken, though the kernel gives the same reason."""
    with pytest.raises(SystemFault, match="run nftlb as root"):
        unprivileged(host, Refusals)


def test_a_kernel_that_can_not_log(host: Namespace) -> None:
    """Where the module is missing, it is named."""
    refusal = OSError(errno.EINVAL, "Invalid argument")
    with (
        patch.object(Netlink, "change", side_effect=refusal),
        pytest.raises(SystemFault, match="modprobe nfnetlink_log"),
    ):
        host.call(Refusals)
