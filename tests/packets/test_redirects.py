"""`dsr` in one segment: the balancer must not redirect clients past itself."""

from __future__ import annotations

import pytest
from pool_lab import DSR, PORT, PoolLab, vip


@pytest.mark.parametrize("version", [4, 6])
def test_client_is_not_redirected(version: int) -> None:
    """The packets of a client in the backends' segment, whose router is the balancer, stay balanced one by one.

    Without a rule against redirects, the kernel sends an ICMP redirect for nearly every packet, and the client then
    sends all packets to the same backend.
    """
    with PoolLab(DSR) as pool_lab:
        lab = pool_lab.lab
        lab.client.sysctl("net.ipv4.conf.eth0.accept_redirects", 1)
        lab.client.sysctl("net.ipv6.conf.eth0.accept_redirects", 1)
        router = {4: "198.51.100.1", 6: "2001:db8:1::1"}[version]
        length = {4: 32, 6: 128}[version]
        lab.client.run(["ip", f"-{version}", "route", "replace", f"{vip(version)}/{length}", "via", router])
        with lab.client.connect((vip(version), PORT)) as client:
            answers = client.exchange(600)
    assert ["b1", "b2", "b3"] * 200 == [answer.backend for answer in answers]
