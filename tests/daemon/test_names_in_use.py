"""Answers of DNS and reloads with names, over a kernel in memory: none takes the last backends away."""

from __future__ import annotations

import asyncio
import time
from ipaddress import ip_address
from types import SimpleNamespace
from typing import TYPE_CHECKING, NamedTuple

import pytest
from daemon_wiring import OTHER, TESTER, WiredDaemon, document, found, shares
from virtual_time import elapsed, play

from nftlb import resolver
from nftlb.config import lookups_of
from nftlb.daemon import events
from nftlb.errors import SystemFault
from nftlb.health.absent import KEPT, MOST
from nftlb.model import EVERY_BACKEND, Admin, BackendChange, BackendKey, Family, FoundServer, HostLookup
from nftlb.resolver import LookupResult
from nftlb.service import UnknownBackend

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from nftlb.model import NameServers
    from nftlb.service import PoolStatus

NS, NEW = HostLookup("ns.lab"), HostLookup("new.lab")
NAMED = {"listen": "192.0.2.53:53/udp", "backends": {"ns": "ns.lab"}}
GOOD = {"ns-10.0.0.1": 0.5, "ns-10.0.0.2": 0.5}


def servers(*addresses: str) -> tuple[FoundServer, ...]:
    return tuple(FoundServer(ip_address(address)) for address in addresses)


class Dns:
    """DNS with the records of `hosts`. A host without an entry does not answer for a long time."""

    def __init__(self) -> None:
        self.hosts: dict[str, tuple[FoundServer, ...]] = {}
        self.asked: list[str] = []

    def __call__(self, _: NameServers) -> Dns:
        return self

    async def look_up(self, lookup: HostLookup, _: Collection[Family]) -> LookupResult:
        self.asked.append(lookup.name)
        if lookup.name not in self.hosts:
            await asyncio.sleep(1000)
        return LookupResult({Family.IP: self.hosts[lookup.name]}, 30)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Dns:
    found = Dns()
    monkeypatch.setattr(resolver, "NameResolver", found)
    return found


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration file with a pool whose backends come from DNS."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    path = tmp_path / "nftlb.json"
    path.write_text(document(dns=NAMED))
    return path


@pytest.mark.parametrize(
    ("answer", "note"),
    [
        (("0.0.0.0",), "0.0.0.0 is the unspecified address"),  # noqa: S104 - no address to bind
        (("127.0.0.1",), "127.0.0.1 is a loopback address"),
        (("192.0.2.53",), "192.0.2.53 is the listener 192.0.2.53:53/udp"),
    ],
)
def test_an_answer_without_a_usable_address(answer: tuple[str, ...], note: str, file: Path) -> None:
    """The answer before stays in use and on the disk, and the reason is shown; an answer in part is used."""

    async def scene() -> str:
        async with WiredDaemon(file) as daemon:
            await daemon.controller.use_answer(NS, servers("10.0.0.1", "10.0.0.2"))
            with pytest.raises(SystemFault, match=f"ns of dns would have no backend: .*{note}"):
                await daemon.controller.use_answer(NS, servers(*answer))
            assert GOOD == await shares(daemon)
            await daemon.saver.save()
            return daemon.store.text

    async def restarted(memory: str) -> None:
        async with WiredDaemon(file, memory) as daemon:
            assert GOOD == await shares(daemon)
            await daemon.controller.use_answer(NS, servers("10.0.0.3", *answer))
            assert {"ns-10.0.0.3": 1.0} == await shares(daemon)

    play(restarted(play(scene())))


class Wishes(NamedTuple):
    """What the status shows of a backend: its administrative state, weight and priority."""

    admin: Admin
    weight: int
    priority: int


async def wishes(daemon: WiredDaemon, name: str) -> Wishes:
    shown = found(await daemon.service.pool("dns"), name)
    return Wishes(shown.admin, shown.weight, shown.priority)


PLAIN, SET = Wishes(Admin.ENABLED, 1, 1), Wishes(Admin.DRAIN, 7, 2)


async def set_and_leave(daemon: WiredDaemon, *others: str) -> None:
    """An operator changes one of two addresses, which then leaves the answers."""
    await daemon.controller.use_answer(NS, servers("10.0.0.1", "10.0.0.2"))
    await daemon.service.change("dns", "ns-10.0.0.2", BackendChange(*SET), TESTER)
    assert (PLAIN, SET) == (await wishes(daemon, "ns-10.0.0.1"), await wishes(daemon, "ns-10.0.0.2"))
    await daemon.controller.use_answer(NS, servers("10.0.0.1", "10.0.0.3"))
    assert {"ns-10.0.0.1", "ns-10.0.0.3", *others} == (await shares(daemon)).keys()


async def come_back(daemon: WiredDaemon) -> Wishes:
    await daemon.controller.use_answer(NS, servers("10.0.0.2", "10.0.0.3"))
    assert Admin.ENABLED is (await wishes(daemon, "ns-10.0.0.3")).admin
    return await wishes(daemon, "ns-10.0.0.2")


@pytest.mark.parametrize(("away", "expected"), [(0.0, SET), (KEPT - 1, SET), (KEPT + 1, PLAIN)])
def test_an_address_that_returns(away: float, expected: Wishes, file: Path) -> None:
    """What the operator set of an address holds again when the address returns, unless it was away for a day."""

    async def scene() -> None:
        async with WiredDaemon(file) as daemon:
            await set_and_leave(daemon)
            await asyncio.sleep(away / 2)
            await daemon.service.reload(TESTER)  # neither ends the absence nor makes it longer
            await asyncio.sleep(away / 2)
            assert expected == await come_back(daemon)
            assert daemon.is_right
            assert (expected is PLAIN) is ((await shares(daemon))["ns-10.0.0.2"] > 0)

    play(scene())


def absent(pool: PoolStatus) -> dict[str, str]:
    (name,) = pool.names
    return name.kept


def test_what_is_kept_of_an_absent_address(file: Path) -> None:
    """The status, a refusal and the event of the return say what is kept, and the operator may change it."""
    address, drained = BackendKey("dns", "ns-10.0.0.2"), "drain, weight 7, priority 2"

    async def scene() -> None:
        async with WiredDaemon(file) as daemon:
            service = daemon.service
            await set_and_leave(daemon)
            assert {"ns-10.0.0.2": drained} == absent(await service.pool("dns"))
            with pytest.raises(UnknownBackend, match=f"not in the answers of DNS for dns now; .* 24 h: {drained}"):
                await service.remove(*address, TESTER)
            assert [] == await service.change_backends([address], BackendChange(weight=4), TESTER)
            changed = await service.change(*address, BackendChange(weight=3), TESTER)
            assert changed == (await service.pool("dns")).names[0]
            assert {"ns-10.0.0.2": "drain, weight 3, priority 2"} == absent(await service.pool("dns"))
            daemon.events.clear()
            assert SET._replace(weight=3) == await come_back(daemon)
            (reason,) = (event.reason for event in daemon.events if event.backend == address.backend)
            assert "by the answer of DNS for ns.lab; the operator had set: drain, weight 3, priority 2" == reason

            await daemon.controller.use_answer(NS, servers("10.0.0.1"))
            assert () == (await service.preview_change_backends([address], BackendChange(*PLAIN))).consequences
            await service.change_backends([address], BackendChange(admin=Admin.ENABLED), TESTER)
            assert {"ns-10.0.0.2": "weight 3, priority 2"} == absent(await service.pool("dns"))
            await daemon.saver.save()
            assert "drain" not in daemon.store.text
            assert Wishes(Admin.ENABLED, 3, 2) == await come_back(daemon)

    play(scene())


def test_the_end_of_what_is_kept(file: Path) -> None:
    """If only the drain was kept, `enable` ends it; then the address is unknown, as after 24 h."""
    address, enabled = BackendKey("dns", "ns-10.0.0.2"), BackendChange(admin=Admin.ENABLED)

    async def leave(daemon: WiredDaemon) -> None:
        await daemon.controller.use_answer(NS, servers("10.0.0.1", "10.0.0.2"))
        await daemon.service.change_backends([address], BackendChange(admin=Admin.DRAIN), TESTER)
        await daemon.controller.use_answer(NS, servers("10.0.0.1"))
        assert {"ns-10.0.0.2": "drain"} == absent(await daemon.service.pool("dns"))

    async def scene() -> None:
        async with WiredDaemon(file) as daemon:
            for end in (daemon.service.change_backends([address], enabled, TESTER), asyncio.sleep(KEPT + 1)):
                await leave(daemon)
                await end
                assert {} == absent(await daemon.service.pool("dns"))
                with pytest.raises(UnknownBackend, match=r"dns has no backend ns-10\.0\.0\.2"):
                    await daemon.service.change_backends([address], enabled, TESTER)
            assert PLAIN == await come_back(daemon)

    play(scene())


@pytest.mark.parametrize(("away", "expected"), [(KEPT - 60, SET), (KEPT + 60, PLAIN)])
def test_a_restart_does_not_begin_the_day_again(
    away: float, expected: Wishes, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time before a restart counts, and what is over when the daemon ends is not saved."""
    day = SimpleNamespace(monotonic=time.monotonic, time=time.time)
    monkeypatch.setattr(events, "time", day)

    async def scene() -> str:
        async with WiredDaemon(file) as daemon:
            await set_and_leave(daemon)
            await asyncio.sleep(12 * 3600)
            day.time = lambda: time.time() + 12 * 3600
        return daemon.store.text

    async def restarted(memory: str, more: float) -> str:
        async with WiredDaemon(file, memory) as daemon:
            await asyncio.sleep(more)
            if more > KEPT / 2:
                assert {} == absent(await daemon.service.pool("dns"))
            await daemon.saver.save()
            text = daemon.store.text
            assert expected == await come_back(daemon)
            return text

    memory = play(scene())
    assert ("kept_until" in play(restarted(memory, away - KEPT / 2))) is (expected is SET)


def test_an_address_that_returns_after_a_restart(file: Path) -> None:
    """The saved state has the wishes for absent addresses, and for no others."""

    async def scene() -> str:
        async with WiredDaemon(file) as daemon:
            await set_and_leave(daemon)
            await daemon.saver.save()
            assert '"ns-10.0.0.2":' in daemon.store.text
            return daemon.store.text

    async def restarted(memory: str) -> None:
        async with WiredDaemon(file, memory) as daemon:
            await daemon.saver.save()
            assert memory == daemon.store.text
            assert SET == await come_back(daemon)
            await daemon.service.change("dns", "ns-10.0.0.2", BackendChange(*PLAIN), TESTER)
            await daemon.controller.use_answer(NS, servers("10.0.0.1"))
            assert PLAIN == await come_back(daemon)

    play(restarted(play(scene())))


@pytest.mark.parametrize("change", ["a value of the file", "the port", "the name"])
def test_an_address_that_returns_to_another_file(change: str, file: Path) -> None:
    """A wish ends when the file changes the value, the server or the name meanwhile."""
    entry: dict[str, object] = {"address": "ns.lab"}
    others = {
        "a value of the file": {**entry, "weight": 3},
        "the port": {**entry, "port": 5353},
        "the name": "10.0.0.9:53",
    }

    async def scene() -> None:
        async with WiredDaemon(file) as daemon:
            await set_and_leave(daemon)
            daemon.write(dns={**NAMED, "backends": {"ns": others[change]}})
            await daemon.service.reload(TESTER)
            if change == "the name":
                daemon.write(dns=NAMED)
                daemon.state.names.answers = {NS: servers("10.0.0.3")}
                await daemon.service.reload(TESTER)
            back = await come_back(daemon)
            expected = SET._replace(weight=3) if change == "a value of the file" else PLAIN
            assert expected == back

    play(scene())


@pytest.mark.parametrize("restarts", [False, True])
def test_a_removed_backend_of_the_file(*, restarts: bool, file: Path) -> None:
    """What was set of a backend of the file ends when the file does not have it, also beside a name with its begin."""
    static = "ns-old"
    both = {**NAMED, "backends": {"ns": "ns.lab", static: "10.0.0.22:53"}}
    file.write_text(document(dns=both))

    async def scene() -> str:
        async with WiredDaemon(file) as daemon:
            await set_and_leave(daemon, static)
            await daemon.service.change("dns", static, BackendChange(*SET), TESTER)
            daemon.write(dns=NAMED)
            if not restarts:
                await daemon.service.reload(TESTER)
                await come_back_in(daemon)
            await daemon.saver.save()
            return daemon.store.text

    async def come_back_in(daemon: WiredDaemon) -> None:
        assert ["ns-10.0.0.2"] == list(daemon.state.health.pools["dns"].absent)
        daemon.write(dns=both)
        await daemon.service.reload(TESTER)
        assert PLAIN == await wishes(daemon, static)
        assert SET == await come_back(daemon)

    async def restarted(memory: str) -> None:
        async with WiredDaemon(file, memory) as daemon:
            await come_back_in(daemon)

    memory = play(scene())
    if restarts:
        play(restarted(memory))


def test_a_backend_with_the_name_of_an_address(file: Path) -> None:
    """What was set of a backend of the file does not hold for an address that gets its name."""
    file.write_text(document(dns={**NAMED, "backends": {"ns-10.0.0.2": "10.0.0.2:53", "b": "10.0.0.9:53"}}))

    async def scene() -> None:
        async with WiredDaemon(file) as daemon:
            await daemon.service.change("dns", "ns-10.0.0.2", BackendChange(*SET), TESTER)
            daemon.write(dns={**NAMED, "backends": {"ns": "ns.lab:53", "b": "10.0.0.9:53"}})
            await daemon.service.reload(TESTER)
            await daemon.controller.use_answer(NS, servers("10.0.0.1"))
            assert PLAIN == await come_back(daemon)

    play(scene())


def test_many_addresses_that_leave(file: Path) -> None:
    """The wishes for the addresses that left last are kept, and no more of them than MOST."""
    count = MOST + 12
    groups = [[f"10.0.{group}.{last}" for last in range(1, 17)] for group in range(1, count // 16 + 2)]

    async def scene() -> None:
        async with WiredDaemon(file) as daemon:
            for group in groups:
                await daemon.controller.use_answer(NS, servers(*group))
                await daemon.service.change_backends([BackendKey("dns", EVERY_BACKEND)], BackendChange(*SET), TESTER)
            await daemon.controller.use_answer(NS, servers("10.0.0.1"))
            kept = daemon.state.health.pools["dns"].absent
            everyone = [f"ns-{address}" for group in groups for address in group]
            assert everyone[-MOST:] == list(kept)
            await daemon.controller.use_answer(NS, servers(*groups[-1]))
            assert {SET} == {await wishes(daemon, f"ns-{address}") for address in groups[-1]}
            assert everyone[-MOST:-16] == list(daemon.state.health.pools["dns"].absent)

    play(scene())


def test_answers_that_arrive_together(file: Path) -> None:
    """They are one change; an answer that can't be used does not hold up the others; a removed name is dropped."""
    hosts = [HostLookup(f"h{number}.lab") for number in range(20)]
    entries = {f"b{number}": host.name for number, host in enumerate(hosts)}
    file.write_text(document(dns={**NAMED, "backends": entries}))

    async def scene() -> None:
        async with WiredDaemon(file) as daemon:
            use = daemon.controller.use_answer
            await asyncio.gather(*(use(host, servers(f"10.0.0.{n}")) for n, host in enumerate(hosts, 1)))
            assert (1, 20) == (len(daemon.followed), len(await shares(daemon)))
            gone = asyncio.create_task(use(hosts[2], servers("10.0.9.9")))
            await asyncio.sleep(0)
            gone.cancel()
            said = await asyncio.gather(
                use(hosts[0], servers("127.0.0.1")), use(hosts[1], servers("10.0.1.2")), return_exceptions=True
            )
            assert ["SystemFault", "NoneType"] == [type(one).__name__ for one in said]
            found = await shares(daemon)
            assert (2, True, True) == (len(daemon.followed), "b0-10.0.0.1" in found, "b1-10.0.1.2" in found)
            assert "b2-10.0.0.3" in found

    play(scene())


@pytest.mark.parametrize("given", [(7, 8), (5, 2)])  # (5, 2): the weight and the priority of the first records
def test_other_srv_records_end_no_wish(given: tuple[int, int], file: Path) -> None:
    """Ranks and weights of other records change, also while the server is absent; only the file ends a wish."""
    lookup, name = HostLookup("_dns._udp.lab", srv=True), "ns-10.0.0.2-53"

    def records(*ranks: int, weight: int = 5) -> tuple[FoundServer, ...]:
        return tuple(
            FoundServer(ip_address(f"10.0.0.{last}"), 53, weight, rank)
            for last, rank in enumerate(ranks, 1)
            if rank >= 0
        )

    wished = Wishes(Admin.DRAIN, *given)
    file.write_text(document(dns={**NAMED, "backends": {"ns": {"srv": lookup.name}}}))

    async def scene() -> str:
        async with WiredDaemon(file) as daemon:
            use = daemon.controller.use_answer
            await use(lookup, records(0, 1))
            await daemon.service.change("dns", name, BackendChange(*wished), TESTER)
            await use(lookup, records(-1, 0, weight=9))
            assert wished == await wishes(daemon, name)
            await use(lookup, records(0))
            await use(lookup, records(1, 0))
            assert wished == await wishes(daemon, name)
            await use(lookup, records(0))
            await daemon.saver.save()
            return daemon.store.text

    async def restarted(memory: str) -> None:
        async with WiredDaemon(file, memory) as daemon:
            await daemon.controller.use_answer(lookup, records(0, 2, weight=7))
            assert wished == await wishes(daemon, name)
            daemon.write(dns={**NAMED, "backends": {"ns": {"srv": lookup.name, "priority": 4}}})
            await daemon.service.reload(TESTER)
            assert wished._replace(priority=6) == await wishes(daemon, name)

    play(restarted(play(scene())))


def test_a_name_in_two_pools(file: Path) -> None:
    """One answer changes both pools at once. What an operator set in one of them holds in this pool only."""
    file.write_text(document(dns=NAMED, other={**OTHER, "backends": {"x": "ns.lab:5353"}}))

    async def scene() -> None:
        async with WiredDaemon(file) as daemon:
            assert [NS] == list(lookups_of(daemon.state.declared))
            await daemon.controller.use_answer(NS, servers("10.0.0.1", "10.0.0.2"))
            assert 1 == len(daemon.followed)
            await daemon.service.change("dns", "ns-10.0.0.2", BackendChange(*SET), TESTER)
            assert (0.0, 0.5) == (
                (await shares(daemon))["ns-10.0.0.2"], (await shares(daemon, "other"))["x-10.0.0.2"]
            )  # fmt: skip
            await daemon.controller.use_answer(NS, servers("10.0.0.1"))
            await daemon.controller.use_answer(NS, servers("10.0.0.1", "10.0.0.2"))
            assert (SET, 0.5) == (await wishes(daemon, "ns-10.0.0.2"), (await shares(daemon, "other"))["x-10.0.0.2"])
            assert (3, True) == (len(daemon.followed), daemon.is_right)

    play(scene())


def test_a_reload_with_another_name(file: Path, names: Dns) -> None:
    """A new name is looked up before the new configuration is used; a name that is known is not looked up."""
    names.hosts["new.lab"] = servers("10.0.0.9")

    async def scene() -> None:
        async with WiredDaemon(file) as daemon:
            await daemon.controller.use_answer(NS, servers("10.0.0.1", "10.0.0.2"))
            daemon.write(dns={**NAMED, "backends": {"ns": "new.lab"}}, other={**OTHER, "backends": {"x": "ns.lab"}})
            await daemon.service.reload(TESTER)
            assert {"ns-10.0.0.9": 1.0} == await shares(daemon)
            assert ["new.lab"] == names.asked

    play(scene())


@pytest.mark.parametrize("pool", ["dns", "renamed"])
@pytest.mark.parametrize(
    ("answer", "reason"),
    [(None, "no address of new.lab is known"), ("127.0.0.1", "127.0.0.1 is left out: 127.0.0.1 is a loopback")],
)
def test_a_reload_without_an_answer(pool: str, answer: str | None, reason: str, file: Path, names: Dns) -> None:
    """A reload that would leave a pool without a backend is refused after a bounded time."""
    if answer:
        names.hosts["new.lab"] = servers(answer)

    async def scene() -> None:
        async with WiredDaemon(file) as daemon:
            await daemon.controller.use_answer(NS, servers("10.0.0.1", "10.0.0.2"))
            began = elapsed()
            daemon.write(**{pool: {**NAMED, "backends": {"ns": "new.lab"}}})
            with pytest.raises(
                SystemFault, match=rf"^{pool} would have no backend, and its traffic has backends now: {reason}"
            ) as caught:
                await daemon.service.reload(TESTER)
            assert (0 if answer else 3) == elapsed() - began
            assert (GOOD, (str(caught.value),)) == (await shares(daemon), daemon.controller.config_status().problems)

    play(scene())


@pytest.mark.usefixtures("names")
def test_a_reload_with_a_name_beside_other_backends(file: Path) -> None:
    """A name without an answer takes no backend away, so the new configuration is used; so is that of a new pool."""

    async def scene() -> None:
        async with WiredDaemon(file) as daemon:
            await daemon.controller.use_answer(NS, servers("10.0.0.1"))
            backends = {"ns": "ns.lab", "more": "new.lab"}
            daemon.write(dns={**NAMED, "backends": backends}, other={**OTHER, "backends": {"x": "new.lab"}})
            await daemon.service.reload(TESTER)
            assert ({"ns-10.0.0.1": 1.0}, {}) == (await shares(daemon), await shares(daemon, "other"))
            await daemon.service.reload(TESTER)  # a pool without a backend stays without: no reason to refuse

    play(scene())
