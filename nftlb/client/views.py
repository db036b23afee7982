"""The answers of the daemon as values: the fields of `nftlb.service` that commands show.

They are declared here again, because loading pydantic takes longer than the rest of `nftlb status`. A test compares
them with the models. Further fields of a newer daemon are ignored; a field with a default may be missing in the answer
of an older daemon. All text from the daemon is made safe for a terminal.
"""

# No `from __future__ import annotations`: `_read` needs the types of the fields.
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from datetime import UTC, datetime
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin

from nftlb.printable import printable


@dataclass(frozen=True, slots=True)
class BackendView:
    """One backend; `nftlb.service.BackendStatus` describes the fields."""

    name: str
    address: str
    port: int | None
    up: bool
    admin: str
    agent: str | None
    priority: int
    weight: int
    share: float
    in_rotation: bool
    standby: bool
    since: datetime
    reason: str
    added: bool
    packets: int
    bytes: int
    answered: float | None
    admin_since: datetime | None = None
    copies: int | None = None
    labels: dict[str, str] = field(default_factory=dict)
    pool: str = ""
    """Only in the answer to a change of several backends."""

    @property
    def endpoint(self) -> str:
        return _endpoint(self.address, self.port)


@dataclass(frozen=True, slots=True)
class CollectorView:
    """One collector; `nftlb.service.CollectorStatus` describes the fields."""

    name: str
    address: str
    port: int | None
    one_in: int
    up: bool
    since: datetime
    reason: str
    packets: int

    @property
    def endpoint(self) -> str:
        return _endpoint(self.address, self.port)


def _endpoint(address: str, port: int | None) -> str:
    """Return the address and the port; the address alone if packets keep their port."""
    host = f"[{address}]" if ":" in address and port is not None else address
    return host if port is None else f"{host}:{port}"


@dataclass(frozen=True, slots=True)
class GuardView:
    """The packets that the guard of a pool dropped, by reason."""

    rate: int
    banned: int
    denied: int
    full: int


@dataclass(frozen=True, slots=True)
class NameView:
    name: str
    lookup: str
    backends: tuple[str, ...]
    answered: datetime | None
    expires: datetime | None
    trouble: str
    left_out: tuple[str, ...]
    kept: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PoolView:
    name: str
    listen: tuple[str, ...]
    per: str
    ready: bool
    lacking: tuple[str, ...]
    quorum: int
    healthy: int
    mode: str
    priority: int | None
    min_healthy: str
    preempts_at: datetime | None
    since: datetime
    packets: int
    guard: GuardView | None
    backends: tuple[BackendView, ...]
    collectors: tuple[CollectorView, ...]
    names: tuple[NameView, ...]
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ConfigState:
    file: str
    success: bool
    loaded: datetime
    attempted: datetime
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class KernelView:
    synced: bool
    error: str


@dataclass(frozen=True, slots=True)
class FaultView:
    what: str
    message: str
    since: datetime
    pools: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StatusView:
    """The whole status."""

    version: str
    pid: int
    started: datetime
    ready: bool
    config: ConfigState
    kernel: KernelView
    faults: tuple[FaultView, ...]
    pools: tuple[PoolView, ...]
    host: str = ""

    def of(self, pools: Iterable[PoolView]) -> "StatusView":
        """The status of these pools, without faults that concern only other pools."""
        kept = tuple(pools)
        names = {pool.name for pool in kept}
        if names.issuperset(pool.name for pool in self.pools):
            return replace(self, pools=kept)
        faults = tuple(fault for fault in self.faults if not fault.pools or names.intersection(fault.pools))
        return replace(self, pools=kept, faults=faults)


@dataclass(frozen=True, slots=True)
class EventView:
    """One event; `nftlb.service.Event` describes the fields. `id` is 0 if the daemon does not number its events."""

    kind: str
    at: datetime
    pool: str
    backend: str
    old: str
    new: str
    reason: str
    id: int = 0


@dataclass(frozen=True, slots=True)
class ChangeView:
    """A change of the rules; `nftlb.service.RulesetChange` describes the fields."""

    at: datetime
    reason: str
    lines: tuple[str, ...]
    cut: bool


@dataclass(frozen=True, slots=True)
class ClientView:
    """One source of packets; `nftlb.service.ClientStatus` describes the fields."""

    source: str
    packets: int
    bytes: int
    dropped: int
    banned: float | None


@dataclass(frozen=True, slots=True)
class ClientsView:
    """The sources of a pool with the most packets."""

    pool: str
    known: int
    clients: tuple[ClientView, ...]


# --- reading JSON -----------------------------------------------------------------------------------------------------


def read_clients_view(document: object) -> ClientsView:
    """Read the JSON of the clients of a pool. ValueError with the first field that is missing or has a wrong type."""
    return _record(ClientsView, document, "")


def read_status_view(document: object) -> StatusView:
    """Read the JSON of `/api/v1/status`. ValueError with the first field that is missing or has a wrong type."""
    return _record(StatusView, document, "")


def read_event_view(document: object) -> EventView:
    """Read the JSON of one event. ValueError with the first field that is missing or has a wrong type."""
    return _record(EventView, document, "")


def read_change_view(document: object) -> ChangeView:
    """Read the JSON of one change of the rules. ValueError with the first field that is missing or has a wrong type."""
    return _record(ChangeView, document, "")


def read_backend_view(document: object) -> BackendView:
    """Read the JSON of one backend. ValueError with the first field that is missing or has a wrong type."""
    return _record(BackendView, document, "")


def read_changed_view(document: object) -> BackendView | NameView:
    """Read the JSON of one backend after its change; of an absent address, that of its name. ValueError as above."""
    if isinstance(document, Mapping) and "lookup" in document:
        return _record(NameView, document, "")
    return read_backend_view(document)


Record = TypeVar("Record")


def _record(kind: type[Record], found: object, path: str) -> Record:
    if not isinstance(found, Mapping):
        raise ValueError(f"{path or 'the answer'} is not an object")  # noqa: TRY004 - callers expect one kind of error
    values = {}
    for wanted in fields(kind):  # type: ignore[arg-type]
        where = f"{path}.{wanted.name}" if path else wanted.name
        if wanted.name not in found and (wanted.default is not MISSING or wanted.default_factory is not MISSING):
            continue
        if wanted.name not in found:
            raise ValueError(f"{where} is missing")
        values[wanted.name] = _read(wanted.type, found[wanted.name], where)
    return kind(**values)


def _read(wanted: Any, found: object, path: str) -> Any:
    if isinstance(wanted, UnionType):
        return None if found is None else _read(get_args(wanted)[0], found, path)
    if get_origin(wanted) in {tuple, dict}:
        return _read_several(wanted, found, path)
    if wanted is datetime:
        return _moment(found, path)
    if wanted not in _SIMPLE:
        return _record(wanted, found, path)
    kind, fault = _SIMPLE[wanted]
    if not isinstance(found, kind) or (isinstance(found, bool) and wanted is not bool):
        raise ValueError(f"{path} {fault}")
    if isinstance(found, str):
        return printable(found.replace("\n", " "))  # an error of the kernel may have several lines
    return wanted(found)


def _read_several(wanted: Any, found: object, path: str) -> Any:
    if get_origin(wanted) is dict:
        if not isinstance(found, Mapping):
            raise ValueError(f"{path} is not an object")
        return {printable(name): _read(str, value, f"{path}.{name}") for name, value in found.items()}
    if not isinstance(found, list):
        raise ValueError(f"{path} is not a list")  # noqa: TRY004 - as above
    return tuple(_read(get_args(wanted)[0], item, f"{path}[{index}]") for index, item in enumerate(found))


_SIMPLE: dict[Any, tuple[Any, str]] = {
    str: (str, "is not text"),
    float: (int | float, "is not a number"),
    int: (int, "is not a whole number"),
    bool: (bool, "is neither true nor false"),
}


def _moment(found: object, path: str) -> datetime:
    try:
        moment = datetime.fromisoformat(_read(str, found, path))
    except ValueError:
        raise ValueError(f"{path} is not a time") from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
