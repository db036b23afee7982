"""tools/inside.sh: a command runs on another Debian, and leaves no trace."""

from __future__ import annotations

import secrets
import signal
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INSIDE = [str(ROOT / "tools/inside.sh"), "trixie"]

pytestmark = pytest.mark.timeout(600)


def inside(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*INSIDE, "sh", "-c", script], cwd="/", capture_output=True, text=True, check=False)


def traces(token: str) -> list[str]:
    """Traces outside: mounts, and processes with a word in their command lines.

    Machines of other tests have mounts of images elsewhere.
    """
    places = [line.split(" ")[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    mounts = [place for place in places if "nftlb-images" in place]
    found = subprocess.run(["pgrep", "--full", token], capture_output=True, text=True, check=False)
    return mounts + found.stdout.splitlines()


def test_another_debian() -> None:
    """A command finds Debian's own release, Python and nft. Its exit status and output are those of the script."""
    inside("true")  # the first command in a new copy installs the requirements, and prints that
    done = inside("echo $(. /etc/os-release; echo $VERSION_ID); .venv/bin/python -V; exit 7")

    assert (7, ["13", "Python 3.13"]) == (
        done.returncode,
        [line.rpartition(".")[0] or line for line in done.stdout.splitlines()],
    )
    assert "" == done.stderr


@pytest.mark.parametrize(
    "script",
    [
        pytest.param("unshare --user --map-root-user true", id="user namespaces"),
        pytest.param("unshare --net sysctl -q -w net.ipv4.ip_forward=1", id="sysctls of namespaces"),
        pytest.param("unshare --net nft add table ip t", id="nftables"),
        pytest.param("test -c /dev/net/tun && test -w /dev/shm && test -w /run && test -w /tmp", id="devices"),
        pytest.param("make --question setup", id="nothing to set up"),
        pytest.param("test ! -e .git && test -e Makefile && test $(pwd) = /usr/src/nftlb", id="a copy of the checkout"),
    ],
)
def test_the_programs_of_the_tests_are_installed(script: str) -> None:
    done = inside(script)

    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)


def test_changes_inside_are_not_kept() -> None:
    """Files in the checkout, its environment, /etc and /tmp vanish: the next command and this host do not find them."""
    places = ["new", ".venv/new", "/etc/new", "/tmp/new", "/run/new", "/dev/shm/new"]  # noqa: S108 - of another root
    looks = "; ".join(f"test ! -e {place} && touch {place}" for place in places)

    assert [0, 0] == [inside(f"set -e; {looks}").returncode for _ in range(2)]
    assert not (ROOT / "new").exists()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_after_a_signal(how: signal.Signals) -> None:
    """After ^C to all processes, or a signal to the first process, no processes and mounts are left."""
    command = "trap 'exit 130' INT; echo ready; (sleep 600 & sleep 600 & wait)"
    token = secrets.token_hex(8)
    with subprocess.Popen(
        ["env", "--default-signal=INT", *INSIDE, "sh", "-c", command, token],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert "ready\n" == process.stdout.readline()
        assert traces(token)
        if how is signal.SIGINT:
            subprocess.run(["kill", "-INT", "--", f"-{process.pid}"], check=True)
        else:
            process.send_signal(how)
        assert "" == process.stdout.read()  # the pipe was open in every process
        assert 0 != process.wait(30)

    assert [] == traces(token)
