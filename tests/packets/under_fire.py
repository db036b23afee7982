"""Sends datagrams from ONE socket as fast as it can while the rules change, and checks where each datagram arrives."""

from __future__ import annotations

import os
import time
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from blaster import MOST_FIRE
from blaster import Membership as Members
from pool_lab import PORT, vip

from nftlb.model import Config

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from blaster import Blaster, Ledger, Sender, SendReport, SinkReport, Sinks
    from pool_lab import PoolLab

    from nftlb.lab import Host
    from nftlb.model import Membership, Pool

# The sender's processor does the balancing too, so the sender has a processor for itself: twice as many datagrams.
SENDER, OTHERS = min(os.sched_getaffinity(0)), max(os.sched_getaffinity(0))
PACE = 0.002
"""Seconds from one swap to the next."""

Found = TypeVar("Found")
Set = TypeVar("Set", bound=Members)


class Fire(NamedTuple, Generic[Found]):
    """Where the datagrams and their replies arrived. `found` is the result of the function that changed the rules."""

    target: tuple[str, int]
    replies: bool
    sinks: Sinks
    sent: SendReport
    ledger: Ledger
    found: Found

    def __str__(self) -> str:
        return f"{self.sent.rate:.0f} datagrams/s to {self.target[0]}, {self.ledger.counts}"

    @property
    def sources(self) -> dict[str, int]:
        """The datagrams that arrived, by their source, such as {"192.0.2.53:53": 300000}."""
        return dict(sum((Counter(report.sources) for report in self.sinks.reports.values()), Counter()))

    @property
    def faults(self) -> dict[str, object]:
        """What went wrong, by kind. Empty if each datagram arrived once.

        With replies, each datagram also got one reply, and all replies came from the target.
        """
        reports: list[SendReport | SinkReport] = [self.sent, *self.sinks.reports.values()]
        found: dict[str, object] = {
            "lost": self.ledger.missing,
            "twice": self.ledger.twice,
            "damaged": sum(report.damaged + report.strange for report in reports),
            "dropped by sockets": sum(report.buffer_drops for report in reports),
        }
        if self.replies:
            found |= {
                "unanswered": self.sent.sent - self.sent.replies,
                "answered twice": self.sent.duplicates,
                "other sources": {one: count for one, count in self.sent.sources.items() if one != spell(self.target)},
            }
        return {kind: what for kind, what in found.items() if what}


def spell(address: tuple[str, int]) -> str:
    """An address and a port as the blaster reports them."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def fire(
    blaster: Blaster,
    pool_lab: PoolLab,
    version: int,
    change: Callable[[Sender], Found],
    *,
    count: int = MOST_FIRE,
    replies: bool = False,
    port: int = 0,
) -> Fire[Found]:
    """Send from the client to the service, and change the rules meanwhile.

    `change` runs on the balancer, and ends when the sender has ended or is stopped. `port` is that of the backends, by
    default the port of the mode. With `replies`, the backends send each datagram back.
    """
    mode, lab = pool_lab.mode, pool_lab.lab
    address = vip(version) if mode.dsr else ""
    sinks = blaster.sinks(
        lab.backends, port=port or mode.port, version=version, address=address, echo=replies, log=count, cpu=OTHERS
    )
    return fire_from(lab.client, (vip(version), PORT), sinks, pool_lab, change, count=count, replies=replies)


def fire_from(
    host: Host,
    target: tuple[str, int],
    sinks: Sinks,
    pool_lab: PoolLab,
    change: Callable[[Sender], Found],
    *,
    count: int = MOST_FIRE,
    replies: bool = False,
    source_port: int = 0,
) -> Fire[Found]:
    """Send from any host to any target, as `fire` does."""

    def change_beside_sender(sender: Sender) -> Found:
        os.sched_setaffinity(0, {OTHERS})  # for this thread only, which ends with the experiment
        return change(sender)

    with sinks:
        sender = sinks.start(host, target, count=count, replies=replies, source_port=source_port, cpu=SENDER)
        found = pool_lab.lab.balancer.call(change_beside_sender, sender)
        sent = sender.report()
    return Fire(target, replies, sinks, sent, sinks.ledger(sent.sent), found)


def paced(change: Callable[[], object]) -> tuple[int, int]:
    """Carry out a change, and wait until the next is due. Return time.monotonic_ns() before and after the change."""
    begin = time.monotonic_ns()
    change()
    end = time.monotonic_ns()
    time.sleep(max(0.0, PACE - (end - begin) / 1e9))  # the pace of the changes, not a wait for an event
    return begin, end


def swap_in_turn(
    pool_lab: PoolLab, sender: Sender, steps: Sequence[tuple[Membership, Set]], *, least: int
) -> list[Set]:
    """Take the pool from step to step, and stop the sender. Return the sets, each with its time.

    The pool is at the first step already. There are at least `least` swaps.
    """
    history = [steps[0][1]]
    while sender.goes_on(enough=len(history) > least):
        membership, names = steps[len(history) % len(steps)]
        begin, end = paced(lambda: pool_lab.applier.update(membership))  # noqa: B023 - called at once
        history.append(replace(names, begin_ns=begin, end_ns=end))
    return history


def load_in_turn(pool_lab: PoolLab, sender: Sender, configs: Sequence[tuple[Pool, ...]]) -> int:
    """Load one configuration after the other, each at least once, and stop the sender. Return the number of reloads."""
    reloads = 0
    while sender.goes_on(enough=reloads > len(configs)):
        reloads += 1
        pool_lab.applier.load(Config(pools=configs[reloads % len(configs)]))
    return reloads
