"""Programs of the operator's, run for checks and at transitions: confined, and none outlives what it is run for."""

from .process import Process
from .strays import STRAYS

__all__ = ["STRAYS", "Process"]
