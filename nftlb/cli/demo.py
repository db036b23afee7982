"""`nftlb demo`: a lab in namespaces, one client socket, and a report. Every figure is counted from replies."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Condition, Event, Thread
from typing import TYPE_CHECKING, Any, Self

import click

from nftlb.errors import NftlbError
from nftlb.kernel.binding import nftables_binding
from nftlb.lab import VIP4, VIP6, Lab, userns

from .arguments import examples
from .output import write_output

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nftlb.lab import DatagramResult, Host, LabClient

_PORT = 5353
_BACKENDS = 3
_FIRST = 12
_MOMENT = 2000  # datagrams before and after each event
_AT_A_TIME = 50


@click.command("demo", epilog=examples("nftlb demo"))
def demo_command() -> None:
    """Show nftlb at work with a client, a balancer and backends in temporary network namespaces. Needs no root."""
    nftables_binding()  # an error here is clearer than an error in the log of the daemon
    userns.ensure()
    text = (files("nftlb.cli") / "demo.yaml").read_text()
    with TemporaryDirectory(prefix="nftlb-demo-") as folder, Lab(backends=_BACKENDS) as lab, ExitStack() as stack:
        _say("A lab in network namespaces, with real packets. Your own network is not touched:\n")
        _say("    client 198.51.100.2 ---- balancer ---- b1 10.0.1.2   b2 10.0.2.2   b3 10.0.3.2")
        _say(f"                             {VIP4}, {VIP6}\n")
        _say("The daemon runs on the balancer with this file:\n")
        _say("".join(f"    {line}\n" for line in text.splitlines()))
        b1, b2, b3 = lab.backends
        stack.enter_context(lab.serve(_PORT, backends=[b1, b3]))
        server = stack.enter_context(ExitStack())
        server.enter_context(lab.serve(_PORT, backends=[b2]))
        daemon = stack.enter_context(DemoDaemon(lab.balancer, folder, text))
        for vip in (VIP4, VIP6):
            with lab.client.connect((vip, 53), connected=False) as client:
                _one_by_one(client)

        _say("The socket sends on without a pause, while the server on b2 is killed and started again:")
        with _Flow(lab.client.connect((VIP4, 53), connected=False)) as flow:
            parts = [flow.part(_MOMENT)]
            server.close()
            daemon.wait("b2", up=False)
            parts += [flow.part(), flow.part(_MOMENT)]
            server.enter_context(lab.serve(_PORT, backends=[b2]))
            daemon.wait("b2", up=True)
            parts += [flow.part(), flow.part(_MOMENT)]
        healthy, failing, out, returning, back = (flow.answers[part] for part in parts)
        for title, part in (
            ("all three live", healthy),
            ("b2 is killed", failing),
            ("b2 is out", out),
            ("b2 is started", returning),
            ("b2 is back", back),
        ):
            _say(f"    {title:<14}  {_shares(part)}")
        _judge(failing, [*healthy, *out, *returning, *back])
        _say("The daemon's messages about b2:")
        _say("".join(f"    {line}\n" for line in daemon.messages("dns/b2:")))
    _say("The lab is deleted. Nothing remains on this machine.")


def _say(line: str) -> None:
    write_output(f"{line}\n")


class _Flow:
    """Sends and receives over ONE socket in a thread. The caller splits the results into parts.

    `answers`: the results by the numbers of the datagrams. A reply that this machine delays comes after later results.
    """

    def __init__(self, client: LabClient) -> None:
        self.answers: list[DatagramResult] = []
        self._client = client
        self._taken = 0
        self._more = Event()
        self._running = True
        self._thread = Thread(target=self._send, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._running = False
        self._thread.join()
        if kind is None:
            self._note(self._client.exchange(_BACKENDS))  # delayed replies come before these
        self._client.close()

    def part(self, count: int = 0) -> slice:
        """Return the places of the results since the last part, when there are at least `count` more."""
        goal = len(self.answers) + max(count, 1)
        while len(self.answers) < goal and self._thread.is_alive():
            self._more.clear()
            self._more.wait(1)
        begin, self._taken = self._taken, len(self.answers)
        return slice(begin, self._taken)

    def _send(self) -> None:
        while self._running:
            self._note(self._client.exchange(_AT_A_TIME, pipelined=True, timeout=0.2))
            self._more.set()

    def _note(self, answers: list[DatagramResult]) -> None:
        for answer in answers:
            if answer.sequence == len(self.answers):
                self.answers.append(answer)
            else:
                before = self.answers[answer.sequence]
                self.answers[answer.sequence] = replace(answer, copies=before.copies + answer.copies)


def _one_by_one(client: LabClient) -> None:
    """Send a few datagrams over one socket, and print which backend answered each of them."""
    answers = client.exchange(_FIRST)
    address, port = client.target
    _say(f"ONE client socket sends {_FIRST} datagrams to {address} port {port}, answered by:")
    _say("    " + " ".join(answer.backend or "lost" for answer in answers))
    _say(f"    replies came from {_sources(answers)}\n")


def _judge(failing: list[DatagramResult], others: list[DatagramResult]) -> None:
    """Print the losses. Raise NftlbError if more was lost than the datagrams sent to the dead server."""
    in_vain = sum(not answer.copies for answer in failing)
    lost = sum(not answer.copies for answer in others)
    twice = sum(answer.copies > 1 for answer in (*failing, *others))
    _say(f"    lost to the dead server: {in_vain}; otherwise lost: {lost}, answered twice: {twice}")
    _say(f"    replies came from {_sources((*failing, *others))}\n")
    if lost or twice or in_vain > len(failing) / 2:
        raise NftlbError(
            "the demonstration failed: more replies were lost or doubled than expected: see the figures above"
        )


def _shares(part: Iterable[DatagramResult]) -> str:
    counts = Counter(answer.backend or "lost" for answer in part)
    return "  ".join(f"{name} {count}" for name, count in sorted(counts.items()))


def _sources(answers: Iterable[DatagramResult]) -> str:
    sources = sorted({answer.source for answer in answers if answer.copies})
    return " and ".join(f"{address} port {port}" for (address, port), _ in groupby(sources)) or "nowhere"


_PATIENCE = 60.0
"""Time limit in seconds for steps that take less than a second."""


class DemoDaemon:
    """Runs the daemon inside `with`, from the moment when it is ready. A context manager; follows the daemon's log."""

    def __init__(self, host: Host, folder: str, text: str) -> None:
        file = Path(folder) / "demo.yaml"
        file.write_text(f"state_dir: {folder}/state\napi: {{listen: 'unix:{folder}/api.sock'}}\n{text}")
        self._host = host
        self._argv = [sys.executable, "-m", "nftlb", "run", str(file), "--log-format", "json"]
        self._entries: list[dict[str, Any]] = []
        self._changed = Condition()

    def __enter__(self) -> Self:
        self._process = self._host.popen(self._argv, stderr=subprocess.PIPE)
        self._thread = Thread(target=self._listen, daemon=True)
        self._thread.start()
        try:
            self._await(lambda entry: entry["message"].startswith("running"))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(_PATIENCE)
        self._thread.join()

    def wait(self, backend: str, *, up: bool) -> None:
        """Wait until the kernel has the rules for the last change of a backend."""
        kind = "backend_up" if up else "backend_down"
        seen = self._await(lambda entry: entry.get("event") == kind and entry.get("backend") == backend)
        self._await(lambda entry: entry["message"].startswith("kernel updated"), after=seen)

    def messages(self, begin: str) -> list[str]:
        """Return the messages of the log that begin with this text."""
        return [entry["message"] for entry in self._entries if entry["message"].startswith(begin)]

    def _await(self, fits: Any, after: int = -1) -> int:
        def found() -> int | None:
            return next((n for n, entry in enumerate(self._entries) if n > after and fits(entry)), None)

        with self._changed:
            self._changed.wait_for(lambda: found() is not None or not self._thread.is_alive(), _PATIENCE)
            place = found()
        if place is None:
            log = "\n".join(entry["message"] for entry in self._entries)
            raise NftlbError(f"the daemon did not log the expected event within {_PATIENCE:g} s; its log:\n{log}")
        return place

    def _listen(self) -> None:
        assert self._process.stderr is not None  # noqa: S101 - for mypy: it is a pipe
        with self._process.stderr as lines:
            for line in lines:
                try:
                    entry = json.loads(line)
                except ValueError:
                    entry = {"message": line.rstrip()}  # the daemon failed before it wrote its log as JSON
                with self._changed:
                    self._entries.append(entry)
                    self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()
