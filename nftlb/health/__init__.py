"""What is believed of backends, and how results of checks change it. Pure: time is an argument, nothing is sent."""

from .result import Result

__all__ = ["Result"]
