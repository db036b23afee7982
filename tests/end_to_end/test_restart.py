"""The daemon stops, dies and restarts while ONE client socket sends: no datagram is lost, and turns continue."""

from __future__ import annotations

import os
import random
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from daemon_process import PORT, Running, dns
from servers.answerer import Answerer
from servers.processes import await_that
from steady_traffic import Flow, longest_run, lost, sources, twice

from nftlb.lab import VIP4, Lab

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CHECK = {
    "udp": {"send": "are you there", "match": "are you there"},
    "interval": "200ms",
    "fast_interval": "50ms",
    "timeout": "2s",  # so that a busy machine does not look like a dead backend
}

KILLS = int(os.environ.get("KILLS", "20"))

pytestmark = pytest.mark.slow


def pools(lab: Lab) -> dict[str, Any]:
    return dns(lab, health=CHECK)


def packets(daemon: Running) -> int:
    """The daemon's count of balanced datagrams, with counters read now."""
    return int(daemon.client.document()["pools"][0]["packets"])


@pytest.mark.timeout(60 + 6 * KILLS)
def test_killed_many_times(tmp_path: Path) -> None:
    """Killed at random moments and restarted many times: no datagram is lost, turns and counters continue."""
    chance = random.Random(20261123)  # noqa: S311 - the same moments in every run
    with Lab(backends=3) as lab, lab.serve(PORT), Running(lab.balancer, tmp_path, pools(lab)) as daemon:
        counted = []
        with Flow(lab.client, (VIP4, 53), rate=1000) as flow:
            for number in range(KILLS):
                flow.wait(chance.randrange(1, 100))
                daemon.kill()
                flow.wait(chance.randrange(1, 50))
                daemon.start()
                if number % 4 == 0:
                    counted.append(packets(daemon))
        sent = flow.stop()

        assert [] == [datagram.number for datagram in lost(sent)]
        assert [] == twice(sent)
        assert {(VIP4, 53)} == sources(sent)
        assert counted == sorted(set(counted))
        # No start loads the same rules again, so the turns continue.
        assert 1 == longest_run(sent)


@pytest.mark.timeout(300)  # twenty starts of the daemon, which take a few seconds each on a busy machine
@pytest.mark.parametrize(("end", "times"), [(Running.kill, 20), (Running.stop, 8)], ids=["kill", "stop"])
def test_ended_amid_changes(end: Callable[[Running], object], times: int, tmp_path: Path) -> None:
    """The daemon is killed or ended while it removes a backend or puts it back: no datagram is lost.

    SIGTERM waits for the end of a commit, so its moments differ less.
    """
    chance = random.Random(7)  # noqa: S311 - the same moments in every run
    with Lab(backends=4) as lab, lab.serve(PORT), Running(lab.balancer, tmp_path, pools(lab)) as daemon:
        with Flow(lab.client, (VIP4, 53), rate=1000) as flow:
            for number in range(times):
                path = f"/api/v1/pools/dns/backends/b{1 + number // 2 % 3}"
                with daemon.ask("PATCH", path, {"admin": ("drain", "enabled")[number % 2]}):
                    flow.wait(chance.randrange(1, 30))  # the reply comes after some 10 ms
                    end(daemon)
                daemon.start()
        sent = flow.stop()

        assert [] == [datagram.number for datagram in lost(sent)]
        assert [] == twice(sent)
        assert {(VIP4, 53)} == sources(sent)


def test_killed_while_it_starts(tmp_path: Path) -> None:
    """Killed at any moment of a start that changes the rules: no datagram is lost, turns continue, a last start works.

    The moments begin in the first third of a start, because the rules change in the middle of a start.
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

        assert [] == [datagram.number for datagram in lost(sent)]
        assert [] == twice(sent)
        assert {(VIP4, 53)} == sources(sent)
        # Two in a row if a change began the turns again; a few more if several changes were during a stall.
        assert longest_run(sent) <= 5
        assert {"b1", "b2", "b3"} == {datagram.backend for datagram in sent if datagram.at > last}


def without(lab: Lab, name: str) -> dict[str, Any]:
    """The pools, with one drained backend."""
    found = pools(lab)
    backends = found["dns"]["backends"]
    backends[name] = {"address": backends[name].rpartition(":")[0], "port": PORT, "admin": "drain"}
    return found


def test_in_flight_requests_survive_a_kill(tmp_path: Path) -> None:
    """The next start keeps the zones, even if the file has another order: in-flight requests get their replies."""
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
    """The next start knows which backends were down: a dead backend gets no turns until checks pass."""
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

        assert [] == [datagram.number for datagram in lost(sent) if datagram.at > out]
        assert {"b1", "b3"} == {datagram.backend for datagram in sent if datagram.at > out}


def test_first_load_is_complete(tmp_path: Path) -> None:
    """From the first reply on, each datagram has its own turn."""
    with Lab(backends=3) as lab, lab.serve(PORT), Flow(lab.client, (VIP4, 53), rate=2000) as flow:
        flow.wait(200)
        with Running(lab.balancer, tmp_path, pools(lab)):
            flow.wait(1500)
            sent = flow.stop()
        first = next(datagram.number for datagram in sent if datagram.backends)

        assert [] == [datagram.number for datagram in lost(sent[first:])]
        assert 1 == longest_run(sent[first:])
        assert {(VIP4, 53)} == sources(sent)


def test_stopped_and_started(tmp_path: Path) -> None:
    """SIGTERM leaves the rules and loses no datagram; settings of the operator are in force at the next start."""
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

        assert [] == [datagram.number for datagram in lost(sent)]
        assert {"b1", "b2"} == {datagram.backend for datagram in sent if datagram.at > drained}
        assert "drain" == remembered


def test_with_remove_the_daemon_deletes_its_tables(tmp_path: Path) -> None:
    """With --remove, the daemon deletes its tables when it stops."""
    with Lab(backends=2) as lab:
        with Running(lab.balancer, tmp_path, pools(lab), options=("--remove",)):
            assert "table ip nftlb" in lab.nft("list tables")

        assert "" == lab.nft("list tables")
