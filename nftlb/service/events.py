"""What happens, as it is told to those who listen: `GET /api/v1/events`, the log, the hooks. No I/O."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class EventKind(StrEnum):
    """What an event is about."""

    BACKEND_UP = "backend_up"
    BACKEND_DOWN = "backend_down"
    BACKEND_CHANGED = "backend_changed"
    """The operator, or its agent, changed a backend's admin state or weight; or it was added or removed."""
    QUORUM_UP = "quorum_up"
    QUORUM_DOWN = "quorum_down"
    SWAP = "swap"
    SWAP_FAILED = "swap_failed"
    RELOAD = "reload"
    RELOAD_FAILED = "reload_failed"
    FAULT = "fault"
    FAULT_GONE = "fault_gone"


class Event(BaseModel):
    """One of them. `pool` and `backend` are empty where it is about none."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    kind: EventKind
    at: datetime
    pool: str = ""
    backend: str = ""
    old: str = Field("", description="the state before, where a state changed")
    new: str = Field("", description="and after")
    reason: str = ""
    details: dict[str, Any] = Field(default_factory=dict, description="figures: seconds, transactions, changes, ...")
