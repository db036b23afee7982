"""Addresses that this host gets and loses, over a kernel in memory: listeners follow, and no pool is emptied."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
from daemon_wiring import DNS, TESTER, WiredDaemon, document, shares
from virtual_time import play

from nftlb.config import resolve
from nftlb.daemon import controller as controller_module
from nftlb.errors import KernelError, SystemFault
from nftlb.kernel import surroundings
from nftlb.model import FoundServer, HostAddresses, HostLookup

if TYPE_CHECKING:
    from pathlib import Path

NS = HostLookup("ns.lab")
EXACT = {"listen": "192.0.2.53:53/udp", "backends": {"a": "10.0.0.1:53"}}
STAR = {**EXACT, "listen": "*:53/udp"}


def host(*addresses: str) -> HostAddresses:
    return {"eth0": tuple(map(ip_address, addresses))}


def listen(daemon: WiredDaemon) -> list[str]:
    """The listeners of the first pool that have an address."""
    return [str(one) for one in daemon.state.config.pools[0].bound]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    path = tmp_path / "nftlb.json"
    path.write_text(document(dns=STAR))
    return path


@pytest.mark.parametrize("backends", [{"n": "ns.lab:53"}, {"a": "192.0.2.54:53"}])
def test_a_server_at_a_new_address_keeps_its_packets(backends: dict[str, str], file: Path) -> None:
    """A new address of this host that a server of the pool has is no listener, also if the server comes from DNS."""
    file.write_text(document(dns={**STAR, "backends": backends}))

    async def scene() -> None:
        async with WiredDaemon(file) as daemon:
            await daemon.controller.use_addresses(host("192.0.2.53"))
            if "n" in backends:
                await daemon.controller.use_answer(NS, (FoundServer(ip_address("192.0.2.54")),))
            await daemon.controller.use_addresses(host("192.0.2.53", "192.0.2.54", "192.0.2.55"))
            assert ["192.0.2.53:53/udp", "192.0.2.55:53/udp"] == listen(daemon)
            assert [1.0] == list((await shares(daemon)).values())

    play(scene())


def test_addresses_that_would_empty_a_pool_are_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The former listeners and backends stay, and the error says why."""
    file.write_text(document(dns={**STAR, "backends": {"n": "ns.lab:53"}}))

    async def scene() -> None:
        async with WiredDaemon(file) as daemon:
            await daemon.controller.use_addresses(host("192.0.2.53"))
            await daemon.controller.use_answer(NS, (FoundServer(ip_address("10.0.0.1")),))
            # Rules that leave all servers out, whatever they are.
            monkeypatch.setattr(controller_module, "resolve", lambda of, _, *rest: resolve(of, {}, *rest))
            with pytest.raises(SystemFault, match="dns would have no backend, and its traffic has backends now"):
                await daemon.controller.use_addresses(host("192.0.2.54"))
            assert (["192.0.2.53:53/udp"], {"n-10.0.0.1": 1.0}) == (listen(daemon), await shares(daemon))

    play(scene())


def test_without_such_a_listener_nothing_is_resolved(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Addresses change often on a host with containers, and exact listeners do not depend on them."""
    file.write_text(document(dns=EXACT))

    async def scene() -> None:
        async with WiredDaemon(file) as daemon:
            monkeypatch.setattr(controller_module, "resolve", lambda *_: pytest.fail("all pools were read"))
            await daemon.controller.use_addresses(host("192.0.2.53"))
            assert (host("192.0.2.53"), []) == (daemon.state.addresses, daemon.followed)

    play(scene())


def test_a_reload_uses_the_addresses_of_now(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that begins to listen on this host gets the addresses at once; without them it is refused."""
    file.write_text(document(dns=EXACT))
    here = [host("192.0.2.53", "192.0.2.54")]

    def read_host_addresses() -> HostAddresses:
        if not here:
            raise KernelError("the addresses of this host can't be read: no memory")
        return here.pop()

    monkeypatch.setattr(surroundings, "read_host_addresses", read_host_addresses)

    async def scene() -> None:
        async with WiredDaemon(file) as daemon:
            daemon.write(dns=STAR)
            await daemon.service.reload(TESTER)
            assert (["192.0.2.53:53/udp", "192.0.2.54:53/udp"], True) == (listen(daemon), daemon.is_right)
            daemon.write(dns={**STAR, "listen": "*:54/udp"})
            with pytest.raises(KernelError, match="can't be read"):
                await daemon.service.reload(TESTER)
            assert ["192.0.2.53:53/udp", "192.0.2.54:53/udp"] == listen(daemon)

    play(scene())


def test_pools_that_stay_are_the_same_objects(file: Path) -> None:
    """A change of one pool makes no other pool new: the collector of garbage looks at new pools."""
    names = {f"p{n}": {**EXACT, "listen": f"192.0.2.{n}:53/udp", "backends": {"n": f"h{n}.lab"}} for n in (1, 2)}
    file.write_text(document(**names, star=STAR, dns={**DNS, "listen": "eth1:53/udp"}))

    async def scene() -> None:
        async with WiredDaemon(file) as daemon:
            use, found = daemon.controller.use_answer, (FoundServer(ip_address("10.0.0.1")),)
            await asyncio.gather(*(use(HostLookup(f"h{n}.lab"), found) for n in (1, 2)))
            before = daemon.state.config
            await use(HostLookup("h1.lab"), (FoundServer(ip_address("10.0.0.2")),))
            assert ["p1"] == [pool.name for pool in daemon.state.config.pools if pool is not before.pool(pool.name)]
            before = daemon.state.config
            await daemon.controller.use_addresses(host("192.0.2.53"))
            assert ["star"] == [pool.name for pool in daemon.state.config.pools if pool is not before.pool(pool.name)]

    play(scene())


def test_a_fault_of_nftlb_costs_one_attempt_for_all_answers(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each waiting answer gets the error, and none repeats the attempt."""
    file.write_text(document(dns={**EXACT, "backends": {f"b{n}": f"h{n}.lab" for n in range(3)}}))
    attempts = []

    def broken(*_: object) -> None:
        attempts.append(1)
        raise RuntimeError("bug")

    async def scene() -> None:
        async with WiredDaemon(file) as daemon:
            monkeypatch.setattr(controller_module, "judge", broken)
            use, found = daemon.controller.use_answer, (FoundServer(ip_address("10.0.0.1")),)
            said = await asyncio.gather(
                *(use(HostLookup(f"h{n}.lab"), found) for n in range(3)), return_exceptions=True
            )
            assert ["a fault of nftlb itself: RuntimeError('bug')"] * 3 == [str(one) for one in said]
            assert [1] == attempts

    play(scene())
