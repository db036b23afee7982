"""The file as pydantic models: what may be written where, with its description.

Where the core wants another shape (names inside, one check instead of eleven keys), `nftlb.config.assemble` makes it.
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema

from nftlb.config.foreign_tables import PREFIXES, TABLES
from nftlb.model.checks import CHECKS, Agent, Dns, Exec, Http, Icmp, Ntp, Radius, Sip, Snmp, Tcp, Udp
from nftlb.model.fields import (
    BACKEND_ADDRESS_WRITTEN,
    BACKEND_ENDPOINT_WRITTEN,
    Address,
    Addresses,
    ApiListen,
    Argv,
    BackendAddress,
    BackendName,
    Boolean,
    Capabilities,
    Count,
    Duration,
    FallbackText,
    HostName,
    Interface,
    ListenerText,
    Mark,
    OneOrMany,
    Path,
    Percent,
    PoolName,
    Port,
    SourceText,
    TableName,
    Timer,
    Weight,
    mark,
    number,
    or_short,
    word,
    written,
)
from nftlb.model.kinds import Admin, Balance, Forward, Initial, Per, is_link_local
from nftlb.model.reading import Unfit, digits_or_text, read_address, split_port


class Written(BaseModel):
    """A mapping of the file."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        defer_build=True,
        model_title_generator=lambda model: model.__name__.removeprefix("Written").lower(),
    )


class WrittenBackend(Written):
    """A server: address:port, a bare address, or a mapping."""

    address: BackendAddress = Field(description="the address to send to")
    port: Port | None = Field(None, description="the port to send to; without one, the packet's is kept")
    weight: Weight = Field(1, description="its share, relative to the other backends; 0 takes nothing")
    admin: Annotated[Admin, word(Admin, "a state")] = Field(
        Admin.ENABLED, description="what the operator wants of it, whatever its health"
    )
    device: Interface | None = Field(
        None, description="the interface towards it: for the fast path, and for a link-local address"
    )
    via: Address | None = Field(None, description="the next hop towards it, for the fast path")

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, found: Any) -> Any:
        if isinstance(found, dict):
            return _with_device(found)
        if not isinstance(found, str):
            raise Unfit(
                found, "not a backend", "address:port, such as 10.0.0.11:5353, or a mapping with the key address"
            )
        address, port = split_port(found)
        backend = {"address": address} if port is None else {"address": address, "port": digits_or_text(port)}
        return _with_device(backend)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return or_short({"anyOf": [BACKEND_ENDPOINT_WRITTEN, BACKEND_ADDRESS_WRITTEN]}, schema, handler)


def _with_device(backend: dict[str, Any]) -> dict[str, Any]:
    """Take `fe80::1%eth1` for the address fe80::1 and the device eth1."""
    address = backend.get("address")
    if not isinstance(address, str) or "%" not in address:
        return backend
    plain, _, interface = address.partition("%")
    if not is_link_local(read_address(plain)):
        raise Unfit(address, "scoped to an interface", "an interface with a link-local address (fe80::/10) only")
    if backend.get("device") not in {None, interface}:
        raise Unfit(address, f"of another interface than the device, {backend['device']}", "the same interface")
    return {**backend, "address": plain, "device": interface}


class WrittenHealth(Written):
    """A health check: one key that names its kind, and when it is done."""

    dns: Dns | None = Field(None, description="ask a DNS server")
    udp: Udp | None = Field(None, description="send a datagram, wait for the reply")
    icmp: Icmp | None = Field(None, description="send an ICMP echo request")
    tcp: Tcp | None = Field(None, description="open a TCP connection")
    http: Http | None = Field(None, description="fetch a page")
    radius: Radius | None = Field(None, description="send a RADIUS Status-Server request")
    sip: Sip | None = Field(None, description="send a SIP OPTIONS request")
    ntp: Ntp | None = Field(None, description="ask an NTP server for the time")
    snmp: Snmp | None = Field(None, description="get an SNMP object")
    exec: Exec | None = Field(None, description="run a plugin of Nagios or mon")
    agent: Agent | None = Field(None, description="ask HAProxy's agent")
    interval: Timer = written("2s", "between the checks of a healthy backend")
    fast_interval: Timer = written("500ms", "between checks while a change of state is pending")
    timeout: Timer = written("1s", "how long to wait for an answer")
    rise: Count = Field(2, description="how many good checks in a row bring a backend up")
    fall: Count = Field(3, description="how many bad checks in a row take it down")
    initial: Annotated[Initial, word(Initial, "a state")] = Field(
        Initial.LAST, description="the state before the first check; last: as remembered, up if it isn't"
    )
    port: Port | None = Field(None, description="the port to check; by default the backend's")
    source: Addresses = Field((), description="where to check from, an address per family; by default the pool's")
    device: Interface | None = Field(None, description="the interface or VRF to check through; by default as routed")
    mark: Mark | None = Field(None, description="the firewall mark of the check's packets, which routing may go by")

    @model_validator(mode="before")
    @classmethod
    def _without_options(cls, found: Any) -> Any:
        """Take `icmp:` for `icmp: {}`."""
        if not isinstance(found, dict):
            return found
        return {key: {} if value is None and key in CHECKS else value for key, value in found.items()}


class WrittenHooks(Written):
    """Programs to run at transitions: lists of arguments, no shell."""

    backend_up: Argv = Field((), description="run when a backend comes up")
    backend_down: Argv = Field((), description="run when a backend goes down")
    quorum_up: Argv = Field((), description="run when a pool gains its quorum")
    quorum_down: Argv = Field((), description="run when a pool loses its quorum")
    capabilities: Capabilities = Field((), description="which of nftlb's capabilities they have, one or a list")


class WrittenDefaults(Written):
    """What a pool can be told besides its listeners and backends."""

    balance: Annotated[Balance, word(Balance, "a way to balance")] = Field(
        Balance.ROUND_ROBIN, description="how the next backend is picked"
    )
    per: Annotated[Per, word(Per, "a unit to spread")] = Field(
        Per.PACKET, description="what is spread; tcp and sctp: always flows"
    )
    forward: Annotated[Forward, word(Forward, "a way to forward")] = Field(
        Forward.NAT, description="how packets reach their backend"
    )
    source: SourceText = written("masquerade", "nat only: the source address that backends see; keep: the client's")
    ingress: Annotated[tuple[Interface, ...], OneOrMany()] = Field(
        (), description="stateless, dsr: interfaces that take the fast path"
    )
    hairpin: Boolean = Field(
        False, description="stateless: a backend may be a client of the pool; conntrack translates what falls to itself"
    )
    health: Annotated[tuple[WrittenHealth, ...], OneOrMany()] = Field(
        (), description="one check, or a list that must all pass"
    )
    passive: Boolean | None = Field(
        None,
        description="true: a backend's ICMP port-unreachable takes it out at once; false: it is not heeded; not given: "
        "the backend is checked at once, where checks and traffic leave from one address",
    )
    slow_start: Duration = written("0s", "over how long a backend that came up gets its full share")
    quorum: Annotated[int, number("a quorum", 1, 65535)] = Field(
        1, description="how many healthy backends the pool needs"
    )
    hysteresis: Annotated[int, number("a hysteresis", 0, 65535)] = Field(
        0, description="how far beyond the quorum a change must go"
    )
    panic: Percent = written("0%", "below this share of healthy weight, use all backends")
    fallback: FallbackText = written("reject", "what becomes of packets when no backend is left")
    hooks: WrittenHooks = written({}, "programs to run at transitions")


class WrittenPool(WrittenDefaults):
    """Listeners, and the backends that their packets are spread over."""

    listen: Annotated[tuple[ListenerText, ...], OneOrMany(at_least=1)] = Field(
        description="where packets are taken: ADDRESS:PORT/udp, /tcp or /sctp, one or a list"
    )
    backends: dict[BackendName, WrittenBackend] = Field(min_length=1, description="the servers, each by its name")


class WrittenZones(Written):
    """The conntrack zones to use."""

    first: Annotated[int, number("a conntrack zone", 1, 65535)] = Field(1, description="the first of them")


class WrittenMarks(Written):
    """The firewall marks, and routing tables of the same numbers, that dsr uses."""

    first: Annotated[int, mark(0xFFFFFF00)] = Field(60001, description="the first of them")


class WrittenApi(Written):
    """The HTTP API."""

    listen: ApiListen = written("127.0.0.1:9146", "address:port, or unix:/PATH")
    token_file: Path | None = Field(None, description="a file of tokens; without one, the API only reads")
    hosts: Annotated[tuple[HostName, ...], OneOrMany()] = Field(
        (), description="further names by which the API may be asked; addresses and this host's own names always may"
    )


class WrittenConfig(Written):
    """A configuration of nftlb."""

    table: TableName = Field(
        "nftlb",
        description="the name of the nft tables that are ours",
        json_schema_extra={"not": {"anyOf": [{"enum": list(TABLES)}, {"pattern": f"^({'|'.join(PREFIXES)})"}]}},
    )
    zones: WrittenZones = written({}, "conntrack zones to use")
    marks: WrittenMarks = written({}, "firewall marks to use")
    state_dir: Path = Field("/var/lib/nftlb", description="where states are remembered")
    api: WrittenApi = written({}, "the HTTP API")
    defaults: WrittenDefaults = written({}, "merged under every pool")
    pools: dict[PoolName, WrittenPool] = Field(
        description="the pools, each by its name", json_schema_extra={"minProperties": 1}
    )
