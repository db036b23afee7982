"""What an operator asks of the daemon: previews, who did what, changes of the rules, explanations, and notices."""

from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import pytest
from daemon_wiring import BACKENDS, DNS, OTHER, TESTER, WiredDaemon, document, found
from virtual_time import VirtualTimeLoop, play, settle

from nftlb.config import amend, read_backend, resolve
from nftlb.config.reading import read_endpoint
from nftlb.daemon import controller, daemon_service
from nftlb.daemon.audit import audited
from nftlb.daemon.controller import TOGETHER
from nftlb.daemon.events import Bus
from nftlb.daemon.names import LookupState
from nftlb.daemon.notices import FRESH, NoticeBoard
from nftlb.daemon.ruleset_changes import KEPT, LONGEST_LINE, MOST_LINES, ChangeLog
from nftlb.doctor import Finding, Severity
from nftlb.errors import KernelError
from nftlb.health import PoolStates
from nftlb.model import (
    EVERY_BACKEND,
    Admin,
    BackendChange,
    BackendKey,
    Config,
    EventKind,
    FoundServer,
    HostLookup,
    Protocol,
)
from nftlb.requirements import Lack
from nftlb.ruleset import Chain, Ruleset, Table, TableFamily
from nftlb.service import Actor, BackendStatus, Conflict, NameStatus, UnknownBackend, UnknownPool

if TYPE_CHECKING:
    from pathlib import Path

    from nftlb.service import Event

DRAIN, UP = BackendChange(admin=Admin.DRAIN), BackendChange(admin=Admin.ENABLED)
_NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
NOBODY = "the pool dns would have no usable backend; its packets would be rejected"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "nftlb.json"
    path.write_text(document(dns=DNS))
    return path


def operated(daemon: WiredDaemon) -> list[Event]:
    return [event for event in daemon.events if event.kind is EventKind.OPERATED]


def test_a_preview_changes_nothing(file: Path) -> None:
    """A preview has the consequences of the change, and neither the kernel nor the state nor the events change."""

    async def scene() -> None:
        async with WiredDaemon(file) as daemon:
            for name in ("ns2", "ns3"):
                await daemon.service.change("dns", name, DRAIN, TESTER)
            await settle()
            daemon.events.clear()
            before = daemon.state.memory(), daemon.kernel_thread.kernel.generation()
            preview = await daemon.service.preview_change("dns", "ns1", DRAIN)
            assert NOBODY == preview.consequences[0]
            assert NOBODY == (await daemon.service.preview_remove("dns", "ns1")).consequences[0]
            new = read_backend("dns", "ns9", "10.0.0.19:53")
            assert () == (await daemon.service.preview_add("dns", new)).consequences
            with pytest.raises(UnknownBackend):
                await daemon.service.preview_change("dns", "ns9", DRAIN)
            with pytest.raises(Conflict):
                await daemon.service.preview_add("dns", read_backend("dns", "ns1", "10.0.0.19:53"))
            assert before == (daemon.state.memory(), daemon.kernel_thread.kernel.generation())
            assert [] == daemon.events

    play(scene())


def test_all_backends_are_no_name_of_a_backend(file: Path) -> None:
    """A change of one backend and its preview refuse `*`, which only a change of several backends knows."""

    async def scene() -> None:
        async with WiredDaemon(file) as daemon:
            with pytest.raises(UnknownBackend):
                await daemon.service.change("dns", EVERY_BACKEND, DRAIN, TESTER)
            with pytest.raises(UnknownBackend):
                await daemon.service.preview_change("dns", EVERY_BACKEND, DRAIN)

    play(scene())


def test_faults_name_their_pools(file: Path) -> None:
    """What this host lacks for a pool, and a name of DNS without an answer, concern their pools only."""
    named = {"listen": "192.0.2.55:53/udp", "backends": {"ns": "ns.lab"}}
    file.write_text(document(dns=DNS, named=named))

    async def scene() -> None:
        async with WiredDaemon(file) as daemon:
            route = "route to 10.0.0.11"
            lacks = (Lack("dns", route, "no route", "add one", "ns1"), Lack("named", "forwarding", "off", "sysctl"))
            daemon.controller.set_lacks(lacks)
            daemon.controller.record_lookup(HostLookup("ns.lab"), LookupState(trouble="no answer"))
            daemon.controller.set_check_fault("no descriptors")
            assert {route: ("dns",), "forwarding": ("named",), "name ns.lab": ("named",), "checks": ()} == {
                fault.what: fault.pools for fault in (await daemon.service.overview()).faults
            }

    play(scene())


def test_several_backends_are_one_change(file: Path) -> None:
    """A change of several backends is one change of the rules and one event with all names; or nothing at all."""

    async def scene() -> None:
        async with WiredDaemon(file) as daemon:
            service, maintenance = daemon.service, BackendChange(admin=Admin.MAINTENANCE)
            both = [BackendKey("dns", "ns1"), BackendKey("dns", "ns2")]
            everyone = [*both, BackendKey("dns", "ns3")]
            assert () == (await service.preview_change_backends(both, maintenance)).consequences
            assert NOBODY == (await service.preview_change_backends(everyone, maintenance)).consequences[0]
            with pytest.raises(UnknownBackend):
                await service.change_backends([*both, BackendKey("dns", "ns9")], maintenance, TESTER)
            assert [Admin.ENABLED] * 3 == [backend.admin for backend in (await service.pool("dns")).backends]

            swaps = (await service.overview()).kernel.swaps
            changed = await service.change_backends(both, maintenance, TESTER)
            assert [("ns1", Admin.MAINTENANCE, 0.0), ("ns2", Admin.MAINTENANCE, 0.0)] == [
                (backend.name, backend.admin, backend.share) for backend in changed
            ]
            assert swaps + 1 == (await service.overview()).kernel.swaps
            refused, done = operated(daemon)
            assert "done" != refused.details["result"]
            assert ("dns", "maintenance", "ns1, ns2", "done") == (
                done.pool, *(done.details[name] for name in ("what", "backends", "result")),
            )  # fmt: skip

    play(scene())


def test_all_backends_of_a_pool(file: Path) -> None:
    """`POOL/*` means the backends of the moment of the change, each once; an unknown or an empty pool is refused."""

    async def scene() -> None:
        async with WiredDaemon(file) as daemon:
            service, every = daemon.service, BackendKey("dns", EVERY_BACKEND)
            keys = [BackendKey("dns", "ns2"), every]
            assert NOBODY == (await service.preview_change_backends(keys, DRAIN)).consequences[0]
            changed = await service.change_backends(keys, DRAIN, TESTER)
            assert ["ns2", "ns1", "ns3"] == [backend.name for backend in changed]
            assert {("dns", Admin.DRAIN)} == {(backend.pool, backend.admin) for backend in changed}
            with pytest.raises(UnknownPool, match="there is no pool dsn; did you mean dns"):
                await service.change_backends([BackendKey("dns", "ns1"), BackendKey("dsn", EVERY_BACKEND)], UP, TESTER)
            daemon.write(dns=DNS, named={**OTHER, "backends": {"x": "new.lab"}})
            await service.reload(TESTER)
            with pytest.raises(Conflict, match="named has no backend now"):
                await service.change_backends([every, BackendKey("named", EVERY_BACKEND)], UP, TESTER)
            assert {Admin.DRAIN} == {backend.admin for backend in (await service.pool("dns")).backends}

    play(scene())


def test_backends_that_leave_during_their_change(file: Path) -> None:
    """An answer of DNS during a change neither hides the change of the others, nor makes it look refused."""
    lookup = HostLookup("ns.lab")

    def answer(*addresses: str) -> tuple[FoundServer, ...]:
        return tuple(FoundServer(ip_address(address)) for address in addresses)

    async def scene() -> None:
        async with WiredDaemon(file) as daemon:
            service, control = daemon.service, daemon.controller
            daemon.write(dns={**DNS, "quorum": 1, "backends": {"a": "10.0.0.9:53", "ns": "ns.lab:53"}})
            daemon.state.names.answers = {lookup: answer("10.0.0.1", "10.0.0.2")}
            await service.reload(TESTER)
            for keys, found in (([EVERY_BACKEND], ["a", "ns-10.0.0.2"]), (["ns-10.0.0.2", "a"], ["a"])):
                left = asyncio.create_task(control.use_answer(lookup, answer("10.0.0.2" if found[1:] else "10.0.0.3")))
                await asyncio.sleep(TOGETHER - 0.001)
                daemon.kernel_thread.takes = 1.0
                changed = await service.change_backends([BackendKey("dns", key) for key in keys], DRAIN, TESTER)
                await left
                daemon.kernel_thread.takes = 0.0
                assert found == [backend.name for backend in changed]
                assert "done" == operated(daemon)[-1].details["result"]
            await control.use_answer(lookup, answer("10.0.0.3", "10.0.0.4"))
            left = asyncio.create_task(control.use_answer(lookup, answer("10.0.0.3")))
            await asyncio.sleep(TOGETHER - 0.001)
            daemon.kernel_thread.takes = 1.0
            absent = await service.change("dns", "ns-10.0.0.4", DRAIN, TESTER)
            await left
            assert isinstance(absent, NameStatus)
            assert ("ns", "drain") == (absent.name, absent.kept["ns-10.0.0.4"])
            daemon.write(dns=DNS)
            left = asyncio.create_task(service.reload(TESTER))
            await asyncio.sleep(0.5)
            with pytest.raises(
                Conflict, match=r"^a was changed, and is no backend of dns any more: a reload removed it"
            ):
                await service.change("dns", "a", DRAIN, TESTER)
            await left

    play(scene())


def test_the_status_of_many_backends_lets_checks_begin(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a change of backends of many pools, other tasks run between the status of one pool and that of the next."""
    pools = {f"p{number}": {**DNS, "listen": f"192.0.2.{number + 1}:53/udp"} for number in range(20)}
    file.write_text(document(**pools))

    async def scene() -> None:
        done: list[str] = []
        real = daemon_service.backend_statuses

        def recorded(*arguments: Any) -> Any:
            done.append("status")
            asyncio.get_running_loop().call_soon(done.append, "others")
            return real(*arguments)

        async with WiredDaemon(file) as daemon:
            monkeypatch.setattr(daemon_service, "backend_statuses", recorded)
            await daemon.service.change_backends([BackendKey(pool, "ns1") for pool in pools], DRAIN, TESTER)
        assert ["status", "others"] * len(pools) == done

    play(scene())


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_the_order_of_backends_is_no_order_of_changes(file: Path, order: tuple[str, str]) -> None:
    """Backends that are changed together have their new states at the same time: no priority serves in between."""
    two = {"a": "10.0.0.11:53", "b": {"address": "10.0.0.12", "port": 53, "priority": 2}}
    both = [BackendKey("dns", name) for name in order]

    async def scene() -> None:
        async with WiredDaemon(file) as daemon:
            daemon.write(dns={**DNS, "backends": two, "quorum": 1})
            service = daemon.service
            await service.reload(TESTER)
            await service.change_backends(both, BackendChange(admin=Admin.MAINTENANCE), TESTER)
            await settle()
            await service.change_backends(both, BackendChange(admin=Admin.ENABLED), TESTER)
            await settle()
            told = [(event.kind, event.old, event.new) for event in daemon.events if not event.backend]
            assert [("1", "none"), ("none", "1")] == [
                (old, new) for kind, old, new in told if kind is EventKind.PRIORITY_CHANGED
            ]
            assert [("up", "down"), ("down", "up")] == [
                (old, new) for kind, old, new in told if kind in {EventKind.QUORUM_DOWN, EventKind.QUORUM_UP}
            ]
            assert {"a": 1.0, "b": 0.0} == {found.name: found.share for found in (await service.pool("dns")).backends}

    play(scene())


def test_many_backends_cost_no_more_settling_than_one(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A preview, a change and its answer look at a pool as often for all its backends as for one of them."""
    looks: list[str] = []

    def counted(owner: Any, name: str) -> None:
        whole = getattr(owner, name)

        def count(*args: Any) -> Any:
            looks.append(name)
            return whole(*args)

        monkeypatch.setattr(owner, name, count)

    counted(PoolStates, "_state")
    counted(daemon_service, "select")
    backends = {
        f"ns{number}": {"address": f"10.0.0.{number}", "port": 53, "priority": number % 2} for number in range(1, 101)
    }

    async def scene() -> None:
        async with WiredDaemon(file) as daemon:
            daemon.write(dns={**DNS, "backends": backends})
            service = daemon.service
            await service.reload(TESTER)
            costs = []
            for names in (["ns1"], list(backends)[1:]):
                keys = [BackendKey("dns", name) for name in names]
                looks.clear()
                await service.preview_change_backends(keys, DRAIN)
                await service.change_backends(keys, DRAIN, TESTER)
                costs.append(len(looks))
            assert costs[1] <= costs[0] + 2

    play(scene())


def test_who_changed_many_backends(caplog: pytest.LogCaptureFixture) -> None:
    """Each pool has an event with the names, more if the names are long; the history finds each by each backend."""
    caplog.set_level(logging.INFO, "nftlb.daemon.audit")
    bus = Bus()
    names = [f"backend-{number}" for number in range(1000)]
    with audited(bus, TESTER, "drain", [*(BackendKey("dns", name) for name in names), BackendKey("sip", "gw1")]):
        pass

    *of_dns, of_sip = bus.history.kept()
    assert ("sip", "gw1") == (of_sip.pool, of_sip.backend)
    assert 4 == len(of_dns)
    assert names == [name for event in of_dns for name in event.details["backends"].split(", ")]
    assert {("dns", "", "drain")} == {(event.pool, event.backend, event.details["what"]) for event in of_dns}
    assert all(len(event.details["backends"]) <= 4000 for event in of_dns)
    assert [1] * len(names) == [len(bus.history.find(pool="dns", backend=name)) for name in names]
    assert () == bus.history.find(pool="dns", backend="backend-")
    said = [record.getMessage() for record in caplog.records]
    assert said[0].startswith("dns: drain of backend-0, backend-1, ")
    assert "sip/gw1: drain by tester (unix socket): done" == said[-1]


def test_hostile_names_in_the_history(file: Path) -> None:
    """The names of a client or a request can't stop the readers of the history or of the log."""
    half = "\ud800\x1b\u202e"

    async def scene() -> None:
        async with WiredDaemon(file) as daemon:
            with suppress(UnknownPool):
                await daemon.service.change(half, half, DRAIN, Actor(half, half))
            found = daemon.service.history(pool=None, backend=None, kind=EventKind.OPERATED, before=None, limit=9)
            found.model_dump_json()
            (event,) = found.events
            texts = [event.pool, event.backend, event.reason, *map(str, event.details.values())]
            assert [] == [text for text in texts if not text.isprintable()]

    play(scene())


def test_who_did_what(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each change is an event and a line in the log: who, from where, what, and the result."""
    caplog.set_level(logging.INFO, "nftlb.daemon.audit")

    async def scene() -> list[Event]:
        async with WiredDaemon(file) as daemon:
            service = daemon.service
            await service.change("dns", "ns1", BackendChange(Admin.DRAIN, 3, 2), TESTER)
            await service.add("dns", read_backend("dns", "ns9", "10.0.0.19:53"), TESTER)
            await service.remove("dns", "ns9", TESTER)
            with suppress(UnknownBackend):
                await service.remove("dns", "n\x1b" + "s" * 200, TESTER)
            daemon.write(dns={**DNS, "listen": "nowhere"})
            with suppress(Exception):
                await service.reload(TESTER)
            return operated(daemon)

    events = play(scene())
    assert [
        ("dns", "ns1", "drain, weight 3, priority 2", "done"),
        ("dns", "ns9", "add", "done"),
        ("dns", "ns9", "remove", "done"),
    ] == [(event.pool, event.backend, event.details["what"], event.details["result"]) for event in events[:3]]
    assert {("tester", "unix socket")} == {(event.details["who"], event.details["from"]) for event in events}
    assert all("\x1b" not in event.backend and len(event.backend) < 110 for event in events)
    assert ["remove", "reload"] == [event.details["what"] for event in events[3:]]
    assert "done" not in {event.details["result"] for event in events[3:]}
    lines = [record for record in caplog.records if record.name == "nftlb.daemon.audit"]
    assert "dns/ns1: drain, weight 3, priority 2 by tester (unix socket): done" == lines[0].getMessage()
    assert {
        "event": EventKind.OPERATED,
        "pool": "dns",
        "backend": "ns1",
        "who": "tester",
        "from": "unix socket",
        "what": "drain, weight 3, priority 2",
        "result": "done",
    } == lines[0].__dict__["fields"]
    assert [logging.INFO] * 3 + [logging.WARNING] * 2 == [record.levelno for record in lines]


async def changed_backend(daemon: WiredDaemon, change: BackendChange) -> BackendStatus:
    changed = await daemon.service.change("dns", "ns1", change, TESTER)
    assert isinstance(changed, BackendStatus)
    return changed


def test_since_when_a_backend_is_drained(file: Path) -> None:
    """The time survives a restart and a reload; it is null as long as the state is that of the file."""

    async def first() -> tuple[object, str]:
        async with WiredDaemon(file) as daemon:
            assert found(await daemon.service.pool("dns"), "ns1").admin_since is None
            since = (await changed_backend(daemon, DRAIN)).admin_since
            assert since is not None
            assert since == (await changed_backend(daemon, BackendChange(weight=2))).admin_since
            return since, daemon.store.text

    async def second(memory: str) -> object:
        async with WiredDaemon(file, memory) as daemon:
            await daemon.service.reload(TESTER)
            since = found(await daemon.service.pool("dns"), "ns1").admin_since
            backends = {**BACKENDS, "ns1": {"address": "10.0.0.11", "port": 53, "admin": "drain"}}
            daemon.write(dns={**DNS, "backends": backends})
            await daemon.service.reload(TESTER)
            assert found(await daemon.service.pool("dns"), "ns1").admin_since is None
            return since

    since, memory = play(first())
    assert since == play(second(memory))


def test_changes_of_the_rules(file: Path) -> None:
    """A backend that dies and a reload are changes with their reason and the lines that differ."""

    async def scene() -> None:
        async with WiredDaemon(file) as daemon:
            daemon.record_results("ns1", "---")
            await settle()
            await asyncio.sleep(1)
            died = (await daemon.service.ruleset_changes()).changes[0]
            assert "dns/ns1: down, was up: icmp: no answer" == died.reason
            down = [event.id for event in daemon.bus.history.find(kind=EventKind.BACKEND_DOWN)]
            assert tuple(down) == died.events
            assert any(line.startswith("- ") for line in died.lines)
            assert any(line.startswith("+ ") for line in died.lines)
            assert not died.cut
            daemon.write(dns={**DNS, "listen": "192.0.2.53:54/udp"})
            await daemon.service.reload(TESTER)
            reloaded = next(
                change for change in (await daemon.service.ruleset_changes()).changes if "reload" in change.reason
            )
            assert f"a reload of {file}" == reloaded.reason
            assert any("54" in line for line in reloaded.lines if line.startswith("+ "))

    play(scene())


def test_the_changes_are_limited() -> None:
    """The last changes are kept, each with a limited number of lines of a limited length."""
    empty = Ruleset("nftlb", {})
    rules = tuple(f'accept comment "{number} {"x" * 1000}"' for number in range(2 * MOST_LINES))
    table = Table(TableFamily.IP, "nftlb", chains={"big": Chain("big", rules=rules)})
    full = Ruleset("nftlb", {TableFamily.IP: table})

    async def scene() -> None:
        log = ChangeLog()
        for number in range(KEPT + 5):
            log.record(_NOON, f"change {number}", (), *((empty, full) if number % 2 else (full, empty)))
        changes = (await log.changes()).changes
        log.close()
        assert [f"change {number}" for number in range(KEPT + 4, 4, -1)] == [change.reason for change in changes]
        assert {(MOST_LINES, True)} == {(len(change.lines), change.cut) for change in changes}
        assert all(len(line) <= LONGEST_LINE for change in changes for line in change.lines)

    asyncio.run(scene())


def test_a_packet_is_explained_as_it_is_now(file: Path) -> None:
    """The explanation has the states of now: a backend that is down, and one that is drained."""

    async def scene() -> None:
        async with WiredDaemon(file) as daemon:
            daemon.record_results("ns1", "---")
            await daemon.service.change("dns", "ns2", DRAIN, TESTER)
            client, service = read_endpoint("198.51.100.7:40000"), read_endpoint("192.0.2.53:53")
            explained = await daemon.service.explain(client, service, Protocol.UDP, None)
            assert {"ns1": "down", "ns2": "drain", "ns3": "in"} == {
                candidate["name"]: candidate["state"] for candidate in explained["candidates"]
            }
            assert ["ns3"] == explained["slots"]
            six = await daemon.service.explain(read_endpoint("[2001:db8::1]:1"), service, Protocol.UDP, None)
            assert six["pool"] is None
            assert "two address families" in six["reason"]

    play(scene())


def test_notices_are_looked_for_in_a_thread_and_kept_for_a_while() -> None:
    """The host is examined again after half a minute, or for another configuration; an error is a notice."""
    examined: list[Config] = []
    configs = [Config()]

    def examine(config: Config) -> list[Finding]:
        examined.append(config)
        if len(examined) == 3:
            raise KernelError("no\npermission")
        return [Finding(Severity.ERROR, "forwarding", "off", "sysctl -w a=1\nsysctl -w b=1")]

    async def scene() -> None:
        board = NoticeBoard(lambda: configs[-1], ThreadPoolExecutor(1), examine)
        first, again = await asyncio.gather(board.notices(), board.notices())
        assert first is again
        (notice,) = first.findings
        assert ("error", ("sysctl -w a=1", "sysctl -w b=1")) == (notice.severity, notice.fix)
        configs.append(Config(table="other"))
        assert first is not await board.notices()
        await asyncio.sleep(FRESH + 1)
        assert "this host can't be examined: no; permission" == (await board.notices()).findings[0].message
        assert 3 == len(examined)

    play(scene())


def test_configurations_are_put_together_in_threads(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Previews, additions and removals of backends of a large configuration do not hold up checks."""
    places: list[tuple[str, bool]] = []
    in_thread = False
    run_in_executor = VirtualTimeLoop.run_in_executor

    def run_there(loop: VirtualTimeLoop, executor: Any, function: Any, *args: Any) -> Any:
        nonlocal in_thread
        in_thread = True
        try:
            return run_in_executor(loop, executor, function, *args)
        finally:
            in_thread = False

    def noting(name: str, function: Any) -> Any:
        def note(*args: Any, **options: Any) -> Any:
            places.append((name, in_thread))
            return function(*args, **options)

        return note

    monkeypatch.setattr(VirtualTimeLoop, "run_in_executor", run_there)
    for name, function in (("amend", amend), ("resolve", resolve)):
        monkeypatch.setattr(controller, name, noting(name, function))

    async def scene() -> None:
        async with WiredDaemon(file) as daemon:
            new = read_backend("dns", "ns9", "10.0.0.19:53")
            places.clear()
            await daemon.service.preview_add("dns", new)
            await daemon.service.preview_remove("dns", "ns1")
            await daemon.service.add("dns", new, TESTER)
            await daemon.service.remove("dns", "ns9", TESTER)
            assert [("amend", True), ("resolve", True)] * 4 == places

    play(scene())


def test_clients_that_leave_start_no_second_examination() -> None:
    """The examination goes on in its thread, and the next client gets its result, or that of the new configuration."""
    examined: list[Config] = []
    configs = [Config()]
    begun, go = threading.Event(), threading.Event()

    def examine(config: Config) -> list[Finding]:
        examined.append(config)
        begun.set()
        go.wait()
        return [Finding(Severity.OK, "table", config.table)]

    async def leave(board: NoticeBoard) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(0.01):
                await board.notices()

    async def scene() -> None:
        with ThreadPoolExecutor(5) as threads:
            board = NoticeBoard(lambda: configs[-1], threads, examine)
            try:
                for _ in range(5):
                    await leave(board)
                assert await asyncio.to_thread(begun.wait, 30)
                configs.append(Config(table="other"))
                await leave(board)
                assert configs[:1] == examined
            finally:
                go.set()
            assert "other" == (await board.notices()).findings[0].message
            assert configs == examined

    asyncio.run(scene())


def test_packets_are_explained_in_one_thread(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Explanations take one thread, in which no reload and no lookup of a name waits."""
    used: list[tuple[Any, str]] = []
    run_in_executor = VirtualTimeLoop.run_in_executor

    def record(loop: VirtualTimeLoop, executor: Any, function: Any, *args: Any) -> Any:
        used.append((executor, getattr(function, "__name__", "")))
        return run_in_executor(loop, executor, function, *args)

    monkeypatch.setattr(VirtualTimeLoop, "run_in_executor", record)

    async def scene() -> None:
        async with WiredDaemon(file) as daemon:
            client, service = read_endpoint("198.51.100.7:40000"), read_endpoint("192.0.2.53:53")
            for _ in range(2):
                await daemon.service.explain(client, service, Protocol.UDP, None)
            first, second = (executor for executor, name in used if name == "_explain")
            assert first is second
            assert 1 == first._max_workers
            assert first not in [executor for executor, name in used if name != "_explain"]

    play(scene())


def test_a_slow_listener_of_a_restarted_daemon(file: Path) -> None:
    """Events of the service continue after an id, without a gap and without a repetition."""

    async def scene() -> None:
        async with WiredDaemon(file) as daemon:
            daemon.record_results("ns1", "---")
            await settle()
            first = daemon.bus.history.find(kind=EventKind.BACKEND_DOWN)[0]
            daemon.record_results("ns2", "---")
            stream = daemon.service.events(first.id - 1)
            assert first == await anext(stream)
            ids = [first.id]
            while ids[-1] < daemon.bus.history.last:
                ids.append((await anext(stream)).id)
            await stream.aclose()  # type: ignore[attr-defined]
            assert sorted(set(ids)) == ids
            assert ids == [event.id for event in daemon.bus.history.kept()][-len(ids) :]

    play(scene())
