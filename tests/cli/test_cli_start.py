"""What commands do at their start: the modules that they import before the kernel has the rules, and the cost of it."""

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


COUNTED = """
import json, sys
from dataclasses import is_dataclass

from nftlb.cli import main

status = main(sys.argv[1:])
loaded = {name: module for name, module in sys.modules.items() if name.startswith("nftlb")}
made = [
    f"{name}.{thing.__name__}"
    for name, module in loaded.items()
    for thing in vars(module).values()
    if isinstance(thing, type) and thing.__module__ == name and is_dataclass(thing)
]
print(json.dumps([sorted(loaded), sorted(made)]))
sys.exit(status)
"""


def test_compile_starts_with_few_modules_and_dataclasses(tmp_path: Path) -> None:
    """`nftlb compile` imports nothing that touches the kernel, and makes at most 60 dataclasses: 54 are needed.

    Python generates and compiles six methods for a frozen dataclass, which takes seven times as long as for a named
    tuple. With 84 dataclasses, the command took a seventh more processor time.
    """
    file = written(tmp_path)
    command = [sys.executable, "-c", COUNTED, "compile", "--output", str(tmp_path / "out.nft"), str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    modules_loaded, dataclasses = json.loads(done.stdout)

    assert (tmp_path / "out.nft").read_text().startswith("#!/usr/sbin/nft -f")
    assert [] == [name for name in modules_loaded if name.startswith(("nftlb.kernel", "nftlb.swap", "nftlb.daemon"))]
    assert len(dataclasses) <= 60, dataclasses


def test_the_end_of_a_command_does_not_look_for_garbage(tmp_path: Path) -> None:
    """All objects are frozen when Python begins to clear up. Frozen objects are left out of the last collection."""
    script = "import atexit, gc, sys\natexit.register(lambda: print(gc.get_freeze_count()))\n"
    script += "from nftlb.cli import main\nsys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", script, "compile", "--output", str(tmp_path / "out.nft"), str(written(tmp_path))]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)

    assert int(done.stdout) > 10_000


def test_a_command_collects_no_garbage(tmp_path: Path) -> None:
    """Collections are off until the command ends, and on afterwards: another program may have called the command."""
    script = """
import gc, sys
from nftlb import cli
from nftlb.cli import compile as command

seen = []
load = command.load_resolved
command.load_resolved = lambda file: seen.append(gc.isenabled()) or load(file)
status = cli.main(sys.argv[1:])
print(status, seen, gc.isenabled())
"""
    command = [sys.executable, "-c", script, "compile", "--output", str(tmp_path / "out.nft"), str(written(tmp_path))]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)

    assert "0 [False] True\n" == done.stdout


def test_no_plugin_of_pydantic_is_loaded(tmp_path: Path) -> None:
    """A package on the host that registers itself as a plugin of pydantic has no part in reading a file."""
    package = tmp_path / "intruder-1.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: intruder\nVersion: 1\n")
    (package / "entry_points.txt").write_text("[pydantic]\nintruder = intruder:plugin\n")
    (tmp_path / "intruder.py").write_text("print('a plugin was loaded')\nplugin = object()\n")
    environment = {name: value for name, value in os.environ.items() if name != "PYDANTIC_DISABLE_PLUGINS"}
    done = subprocess.run(
        [sys.executable, "-m", "nftlb", "check", str(written(tmp_path))],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**environment, "PYTHONPATH": str(tmp_path)},
    )

    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)


def written(folder: Path) -> Path:
    """Write a file with one pool."""
    file = folder / "nftlb.yaml"
    file.write_text("pools: {dns: {listen: '192.0.2.53:53/udp', backends: {ns1: '10.0.0.11:53'}}}")
    return file
