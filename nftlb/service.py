"""The interface of the daemon: its status, its events, and the requests that it accepts. No I/O.

`GET /api/v1/status` shows the status, and `nftlb status` reads it. The events are for `GET /api/v1/events`, the log and
the hooks. The HTTP API uses the protocol `Service`, and the daemon implements it. Times are ISO 8601 in UTC; durations
are seconds.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field

from nftlb.errors import NftlbError
from nftlb.model import (
    EVENT_MEANINGS,
    Admin,
    Backend,
    BackendChange,
    BackendKey,
    Balance,
    Endpoint,
    EventKind,
    Forward,
    NamedBackend,
    Per,
)
from nftlb.model import (
    Protocol as Transport,
)

_UNUSED = (("pydantic_extra", None), ("pydantic_private", None))
"""What pydantic keeps of a model beside its fields: nothing here."""


class StatusModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    @classmethod
    def of(cls, **values: Any) -> Self:
        """Make a model of the values of all its fields, in their order and of the right types: nothing is checked.

        The status of 2,000 backends takes 2.5 ms here, and 19 ms with `model_construct`, which looks at each field.
        """
        model = cls.__new__(cls)
        for name, value in (("dict", values), ("pydantic_fields_set", set(values)), *_UNUSED):
            object.__setattr__(model, f"__{name}__", value)
        return model


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
    up: bool = Field(
        description="whether all checks pass, this host can send to the backend, and the backend is not silent; a "
        "backend that is drained may be up"
    )
    admin: Admin = Field(description="the state that the operator wants")
    admin_since: datetime | None = Field(
        description="when `admin` was set at run time; null: `admin` is as in the file"
    )
    agent: Admin | None = Field(description="the state that the agent of the backend wants; null without an agent")
    labels: dict[str, str] = Field(description="its labels, with those of its pool")
    priority: int = Field(description="the priority, as configured or as set at run time; a lower number is preferred")
    weight: int = Field(description="the weight, as configured or as set at run time")
    share: float = Field(description="the part of the packets of the pool that it receives now, 0 to 1")
    in_rotation: bool = Field(description="whether the backend receives packets now")
    standby: bool = Field(description="whether it is usable and receives no packets, because another priority serves")
    since: datetime = Field(description="when `up` last changed")
    reason: str = Field(description="the reason of `up`")
    added: bool = Field(description="whether it was added at run time and is not in the file")
    packets: int = Field(
        description="packets sent to the backend, without `copies`; the counter never decreases, and those of all "
        "backends together are the packets of the pool"
    )
    bytes: int
    copies: int | None = Field(
        description="copies of templates that were sent to the backend besides `packets`; null without `templates`"
    )
    requests: int | None = Field(description="UDP packets sent to the backend; null if its replies are not counted")
    replies: int | None = Field(description="UDP packets that the backend sent back; null if they are not counted")
    answered: float | None = Field(
        description="the part of the packets of the last seconds that was answered, 0 to 1; null without such packets"
    )
    checks: tuple[CheckStatus, ...]


class ChangedBackend(BackendStatus):
    """One of several backends after a change."""

    pool: str


class CollectorStatus(StatusModel):
    """One collector, which gets copies of the datagrams of a pool."""

    name: str
    address: str
    port: int | None = Field(description="null: a copy keeps the port of the packet")
    one_in: int = Field(description="one datagram in so many is copied")
    up: bool = Field(description="whether all its checks pass; the collector gets copies only while it is up")
    since: datetime = Field(description="when `up` last changed")
    reason: str = Field(description="the reason of `up`")
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
    kept: dict[str, str] = Field(
        default_factory=dict,
        description="what the operator set of addresses that DNS does not have now, by the name of the backend; holds "
        "again when the address returns",
    )


class PoolStatus(StatusModel):
    """One pool."""

    name: str
    listen: tuple[str, ...]
    forward: Forward
    balance: Balance
    per: Per
    labels: dict[str, str] = Field(default_factory=dict, description="the labels of the pool")
    replies: tuple[str, ...] = Field(
        (), description="stateless: the hook in which replies get the address of the service, by family, and why"
    )
    ready: bool = Field(description="whether the pool has its quorum, and this host has all that the pool needs")
    lacking: tuple[str, ...] = Field((), description="what the pool needs and this host lacks, one line each")
    quorum: int = Field(description="how many usable backends the pool needs")
    healthy: int = Field(
        description="how many backends are usable: up, enabled (by the operator and by the agent), and with a "
        "weight above 0; a drained backend is not usable"
    )
    mode: str = Field(
        description="which backends get the packets; the worst of several families. healthy: usable backends. "
        "panic: all enabled backends, because too few are usable. fallback: no backend is usable"
    )
    priority: int | None = Field(
        description="the priority that serves; of several families, the worst that serves instead of a lower one; "
        "null: no priority serves alone"
    )
    min_healthy: str = Field(description="how much of a priority must be usable so that it serves, such as 1 or 50%")
    preempts_at: datetime | None = Field(
        description="when a lower priority takes the packets back, if its backends stay usable; null: none waits"
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
    pools: tuple[str, ...] = Field((), description="the pools that the fault concerns; empty: the whole host")


class Overview(StatusModel):
    """The status without the pools."""

    host: str = Field(description="the name of the host on which the daemon runs")
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

    id: int = Field(
        0, description="increases with each event, also over restarts; milliseconds since 1970, or a little later"
    )
    kind: EventKind = Field(description="; ".join(f"{kind}: {meaning}" for kind, meaning in EVENT_MEANINGS.items()))
    at: datetime
    pool: str = ""
    backend: str = ""
    old: str = Field("", description="the state before the change, if a state changed")
    new: str = Field("", description="the state after the change")
    reason: str = Field("", description="at most 4,000 characters")
    details: dict[str, Any] = Field(
        default_factory=dict,
        description="swap: seconds, transactions, ...; fault: what; operated: who, from, what, result, backends",
    )


class History(StatusModel):
    """The last events."""

    events: tuple[Event, ...] = Field(description="the newest event first")


class RulesetChange(StatusModel):
    """One change of the rules in the kernel."""

    at: datetime
    reason: str = Field(description="why the rules were changed")
    events: tuple[int, ...] = Field(description="the ids of the events that led to the change")
    lines: tuple[str, ...] = Field(
        description="the difference: `- ` before a line that is gone, `+ ` before a new line, `@@` before the name of "
        "the chain, set or object in which the next lines are"
    )
    cut: bool = Field(description="whether there were more lines, which are left out")


class RulesetChanges(StatusModel):
    """The last changes of the rules in the kernel."""

    changes: tuple[RulesetChange, ...] = Field(description="the newest change first")


class Notice(StatusModel):
    """Something on this host that keeps packets from their way, or may do so; `nftlb doctor` finds the same."""

    subject: str
    severity: str = Field(description="error: some packets are lost; warning: packets may be lost; unknown; ok")
    message: str
    fix: tuple[str, ...] = Field(description="commands to paste or, where no command helps, what to change")


class Notices(StatusModel):
    """What `nftlb doctor` finds on this host for the configuration in use."""

    at: datetime = Field(description="when the host was examined; an answer may be 30 s old")
    findings: tuple[Notice, ...]


class Consequences(StatusModel):
    """What a change would lead to. Nothing was changed."""

    consequences: tuple[str, ...] = Field(description="a sentence for each loss of service; empty: no service is lost")


class Actor(NamedTuple):
    """Who asks for a change: the name of a token or of a user, and the address or `unix socket`."""

    who: str
    origin: str


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

    async def ruleset_changes(self) -> RulesetChanges:
        """The last changes of the ruleset."""

    async def explain(
        self, client: Endpoint, service: Endpoint, transport: Transport, payload: bytes | None
    ) -> Mapping[str, Any]:
        """What happens to a packet now: the data of `nftlb explain --json`."""

    async def notices(self) -> Notices:
        """What `nftlb doctor` finds, up to half a minute old."""

    def history(
        self, *, pool: str | None, backend: str | None, kind: EventKind | None, before: int | None, limit: int
    ) -> History:
        """The last kept events that fit, at most `limit`, with an id below `before`. Takes less than a millisecond."""

    async def preview_change(self, pool: str, backend: str, change: BackendChange) -> Consequences:
        """What `change` would lead to. Raises as `change` would."""

    async def preview_change_backends(self, backends: Sequence[BackendKey], change: BackendChange) -> Consequences:
        """What `change_backends` would lead to. Raises as `change_backends` would."""

    async def preview_add(self, pool: str, backend: Backend | NamedBackend) -> Consequences:
        """What `add` would lead to. Raises as `add` would."""

    async def preview_remove(self, pool: str, backend: str) -> Consequences:
        """What `remove` would lead to. Raises as `remove` would."""

    async def change(self, pool: str, backend: str, change: BackendChange, by: Actor) -> BackendStatus | NameStatus:
        """Set the values that are not None; they survive restarts. The caller checks the limits of the numbers.

        Returns the status of the name, with what is kept, if the backend is an address that DNS does not have now.
        Conflict if a reload has removed the backend since.
        """

    async def change_backends(
        self, backends: Sequence[BackendKey], change: BackendChange, by: Actor
    ) -> Sequence[ChangedBackend]:
        """`change` for several backends at once: one change of the rules, and one event that names them all.

        EVERY_BACKEND stands for all backends that its pool has at the moment of the change; Conflict if it has none. If
        one of the backends is unknown, nothing is changed. A backend that has left its pool since is not returned.
        """

    async def add(self, pool: str, backend: Backend | NamedBackend, by: Actor) -> BackendStatus | NameStatus:
        """Add a backend to a pool; the backend survives restarts. ConfigError if it breaks a rule between options.

        A backend with a host name gets its backends when DNS answers, which this method does not wait for.
        """

    async def remove(self, pool: str, backend: str, by: Actor) -> None:
        """Remove a backend. A backend of the file returns with the next reload."""

    async def preview_reload(self) -> Consequences:
        """What `reload` would lead to. Raises as `reload` would, and reports nothing."""

    async def reload(self, by: Actor) -> None:
        """Read the file again. Raises ConfigError with all faults; the old configuration stays in use then."""

    def events(self, after: int | None = None) -> AsyncIterator[Event]:
        """The events from now on, after the kept events with an id above `after`, if it is given.

        A listener that is too slow loses the oldest events.
        """
