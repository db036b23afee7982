"""The server and the client of tftp-hpa, as Debian packages them."""

from __future__ import annotations

import signal
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

from servers.daemon import bracketed
from servers.processes import PATIENCE, await_that
from servers.programs import environment, program

from nftlb.lab.sockopt import version_of

if TYPE_CHECKING:
    from nftlb.lab import Host

BLOCK = 512
"""Bytes of a block without options. A shorter block is the last of its file."""


class Tftpd:
    """A context manager: `in.tftpd` at an address of a host, with the files of `folder`. Clients may add files."""

    def __init__(self, host: Host, address: str, port: int) -> None:
        self._host = host
        self._at = f"{bracketed(address)}:{port}"
        self._port = port
        self._table = "udp6" if version_of(address) == 6 else "udp"

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory()
        self.folder = Path(self._folder.name, "files")
        self.folder.mkdir()
        argv = [program("in.tftpd"), "--foreground", "--address", self._at, "--user", "root", "--permissive"]
        argv += ["--create", "--secure", str(self.folder)]
        variables = {**environment(), "LD_PRELOAD": str(_compiled(self.folder.parent))}
        self._process = self._host.popen(
            argv, env=variables, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        await_that(lambda: f":{self._port:04X} " in self._host.proc_net(self._table), f"in.tftpd at {self._at}")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(PATIENCE)
        self._folder.cleanup()


def _compiled(folder: Path) -> Path:
    """A library in which `initgroups` does nothing: a user namespace without root permits no change of groups."""
    library = folder / "groups.so"
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-x", "c", "-o", str(library), "-"],
        input="int initgroups(const char *user, unsigned group) { return 0; }",
        check=True,
        text=True,
    )
    return library


def tftp(host: Host, service: tuple[str, int], folder: Path, command: str, *, patience: int = 30) -> str:
    """Run a command of `tftp`, `get FILE` or `put FILE`, in a folder. Return what the program said.

    The program has one socket. It repeats a packet after a second, and gives up after `patience` seconds.
    """
    address, port = service
    lines = ["binary", "rexmt 1", f"timeout {patience}", command, "quit", ""]
    return host.run(
        [program("tftp"), f"-{version_of(address)}", address, str(port)],
        cwd=folder,
        env=environment(),
        input="\n".join(lines),
    )
