"""What all importers share: lines, remarks, the result of an import, drafts of virtual services, and values. No I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar

from nftlb.config import read_check
from nftlb.config.reading import Unfit, read_address, read_text
from nftlb.errors import ConfigError, Problem
from nftlb.model import UNSPECIFIED, Encap, Forward
from nftlb.model.constraints import INTERFACE, SERVER_NAME
from nftlb.printable import printable, show

if TYPE_CHECKING:
    from collections.abc import Callable

    from nftlb.model import IPAddress, Protocol

MISSING = "not taken over"
CHANGED = "not the same"
SHOWN = 200
"""The most characters of a statement that a remark shows."""


def shorten(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


class Line(int):
    """The number of a line, counted from 1, with its file, which may be an included file."""

    file: str

    def __new__(cls, number: int, file: str) -> Self:
        line = super().__new__(cls, number)
        line.file = file
        return line


@dataclass(frozen=True, order=True)
class Remark:
    """A difference between source and result. `message` begins with MISSING or CHANGED; `line` counts from 1."""

    file: str
    line: int
    message: str

    def __str__(self) -> str:
        return printable(f"{self.file}:{self.line}: {self.message}")


def bad_text(line: Line, message: str) -> ConfigError:
    """Make the error for text that can't be understood."""
    return ConfigError([Problem(line.file, int(line), 1, "", message)])


@dataclass(frozen=True)
class Imported:
    """The result of an import. `text` is a configuration of nftlb in YAML; `remarks` are in the order of their lines.

    `origins` has, for lines of `text` (counted from 1), the file and the line that they come from.
    """

    text: str
    remarks: tuple[Remark, ...]
    origins: dict[int, tuple[str, int]] = field(default_factory=dict)

    def origin(self, line: int) -> tuple[str, int] | None:
        """Return the file and the line that a line of `text` comes from; None if it has no origin."""
        while line > 0 and line not in self.origins:
            line -= 1
        return self.origins.get(line)


# --- drafts: virtual services as the source has them, before they fit the rules of a pool -----------------------------

ALL_PORTS = (1, 65535)
ANOTHER_FORWARD = "forward and encap are the same for the whole pool"
MARKS = "pools select packets by address and port, not by mark"
FOLLOWED = "the name is looked up all the time, and each of its addresses is a backend"
NO_GUE = "nftlb has tunnels of IP in IP and of GRE only"
Check = dict[str, Any]


class Way(NamedTuple):
    """How packets reach a real server: a method of LVS."""

    forward: Forward
    encap: Encap = Encap.NONE


NAT, DIRECT = Way(Forward.NAT), Way(Forward.DSR)
TUNNELS = {"ipip": Way(Forward.DSR, Encap.IPIP), "gre": Way(Forward.DSR, Encap.GRE)}
"""The tunnels of LVS that nftlb has too, by the words of LVS."""
TUNNEL = TUNNELS["ipip"]


@dataclass
class Notes:
    """Collects remarks. Each remark also becomes a comment at its place in the YAML."""

    remarks: list[Remark] = field(default_factory=list)

    def missing(self, line: Line, what: str) -> None:
        self._add(line, f"{MISSING}: {what}")

    def changed(self, line: Line, what: str) -> None:
        self._add(line, f"{CHANGED}: {what}")

    def _add(self, line: Line, message: str) -> None:
        self.remarks.append(Remark(line.file, int(line), message))


@dataclass
class DraftListener:
    """An address and the ports (first, last) that a service listens at.

    The unspecified address stands for all addresses of this host.
    """

    address: IPAddress
    ports: tuple[int, int]
    line: Line


@dataclass
class DraftServer:
    """A real server. Without a port, packets keep their port.

    `host` is its name, if it has no address in the source; `address` is then the unspecified address, for the family.
    """

    address: IPAddress
    port: int | None
    line: Line
    notes: Notes
    weight: int = 1
    checks: list[Check] = field(default_factory=list)
    up: tuple[str, ...] = ()
    down: tuple[str, ...] = ()
    host: str = ""

    @property
    def where(self) -> str:
        """The host name, or else the address."""
        return self.host or str(self.address)


@dataclass(frozen=True)
class Netmask:
    """With `persistent`, the part of an address that makes a client; `written` is the setting in the source."""

    value: str
    written: str
    line: Line


@dataclass(frozen=True)
class SchedulerFlags:
    """Flags of a scheduler of LVS, by the words of LVS; `written` is the setting in the source."""

    words: tuple[str, ...]
    written: str
    line: Line


@dataclass
class SorryServer:
    address: IPAddress
    port: int | None
    line: Line
    word: str = "sorry_server"
    """The name of this setting in the other software."""


@dataclass
class Draft:
    """A virtual service. `written` is its first line in the source; `ops`: each packet is scheduled on its own.

    `program` is the name that the other software has for a check that runs a program.
    """

    written: str
    line: Line
    notes: Notes
    protocol: Protocol
    way: Way
    scheduler: str
    flags: list[SchedulerFlags] = field(default_factory=list)
    name: str = ""
    listen: list[DraftListener] = field(default_factory=list)
    servers: list[DraftServer] = field(default_factory=list)
    ops: bool = False
    persistent: bool = False
    netmask: Netmask | None = None
    quorum: int = 1
    hysteresis: int = 0
    sorry: SorryServer | None = None
    hooks: dict[str, tuple[str, ...]] = field(default_factory=dict)
    program: str = "MISC_CHECK"

    @property
    def forward(self) -> Forward:
        return self.way.forward

    def make_persistent(self, line: Line, written: str) -> None:
        """Send all packets of a client to the same backend, and note that nftlb does so without a time-out."""
        self.persistent = True
        self.notes.changed(line, f"{written}: balance: hash keeps a client with its backend, without a time-out")

    def add_server(self, server: DraftServer, way: Way, method: str) -> None:
        """Add a server. The first server sets `way`; `method` is the word in the source for `way`."""
        if not self.servers:
            self.way = way
        elif way != self.way:
            server.notes.missing(server.line, f"{method}: {ANOTHER_FORWARD}")
        self.servers.append(server)


# --- values -----------------------------------------------------------------------------------------------------------

T = TypeVar("T")
_DIGITS = re.compile(r"[0-9]{1,10}")
LAST_PORT = 65535
LAST_MARK = 0xFFFFFFFF
MOST_WEIGHT = 2**31 - 1
"""The highest weight of LVS."""
MAX_RANGE = 1024
"""The most addresses that a range may have."""


def parse_address(text: str, line: Line) -> IPAddress:
    return _parse(read_address, text, line)


def parse_service_address(text: str, line: Line) -> IPAddress:
    """Read the address of a service, which may be 0.0.0.0 or `::`."""
    unspecified = next((address for address in UNSPECIFIED.values() if text == str(address)), None)
    return parse_address(text, line) if unspecified is None else unspecified


def is_host_name(text: str) -> bool:
    """Whether a text can be the host name of a backend."""
    return SERVER_NAME.pattern.fullmatch(text) is not None


def parse_interface(text: str, line: Line) -> str:
    return _parse(partial(read_text, INTERFACE), text, line)


def _parse(read: Callable[[str], T], text: str, line: Line) -> T:
    """Read a value as nftlb's own configuration does. ConfigError, with the line, for a value that does not fit."""
    try:
        return read(text)
    except Unfit as error:
        raise bad_text(line, str(error)) from None


def parse_number(text: str, line: Line, low: int, high: int) -> int:
    if not _DIGITS.fullmatch(text) or not low <= int(text) <= high:
        raise bad_text(line, f"{show(text)} is not a number in the range; allowed: {low} to {high}")
    return int(text)


PORTS = {
    "ftp": 21, "ssh": 22, "telnet": 23, "smtp": 25, "domain": 53, "tftp": 69, "http": 80, "www": 80, "kerberos": 88,
    "pop3": 110, "sunrpc": 111, "nntp": 119, "ntp": 123, "imap": 143, "imap2": 143, "snmp": 161, "ldap": 389,
    "https": 443, "syslog": 514, "submission": 587, "domain-s": 853, "ldaps": 636, "imaps": 993, "pop3s": 995,
    "radius": 1812, "radius-acct": 1813, "nfs": 2049, "mysql": 3306, "postgresql": 5432, "sip": 5060, "sip-tls": 5061,
}  # fmt: skip
"""The names of ports that the import knows. It reads no other file, so not /etc/services either."""


def parse_named_port(text: str, line: Line) -> int | None:
    """Read a port, or the usual name of a port. None for 0, as in `parse_port()`."""
    if text.isdecimal():
        return parse_port(text, line)
    if text not in PORTS:
        raise bad_text(line, f"{show(text)} is not a known name of a port; allowed: a number from 0 to {LAST_PORT}")
    return PORTS[text]


def parse_port(text: str, line: Line) -> int | None:
    """Read a port. None for 0, which stands for all ports of a service and for no port of a server."""
    return parse_number(text, line, 0, LAST_PORT) or None


def is_valid_check(check: Check, notes: Notes, line: Line, name: str) -> bool:
    """Check the options of a health check by nftlb's own rules; a check that breaks a rule becomes a remark."""
    ((kind, options),) = check.items()
    try:
        read_check(kind, options)
    except ValueError as error:
        notes.missing(line, f"{name}: {error}")
        return False
    return True
