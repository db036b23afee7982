"""`passive: replies` with the real daemon and ONE client socket: a server that hangs is out, and returns.

A stopped process (SIGSTOP) keeps its port open, so its host sends no ICMP errors, and replies to pings.
"""

from __future__ import annotations

import re
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import pytest
from daemon_process import PATIENCE, PORT, VIP, Running, at
from servers.answerer import Answerer
from servers.link import Link
from servers.outage import STOPPED
from servers.processes import await_that
from steady_traffic import Flow, lost, sources, twice

from nftlb.lab import Lab

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LIMITS = {"min_packets": 10, "window": "3s", "reply_time": "500ms", "probation": "5s"}
PING = {"icmp": {}, "interval": "200ms", "fast_interval": "100ms", "timeout": "5s"}
NAMES = {"b1", "b2", "b3"}
BACKLOG = 0.25
"""Seconds for which a datagram may wait until its server reads it; they are answered when the server runs again."""


Figures: TypeAlias = "dict[str, tuple[float, float]]"
"""The packets and replies of each backend."""


class Scene(NamedTuple):
    """The server b1, a separate process; its link; and the daemon."""

    lab: Lab
    server: Answerer
    link: Link
    daemon: Running

    def backends(self) -> dict[str, dict[str, Any]]:
        return {backend["name"]: backend for backend in self.daemon.client.document()["pools"][0]["backends"]}

    def metric(self, name: str) -> dict[str, float]:
        """The samples of a metric by backend."""
        text = str(self.daemon.call("GET", "/metrics")[1])
        lines = [line for line in text.splitlines() if line.startswith(f"{name}{{")]
        return {line.split('backend="')[1].split('"')[0]: float(line.rpartition(" ")[2]) for line in lines}

    def figures(self, sent: int) -> tuple[Figures, Figures]:
        """The packets and replies of each backend after traffic of `sent` packets: in the status, and in the metrics.

        The daemon may read the counters between two answers of its API. So the status is asked before and after.
        """
        deadline = time.monotonic() + PATIENCE
        while True:
            before = self._shown()
            requests, replies = (self.metric(f"nftlb_backend_{name}_total") for name in ("requests", "replies"))
            if before == self._shown() and sum(count for count, _ in before.values()) == sent:
                return before, {name: (requests[name], replies[name]) for name in requests}
            assert time.monotonic() < deadline, f"{before} of {sent} packets"

    def _shown(self) -> Figures:
        return {name: (one["requests"], one["replies"]) for name, one in self.backends().items()}


@contextmanager
def scene(directory: Path, version: int, *, answer: bool = True, **options: Any) -> Iterator[Scene]:
    with Lab(backends=3) as lab, ExitStack() as stack:
        b1, *others = lab.backends
        server = stack.enter_context(Answerer(b1, port=PORT, version=version))
        link = stack.enter_context(Link(lab, b1))
        stack.enter_context(lab.serve(PORT, backends=others, answer=answer))
        backends = {host.name: at(host.address(version), PORT) for host in lab.backends}
        pool = {"listen": f"{at(VIP[version], 53)}/udp", "backends": backends, "passive": LIMITS, **options}
        yield Scene(lab, server, link, stack.enter_context(Running(lab.balancer, directory, {"dns": pool})))


@pytest.mark.kernel
@pytest.mark.slow
@pytest.mark.parametrize(
    ("forward", "version", "health"),
    [("nat", 4, [PING]), ("nat", 6, []), ("stateless", 4, []), ("stateless", 6, [PING])],
)
def test_a_frozen_server_is_out_and_returns(
    forward: str, version: int, health: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Without a check, and with a check that passes, the server is out; the others get all packets; it returns."""
    with scene(tmp_path, version, forward=forward, health=health) as seen:
        with Flow(seen.lab.client, (VIP[version], 53), rate=200) as flow:
            seen.daemon.poll_status(
                lambda _: all((one["answered"] or 0) > 0.9 for one in seen.backends().values()), "answers"
            )
            with STOPPED.cause(seen.server, seen.link):
                begin = flow.sent[-1].at
                down = seen.daemon.wait("backend_down", "b1", since=begin)
                out = seen.daemon.wait("swap", since=down.at).at
                first = len(flow.sent)
                flow.wait(60)
                meanwhile = flow.sent[first : first + 60]
                await_that(lambda: all(one.backends for one in meanwhile), "replies to all datagrams")
                checks = seen.backends()["b1"]["checks"]
            up = seen.daemon.wait("backend_up", "b1", since=out)
            await_that(lambda: {one.backend for one in flow.sent[-60:-10]} == NAMES, "packets to all backends")
        figures, metrics = seen.figures(len(flow.sent))

    assert re.fullmatch(r"passive: \d+ packets and \d+ replies within \d+\.\d s", down.event["reason"])
    assert [True] * len(health) == [check["up"] for check in checks]
    assert {"b2", "b3"} == {one.backend for one in meanwhile}
    assert "passive: its probation is over" == up.event["reason"]
    assert [] == lost([one for one in flow.sent if one.at < begin - BACKLOG])
    assert ([], {(VIP[version], 53)}) == (twice(flow.sent), sources(flow.sent))
    assert figures == metrics
    assert figures.keys() == NAMES


@pytest.mark.slow
@pytest.mark.parametrize(
    ("version", "answer", "rate", "enough"),
    [(4, False, 200, 300), (6, False, 200, 300), (4, True, 6, 12), (6, True, 6, 12)],
    ids=["one-way-4", "one-way-6", "low-rate-4", "low-rate-6"],
)
def test_backends_that_stay(version: int, answer: bool, rate: int, enough: int, tmp_path: Path) -> None:
    """A frozen server stays if no backend answers, or if it gets less than `min_packets` within the window."""
    with scene(tmp_path, version, answer=answer) as seen, STOPPED.cause(seen.server, seen.link):
        with Flow(seen.lab.client, (VIP[version], 53), rate=rate):
            # For longer than the window and the time of a reply.
            seen.daemon.poll_status(lambda _: seen.backends()["b1"]["requests"] >= enough, "packets")
            shown = seen.backends()
        assert [] == [event for event in seen.daemon.events if event.kind == "backend_down"]
    assert (True, True, 0.0) == tuple(shown["b1"][key] for key in ("up", "in_rotation", "answered"))
    assert {answer} == {shown[name]["answered"] > 0.5 for name in ("b2", "b3")}
