"""Frames to other hosts, which an interface in promiscuous mode receives: the fast path leaves them alone.

Switches send a frame to all hosts while they do not know where its receiver is. So the second balancer of a pair may
receive the frames of the first, and must not forward them again. ONE client socket sends everything.
"""

from __future__ import annotations

import socket as sockets
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from packet_tap import Tap
from pool_lab import DSR_INGRESS, PORT, STATELESS_INGRESS, PoolLab, close_slow_path, vip

if TYPE_CHECKING:
    from pool_lab import Mode

    from nftlb.lab import Host

OTHER = "02:00:00:00:00:99"
"""The hardware address of no host of the lab."""


GATEWAYS = {4: "198.51.100.1", 6: "2001:db8:1::1"}
"""The balancer, as the client of the routed lab sees it."""


def send_to(address: str, client: Host, near: str) -> None:
    """Let a host send to this hardware address what it sends to a neighbour."""
    client.run(["ip", "neigh", "replace", near, "lladdr", address, "nud", "permanent", "dev", "eth0"])


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("mode", [STATELESS_INGRESS, DSR_INGRESS], ids=str)
def test_the_fast_path_forwards_no_frames_to_others(mode: Mode, version: int) -> None:
    """A frame to another host takes no turn and reaches no backend, as without `ingress`."""
    with PoolLab(mode) as pool_lab, pool_lab.lab.client.connect((vip(version), PORT)) as socket:
        client = pool_lab.lab.client
        near = vip(version) if mode.dsr else GATEWAYS[version]
        assert ["b1", "b2", "b3", "b1"] == [answer.backend for answer in socket.exchange(4)]
        send_to(OTHER, client, near)
        frames = socket.send(7)
        client.run(["ip", "neigh", "delete", near, "dev", "eth0"])
        assert ["b2", "b3"] == [answer.backend for answer in socket.exchange(2)]
        assert [] == [one.sequence for one in pool_lab.servers.settle() if one.sequence in frames]


@pytest.mark.parametrize("version", [4, 6])
def test_the_hardware_address_of_vrrp(version: int) -> None:
    """Frames to a macvlan interface (`use_vmac` of keepalived) take the fast path of this interface.

    If `ingress` names the interface below, the ordinary chains forward them.
    """
    with PoolLab(STATELESS_INGRESS) as pool_lab, pool_lab.lab.client.connect((vip(version), PORT)) as socket:
        address, balancer = "00:00:5e:00:01:33", pool_lab.lab.balancer
        balancer.run(["ip", "link", "add", "link", "client1", "name", "vrrp.51", "address", address, "type", "macvlan"])
        balancer.sysctl("net/ipv4/conf/vrrp.51/rp_filter", 0)
        balancer.run(["ip", "link", "set", "vrrp.51", "up"])
        send_to(address, pool_lab.lab.client, GATEWAYS[version])
        assert ["b1", "b2", "b3"] * 2 == [answer.backend for answer in socket.exchange(6)]
        pool_lab.load(replace(pool_lab.pool(), ingress=("vrrp.51",)))
        close_slow_path(pool_lab)
        assert ["b1", "b2", "b3"] * 2 == [answer.backend for answer in socket.exchange(6)]


TAG = bytes.fromhex("8100 0064")
"""The tag of VLAN 100, behind the two hardware addresses of a frame."""
PRIORITY_TAG = bytes.fromhex("8100 a000")
"""A tag with a priority, and without a VLAN: such a frame is for the interface itself."""
ALL_FRAMES = 0x0003


@pytest.mark.parametrize(("tag", "served"), [(TAG, 0), (PRIORITY_TAG, 6)], ids=["vlan", "priority"])
@pytest.mark.parametrize("version", [4, 6])
def test_frames_of_a_vlan_keep_their_tag(version: int, tag: bytes, served: int) -> None:
    """A limit, of which `nftlb doctor` warns: the fast path sends frames of a VLAN on with their tag.

    They come to the hosts of backends, whose servers never get them. Servers get frames that only have a priority.
    """
    with PoolLab(STATELESS_INGRESS, offload=False) as pool_lab, ExitStack() as stack:
        client = pool_lab.lab.client
        wire = stack.enter_context(client.call(sockets.socket, sockets.AF_PACKET, sockets.SOCK_RAW, 0))
        wire.bind(("eth0", ALL_FRAMES))
        wire.settimeout(5)
        with client.connect((vip(version), PORT)) as socket:
            assert ["b1"] == [answer.backend for answer in socket.exchange(1)]
        at, kind = {4: (23, b"\x08\x00"), 6: (20, b"\x86\xdd")}[version]
        frame = wire.recv(2048)
        while (frame[12:14], frame[at]) != (kind, sockets.IPPROTO_UDP):  # a question for the neighbour
            frame = wire.recv(2048)
        taps = [stack.enter_context(Tap(host)) for host in pool_lab.lab.backends]
        for _ in range(6):
            wire.send(frame[:12] + tag + frame[12:])
        assert 1 + served == len(pool_lab.servers.settle())
        ports = [[packet.destination[1] for packet in tap.datagrams() if packet.payload == frame[-64:]] for tap in taps]
        assert [[pool_lab.mode.port] * 2] * 3 == ports
