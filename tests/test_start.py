"""What `nftlb run` and the commands at boot wait for, before the kernel has the rules."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

LATER = {
    "aiohttp",
    "dns",
    "prometheus_client",
    "pyrad",
    "pyroute2",
    "pysnmp",
    "nftlb.daemon.operation",
    "nftlb.doctor",
    "nftlb.explain",
    "nftlb.kernel.fake",
    "nftlb.lab",
    "nftlb.metrics",
    "nftlb.probes",
    "nftlb.web",
}
"""What takes long to import, and is of no use to a first load."""

AT_FIRST_LOAD = """
import json, os, sys
from nftlb.apply import Applier
from nftlb.cli import main
from nftlb.kernel import libnftables, monitor

class Nothing:
    def __enter__(self): return self
    def __exit__(self, *_): pass

def load(self, *_, **__):
    print(json.dumps(sorted(sys.modules)), flush=True)
    os._exit(0)

libnftables.LibNftables.__init__ = lambda self: None
libnftables.LibNftables.close = lambda self: None
Applier.load = load
sys.exit(main(sys.argv[1:]))
"""


def modules(*arguments: str) -> set[str]:
    """The names of all modules that a command has imported when it comes to its first load."""
    said = subprocess.run(
        [sys.executable, "-c", AT_FIRST_LOAD, *arguments], capture_output=True, text=True, check=True, timeout=60
    )
    return set(json.loads(said.stdout))


@pytest.mark.parametrize("command", ["run", "restore", "apply"])
def test_nothing_is_imported_before_the_first_load_that_can_wait(command: str, tmp_path: Path) -> None:
    """The API, the metrics and the kinds of checks come later, also where a pool has such a check."""
    file = tmp_path / "nftlb.json"
    pool = {
        "listen": "192.0.2.53:53/udp",
        "backends": {"ns1": "10.0.0.11:53"},
        "health": [{"dns": {}}, {"http": {}}, {"snmp": {}}],
    }
    document = {"table": f"start_of_a_test_{os.getpid()}", "state_dir": str(tmp_path), "pools": {"dns": pool}}
    file.write_text(json.dumps(document))

    imported = modules(command, str(file))

    assert {"nftlb.apply", "nftlb.config"} <= imported
    assert set() == LATER & imported
