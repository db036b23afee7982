"""The demonstration. Every figure it prints is counted from datagrams that arrived; nothing is assumed."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from importlib.resources import files
from itertools import groupby, pairwise
from threading import Thread
from typing import TYPE_CHECKING

from nftlb.apply import Applier
from nftlb.compiler import Membership
from nftlb.config import parse
from nftlb.errors import NftlbError
from nftlb.kernel import LibNftables
from nftlb.lab import VIP4, VIP6, Lab, userns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from nftlb.lab import Answer, Client, Servers

_FIRST = 12
_FLOWING = 6000
_OUT_AT, _BACK_AT = 2000, 4000  # after so many datagrams of the flow a backend is taken out, and put back


def run(say: Callable[[str], None] = print) -> None:
    """Show it. Works without root, in a user namespace; raises NftlbError if the machine lacks something for it."""
    userns.ensure()
    text = (files("nftlb.demo") / "demo.yaml").read_text()
    config = parse(text, "demo.yaml")
    with Lab(backends=3) as lab, lab.serve(5353) as servers, ExitStack() as stack:
        say("A lab in network namespaces, real packets, nothing of it on your own network:\n")
        say("    client 198.51.100.2 ---- balancer ---- b1 10.0.1.2   b2 10.0.2.2   b3 10.0.3.2")
        say(f"                             {VIP4}, {VIP6}\n")
        say("This file is loaded into the balancer's kernel:\n")
        say("".join(f"    {line}\n" for line in text.splitlines()))
        kernel = stack.enter_context(lab.balancer.call(LibNftables))
        applier = lab.balancer.call(Applier, kernel, config.table)
        lab.balancer.call(applier.load, config)
        for vip in (VIP4, VIP6):
            with lab.client.connect((vip, 53), connected=False) as client:
                _one_by_one(client, say)
        with lab.client.connect((VIP4, 53), connected=False) as client:
            _swap_under_traffic(client, servers, lambda state: lab.balancer.call(applier.update, state), say)
        counts = lab.balancer.call(kernel.counters, config.table)
        say("The kernel's own counters, kept through both swaps:")
        say("    " + ", ".join(f"{owner} {count.packets}" for owner, count in sorted(counts.items())) + "\n")
    say("The lab is gone; it left nothing behind.")


def _one_by_one(client: Client, say: Callable[[str], None]) -> None:
    """One socket, a few datagrams: who answered each."""
    answers = client.exchange(_FIRST)
    address, port = client.target
    say(f"ONE client socket sends {_FIRST} datagrams to {address} port {port}, answered by:")
    say("    " + " ".join(answer.backend or "nobody" for answer in answers))
    say(f"    replies came from {_sources(answers)}\n")


def _swap_under_traffic(
    client: Client, servers: Servers, update: Callable[[Membership], object], say: Callable[[str], None]
) -> None:
    """A backend goes and comes back in the middle of a flow."""
    servers.clear()
    answers: list[Answer] = []
    flow = Thread(target=lambda: answers.extend(client.exchange(_FLOWING, pipelined=True)))
    flow.start()
    servers.wait(_OUT_AT)
    update(Membership.with_down([("dns", "b2")]))
    servers.wait(_BACK_AT)
    update(Membership())
    flow.join()
    out = [number for number, answer in enumerate(answers) if answer.backend == "b2"]
    gap_start, gap_end = max(pairwise(out), key=lambda pair: pair[1] - pair[0], default=(0, 0))
    say(f"The socket sends {_FLOWING} more without a pause; b2 is taken out and put back meanwhile:")
    for title, part in (
        ("all three", answers[: gap_start + 1]),
        ("b2 is out", answers[gap_start + 1 : gap_end]),
        ("b2 is back", answers[gap_end:]),
    ):
        say(f"    {title:<10}  {_shares(part)}")
    lost = sum(not answer.copies for answer in answers)
    twice = sum(answer.copies > 1 for answer in answers)
    say(f"    lost: {lost}, answered twice: {twice}; replies came from {_sources(answers)}\n")
    if lost or twice or gap_end - gap_start < (_BACK_AT - _OUT_AT) // 10:
        raise NftlbError("the demonstration did not show what it should: see the figures above")


def _shares(answers: Iterable[Answer]) -> str:
    counts = Counter(answer.backend or "nobody" for answer in answers)
    return "  ".join(f"{name} {count}" for name, count in sorted(counts.items()))


def _sources(answers: Iterable[Answer]) -> str:
    sources = sorted({answer.source for answer in answers if answer.copies})
    return " and ".join(f"{address} port {port}" for (address, port), _ in groupby(sources)) or "nowhere"
