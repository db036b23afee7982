"""A backend fails and returns while ONE client socket sends: only few datagrams are lost."""

from __future__ import annotations

import re
import time
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from daemon_process import PORT, VIP, Running, dns
from lab_parameters import version_and_offload
from machine_stalls import Stalls
from servers.answerer import Answerer
from servers.link import Link
from servers.outage import KILLED, LINK_DOWN, STOPPED, Outage
from servers.processes import members
from steady_traffic import Flow, Sent, lost, sources, twice

from nftlb.lab import Lab

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

HANDFUL = 5
UDP = {"udp": {"send": "are you there", "match": "are you there"}}
FAST = {"interval": "400ms", "fast_interval": "100ms", "timeout": "200ms", "rise": 2, "fall": 3}
REFUSED_BOUND = 0.4 + 2 * 0.1
"""Seconds after which a server that refuses is out by these timers (docs/daemon.md), without the commit."""
SILENT_BOUND = 0.4 + 2 * 0.2 + 0.2
COMMIT = 0.15
"""Seconds that the commit, and the observation by this process, may take."""
ATTEMPTS = 3
"""How often an outage is caused, at most, if this machine disturbs it."""
STEPS = 12
"""How often the way from a fault to the commit waits for a processor, at most: each check, its reply, the commit."""


def during(sent: Sequence[Sent], begin: float, end: float) -> list[Sent]:
    return [datagram for datagram in sent if begin <= datagram.at < end]


def its_turns_alone(missing: Sequence[Sent]) -> bool:
    """Whether all lost datagrams are turns of one of three backends: at least two replies are between two losses."""
    return all(later.number - datagram.number >= 3 for datagram, later in pairwise(missing))


class Course(NamedTuple):
    """The times just before the outage, when the kernel followed, just before its end, and when the kernel followed.

    `resumed` is the time just before traffic went on. `stalled`: the seconds until `out` that the machine stood still.
    """

    resumed: float
    begin: float
    out: float
    over: float
    back: float
    stalled: float

    @property
    def took(self) -> float:
        """The seconds from the outage until the kernel followed, without the stalls of the machine."""
        return self.out - self.begin - self.stalled


class Scene(NamedTuple):
    """The server b2, a separate process; its link; the daemon; its stalls and those of b2; and traffic."""

    server: Answerer
    link: Link
    daemon: Running
    stalls: Stalls
    flow: Flow

    def out(self, since: float) -> float:
        """Wait until b2, which failed after a moment, is out. Return the time at which that was seen."""
        return self.daemon.wait("swap", since=self.daemon.wait("backend_down", "b2", since=since).at).at

    def others_were_out(self) -> bool:
        """Whether a server that did not fail was ever out."""
        return any(event.kind == "backend_down" and event.backend != "b2" for event in self.daemon.events)

    def checks_done(self) -> int:
        """The number of finished checks."""
        _, metrics = self.daemon.call("GET", "/metrics")
        return sum(int(number) for number in re.findall(r"^nftlb_checks_total\{.*\} (\d+)", metrics, re.MULTILINE))

    def suffer(self, outage: Outage, before: int = 1000) -> Course:
        """Cause the failure of b2, with traffic before, while b2 is out, and after its return."""
        self.flow.wait(before)
        self.flow.pause()  # datagrams that wait for b2, because processors are busy, would be lost with b2
        # b2 may have been out before: its replies to checks were late, because processors are busy.
        self.daemon.poll_status(lambda _: self.daemon.backend("dns", "b2")["in_rotation"], "b2 in rotation")
        resumed = time.monotonic()
        self.flow.resume()
        begin = self.stalls.mark()
        with outage.cause(self.server, self.link):
            out = self.out(begin.at)
            stalled = self.stalls.since(begin, STEPS)
            self.flow.wait(before)
            over = time.monotonic()
        back = self.daemon.wait("swap", since=self.daemon.wait("backend_up", "b2", since=out).at).at
        self.flow.wait(before)
        try:
            self.flow.pause(since=out)  # a reply that a busy machine delays is not lost
        except TimeoutError as error:
            happened = [f"{seen.kind} {seen.backend} {seen.at - out:.3f} s" for seen in self.daemon.events]
            error.add_note(f"After b2 was out: its end {over - out:.3f} s, {', '.join(happened)}")
            raise
        return Course(resumed, begin.at, out, over, back, stalled)


def suffered(
    outage: Outage, directory: Path, version: int, *, before: int = 1000, **options: Any
) -> tuple[Scene, Course]:
    """Set up a scene and cause the outage. Return both after the end.

    The servers b1 and b3 never fail. If checks found them down, the machine stood still for longer than a check may
    take. Then the pool had no backend, which also loses datagrams, and the outage is caused again.
    """
    for attempt in range(ATTEMPTS):
        folder = directory / str(attempt)
        folder.mkdir()
        with scene(folder, version, **options) as seen:
            try:
                course = seen.suffer(outage, before)
            except TimeoutError:
                if not seen.others_were_out():
                    raise
                continue
        if not seen.others_were_out():
            return seen, course
    raise AssertionError(f"{ATTEMPTS} times, servers that answer were found down")


def only_its_turns_were_lost(sent: Sequence[Sent], course: Course, vip: str) -> None:
    """Check that only datagrams to b2 are lost, and only those from before b2 was out."""
    missing = lost(sent)
    assert missing == during(missing, course.resumed, course.out)
    assert its_turns_alone(missing)
    assert {"b1", "b3"} == {datagram.backend for datagram in during(sent, course.out, course.over)}
    assert {"b1", "b2", "b3"} == {datagram.backend for datagram in during(sent, course.back, sent[-1].at)}
    assert [] == twice(sent)
    assert {(vip, 53)} == sources(sent)


@contextmanager
def scene(directory: Path, version: int, *, offload: bool, rate: int, **options: Any) -> Iterator[Scene]:
    """Set up the lab. `rate`: datagrams per second; `options`: the pool's options."""
    with Lab(backends=3, offload=offload) as lab, ExitStack() as stack:
        b1, b2, b3 = lab.backends
        server = stack.enter_context(Answerer(b2, port=PORT, version=version))
        link = stack.enter_context(Link(lab, b2))
        stack.enter_context(lab.serve(PORT, backends=[b1, b3]))
        daemon = stack.enter_context(
            Running(lab.balancer, directory, dns(lab, version, **{"health": UDP | FAST, **options}))
        )
        stalls = stack.enter_context(Stalls(lambda: [daemon.process.pid, *members(server.pid)]))
        yield Scene(server, link, daemon, stalls, stack.enter_context(Flow(lab.client, (VIP[version], 53), rate=rate)))


@pytest.mark.kernel
@version_and_offload
@pytest.mark.parametrize("outage", [KILLED, STOPPED, LINK_DOWN], ids=lambda outage: outage.name)
def test_fails_and_returns(outage: Outage, version: int, offload: bool, tmp_path: Path) -> None:
    """With health checks only: turns of b2 before it is out are lost, and no datagram after its return."""
    seen, course = suffered(outage, tmp_path, version, offload=offload, rate=2000, passive=False)
    sent = seen.flow.sent

    # A stopped process replies to the waiting datagrams when it continues.
    assert [datagram for datagram in during(sent, course.begin, course.out) if datagram.backend in {"", "b2"}]
    only_its_turns_were_lost(sent, course, VIP[version])


@pytest.mark.kernel
@version_and_offload
def test_killed_with_passive(version: int, offload: bool, tmp_path: Path) -> None:
    """A process that dies loses a few datagrams; after that, and at its return, no datagram is lost."""
    seen, course = suffered(KILLED, tmp_path, version, offload=offload, rate=3000, passive=True)
    sent = seen.flow.sent
    took = (course.out - course.begin) * 1000
    print(f"\n{len(lost(sent))} of b2's 1,000 datagrams a second were lost; it was out after {took:.0f} ms")  # noqa: T201

    assert "passive: port unreachable" == seen.daemon.wait("backend_down", "b2", since=course.begin).event["reason"]
    assert 0 < len(lost(sent)) <= 3000 * (course.out - course.resumed) / 3 + 1
    only_its_turns_were_lost(sent, course, VIP[version])


@pytest.mark.kernel
@version_and_offload
def test_a_refusal_costs_a_handful(version: int, offload: bool, tmp_path: Path) -> None:
    """If a server has read all datagrams before it dies, only the first refused datagrams are lost."""
    rarely, rate = UDP | FAST | {"interval": "1m"}, 100
    with scene(tmp_path, version, offload=offload, rate=rate, passive=True, health=rarely) as seen:
        seen.flow.wait(30)
        seen.flow.pause()
        seen.server.kill()
        mark = seen.stalls.mark()
        seen.flow.resume()
        out = seen.out(mark.at)
        stalled = seen.stalls.since(mark, STEPS)
        seen.flow.wait(60)
    missing = lost(seen.flow.sent)

    assert "passive: port unreachable" == seen.daemon.wait("backend_down", "b2", since=mark.at).event["reason"]
    assert 0 < len(missing) <= HANDFUL + stalled * rate / 3
    assert its_turns_alone(missing)
    assert [] == [datagram for datagram in missing if datagram.at > out]


@pytest.mark.kernel
@pytest.mark.parametrize("rate", [200, 1000])
@version_and_offload
def test_killed_under_traffic(version: int, offload: bool, rate: int, tmp_path: Path) -> None:
    """Its host limits the refusals, and traffic from the checks' address gets most of them: it is still out in time."""
    seen, course = suffered(KILLED, tmp_path, version, before=rate, offload=offload, rate=rate)
    number, took = len(lost(seen.flow.sent)), course.took * 1000
    print(f"\n{number} of {rate} datagrams a second were lost; out after {took:.0f} ms")  # noqa: T201

    down = seen.daemon.wait("backend_down", "b2", since=course.begin)
    assert down.event["reason"].endswith(", after traffic was refused")
    assert course.took <= REFUSED_BOUND + COMMIT
    only_its_turns_were_lost(seen.flow.sent, course, VIP[version])


@pytest.mark.parametrize("rate", [200, 1000])
@pytest.mark.parametrize("version", [4, 6])
def test_frozen_under_traffic(version: int, rate: int, tmp_path: Path) -> None:
    """A stopped server refuses nothing: only the time-outs of checks remove it, and they are in time."""
    seen, course = suffered(STOPPED, tmp_path, version, before=rate, offload=True, rate=rate)

    down = seen.daemon.wait("backend_down", "b2", since=course.begin)
    assert down.event["reason"] == "udp: no answer within 0.2s"
    assert course.took <= SILENT_BOUND + COMMIT


@pytest.mark.parametrize("rate", [200, 1000])
@pytest.mark.parametrize("version", [4, 6])
def test_one_way_traffic_under_masquerade(version: int, rate: int, tmp_path: Path) -> None:
    """A check for which silence is success would continue to pass, because traffic gets the refusals."""
    silent = {"udp": {"send": "x", "expect": "no-icmp-error"}} | FAST
    with scene(tmp_path, version, offload=True, rate=rate, health=silent) as seen:
        seen.flow.wait(rate)
        begin = seen.stalls.mark()
        seen.server.kill()
        out = seen.out(begin.at)
        stalled = seen.stalls.since(begin, STEPS)

    assert out - begin.at - stalled <= REFUSED_BOUND + COMMIT


@pytest.mark.parametrize("version", [4, 6])
def test_a_false_hint_takes_no_backend_out(version: int, tmp_path: Path) -> None:
    """If a firewall on a backend rejects some datagrams, the backend is checked, passes, and stays in."""
    rarely = UDP | FAST | {"interval": "1m", "fast_interval": "1s", "timeout": "1s"}
    with scene(tmp_path, version, offload=True, rate=300, health=rarely) as seen:
        host = seen.server.host
        family = {4: "ip", 6: "ip6"}[version]
        host.run(["nft", f"add table {family} wall"])
        host.run(["nft", f"add chain {family} wall input {{ type filter hook input priority 0; }}"])
        # One in ten datagrams of the lab, and no check, because checks are shorter.
        host.run(["nft", f"add rule {family} wall input udp dport {PORT} udp length > 30 numgen inc mod 10 0 reject"])
        before = seen.checks_done()
        seen.flow.wait(600)
        assert seen.checks_done() > max(before, 3)  # without the hint, there is one check a minute
        assert [] == [event for event in seen.daemon.events if event.kind == "backend_down"]
    assert lost(seen.flow.sent)
