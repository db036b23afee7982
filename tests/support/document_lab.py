"""The host on which the tests run the commands of documents: a process with its own network, mounts and process ids.

The host has the files that the documents name, a pool with three servers, and a client. `ns1` and `ns3` answer, `ns2`
does not. The daemon runs while commands need one, and ends for commands that are refused while a daemon runs.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Self

import yaml

from nftlb.lab import userns

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
PATIENCE = 120.0
"""Seconds for one command: far more than needed, for machines with other work."""
RUNS = {"ipvsadm", "nft", "nftlb", "nftlb-preload"}
"""The programs that the lab can run without harm to the machine."""
WITH_DAEMON = {
    *("add", "clients", "delete", "drain", "enable", "events", "health", "history", "maintenance", "priority"),
    *("reload", "ruleset", "status", "top", "weight"),
}
WITHOUT_DAEMON = {"apply", "prepare", "remove", "restore"}
SERVERS = {"ns1": ("10.0.0.11", 5353), "ns2": ("10.0.0.12", 5353), "ns3": ("10.0.0.13", 5353)}
SERVICE = ("192.0.2.53", 53)
CLIENTS = ("198.51.100.7", "198.51.100.8")
"""The first sends more than the guard permits, the second does not."""
_PRIVATE = ("nftlb", "keepalived", "ha.d", "sysctl.d", "modules-load.d")
"""Directories of /etc that are the lab's own; the others are those of the machine."""


@dataclass(frozen=True)
class Outcome:
    """The exit status of a command, and its output on both streams. A command that `^C` ended has the status 0."""

    status: int
    output: str


def run_in_lab(calls: list[tuple[str, list[list[str]]]], directory: Path) -> list[Outcome]:
    """Run command lines, each with the words of the programs that it calls, in a new lab. `directory` must be empty.

    ValueError for a line that calls another program than those of `RUNS`: nothing is run then.
    """
    if refused := [line for line, programs in calls if {words[0] for words in programs} - RUNS]:
        raise ValueError(f"the lab can't run these commands without harm: {refused}")
    separate = ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
    separate += [] if userns.permitted() else ["--user", "--map-root-user"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NFTLB_")}
    places = [str(Path(__file__).parent), str(ROOT)]
    done = subprocess.run(
        [*separate, sys.executable, __file__, str(directory)],
        input=json.dumps(calls),
        stdout=subprocess.PIPE,
        env={**environment, "PYTHONPATH": ":".join(places), "COLUMNS": "100", "NO_COLOR": "1"},
        text=True,
        check=True,
    )
    return [Outcome(**one) for one in json.loads(done.stdout)]


class DocumentHost:
    """The host. All of its methods run in the separate process."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._work = directory / "work"
        self._log = directory / "daemon.log"
        self._daemon: subprocess.Popen[str] | None = None
        self._silent = {"ns2"}
        self._stopping = Event()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._make_places()
        self._make_files()
        addresses = [SERVICE[0], *CLIENTS, *(address for address, _ in SERVERS.values())]
        for words in ("link set lo up", *(f"address add {address}/32 dev lo" for address in addresses)):
            subprocess.run(["ip", *words.split()], check=True)
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        for name, place in SERVERS.items():
            server = self._stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            server.bind(place)
            server.settimeout(0.1)
            thread = Thread(target=self._serve, args=(server, name), daemon=True)
            thread.start()
            self._stack.callback(thread.join)
        self._stack.callback(self._stopping.set)
        return self

    def __exit__(self, *_: object) -> None:
        self._end_daemon()
        self._stack.close()

    def carry_out(self, line: str, calls: list[list[str]]) -> Outcome:
        """Run one command line. Start the daemon before, or end it, if the command needs that."""
        verbs = {words[1] for words in calls if words[0] == "nftlb"}
        if "run" in verbs:
            self._end_daemon()
            return self._begin_daemon(line)
        if verbs & WITHOUT_DAEMON or calls[0][0] == "nftlb-preload":
            self._end_daemon()
        endless = "events" in verbs or "--watch" in calls[0] or calls[0][:2] == ["nft", "monitor"]
        if (verbs & WITH_DAEMON or endless) and self._daemon is None:
            started = self._begin_daemon("nftlb run /etc/nftlb/nftlb.yaml")
            if started.status:
                return started
        return self._interrupted(line) if endless else self._run(line)

    def _run(self, line: str) -> Outcome:
        """Run a command that ends. The answer to each question is yes."""
        try:
            done = subprocess.run(
                ["bash", "-c", line],
                input="y\n",
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=self._work,
                timeout=PATIENCE,
                text=True,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            return Outcome(-1, f"the command did not end; its output: {error.stdout!r}")
        return Outcome(done.returncode, done.stdout)

    def _interrupted(self, line: str) -> Outcome:
        """Run a command that ends with `^C`, until it has printed something. Meanwhile, `ns1` fails and returns."""
        output = self._directory / "endless"
        with output.open("w") as file:
            process = self._start(line, file)
            deadline = time.monotonic() + PATIENCE
            while not output.stat().st_size and process.poll() is None and time.monotonic() < deadline:
                self._silent ^= {"ns1"}
                self._send(CLIENTS[0], 1, SERVERS["ns3"])
                self._wait(lambda: bool(output.stat().st_size) or ("ns1" in self._silent) == self._is_down("ns1"))
            process.send_signal(signal.SIGINT)
            status = process.wait(PATIENCE)
        self._silent -= {"ns1"}
        self._wait(lambda: not self._is_down("ns1"))
        text = output.read_text()
        return Outcome(0 if text and status in {0, -signal.SIGINT, 128 + signal.SIGINT} else status or -1, text)

    def _begin_daemon(self, line: str) -> Outcome:
        """Start the daemon, and return when its checks have found the state of all servers."""
        with self._log.open("a") as log:
            self._daemon = self._start(line, log)
        if not self._wait(lambda: not self._is_down("ns1") and self._is_down("ns2")):
            return Outcome(self._daemon.poll() or -1, self._log.read_text())
        self._send(CLIENTS[0], 200, SERVICE)
        self._send(CLIENTS[1], 20, SERVICE)
        return Outcome(0, "")

    def _end_daemon(self) -> None:
        if self._daemon is not None:
            self._daemon.terminate()
            self._daemon.wait(PATIENCE)
            self._daemon = None

    def _start(self, line: str, output: object) -> subprocess.Popen[str]:
        return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
            ["bash", "-c", f"exec {line}"], stdout=output, stderr=subprocess.STDOUT, cwd=self._work, text=True
        )

    def _is_down(self, name: str) -> bool:
        """Return whether the daemon's status says that a server is down. Without a daemon, no server is known."""
        status = json.loads(self._run("nftlb status --json 2>/dev/null").output or '{"pools": []}')
        backends = [backend for pool in status["pools"] for backend in pool["backends"]]
        return any(backend["name"] == name and not backend["up"] for backend in backends)

    def _wait(self, condition: Callable[[], bool]) -> bool:
        """Wait until a condition is true, for a limited time. Return whether it became true."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > deadline or (self._daemon is not None and self._daemon.poll() is not None):
                return False
        return True

    def _send(self, source: str, number: int, destination: tuple[str, int]) -> None:
        """Send datagrams from the address of a client."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.bind((source, 0))
            for _ in range(number):
                with suppress(PermissionError):  # the guard drops the datagram
                    client.sendto(b"a datagram of a client", destination)

    def _serve(self, server: socket.socket, name: str) -> None:
        """Answer each question of DNS without records, while the server is not silent."""
        while not self._stopping.is_set():
            try:
                question, client = server.recvfrom(2048)
            except TimeoutError:
                continue
            if name not in self._silent and len(question) > 12:
                server.sendto(question[:2] + bytes([question[2] | 0x80, 0]) + question[4:], client)

    def _make_places(self) -> None:
        """Give the lab an own /etc, with links to all other entries of the machine's, and an empty /run."""
        before = self._directory / "etc"
        before.mkdir()
        subprocess.run(["mount", "--bind", "/etc", str(before)], check=True)
        for place in ("/etc", "/run"):
            subprocess.run(["mount", "-t", "tmpfs", "lab", place], check=True)
        for entry in before.iterdir():
            if entry.name not in _PRIVATE:
                (Path("/etc") / entry.name).symlink_to(entry)
        for name in _PRIVATE:
            (Path("/etc") / name).mkdir()

    def _make_files(self) -> None:
        """Write the files that the documents name, and a program that prints a table of LVS as ipvsadm does."""
        (self._work / "copy/etc/keepalived").mkdir(parents=True)
        examples = ROOT / "tests/importer/examples"
        keepalived = (Path("/etc/keepalived"), self._work, self._work / "copy/etc/keepalived")
        for place in keepalived:
            shutil.copy(examples / "small.conf", place / "keepalived.conf")
        shutil.copy(examples / "everything.cf", "/etc/ha.d/ldirectord.cf")
        text = yaml.safe_dump(self._configuration(), sort_keys=False)
        for path in (Path("/etc/nftlb/nftlb.yaml"), self._work / "nftlb.yaml", self._work / "pools.yaml"):
            path.write_text(text)
        programs = self._directory / "bin"
        programs.mkdir()
        (programs / "ipvsadm").write_text(f"#!/bin/sh\nexec cat {examples / 'saved.ipvsadm'}\n")
        (programs / "ipvsadm").chmod(0o755)
        (programs / "nftlb-preload").symlink_to(ROOT / "nftlb/preload.sh")
        os.environ["PATH"] = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"

    def _configuration(self) -> dict[str, object]:
        return {
            "state_dir": str(self._directory / "state"),
            "pools": {
                "dns": {
                    "listen": "{}:{}/udp".format(*SERVICE),
                    "source": "keep",
                    "guard": {"rate": "20/s", "burst": 100, "ban": "1h", "clients": True},
                    "backends": {name: "{}:{}".format(*place) for name, place in SERVERS.items()},
                    "health": {"dns": {"name": "example.com"}, "interval": "500ms", "fast_interval": "200ms"},
                }
            },
        }


def main(directory: str) -> None:
    """Read the command lines from standard input, and write their outcomes to standard output, both as JSON."""
    # A shell makes the programs that it starts in the background ignore SIGINT, and their programs inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    calls = json.load(sys.stdin)
    with DocumentHost(Path(directory)) as host:
        json.dump([asdict(host.carry_out(line, words)) for line, words in calls], sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
