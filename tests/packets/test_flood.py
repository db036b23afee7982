"""A flood of one-way datagrams from forged addresses fills the conntrack table, under a daemon with health checks."""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Any

import pytest
from daemon_process import PORT, VIP, Running, dns
from steady_traffic import Flow, lost, sources, twice

from nftlb.lab import Lab

if TYPE_CHECKING:
    from pathlib import Path

    from nftlb.lab import Host

CHECKED: dict[str, Any] = {
    "health": {"udp": {"send": "are you there", "match": "are you there"}, "interval": "400ms", "timeout": "300ms"},
    "source": "keep",
}
FORGED_NETWORK = bytes((10, 71))
PORTS = range(1024, 65536)
LENGTH = struct.calcsize("!HHHHQ")
IGNORED = (
    f"table ip flood {{ chain ignored {{ type filter hook prerouting priority raw; udp length {LENGTH} drop; }}; }}"
)
"""Without replies to the flood, the servers have processor time for the client."""


def flood(host: Host, address: str, count: int) -> None:
    """Send `count` datagrams, each from another address and port."""
    target = socket.inet_aton(address)
    with host.call(socket.socket, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
        for number in range(count):
            of_host, of_ports = divmod(number, len(PORTS))
            source = FORGED_NETWORK + bytes((1, 1 + of_host))
            head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + LENGTH, 0, 0, 64, socket.IPPROTO_UDP, 0, source, target)
            sock.sendto(head + struct.pack("!HHHHQ", PORTS[of_ports], 53, LENGTH, 0, 0), (address, 0))


def entries(host: Host) -> tuple[int, int]:
    """The number of conntrack entries of a host, and the limit."""
    names = ("nf_conntrack_count", "nf_conntrack_max")
    count, most = (int(host.run(["cat", f"/proc/sys/net/netfilter/{name}"])) for name in names)
    return count, most


@pytest.mark.alone
def test_conntrack_table_is_full(tmp_path: Path) -> None:
    """Old and new clients get replies, and no backend is removed."""
    with Lab(backends=3) as lab, lab.serve(PORT, versions=[4]):
        for backend in lab.backends:
            backend.run(["nft", IGNORED])
        with (
            Running(lab.balancer, tmp_path, dns(lab, **CHECKED)) as daemon,
            Flow(lab.client, (VIP[4], 53), rate=200) as old,
        ):
            old.wait(100)
            _, most = entries(lab.balancer)
            flood(lab.client, VIP[4], most + 10_000)
            count, _ = entries(lab.balancer)
            with Flow(lab.client, (VIP[4], 53), rate=200) as new:
                new.wait(100)
            old.wait(100)
            checks = [shown["checks"][0]["passed"] for shown in daemon.client.document()["pools"][0]["backends"]]

    assert count > most * 0.95
    assert ([], []) == (lost(old.sent), lost(new.sent))
    assert ([], []) == (twice(old.sent), twice(new.sent))
    assert {(VIP[4], 53)} == sources(old.sent) | sources(new.sent)
    assert [True] * 3 == checks
    assert not [event for event in daemon.events if event.kind == "backend_down"]
