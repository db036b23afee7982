"""The interface of the daemon: its status, its events, and the requests that it accepts. No I/O.

`GET /api/v1/status` shows the status, and `nftlb status` reads it. The events are for `GET /api/v1/events`, the log and
the hooks. The HTTP API uses the protocol `Service`, and the daemon implements it. Times are ISO 8601 in UTC; durations
are seconds.
"""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict, Field

from nftlb.errors import NftlbError
from nftlb.model import Admin, Backend, Balance, EventKind, Forward, NamedBackend, Per


class StatusModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class CheckStatus(StatusModel):
    """One check of one backend."""

    kind: str = Field(description="dns, udp, icmp, ...")
    up: bool = Field(description="the state of the check, after rise and fall")
    passed: bool | None = Field(description="whether the last probe passed; null before the first probe")
    pending: int = Field(description="how many results in a row contradict `up`")
    needed: int = Field(description="how many of these results change `up`: fall or rise")
    reason: str = Field(description="the reason of the last result; empty before the first probe")
    seconds: float | None = Field(description="how long the last probe took")
    at: datetime | None = Field(description="when the last probe ended")


class BackendStatus(StatusModel):
    """One backend. Its health, the admin state and the resulting share of packets are separate fields."""

    name: str
    address: str
    port: int | None = Field(description="null: a packet keeps its port")
    up: bool = Field(description="whether all checks find the backend healthy")
    admin: Admin = Field(description="the state that the operator wants")
    agent: Admin | None = Field(description="the state that the agent of the backend wants; null without an agent")
    priority: int = Field(description="the priority, as configured or as set at run time; a lower number is preferred")
    weight: int = Field(description="the weight, as configured or as set at run time")
    share: float = Field(description="the part of the packets of the pool that it receives now, 0 to 1")
    in_rotation: bool = Field(description="whether the backend receives packets now")
    standby: bool = Field(description="whether it is healthy and receives no packets, because another priority serves")
    since: datetime = Field(description="when the health last changed")
    reason: str = Field(description="the reason of this health")
    added: bool = Field(description="whether it was added at run time and is not in the file")
    packets: int = Field(description="packets sent to the backend; the counter never decreases")
    bytes: int
    requests: int | None = Field(description="UDP packets sent to the backend; null if its replies are not counted")
    replies: int | None = Field(description="UDP packets that the backend sent back; null if they are not counted")
    answered: float | None = Field(
        description="the part of the packets of the last seconds that was answered, 0 to 1; null without such packets"
    )
    checks: tuple[CheckStatus, ...]


class CollectorStatus(StatusModel):
    """One collector, which gets copies of the datagrams of a pool."""

    name: str
    address: str
    port: int | None = Field(description="null: a copy keeps the port of the packet")
    one_in: int = Field(description="one datagram in so many is copied")
    up: bool = Field(description="whether its checks find the collector healthy; it gets copies only while it is up")
    since: datetime = Field(description="when the health last changed")
    reason: str = Field(description="the reason of this health")
    packets: int = Field(description="copies sent to the collector; the counter never decreases")
    bytes: int
    checks: tuple[CheckStatus, ...]


class GuardStatus(StatusModel):
    """What the guard of a pool has dropped. The counters never decrease."""

    rate: int = Field(description="packets of sources that were above their limit")
    banned: int = Field(description="packets of banned sources")
    denied: int = Field(description="packets of sources in `deny`")
    full: int = Field(description="packets of sources for which there was no room, above the limit that these share")

    @property
    def dropped(self) -> int:
        """All packets that were dropped."""
        return self.rate + self.banned + self.denied + self.full


class ClientStatus(StatusModel):
    """One source of packets, as `guard` of the pool counts it: an address or a prefix."""

    source: str
    packets: int = Field(description="packets that came from the source, also those that were dropped")
    bytes: int
    dropped: int = Field(description="packets of the source that were dropped")
    banned: float | None = Field(description="for how many more seconds the source is banned; null: it is not banned")


class PoolClients(StatusModel):
    """The sources of a pool with the most packets. A source is forgotten an hour after its last packet."""

    pool: str
    known: int = Field(description="how many sources are counted")
    clients: tuple[ClientStatus, ...] = Field(description="the source with the most packets first")


class NameStatus(StatusModel):
    """One name of a pool whose addresses come from DNS."""

    name: str = Field(description="the name in the file")
    lookup: str = Field(description="the host name, or `SRV ` and the name of the SRV records")
    backends: tuple[str, ...] = Field(description="the backends that the last good answer gives")
    answered: datetime | None = Field(
        description="when DNS last answered; null: not since the start, and the backends come from the saved state"
    )
    expires: datetime | None = Field(description="when DNS is asked again; null before the first lookup has ended")
    trouble: str = Field(description="why DNS did not answer last time; empty if it answered")
    left_out: tuple[str, ...] = Field(description="addresses of the answer that can't be backends, and why")


class PoolStatus(StatusModel):
    """One pool."""

    name: str
    listen: tuple[str, ...]
    forward: Forward
    balance: Balance
    per: Per
    replies: tuple[str, ...] = Field(
        (), description="stateless: the hook in which replies get the address of the service, by family, and why"
    )
    ready: bool = Field(description="whether the pool has its quorum, and this host has all that the pool needs")
    lacking: tuple[str, ...] = Field((), description="what the pool needs and this host lacks, one line each")
    quorum: int = Field(description="how many healthy backends the pool needs")
    healthy: int = Field(description="how many backends are healthy and enabled")
    mode: str = Field(description="healthy, panic or fallback; the worst of several families")
    priority: int | None = Field(
        description="the priority that serves, the worst of several families; null: no priority serves alone"
    )
    min_healthy: str = Field(description="how much of a priority must be healthy to serve, such as 1 or 50%")
    preempts_at: datetime | None = Field(
        description="when a lower priority takes the packets back, if its backends stay healthy; null: none waits"
    )
    since: datetime = Field(description="when `ready` last changed")
    packets: int
    bytes: int
    guard: GuardStatus | None = Field(None, description="what the guard has dropped; null: the pool has no guard")
    backends: tuple[BackendStatus, ...]
    collectors: tuple[CollectorStatus, ...] = Field((), description="the collectors of `mirror`")
    names: tuple[NameStatus, ...] = Field((), description="the names whose addresses are among the backends")


class ConfigStatus(StatusModel):
    """The file, and the result of the last attempt to read it."""

    file: str
    success: bool = Field(description="whether the last attempt succeeded; if not, the configuration before is in use")
    loaded: datetime = Field(description="when the configuration in use was loaded")
    attempted: datetime = Field(description="when the last finished attempt began")
    problems: tuple[str, ...] = Field(description="the faults of the file, one line each")
    copy_in_use: str | None = Field(
        None, description="the last good copy of the file, if the daemon started with it and still uses it; else null"
    )


class KernelStatus(StatusModel):
    """Whether the kernel has the ruleset of the configuration."""

    synced: bool
    error: str = Field(description="the last error of the kernel; empty without one")
    swaps: int = Field(description="how often the ruleset was changed")
    failures: int = Field(description="how often a change failed")
    restored: int = Field(description="how often a change by another program was undone")
    last_swap: datetime | None


class Fault(StatusModel):
    """A fault of the host or of a part of the daemon; the rest works."""

    what: str = Field(description="state_dir, hooks, checks, api, passive, watch, ...")
    message: str
    since: datetime


class Overview(StatusModel):
    """The status without the pools."""

    version: str
    pid: int
    started: datetime
    ready: bool = Field(description="whether every pool is ready")
    config: ConfigStatus
    kernel: KernelStatus
    faults: tuple[Fault, ...]


class Status(Overview):
    """The whole status."""

    pools: tuple[PoolStatus, ...]


class Event(StatusModel):
    """An event. `pool` and `backend` are empty if the event concerns none; `backend` may also name a collector."""

    kind: EventKind
    at: datetime
    pool: str = ""
    backend: str = ""
    old: str = Field("", description="the state before the change, if a state changed")
    new: str = Field("", description="the state after the change")
    reason: str = ""
    details: dict[str, Any] = Field(default_factory=dict, description="figures: seconds, transactions, changes, ...")


class UnknownPool(NftlbError):  # noqa: N818 - an answer, not an error of nftlb
    """No pool has that name."""


class UnknownBackend(NftlbError):  # noqa: N818
    """The pool has no backend of that name."""


class Conflict(NftlbError):  # noqa: N818
    """The request conflicts with the present state: the name is in use, or the last backend would be removed."""


class Unapplied(NftlbError):  # noqa: N818
    """The change was accepted and stored, but the kernel refused it for now; the daemon tries it again."""


class Short(NamedTuple):
    """A pool that is not ready: what the host lacks for it, its number of healthy backends, and its quorum."""

    pool: str
    lacking: tuple[str, ...]
    healthy: int
    quorum: int


class Service(Protocol):
    """The daemon, as the HTTP API sees it. All methods run in its event loop.

    The methods that change something return when the kernel has the change. They raise UnknownPool, UnknownBackend,
    Conflict, ConfigError for a value that is not allowed, and Unapplied.
    """

    async def overview(self) -> Overview:
        """The status without the pools. Takes microseconds."""

    def pools(self) -> AsyncIterator[PoolStatus]:
        """All pools, one after the other: the status of ten thousand backends at once takes 30 MB.

        Counters are at most one second old. Other tasks run between two pools.
        """

    async def pool(self, name: str) -> PoolStatus:
        """The status of one pool. Raises UnknownPool."""

    async def clients(self, pool: str, most: int) -> PoolClients:
        """The sources of a pool with the most packets, up to `most`.

        Raises UnknownPool; Conflict if the pool does not count clients; NftlbError if the kernel refuses.
        """

    def short(self) -> Sequence[Short]:
        """The pools that are not ready. Takes microseconds."""

    def ready(self, pool: str | None = None) -> bool:
        """Whether every pool, or this pool, is ready. Takes microseconds. Raises UnknownPool."""

    async def ruleset(self) -> str:
        """The nft text of the ruleset last applied."""

    async def change(
        self,
        pool: str,
        backend: str,
        *,
        admin: Admin | None = None,
        weight: int | None = None,
        priority: int | None = None,
    ) -> BackendStatus:
        """Set the values that are not None; they survive restarts. The caller checks the limits of the numbers."""

    async def add(self, pool: str, backend: Backend | NamedBackend) -> BackendStatus | NameStatus:
        """Add a backend to a pool; the backend survives restarts. ConfigError if it breaks a rule between options.

        A backend with a host name gets its backends when DNS answers, which this method does not wait for.
        """

    async def remove(self, pool: str, backend: str) -> None:
        """Remove a backend. A backend of the file returns with the next reload."""

    async def reload(self) -> None:
        """Read the file again. Raises ConfigError with all faults; the old configuration stays in use then."""

    def events(self) -> AsyncIterator[Event]:
        """The events from now on. A listener that is too slow loses the oldest events."""
