"""The health checks: what each kind can be told. The models are what a file says, and what a probe is given.

No I/O: probes, elsewhere, carry them out. `kind` is the word of the file.
"""

from enum import StrEnum
from typing import Annotated, Any, ClassVar, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema

from nftlb.model.fields import (
    TEXT,
    Argv,
    Boolean,
    Capabilities,
    Digest,
    DnsName,
    Hex,
    Length,
    Lines,
    Oid,
    OneOrMany,
    Path,
    Port,
    Regex,
    Statuses,
    Stratum,
    Text,
    UrlPath,
    or_short,
    word,
    written,
)
from nftlb.model.reading import Unfit


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
    """What a DNS server can answer with."""

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
    """What a UDP check counts as alive; `NO_ICMP_ERROR` is weak: a host that is off sends no error either."""

    REPLY = "reply"
    NO_ICMP_ERROR = "no-icmp-error"


class Method(StrEnum):
    GET = "GET"
    HEAD = "HEAD"
    OPTIONS = "OPTIONS"


class SnmpVersion(StrEnum):
    V1 = "1"
    V2C = "2c"


class Check(BaseModel):
    """What all kinds of checks share."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)
    kind: ClassVar[str]
    needs_port: ClassVar[bool] = True

    @property
    def silence_passes(self) -> bool:
        """Whether it passes without a sign of life from the backend."""
        return False


class _Exchange(Check):
    """A check that may send bytes and look at the bytes that come back."""

    send: Lines | None = Field(None, description="text to send")
    send_hex: Hex | None = Field(None, description="bytes to send, in hexadecimal")
    match: Regex | None = Field(None, description="regular expression (RE2 syntax) that must occur in the reply")
    match_hex: Hex | None = Field(None, description="bytes that must occur in the reply, in hexadecimal")

    @model_validator(mode="after")
    def _one_form_each(self) -> Self:
        for form in ("send", "match"):
            if getattr(self, form) is not None and getattr(self, f"{form}_hex") is not None:
                raise ValueError(f"both {form} and {form}_hex are given; allowed: one of them")
        return self

    @property
    def payload(self) -> bytes:
        """The bytes to send; empty if none are given."""
        return self.send_hex if self.send_hex is not None else (self.send or "").encode()


class Dns(Check):
    """Ask a DNS server; any answer with one of the rcodes will do."""

    kind = "dns"
    name: DnsName = Field(".", description="the name to ask for")
    type: Annotated[RecordType, word(RecordType, "a record type")] = Field(
        RecordType.A, description="the type to ask for"
    )
    rcode: Annotated[tuple[Annotated[Rcode, word(Rcode, "an rcode")], ...], OneOrMany(at_least=1)] = Field(
        (Rcode.NOERROR,), description="the answers that count as healthy, one or a list"
    )
    transport: Annotated[Transport, word(Transport, "a transport")] = Field(Transport.UDP, description="how to ask")
    recursion: Boolean = Field(True, description="set the recursion desired bit")


class Udp(_Exchange):
    """Send a datagram and wait for the reply."""

    kind = "udp"
    expect: Annotated[Expect, word(Expect, "an outcome")] = Field(
        Expect.REPLY, description="reply, or the weak no-icmp-error: up as long as nothing says otherwise"
    )
    min_length: Length = Field(0, description="bytes that the reply must have at least")
    max_length: Length = Field(65535, description="bytes that the reply may have at most")

    @property
    def silence_passes(self) -> bool:
        return self.expect is Expect.NO_ICMP_ERROR

    @model_validator(mode="after")
    def _demands_need_reply(self) -> Self:
        demands = self.model_fields_set & {"match", "match_hex", "min_length", "max_length"}
        given = sorted(key for key in demands if getattr(self, key) is not None)
        if given and self.expect is Expect.NO_ICMP_ERROR:
            raise ValueError(
                f"{given[0]} is given, but expect is no-icmp-error; allowed: {given[0]} with expect: reply"
            )
        if self.min_length > self.max_length:
            raise ValueError(f"min_length is {self.min_length}; allowed: up to max_length, {self.max_length}")
        return self


class Icmp(Check):
    """Send an ICMP echo request."""

    kind = "icmp"
    needs_port = False


class Tcp(_Exchange):
    """Open a TCP connection; what to send and to match is optional."""

    kind = "tcp"


class Http(Check):
    """Fetch a page."""

    kind = "http"
    method: Annotated[Method, word(Method, "a method")] = Field(Method.GET, description="how to ask")
    path: UrlPath = Field("/", description="what to ask for, with its query")
    host: Text | None = Field(None, description="the Host header; by default the backend's address")
    status: Statuses = written("200-299", "codes and ranges that count as healthy, one or a list")
    body: Regex | None = Field(
        None, description="regular expression (RE2 syntax) that must occur in the first 64 KiB of the body"
    )
    body_not: Regex | None = Field(
        None, description="regular expression (RE2 syntax) that must not occur in the first 64 KiB of the body"
    )
    digest: Digest | None = Field(
        None, description="MD5 of the whole body, which has at most a mebibyte, in hexadecimal"
    )
    tls: Boolean = Field(False, description="speak HTTPS")
    verify: Boolean = Field(True, description="with tls: check the certificate")
    sni: Text | None = Field(None, description="with tls: the server name to ask for; by default the host")
    ca_file: Path | None = Field(None, description="with tls: the authorities to trust (PEM)")

    @model_validator(mode="after")
    def _tls_for_its_options(self) -> Self:
        if not self.tls and (given := sorted(self.model_fields_set & {"verify", "sni", "ca_file"})):
            raise ValueError(f"{given[0]} is given without tls; allowed: {given[0]} with tls: true")
        return self


class Radius(Check):
    """Send a RADIUS Status-Server request (RFC 5997)."""

    kind = "radius"
    secret: Text | None = Field(None, description="the shared secret", repr=False)
    secret_file: Path | None = Field(None, description="a file that holds the shared secret")

    @model_validator(mode="after")
    def _one_secret(self) -> Self:
        if (self.secret is None) == (self.secret_file is None):
            found = "neither secret nor secret_file is" if self.secret is None else "both secret and secret_file are"
            raise ValueError(f"{found} given; allowed: one of them")
        return self


class Sip(Check):
    """Send a SIP OPTIONS request."""

    kind = "sip"
    uri: Text | None = Field(None, description="the request URI; by default sip: and the backend's address")
    transport: Annotated[Transport, word(Transport, "a transport")] = Field(Transport.UDP, description="how to ask")
    status: Statuses = written("200-299", "codes and ranges that count as healthy, one or a list")


class Ntp(Check):
    """Ask an NTP server for the time; one that is not synchronised is down."""

    kind = "ntp"
    max_stratum: Stratum = Field(15, description="the highest stratum that counts as healthy")


class Snmp(Check):
    """Get one SNMP object."""

    kind = "snmp"
    community: Text = Field("public", description="the community", repr=False)
    version: Annotated[SnmpVersion, word(SnmpVersion, "a version")] = Field(
        SnmpVersion.V2C, description="the protocol's version"
    )
    oid: Oid = Field("1.3.6.1.2.1.1.3.0", description="the object; by default sysUpTime")


class Exec(Check):
    """Run a Nagios or mon plugin: exit 0 is ok, 1 a warning, all else down; its output is the reason."""

    kind = "exec"
    needs_port = False

    @model_validator(mode="before")
    @classmethod
    def _from_list(cls, found: Any) -> Any:
        if isinstance(found, list):
            return {"argv": found}
        if isinstance(found, dict):
            return found
        raise Unfit(found, "not a list of arguments", "a list: the program, and its arguments")

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return or_short({"type": "array", "items": TEXT.written, "minItems": 1}, schema, handler)

    argv: Argv = Field(description="the program and its arguments, without a shell", min_length=1)
    capabilities: Capabilities = Field((), description="which of nftlb's capabilities it has, one or a list")


class Agent(Check):
    """Ask HAProxy's agent: `up`, `down#reason`, `drain`, `maint`, `ready`, `75%`."""

    kind = "agent"
    needs_port = False
    port: Port = Field(description="the agent's TCP port")
    send: Text | None = Field(None, description="text to send before reading")


AnyCheck: TypeAlias = Dns | Udp | Icmp | Tcp | Http | Radius | Sip | Ntp | Snmp | Exec | Agent
CHECKS: dict[str, type[Check]] = {
    check.kind: check for check in (Dns, Udp, Icmp, Tcp, Http, Radius, Sip, Ntp, Snmp, Exec, Agent)
}


def asks_over_udp(check: AnyCheck) -> bool:
    """Whether an ICMP error is all that a check hears of a server that is gone."""
    over_udp = isinstance(check, Dns | Udp | Radius | Sip | Ntp | Snmp)
    return over_udp and getattr(check, "transport", Transport.UDP) is Transport.UDP
