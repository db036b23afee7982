"""The demonstration. Every figure it prints is counted from datagrams that arrived; nothing is assumed."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from importlib.resources import files
from itertools import groupby
from tempfile import TemporaryDirectory
from threading import Event, Thread
from typing import TYPE_CHECKING, Self

from nftlb.demo.daemon import Daemon
from nftlb.errors import NftlbError
from nftlb.lab import VIP4, VIP6, Lab, userns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from nftlb.lab import Answer, Client

_PORT = 5353
_FIRST = 12
_MOMENT = 2000  # datagrams that flow before something is done, and after it
_AT_A_TIME = 50


def run(say: Callable[[str], None] = print) -> None:
    """Show it. Works without root, in a user namespace; raises NftlbError if the machine lacks something for it."""
    userns.ensure()
    text = (files("nftlb.demo") / "demo.yaml").read_text()
    with TemporaryDirectory(prefix="nftlb-demo-") as folder, Lab(backends=3) as lab, ExitStack() as stack:
        say("A lab in network namespaces, real packets, nothing of it on your own network:\n")
        say("    client 198.51.100.2 ---- balancer ---- b1 10.0.1.2   b2 10.0.2.2   b3 10.0.3.2")
        say(f"                             {VIP4}, {VIP6}\n")
        say("The daemon runs on the balancer with this file:\n")
        say("".join(f"    {line}\n" for line in text.splitlines()))
        b1, b2, b3 = lab.backends
        stack.enter_context(lab.serve(_PORT, backends=[b1, b3]))
        server = stack.enter_context(ExitStack())
        server.enter_context(lab.serve(_PORT, backends=[b2]))
        daemon = stack.enter_context(Daemon(lab.balancer, folder, text))
        for vip in (VIP4, VIP6):
            with lab.client.connect((vip, 53), connected=False) as client:
                _one_by_one(client, say)

        say("The socket sends on without a pause, while the server on b2 is killed and started again:")
        with _Flow(lab.client.connect((VIP4, 53), connected=False)) as flow:
            healthy = flow.part(_MOMENT)
            server.close()
            daemon.wait("b2", up=False)
            failing = flow.part()
            out = flow.part(_MOMENT)
            server.enter_context(lab.serve(_PORT, backends=[b2]))
            daemon.wait("b2", up=True)
            returning = flow.part()
            back = flow.part(_MOMENT)
        for title, part in (
            ("all three live", healthy),
            ("b2 is killed", failing),
            ("b2 is out", out),
            ("b2 is started", returning),
            ("b2 is back", back),
        ):
            say(f"    {title:<14}  {_shares(part)}")
        _judge(say, failing, [*healthy, *out, *returning, *back])
        say("What the daemon said of b2 meanwhile:")
        say("".join(f"    {line}\n" for line in daemon.told("dns/b2:")))
    say("The lab is gone; it left nothing behind.")


class _Flow:
    """Exchanges over ONE socket, from a thread, cut into parts where the caller says so."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._answers: list[Answer] = []
        self._taken = 0
        self._more = Event()
        self._running = True
        self._thread = Thread(target=self._send, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._running = False
        self._thread.join()
        self._client.close()

    def part(self, count: int = 0) -> list[Answer]:
        """What became of the datagrams since the last part: of those under way now, and of so many more."""
        goal = len(self._answers) + max(count, 1)
        while len(self._answers) < goal and self._thread.is_alive():
            self._more.clear()
            self._more.wait(1)
        found = self._answers[self._taken :]
        self._taken += len(found)
        return found

    def _send(self) -> None:
        while self._running:
            self._answers += self._client.exchange(_AT_A_TIME, pipelined=True, timeout=0.2)
            self._more.set()


def _one_by_one(client: Client, say: Callable[[str], None]) -> None:
    """One socket, a few datagrams: who answered each."""
    answers = client.exchange(_FIRST)
    address, port = client.target
    say(f"ONE client socket sends {_FIRST} datagrams to {address} port {port}, answered by:")
    say("    " + " ".join(answer.backend or "nobody" for answer in answers))
    say(f"    replies came from {_sources(answers)}\n")


def _judge(say: Callable[[str], None], failing: list[Answer], others: list[Answer]) -> None:
    """Say what was lost, and raise NftlbError if that is more than what went to the dead server before it was out."""
    in_vain = sum(not answer.copies for answer in failing)
    lost = sum(not answer.copies for answer in others)
    twice = sum(answer.copies > 1 for answer in (*failing, *others))
    say(f"    lost to the dead server: {in_vain}; otherwise lost: {lost}, answered twice: {twice}")
    say(f"    replies came from {_sources((*failing, *others))}\n")
    if lost or twice or in_vain > len(failing) / 2:
        raise NftlbError("the demonstration did not show what it should: see the figures above")


def _shares(part: Iterable[Answer]) -> str:
    counts = Counter(answer.backend or "nobody" for answer in part)
    return "  ".join(f"{name} {count}" for name, count in sorted(counts.items()))


def _sources(answers: Iterable[Answer]) -> str:
    sources = sorted({answer.source for answer in answers if answer.copies})
    return " and ".join(f"{address} port {port}" for (address, port), _ in groupby(sources)) or "nowhere"
