"""The daemon of `nftlb run`: checks backends, keeps the kernel up to date, and serves the API."""

from .daemon import Daemon
from .systemd import LogFormat, configure_logging

__all__ = ["Daemon", "LogFormat", "configure_logging"]
