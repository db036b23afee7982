"""Datagrams of NetFlow v9 and IPFIX from ONE client socket, and where they arrive."""

from __future__ import annotations

import socket
import struct
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from hop_limits import set_ttl
from pool_lab import NAT, PORT, PoolLab, vip

from nftlb.model import SourceKind, Templates

if TYPE_CHECKING:
    from pool_lab import Mode

    from nftlb.model import Pool

V9, IPFIX = 9, 10
TEMPLATE, OPTIONS, DATA = "template", "options template", "data"
SETS = {V9: {TEMPLATE: 0, OPTIONS: 1, DATA: 256}, IPFIX: {TEMPLATE: 2, OPTIONS: 3, DATA: 256}}
BACKENDS = ("b1", "b2", "b3")


def flow_datagram(version: int, kind: str, number: int, size: int = 64) -> bytes:
    """A datagram of NetFlow v9 or IPFIX with one set; its number is in the header and in the set."""
    content = struct.pack("!I", number) + bytes(size)
    one_set = struct.pack("!HH", SETS[version][kind], 4 + len(content)) + content
    if version == V9:
        return struct.pack("!HHIIII", V9, 1, 1000, 1_700_000_000, number, 7) + one_set
    return struct.pack("!HHIII", IPFIX, 16 + len(one_set), 1_700_000_000, number, 7) + one_set


def number_of(payload: bytes) -> int:
    (number,) = struct.unpack_from("!I", payload, 24 if payload[1] == V9 else 20)
    return int(number)


def exporting(lab: PoolLab, mode: Mode) -> Pool:
    pool = replace(lab.pool(), templates=Templates.ALL)
    return replace(pool, source=SourceKind.KEEP) if mode is NAT else pool


class Exporter:
    """One socket on the client."""

    def __init__(self, lab: PoolLab, version: int, *, zero_checksum: bool = False) -> None:
        family = {4: socket.AF_INET, 6: socket.AF_INET6}[version]
        self._sock = lab.lab.client.call(socket.socket, family, socket.SOCK_DGRAM)
        if zero_checksum:
            self._sock.setsockopt(socket.SOL_SOCKET, 11, 1)  # SO_NO_CHECK
        self._sock.connect((vip(version), PORT))
        self.source = self._sock.getsockname()[:2]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def send(self, payload: bytes) -> None:
        self._sock.send(payload)

    def set_ttl(self, ttl: int) -> None:
        """Set the TTL, or the hop limit, of the next datagrams."""
        set_ttl(self._sock, ttl)


def arrived(lab: PoolLab) -> dict[str, list[int]]:
    """The numbers of the datagrams that each backend got, in order."""
    found: dict[str, list[int]] = {host.name: [] for host in lab.lab.backends}
    for record in lab.servers.settle():
        found[record.backend].append(number_of(record.payload))
    lab.servers.clear()
    return found
