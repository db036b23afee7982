"""`dsr` in one segment: the balancer must not tell clients to pass it by."""

from __future__ import annotations

import pytest
from packets.world import DSR, PORT, World, vip


@pytest.mark.parametrize("version", [4, 6])
def test_client_is_not_redirected(version: int) -> None:
    """A client in the backends' segment whose router is the balancer goes on being balanced, packet by packet.

    Without a rule against it the kernel sends an ICMP redirect for nearly every packet, and the client then sends all
    of them to one backend.
    """
    with World(DSR) as world:
        lab = world.lab
        lab.client.sysctl("net.ipv4.conf.eth0.accept_redirects", 1)
        lab.client.sysctl("net.ipv6.conf.eth0.accept_redirects", 1)
        router = {4: "198.51.100.1", 6: "2001:db8:1::1"}[version]
        length = {4: 32, 6: 128}[version]
        lab.client.run(["ip", f"-{version}", "route", "replace", f"{vip(version)}/{length}", "via", router])
        with lab.client.connect((vip(version), PORT)) as client:
            answers = client.exchange(600)
    assert ["b1", "b2", "b3"] * 200 == [answer.backend for answer in answers]
