"""The times of surveys and of requests to neighbours, and their findings, in virtual time."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
from pool_builders import backends, config, pool
from virtual_time import START, play, settle

from nftlb.compiler.routes import tunnel_hop
from nftlb.daemon import surveyor as module
from nftlb.daemon.events import ActiveFaults
from nftlb.daemon.surveyor import AGAIN, ASK_AGAIN, Surveyor
from nftlb.errors import KernelError
from nftlb.kernel.neighbours import AskedNeighbours, Neighbour, State
from nftlb.kernel.rtnetlink import Route
from nftlb.kernel.surroundings import Interface, Lookup, Surroundings
from nftlb.kernel.tunnels import Link
from nftlb.model import Encap, Expect, Forward, Health, Helper, Icmp, Per, Udp

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from nftlb.model import Config, HostAddresses
    from nftlb.requirements import Lack

LISTEN = "192.0.2.53:53/udp"
TWO = backends("10.0.0.11:53", "10.0.0.12:53")
WEAK = (Health(check=Udp(expect=Expect.NO_ICMP_ERROR), interval=2000),)
PLAIN = config(pool("dns", LISTEN, TWO))
STRICT = config(pool("dns", LISTEN, TWO, health=(Health(check=Icmp()),)))
SILENT = config(pool("dns", LISTEN, TWO, health=WEAK))
B1, B2 = (Neighbour(2, ip_address(address)) for address in ("10.0.0.11", "10.0.0.12"))
FAILED = "no answer to ARP: neighbour 10.0.0.12 on eth1 failed"


class SurveyedHost:
    """A host with one interface that leads to both backends, and a HostObserver."""

    def __init__(self, of: Config, monkeypatch: pytest.MonkeyPatch) -> None:
        on_link = Route(4, 254, index=2, source=ip_address("10.0.0.1"))
        self.host = Surroundings(
            (Interface(1, "lo"), Interface(2, "eth1")),
            {Lookup(target.address): on_link for target in (B1, B2)},
            {4: True, 6: True},
        )
        self.trouble: Exception | None = None
        self.states = {B1: State.REACHABLE, B2: State.REACHABLE}
        self.looks: list[float] = []
        self.asked: list[tuple[float, set[Neighbour]]] = []
        self.unreachable: dict[tuple[str, str], str] = {}
        self.unconfirmed: dict[tuple[str, str], str] = {}
        self.lacking: list[str] = []
        self.addresses: list[HostAddresses] = []
        self.here: HostAddresses = {}
        self.refusal: Exception | None = None
        self.loads = 0
        self.faults = ActiveFaults(lambda _: None)
        self.surveyor = Surveyor(of, self, self.faults)
        monkeypatch.setattr(module, "read_surroundings", self.read_surroundings)
        monkeypatch.setattr(module, "read_host_addresses", self.read_host_addresses)
        monkeypatch.setattr(module, "ask_neighbours", self.ask_neighbours)

    @staticmethod
    def now() -> float:
        return asyncio.get_running_loop().time() - START

    def read_surroundings(self, _: Iterable[Lookup]) -> Surroundings:
        self.looks.append(self.now())
        if self.trouble:
            raise self.trouble
        return self.host

    def read_host_addresses(self) -> HostAddresses:
        return self.here

    def ask_neighbours(self, neighbours: Collection[Neighbour]) -> AskedNeighbours:
        self.asked.append((round(self.now(), 3), set(neighbours)))
        return AskedNeighbours(
            {neighbour: state for neighbour, state in self.states.items() if neighbour in neighbours}
        )

    def set_reachability(
        self, unreachable: Mapping[tuple[str, str], str], unconfirmed: Mapping[tuple[str, str], str]
    ) -> None:
        self.unreachable, self.unconfirmed = dict(unreachable), dict(unconfirmed)

    async def use_addresses(self, addresses: HostAddresses) -> None:
        self.addresses.append(addresses)
        if self.refusal:
            raise self.refusal

    def load_again(self) -> None:
        self.loads += 1

    def set_lacks(self, lacks: Iterable[Lack]) -> None:
        self.lacking = [lack.message for lack in lacks]


def test_a_neighbour_that_fails_and_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The backend of a failed neighbour is unreachable. Only this neighbour is asked, each second until it answers."""

    async def scene() -> None:
        host = SurveyedHost(PLAIN, monkeypatch)
        with host.surveyor:
            await host.surveyor.first_look()
            await asyncio.sleep(10)
            assert [] == host.asked
            host.surveyor.record_neighbours([(B2, State.FAILED), (Neighbour(3, B1.address), State.FAILED)])
            assert {("dns", "b2"): FAILED} == host.unreachable
            host.states[B2] = State.INCOMPLETE
            await asyncio.sleep(3 * ASK_AGAIN + 0.1)
            assert [(10.0 + step * ASK_AGAIN, {B2}) for step in range(4)] == host.asked
            assert {("dns", "b2"): FAILED} == host.unreachable
            host.surveyor.record_neighbours([(B2, State.REACHABLE)])
            assert {} == host.unreachable
            host.asked.clear()
            await asyncio.sleep(10)
            assert [] == host.asked

    play(scene())


@pytest.mark.parametrize("state", [State.STALE, State.DELAY, State.PROBE, State.PERMANENT, State.NOARP])
def test_a_neighbour_that_becomes_usable_is_reachable(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed neighbour that becomes usable is reachable, also without an announcement."""

    async def scene(*, announced: bool) -> None:
        host = SurveyedHost(PLAIN, monkeypatch)
        with host.surveyor:
            await host.surveyor.first_look()
            host.surveyor.record_neighbours([(B2, State.FAILED)])
            host.states[B2] = State.FAILED if announced else state
            if announced:
                host.surveyor.record_neighbours([(B2, state)])
            await asyncio.sleep(2 * ASK_AGAIN)
            assert {} == host.unreachable

    play(scene(announced=True))
    play(scene(announced=False))


def test_neighbours_behind_weak_checks_are_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neighbours are asked at each interval, and an unanswered request makes the backend unconfirmed."""

    async def scene() -> None:
        host = SurveyedHost(SILENT, monkeypatch)
        with host.surveyor:
            await host.surveyor.first_look()
            await asyncio.sleep(4.1)
            assert [(0.0, {B1, B2}), (2.0, {B1, B2}), (4.0, {B1, B2})] == host.asked
            host.states[B2] = State.INCOMPLETE
            await asyncio.sleep(2)
            words = "no answer yet to ARP: neighbour 10.0.0.12 on eth1 is looked for"
            assert {("dns", "b2"): words} == host.unconfirmed
            assert {} == host.unreachable
            host.surveyor.record_neighbours([(B2, State.REACHABLE)])
            assert {} == host.unconfirmed

    play(scene())


def test_an_old_failed_entry_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """An old FAILED entry does not count; after a new request the kernel announces the present state."""

    async def scene() -> None:
        host = SurveyedHost(SILENT, monkeypatch)
        host.states[B2] = State.FAILED
        with host.surveyor:
            await host.surveyor.first_look()
            await asyncio.sleep(1)
            assert {} == host.unreachable
            host.surveyor.record_neighbours([(B2, State.FAILED)])
            assert {("dns", "b2"): FAILED} == host.unreachable

    play(scene())


def test_an_announced_failure_overrides_an_older_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """An announced failure is not undone by an older state that is read at the same time."""

    async def scene() -> None:
        host = SurveyedHost(SILENT, monkeypatch)
        with host.surveyor:
            await host.surveyor.first_look()
            await asyncio.sleep(1)
            plain = host.ask_neighbours

            def ask_neighbours(neighbours: Collection[Neighbour]) -> AskedNeighbours:
                found = plain(neighbours)
                host.surveyor.record_neighbours([(B2, State.FAILED)])
                return found

            monkeypatch.setattr(module, "ask_neighbours", ask_neighbours)
            await asyncio.sleep(1.5)
            monkeypatch.setattr(module, "ask_neighbours", lambda _: AskedNeighbours({}))
            assert {("dns", "b2"): FAILED} == host.unreachable

    play(scene())


def test_simultaneous_changes_cause_one_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed neighbour is forgotten when its link is replaced."""

    async def scene() -> None:
        host = SurveyedHost(STRICT, monkeypatch)
        with host.surveyor:
            await host.surveyor.first_look()
            host.surveyor.record_neighbours([(B2, State.FAILED)])
            host.host = replace(host.host, routes={Lookup(B1.address): host.host.routes[Lookup(B1.address)]})
            for _ in range(100):
                host.surveyor.suspect()
            await asyncio.sleep(0.5)
            assert 2 == len(host.looks)
            assert {("dns", "b2"): "no route to 10.0.0.12"} == host.unreachable
            assert ["there is no route to 10.0.0.12, backend dns/b2"] == host.lacking
            host.surveyor.follow(config(pool("dns", LISTEN, TWO[:1])))
            await asyncio.sleep(0.5)
            assert ({}, []) == (host.unreachable, host.lacking)

    play(scene())


def test_a_missing_helper_is_looked_for_until_the_kernel_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel does not announce modules, so it is asked until it has the helper, and then the host is read again."""

    async def scene() -> None:
        boot = pool("boot", "192.0.2.69:69/udp", TWO, per=Per.FLOW, helper=Helper.TFTP)
        host = SurveyedHost(config(boot), monkeypatch)
        missing = [frozenset({"tftp"})] * 9
        monkeypatch.setattr(module, "_missing_options", lambda _: missing.pop() if missing else frozenset())
        with host.surveyor:
            await host.surveyor.first_look()
            assert ["the kernel has no helper for tftp, which pool boot needs"] == host.lacking
            await asyncio.sleep(60)
            assert ([], [], 2) == (missing, host.lacking, len(host.looks))

    play(scene())


def test_new_addresses_are_reported_until_the_kernel_has_rules_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the kernel refuses, that is a fault, and tried again. Without such a listener, addresses do not matter."""
    waiting = config(pool("dns", "eth1:53/udp", TWO))

    async def scene() -> None:
        host = SurveyedHost(PLAIN, monkeypatch)
        host.here, host.refusal = {"eth1": (ip_address("192.0.2.53"),)}, KernelError("no memory")
        with host.surveyor:
            await host.surveyor.first_look()
            host.surveyor.suspect()
            await asyncio.sleep(1)
            assert [] == host.addresses
            host.surveyor.follow(waiting)
            await asyncio.sleep(0.5)
            assert [host.here] == host.addresses
            assert ["listeners still have the former addresses of this host: no memory"] == [
                fault.message for fault in host.faults.all()
            ]
            host.refusal = None
            await asyncio.sleep(AGAIN + 1)
            assert ([host.here] * 2, ()) == (host.addresses, host.faults.all())

    play(scene())


def test_addresses_are_followed_during_the_pause_of_surveys(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the survey of a large configuration comes a long pause, which holds no address up."""
    dns = pool("dns", LISTEN, TWO)
    made = config(replace(dns, listen=(replace(dns.listen[0], origin="*:53/udp"),)))
    plain = module._timed_view
    monkeypatch.setattr(module, "_timed_view", lambda of: (plain(of)[0], AGAIN))

    async def scene() -> None:
        host = SurveyedHost(made, monkeypatch)
        with host.surveyor:
            await host.surveyor.first_look()
            await asyncio.sleep(1)
            host.here = {"eth1": (ip_address("192.0.2.54"),)}
            host.surveyor.suspect()
            await asyncio.sleep(0.1)
            assert (host.here, 1) == (host.addresses[-1], len(host.looks))

    play(scene())


def test_an_unexpected_exception_ends_no_survey(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both tasks try again without an announcement, and a fault with the addresses takes no finding away."""
    waiting = config(pool("dns", "*:53/udp", TWO))

    async def scene() -> None:
        host = SurveyedHost(waiting, monkeypatch)
        host.refusal, host.trouble, host.host = RuntimeError("bug"), RuntimeError("bug"), replace(host.host, routes={})
        with host.surveyor:
            await host.surveyor.first_look()
            await asyncio.sleep(1)
            assert ({}, 1) == (host.unreachable, len(host.addresses))
            host.trouble = None
            await asyncio.sleep(AGAIN + 1)
            assert {("dns", "b1"), ("dns", "b2")} == host.unreachable.keys()
            assert 2 == len(host.addresses)

    play(scene())


def test_a_host_that_can_not_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed survey is a fault and is tried again. The earlier findings stay, and the daemon starts."""

    async def scene() -> None:
        host = SurveyedHost(PLAIN, monkeypatch)
        host.trouble = KernelError("not permitted")
        with host.surveyor:
            await host.surveyor.first_look()
            await settle()
            assert ["not permitted"] == [fault.message for fault in host.faults.all()]
            host.trouble = None
            await asyncio.sleep(AGAIN + 1)
            assert () == host.faults.all()
            assert 2 == len(host.looks)

    play(scene())


def test_a_tunnel_whose_own_address_is_gone_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A load is asked for when the address of a tunnel goes away, once each time it goes, and not while it is there."""
    far, own = ip_address("fd00::11"), ip_address("fd00::1")
    tunnelled = pool("dns", "[2001:db8::53]:53/udp", backends("[fd00::11]:53"), forward=Forward.DSR, encap=Encap.GRE)
    tunnels = {tunnel_hop(Encap.GRE, far).device: Link(7, ours=True, up=True, kind="ip6gre", local=own, remote=far)}
    monkeypatch.setattr(module, "read_tunnels", lambda: tunnels)
    monkeypatch.setattr(module, "missing_kinds", lambda _: frozenset())

    async def scene() -> None:
        host = SurveyedHost(config(tunnelled), monkeypatch)
        gone = replace(
            host.host, interfaces=(Interface(2, "eth1"),), routes={Lookup(far): Route(6, 254, index=2, source=own)}
        )
        here = replace(gone, interfaces=(Interface(2, "eth1", addresses=frozenset({own})),))
        host.host = here
        loads = []
        with host.surveyor:
            await host.surveyor.first_look()
            for host.host in (here, gone, gone, here, gone):
                host.surveyor.suspect()
                await asyncio.sleep(1)
                loads.append((host.loads, ("dns", "b1") in host.unreachable))
        assert [(0, False), (1, True), (1, True), (1, False), (2, True)] == loads

    play(scene())
