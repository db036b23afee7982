"""Configuration and membership in, ruleset out: pure functions, the same bytes for the same input."""

from .allocation import Allocation, read_back
from .answers import Need, left_behind
from .compiled import Compiled
from .membership import BackendState, Membership
from .routes import Hop, Routes

__all__ = ["Allocation", "BackendState", "Compiled", "Hop", "Membership", "Need", "Routes", "left_behind", "read_back"]
