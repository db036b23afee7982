"""The state of everything, as `GET /api/v1/status` shows it and `nftlb status` reads it. No I/O.

Times are ISO 8601 in UTC; durations are seconds.
"""

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from nftlb.model.kinds import Admin, Balance, Forward, Per


class Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class CheckStatus(Document):
    """One check of one backend."""

    kind: str = Field(description="dns, udp, icmp, ...")
    up: bool = Field(description="its verdict, after rise and fall")
    passed: bool | None = Field(description="whether the last one passed; null before the first")
    pending: int = Field(description="how many results in a row spoke against the verdict")
    needed: int = Field(description="how many of them change it: fall or rise")
    reason: str = Field(description="what the last one said; empty before the first")
    seconds: float | None = Field(description="how long the last one took")
    at: datetime | None = Field(description="when it ended")


class BackendStatus(Document):
    """One backend: health, the operator's wish and what follows from them are kept apart."""

    name: str
    address: str
    port: int | None = Field(description="null: the packet's own port is kept")
    up: bool = Field(description="its health: all checks say so")
    admin: Admin = Field(description="what the operator wants")
    agent: Admin | None = Field(description="what its own agent wants; null if there is none")
    weight: int = Field(description="as configured, or set at run time")
    share: float = Field(description="its part of the pool's packets now, 0 to 1")
    in_rotation: bool = Field(description="whether it gets packets now")
    since: datetime = Field(description="when its health last changed")
    reason: str = Field(description="why it is in this health")
    added: bool = Field(description="added at run time, and not in the file")
    packets: int = Field(description="sent to it since its tables are there; grows only")
    bytes: int
    checks: tuple[CheckStatus, ...]


class PoolStatus(Document):
    """One pool."""

    name: str
    listen: tuple[str, ...]
    forward: Forward
    balance: Balance
    per: Per
    ready: bool = Field(description="it has its quorum, and this host has what it needs")
    lacking: tuple[str, ...] = Field((), description="what it needs of this host and does not get, a line each")
    quorum: int = Field(description="how many healthy backends it needs")
    healthy: int = Field(description="how many backends are healthy and enabled")
    mode: str = Field(description="healthy, panic or fallback; of several families the worst")
    since: datetime = Field(description="when `ready` last changed")
    packets: int
    bytes: int
    backends: tuple[BackendStatus, ...]


class ConfigStatus(Document):
    """The file, and what became of the last attempt to read it."""

    file: str
    success: bool = Field(description="whether the last attempt succeeded; if not, the one before is in use")
    loaded: datetime = Field(description="when the configuration in use was loaded")
    attempted: datetime = Field(description="when the last attempt that has ended began")
    problems: tuple[str, ...] = Field(description="what was wrong with it, one line each")
    copy_in_use: str | None = Field(
        None, description="the last good copy of the file, while that is in use since the start; else null"
    )


class KernelStatus(Document):
    """Whether the kernel has what it should."""

    synced: bool
    error: str = Field(description="what it last refused and why; empty if all is well")
    swaps: int = Field(description="how often it was changed")
    failures: int = Field(description="how often that failed")
    restored: int = Field(description="how often a change by somebody else was undone")
    last_swap: datetime | None


class Fault(Document):
    """Something of the world that does not work now, while the rest does."""

    what: str = Field(description="state_dir, hooks, checks, api, passive, watch, ...")
    message: str
    since: datetime


class Overview(Document):
    """Everything but the pools."""

    version: str
    pid: int
    started: datetime
    ready: bool = Field(description="every pool is ready")
    config: ConfigStatus
    kernel: KernelStatus
    faults: tuple[Fault, ...]


class Status(Overview):
    """Everything."""

    pools: tuple[PoolStatus, ...]
