"""Frames to other hosts, which an interface in promiscuous mode receives: the fast path leaves them alone.

Switches send a frame to all hosts while they do not know where its receiver is. So the second balancer of a pair may
receive the frames of the first, and must not forward them again. ONE client socket sends everything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from pool_lab import DSR_INGRESS, PORT, STATELESS_INGRESS, PoolLab, vip

if TYPE_CHECKING:
    from pool_lab import Mode

    from nftlb.lab import Host

OTHER = "02:00:00:00:00:99"
"""The hardware address of no host of the lab."""


def send_to_another(client: Host, near: str) -> None:
    """Let a host send to the hardware address of another host what it sends to this neighbour."""
    client.run(["ip", "neigh", "replace", near, "lladdr", OTHER, "nud", "permanent", "dev", "eth0"])


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("mode", [STATELESS_INGRESS, DSR_INGRESS], ids=str)
def test_the_fast_path_forwards_no_frames_to_others(mode: Mode, version: int) -> None:
    """A frame to another host takes no turn and reaches no backend, as without `ingress`."""
    with PoolLab(mode) as pool_lab, pool_lab.lab.client.connect((vip(version), PORT)) as socket:
        client = pool_lab.lab.client
        gateway = {4: "198.51.100.1", 6: "2001:db8:1::1"}[version]
        near = vip(version) if mode.dsr else gateway
        assert ["b1", "b2", "b3", "b1"] == [answer.backend for answer in socket.exchange(4)]
        send_to_another(client, near)
        frames = socket.send(7)
        client.run(["ip", "neigh", "delete", near, "dev", "eth0"])
        assert ["b2", "b3"] == [answer.backend for answer in socket.exchange(2)]
        assert [] == [one.sequence for one in pool_lab.servers.settle() if one.sequence in frames]
