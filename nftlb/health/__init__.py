"""What is believed of backends, and how results of checks change it. Pure: time is an argument, nothing is sent."""

from .change import Change
from .fleet import Fleet, TrackedPool
from .memory import Memory, PoolMemory
from .result import Result
from .tracked import Tracked, TrackedCheck
from .verdict import Verdict

__all__ = ["Change", "Fleet", "Memory", "PoolMemory", "Result", "Tracked", "TrackedCheck", "TrackedPool", "Verdict"]
