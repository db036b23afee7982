"""The conditions of a measurement: other work of the host, and the machine and version for the raw data."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parents[1]


def keep_others_out() -> None:
    """Give this process and its future children real-time priority, so that other work of the host waits."""
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except PermissionError:
        print("no permission for real-time priority: other work of this host disturbs the figures", file=sys.stderr)


def processor() -> str:
    """Return the name of the processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "unknown processor")


def description() -> dict[str, str | int]:
    """Return date, processor, number of processors, kernel and version of nftlb."""
    version = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": processor(),
        "processors": os.cpu_count() or 0,
        "kernel": platform.release(),
        "commit": subprocess.run(version, capture_output=True, text=True, check=True).stdout.strip(),
    }
