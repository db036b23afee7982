"""Compiles a configuration and the states of backends to a ruleset. The same input always gives the same text. Pure."""

from .allocation import Allocation, read_back
from .compiled import Compiled
from .in_flight import Need, left_behind
from .routes import Hop, Routes

__all__ = ["Allocation", "Compiled", "Hop", "Need", "Routes", "left_behind", "read_back"]
