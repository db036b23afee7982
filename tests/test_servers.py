"""The real servers of the end-to-end tests: they reply, fail in each kind of outage, and leave no trace."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from lab_parameters import with_and_without_offload
from servers import processes, programs
from servers.certificate import self_signed
from servers.chrony import Chrony
from servers.link import Link
from servers.nginx import Nginx
from servers.outage import HEALTHY, KILLED, LATE, OUTAGES, SLOW, STOPPED, WRONG, Outage, Symptom
from servers.rsyslog import Rsyslog
from servers.services import ANSWERING, SERVICES, Service
from servers.sipp import Sipp
from servers.unbound import Unbound

from nftlb.config import parse_config
from nftlb.errors import SystemFault
from nftlb.lab import VIP4, Lab, userns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from servers.daemon import Daemon

    from nftlb.lab import Host

SOON, PATIENT = 0.3, 20.0
TRIES = 4
"""Requests of which one is in time, although the machine stands still now and then."""

every_service = pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
every_outage = pytest.mark.parametrize(
    ("service", "outage"),
    [
        pytest.param(service, outage, id=f"{service.name}-{outage.name}")
        for service in SERVICES
        for outage in OUTAGES
        if outage.can_have(service)
    ],
)


@pytest.fixture(scope="module", autouse=True)
def _may_make_namespaces() -> None:
    """Enter a user namespace, so that the tests run without root too."""
    userns.ensure()


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty directory for the servers' directories, with a path short enough for Unix sockets."""
    with tempfile.TemporaryDirectory() as directory:
        monkeypatch.setattr(tempfile, "tempdir", directory)
        yield Path(directory)


def symptom(daemon: Daemon, source: Host) -> Symptom:
    """The symptom in one request. A reply is late if it comes after the time-out of a check."""
    try:
        answer = daemon.ask(source, timeout=PATIENT)
    except ConnectionRefusedError:
        return Symptom.REFUSAL
    except OSError:
        return Symptom.SILENCE
    if not answer.right:
        return Symptom.WRONG
    return Symptom.LATE if answer.seconds >= LATE else Symptom.NOTHING


def see(daemon: Daemon, source: Host, expected: Symptom) -> None:
    """Assert that a server shows a symptom."""
    if expected is Symptom.SILENCE:
        with pytest.raises(OSError, match=r"timed out|not in the file|No route to host"):
            daemon.ask(source, timeout=SOON)
    elif expected is Symptom.CHANGING:
        wanted, deadline = {True, False}, time.monotonic() + 3 * PATIENT
        while wanted and time.monotonic() < deadline:
            try:
                daemon.ask(source, timeout=0.02)
                wanted.discard(True)
            except TimeoutError:
                wanted.discard(False)
        assert set() == wanted
    elif expected is Symptom.NOTHING:
        tries = 1
        while (found := symptom(daemon, source)) is Symptom.LATE and tries < TRIES:
            tries += 1
        assert found is Symptom.NOTHING
    else:
        assert expected is symptom(daemon, source)


@every_outage
def test_outage_shows_and_passes(service: Service, outage: Outage) -> None:
    """Every outage has its declared symptom, and after the outage the server replies rightly at once."""
    with Lab(backends=1) as lab, service.make(lab.backends[0]) as daemon, Link(lab, lab.backends[0]) as link:
        with outage.cause(daemon, link):
            see(daemon, lab.balancer, outage.symptom)
        see(daemon, lab.balancer, Symptom.NOTHING)


@every_service
def test_ipv6(service: Service) -> None:
    """Every server works over IPv6 too, killed and started again."""
    with Lab(backends=1) as lab, service.make(lab.backends[0], version=6) as daemon, Link(lab, lab.backends[0]) as link:
        see(daemon, lab.balancer, Symptom.NOTHING)
        with KILLED.cause(daemon, link):
            see(daemon, lab.balancer, Symptom.REFUSAL)
        see(daemon, lab.balancer, Symptom.NOTHING)


@every_service
def test_same_server_on_several_backends(service: Service) -> None:
    """Three servers of a kind run at the same time, on a chosen port; an outage of one does not affect the others."""
    with Lab(backends=3) as lab:
        first, second, third = (service.make(host, port=5353) for host in lab.backends)
        with first, second, third:
            third.stop()
            first.kill()
            see(first, lab.balancer, Symptom.REFUSAL)
            see(second, lab.balancer, Symptom.NOTHING)
            see(third, lab.balancer, Symptom.SILENCE)
            first.start()
            see(first, lab.balancer, Symptom.NOTHING)


@pytest.mark.parametrize(
    "service", [service for service in SERVICES if service.make is not Sipp], ids=lambda service: service.name
)
def test_several_addresses(service: Service) -> None:
    """A server can listen at an address of each family at once."""
    with Lab(backends=1) as lab:
        host = lab.backends[0]
        with service.make(host, addresses=[host.ipv4, host.ipv6]) as daemon:
            see(daemon, lab.balancer, Symptom.NOTHING)
            daemon.addresses = daemon.addresses[::-1]
            see(daemon, lab.balancer, Symptom.NOTHING)


def test_address_of_balancer_when_backends_answer_directly() -> None:
    """In the switched lab, a server can listen at the VIP besides its own address, as dsr needs."""
    with Lab(backends=1, dsr=True) as lab:
        host = lab.backends[0]
        with Unbound(host, addresses=[host.ipv4, VIP4]) as daemon:
            see(daemon, lab.balancer, Symptom.NOTHING)
            daemon.addresses = (VIP4,)
            see(daemon, host, Symptom.NOTHING)


@pytest.mark.parametrize("service", ANSWERING, ids=lambda service: service.name)
def test_start_is_always_healthy(service: Service) -> None:
    """A server with wrong replies that was killed replies rightly after a new start, and can be made wrong again."""
    with Lab(backends=1) as lab, service.make(lab.backends[0]) as daemon:
        daemon.wrong()
        daemon.kill()
        daemon.start()
        see(daemon, lab.balancer, Symptom.NOTHING)
        daemon.wrong()
        see(daemon, lab.balancer, Symptom.WRONG)


@every_service
def test_suggested_check_is_valid(service: Service) -> None:
    """The check that a server suggests is valid in a configuration."""
    with Lab(backends=1) as lab, service.make(lab.backends[0]) as daemon:
        text = f"""
pools:
  p:
    listen: 192.0.2.53:{daemon.port}/{service.transport}
    backends: {{b1: "{daemon.address}:{daemon.port}"}}
    health: {json.dumps(daemon.check)}
"""
        (pool,) = parse_config(text).pools
        assert [*daemon.check] == [health.check.kind for health in pool.health]


def test_syslog_lines_are_counted() -> None:
    """The lines of a client are in the server's file."""
    with Lab(backends=1) as lab, Rsyslog(lab.backends[0]) as daemon:
        before = len(daemon.received())
        assert [daemon.ask(lab.client).what for _ in range(12)] == ["received"] * 12
        assert 12 == len(daemon.received()) - before


def test_servers_can_share_a_certificate(temporary: Path) -> None:
    """Two servers show the same given certificate."""
    shared = self_signed(temporary)
    with Lab(backends=2) as lab:
        first, second = (Nginx(host, certificate=shared) for host in lab.backends)
        with first, second:
            assert (
                str(temporary / "certificate.pem") == first.check["http"]["ca_file"] == second.check["http"]["ca_file"]
            )
            see(first, lab.balancer, Symptom.NOTHING)
            see(second, lab.balancer, Symptom.NOTHING)


def test_clock_is_left_alone() -> None:
    """The NTP server reports that it does not control the clock."""
    with Lab(backends=1) as lab, Chrony(lab.backends[0]) as daemon:
        assert "Disabled control of system clock" in daemon.log()


@pytest.mark.parametrize("dsr", [False, True], ids=["routed", "switched"])
@pytest.mark.parametrize("version", [4, 6])
@with_and_without_offload
def test_link_is_as_before(dsr: bool, version: int, offload: bool) -> None:
    """After it was down or slow, in either lab, a link has its former interfaces, addresses, routes and rules."""

    def state(host: Host) -> list[str]:
        listings = (["ip", "-br", "link"], ["ip", "-4", "route"], ["ip", "-6", "route"], ["nft", "list", "ruleset"])
        shown = sorted(line for listing in listings for line in host.run(listing).splitlines())
        return [*shown, *sorted(item.split("fe80")[0] for item in host.run(["ip", "-br", "address"]).splitlines())]

    with Lab(backends=1, dsr=dsr, offload=offload) as lab, Unbound(lab.backends[0], version=version) as daemon:
        host = lab.backends[0]
        before = state(host)
        with Link(lab, host) as link:
            link.down()
            see(daemon, lab.balancer, Symptom.SILENCE)
            link.up()
            see(daemon, lab.balancer, Symptom.NOTHING)
            link.slow(LATE)
            see(daemon, lab.balancer, Symptom.LATE)
            link.down()
            see(daemon, lab.balancer, Symptom.SILENCE)
        see(daemon, lab.balancer, Symptom.NOTHING)
        assert before == state(host)


def remains(directory: Path) -> list[str]:
    """The content of the temporary directory, and this process's children and threads."""
    children = [file.read_text(encoding="ascii") for file in Path("/proc/self/task").glob("*/children")]
    threads = [thread.name for thread in threading.enumerate()]
    return [*(path.name for path in directory.iterdir()), *sorted(" ".join(children).split()), *sorted(threads)]


@every_service
@pytest.mark.parametrize("outage", [HEALTHY, STOPPED, KILLED, WRONG, SLOW], ids=lambda outage: outage.name)
def test_nothing_is_left(service: Service, outage: Outage, temporary: Path) -> None:
    """When a server is closed, in any outage, its processes, its files and our threads end."""
    before = remains(temporary)
    with Lab(backends=1) as lab:
        with service.make(lab.backends[0]) as daemon, Link(lab, lab.backends[0]) as link:
            group = daemon.pid
            assert group in processes.members(group)
            assert [daemon.directory] == list(temporary.iterdir())
            begin = {STOPPED: daemon.stop, KILLED: daemon.kill, SLOW: lambda: link.slow(LATE), WRONG: daemon.wrong}
            if outage is not HEALTHY and outage.can_have(service):
                begin[outage]()
        assert {} == processes.members(group)
    assert Counter() == Counter(remains(temporary)) - Counter(before)  # a thread of another test may have ended


def test_server_that_can_not_start(temporary: Path) -> None:
    """The error has the server's own message, and no trace is left."""
    before = remains(temporary)
    with Lab(backends=1) as lab, Unbound(lab.backends[0]):
        twin = Unbound(lab.backends[0], addresses=["192.0.2.99"])
        with pytest.raises(SystemFault, match=r"(?s)did not start: it has ended.*192\.0\.2\.99"), twin:
            pass
    assert Counter() == Counter(remains(temporary)) - Counter(before)  # a thread of another test may have ended


def test_tests_that_are_killed(temporary: Path) -> None:
    """When the test process is killed, all processes of a server end too, even if they are stopped."""
    script = f"""
import sys
sys.path[:0] = {sys.path!r}
from servers.nginx import Nginx
from nftlb.lab import Lab
with Lab(backends=1) as lab, Nginx(lab.backends[0]) as daemon:
    daemon.stop()
    print(daemon.pid, flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, "TMPDIR": str(temporary)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as tests:
        assert tests.stdout
        group = int(tests.stdout.readline())
        assert 2 == len(processes.members(group))
        tests.kill()
    processes.await_that(lambda: not processes.members(group), "the server has ended")
    processes.await_that(lambda: not list(temporary.iterdir()), "its files are gone")


def test_program_that_is_missing() -> None:
    """The message names the command that installs the program."""
    with pytest.raises(SystemFault, match=r"no-such-server is missing: run tools/servers\.sh "):
        programs.program("no-such-server")
