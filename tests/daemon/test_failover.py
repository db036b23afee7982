"""A backend fails and returns while ONE client socket sends on: what is lost, and what is not."""

from __future__ import annotations

import re
import time
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from daemons.answerer import Answerer
from daemons.link import Link
from daemons.outage import KILLED, LINK_DOWN, STOPPED, Outage
from flowing import Flow, Sent, lost, sources, twice
from running import PORT, VIP, Running, dns

from nftlb.lab import Lab

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

BACKLOG = 0.25
"""Seconds for which a datagram may wait for its server to read it: a server that dies takes those along. 50 ms were too
few where two other runs of tests kept both processors busy."""
HANDFUL = 5
UDP = {"udp": {"send": "are you there", "match": "are you there"}}
FAST = {"interval": "400ms", "fast_interval": "100ms", "timeout": "200ms", "rise": 2, "fall": 3}
REFUSED_BOUND = 0.4 + 2 * 0.1
"""Seconds after which a server that refuses is out by those timers (docs/daemon.md), without the commit."""
SILENT_BOUND = 0.4 + 2 * 0.2 + 0.2
COMMIT = 0.15
"""Seconds that the commit, and this process that looks on, may take while the machine is busy."""


def during(sent: Sequence[Sent], begin: float, end: float) -> list[Sent]:
    return [one for one in sent if begin <= one.at < end]


def its_turns_alone(missing: Sequence[Sent]) -> bool:
    """Whether the lost ones are one of three backends' alone: between two of them, two others were answered."""
    return all(later.number - one.number >= 3 for one, later in pairwise(missing))


class Course(NamedTuple):
    """Just before it began, when the kernel was seen to know, just before it ended, and when the kernel knew that."""

    begin: float
    out: float
    over: float
    back: float


class Scene(NamedTuple):
    """The servers b1 and b3, and b2, which is a process of its own; the daemon; and traffic, complete at the end."""

    server: Answerer
    link: Link
    daemon: Running
    flow: Flow

    def out(self) -> float:
        """Wait until b2 is out; return when that was seen."""
        return self.daemon.wait("swap", since=self.daemon.wait("backend_down", "b2").at).at

    def checks_done(self) -> int:
        """How many checks have ended."""
        _, metrics = self.daemon.call("GET", "/metrics")
        return sum(int(number) for number in re.findall(r"^nftlb_checks_total\{.*\} (\d+)", metrics, re.MULTILINE))

    def suffer(self, outage: Outage, before: int = 1000) -> Course:
        """Let it befall b2, with so much traffic before, while b2 is out, and when it is back."""
        self.flow.wait(before)
        self.flow.pause()  # what waits for b2 by then, because processors are busy, would go along with it
        self.flow.resume()
        begin = time.monotonic()
        with outage.befalls(self.server, self.link):
            out = self.out()
            self.flow.wait(before)
            over = time.monotonic()
        back = self.daemon.wait("swap", since=self.daemon.wait("backend_up", "b2").at).at
        self.flow.wait(before)
        return Course(begin, out, over, back)


def only_its_turns_were_lost(sent: Sequence[Sent], course: Course, vip: str) -> None:
    """Check that of all that was sent, b2 has lost what it was sent before it was out, and nobody anything else."""
    missing = lost(sent)
    assert missing == during(missing, course.begin - BACKLOG, course.out)
    assert its_turns_alone(missing)
    assert {"b1", "b3"} == {one.backend for one in during(sent, course.out, course.over)}
    assert {"b1", "b2", "b3"} == {one.backend for one in during(sent, course.back, sent[-1].at)}
    assert [] == twice(sent)
    assert {(vip, 53)} == sources(sent)


@contextmanager
def scene(directory: Path, version: int, *, offload: bool, rate: int, **options: Any) -> Iterator[Scene]:
    """Set it up; `rate` is in datagrams a second, `options` are the pool's."""
    with Lab(backends=3, offload=offload) as lab, ExitStack() as stack:
        b1, b2, b3 = lab.backends
        server = stack.enter_context(Answerer(b2, port=PORT, version=version))
        link = stack.enter_context(Link(lab, b2))
        stack.enter_context(lab.serve(PORT, backends=[b1, b3]))
        daemon = stack.enter_context(
            Running(lab.balancer, directory, dns(lab, version, **{"health": UDP | FAST, **options}))
        )
        yield Scene(server, link, daemon, stack.enter_context(Flow(lab.client, (VIP[version], 53), rate=rate)))


@pytest.mark.parametrize("offload", [False, True], ids=["offload-off", "offload-on"])
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("outage", [KILLED, STOPPED, LINK_DOWN], ids=lambda outage: outage.name)
def test_fails_and_returns(outage: Outage, version: int, offload: bool, tmp_path: Path) -> None:
    """By its checks alone: only its turns before it was out are lost, and nothing when it is back."""
    with scene(tmp_path, version, offload=offload, rate=2000, passive=False) as seen:
        course = seen.suffer(outage)
    sent = seen.flow.sent

    # A process that was stopped answers in the end what has waited for it.
    assert [one for one in during(sent, course.begin, course.out) if one.backend in {"", "b2"}]
    only_its_turns_were_lost(sent, course, VIP[version])


@pytest.mark.parametrize("offload", [False, True], ids=["offload-off", "offload-on"])
@pytest.mark.parametrize("version", [4, 6])
def test_killed_with_passive(version: int, offload: bool, tmp_path: Path) -> None:
    """A process that dies loses a handful of datagrams; from then on, and when it returns, nothing is lost."""
    with scene(tmp_path, version, offload=offload, rate=3000, passive=True) as seen:
        course = seen.suffer(KILLED)
    sent = seen.flow.sent
    took = (course.out - course.begin) * 1000
    print(f"\n{len(lost(sent))} of b2's 1,000 datagrams a second were lost; it was out after {took:.0f} ms")  # noqa: T201

    assert "passive: port unreachable" == seen.daemon.wait("backend_down", "b2").event["reason"]
    assert 0 < len(lost(sent)) <= 3000 * (course.out - course.begin + BACKLOG) / 3 + 1
    only_its_turns_were_lost(sent, course, VIP[version])


@pytest.mark.parametrize("offload", [False, True], ids=["offload-off", "offload-on"])
@pytest.mark.parametrize("version", [4, 6])
def test_a_refusal_costs_a_handful(version: int, offload: bool, tmp_path: Path) -> None:
    """Where a server has left nothing unread when it dies, its first refused datagrams are all that is lost."""
    rarely = UDP | FAST | {"interval": "1m"}
    # Slow enough that a machine that stalls for a tenth of a second does not pass for one that loses more.
    with scene(tmp_path, version, offload=offload, rate=100, passive=True, health=rarely) as seen:
        seen.flow.wait(30)
        seen.flow.pause()
        seen.server.kill()
        seen.flow.resume()
        out = seen.out()
        seen.flow.wait(60)
    missing = lost(seen.flow.sent)

    assert "passive: port unreachable" == seen.daemon.wait("backend_down", "b2").event["reason"]
    assert 0 < len(missing) <= HANDFUL
    assert its_turns_alone(missing)
    assert [] == [one for one in missing if one.at > out]


@pytest.mark.parametrize("rate", [200, 1000])
@pytest.mark.parametrize("offload", [False, True], ids=["offload-off", "offload-on"])
@pytest.mark.parametrize("version", [4, 6])
def test_killed_under_traffic(version: int, offload: bool, rate: int, tmp_path: Path) -> None:
    """Its host keeps most refusals to itself, and traffic from the checks' address gets the rest: out in time still."""
    with scene(tmp_path, version, offload=offload, rate=rate) as seen:
        course = seen.suffer(KILLED, before=rate)
    took = course.out - course.begin
    print(f"\n{len(lost(seen.flow.sent))} of {rate} datagrams a second were lost; out after {took * 1000:.0f} ms")  # noqa: T201

    assert seen.daemon.wait("backend_down", "b2").event["reason"].endswith(", after traffic was refused")
    assert took <= REFUSED_BOUND + COMMIT
    only_its_turns_were_lost(seen.flow.sent, course, VIP[version])


@pytest.mark.parametrize("rate", [200, 1000])
@pytest.mark.parametrize("version", [4, 6])
def test_frozen_under_traffic(version: int, rate: int, tmp_path: Path) -> None:
    """A server that is stopped refuses nothing: its checks' time-outs are all there is, and are in time."""
    with scene(tmp_path, version, offload=True, rate=rate) as seen:
        course = seen.suffer(STOPPED, before=rate)

    assert seen.daemon.wait("backend_down", "b2").event["reason"] == "udp: no answer within 0.2s"
    assert course.out - course.begin <= SILENT_BOUND + COMMIT


@pytest.mark.parametrize("rate", [200, 1000])
@pytest.mark.parametrize("version", [4, 6])
def test_one_way_traffic_under_masquerade(version: int, rate: int, tmp_path: Path) -> None:
    """A check that passes by silence would go on passing, since traffic gets the refusals that it waits for."""
    silent = {"udp": {"send": "x", "expect": "no-icmp-error"}} | FAST
    with scene(tmp_path, version, offload=True, rate=rate, health=silent) as seen:
        seen.flow.wait(rate)
        begin = time.monotonic()
        seen.server.kill()
        out = seen.out()

    assert out - begin <= REFUSED_BOUND + COMMIT


@pytest.mark.parametrize("version", [4, 6])
def test_a_false_hint_takes_nobody_out(version: int, tmp_path: Path) -> None:
    """A firewall on a backend that rejects some of its datagrams: it is checked, passes, and stays in."""
    rarely = UDP | FAST | {"interval": "1m", "fast_interval": "1s", "timeout": "1s"}
    with scene(tmp_path, version, offload=True, rate=300, health=rarely) as seen:
        host = seen.server.host
        family = {4: "ip", 6: "ip6"}[version]
        host.run(["nft", f"add table {family} wall"])
        host.run(["nft", f"add chain {family} wall input {{ type filter hook input priority 0; }}"])
        # Of the lab's datagrams one in ten, and no check: those are shorter.
        host.run(["nft", f"add rule {family} wall input udp dport {PORT} udp length > 30 numgen inc mod 10 0 reject"])
        before = seen.checks_done()
        seen.flow.wait(600)
        assert seen.checks_done() > max(before, 3)  # of which there is one a minute
        assert [] == [one for one in seen.daemon.events if one.kind == "backend_down"]
    assert lost(seen.flow.sent)
