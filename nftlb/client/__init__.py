"""The client of the daemon's HTTP API, for the commands. It loads fast: it needs no pydantic."""

from .addresses import Address, addresses_here, default_address, read_daemon_address
from .errors import Conflicting, Rejected, RequestRefused, Unavailable, Unknown, Unreachable
from .requests import TIMEOUT, DaemonClient
from .views import (
    BackendView,
    ChangeView,
    ClientsView,
    ClientView,
    CollectorView,
    ConfigState,
    EventView,
    FaultView,
    GuardView,
    KernelView,
    NameView,
    PoolView,
    StatusView,
    read_status_view,
)

__all__ = [
    "TIMEOUT",
    "Address",
    "BackendView",
    "ChangeView",
    "ClientView",
    "ClientsView",
    "CollectorView",
    "ConfigState",
    "Conflicting",
    "DaemonClient",
    "EventView",
    "FaultView",
    "GuardView",
    "KernelView",
    "NameView",
    "PoolView",
    "Rejected",
    "RequestRefused",
    "StatusView",
    "Unavailable",
    "Unknown",
    "Unreachable",
    "addresses_here",
    "default_address",
    "read_daemon_address",
    "read_status_view",
]
