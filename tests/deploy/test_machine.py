"""The machine that the other tests here boot: it boots, it keeps what a machine keeps, and leaves nothing behind."""

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


def test_it_boots_like_a_machine(machine: Machine) -> None:
    """All units are up, its network is configured, it forwards, and ssh lets the administrator in."""
    assert "running\n" == machine.run(["systemctl", "is-system-running", "--wait"])
    assert "1\n" == machine.run(["sysctl", "-n", "net.ipv4.ip_forward"])
    assert "balancer\n" == machine.ssh("hostname")
    machine.await_network()
    assert f"inet {VIP4}/32" in machine.run(["ip", "address", "show", "lo"])


def test_files_go_in_and_out(machine: Machine) -> None:
    """What is pushed is there as a whole, with its mode, below /run too; what fails is told."""
    machine.push("/run/some/where", "a\nb\n", mode=0o600)

    assert "a\nb\n" == machine.pull("/run/some/where")
    assert "600\n" == machine.run(["stat", "-c", "%a", "/run/some/where"])
    with pytest.raises(AssertionError, match="No such file"):
        machine.pull("/nothing")


def test_a_reboot_forgets_what_a_kernel_forgets(machine: Machine) -> None:
    """Files stay; rules of the kernel go, addresses are those of the configuration, processes are others."""
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
    """It boots again when nothing in it had the time to stop."""
    machine.cut_power()

    assert "running\n" == machine.run(["systemctl", "is-system-running", "--wait"])
    assert "balancer\n" == machine.ssh("hostname")


def test_nothing_is_left_when_the_process_is_killed() -> None:
    """Its processes, files and control groups go even when there is nobody left to close it."""
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
        assert "" == abandoned.stdout.read()  # the janitor holds it open until it is done

    assert [] == traces(name)


def traces(name: str) -> list[str]:
    """What of a machine is to be found on this host."""
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
