"""The distribution's own servers behind the daemon: in every kind of outage, they are out in time and back in time."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from daemon_process import Running
from machine_stalls import Stalls
from servers.certificate import self_signed
from servers.link import Link
from servers.nginx import Nginx
from servers.outage import FLAPPING, HEALTHY, KILLED, OUTAGES, Outage, Symptom
from servers.processes import members
from servers.services import SERVICES, Service
from steady_traffic import Flow

from nftlb.lab import VIP4, VIP6, Lab

if TYPE_CHECKING:
    from pathlib import Path

    from servers.daemon import Daemon

INTERVAL, FAST, TIMEOUT, RISE, FALL = 0.5, 0.2, 0.4, 2, 3
TIMERS = {"interval": "500ms", "fast_interval": "200ms", "timeout": "400ms", "rise": RISE, "fall": FALL}
LATE = 0.05
"""Seconds within which the kernel follows the last necessary check."""
WAKINGS = 3
"""How often a check waits for a processor, at least: the daemon at the start, the server, and the daemon again."""
PATIENT = 5.0
"""Seconds within which a backend is back, without stalls of the machine."""
SAID = {"dns": "refused", "radius": "reject", "ntp": "synchronised", "snmp": "nosuchobject", "sip": "503"}


def make(service: Service, lab: Lab, version: int, folder: Path) -> list[Daemon]:
    """Two servers. Over TLS, they share a certificate, which the check of their pool trusts."""
    options = {"certificate": self_signed(folder)} if service.name == "https" else {}
    return [service.make(host, version=version, **options) for host in lab.backends]


def pool(servers: list[Daemon], version: int, protocol: str) -> dict[str, Any]:
    vip = f"{VIP4}:9000" if version == 4 else f"[{VIP6}]:9000"
    written = "{}:{}" if version == 4 else "[{}]:{}"
    backends = {f"b{n}": written.format(server.address, server.port) for n, server in enumerate(servers, 1)}
    return {"listen": f"{vip}/{protocol}", "backends": backends, "health": {**servers[0].check, **TIMERS}}


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_outages(service: Service, version: int, tmp_path: Path) -> None:
    """In each kind of outage, one of two servers is out in time and back in time; the other server stays in."""
    with Lab(backends=2) as lab, ExitStack() as stack:
        servers = [stack.enter_context(server) for server in make(service, lab, version, tmp_path)]
        link = stack.enter_context(Link(lab, lab.backends[0]))
        daemon = stack.enter_context(Running(lab.balancer, tmp_path, {"it": pool(servers, version, service.transport)}))
        stalls = stack.enter_context(Stalls(lambda: [daemon.process.pid, *members(servers[0].pid)]))
        checked(daemon)
        late = {
            outage.name: suffer(daemon, outage, servers[0], link, service, stalls)
            for outage in OUTAGES
            if outage.can_have(service)
        }

        assert [] == [event for event in daemon.events if event.backend == "b2"]
    delays = [f"{name} {moment}" for name, moments in late.items() for moment in moments]
    print(f"\n{service.name} IPv{version}, after the bound: {', '.join(delays)}")  # noqa: T201
    assert [] == [moment for moments in late.values() for moment in moments if not moment.kept]


# tests/end_to_end/test_failover.py has each rate with each version of IP.
@pytest.mark.parametrize(("version", "rate"), [(4, 1000), (6, 200)])
@pytest.mark.parametrize("service", [kind for kind in SERVICES if kind.transport == "udp"], ids=lambda kind: kind.name)
def test_killed_under_traffic(service: Service, version: int, rate: int, tmp_path: Path) -> None:
    """A killed server is out in time, although traffic behind `masquerade` gets most of the refusals."""
    vip = VIP4 if version == 4 else VIP6
    with Lab(backends=2) as lab, ExitStack() as stack:
        servers = [stack.enter_context(server) for server in make(service, lab, version, tmp_path)]
        link = stack.enter_context(Link(lab, lab.backends[0]))
        daemon = stack.enter_context(Running(lab.balancer, tmp_path, {"it": pool(servers, version, service.transport)}))
        stalls = stack.enter_context(Stalls(lambda: [daemon.process.pid, *members(servers[0].pid)]))
        # These servers don't reply to the datagrams of this flow, except with errors.
        flow = stack.enter_context(Flow(lab.client, (vip, 9000), rate=rate))
        checked(daemon)
        flow.wait(rate)
        begun = stalls.mark()
        with KILLED.cause(servers[0], link):
            out = daemon.wait("swap", since=daemon.wait("backend_down", "b1", since=begun.at).at)
            lost = stalls.since(begun, WAKINGS * (FALL + 1))
        took = out.happened - begun.at
        print(f"\n{service.name} IPv{version}, {rate}/s: out after {took * 1e3:.0f} ms")  # noqa: T201

        assert [] == [event for event in daemon.events if event.backend == "b2"]
    assert Moment("out", took - out_bound(KILLED), lost).kept


@dataclass(frozen=True)
class Moment:
    """The time at which the kernel followed: seconds after the bound, which may be negative; and seconds of stalls."""

    what: str
    late: float
    stalled: float

    @property
    def kept(self) -> bool:
        return self.late < LATE + self.stalled

    def __str__(self) -> str:
        return f"{self.what} {self.late * 1e3:+.0f} ms (stalls {self.stalled * 1e3:.0f})"


def out_bound(outage: Outage) -> float:
    """The most seconds until `fall` checks have failed: a refusal or a wrong reply comes at once."""
    takes = TIMEOUT if outage.symptom in {Symptom.SILENCE, Symptom.LATE} else 0.0
    return INTERVAL + (FALL - 1) * max(FAST, takes) + takes


def back_bound(service: Service) -> float:
    """The most seconds until `rise` checks have passed: without replies, each check has to wait for an error."""
    takes = 0.0 if service.answers else TIMEOUT
    return INTERVAL + (RISE - 1) * max(FAST, takes) + takes


def suffer(
    daemon: Running, outage: Outage, server: Daemon, link: Link, service: Service, stalls: Stalls
) -> list[Moment]:
    """Cause an outage. Return the moments at which b1 was out and back, if it was."""
    begin = time.monotonic()
    if not outage.can_be_seen(service):
        with outage.cause(server, link):
            checked(daemon)
            checked(daemon)
        assert [] == [event for event in daemon.events if event.at > begin and outage is HEALTHY]
        return []
    with outage.cause(server, link):
        begun = stalls.mark()
        if outage is FLAPPING:
            checked(daemon)
        else:
            out = daemon.wait("swap", since=daemon.wait("backend_down", "b1", since=begin).at)
            lost = stalls.since(begun, WAKINGS * (FALL + 1))
            late = [Moment("out", out.happened - begun.at - out_bound(outage), lost)]
            status = daemon.backend("it", "b1")
            assert (False, False) == (status["up"], status["in_rotation"])
            if outage.symptom is Symptom.WRONG:
                assert SAID.get(service.name, "503") in status["reason"].lower()
    over = stalls.mark()
    if outage is FLAPPING:
        daemon.poll_status(lambda found: found["pools"][0]["backends"][0]["up"] and found, "b1's return")
        assert time.monotonic() - over.at - stalls.since(over, WAKINGS * (RISE + 1)) < PATIENT
        return []
    back = daemon.wait("swap", since=daemon.wait("backend_up", "b1", since=out.at).at)
    lost = stalls.since(over, WAKINGS * (RISE + 1))
    late.append(Moment("back", back.happened - over.at - back_bound(service), lost))
    return late


def checked(daemon: Running) -> None:
    """Wait until all backends have had two more checks."""

    def moments(status: dict[str, Any]) -> list[str | None]:
        return [backend["checks"][0]["at"] for backend in status["pools"][0]["backends"]]

    def once() -> None:
        before = moments(daemon.client.document())
        daemon.poll_status(
            lambda status: all(now and now != then for now, then in zip(moments(status), before, strict=True)),
            "a check of another program",
        )

    once()
    once()


def test_bad_certificates(tmp_path: Path) -> None:
    """A server with an untrusted certificate, or one of another name, is out; the reason says why."""
    with Lab(backends=1) as lab, ExitStack() as stack:
        (tmp_path / "good").mkdir()
        certificate = self_signed(tmp_path / "good")
        server = stack.enter_context(Nginx(lab.backends[0], tls=True, certificate=certificate))
        good = server.check["http"]
        checks = {
            "good": good,
            "untrusted": {key: value for key, value in good.items() if key != "ca_file"},
            "another": {**good, "sni": "other.example"},
            "unchecked": {key: value for key, value in good.items() if key != "ca_file"} | {"verify": False},
        }
        backends = {"b1": f"{server.address}:{server.port}"}
        pools = {
            name: {
                "listen": f"{VIP4}:{9000 + number}/tcp",
                "backends": backends,
                "health": {"http": check, **TIMERS, "initial": "down" if name in ("good", "unchecked") else "up"},
            }
            for number, (name, check) in enumerate(checks.items())
        }
        daemon = stack.enter_context(Running(lab.balancer, tmp_path, pools))

        def settled(found: dict[str, Any]) -> Any:
            up = {shown["name"]: shown["backends"][0]["up"] for shown in found["pools"]}
            return up == {"good": True, "untrusted": False, "another": False, "unchecked": True} and found

        status = daemon.poll_status(settled, "what each check must come to")
        reasons = {shown["name"]: shown["backends"][0]["reason"] for shown in status["pools"]}

        assert "self-signed" in reasons["untrusted"] or "self signed" in reasons["untrusted"]
        assert "other.example" in reasons["another"]
