"""The daemon: checks, believes, reconciles, and can be asked and told. `nftlb run`."""

from .daemon import Daemon
from .logs import LogFormat, configure
from .source import STATE_DIR

__all__ = ["STATE_DIR", "Daemon", "LogFormat", "configure"]
