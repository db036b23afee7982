"""Backends by name with the real daemon, a DNS server and ONE client socket: addresses come and go, and DNS dies."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from daemon_process import PORT, VIP, Running, at
from dns_zone import Zone
from servers.processes import await_that
from steady_traffic import Flow, Sent, lost, sources, twice

from nftlb.lab import Lab

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class NameScene(NamedTuple):
    """The lab, the DNS server, the daemon, and traffic."""

    lab: Lab
    zone: Zone
    daemon: Running
    flow: Flow
    version: int

    def addresses(self, *names: str) -> list[str]:
        return [host.address(self.version) for host in self.lab.backends if host.name in names]

    def shares(self, count: int = 120) -> dict[str, int]:
        """Send datagrams from now on. Return how many of them each backend got, when all have replies."""
        first = len(self.flow.sent)
        self.flow.wait(count)
        sent: list[Sent] = self.flow.sent[first : first + count]
        await_that(lambda: all(datagram.backends for datagram in sent), "replies to all datagrams")
        return {name: sum(datagram.backend == name for datagram in sent) for name in {one.backend for one in sent}}

    def awaits(self, *names: str) -> None:
        """Wait until these hosts, and no others, get packets."""
        wanted = set(self.addresses(*names))
        self.daemon.poll_status(
            lambda found: wanted == {one["address"] for one in found["pools"][0]["backends"] if one["in_rotation"]},
            f"the backends {names}",
        )

    def awaits_no_fault(self) -> None:
        """Wait until no fault is shown: a fault ends when the lookup is recorded, after its answer is in use."""
        self.daemon.poll_status(lambda found: not found["faults"], "the end of the faults")

    def name_status(self) -> dict[str, Any]:
        (found,) = self.daemon.client.document()["pools"][0]["names"]
        return dict(found)

    def faults(self) -> list[str]:
        return [fault["what"] for fault in self.daemon.client.document()["faults"]]


@contextmanager
def scene(
    directory: Path, version: int, backends: dict[str, Any], literal: str = "", **zone: str
) -> Iterator[NameScene]:
    """`literal`: a host that the file names by its address. `zone`: the hosts of each name."""
    with Lab(backends=3) as lab, ExitStack() as stack:
        hosts = {host.name: host.address(version) for host in lab.backends}
        records = {name: [hosts[one] for one in ones.split()] for name, ones in zone.items()}
        server = stack.enter_context(Zone(lab.balancer, **records))
        stack.enter_context(lab.serve(PORT))
        own = {literal: at(hosts[literal], PORT)} if literal else {}
        pools = {"dns": {"listen": f"{at(VIP[version], 53)}/udp", "backends": {**own, **backends}}}
        daemon = Running(lab.balancer, directory, pools)
        daemon.top = {"resolver": server.option}
        daemon.write(pools)
        stack.enter_context(daemon)
        flow = Flow(lab.client, (VIP[version], 53), rate=500)
        found = NameScene(lab, server, daemon, flow, version)
        found.awaits(*(zone.get("ns", literal).split()))
        stack.enter_context(flow)
        yield found


@pytest.mark.slow
@pytest.mark.parametrize("version", [4, 6])
def test_addresses_come_and_go(version: int, tmp_path: Path) -> None:
    """Traffic follows the records without a loss; without DNS the last answer stays, also over a restart."""
    with scene(tmp_path, version, {"ns": f"ns.lab:{PORT}"}, ns="b1 b2") as seen:
        assert {"b1": 60, "b2": 60} == seen.shares()
        seen.zone.set_addresses("ns", *seen.addresses("b3", "b2"))
        seen.awaits("b2", "b3")
        assert {"b2": 60, "b3": 60} == seen.shares()
        names = {f"ns-{address.replace(':', '-')}" for address in seen.addresses("b2", "b3")}
        assert names == set(seen.name_status()["backends"])

        seen.zone.silent.set()
        seen.daemon.wait("fault")
        assert {"b2": 60, "b3": 60} == seen.shares()
        assert (["name ns.lab"], True) == (seen.faults(), "within 2 s" in seen.name_status()["trouble"])

        seen.daemon.kill()
        seen.daemon.start()
        seen.daemon.poll_status(lambda _: "name ns.lab" in seen.faults(), "the fault after the restart")
        assert {"b2": 60, "b3": 60} == seen.shares()
        assert seen.name_status()["answered"] is None

        seen.zone.set_addresses("ns")  # an empty answer takes nothing away
        seen.zone.silent.clear()
        seen.daemon.poll_status(lambda _: "has no A" in seen.name_status()["trouble"], "the empty answer")
        assert {"b2": 60, "b3": 60} == seen.shares()

        seen.zone.set_addresses("ns", *seen.addresses("b1"))
        seen.awaits("b1")
        assert {"b1": 120} == seen.shares()
        seen.awaits_no_fault()
    sent = seen.flow.sent
    assert ([], [], {(VIP[version], 53)}) == (lost(sent), twice(sent), sources(sent))


@pytest.mark.slow
@pytest.mark.parametrize("version", [4, 6])
def test_a_drained_address_that_returns(version: int, tmp_path: Path) -> None:
    """A server that was drained gets no packet when its address is in the answers again, also after a restart."""
    with scene(tmp_path, version, {"ns": f"ns.lab:{PORT}"}, ns="b1 b2") as seen:
        (address,) = seen.addresses("b2")
        name = f"ns-{address.replace(':', '-')}"

        def awaits_presence(*, there: bool) -> None:
            seen.daemon.poll_status(
                lambda found: (name in {one["name"] for one in found["pools"][0]["backends"]}) is there,
                f"{name}: {there}",
            )

        assert 200 == seen.daemon.call("PATCH", f"/api/v1/pools/dns/backends/{name}", {"admin": "drain"})[0]
        assert {"b1": 120} == seen.shares()
        for restarts in (False, True):
            seen.zone.set_addresses("ns", *seen.addresses("b1"))
            awaits_presence(there=False)
            if restarts:
                seen.daemon.stop()  # saves the answer
                seen.daemon.start()
            seen.zone.set_addresses("ns", *seen.addresses("b1", "b2"))
            awaits_presence(there=True)
            assert {"b1": 120} == seen.shares()
        assert 200 == seen.daemon.call("PATCH", f"/api/v1/pools/dns/backends/{name}", {"admin": "enabled"})[0]
        assert {"b1": 60, "b2": 60} == seen.shares()
    sent = seen.flow.sent
    assert ([], [], {(VIP[version], 53)}) == (lost(sent), twice(sent), sources(sent))


@pytest.mark.slow
@pytest.mark.parametrize("version", [4, 6])
def test_a_name_that_does_not_exist_yet(version: int, tmp_path: Path) -> None:
    """The others serve. Then SRV records give ports and weights, and a record of a lower priority stands by."""
    with scene(tmp_path, version, {"srv": {"srv": "_dns._udp.lab"}}, "b1") as seen:
        assert {"b1": 120} == seen.shares()
        seen.daemon.poll_status(lambda _: ["name SRV _dns._udp.lab"] == seen.faults(), "the fault")
        for name in ("b1", "b2", "b3"):
            seen.zone.set_addresses(name, *seen.addresses(name))
        records = [f"5 10 {PORT} b2.lab.", f"5 20 {PORT} b3.lab.", f"9 1 {PORT + 1} b1.lab."]
        seen.zone.records["_dns._udp.lab.", "SRV"] = records
        seen.awaits("b1", "b2", "b3")
        weights = {one["address"]: one["weight"] for one in seen.daemon.client.document()["pools"][0]["backends"]}
        assert [1, 10, 20] == [weights[seen.addresses(name)[0]] for name in ("b1", "b2", "b3")]
        assert {"b1": 6, "b2": 60, "b3": 120} == seen.shares(186)
        priorities = {one["port"]: one["priority"] for one in seen.daemon.client.document()["pools"][0]["backends"]}
        assert {PORT: 1, PORT + 1: 2} == priorities
        seen.awaits_no_fault()
    sent = seen.flow.sent
    assert ([], [], {(VIP[version], 53)}) == (lost(sent), twice(sent), sources(sent))


def test_names_at_run_time(tmp_path: Path) -> None:
    """The API adds a name, refuses to remove one of its addresses, drains an address, and removes the name."""
    with scene(tmp_path, 4, {}, "b1") as seen:
        seen.zone.set_addresses("more", *seen.addresses("b2", "b3"))
        path = "/api/v1/pools/dns/backends"
        status, added = seen.daemon.call("POST", path, {"name": "more", "address": "more.lab", "port": PORT})
        assert (201, "more.lab") == (status, added["lookup"])
        seen.awaits("b1", "b2", "b3")
        assert {"b1": 40, "b2": 40, "b3": 40} == seen.shares()
        second, third = (f"more-{address}" for address in seen.addresses("b2", "b3"))
        assert 409 == seen.daemon.call("DELETE", f"{path}/{third}")[0]
        assert 404 == seen.daemon.call("PATCH", f"{path}/more", {"admin": "drain"})[0]
        assert 200 == seen.daemon.call("PATCH", f"{path}/{second}", {"admin": "drain"})[0]
        assert {"b1": 60, "b3": 60} == seen.shares()
        seen.daemon.stop()
        seen.daemon.start()
        assert {"b1": 60, "b3": 60} == seen.shares()
        assert 204 == seen.daemon.call("DELETE", f"{path}/more")[0]
        assert {"b1": 120} == seen.shares()
        assert ["b1"] == [one["name"] for one in seen.daemon.client.document()["pools"][0]["backends"]]
    assert ([], []) == (lost(seen.flow.sent), twice(seen.flow.sent))
