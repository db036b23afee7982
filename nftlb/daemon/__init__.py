"""The daemon: checks, believes, reconciles, and can be asked and told. `nftlb run`."""

from .daemon import Daemon
from .logs import LogFormat, configure

__all__ = ["Daemon", "LogFormat", "configure"]
