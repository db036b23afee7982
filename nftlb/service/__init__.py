"""What the daemon shows and can be told: the words that it, its HTTP API and its command line have in common."""

from .contract import Conflict, Service, Short, Unapplied, UnknownBackend, UnknownPool
from .events import Event, EventKind
from .status import BackendStatus, CheckStatus, ConfigStatus, Fault, KernelStatus, Overview, PoolStatus, Status

__all__ = [
    "BackendStatus",
    "CheckStatus",
    "ConfigStatus",
    "Conflict",
    "Event",
    "EventKind",
    "Fault",
    "KernelStatus",
    "Overview",
    "PoolStatus",
    "Service",
    "Short",
    "Status",
    "Unapplied",
    "UnknownBackend",
    "UnknownPool",
]
