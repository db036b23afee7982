"""How a command talks to the daemon: its HTTP API, over TCP or a unix socket. It loads fast."""

from .address import Address, read_address
from .client import Client
from .failures import Refused, Rejected, Unknown, Unreachable
from .seen import Backend, ConfigState, Fault, KernelState, Pool, Seen, read_backend, read_status

__all__ = [
    "Address",
    "Backend",
    "Client",
    "ConfigState",
    "Fault",
    "KernelState",
    "Pool",
    "Refused",
    "Rejected",
    "Seen",
    "Unknown",
    "Unreachable",
    "read_address",
    "read_backend",
    "read_status",
]
