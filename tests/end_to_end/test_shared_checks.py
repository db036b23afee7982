"""A server in twenty pools: the real daemon checks the server once in an interval, counted at the server."""

from __future__ import annotations

import re
import socket
from collections import Counter
from contextlib import suppress
from threading import Thread
from typing import TYPE_CHECKING, Self

from daemon_process import PORT, Running, at

from nftlb.lab import Lab

if TYPE_CHECKING:
    from pathlib import Path

POOLS = 20
INTERVAL = 0.25


class Answering:
    """Answers each datagram inside `with`, and counts them."""

    def __init__(self, opened: socket.socket) -> None:
        self.count = 0
        self._socket = opened
        self._thread = Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # the socket has no peer, but the shutdown ends recvfrom
            self._socket.shutdown(socket.SHUT_RD)
        self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        while True:
            request, sender = self._socket.recvfrom(64)
            if not request:
                return
            self.count += 1
            self._socket.sendto(b"pong", sender)


def bound(address: str) -> socket.socket:
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.bind((address, PORT))
    return opened


def test_a_server_of_twenty_pools_is_checked_once_in_an_interval(tmp_path: Path) -> None:
    """Each pool gets the results: all have the server at first, lose it by their own `fall`, and get it back."""
    with Lab(backends=1) as lab:
        (server,) = lab.backends
        checks = {"udp": {"send": "ping", "match": "^pong$"}, "interval": "250ms", "fast_interval": "250ms"}
        pools = {
            f"p{number}": {
                "listen": f"192.0.2.{number}:53/udp",
                "backends": {f"of{number}": at(server.address(4), PORT)},
                "health": {**checks, "timeout": "200ms", "fall": 1 if number % 2 else 6, "initial": "down", "rise": 1},
                "passive": False,
            }
            for number in range(1, POOLS + 1)
        }
        with Running(lab.balancer, tmp_path, pools) as daemon:
            with Answering(server.call(bound, server.address(4))) as answering:
                for number in range(1, POOLS + 1):
                    daemon.wait("backend_up", f"of{number}")
                # Checks go on while their results are read.
                begin, first, begun = answering.count, checked(daemon), answering.count
                daemon.poll_status(lambda _: checked(daemon)["p1"] >= first["p1"] + 8, "eight checks")
                end, after, ended = answering.count, checked(daemon), answering.count
            results = [after[name] - first[name] for name in pools]
            assert (len(pools), 8) <= (len(results), min(results))
            assert min(results) - 1 <= ended - begin
            assert end - begun <= max(results) + 2
            downs = [daemon.wait("backend_down", f"of{number}") for number in range(1, POOLS + 1)]
            early, late = downs[0::2], downs[1::2]
            assert max(seen.happened for seen in early) + 3 * INTERVAL < min(seen.happened for seen in late)
            with Answering(server.call(bound, server.address(4))):
                for number in range(1, POOLS + 1):
                    daemon.wait("backend_up", f"of{number}", count=2)


def checked(daemon: Running) -> Counter[str]:
    """How many results of checks each pool has."""
    _, text = daemon.call("GET", "/metrics")
    found = re.findall(r'^nftlb_checks_total\{[^}]*pool="([^"]*)"[^}]*\} (\S+)', text, flags=re.MULTILINE)
    counted: Counter[str] = Counter()
    for pool, value in found:
        counted[pool] += round(float(value))
    return counted
