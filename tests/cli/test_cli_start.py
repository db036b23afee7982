"""The modules that `nftlb run`, `restore` and `apply` import before the kernel has the rules."""

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
    "pysnmp",
    "nftlb.daemon.operation",
    "nftlb.doctor",
    "nftlb.explain",
    "fake_kernel",
    "nftlb.lab",
    "nftlb.metrics",
    "nftlb.probes",
    "nftlb.web",
}
"""Modules that take long to import and that a first load does not need."""

AT_FIRST_LOAD = """
import json, os, sys
from nftlb.swap.applier import Applier
from nftlb.cli import main
from nftlb.kernel import libnftables

def load(self, *_, **__):
    print(json.dumps(sorted(sys.modules)), flush=True)
    os._exit(0)

libnftables.LibNftables.__init__ = lambda self: None
libnftables.LibNftables.close = lambda self: None
Applier.load = load
sys.exit(main(sys.argv[1:]))
"""


def modules(*arguments: str) -> set[str]:
    """The names of all modules that a command has imported at its first load."""
    done = subprocess.run(
        [sys.executable, "-c", AT_FIRST_LOAD, *arguments], capture_output=True, text=True, check=True, timeout=60
    )
    return set(json.loads(done.stdout))


@pytest.mark.parametrize("command", ["run", "restore", "apply"])
def test_slow_modules_are_imported_after_the_first_load(command: str, tmp_path: Path) -> None:
    """The API, the metrics and the probes are imported later, also if a pool has checks."""
    file = tmp_path / "nftlb.json"
    pool = {
        "listen": "192.0.2.53:53/udp",
        "backends": {"ns1": "10.0.0.11:53"},
        "health": [{"dns": {}}, {"http": {}}, {"snmp": {}}],
    }
    document = {"table": f"start_of_a_test_{os.getpid()}", "state_dir": str(tmp_path), "pools": {"dns": pool}}
    file.write_text(json.dumps(document))

    imported = modules(command, str(file))

    assert {"nftlb.swap.applier", "nftlb.config"} <= imported
    assert set() == LATER & imported


def test_the_end_of_a_command_does_not_look_for_garbage(tmp_path: Path) -> None:
    """All objects are frozen when Python begins to clear up. Frozen objects are left out of the last collection."""
    script = "import atexit, gc, sys\natexit.register(lambda: print(gc.get_freeze_count()))\n"
    script += "from nftlb.cli import main\nsys.exit(main(sys.argv[1:]))"
    file = tmp_path / "nftlb.json"
    pool = {"listen": "192.0.2.53:53/udp", "backends": {"ns1": "10.0.0.11:53"}}
    file.write_text(json.dumps({"pools": {"dns": pool}}))
    command = [sys.executable, "-c", script, "compile", "--output", str(tmp_path / "out.nft"), str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)

    assert int(done.stdout) > 10_000
