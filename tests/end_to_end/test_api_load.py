"""With a thousand idle connections and slow clients, checks still begin in time."""

from __future__ import annotations

import re
import resource
import socket
import time
from contextlib import ExitStack
from threading import Event, Thread
from typing import TYPE_CHECKING

from daemon_process import PATIENCE, PORT, Running, dns
from machine_stalls import Stalls

from nftlb.lab import Lab

if TYPE_CHECKING:
    from pathlib import Path

IDLE, SLOW = 1000, 50
HEAD = b"GET /healthz HTTP/1.1\r\nHost: test\r\nX-Slow: "
"""The beginning of a slow client's request, whose headers never end."""
CHECKS = 400
CHECK = {"udp": {"send": "are you there", "match": "are you there"}, "interval": "50ms", "timeout": "1s"}


def lag(daemon: Running) -> tuple[float, float]:
    """The number of checks that began, and of those that began within 0.25 s of their time."""
    text = daemon.call("GET", "/metrics")[1]
    found = [re.search(rf'nftlb_check_lag_seconds_bucket{{le="{bound}"}} (\S+)', text) for bound in (r"\+Inf", "0.25")]
    return tuple(float(match[1]) for match in found)  # type: ignore[return-value, index]


def after_checks(daemon: Running) -> tuple[float, float]:
    """Wait for a few hundred checks. Return how many of them began in time."""
    begin = lag(daemon)
    while (now := lag(daemon))[0] - begin[0] < CHECKS:
        daemon.poll_status(lambda status: status["pools"], "an answer while others crowd the API")
    return now[0] - begin[0], now[1] - begin[1]


def connect(daemon: Running, begin: bytes = b"") -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.connect(str(daemon.socket))  # waits while the queue of connections that were not accepted yet is full
    client.settimeout(PATIENCE)
    client.sendall(begin)
    return client


def test_checks_go_on(tmp_path: Path) -> None:
    """With many connections to the API, checks begin in time, the API replies, and no backend is removed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    with Lab(backends=4) as lab, lab.serve(PORT), ExitStack() as stack:
        daemon = stack.enter_context(Running(lab.balancer, tmp_path, dns(lab, health=CHECK)))
        stalls = stack.enter_context(Stalls(lambda: [daemon.process.pid]))
        quiet = after_checks(daemon)
        crowd = [stack.enter_context(connect(daemon)) for _ in range(IDLE)]
        slow = [stack.enter_context(connect(daemon, HEAD)) for _ in range(SLOW)]
        enough = Event()
        taken = 0

        def dribble() -> None:
            nonlocal taken
            while not enough.wait(0.1):
                for place, client in enumerate(slow):
                    try:
                        taken += client.send(b"a")
                    except OSError:  # the server closed the slow connection; a new one begins at once
                        slow[place] = stack.enter_context(connect(daemon, HEAD))

        thread = Thread(target=dribble)
        thread.start()
        try:
            mark = stalls.mark()
            crowded = after_checks(daemon)
            lost = stalls.since(mark, CHECKS) / (time.monotonic() - mark.at)
            answered, _ = daemon.call("PATCH", "/api/v1/pools/dns/backends/b1", {"weight": 2})
        finally:
            enough.set()
            thread.join()
        for client in (*crowd, *slow):
            client.close()
        again = after_checks(daemon)
        counts = [f"{in_time:g} of {begun:g}" for begun, in_time in (quiet, crowded, again)]
        print(f"\nbegun within 0.25 s: {', '.join(counts)}: alone, in a crowd, alone; {lost:.0%} of the time lost")  # noqa: T201

        assert IDLE == len(crowd)
        assert taken > 10 * SLOW  # otherwise, the slow clients were not accepted
        assert 200 == answered
        alone = min(in_time / begun for begun, in_time in (quiet, again))  # other work of the machine comes and goes
        assert crowded[1] / crowded[0] >= 0.95 * alone - lost
        assert [] == [event for event in daemon.events if event.kind == "backend_down"]
