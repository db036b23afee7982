"""A thousand idle connections, and clients that send a byte now and then: checks begin in time all the same."""

from __future__ import annotations

import re
import resource
import socket
from contextlib import ExitStack
from threading import Event, Thread
from typing import TYPE_CHECKING

from running import PORT, Running, dns

from nftlb.lab import Lab

if TYPE_CHECKING:
    from pathlib import Path

IDLE, SLOW = 1000, 50
HEAD = b"GET /healthz HTTP/1.1\r\nHost: test\r\nX-Slow: "
"""What a slow client begins with: a head that goes on for as long as it likes."""
CHECKS = 400
CHECK = {"udp": {"send": "are you there", "match": "are you there"}, "interval": "50ms", "timeout": "1s"}


def lag(daemon: Running) -> tuple[float, float]:
    """How many checks began, and how many of them within a quarter of a second of their time."""
    text = daemon.call("GET", "/metrics")[1]
    found = [re.search(rf'nftlb_check_lag_seconds_bucket{{le="{bound}"}} (\S+)', text) for bound in (r"\+Inf", "0.25")]
    return tuple(float(one[1]) for one in found)  # type: ignore[return-value, index]


def after_checks(daemon: Running) -> tuple[float, float]:
    """Wait for a few hundred checks, and say how many of them began in time."""
    begin = lag(daemon)
    while (now := lag(daemon))[0] - begin[0] < CHECKS:
        daemon.poll_status(lambda status: status["pools"], "an answer while others crowd the API")
    return now[0] - begin[0], now[1] - begin[1]


def connect(daemon: Running, begin: bytes = b"") -> socket.socket:
    one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    one.connect(str(daemon.socket))  # waits where the queue of those that were not accepted yet is full
    one.settimeout(5)
    one.sendall(begin)
    return one


def test_checks_go_on(tmp_path: Path) -> None:
    """With the API crowded, checks begin as punctually as before, the API answers, and nobody is taken out for it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    with Lab(backends=4) as lab, lab.serve(PORT), ExitStack() as stack:
        daemon = stack.enter_context(Running(lab.balancer, tmp_path, dns(lab, health=CHECK)))
        quiet = after_checks(daemon)
        crowd = [stack.enter_context(connect(daemon)) for _ in range(IDLE)]
        slow = [stack.enter_context(connect(daemon, HEAD)) for _ in range(SLOW)]
        enough = Event()
        taken = 0

        def dribble() -> None:
            nonlocal taken
            while not enough.wait(0.1):
                for place, one in enumerate(slow):
                    try:
                        taken += one.send(b"a")
                    except OSError:  # it was closed for its slowness; there is another at once
                        slow[place] = stack.enter_context(connect(daemon, HEAD))

        thread = Thread(target=dribble)
        thread.start()
        try:
            crowded = after_checks(daemon)
            answered, _ = daemon.call("PATCH", "/api/v1/pools/dns/backends/b1", {"weight": 2})
        finally:
            enough.set()
            thread.join()
        print(f"\nbegun within 0.25 s: {quiet[1]:g} of {quiet[0]:g} alone, {crowded[1]:g} of {crowded[0]:g} in a crowd")  # noqa: T201

        assert IDLE == len(crowd)
        assert taken > 10 * SLOW  # or else they were not let in
        assert 200 == answered
        assert crowded[1] >= 0.95 * crowded[0]
        assert [] == [one for one in daemon.events if one.kind == "backend_down"]
