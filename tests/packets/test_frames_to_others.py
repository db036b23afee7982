"""Frames to other hosts, which an interface in promiscuous mode receives: the fast path leaves them alone.

Switches send a frame to all hosts while they do not know where its receiver is. So the second balancer of a pair may
receive the frames of the first, and must not forward them again. ONE client socket sends everything.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
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
