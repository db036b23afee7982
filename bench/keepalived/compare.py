"""Causes the same failures for keepalived with IPVS and for nftlb, and counts the losses of one client socket.

Runs as root inside the machine (in-vm.sh), with the standard library alone. All results are from the
answers to the client's datagrams.
"""

from __future__ import annotations

import ctypes
import os
import random
import select
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SERVICE = ("10.0.0.1", 53)
PORT = 5300
RATE = 200
LATE = 1.0
"""Seconds after which an answer is too late, so that the datagram counts as lost."""
PATIENCE = 20.0
INTERVAL = 0.4
"""Seconds between two checks, in both files."""
OUTAGES = 2
"""The number of times that a repetition kills and freezes a server: the result depends on the moment."""
HERE = Path("keepalived")
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{Path.cwd()}:{Path.cwd()}/site-packages"}


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Enter a network namespace: sockets that are made inside stay there."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{namespace}") as there:  # noqa: PTH123
        if libc.setns(there.fileno(), 0):
            raise OSError(ctypes.get_errno(), "setns")
        try:
            yield
        finally:
            libc.setns(home.fileno(), 0)


def _in(namespace: str) -> list[str]:
    """The words before a command that runs there, in the same process."""
    return ["nsenter", f"--net=/run/netns/{namespace}"]


@dataclass
class Datagram:
    at: float
    answers: list[tuple[float, str, tuple[str, int]]] = field(default_factory=list)

    @property
    def server(self) -> str:
        """The name of the server that answered in time; "" without an answer in time."""
        return next((name for at, name, _ in self.answers if at - self.at <= LATE), "")


class Client:
    """Sends from ONE socket at an even pace, until it is closed."""

    def __init__(self) -> None:
        with inside("client"):
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sent: list[Datagram] = []
        self._stopping = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        self._stopping = True
        self._thread.join()
        self._socket.close()

    def since(self, begin: float, end: float = float("inf")) -> list[Datagram]:
        return [datagram for datagram in self.sent if begin <= datagram.at < end]

    def wait(self, what: Callable[[list[Datagram]], bool], since: float, name: str) -> None:
        """Wait until a condition is true of the datagrams that were sent since a moment."""
        deadline = time.monotonic() + PATIENCE
        while not what(self.since(since)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{name} did not come about within {PATIENCE:g} s")
            time.sleep(0.02)

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stopping:
            now = time.monotonic()
            if now >= due:
                due = max(due + 1 / RATE, now)
                self.sent.append(Datagram(now))
                with suppress(OSError):
                    self._socket.sendto(str(len(self.sent) - 1).encode(), SERVICE)
            ready, _, _ = select.select([self._socket], [], [], max(0.0, due - time.monotonic()))
            if ready:
                self._receive()

    def _receive(self) -> None:
        with suppress(OSError, ValueError):
            payload, source = self._socket.recvfrom(2048)
            name, _, number = payload.decode().partition(" ")
            self.sent[int(number)].answers.append((time.monotonic(), name, source))


class Server:
    """A backend's process."""

    def __init__(self, number: int) -> None:
        self.name, self._namespace = f"b{number}", f"backend{number}"
        self.start()

    def start(self) -> float:
        """Return when it was ready."""
        command = [*_in(self._namespace), "python3", "-SE", str(HERE / "server.py"), self.name, str(PORT)]
        reader, writer = os.pipe()
        self.process = subprocess.Popen(command, stdout=writer)
        os.close(writer)
        with open(reader) as told:  # noqa: PTH123 - a descriptor
            told.readline()
        return time.monotonic()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class Balancer:
    """One of the two balancers, with the ways to start it, to reload its file, and to stop it."""

    name: str
    file: Path
    checking: str
    """The words in the log that say that health checks run."""
    process: subprocess.Popen[bytes]

    def __init__(self) -> None:
        self.log = self.file.with_suffix(".log")
        self.text = (HERE / self.file.name).read_text()
        self.file.write_text(self.text)

    def start(self) -> float:
        """Return when the command was given."""
        with self.log.open("ab") as log:
            self._logged = log.tell()
            begin = time.monotonic()
            for command in self.first():
                subprocess.run([*_in("lb"), *command], stdout=log, stderr=log, check=True)
            self.process = subprocess.Popen(
                [*_in("lb"), *self.command()], stdout=log, stderr=log, start_new_session=True, env=ENVIRONMENT
            )
        return begin

    def wait_for_checks(self) -> None:
        """Wait until health checks run, which is later than the first answer."""
        deadline = time.monotonic() + PATIENCE
        while self.checking.encode() not in self.log.read_bytes()[self._logged :]:
            if time.monotonic() > deadline:
                raise TimeoutError(f"no health check ran within {PATIENCE:g} s")
            time.sleep(0.02)

    def terminate(self) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE)

    def kill(self) -> None:
        """Kill all processes of the balancer at once, as a kernel that is short of memory may do."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(PATIENCE)

    def reload(self, text: str) -> float:
        """Return when the signal was sent."""
        self.file.write_text(text)
        begin = time.monotonic()
        self.process.send_signal(signal.SIGHUP)
        return begin

    def first(self) -> list[list[str]]:
        """The commands that a unit runs before the balancer itself."""
        return []

    def command(self) -> list[str]:
        raise NotImplementedError

    def without_b3(self) -> str:
        raise NotImplementedError

    def clean(self) -> None:
        """Delete all state of the balancer in the kernel."""
        raise NotImplementedError

    def forget(self) -> None:
        """Delete all files that a start uses, except the configuration."""

    def prepare(self) -> None:
        """Prepare the first start, if the balancer has a command for this."""


class Keepalived(Balancer):
    name = "keepalived"
    checking = "Activating healthchecker"
    file = Path("/tmp/keepalived.conf")  # noqa: S108 - in a virtual machine

    def command(self) -> list[str]:
        pids = ["-p", "/tmp/keepalived.pid", "-c", "/tmp/checkers.pid"]  # noqa: S108
        return ["keepalived", "--check", "--dont-fork", "--log-console", "-f", str(self.file), *pids]

    def kill(self) -> None:
        # The child process has a separate session.
        for pid in (self.process.pid, int(Path("/tmp/checkers.pid").read_text())):  # noqa: S108
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(PATIENCE)

    def without_b3(self) -> str:
        head, _, _ = self.text.partition("    real_server 10.2.3.2")
        return head + "}\n"

    def clean(self) -> None:
        subprocess.run([*_in("lb"), "ipvsadm", "-C"], check=True)


class Nftlb(Balancer):
    name = "nftlb"
    checking = "running: "
    file = Path("/tmp/nftlb.yaml")  # noqa: S108

    def first(self) -> list[list[str]]:
        return [["sh", "nftlb/preload.sh", str(self.file)]]

    def command(self) -> list[str]:
        return ["/usr/bin/python3", str(HERE / "nftlb"), "run", str(self.file)]

    def without_b3(self) -> str:
        return self.text.replace("      b3: 10.2.3.2:5300\n", "")

    def clean(self) -> None:
        subprocess.run([*_in("lb"), "nft", "flush", "ruleset"], check=True)

    def prepare(self) -> None:
        command = ["/usr/bin/python3", str(HERE / "nftlb"), "prepare", str(self.file)]
        subprocess.run([*_in("lb"), *command], check=True, env=ENVIRONMENT)

    def forget(self) -> None:
        for file in Path("/var/lib/nftlb").iterdir():
            file.unlink()


Figures = dict[str, list[float]]
"""The figures by their name: one figure for each time."""


class Course:
    """All steps of a repetition, from a kernel without a balancer until the balancer is removed."""

    def __init__(self, balancer: Balancer, figures: Figures, seed: int) -> None:
        """With one seed, the random moments of the failures between two checks are the same."""
        self._balancer, self._figures = balancer, figures
        self._random = random.Random(seed)  # noqa: S311 - not a secret

    def run(self) -> None:
        self._servers = [Server(number) for number in (1, 2, 3)]
        self._client = Client()
        try:
            self._balancer.forget()
            self._start("first start ever, nothing prepared")
            self._end()
            self._balancer.forget()
            self._balancer.prepare()
            self._start("first start ever, prepared")
            self._end()
            self._start("later start, nothing in the kernel")
            for _ in range(OUTAGES):
                self._killed()
                self._frozen()
            self._reloaded()
            self._restarted("SIGTERM, 1 s, start", self._balancer.terminate)
            self._restarted("kill -9, 1 s, start", self._balancer.kill)
            self._sources()
        finally:
            with suppress(OSError):
                self._balancer.kill()
            self._client.close()
            for server in self._servers:
                server.kill()
            self._balancer.clean()

    def _end(self) -> None:
        self._balancer.terminate()
        self._balancer.clean()

    def _start(self, name: str) -> None:
        begin = self._balancer.start()
        self._wait(lambda sent: any(datagram.server for datagram in sent), begin, name)
        self._note(
            f"{name}: seconds to the first answer",
            next(datagram.at for datagram in self._client.since(begin) if datagram.server) - begin,
        )
        self._wait(_everybody, time.monotonic(), name)
        # In this machine, a balancer is still starting for seconds after its first answer.
        self._balancer.wait_for_checks()
        self._note(f"{name}: seconds until health checks run", time.monotonic() - begin)

    def _killed(self) -> None:
        self._pause()
        begin = time.monotonic()
        self._servers[1].kill()
        time.sleep(1.5)
        self._account("killed", begin, "b2")
        self._pause()
        begin = time.monotonic()
        self._returned("back from killed", "b2", self._servers[1].start())
        time.sleep(1)
        self._account("back from killed", begin)

    def _frozen(self) -> None:
        self._pause()
        begin = time.monotonic()
        self._servers[1].process.send_signal(signal.SIGSTOP)
        time.sleep(2)
        self._account("frozen", begin, "b2")
        self._pause()
        begin = time.monotonic()
        self._servers[1].process.send_signal(signal.SIGCONT)
        self._returned("back from frozen", "b2", begin)
        time.sleep(1)
        self._account("back from frozen", begin)

    def _pause(self) -> None:
        """Wait for a random part of the time between two checks."""
        time.sleep(self._random.uniform(0, INTERVAL))

    def _reloaded(self) -> None:
        begin = self._balancer.reload(self._balancer.without_b3())
        time.sleep(2)
        self._account("reload without b3", begin, "b3")
        begin = self._balancer.reload(self._balancer.text)
        self._returned("reload with b3 again", "b3", begin)
        time.sleep(1)
        self._account("reload with b3 again", begin)

    def _restarted(self, name: str, end: Callable[[], None]) -> None:
        begin = time.monotonic()
        end()
        time.sleep(1)
        started = self._balancer.start()
        self._wait(lambda sent: sum(bool(datagram.server) for datagram in sent) > RATE, started, name)
        self._wait(_everybody, time.monotonic(), name)
        self._balancer.wait_for_checks()
        self._account(name, begin)

    def _sources(self) -> None:
        answers = [answer for datagram in self._client.sent for answer in datagram.answers]
        wrong = sum(source != SERVICE for _, _, source in answers)
        self._note("misdirected: answered twice", sum(len(datagram.answers) > 1 for datagram in self._client.sent))
        self._note("misdirected: answered from another address than the service's, %", 100 * wrong / len(answers))

    def _wait(self, what: Callable[[list[Datagram]], bool], since: float, name: str) -> None:
        self._client.wait(what, since, name)

    def _note(self, name: str, value: float) -> None:
        self._figures.setdefault(name, []).append(value)

    def _account(self, name: str, begin: float, out: str = "") -> None:
        """Count the lost datagrams since `begin`. `out`: the server that should get no datagrams in the end."""
        end = time.monotonic()
        time.sleep(LATE)  # until then, each may still be answered
        sent = self._client.since(begin, end)
        if out:
            last = max((datagram.at for datagram in sent if datagram.server in ("", out)), default=begin)
            self._note(f"{name}: seconds until out", last - begin)
            if end - last < 2 / RATE * len(self._servers):
                print(f"{self._balancer.name}, {name}: {out} was never out; the log ends:", file=sys.stderr)
                print(self._balancer.log.read_text()[-4000:], file=sys.stderr, flush=True)
        self._note(f"{name}: lost", sum(not datagram.server for datagram in sent))

    def _returned(self, name: str, server: str, since: float) -> None:
        """Wait for the first datagram that a server answers after its return."""
        self._wait(lambda sent: any(datagram.server == server for datagram in sent), since, name)
        first = next(datagram.at for datagram in self._client.since(since) if datagram.server == server)
        self._note(f"{name}: seconds until in", first - since)


def _everybody(sent: list[Datagram]) -> bool:
    return {"b1", "b2", "b3"} <= {datagram.server for datagram in sent}


def main() -> None:
    repetitions = int(sys.argv[1])
    every: dict[str, type[Balancer]] = {balancer.name: balancer for balancer in (Keepalived, Nftlb)}
    balancers = [every[name]() for name in sys.argv[2:] or every]
    results: dict[str, Figures] = {balancer.name: {} for balancer in balancers}
    for number in range(repetitions):
        for balancer in balancers:
            try:
                Course(balancer, results[balancer.name], number).run()
            except TimeoutError as error:
                raise SystemExit(
                    f"{balancer.name}: {error}; its log ends:\n{balancer.log.read_text()[-4000:]}"
                ) from error
        _report(results, number + 1)


def _report(results: dict[str, Figures], repetitions: int) -> None:
    print(f"\none socket, {RATE} datagrams a second, {repetitions} repetitions: median (lowest to highest)\n")
    print(f"| | {' | '.join(results)} |\n|---|{'---|' * len(results)}")
    for name in next(iter(results.values())):
        print(f"| {name} | {' | '.join(_cell(figures[name]) for figures in results.values())} |", flush=True)


def _cell(values: list[float]) -> str:
    form = "{:.0f}" if all(value == int(value) for value in values) else "{:.2f}"
    low, middle, high = (form.format(value) for value in (min(values), statistics.median(values), max(values)))
    return middle if low == high else f"{middle} ({low} to {high})"


if __name__ == "__main__":
    main()
