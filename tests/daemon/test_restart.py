"""The daemon stops, dies and starts again while ONE client socket sends on: nothing is lost, nothing sticks."""

from __future__ import annotations

import random
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from daemons.answerer import Answerer
from daemons.processes import await_that
from flowing import Flow, longest_run, lost, sources, twice
from running import PORT, Running, dns

from nftlb.lab import VIP4, Lab

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CHECK = {
    "udp": {"send": "are you there", "match": "are you there"},
    "interval": "200ms",
    "fast_interval": "50ms",
    "timeout": "2s",  # a busy machine is no dead backend
}

pytestmark = pytest.mark.slow


def pools(lab: Lab) -> dict[str, Any]:
    return dns(lab, health=CHECK)


def packets(daemon: Running) -> int:
    """What the daemon says it has balanced, once its counters are fresh."""
    return int(daemon.client.document()["pools"][0]["packets"])


def test_killed_fifty_times(tmp_path: Path) -> None:
    """Killed at random moments and started anew, fifty times: no datagram lost, none stuck, counters go on."""
    chance = random.Random(20261123)  # noqa: S311 - the same moments in every run
    with Lab(backends=3) as lab, lab.serve(PORT), Running(lab.balancer, tmp_path, pools(lab)) as daemon:
        counted = []
        with Flow(lab.client, (VIP4, 53), rate=1000) as flow:
            for number in range(50):
                flow.wait(chance.randrange(1, 100))
                daemon.kill()
                flow.wait(chance.randrange(1, 50))
                daemon.start()
                if number % 10 == 0:
                    counted.append(packets(daemon))
        sent = flow.stop()

        assert [] == [one.number for one in lost(sent)]
        assert [] == twice(sent)
        assert {(VIP4, 53)} == sources(sent)
        assert counted == sorted(set(counted))
        # Each start may load the same rules again, but never does: the wheel turns on.
        assert 1 == longest_run(sent)


@pytest.mark.timeout(300)  # twenty starts of the daemon, a few seconds each where the machine is busy
@pytest.mark.parametrize("end", [Running.kill, Running.stop])
def test_ended_amid_changes(end: Callable[[Running], object], tmp_path: Path) -> None:
    """Killed, or told to end, at any moment while it takes a backend out or puts it back: no datagram is lost."""
    chance = random.Random(7)  # noqa: S311 - the same moments in every run
    with Lab(backends=4) as lab, lab.serve(PORT), Running(lab.balancer, tmp_path, pools(lab)) as daemon:
        with Flow(lab.client, (VIP4, 53), rate=1000) as flow:
            for number in range(20):
                path = f"/api/v1/pools/dns/backends/b{1 + number // 2 % 3}"
                with daemon.ask("PATCH", path, {"admin": ("drain", "enabled")[number % 2]}):
                    flow.wait(chance.randrange(1, 30))  # the answer comes after some 10 ms
                    end(daemon)
                daemon.start()
        sent = flow.stop()

        assert [] == [one.number for one in lost(sent)]
        assert [] == twice(sent)
        assert {(VIP4, 53)} == sources(sent)


def test_killed_while_it_starts(tmp_path: Path) -> None:
    """Killed at any moment of a start that changes the rules: no datagram is lost, none sticks; a last start succeeds.

    The moments begin in the first third of a start: the rules are changed about the middle.
    """
    chance = random.Random(40)  # noqa: S311 - the same parts of a start in every run
    with Lab(backends=4) as lab, lab.serve(PORT), Running(lab.balancer, tmp_path, pools(lab)) as daemon:
        daemon.kill()
        began = time.monotonic()
        daemon.start()
        took = time.monotonic() - began
        with Flow(lab.client, (VIP4, 53), rate=1000) as flow:
            daemon.kill()
            for number in range(20):
                daemon.write(without(lab, f"b{1 + number % 3}"))
                daemon.start_and_kill(took * chance.uniform(0.3, 1.0))
            daemon.write(without(lab, "b4"))
            daemon.start()
            last = time.monotonic()
            flow.wait(400)
        sent = flow.stop()

        assert [] == [one.number for one in lost(sent)]
        assert [] == twice(sent)
        assert {(VIP4, 53)} == sources(sent)
        # Two in a row where a change began the turns anew; a few where a stalled machine had several in between.
        assert longest_run(sent) <= 5
        assert {"b1", "b2", "b3"} == {one.backend for one in sent if one.at > last}


def without(lab: Lab, name: str) -> dict[str, Any]:
    """The pools, with one backend drained from the start."""
    found = pools(lab)
    backends = found["dns"]["backends"]
    backends[name] = {"address": backends[name].rpartition(":")[0], "port": PORT, "admin": "drain"}
    return found


def test_killed_with_answers_on_the_way(tmp_path: Path) -> None:
    """The next start takes over the zones: what waits at backends is answered, though the file has another order."""
    with Lab(backends=3) as lab, ExitStack() as stack:
        servers = [stack.enter_context(Answerer(host, port=PORT)) for host in lab.backends]
        daemon = stack.enter_context(Running(lab.balancer, tmp_path, dns(lab)))
        flow = stack.enter_context(Flow(lab.client, (VIP4, 53), rate=1000))
        flow.wait(100)
        for server in servers:
            server.stop()
        flow.wait(300)
        daemon.kill()
        turned = dns(lab)
        turned["dns"]["backends"] = dict(reversed(turned["dns"]["backends"].items()))
        daemon.write({"other": {"listen": f"{VIP4}:54/udp", "backends": {"b9": "10.9.9.9:9"}}, **turned})
        daemon.start()
        flow.wait(100)
        for server in servers:
            server.resume()
        flow.pause()
        sent = flow.stop()

        assert [] == twice(sent)
        assert {(VIP4, 53)} == sources(sent)


def test_killed_soon_after_a_backend_died(tmp_path: Path) -> None:
    """The next start knows who was down: the dead backend does not get its turns back until it is checked anew."""
    with Lab(backends=3) as lab, ExitStack() as servers:
        second = servers.enter_context(ExitStack())
        second.enter_context(lab.serve(PORT, backends=[lab.backends[1]]))
        servers.enter_context(lab.serve(PORT, backends=[lab.backends[0], lab.backends[2]]))
        pool = dns(lab, health=CHECK | {"interval": "1m"}, passive=True)
        daemon = servers.enter_context(Running(lab.balancer, tmp_path, pool))
        with Flow(lab.client, (VIP4, 53), rate=1000) as flow:
            flow.wait(100)
            second.close()
            daemon.wait("swap", since=daemon.wait("backend_down", "b2").at)
            out = time.monotonic()
            memory = daemon.state / "nftlb.json"
            await_that(lambda: memory.exists() and "false" in memory.read_text(), "b2 in the memory")
            daemon.kill()
            daemon.start()
            flow.wait(500)
        sent = flow.stop()

        assert [] == [one.number for one in lost(sent) if one.at > out]
        assert {"b1", "b3"} == {one.backend for one in sent if one.at > out}


def test_first_load_is_complete(tmp_path: Path) -> None:
    """From the first datagram that is answered on, each has its own turn: none sticks to a backend."""
    with Lab(backends=3) as lab, lab.serve(PORT), Flow(lab.client, (VIP4, 53), rate=2000) as flow:
        flow.wait(200)
        with Running(lab.balancer, tmp_path, pools(lab)):
            flow.wait(1500)
            sent = flow.stop()
        first = next(one.number for one in sent if one.backends)

        assert [] == [one.number for one in lost(sent[first:])]
        assert 1 == longest_run(sent[first:])
        assert {(VIP4, 53)} == sources(sent)


def test_stopped_and_started(tmp_path: Path) -> None:
    """SIGTERM leaves the rules and loses nothing; what the operator set holds at the next start."""
    with Lab(backends=3) as lab, lab.serve(PORT), Running(lab.balancer, tmp_path, pools(lab)) as daemon:
        with Flow(lab.client, (VIP4, 53), rate=1000) as flow:
            assert 200 == daemon.call("PATCH", "/api/v1/pools/dns/backends/b3", {"admin": "drain"})[0]
            drained = time.monotonic()
            flow.wait(200)
            assert 0 == daemon.stop()
            flow.wait(200)
            daemon.start()
            flow.wait(200)
        sent = flow.stop()
        remembered = daemon.backend("dns", "b3")["admin"]

        assert [] == [one.number for one in lost(sent)]
        assert {"b1", "b2"} == {one.backend for one in sent if one.at > drained}
        assert "drain" == remembered


def test_remove_takes_all_away(tmp_path: Path) -> None:
    """With --remove the tables go when it stops."""
    with Lab(backends=2) as lab:
        with Running(lab.balancer, tmp_path, pools(lab), options=("--remove",)):
            assert "table ip nftlb" in lab.nft("list tables")

        assert "" == lab.nft("list tables")
