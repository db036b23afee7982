"""The small things that pools are made of; no I/O, and nothing about files."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from typing import TypeAlias

IPAddress: TypeAlias = IPv4Address | IPv6Address
Milliseconds: TypeAlias = int


class Family(StrEnum):
    """An address family, in nft's words."""

    IP = "ip"
    IP6 = "ip6"


class Protocol(StrEnum):
    UDP = "udp"
    TCP = "tcp"
    SCTP = "sctp"


class Balance(StrEnum):
    """How the next backend is picked; `HASH` is of the client's address."""

    ROUND_ROBIN = "round-robin"
    RANDOM = "random"
    HASH = "hash"


class Per(StrEnum):
    """What is spread: every packet on its own, or flows. TCP and SCTP are spread by flow whatever this says."""

    PACKET = "packet"
    FLOW = "flow"


class Forward(StrEnum):
    NAT = "nat"
    STATELESS = "stateless"
    DSR = "dsr"


class Admin(StrEnum):
    """What the operator wants of a backend, whatever its health."""

    ENABLED = "enabled"
    DRAIN = "drain"
    MAINTENANCE = "maintenance"


class SourceKind(StrEnum):
    """Which source address a backend sees in `nat`."""

    MASQUERADE = "masquerade"
    KEEP = "keep"
    ADDRESS = "address"


class Passive(StrEnum):
    """What follows when a backend's host refuses balanced traffic with an ICMP port-unreachable.

    `OFF`: nothing. `CHECK`: the backend is checked at once, and is out if that check fails. `OUT`: the backend is out.
    """

    OFF = "off"
    CHECK = "check"
    OUT = "out"


class Capability(StrEnum):
    """What of nftlb's own power a program of the operator's may have: see capabilities(7)."""

    NET_ADMIN = "net_admin"
    NET_RAW = "net_raw"


class FallbackKind(StrEnum):
    """What becomes of packets when no backend is left."""

    REJECT = "reject"
    DROP = "drop"
    ALL = "all"
    SORRY = "sorry"


class Initial(StrEnum):
    """A backend's state before its first check; `LAST` is what the state directory remembers, else up."""

    LAST = "last"
    UP = "up"
    DOWN = "down"


def family(address: IPAddress) -> Family:
    return Family.IP if address.version == 4 else Family.IP6  # noqa: PLR2004


def is_link_local(address: IPAddress) -> bool:
    """Tell whether an address is valid on one interface only, as those of fe80::/10 are.

    The link-local addresses of IPv4 (169.254.0.0/16) are not meant: Linux routes them like all others.
    """
    return address.version == 6 and address.is_link_local  # noqa: PLR2004


def unforwarded(address: IPAddress) -> str:
    """Tell why the kernel forwards no packets from or to an address; empty if the kernel does."""
    if address.is_loopback:
        return "a loopback address, which only this host itself can reach"
    if is_link_local(address):
        return "a link-local address, from and to which the kernel forwards nothing"
    return ""


def endpoint_text(address: IPAddress, port: int | str) -> str:
    return f"{address}:{port}" if address.version == 4 else f"[{address}]:{port}"  # noqa: PLR2004


@dataclass(frozen=True, slots=True)
class Listener:
    """Where a pool takes packets: an address, a range of ports (often of one) and a protocol."""

    address: IPAddress
    first_port: int
    last_port: int
    protocol: Protocol

    @property
    def family(self) -> Family:
        return family(self.address)

    def __str__(self) -> str:
        ports = str(self.first_port) if self.first_port == self.last_port else f"{self.first_port}-{self.last_port}"
        return f"{endpoint_text(self.address, ports)}/{self.protocol}"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address and a port."""

    address: IPAddress
    port: int

    @property
    def family(self) -> Family:
        return family(self.address)

    def __str__(self) -> str:
        return endpoint_text(self.address, self.port)


@dataclass(frozen=True, slots=True)
class UnixSocket:
    """A listening socket in the file system."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


@dataclass(frozen=True, slots=True)
class Source:
    """The source address that backends see in `nat`; `addresses` holds at most one per family."""

    kind: SourceKind = SourceKind.MASQUERADE
    addresses: tuple[IPAddress, ...] = ()


@dataclass(frozen=True, slots=True)
class Fallback:
    """What becomes of packets when no backend is left; `sorry` holds at most one endpoint per family."""

    kind: FallbackKind = FallbackKind.REJECT
    sorry: tuple[Endpoint, ...] = ()
