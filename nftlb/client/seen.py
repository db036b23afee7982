"""The daemon's status as a command reads it: the part of `nftlb.service.Status` that people are shown. No I/O.

Not those models themselves: loading pydantic takes longer than all the rest of `nftlb status`. What a newer daemon says
besides is no fault. All text that comes from the daemon is made harmless to a terminal here.
"""

# No `from __future__ import annotations`: the types of the fields are what `_read` goes by.
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, TypeVar

from nftlb.printable import printable


@dataclass(frozen=True, slots=True)
class Backend:
    """One backend; see `nftlb.service.BackendStatus`, as for the others."""

    name: str
    address: str
    port: int | None
    up: bool
    admin: str
    agent: str | None
    weight: int
    share: float
    in_rotation: bool
    since: datetime
    reason: str
    packets: int
    bytes: int

    @property
    def endpoint(self) -> str:
        """Where it listens; without a port if it keeps the packet's."""
        host = f"[{self.address}]" if ":" in self.address and self.port is not None else self.address
        return host if self.port is None else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Pool:
    name: str
    listen: tuple[str, ...]
    ready: bool
    lacking: tuple[str, ...]
    quorum: int
    healthy: int
    mode: str
    since: datetime
    packets: int
    backends: tuple[Backend, ...]


@dataclass(frozen=True, slots=True)
class ConfigState:
    file: str
    success: bool
    loaded: datetime
    attempted: datetime
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class KernelState:
    synced: bool
    error: str


@dataclass(frozen=True, slots=True)
class Fault:
    what: str
    message: str
    since: datetime


@dataclass(frozen=True, slots=True)
class Seen:
    """Everything."""

    version: str
    pid: int
    started: datetime
    ready: bool
    config: ConfigState
    kernel: KernelState
    faults: tuple[Fault, ...]
    pools: tuple[Pool, ...]


def read_status(document: object) -> Seen:
    """Read the JSON of `/api/v1/status`; ValueError says what is not as it should be."""
    return _record(Seen, document, "")


def read_backend(document: object) -> Backend:
    """Read the JSON of one backend; ValueError says what is not as it should be."""
    return _record(Backend, document, "")


Record = TypeVar("Record")


def _record(kind: type[Record], found: object, path: str) -> Record:
    if not isinstance(found, Mapping):
        raise ValueError(f"{path or 'the answer'} is no object")  # noqa: TRY004 - one kind of fault is enough
    values = {}
    for one in fields(kind):  # type: ignore[arg-type]
        where = f"{path}.{one.name}" if path else one.name
        if one.name not in found:
            raise ValueError(f"{where} is missing")
        values[one.name] = _read(one.type, found[one.name], where)
    return kind(**values)


def _read(wanted: Any, found: object, path: str) -> Any:
    if isinstance(wanted, types.UnionType):
        return None if found is None else _read(typing.get_args(wanted)[0], found, path)
    if typing.get_origin(wanted) is tuple:
        if not isinstance(found, list):
            raise ValueError(f"{path} is no list")
        return tuple(_read(typing.get_args(wanted)[0], one, f"{path}[{index}]") for index, one in enumerate(found))
    if wanted in _READERS:
        return _READERS[wanted](found, path)
    return _record(wanted, found, path)


def _text(found: object, path: str) -> str:
    if not isinstance(found, str):
        raise ValueError(f"{path} is no text")  # noqa: TRY004
    return printable(found.replace("\n", " "))  # what the kernel refused may have several lines


def _moment(found: object, path: str) -> datetime:
    try:
        moment = datetime.fromisoformat(_text(found, path))
    except ValueError:
        raise ValueError(f"{path} is no time") from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _number(found: object, path: str) -> float:
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise ValueError(f"{path} is no number")  # noqa: TRY004
    return float(found)


def _whole(found: object, path: str) -> int:
    if type(found) is not int:
        raise ValueError(f"{path} is no whole number")
    return found


def _truth(found: object, path: str) -> bool:
    if not isinstance(found, bool):
        raise ValueError(f"{path} is neither true nor false")  # noqa: TRY004
    return found


_READERS = {str: _text, datetime: _moment, float: _number, int: _whole, bool: _truth}
