"""What systemd wants to hear of a service of `Type=notify`; without systemd, nothing happens."""

from __future__ import annotations

import logging
import os
import socket
import time

_log = logging.getLogger(__name__)

_PATIENCE = 1.0
"""Seconds that systemd may be too busy to take a message; the checks wait as long."""


def notify(*lines: str) -> None:
    """Send assignments such as `READY=1`; see sd_notify(3)."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    address = f"\0{path[1:]}" if path.startswith("@") else path
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.settimeout(_PATIENCE)
            sender.sendto("\n".join(lines).encode(), address)
    except OSError as error:
        _log.warning("systemd can't be told (%s): %s", " ".join(lines), error.strerror or error)


def reloading() -> None:
    """Say that the configuration is being read again; READY=1 ends it."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")


def watchdog_interval() -> float | None:
    """Seconds between signs of life: half of what systemd waits; None if it wants none."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    try:
        microseconds = int(os.environ.get("WATCHDOG_USEC", "0"))
    except ValueError:
        return None
    return microseconds / 2_000_000 if microseconds > 0 else None
