"""tools/inside.sh: what a command finds on another Debian, and that nothing is left of what it did."""

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
    """What is to be seen from outside: mounts, and processes that have a word in their command lines.

    Machines that other tests boot have mounts of images elsewhere.
    """
    places = [line.split(" ")[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    mounts = [place for place in places if "nftlb-images" in place]
    found = subprocess.run(["pgrep", "--full", token], capture_output=True, text=True, check=False)
    return mounts + found.stdout.splitlines()


def test_another_debian() -> None:
    """Debian's own release, Python and nft; the command's status and output are those of the whole."""
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
def test_what_tests_need_is_there(script: str) -> None:
    done = inside(script)

    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)


def test_nothing_lasts() -> None:
    """What is written into the checkout, its environment, /etc and /tmp is not there the next time, nor outside."""
    places = ["new", ".venv/new", "/etc/new", "/tmp/new", "/run/new", "/dev/shm/new"]  # noqa: S108 - of another root
    looks = "; ".join(f"test ! -e {place} && touch {place}" for place in places)

    assert [0, 0] == [inside(f"set -e; {looks}").returncode for _ in range(2)]
    assert not (ROOT / "new").exists()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_when_it_is_ended(how: signal.Signals) -> None:
    """By ^C, of which the terminal tells all of them, or by a signal to the first alone: processes and mounts go."""
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
        assert "" == process.stdout.read()  # every process held it open
        assert 0 != process.wait(30)

    assert [] == traces(token)
