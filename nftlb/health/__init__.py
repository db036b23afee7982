"""The health of pools and backends, and how results of checks change it. Pure: the time is an argument, no I/O."""

from .backend_health import BackendHealth
from .check_health import CheckHealth, CheckResult, CheckState
from .consequences import Standing, consequences, consequences_of_reload
from .memory import Memory, PoolMemory
from .pool_health import Change, PoolHealth
from .pool_states import PoolStates
from .silence import SilentBackends

__all__ = [
    "BackendHealth",
    "Change",
    "CheckHealth",
    "CheckResult",
    "CheckState",
    "Memory",
    "PoolHealth",
    "PoolMemory",
    "PoolStates",
    "SilentBackends",
    "Standing",
    "consequences",
    "consequences_of_reload",
]
