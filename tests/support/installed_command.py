"""The installed command `nftlb`, and configurations for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

NFTLB = str(Path(sys.executable).with_name("nftlb"))
GOOD = """\
pools:
  dns:
    listen: [192.0.2.53:53/udp, 192.0.2.53:53/tcp]
    backends:
      b1: 10.0.0.11:5353
      b2: 10.0.0.12:5353
"""
BAD = """\
pools:
  dns:
    lissen: 192.0.2.53:53/udp
    backends:
      b1: 10.0.0.11:535353
"""
PACKET = ["198.51.100.7:40000", "192.0.2.53:53/udp"]


def run_command(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the installed command; `options` are those of subprocess.run()."""
    defaults: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 60}
    return subprocess.run([NFTLB, *arguments], check=False, **{**defaults, **options})


def outcome(*arguments: str, **options: Any) -> tuple[int, str, str]:
    """Run the installed command and return its exit status, standard output and standard error."""
    done = run_command(*arguments, **options)
    return done.returncode, done.stdout, done.stderr
