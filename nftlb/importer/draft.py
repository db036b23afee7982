"""A virtual service as it was found, before it is made a pool of ours. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .remark import CHANGED, MISSING, Remark, file_of

if TYPE_CHECKING:
    from nftlb.model import Forward, IPAddress, Protocol

ALL_PORTS = (1, 65535)
Check = dict[str, Any]


@dataclass
class Notes:
    """Remarks, each of which also becomes a comment at its place."""

    file: str
    remarks: list[Remark] = field(default_factory=list)

    def missing(self, line: int, what: str) -> None:
        self._add(line, f"{MISSING}: {what}")

    def changed(self, line: int, what: str) -> None:
        self._add(line, f"{CHANGED}: {what}")

    def _add(self, line: int, message: str) -> None:
        self.remarks.append(Remark(file_of(line, self.file), int(line), message))


@dataclass
class Listening:
    """An address of the service; `ports` may be all."""

    address: IPAddress
    ports: tuple[int, int]
    line: int


@dataclass
class Server:
    """A real server; without a port packets keep theirs."""

    address: IPAddress
    port: int | None
    line: int
    notes: Notes
    weight: int = 1
    checks: list[Check] = field(default_factory=list)
    up: tuple[str, ...] = ()
    down: tuple[str, ...] = ()


@dataclass
class Sorry:
    address: IPAddress
    port: int | None
    line: int
    word: str = "sorry_server"
    """How the other software names it."""


@dataclass
class Draft:
    """`written` is how the service was named, `ops` whether each packet is scheduled on its own.

    `program` is the other software's name for a check that runs a program.
    """

    written: str
    line: int
    notes: Notes
    protocol: Protocol
    forward: Forward
    scheduler: str
    name: str = ""
    listen: list[Listening] = field(default_factory=list)
    servers: list[Server] = field(default_factory=list)
    ops: bool = False
    persistent: bool = False
    quorum: int = 1
    hysteresis: int = 0
    sorry: Sorry | None = None
    hooks: dict[str, tuple[str, ...]] = field(default_factory=dict)
    program: str = "MISC_CHECK"
