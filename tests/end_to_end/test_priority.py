"""Priorities with the real daemon and ONE client socket: failover, return, restarts and fallback.

b1 has priority 1, b2 and b3 have priority 2, and b4 is the sorry server.
"""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from daemon_process import PORT, VIP, Running, at
from servers.answerer import Answerer
from servers.link import Link
from servers.outage import KILLED, LINK_DOWN, Outage
from servers.processes import await_that
from steady_traffic import Flow, Sent, longest_run, lost, sources, twice

from nftlb.lab import Lab

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

CHECK = {
    "udp": {"send": "are you there", "match": "are you there"},
    "interval": "1s",
    "fast_interval": "100ms",
    "timeout": "600ms",
    "rise": 2,
    "fall": 3,
}
DELAY = 1.0
LONG = "10m"
"""A delay that does not end within the test."""


class Scene(NamedTuple):
    """The server b1, a separate process; its link; the daemon; and traffic."""

    server: Answerer
    link: Link
    daemon: Running
    flow: Flow

    def takes_over(self, priority: str, since: float) -> float:
        """Wait until the kernel follows a change to a priority. Return the time of the swap."""
        change = self.daemon.wait("priority_changed", since=since)
        assert priority == change.event["new"]
        return self.daemon.wait("swap", since=change.at).at

    def set_admin(self, admin: str, *names: str) -> None:
        """Set the admin state of backends; the kernel has the change when this returns."""
        for name in names:
            assert 200 == self.daemon.call("PATCH", f"/api/v1/pools/dns/backends/{name}", {"admin": admin})[0]

    def served(self, count: int = 60) -> list[Sent]:
        """Send datagrams from now on. Return them when all have replies."""
        first = len(self.flow.sent)
        self.flow.wait(count)
        sent = self.flow.sent[first : first + count]
        await_that(lambda: all(datagram.backends for datagram in sent), "replies to all datagrams")
        return sent


def pools(lab: Lab, version: int, **options: Any) -> dict[str, Any]:
    backends = {
        host.name: {"address": host.address(version), "port": PORT, "priority": 1 if host.name == "b1" else 2}
        for host in lab.backends[:3]
    }
    sorry = at(lab.backends[3].address(version), PORT)
    pool = {"listen": f"{at(VIP[version], 53)}/udp", "backends": backends, "health": CHECK, "fallback": sorry}
    return {"dns": {**pool, "preempt_delay": f"{DELAY:g}s", **options}}


@contextmanager
def scene(directory: Path, version: int, **options: Any) -> Iterator[Scene]:
    with Lab(backends=4) as lab, ExitStack() as stack:
        b1, *others = lab.backends
        server = stack.enter_context(Answerer(b1, port=PORT, version=version))
        link = stack.enter_context(Link(lab, b1))
        stack.enter_context(lab.serve(PORT, backends=others))
        daemon = stack.enter_context(Running(lab.balancer, directory, pools(lab, version, **options)))
        yield Scene(server, link, daemon, stack.enter_context(Flow(lab.client, (VIP[version], 53), rate=500)))


def names(sent: Sequence[Sent]) -> set[str]:
    return {datagram.backend for datagram in sent}


def during(sent: Sequence[Sent], begin: float, end: float) -> list[Sent]:
    return [datagram for datagram in sent if begin <= datagram.at < end]


@pytest.mark.kernel
@pytest.mark.slow
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("outage", [KILLED, LINK_DOWN], ids=lambda outage: outage.name)
def test_a_priority_is_lost_and_returns(outage: Outage, version: int, tmp_path: Path) -> None:
    """Only datagrams before the failover are lost; the next priority takes exact turns; the return loses none."""
    with scene(tmp_path, version) as seen:
        checked = seen.daemon.poll_status(all_checked, "a check of every backend")
        assert {"b1"} == names(seen.served())
        seen.flow.pause()  # datagrams that wait for b1, because processors are busy, would be lost with b1
        begin = time.monotonic()
        seen.flow.resume()
        with outage.cause(seen.server, seen.link):
            down = seen.daemon.wait("backend_down", "b1", since=begin)
            out = seen.takes_over("2", begin)
            replaced = seen.served(200)
            over = seen.flow.sent[-1].at
        up = seen.daemon.wait("backend_up", "b1", since=over)
        back = seen.takes_over("1", over)
        change = seen.daemon.wait("priority_changed", since=over)
        assert {"b1"} == names(seen.served())
        swap = seen.daemon.wait("swap", since=down.at)
    sent = seen.flow.sent

    assert ["b2", "b3"] == checked  # backends that stand by are checked too
    assert [100, 100] == [sum(datagram.backend == name for datagram in replaced) for name in ("b2", "b3")]
    assert 1 == longest_run(replaced)
    assert lost(sent) == during(lost(sent), begin, out)
    assert names(during(sent, out, change.happened)) == {"b2", "b3"}
    assert names(during(sent, back, sent[-1].at)) == {"b1"}
    assert ([], {(VIP[version], 53)}) == (twice(sent), sources(sent))
    # The failover needs no more time than the removal of a backend: both are the same change of the rules.
    assert out == swap.at
    # An event is stamped when the loop handles the result of a check, which is late on a busy machine.
    assert change.happened - up.happened >= DELAY / 2
    assert "priority 1 has had enough usable backends for 1 s" == change.event["reason"]


def all_checked(document: dict[str, Any]) -> list[str]:
    """The backends that stand by, once every backend has passed a check."""
    backends = document["pools"][0]["backends"]
    passed = all(check["passed"] for backend in backends for check in backend["checks"])
    return [backend["name"] for backend in backends if backend["standby"]] if passed else []


@pytest.mark.slow
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("end", [Running.kill, Running.stop])
def test_a_restart_keeps_the_serving_priority(end: Callable[[Running], object], version: int, tmp_path: Path) -> None:
    """In each state, a restart of the daemon loses no datagram and moves none, also after all rules were removed."""
    with scene(tmp_path, version, preempt_delay=LONG) as seen:

        def restarted() -> set[str]:
            seen.daemon.poll_status(lambda _: (seen.daemon.state / "nftlb.json").exists(), "the saved state")
            first = len(seen.flow.sent)
            end(seen.daemon)
            seen.flow.wait(50)
            seen.daemon.start()
            seen.served()
            return names(seen.flow.sent[first : first + 100])

        assert {"b1"} == restarted()
        seen.set_admin("drain", "b1")
        assert {"b2", "b3"} == restarted()
        seen.set_admin("enabled", "b1")  # b1 waits now
        assert {"b2", "b3"} == restarted()
        assert 2 == seen.daemon.client.document()["pools"][0]["priority"]

        seen.flow.pause()
        seen.daemon.stop()
        seen.daemon.host.run(["nft", "flush", "ruleset"])
        seen.daemon.start()
        seen.flow.resume()
        assert {"b2", "b3"} == names(seen.served())
    assert ([], []) == (lost(seen.flow.sent), twice(seen.flow.sent))


@pytest.mark.parametrize("version", [4, 6])
def test_the_fallback_serves_only_without_a_healthy_backend(version: int, tmp_path: Path) -> None:
    """The sorry server serves only while no backend is healthy; the first healthy backend then serves at once."""
    with scene(tmp_path, version, preempt_delay=LONG) as seen:
        seen.set_admin("drain", "b1")
        assert {"b2", "b3"} == names(seen.served())
        seen.set_admin("drain", "b2")
        assert {"b3"} == names(seen.served())
        seen.set_admin("maintenance", "b3")
        assert {"b4"} == names(seen.served())
        seen.set_admin("enabled", "b2")
        assert {"b2"} == names(seen.served())
        seen.set_admin("enabled", "b1")
        assert {"b2"} == names(seen.served())
        seen.set_admin("drain", "b2")  # priority 1 waited, and is the only one with a backend now
        assert {"b1"} == names(seen.served())
    sent = seen.flow.sent
    assert ([], [], {(VIP[version], 53)}) == (lost(sent), twice(sent), sources(sent))


@pytest.mark.parametrize("version", [4, 6])
def test_the_operator_changes_priorities(version: int, tmp_path: Path) -> None:
    """A priority set by the API moves datagrams when the request returns, and is shown."""
    with scene(tmp_path, version, preempt_delay=LONG) as seen:

        def prefer(name: str, priority: int) -> None:
            answer = seen.daemon.call("PATCH", f"/api/v1/pools/dns/backends/{name}", {"priority": priority})
            assert (200, priority) == (answer[0], answer[1]["priority"])

        prefer("b3", 1)
        sent = seen.served(60)
        assert [30, 30] == [sum(datagram.backend == name for datagram in sent) for name in ("b1", "b3")]
        prefer("b1", 3)
        assert {"b3"} == names(seen.served())
        prefer("b3", 2)
        assert {"b2", "b3"} == names(seen.served())
    sent = seen.flow.sent
    assert ([], [], {(VIP[version], 53)}) == (lost(sent), twice(sent), sources(sent))
