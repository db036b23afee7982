"""The machine of the other tests here: it boots, keeps its files, and leaves no trace on this host."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from machine import Machine
from network import Network

from nftlb.lab import VIP4

if TYPE_CHECKING:
    from collections.abc import Iterator

ABANDONED = """
import sys
from machine import Machine
from network import Network
with Network() as network, Machine(network) as machine:
    print(machine.name, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with Network() as network, Machine(network) as booted:
        yield booted


def test_boot(machine: Machine) -> None:
    """All units are up, the network is configured, forwarding is on, and ssh works."""
    assert "running\n" == machine.run(["systemctl", "is-system-running", "--wait"])
    assert "1\n" == machine.run(["sysctl", "-n", "net.ipv4.ip_forward"])
    assert "balancer\n" == machine.ssh("hostname")
    machine.await_network()
    assert f"inet {VIP4}/32" in machine.run(["ip", "address", "show", "lo"])


def test_files_are_written_and_read(machine: Machine) -> None:
    """A pushed file is complete, with its mode, also below /run; errors are reported."""
    machine.push("/run/some/where", "a\nb\n", mode=0o600)

    assert "a\nb\n" == machine.pull("/run/some/where")
    assert "600\n" == machine.run(["stat", "-c", "%a", "/run/some/where"])
    with pytest.raises(AssertionError, match="No such file"):
        machine.pull("/nothing")


def test_a_reboot_clears_the_state_of_the_kernel(machine: Machine) -> None:
    """Files stay; rules of the kernel are gone, addresses are those of the configuration, processes are new."""
    machine.push("/etc/kept", "yes")
    machine.run(["ip", "address", "add", "192.0.2.99/32", "dev", "lo"])
    machine.run(["ip", "rule", "add", "fwmark", "7", "lookup", "99"])
    before = machine.run(["systemctl", "show", "--value", "-p", "UserspaceTimestampMonotonic"])

    machine.reboot()

    assert "yes" == machine.pull("/etc/kept")
    assert "99" not in machine.run(["ip", "rule"])
    machine.await_network()
    assert "192.0.2.99" not in machine.run(["ip", "address"])
    assert before != machine.run(["systemctl", "show", "--value", "-p", "UserspaceTimestampMonotonic"])
    assert "balancer\n" == machine.ssh("hostname")


def test_a_power_cut_is_survived(machine: Machine) -> None:
    """The machine boots again after all its processes were killed at once."""
    machine.cut_power()

    assert "running\n" == machine.run(["systemctl", "is-system-running", "--wait"])
    assert "balancer\n" == machine.ssh("hostname")


def test_nothing_is_left_when_the_process_is_killed() -> None:
    """Processes, files and control groups of a machine vanish even if its own process can't close it."""
    abandoned = subprocess.Popen(
        [sys.executable, "-c", ABANDONED],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )
    assert abandoned.stdin is not None
    assert abandoned.stdout is not None
    with abandoned.stdin, abandoned.stdout:
        name = abandoned.stdout.readline().strip()
        assert traces(name)

        abandoned.send_signal(signal.SIGKILL)
        abandoned.wait()
        assert "" == abandoned.stdout.read()  # the janitor keeps the pipe open until its work is done

    assert [] == traces(name)


def traces(name: str) -> list[str]:
    """The traces of a machine on this host."""
    processes = [
        entry.parent.name for entry in Path("/proc").glob("[0-9]*/cmdline") if name.encode() in (read(entry) or b"")
    ]
    mounts = [line for line in Path("/proc/self/mounts").read_text().splitlines() if name in line]
    groups = [str(path) for path in Path("/sys/fs/cgroup").glob(f"*/{name}*")]
    return processes + mounts + groups + [str(path) for path in Path("/tmp").glob(f"{name}*")]  # noqa: S108 - it is read only


def read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
