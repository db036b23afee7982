"""`helper: tftp` with the server and the client of tftp-hpa: files of several blocks in both directions."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Self

import pytest
from packet_tap import Tap
from pool_lab import NAT, PoolLab, vip
from tftp_programs import BLOCK, Tftpd, tftp

from nftlb.model import Helper, Per

if TYPE_CHECKING:
    from pathlib import Path

TFTP, TFTP_BACKEND = 69, 6969
BLOCKS = 40
"""Blocks of the usual size in a file. Client and server may agree on larger blocks, and on fewer acknowledgements."""
SEVERAL = 10
"""Packets in one direction that show several blocks."""
VERSIONS = (4, 6)


class TftpLab:
    """A context manager: three servers, and a pool in front of them at port 69 of both VIPs."""

    def __init__(
        self, version: int, folder: Path, helper: Helper | None = Helper.TFTP, *, offload: bool = True
    ) -> None:
        self.version = version
        self.folder = folder
        self._helper = helper
        self._offload = offload
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        pool_lab = self._stack.enter_context(PoolLab(NAT, offload=self._offload, serve=False))
        pool = pool_lab.pool(TFTP_BACKEND)
        listen = tuple(replace(listener, first_port=TFTP, last_port=TFTP) for listener in pool.listen)
        pool_lab.load(replace(pool, listen=listen, per=Per.FLOW, helper=self._helper))
        self.client = pool_lab.lab.client
        self.servers = {
            host.name: self._stack.enter_context(Tftpd(host, host.address(self.version), TFTP_BACKEND))
            for host in pool_lab.lab.backends
        }
        self._tap = self._stack.enter_context(Tap(self.client))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def do(self, command: str, *, patience: int = 30) -> None:
        """Let the client carry out a command, and check where all packets of the client come from and go to."""
        self._tap.packets()
        tftp(self.client, (vip(self.version), TFTP), self.folder, command, patience=patience)
        packets = self._tap.datagrams()
        assert 1 == len({packet.source for packet in packets if packet.outgoing})  # ONE socket
        assert {vip(self.version)} == {packet.destination[0] for packet in packets if packet.outgoing}
        self.sources = Counter(packet.source for packet in packets if not packet.outgoing)
        self.sent = sum(packet.outgoing for packet in packets)


def content(name: str) -> bytes:
    """A file of BLOCKS full blocks, and a short block that ends the file."""
    return (name.encode() * BLOCK)[:BLOCK] * BLOCKS + name.encode()


@pytest.mark.parametrize("offload", [True, False], ids=["offload", "no-offload"])
@pytest.mark.parametrize("version", VERSIONS)
def test_get(version: int, offload: bool, tmp_path: Path) -> None:
    """Transfers take turns; each file is whole, and all its blocks come from one other port of the service."""
    with TftpLab(version, tmp_path, offload=offload) as lab:
        for name, server in lab.servers.items():
            (server.folder / "boot").write_bytes(content(name))
        found = []
        for _ in range(6):
            lab.do("get boot")
            found.append((tmp_path / "boot").read_bytes())
            ((source, packets),) = lab.sources.items()
            assert (vip(version), True) == (source[0], source[1] != TFTP)
            assert packets >= SEVERAL
        assert [content(name) for name in lab.servers] * 2 == found


@pytest.mark.parametrize("offload", [True, False], ids=["offload", "no-offload"])
@pytest.mark.parametrize("version", VERSIONS)
def test_put(version: int, offload: bool, tmp_path: Path) -> None:
    """A file reaches one server, whole, and the next file the next server; the acknowledgements are the service's."""
    with TftpLab(version, tmp_path, offload=offload) as lab:
        for number in range(6):
            (tmp_path / f"log{number}").write_bytes(content(f"client {number}"))
            lab.do(f"put log{number}")
            (source,) = lab.sources
            assert (vip(version), True) == (source[0], source[1] != TFTP)
            assert lab.sent >= SEVERAL
        stored = {
            (name, path.name): path.read_bytes()
            for name, server in lab.servers.items()
            for path in server.folder.iterdir()
        }
        turns = [(name, f"log{number}") for number, name in enumerate([*lab.servers] * 2)]
        assert {(name, file): content(f"client {file[3:]}") for name, file in turns} == stored


@pytest.mark.parametrize("command", ["get boot", "put log"])
@pytest.mark.parametrize("version", VERSIONS)
def test_without_the_helper(version: int, command: str, tmp_path: Path) -> None:
    """Without the helper, the client gets no packet of the service, and no file."""
    with TftpLab(version, tmp_path, helper=None) as lab:
        for server in lab.servers.values():
            (server.folder / "boot").write_bytes(content("b"))
        (tmp_path / "log").write_bytes(content("client"))
        lab.do(command, patience=2)
        assert vip(version) not in {address for address, _ in lab.sources}
        assert not (tmp_path / "boot").exists() or b"" == (tmp_path / "boot").read_bytes()
        stored = [path for server in lab.servers.values() for path in server.folder.glob("log")]
        assert {b""} >= {path.read_bytes() for path in stored}
