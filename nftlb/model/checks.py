"""The health checks: the options of each kind, with their defaults. No I/O.

Each option is declared only here. `nftlb.config` makes the written form of a check from these dataclasses: how the file
writes an option, its JSON Schema and the rules between options. A probe (`nftlb.probes`) receives the dataclass and
needs no knowledge of files. `kind` is the key of the check in the file.

An annotation holds the type of an option and its description. This module has no `from __future__ import annotations`,
because `nftlb.config` reads the annotations.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, ClassVar, TypeAlias

from .constraints import (
    Argv,
    Digest,
    DnsName,
    Length,
    Line,
    Lines,
    Oid,
    Path,
    Port,
    Regex,
    StatusRange,
    Stratum,
    UrlPath,
)
from .kinds import Capability


class RecordType(StrEnum):
    """The record types that a DNS check may ask for."""

    A = "A"
    AAAA = "AAAA"
    ANY = "ANY"
    CAA = "CAA"
    CNAME = "CNAME"
    DNSKEY = "DNSKEY"
    DS = "DS"
    HTTPS = "HTTPS"
    MX = "MX"
    NS = "NS"
    PTR = "PTR"
    SOA = "SOA"
    SRV = "SRV"
    SVCB = "SVCB"
    TXT = "TXT"


class Rcode(StrEnum):
    """The response codes of a DNS server."""

    NOERROR = "noerror"
    FORMERR = "formerr"
    SERVFAIL = "servfail"
    NXDOMAIN = "nxdomain"
    NOTIMP = "notimp"
    REFUSED = "refused"
    NOTAUTH = "notauth"


class Transport(StrEnum):
    UDP = "udp"
    TCP = "tcp"


class Expect(StrEnum):
    """The result of a UDP check that counts as healthy.

    `NO_ICMP_ERROR` is weak: a host that is off sends no ICMP error either.
    """

    REPLY = "reply"
    NO_ICMP_ERROR = "no-icmp-error"


class Method(StrEnum):
    GET = "GET"
    HEAD = "HEAD"
    OPTIONS = "OPTIONS"


class SnmpVersion(StrEnum):
    V1 = "1"
    V2C = "2c"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """The base class of all kinds of checks."""

    kind: ClassVar[str]
    needs_port: ClassVar[bool] = True

    @property
    def silence_passes(self) -> bool:
        """Whether the check passes without any packet from the backend."""
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange(Check):
    """A check that may send bytes and may compare the bytes of the reply."""

    send: Annotated[Lines | None, "text to send"] = None
    send_hex: Annotated[bytes | None, "bytes to send, in hexadecimal"] = None
    match: Annotated[Regex | None, "regular expression (RE2 syntax) that must occur in the reply"] = None
    match_hex: Annotated[bytes | None, "bytes that must occur in the reply, in hexadecimal"] = None

    @property
    def payload(self) -> bytes:
        """The bytes to send; empty if neither `send` nor `send_hex` is given."""
        return self.send_hex if self.send_hex is not None else (self.send or "").encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Dns(Check):
    """Send a DNS query; a reply with one of the rcodes passes."""

    kind = "dns"
    name: Annotated[DnsName, "the name in the query"] = "."
    type: Annotated[RecordType, "the record type in the query"] = RecordType.A
    rcode: Annotated[tuple[Rcode, ...], "the response codes that count as healthy: one, or a list"] = (Rcode.NOERROR,)
    transport: Annotated[Transport, "the transport of the query"] = Transport.UDP
    recursion: Annotated[bool, "whether to set the recursion desired bit"] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Udp(Exchange):
    """Send a datagram and wait for the reply."""

    kind = "udp"
    expect: Annotated[
        Expect, "reply, or the weak no-icmp-error: the backend is up as long as no ICMP error arrives"
    ] = Expect.REPLY
    min_length: Annotated[Length, "the least number of bytes in the reply"] = 0
    max_length: Annotated[Length, "the largest number of bytes in the reply"] = 65535

    @property
    def silence_passes(self) -> bool:
        return self.expect is Expect.NO_ICMP_ERROR


@dataclass(frozen=True, slots=True, kw_only=True)
class Icmp(Check):
    """Send an ICMP echo request."""

    kind = "icmp"
    needs_port = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Tcp(Exchange):
    """Open a TCP connection, and optionally send bytes and compare the reply."""

    kind = "tcp"


@dataclass(frozen=True, slots=True, kw_only=True)
class Http(Check):
    """Send an HTTP request."""

    kind = "http"
    method: Annotated[Method, "the method of the request"] = Method.GET
    path: Annotated[UrlPath, "the path of the request, with its query"] = "/"
    host: Annotated[Line | None, "the Host header; by default the address of the backend"] = None
    status: Annotated[
        tuple[StatusRange, ...], "status codes and ranges of them that count as healthy: one, or a list"
    ] = ((200, 299),)
    body: Annotated[Regex | None, "regular expression (RE2 syntax) that must occur in the first 64 KiB of the body"] = (
        None
    )
    body_not: Annotated[
        Regex | None, "regular expression (RE2 syntax) that must not occur in the first 64 KiB of the body"
    ] = None
    digest: Annotated[Digest | None, "MD5 of the whole body, in hexadecimal; the body may have at most 1 MiB"] = None
    tls: Annotated[bool, "whether to use HTTPS"] = False
    verify: Annotated[bool, "with tls: whether to verify the certificate"] = True
    sni: Annotated[Line | None, "with tls: the server name to send (SNI); by default the host"] = None
    ca_file: Annotated[Path | None, "with tls: a file of the certificate authorities to trust (PEM)"] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Radius(Check):
    """Send a RADIUS Status-Server request (RFC 5997)."""

    kind = "radius"
    secret: Annotated[Line | None, "the shared secret"] = field(default=None, repr=False)
    secret_file: Annotated[Path | None, "a file that holds the shared secret"] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sip(Check):
    """Send a SIP OPTIONS request."""

    kind = "sip"
    uri: Annotated[Line | None, "the request URI; by default sip: and the address of the backend"] = None
    transport: Annotated[Transport, "the transport of the request"] = Transport.UDP
    status: Annotated[
        tuple[StatusRange, ...], "status codes and ranges of them that count as healthy: one, or a list"
    ] = ((200, 299),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ntp(Check):
    """Ask an NTP server for the time; a server that is not synchronised is down."""

    kind = "ntp"
    max_stratum: Annotated[Stratum, "the highest stratum that counts as healthy"] = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Snmp(Check):
    """Get one SNMP object."""

    kind = "snmp"
    community: Annotated[Line, "the community"] = field(default="public", repr=False)
    version: Annotated[SnmpVersion, "the version of the protocol"] = SnmpVersion.V2C
    oid: Annotated[Oid, "the object identifier; by default sysUpTime"] = "1.3.6.1.2.1.1.3.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exec(Check):
    """Run a plugin of Nagios or mon: exit status 0 is ok, 1 a warning, any other is down. Its output is the reason."""

    kind = "exec"
    needs_port = False
    argv: Annotated[Argv, "the program and its arguments, without a shell"]
    capabilities: Annotated[
        tuple[Capability, ...], "the capabilities of nftlb that the program receives: one, or a list"
    ] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent(Check):
    """Ask an agent of HAProxy's agent-check: `up`, `down#reason`, `drain`, `maint`, `ready`, `75%`."""

    kind = "agent"
    needs_port = False
    port: Annotated[Port, "the TCP port of the agent"]
    send: Annotated[Line | None, "text to send before the reply is read"] = None


AnyCheck: TypeAlias = Dns | Udp | Icmp | Tcp | Http | Radius | Sip | Ntp | Snmp | Exec | Agent
CHECKS: dict[str, type[Check]] = {
    check.kind: check for check in (Dns, Udp, Icmp, Tcp, Http, Radius, Sip, Ntp, Snmp, Exec, Agent)
}


def asks_over_udp(check: AnyCheck) -> bool:
    """Whether the check uses UDP: then an ICMP error is the only reply from a host without the service."""
    over_udp = isinstance(check, Dns | Udp | Radius | Sip | Ntp | Snmp)
    return over_udp and getattr(check, "transport", Transport.UDP) is Transport.UDP
