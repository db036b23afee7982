"""The words and values of the options of pools: enumerations, addresses, listeners. No I/O, and no syntax of files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple, TypeAlias

IPAddress: TypeAlias = IPv4Address | IPv6Address
Milliseconds: TypeAlias = int
Labels: TypeAlias = tuple[tuple[str, str], ...]
"""Names and values, each name once. Hashable, unlike a mapping."""
HostAddresses: TypeAlias = Mapping[str, tuple[IPAddress, ...]]
"""The addresses of this host, by interface."""


class Family(StrEnum):
    """An address family, in nft's words."""

    IP = "ip"
    IP6 = "ip6"


class Protocol(StrEnum):
    UDP = "udp"
    TCP = "tcp"
    SCTP = "sctp"


class Balance(StrEnum):
    """How the next backend is chosen; `HASH` uses the key of the pool."""

    ROUND_ROBIN = "round-robin"
    RANDOM = "random"
    HASH = "hash"


class Per(StrEnum):
    """The unit of balancing: each packet, or each flow. TCP and SCTP are always balanced by flow."""

    PACKET = "packet"
    FLOW = "flow"


class Forward(StrEnum):
    NAT = "nat"
    STATELESS = "stateless"
    DSR = "dsr"


class Encap(StrEnum):
    """The tunnel in which `forward: dsr` sends packets to backends. `IPIP` is IP in IP of the backend's own family."""

    NONE = "none"
    IPIP = "ipip"
    GRE = "gre"


class Replies(StrEnum):
    """The hook in which replies of `stateless` get the source address of the service.

    `POSTROUTING` works on every host. `PREROUTING` costs packets less, but needs settings of the host.
    """

    POSTROUTING = "postrouting"
    PREROUTING = "prerouting"


class Admin(StrEnum):
    """The state that the operator wants for a backend, whatever its health."""

    ENABLED = "enabled"
    DRAIN = "drain"
    MAINTENANCE = "maintenance"


class SourceKind(StrEnum):
    """The source address that a backend sees with `nat`."""

    MASQUERADE = "masquerade"
    KEEP = "keep"
    ADDRESS = "address"


class Passive(StrEnum):
    """The effect of an ICMP port-unreachable with which the host of a backend refuses balanced traffic.

    `OFF`: none. `CHECK`: the backend is checked at once, and is down if this check fails. `OUT`: the backend is down.
    """

    OFF = "off"
    CHECK = "check"
    OUT = "out"


class DropReason(StrEnum):
    """Why `guard` drops a packet.

    `RATE`: its source sends too many. `BANNED`: its source was above the limit before. `DENIED`: its source is in
    `deny`. `FULL`: there is no room for its source, and the sources without room send too many.
    """

    RATE = "rate"
    BANNED = "banned"
    DENIED = "denied"
    FULL = "full"

    def owner(self, pool: str) -> str:
        """The owner of the counter of a pool, among those of its backends. No backend can have such a name."""
        return f"{pool}/_{self}"


class Helper(StrEnum):
    """A protocol whose servers answer from a new port, which conntrack reads from the request."""

    TFTP = "tftp"


class Templates(StrEnum):
    """Which backends get the templates of NetFlow v9 and IPFIX, which describe the data records after them."""

    ALL = "all"


class Capability(StrEnum):
    """A capability of nftlb that a program of the operator may receive; see capabilities(7)."""

    NET_ADMIN = "net_admin"
    NET_RAW = "net_raw"


class FallbackKind(StrEnum):
    """The treatment of packets when no backend is left."""

    REJECT = "reject"
    DROP = "drop"
    ALL = "all"
    SORRY = "sorry"


class Initial(StrEnum):
    """The state of a backend before its first check. `LAST`: the state in the state directory, or up without one."""

    LAST = "last"
    UP = "up"
    DOWN = "down"


class EventKind(StrEnum):
    """What an event of the daemon is about; EVENT_MEANINGS describes each."""

    BACKEND_UP = "backend_up"
    BACKEND_DOWN = "backend_down"
    BACKEND_CHANGED = "backend_changed"
    QUORUM_UP = "quorum_up"
    QUORUM_DOWN = "quorum_down"
    COLLECTOR_UP = "collector_up"
    COLLECTOR_DOWN = "collector_down"
    PRIORITY_CHANGED = "priority_changed"
    SWAP = "swap"
    SWAP_FAILED = "swap_failed"
    RELOAD = "reload"
    RELOAD_FAILED = "reload_failed"
    OPERATED = "operated"
    FAULT = "fault"
    FAULT_GONE = "fault_gone"


EVENT_MEANINGS: Mapping[EventKind, str] = {
    EventKind.BACKEND_UP: "a backend became healthy",
    EventKind.BACKEND_DOWN: "a backend became unhealthy",
    EventKind.BACKEND_CHANGED: "the operator or the backend's agent changed the admin state, weight or priority of a "
    "backend, or the backend was added or removed",
    EventKind.QUORUM_UP: "a pool got its quorum",
    EventKind.QUORUM_DOWN: "a pool lost its quorum",
    EventKind.PRIORITY_CHANGED: "another priority of a pool serves, or no priority has enough usable backends",
    EventKind.COLLECTOR_UP: "a collector became healthy",
    EventKind.COLLECTOR_DOWN: "a collector became unhealthy",
    EventKind.SWAP: "the kernel accepted a change of the rules; also after a change by another program",
    EventKind.SWAP_FAILED: "the kernel refused a change of the rules",
    EventKind.RELOAD: "the file was read again, and is in use",
    EventKind.RELOAD_FAILED: "the file was refused; the last good configuration stays",
    EventKind.OPERATED: "a client asked for a change (admin state, weight, priority, a backend added or removed, a "
    "reload), also if the change failed",
    EventKind.FAULT: "a fault of the host or of a part of the daemon began",
    EventKind.FAULT_GONE: "that fault ended",
}
"""When an event of each kind happens."""


FAMILIES: Mapping[type[IPAddress], Family] = {IPv4Address: Family.IP, IPv6Address: Family.IP6}
"""The family of each class of addresses."""


def family(address: IPAddress) -> Family:
    return FAMILIES[type(address)]


def is_link_local(address: IPAddress) -> bool:
    """Whether an address is valid on one interface only: an address of fe80::/10.

    This excludes the link-local addresses of IPv4 (169.254.0.0/16), which Linux routes like all other addresses.
    """
    return isinstance(address, IPv6Address) and address.is_link_local


_LOOPBACK = 127
"""The first byte of the loopback addresses of IPv4."""


def unforwarded(address: IPAddress) -> str:
    """The reason why the kernel forwards no packets from or to an address; empty if the kernel forwards them."""
    # `is_loopback` of IPv4 compares networks, which takes three times as long.
    is_loopback = int(address) >> 24 == _LOOPBACK if isinstance(address, IPv4Address) else address.is_loopback
    if is_loopback:
        return "a loopback address, which only this host itself can reach"
    if is_link_local(address):
        return "a link-local address, from and to which the kernel forwards nothing"
    return ""


def endpoint_text(address: IPAddress, port: int | str) -> str:
    return f"{address}:{port}" if address.version == 4 else f"[{address}]:{port}"  # noqa: PLR2004


ANY = "*"
"""Stands for all addresses of this host, of both families."""
UNSPECIFIED: Mapping[Family, IPAddress] = {Family.IP: IPv4Address(0), Family.IP6: IPv6Address(0)}
"""Stands for all addresses of this host, of one family."""
_UNSPECIFIED_TEXTS = frozenset(map(str, UNSPECIFIED.values()))


@dataclass(frozen=True, slots=True)
class Listener:
    """A place where packets of a pool arrive: an address, a range of ports (often one port) and a protocol.

    `host` is not empty if the listener stands for addresses that this host has: `*`, `0.0.0.0`, `::` or the name of an
    interface. Then `address` is the unspecified address, which no packet has, and only gives the family. `origin` is
    the text of such a listener, if this listener was made from it for one address.
    """

    address: IPAddress
    first_port: int
    last_port: int
    protocol: Protocol
    host: str = ""
    origin: str = field(default="", compare=False)

    @property
    def family(self) -> Family:
        return FAMILIES[type(self.address)]

    @property
    def interface(self) -> str:
        """The interface whose addresses the listener stands for; empty for any other listener."""
        return "" if self.host == ANY or self.host in _UNSPECIFIED_TEXTS else self.host

    def in_families(self, families: Iterable[Family]) -> tuple[Listener, ...]:
        """The listener in each of these families, if it names no family itself."""
        if not self.host or self.host in _UNSPECIFIED_TEXTS:
            return (self,)
        return tuple(replace(self, address=UNSPECIFIED[of]) for of in families)

    def __str__(self) -> str:
        ports = str(self.first_port) if self.first_port == self.last_port else f"{self.first_port}-{self.last_port}"
        named = self.host and self.host not in _UNSPECIFIED_TEXTS
        return f"{f'{self.host}:{ports}' if named else endpoint_text(self.address, ports)}/{self.protocol}"


class Endpoint(NamedTuple):
    """An address and a port."""

    address: IPAddress
    port: int

    @property
    def family(self) -> Family:
        return FAMILIES[type(self.address)]

    def __str__(self) -> str:
        return endpoint_text(self.address, self.port)


class UnixSocket(NamedTuple):
    """A listening socket in the file system."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


class Source(NamedTuple):
    """The source address that backends see with `nat`; `addresses` has at most one address per family."""

    kind: SourceKind = SourceKind.MASQUERADE
    addresses: tuple[IPAddress, ...] = ()


class MinHealthy(NamedTuple):
    """How much of a priority must be usable: a number of backends or, with `percent`, a share of their weight."""

    amount: int = 1
    percent: bool = False

    def __str__(self) -> str:
        return f"{self.amount}%" if self.percent else f"{self.amount}"


@dataclass(frozen=True, slots=True)
class Rate:
    """So many packets in a period of 1, 60 or 3,600 seconds."""

    packets: int
    seconds: int = 1

    @property
    def unit(self) -> str:
        """The word of nft for the period."""
        return {1: "second", 60: "minute", 3600: "hour"}[self.seconds]

    def __str__(self) -> str:
        return f"{self.packets}/{self.unit}"


@dataclass(frozen=True, slots=True)
class SourceLengths:
    """How many bits of an address make a source, for IPv4 and IPv6: all clients of a prefix are one source."""

    ip: int = 32
    ip6: int = 128

    def of(self, version: Family) -> int:
        return self.ip if version is Family.IP else self.ip6

    def is_whole(self, version: Family) -> bool:
        """Whether each address is a source."""
        return self.of(version) == (32 if version is Family.IP else 128)


@dataclass(frozen=True, slots=True)
class SourceEntry:
    """An entry of a list of sources: an address or a prefix, or a file with one in each line.

    `ip` and `ip6` are ranges of addresses, each with its first and its last address as numbers. `path` is empty for an
    entry that names no file; `digest` is the SHA-256 of the file, in hexadecimal digits.
    """

    path: str = ""
    digest: str = ""
    ip: tuple[tuple[int, int], ...] = ()
    ip6: tuple[tuple[int, int], ...] = ()

    def of(self, version: Family) -> tuple[tuple[int, int], ...]:
        return self.ip if version is Family.IP else self.ip6


class Fallback(NamedTuple):
    """The treatment of packets when no backend is left; `sorry` has at most one endpoint per family."""

    kind: FallbackKind = FallbackKind.REJECT
    sorry: tuple[Endpoint, ...] = ()
