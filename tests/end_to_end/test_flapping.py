"""Three hundred backends flap at random for a minute under traffic: the status stays right, and nothing leaks."""

from __future__ import annotations

import random
import re
import selectors
import socket
import time
from bisect import bisect_left, bisect_right
from datetime import datetime
from http import HTTPStatus
from itertools import pairwise
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import pytest
from daemon_process import Running, Seen
from servers.processes import await_that
from steady_traffic import Flow, lost, sources, twice

from nftlb.lab import VIP4, Lab
from nftlb.lab.datagram import decode_datagram

if TYPE_CHECKING:
    from nftlb.lab import Host

PORTS = range(6000, 6100)
MINUTE = 60.0
ROUNDING = 0.005
"""Seconds by which a time may be wrong: the clock's own steps, and the time between a change and its event."""
CHECK = {
    "udp": {"send": "are you there", "match": "are you there"},
    "interval": "1s",
    "fast_interval": "200ms",
    "timeout": "300ms",
    "rise": 2,
    "fall": 2,
}


class Flapping:
    """UDP servers on all ports of all backends. A server replies only while it is `alive`."""

    def __init__(self, hosts: list[Host]) -> None:
        self.alive = {(host.name, port): True for host in hosts for port in PORTS}
        self._selector = selectors.DefaultSelector()
        self._stop, wake = socket.socketpair()
        self._selector.register(wake, selectors.EVENT_READ)
        for host in hosts:
            for port in PORTS:
                server = host.call(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
                server.bind((host.ipv4, port))
                server.setblocking(False)
                self._selector.register(server, selectors.EVENT_READ, (host.name, port))
        self._thread = Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.close()
        self._thread.join()
        for key in tuple(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    return
                assert isinstance(key.fileobj, socket.socket)
                payload, peer = key.fileobj.recvfrom(2048)
                if self.alive[key.data]:
                    decoded = decode_datagram(payload)
                    name = f"{key.data[0]}-{key.data[1]}"
                    key.fileobj.sendto(decoded[0].reply(name).encode() if decoded else payload, peer)


def pools(lab: Lab, **options: Any) -> dict[str, Any]:
    backends = {f"{host.name}-{port}": f"{host.ipv4}:{port}" for host in lab.backends for port in PORTS}
    return {"dns": {"listen": f"{VIP4}:53/udp", "backends": backends, **options}}


def descriptors(daemon: Running) -> int:
    return len(list(Path(f"/proc/{daemon.process.pid}/fd").iterdir()))


def held(daemon: Running) -> tuple[int, float]:
    """The numbers of descriptors and tasks of the daemon."""
    return descriptors(daemon), metric(daemon, "nftlb_tasks")


def resident(daemon: Running) -> int:
    """The daemon's memory in kilobytes."""
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1])  # type: ignore[index]


def metric(daemon: Running, name: str) -> float:
    text = daemon.call("GET", "/metrics")[1]
    return float(re.search(rf"^{name} (\S+)$", text, re.MULTILINE)[1])  # type: ignore[index]


def agreed(lab: Lab, servers: Flapping, document: dict[str, Any]) -> bool:
    """Whether status, kernel and reality agree about all backends."""
    real = {f"{host}-{port}" for (host, port), alive in servers.alive.items() if alive}
    backends = document["pools"][0]["backends"]
    up = {backend["name"] for backend in backends if backend["up"]}
    turning = {backend["name"] for backend in backends if backend["in_rotation"]}
    listing = lab.nft("list table ip nftlb")
    rules = re.search(r"chain prerouting-raw \{(.*?)\n\t\}", listing, re.DOTALL)[1]  # type: ignore[index]
    if current := re.search(r"vmap @(\S+)", rules):
        rules = re.search(rf"map {re.escape(current[1])} \{{(.*?)\n\t\}}", listing, re.DOTALL)[1]  # type: ignore[index]
    return real == up == turning == set(re.findall(r"goto backend/dns/([^,\s]+)", rules))


class Commit(NamedTuple):
    """The begin and end of a commit, in seconds of the wall clock."""

    began: float
    ended: float

    @classmethod
    def of(cls, swap: Seen) -> Commit:
        ended = moment(swap)
        return cls(ended - swap.event["details"]["seconds"], ended)


def moment(seen: Seen) -> float:
    """The time of an event by the daemon's own clock, which does not depend on when the test reads the event."""
    return datetime.fromisoformat(seen.event["at"]).timestamp()


def assert_one_commit_a_batch(transitions: list[Seen], swaps: list[Seen]) -> None:
    """Each commit is one transaction with a change, after a pause as long as the last commit."""
    assert {1} == {swap.event["details"]["transactions"] for swap in swaps}
    moments = sorted(map(moment, transitions))
    for last, this in pairwise([Commit(0.0, 0.0), *map(Commit.of, swaps)]):
        assert bisect_left(moments, last.began - ROUNDING) < bisect_right(moments, this.began + ROUNDING)
        assert this.began - last.ended > min(1.0, last.ended - last.began) - ROUNDING


@pytest.mark.slow
def test_a_minute_of_flapping(tmp_path: Path) -> None:
    """At the end status, kernel and reality agree; one commit a batch; no descriptor, task or memory is left."""
    chance = random.Random(300)  # noqa: S311 - the same in every run
    with (
        Lab(backends=3) as lab,
        Flapping(lab.backends) as servers,
        Running(lab.balancer, tmp_path, pools(lab)) as daemon,
    ):
        # The least of ten: the daemon may still be closing the connection of the last request.
        files, tasks = min(held(daemon) for _ in range(10))
        daemon.write(pools(lab, health=CHECK))
        assert daemon.call("POST", "/api/v1/reload")[0] == HTTPStatus.OK
        daemon.poll_status(lambda document: agreed(lab, servers, document), "agreement at the beginning")
        warm = 0
        with Flow(lab.client, (VIP4, 53), rate=500) as flow:
            begin = time.monotonic()
            while (passed := time.monotonic() - begin) < MINUTE:
                flow.wait(chance.randrange(1, 20))
                for who in chance.sample(sorted(servers.alive), chance.randrange(1, 8)):
                    servers.alive[who] = not servers.alive[who]
                if not warm and passed > MINUTE / 3:
                    warm = resident(daemon)
            daemon.poll_status(lambda document: agreed(lab, servers, document), "agreement at the end")
            settled = time.monotonic()
            flow.wait(1000)
        sent = flow.stop()
        transitions = [event for event in daemon.events if event.kind in ("backend_up", "backend_down")]
        swaps = [event for event in daemon.events if event.kind == "swap" and event.at > begin]
        memory = resident(daemon)
        # Without checks, whose sockets and tasks would change the numbers at any moment.
        daemon.write(pools(lab))
        assert daemon.call("POST", "/api/v1/reload")[0] == HTTPStatus.OK
        after = (files + 1, tasks)  # the descriptor that waits for replies stays after the first check
        await_that(lambda: held(daemon) == after, f"as few descriptors and tasks as before: {after}")
        print(  # noqa: T201 - figures for the documents, shown by pytest -s
            f"\n{len(transitions)} transitions, {len(swaps)} commits, before and after {tasks:g} tasks and "
            f"{files} descriptors, and one of checks; memory {warm} -> {memory} kB"
        )

        assert len(transitions) > 300
        assert_one_commit_a_batch(transitions, swaps)
        assert [] == [datagram.number for datagram in lost([datagram for datagram in sent if datagram.at > settled])]
        assert [] == twice(sent)
        assert {(VIP4, 53)} == sources(sent)
        assert memory < warm * 1.2
