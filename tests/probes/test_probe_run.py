"""How a check is carried out, whatever its kind; and whose fault it is that it can't be."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import resource
import select
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from probing import BOTH, V6, closed_port, datagrams, mute, open_files, says, streams, subject

from nftlb.errors import SystemFault
from nftlb.lab import Namespace
from nftlb.model import Admin, Agent, Dns, Exec, Http, Icmp, Ntp, Radius, Sip, Snmp, Tcp, Transport, Udp
from nftlb.model.checks import CHECKS
from nftlb.probes import Answer, Failed, Probe, probe_for, run
from nftlb.probes.line import one_line, shown
from nftlb.probes.probe import noting
from nftlb.probes.readiness import readiness

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from nftlb.health import Result
    from nftlb.model import AnyCheck
    from nftlb.probes import Subject

DATAGRAM_CHECKS: list[AnyCheck] = [Dns(), Udp(), Radius(secret="x"), Sip(), Ntp(), Snmp()]  # noqa: S106
STREAM_CHECKS: list[AnyCheck] = [Dns(transport=Transport.TCP), Tcp(), Http.model_validate({}), Sip(transport="tcp")]
NET_CHECKS = [*DATAGRAM_CHECKS, *STREAM_CHECKS]
ALL_CHECKS = [*NET_CHECKS, Icmp(), Exec(argv=("/bin/true",)), Agent(port=9)]


def named(check: AnyCheck) -> str:
    return f"{check.kind}-{getattr(check, 'transport', '')}"


class Doing(Probe):
    """A probe that does what it is told."""

    def __init__(self, do: Callable[[], Awaitable[Answer]]) -> None:
        self._do = do

    async def probe(self, subject: Subject) -> Answer:  # noqa: ARG002
        return await self._do()


def outcome(do: Callable[[], Awaitable[Answer]], seconds: float = 5) -> Result:
    return asyncio.run(run(Doing(do), subject(seconds=seconds)))


def raising(error: BaseException) -> Callable[[], Awaitable[Answer]]:
    async def do() -> Answer:
        raise error

    return do


def test_an_answer() -> None:
    """What a probe answers is the result, with the seconds it took."""

    async def do() -> Answer:
        await asyncio.sleep(0.02)
        return Answer("fine", 50, Admin.DRAIN)

    result = outcome(do)

    assert (True, "fine", 50, Admin.DRAIN) == (result.passed, result.reason, result.weight, result.admin)
    assert 0.02 <= result.seconds < 2


def test_a_failure() -> None:
    """A failure is a result as well; its reason becomes one line."""
    result = outcome(raising(Failed("line\nand\x1b[31m line", 5, Admin.MAINTENANCE)))

    assert (False, "line and\ufffd[31m line", 5) == (result.passed, result.reason, result.weight)
    assert result.admin is Admin.MAINTENANCE


def test_a_time_out() -> None:
    """What takes too long has failed."""

    async def do() -> Answer:
        await asyncio.sleep(10)
        raise AssertionError

    result = outcome(do, 0.02)

    assert (False, "no answer within 0.02s") == (result.passed, result.reason)
    assert 0.02 <= result.seconds < 2


def test_a_note() -> None:
    """A time-out tells what was noted; nothing is noted where there is nothing to say."""

    async def do() -> Answer:
        with noting(lambda: "outer"), noting(lambda: ""), noting(lambda: "inner"):
            await asyncio.sleep(10)
        raise AssertionError

    assert "no answer within 0.02s; inner; outer" == outcome(do, 0.02).reason


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "?"), "connection refused"),
        (OSError(errno.ENETUNREACH, "?"), "network is unreachable"),
        (OSError(errno.EHOSTUNREACH, "?"), "no route to host"),
        (ConnectionResetError(errno.ECONNRESET, "?"), "connection reset by peer"),
        (TimeoutError(errno.ETIMEDOUT, "?"), "connection timed out"),
        (OSError(errno.EACCES, "?"), "permission denied"),
        (OSError("told in words"), "told in words"),
        (ConnectionResetError(), "ConnectionResetError"),
    ],
)
def test_errors_of_the_backend(error: OSError, reason: str) -> None:
    """An error on the way to the backend is the backend's."""
    result = outcome(raising(error))

    assert (False, reason) == (result.passed, result.reason)


@pytest.mark.parametrize(
    ("number", "mend"),
    [
        (errno.EMFILE, "LimitNOFILE"),
        (errno.ENFILE, "fs.file-max"),
        (errno.ENOBUFS, "wmem_max"),
        (errno.ENOMEM, "MemoryMax"),
        (errno.EADDRNOTAVAIL, "ip_local_port_range"),
        (errno.EADDRINUSE, "ip_local_port_range"),
        (errno.EAGAIN, "ip_local_port_range"),
        (errno.ENOSPC, "fs.epoll.max_user_watches"),
        (errno.EPERM, "nf_conntrack_max"),
    ],
)
def test_errors_of_this_machine(number: int, mend: str) -> None:
    """An error of this machine is no result; what to mend is told."""
    with pytest.raises(SystemFault, match=mend):
        outcome(raising(OSError(number, "?")))


def test_other_errors_are_bugs() -> None:
    """An error that no backend can cause is not hidden."""
    with pytest.raises(ZeroDivisionError):
        outcome(raising(ZeroDivisionError()))


def test_cancelling_goes_through() -> None:
    """Who cancels a check is not told a result."""
    with pytest.raises(asyncio.CancelledError):
        outcome(raising(asyncio.CancelledError()))


@pytest.mark.parametrize("kind", CHECKS)
def test_every_kind_has_a_probe(kind: str) -> None:
    """Whatever can be configured can be carried out."""
    options: dict[str, dict[str, Any]] = {
        "radius": {"secret": "x"},
        "exec": {"argv": ["/bin/true"]},
        "agent": {"port": 1},
    }
    check = CHECKS[kind].model_validate(options.get(kind, {}))

    probe = probe_for(check)  # type: ignore[arg-type]

    assert probe.__module__ == f"nftlb.probes.{kind}"


def test_kinds_are_imported_when_needed() -> None:
    """The libraries that some kinds need don't slow down who uses none of them."""
    code = "import sys, nftlb.probes; print(sorted({'aiohttp', 'dns', 'pyrad', 'pysnmp', 'ssl'} & set(sys.modules)))"

    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout

    assert {"[]\n", "['ssl']\n"} >= {said}  # asyncio has ssl


@pytest.mark.parametrize("check", NET_CHECKS, ids=named)
def test_no_port(check: AnyCheck) -> None:
    """A check that needs a port is never made without, for the configuration asks for one."""
    with pytest.raises(ValueError, match="pool/backend has no port to check"):
        asyncio.run(run(probe_for(check), subject()))


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1"])
@pytest.mark.parametrize("check", NET_CHECKS, ids=named)
def test_no_route(check: AnyCheck, host: str) -> None:
    """A backend that this host has no route to is down: its users' packets would not get there either."""
    with Namespace("no-route") as namespace:
        namespace.run(["ip", "link", "set", "lo", "up"])
        result = namespace.call(lambda: asyncio.run(run(probe_for(check), subject(host, 9))))

    assert (False, "network is unreachable") == (result.passed, result.reason)


def own_firewall_drops(check: AnyCheck, host: str) -> Result:
    with Namespace("firewall") as namespace:
        namespace.run(["ip", "link", "set", "lo", "up"])
        namespace.run(["nft", "table inet t { chain c { type filter hook output priority 0; policy drop; }; }"])
        return namespace.call(lambda: asyncio.run(run(probe_for(check), subject(host, 9, seconds=0.2))))


@pytest.mark.parametrize("host", BOTH)
@pytest.mark.parametrize("check", [*DATAGRAM_CHECKS, Icmp()], ids=named)
def test_the_own_firewall_drops_datagrams(check: AnyCheck, host: str) -> None:
    """What never leaves this host says nothing about the backend."""
    with pytest.raises(SystemFault, match="this host drops its own checks: let them pass its firewall's output rules"):
        own_firewall_drops(check, host)


@pytest.mark.parametrize("host", BOTH)
@pytest.mark.parametrize("check", [Tcp(), Http.model_validate({})], ids=named)
def test_the_own_firewall_drops_connections(check: AnyCheck, host: str) -> None:
    """Of a SYN that is dropped the kernel tells nothing: it is as if the network had lost it."""
    result = own_firewall_drops(check, host)

    assert not result.passed
    assert result.reason.startswith("no answer within 0.2s")


@pytest.mark.parametrize("check", [each for each in ALL_CHECKS if each.kind != "exec"], ids=named)
def test_a_wrong_source(check: AnyCheck) -> None:
    """A source that this host has not is this host's fault; no socket is left."""

    async def main() -> None:
        probe = probe_for(check)
        before = open_files()
        with pytest.raises(SystemFault, match=r"192\.0\.2\.77 is no address of this host: add it"):
            await run(probe, subject(port=9, source="192.0.2.77"))
        assert before == open_files()

    asyncio.run(main())


@pytest.mark.parametrize("check", [Udp(), Tcp(), Icmp(), Http.model_validate({})], ids=named)
def test_a_source_of_the_other_family(check: AnyCheck) -> None:
    """A source of another family than the backend's is told as such."""
    with pytest.raises(SystemFault, match=r"can't send from 127\.0\.0\.1"):
        asyncio.run(run(probe_for(check), subject(V6, 9, source="127.0.0.1")))


@pytest.mark.parametrize("check", ALL_CHECKS, ids=named)
def test_no_files(check: AnyCheck) -> None:
    """With no file descriptor left, nothing is said about the backend, and nothing stays open."""

    async def main() -> None:
        probe = probe_for(check)
        where = subject(port=closed_port(), seconds=0.2)
        await run(probe, where)  # imports, and opens what is opened once
        await asyncio.sleep(0)
        before = open_files()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (_lowest_free(), hard))
        try:
            with pytest.raises(SystemFault, match="too many files open: raise LimitNOFILE="):
                await run(probe, where)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        await asyncio.sleep(0)
        assert before == open_files()

    asyncio.run(main())


def _lowest_free() -> int:
    descriptor = os.dup(0)
    os.close(descriptor)
    return descriptor


@pytest.mark.parametrize("left", range(1, 8))
def test_few_files(left: int) -> None:
    """A plugin takes several descriptors; whichever of them is missing, the others are closed."""

    async def main() -> None:
        probe = probe_for(Exec(argv=("/bin/true",)))
        await run(probe, subject())
        before = open_files()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (_lowest_free() + left, hard))
        try:
            passed = (await run(probe, subject())).passed
        except SystemFault as fault:
            passed = "LimitNOFILE" in str(fault)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert passed
        assert before == open_files()

    asyncio.run(main())


def test_no_file_for_the_first_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is opened once for each loop may be what does not open."""

    def refuse() -> None:
        raise OSError(errno.EMFILE, "?")

    async def main() -> None:
        before = open_files()
        with monkeypatch.context() as patch:
            patch.setattr(select, "epoll", refuse)
            with pytest.raises(SystemFault, match="too many files open"):
                await run(probe_for(Udp()), subject(port=closed_port(socket.SOCK_DGRAM)))
        assert before == open_files()
        result = await run(probe_for(Udp()), subject(port=closed_port(socket.SOCK_DGRAM)))
        assert "connection refused" == result.reason

    asyncio.run(main())


@pytest.mark.parametrize(
    ("number", "mend"),
    [
        (errno.EPERM, "not permitted to open a socket: run nftlb as root"),
        (errno.EACCES, "not permitted to open a socket: run nftlb as root"),
        (errno.EAFNOSUPPORT, "does not speak that address family"),
        (errno.EPROTONOSUPPORT, "does not speak that protocol"),
        (errno.ENFILE, "fs.file-max"),
        (errno.EINVAL, "Invalid"),
    ],
)
@pytest.mark.parametrize("check", [Udp(), Tcp(), Icmp(), Http.model_validate({})], ids=named)
def test_no_socket(check: AnyCheck, number: int, mend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket that can't be made is never the backend's fault."""

    async def main() -> None:
        def refuse(*_: object) -> None:
            raise OSError(number, "Invalid")

        with monkeypatch.context() as patch:
            patch.setattr(socket, "socket", refuse)
            with pytest.raises(SystemFault, match=mend):
                await run(probe_for(check), subject(port=9))

    asyncio.run(main())


def test_a_busy_loop() -> None:
    """Thousands of checks at the same time all get their answers, and leave nothing."""

    async def main() -> None:
        async with datagrams(lambda request: [request]) as port, streams(mute) as other:
            udp, tcp = probe_for(Udp(send="ping")), probe_for(Tcp())
            await run(udp, subject(port=port))
            before = open_files()
            results = await asyncio.gather(
                *(run(udp, subject(port=port)) for _ in range(150)), *(run(tcp, subject(port=other)) for _ in range(50))
            )
            assert all(result.passed for result in results)
            while open_files() > before:  # noqa: ASYNC110 - until the server has seen that its clients are gone
                await asyncio.sleep(0.001)

    asyncio.run(main())


def test_two_loops() -> None:
    """Each loop waits for its own sockets, and lets go of what it waits with when it ends."""

    async def main() -> None:
        async with datagrams(says(b"pong")) as port:
            assert (await run(probe_for(Udp()), subject(port=port))).passed

    asyncio.run(main())
    before = open_files()
    asyncio.run(main())
    asyncio.run(main())
    assert before == open_files()


def test_a_socket_that_is_closed_elsewhere() -> None:
    """What is reported of a descriptor that nobody waits for any more is left aside."""

    async def main() -> list[str]:
        called: list[str] = []
        ready = readiness(asyncio.get_running_loop())
        with socket.socket(type=socket.SOCK_DGRAM) as one, socket.socket(type=socket.SOCK_DGRAM) as two:
            one.bind(("127.0.0.1", 0))
            two.bind(("127.0.0.1", 0))
            ready.add(one.fileno(), lambda: called.append("one"))
            ready.add(two.fileno(), lambda: called.append(two.recv(10).decode()))
            with one.dup() as held:  # as a process does that is just being started
                ready.forget(one.fileno())
                one.close()
                two.sendto(b"x", held.getsockname())
                two.sendto(b"two", two.getsockname())
                while not called:  # noqa: ASYNC110 - it is what calls back that is tested
                    await asyncio.sleep(0)
            ready.forget(two.fileno())
        return called

    assert ["two"] == asyncio.run(main())


def test_one_line() -> None:
    """Lines, tabs and what can't be printed don't get through; what is long is cut."""
    assert "a b c" == one_line("a\tb \r\n c\n")
    assert "" == one_line(b" \n")
    assert "x" * 200 == one_line("x" * 200)
    assert "x" * 197 + "..." == one_line(b"x" * 201)
    assert "..." == one_line(" " * 100_000)
    assert '"' + "y" * 57 + '..."' == shown("y" * 61)


@given(st.text() | st.binary(max_size=2000), st.integers(10, 300))
def test_any_text_becomes_one_line(said: str | bytes, longest: int) -> None:
    """Whatever was said, it can be printed, and is no longer than allowed."""
    line = one_line(said, longest)

    assert line.isprintable()
    assert len(line) <= longest
    assert re.search(r"\s{2}|^\s|\s$", line) is None
