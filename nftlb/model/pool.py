"""A validated configuration, which the core works on: frozen, hashable, in the order of the file. No I/O.

Each option of the configuration is declared here once: its name, type, default and description. From these dataclasses
`nftlb.config` makes the forms of the file and of the HTTP API, their JSON Schema and their messages. The constructors
check nothing; `nftlb.config` does, and is the usual source of these objects.

An annotation holds the type of an option and its description. This module has no `from __future__ import annotations`,
because `nftlb.config` reads the annotations.
"""

from dataclasses import dataclass, fields
from functools import cached_property
from ipaddress import IPv4Address
from typing import Annotated

from .checks import AnyCheck
from .constraints import (
    Argv,
    BackendName,
    BanTime,
    Burst,
    ConfigId,
    Count,
    CountingTime,
    Duration,
    FirstMark,
    GroupName,
    HashSeed,
    HostName,
    Hysteresis,
    Interface,
    Mark,
    NameTime,
    PacketCount,
    Path,
    Percent,
    Port,
    Priority,
    Quorum,
    ReplyTime,
    SampleRate,
    ServerName,
    SessionTime,
    SourceCount,
    TableName,
    Timer,
    Weight,
    Zone,
)
from .hash_keys import SOURCE, HashKey
from .kinds import (
    FAMILIES,
    Admin,
    Balance,
    Capability,
    Encap,
    Endpoint,
    Fallback,
    Family,
    Forward,
    Helper,
    Initial,
    IPAddress,
    Labels,
    Listener,
    MinHealthy,
    Passive,
    Per,
    Protocol,
    Rate,
    Replies,
    SourceEntry,
    SourceKind,
    SourceLengths,
    Templates,
    UnixSocket,
    family,
)
from .names import HostLookup

REJECT = Fallback()
ONE_HEALTHY = MinHealthy()
WHOLE_ADDRESS = SourceLengths()
API_LISTEN = Endpoint(IPv4Address("127.0.0.1"), 9146)
STATE_DIR = "/var/lib/nftlb"
HASH_SEED = 0x6E66746C
"""Any constant: all balancers send a client to the same backend, also after a load."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """A server behind a pool."""

    name: Annotated[BackendName, "the name of the backend, unique in its pool"]
    address: Annotated[IPAddress, "the address to send to"]
    port: Annotated[Port | None, "the port to send to; without it, a packet keeps its port"] = None
    weight: Annotated[Weight, "the share of the traffic, relative to the other backends; 0 receives nothing"] = 1
    priority: Annotated[
        Priority, "backends of the lowest number with enough usable backends get the packets; the others stand by"
    ] = 1
    admin: Annotated[Admin, "the state that the operator wants, whatever the health of the backend"] = Admin.ENABLED
    device: Annotated[
        Interface | None, "the interface towards the backend: for the fast path, and for a link-local address"
    ] = None
    via: Annotated[IPAddress | None, "the next hop towards the backend, for the fast path"] = None
    server_id: Annotated[
        bytes | None, "key: quic-cid: the server id in the connection ids that the backend chooses, in hexadecimal"
    ] = None
    labels: Annotated[Labels, "names and values to find the backend by; also those of the pool, unless set here"] = ()

    @property
    def family(self) -> Family:
        return FAMILIES[type(self.address)]


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedBackend:
    """Servers behind a pool whose addresses come from DNS. One of `address` and `srv` is given.

    `backends` are the names of the backends that were made of the last answer: see `nftlb.config.resolution`.
    """

    name: Annotated[BackendName, "the name of the backends, unique in their pool; an address follows it"]
    address: Annotated[ServerName | None, "the host name; each of its addresses is a backend"] = None
    srv: Annotated[
        ServerName | None, "the name of SRV records, which give the hosts, ports, weights and priorities of backends"
    ] = None
    port: Annotated[Port | None, "the port to send to; without it, a packet keeps its port"] = None
    weight: Annotated[Weight, "the share of each address, relative to the other backends; 0 receives nothing"] = 1
    priority: Annotated[Priority, "the priority of the addresses; with srv, that of the most preferred records"] = 1
    admin: Annotated[Admin, "the state that the operator wants, whatever the health of the backends"] = Admin.ENABLED
    device: Annotated[Interface | None, "the interface towards the addresses, for the fast path"] = None
    labels: Annotated[Labels, "labels of each address; also those of the pool, unless set here"] = ()
    backends: tuple[str, ...] = ()

    @property
    def lookup(self) -> HostLookup:
        """What to ask DNS for."""
        return HostLookup((self.srv or self.address or "").lower(), srv=self.srv is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """A health check of every backend of a pool: one key that names the kind of check, and its times."""

    check: AnyCheck
    interval: Annotated[Timer, "the time between two checks of a healthy backend"] = 2000
    fast_interval: Annotated[Timer, "the time between two checks while a change of state is pending"] = 500
    timeout: Annotated[Timer, "how long to wait for a reply"] = 1000
    rise: Annotated[Count, "how many successful checks in a row bring a backend up"] = 2
    fall: Annotated[Count, "how many failed checks in a row take a backend down"] = 3
    initial: Annotated[
        Initial, "the state before the first check; last: the state that state_dir holds, or up if there is none"
    ] = Initial.LAST
    port: Annotated[Port | None, "the port to check; by default the port of the backend"] = None
    source: Annotated[
        tuple[IPAddress, ...], "the source address of the check, one per family; by default the source of the pool"
    ] = ()
    device: Annotated[Interface | None, "the interface or VRF to check through; by default as the host routes"] = None
    mark: Annotated[Mark | None, "the firewall mark of the check's packets, which routing rules may use"] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Collector:
    """A server that gets copies of the datagrams of a pool. Its replies are dropped."""

    name: Annotated[BackendName, "the name of the collector; no backend of the pool has the same name"]
    address: Annotated[IPAddress, "the address to send copies to"]
    port: Annotated[Port | None, "the port to send copies to; without it, a copy keeps the port of the packet"] = None
    one_in: Annotated[SampleRate, "copy one datagram in so many, for each listener"] = 1
    health: Annotated[
        tuple[Health, ...], "one check, or a list that must all pass; a collector that is down gets no copies"
    ] = ()

    @property
    def family(self) -> Family:
        return FAMILIES[type(self.address)]

    @property
    def server(self) -> Backend:
        """The collector as a server, for health checks and messages."""
        return Backend(name=self.name, address=self.address, port=self.port)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """Programs to run at transitions, each a list of arguments without a shell; an empty list runs nothing."""

    backend_up: Annotated[Argv, "run when a backend comes up"] = ()
    backend_down: Annotated[Argv, "run when a backend goes down"] = ()
    collector_up: Annotated[Argv, "run when a collector comes up"] = ()
    collector_down: Annotated[Argv, "run when a collector goes down"] = ()
    quorum_up: Annotated[Argv, "run when a pool gains its quorum"] = ()
    quorum_down: Annotated[Argv, "run when a pool loses its quorum"] = ()
    priority_changed: Annotated[Argv, "run when another priority of a pool serves"] = ()
    capabilities: Annotated[
        tuple[Capability, ...], "the capabilities of nftlb that the programs receive: one, or a list"
    ] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PassiveReplies:
    """`passive: replies`: when a backend that gets packets and sends no replies is down, and for how long."""

    min_packets: Annotated[PacketCount, "how many packets a backend must have got before their replies are judged"] = 20
    window: Annotated[CountingTime, "the time in which the backend must have got these packets"] = 10_000
    answered_below: Annotated[Percent, "below this share of packets with a reply, the backend is silent"] = 10
    reply_time: Annotated[ReplyTime, "how long a reply may take"] = 2000
    probation: Annotated[
        Timer, "how long a silent backend is down before it gets packets again; doubled each time that it stays silent"
    ] = 30_000
    most_out: Annotated[
        Percent, "the most backends of a family that may be down for this reason, rounded up; one always stays"
    ] = 50


@dataclass(frozen=True, slots=True, kw_only=True, weakref_slot=True)
class Guard:
    """A limit for each source of a pool's packets, and lists of sources.

    A limit counts each packet of UDP. Of TCP and SCTP, it counts the first packet of each connection.
    """

    rate: Annotated[Rate | None, "how many packets of a source may pass: NUMBER/s, /m or /h, such as 100/s"] = None
    burst: Annotated[
        Burst | None, "how many packets of a source that was quiet may pass at once; by default the number of `rate`"
    ] = None
    per: Annotated[
        SourceLengths,
        "what a source is: source, an address; source/24 and source/64, a prefix of IPv4 and of IPv6; one, or a list",
    ] = WHOLE_ADDRESS
    ban: Annotated[BanTime, "how long all packets of a source are dropped after one above the limit; 0s: no ban"] = 0
    sources: Annotated[SourceCount, "for how many sources of a family there is room; the others share a limit"] = 65536
    shared_rate: Annotated[
        Rate | None, "the limit that sources share for which there is no room; by default that of one source"
    ] = None
    allow: Annotated[
        tuple[SourceEntry, ...], "sources that always pass: an address, a prefix, or the path of a file; one, or a list"
    ] = ()
    deny: Annotated[
        tuple[SourceEntry, ...], "sources whose packets are dropped, unless `allow` has them; as in `allow`"
    ] = ()
    clients: Annotated[bool, "count the packets and drops of each source, for `nftlb clients`"] = False

    @property
    def most_at_once(self) -> int:
        """The burst that counts."""
        return self.burst or (self.rate.packets if self.rate else 0)

    @property
    def refill(self) -> int:
        """Seconds after which a source that is quiet has its whole burst again, rounded up."""
        return -(-self.most_at_once * self.rate.seconds // self.rate.packets) if self.rate else 0


@dataclass(frozen=True, kw_only=True)
class Pool:
    """A service: its listeners, and the backends that receive the packets."""

    name: str
    listen: Annotated[
        tuple[Listener, ...],
        "where packets arrive: ADDRESS:PORT/udp, /tcp or /sctp; one listener, or a list. In place of ADDRESS also an "
        "interface (nat, dsr), or * (nat): the addresses of this host",
    ]
    backends: Annotated[tuple[Backend, ...], "the servers, each by its name"]
    named: tuple[NamedBackend, ...] = ()
    balance: Annotated[Balance, "how the next backend is chosen"] = Balance.ROUND_ROBIN
    key: Annotated[HashKey, "balance: hash: the part of a packet that decides which backend gets the packet"] = SOURCE
    seed: Annotated[
        HashSeed, "balance: hash: the seed of the hash; balancers with the same seed send a key to the same backend"
    ] = HASH_SEED
    quic_lb_config: Annotated[
        ConfigId, "key: quic-cid: the config id (rotation bits) of connection ids with a server_id"
    ] = 0
    per: Annotated[Per, "whether each packet or each flow is balanced; tcp and sctp: always flows"] = Per.PACKET
    session_timeout: Annotated[
        SessionTime | None,
        "per: flow, udp: a flow ends when no packet has come for so long; without it, as the kernel is set",
    ] = None
    helper: Annotated[
        Helper | None, "per: flow, udp: the protocol of servers that answer a request from another port"
    ] = None
    forward: Annotated[Forward, "how packets reach their backend"] = Forward.NAT
    encap: Annotated[
        Encap, "dsr: the tunnel to the backends, which may then be behind routers; ipip is IP in IP over IPv4 or IPv6"
    ] = Encap.NONE
    source: Annotated[SourceKind, "nat only: the source address that backends see; keep: the address of the client"] = (
        SourceKind.MASQUERADE
    )
    source_addresses: tuple[IPAddress, ...] = ()
    ingress: Annotated[
        tuple[Interface, ...], "stateless, dsr: the interfaces whose packets take the fast path: one, or a list"
    ] = ()
    hairpin: Annotated[
        bool, "stateless: backends may be clients of the pool; conntrack translates packets from a backend to itself"
    ] = False
    replies: Annotated[
        Replies,
        "stateless: the hook in which replies get the address of the service. prerouting costs packets less, and needs "
        "accept_local=1 and no strict rp_filter on the interfaces to the backends",
    ] = Replies.POSTROUTING
    outbound: Annotated[
        bool, "nat, stateless; udp: requests that a backend itself sends from its port leave from the service's address"
    ] = False
    health: Annotated[tuple[Health, ...], "one check, or a list of checks that must all pass"] = ()
    passive: Annotated[
        bool | PassiveReplies | None,
        "the effect of an ICMP port-unreachable from a backend. true: the backend is down at once; false: none; "
        "not given: the backend is checked at once, where checks and traffic have the same source address. "
        "replies, or a mapping with limits: as not given, and a backend that gets packets and sends no replies is down",
    ] = None
    count_replies: Annotated[
        bool, "nat, stateless; udp: count the replies of each backend, and show which share of the packets got one"
    ] = False
    slow_start: Annotated[Duration, "how long it takes until a backend that came up has its full share"] = 0
    quorum: Annotated[Quorum, "how many usable backends the pool needs"] = 1
    hysteresis: Annotated[Hysteresis, "how far beyond the quorum a change must go"] = 0
    min_healthy: Annotated[
        MinHealthy,
        "how much of a priority must be usable to get the packets: a number of backends, or a share of the weight",
    ] = ONE_HEALTHY
    preempt_delay: Annotated[
        Duration, "how long a lower priority must have enough usable backends before it takes the packets back"
    ] = 10_000
    panic: Annotated[Percent, "below this share of usable weight, use all backends"] = 0
    fallback: Annotated[Fallback, "what happens to packets when no backend is left"] = REJECT
    guard: Annotated[Guard | None, "a limit for each source of packets, and lists of sources"] = None
    hooks: Annotated[Hooks, "programs to run at transitions"] = Hooks()
    mirror: Annotated[
        tuple[Collector, ...],
        "servers that get copies of the datagrams, with the source of the client, each by its name",
    ] = ()
    templates: Annotated[
        Templates | None,
        "all: datagrams that begin with templates of NetFlow v9 or IPFIX go to every backend, all others take turns",
    ] = None

    labels: Annotated[Labels, "names and values to find the backends of the pool by, such as {site: fra}"] = ()

    def __hash__(self) -> int:
        # Pools are keys of the compiler's caches. Hashing every address would cost more than a look-up saves.
        return hash(self.name)

    def __eq__(self, other: object) -> bool:
        # The same for the comparison: nearly always, a key is found by the very same pool.
        if self is other or not isinstance(other, Pool):
            return self is other
        return all(getattr(self, of.name) == getattr(other, of.name) for of in fields(self))

    @cached_property
    def families(self) -> tuple[Family, ...]:
        """The families of the listeners, in the order of `Family`."""
        found = {listener.family for listener in self.listen}
        return tuple(of for of in Family if of in found)

    @cached_property
    def bound(self) -> tuple[Listener, ...]:
        """The listeners that have an address: not those that wait for an address of this host."""
        return tuple(listener for listener in self.listen if not listener.host)

    @property
    def refusals(self) -> Passive:
        """The effect of an ICMP port-unreachable from a backend: `passive`, or else the best for this pool.

        A host limits the ICMP errors that it sends to one destination. If backends see the address of the
        balancer, errors for traffic use up the limit, and checks may receive none. If backends see the address of the
        client, checks have their own limit.
        """
        if isinstance(self.passive, bool):
            return Passive.OUT if self.passive else Passive.OFF
        shared = self.forward is Forward.NAT and self.source is not SourceKind.KEEP
        by_udp = any(listener.protocol is Protocol.UDP for listener in self.listen)
        return Passive.CHECK if shared and by_udp and self.health else Passive.OFF

    @property
    def silence(self) -> PassiveReplies | None:
        """The limits of `passive: replies`; None if silence has no effect."""
        return self.passive if isinstance(self.passive, PassiveReplies) else None

    @property
    def has_reply_counts(self) -> bool:
        """Whether the replies of the backends are counted."""
        return self.count_replies or self.silence is not None

    def source_address(self, of: Family) -> IPAddress | None:
        """The source address that backends of a family see; None if the pool has no such address."""
        return next((address for address in self.source_addresses if family(address) is of), None)

    def labels_of(self, backend: Backend) -> dict[str, str]:
        """The labels of a backend: those of the pool, and its own in their place."""
        return {**dict(self.labels), **dict(backend.labels)}

    def backend(self, name: str) -> Backend | None:
        return next((backend for backend in self.backends if backend.name == name), None)

    def entry(self, name: str) -> Backend | NamedBackend | None:
        """The backend of this name as the file may have it: with an address, or with a host name."""
        return next((entry for entry in self.entries if entry.name == name), None)

    @property
    def entries(self) -> tuple[Backend | NamedBackend, ...]:
        """The backends with an address, and the backends with a host name."""
        return (*self.backends, *self.named)


@dataclass(frozen=True, slots=True, kw_only=True)
class Zones:
    """The conntrack zones of nftlb."""

    first: Annotated[Zone, "the first zone; further zones follow it"] = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """The firewall marks that dsr uses, and the routing tables with the same numbers."""

    first: Annotated[FirstMark, "the first mark; further marks follow it"] = 60001


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """The HTTP API."""

    listen: Annotated[Endpoint | UnixSocket, "address:port, or unix:/PATH"] = API_LISTEN
    token_file: Annotated[
        Path | None, "a file of bearer tokens, which changes at `listen` need; in each line TOKEN, or NAME TOKEN"
    ] = None
    hosts: Annotated[
        tuple[HostName, ...],
        "further host names that requests may use; addresses and the names of this host are always allowed",
    ] = ()
    operators: Annotated[
        tuple[GroupName, ...],
        "groups of this host whose members need no token for changes at the daemon's own socket; root never needs one",
    ] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NameServers:
    """How names of backends are looked up."""

    servers: Annotated[
        tuple[Endpoint, ...],
        "DNS servers: ADDRESS or ADDRESS:PORT, one or a list; by default those of /etc/resolv.conf",
    ] = ()
    timeout: Annotated[Timer, "how long one lookup may take, with all servers and repetitions"] = 3000
    min_ttl: Annotated[NameTime, "an answer is kept for this time at least, even if its TTL is shorter"] = 5000
    max_ttl: Annotated[NameTime, "an answer is kept for this time at most, even if its TTL is longer"] = 3_600_000


@dataclass(frozen=True, kw_only=True)
class Config:
    """A configuration of nftlb."""

    table: Annotated[TableName, "the name of the nft tables of nftlb"] = "nftlb"
    zones: Annotated[Zones, "the conntrack zones to use"] = Zones()
    marks: Annotated[Marks, "the firewall marks to use"] = Marks()
    state_dir: Annotated[Path, "the directory where states are stored"] = STATE_DIR
    api: Annotated[Api, "the HTTP API"] = Api()
    resolver: Annotated[NameServers, "how the names of backends are looked up"] = NameServers()
    pools: Annotated[tuple[Pool, ...], "the pools, each by its name"] = ()

    def pool(self, name: str) -> Pool | None:
        return self._by_name.get(name)

    @cached_property
    def listens_on_host(self) -> bool:
        """Whether a listener stands for addresses of this host."""
        return any(listener.host for pool in self.pools for listener in pool.listen)

    @cached_property
    def _by_name(self) -> dict[str, Pool]:
        return {pool.name: pool for pool in self.pools}
