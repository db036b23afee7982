"""The execution of checks of every kind, and faults of this machine."""

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

from nftlb.config import read_check
from nftlb.errors import SystemFault
from nftlb.lab import Namespace
from nftlb.model import Admin, Agent, Dns, Exec, Http, Icmp, Ntp, Radius, Sip, Snmp, Tcp, Transport, Udp
from nftlb.model.checks import CHECKS
from nftlb.printable import one_line, quoted
from nftlb.probes import Failed, Probe, Success, probe_for, run_probe
from nftlb.probes.probe import noting

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from nftlb.health import CheckResult
    from nftlb.model import AnyCheck
    from nftlb.probes import Subject

DATAGRAM_CHECKS: list[AnyCheck] = [Dns(), Udp(), Radius(secret="x"), Sip(), Ntp(), Snmp()]  # noqa: S106
STREAM_CHECKS: list[AnyCheck] = [Dns(transport=Transport.TCP), Tcp(), Http(), Sip(transport=Transport.TCP)]
NET_CHECKS = [*DATAGRAM_CHECKS, *STREAM_CHECKS]
ALL_CHECKS = [*NET_CHECKS, Icmp(), Exec(argv=("/bin/true",)), Agent(port=9)]


def named(check: AnyCheck) -> str:
    return f"{check.kind}-{getattr(check, 'transport', '')}"


class CallingProbe(Probe):
    """A probe that calls a function."""

    def __init__(self, do: Callable[[], Awaitable[Success]]) -> None:
        self._do = do

    async def probe(self, subject: Subject) -> Success:  # noqa: ARG002
        return await self._do()


def outcome(do: Callable[[], Awaitable[Success]], seconds: float = 5) -> CheckResult:
    return asyncio.run(run_probe(CallingProbe(do), subject(seconds=seconds)))


def raising(error: BaseException) -> Callable[[], Awaitable[Success]]:
    async def do() -> Success:
        raise error

    return do


def test_an_answer() -> None:
    """The result is that of the probe, with the duration in seconds."""

    async def do() -> Success:
        await asyncio.sleep(0.02)
        return Success("fine", 50, Admin.DRAIN)

    result = outcome(do)

    assert (True, "fine", 50, Admin.DRAIN) == (result.passed, result.reason, result.weight, result.admin)
    assert 0.02 <= result.seconds < 15


def test_a_failure() -> None:
    """A failure is a result too, with a reason of one line."""
    result = outcome(raising(Failed("line\nand\x1b[31m line", 5, Admin.MAINTENANCE)))

    assert (False, "line and\ufffd[31m line", 5) == (result.passed, result.reason, result.weight)
    assert result.admin is Admin.MAINTENANCE


def test_a_time_out() -> None:
    """A check that takes too long fails."""

    async def do() -> Success:
        await asyncio.sleep(10)
        raise AssertionError

    result = outcome(do, 0.02)

    assert (False, "no answer within 0.02s") == (result.passed, result.reason)
    assert 0.02 <= result.seconds < 15


def test_a_note() -> None:
    """The reason of a time-out has the notes of the probe, if there are any."""

    async def do() -> Success:
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
        (OSError("only a text"), "only a text"),
        (ConnectionResetError(), "ConnectionResetError"),
    ],
)
def test_errors_of_the_backend(error: OSError, reason: str) -> None:
    """A network error counts as the backend's fault."""
    result = outcome(raising(error))

    assert (False, reason) == (result.passed, result.reason)


@pytest.mark.parametrize(
    ("number", "fix"),
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
def test_errors_of_this_machine(number: int, fix: str) -> None:
    """An error of this machine raises SystemFault with the fix."""
    with pytest.raises(SystemFault, match=fix):
        outcome(raising(OSError(number, "?")))


def test_other_errors_are_bugs() -> None:
    """An error that no backend can cause is raised."""
    with pytest.raises(ZeroDivisionError):
        outcome(raising(ZeroDivisionError()))


def test_a_cancelled_check_has_no_result() -> None:
    """A cancelled check has no result."""
    with pytest.raises(asyncio.CancelledError):
        outcome(raising(asyncio.CancelledError()))


@pytest.mark.parametrize("kind", CHECKS)
def test_every_kind_has_a_probe(kind: str) -> None:
    """Every kind of check in the configuration has a probe."""
    options: dict[str, dict[str, Any]] = {
        "radius": {"secret": "x"},
        "exec": {"argv": ["/bin/true"]},
        "agent": {"port": 1},
    }
    check = read_check(kind, options.get(kind, {}))

    probe = probe_for(check)

    assert probe.__module__ == f"nftlb.probes.{kind}"


def test_kinds_are_imported_when_needed() -> None:
    """Libraries for some kinds of checks are imported only if these checks are used."""
    code = "import sys, nftlb.probes; print(sorted({'aiohttp', 'dns', 'pyrad', 'pysnmp', 'ssl'} & set(sys.modules)))"

    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout

    assert {"[]\n", "['ssl']\n"} >= {said}  # asyncio has ssl


@pytest.mark.parametrize("check", NET_CHECKS, ids=named)
def test_no_port(check: AnyCheck) -> None:
    """A check that needs a port always has a port, because the configuration demands it."""
    with pytest.raises(ValueError, match="pool/backend has no port to check"):
        asyncio.run(run_probe(probe_for(check), subject()))


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1"])
@pytest.mark.parametrize("check", NET_CHECKS, ids=named)
def test_no_route(check: AnyCheck, host: str) -> None:
    """A backend without a route is down, because the packets of its clients would not reach it either."""
    with Namespace("no-route") as namespace:
        namespace.run(["ip", "link", "set", "lo", "up"])
        result = namespace.call(lambda: asyncio.run(run_probe(probe_for(check), subject(host, 9))))

    assert (False, "network is unreachable") == (result.passed, result.reason)


def own_firewall_drops(check: AnyCheck, host: str) -> CheckResult:
    with Namespace("firewall") as namespace:
        namespace.run(["ip", "link", "set", "lo", "up"])
        namespace.run(["nft", "table inet t { chain c { type filter hook output priority 0; policy drop; }; }"])
        return namespace.call(lambda: asyncio.run(run_probe(probe_for(check), subject(host, 9, seconds=0.2))))


@pytest.mark.parametrize("host", BOTH)
@pytest.mark.parametrize("check", [*DATAGRAM_CHECKS, Icmp()], ids=named)
def test_the_own_firewall_drops_datagrams(check: AnyCheck, host: str) -> None:
    """Datagrams that this host's firewall drops raise SystemFault."""
    with pytest.raises(SystemFault, match="this host drops its own checks: let them pass its firewall's output rules"):
        own_firewall_drops(check, host)


@pytest.mark.parametrize("host", BOTH)
@pytest.mark.parametrize("check", [Tcp(), Http()], ids=named)
def test_the_own_firewall_drops_connections(check: AnyCheck, host: str) -> None:
    """The kernel reports no error for a dropped SYN, as if the network had lost it."""
    result = own_firewall_drops(check, host)

    assert not result.passed
    assert result.reason.startswith("no answer within 0.2s")


@pytest.mark.parametrize("check", [candidate for candidate in ALL_CHECKS if candidate.kind != "exec"], ids=named)
def test_a_wrong_source(check: AnyCheck) -> None:
    """A source address that this host lacks raises SystemFault; no socket is left."""

    async def main() -> None:
        probe = probe_for(check)
        before = open_files()
        with pytest.raises(SystemFault, match=r"192\.0\.2\.77 is not an address of this host: add it"):
            await run_probe(probe, subject(port=9, source="192.0.2.77"))
        assert before == open_files()

    asyncio.run(main())


@pytest.mark.parametrize("check", [Udp(), Tcp(), Icmp(), Http()], ids=named)
def test_a_source_of_the_other_family(check: AnyCheck) -> None:
    """The reason names a source of another family than the backend's."""
    with pytest.raises(SystemFault, match=r"can't send from 127\.0\.0\.1"):
        asyncio.run(run_probe(probe_for(check), subject(V6, 9, source="127.0.0.1")))


@pytest.mark.parametrize("check", ALL_CHECKS, ids=named)
def test_no_files(check: AnyCheck) -> None:
    """Without a free descriptor, the state of the backend does not change, and no file stays open."""

    async def main() -> None:
        probe = probe_for(check)
        where = subject(port=closed_port(), seconds=0.2)
        await run_probe(probe, where)  # imports modules, and opens files that stay open
        await asyncio.sleep(0)
        before = open_files()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (_lowest_free(), hard))
        try:
            with pytest.raises(SystemFault, match="too many files open: raise LimitNOFILE="):
                await run_probe(probe, where)
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
    """A plugin needs several descriptors; if any of them can't be had, the others are closed."""

    async def main() -> None:
        probe = probe_for(Exec(argv=("/bin/true",)))
        await run_probe(probe, subject())
        before = open_files()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (_lowest_free() + left, hard))
        try:
            passed = (await run_probe(probe, subject())).passed
        except SystemFault as fault:
            passed = "LimitNOFILE" in str(fault)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert passed
        assert before == open_files()

    asyncio.run(main())


def test_no_file_for_the_first_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error may come from a file that is opened once for each loop."""

    def refuse() -> None:
        raise OSError(errno.EMFILE, "?")

    async def main() -> None:
        before = open_files()
        with monkeypatch.context() as patch:
            patch.setattr(select, "epoll", refuse)
            with pytest.raises(SystemFault, match="too many files open"):
                await run_probe(probe_for(Udp()), subject(port=closed_port(socket.SOCK_DGRAM)))
        assert before == open_files()
        result = await run_probe(probe_for(Udp()), subject(port=closed_port(socket.SOCK_DGRAM)))
        assert "connection refused" == result.reason

    asyncio.run(main())


@pytest.mark.parametrize(
    ("number", "fix"),
    [
        (errno.EPERM, "not permitted to open a socket: run nftlb as root"),
        (errno.EACCES, "not permitted to open a socket: run nftlb as root"),
        (errno.EAFNOSUPPORT, "does not speak that address family"),
        (errno.EPROTONOSUPPORT, "does not speak that protocol"),
        (errno.ENFILE, "fs.file-max"),
        (errno.EINVAL, "Invalid"),
    ],
)
@pytest.mark.parametrize("check", [Udp(), Tcp(), Icmp(), Http()], ids=named)
def test_no_socket(check: AnyCheck, number: int, fix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket that can't be opened raises SystemFault."""

    async def main() -> None:
        def refuse(*_: object) -> None:
            raise OSError(number, "Invalid")

        with monkeypatch.context() as patch:
            patch.setattr(socket, "socket", refuse)
            with pytest.raises(SystemFault, match=fix):
                await run_probe(probe_for(check), subject(port=9))

    asyncio.run(main())


def test_a_busy_loop() -> None:
    """Thousands of checks at the same time all get their replies, and leave no files open."""

    async def main() -> None:
        async with datagrams(lambda request: [request]) as port, streams(mute) as other:
            udp, tcp = probe_for(Udp(send="ping")), probe_for(Tcp())
            await run_probe(udp, subject(port=port))
            before = open_files()
            results = await asyncio.gather(
                *(run_probe(udp, subject(port=port)) for _ in range(150)),
                *(run_probe(tcp, subject(port=other)) for _ in range(50)),
            )
            assert all(result.passed for result in results)
            while open_files() > before:  # noqa: ASYNC110 - until the server has seen that its clients are gone
                await asyncio.sleep(0.001)

    asyncio.run(main())


def test_two_loops() -> None:
    """Each loop waits for its own sockets, and closes its epoll descriptor when it ends."""

    async def main() -> None:
        async with datagrams(says(b"pong")) as port:
            assert (await run_probe(probe_for(Udp()), subject(port=port))).passed

    asyncio.run(main())
    before = open_files()
    asyncio.run(main())
    asyncio.run(main())
    assert before == open_files()


def test_one_line() -> None:
    """Line breaks, tabs and unprintable characters are replaced; long text is cut."""
    assert "a b c" == one_line("a\tb \r\n c\n")
    assert "" == one_line(b" \n")
    assert "x" * 200 == one_line("x" * 200)
    assert "x" * 197 + "..." == one_line(b"x" * 201)
    assert "..." == one_line(" " * 100_000)
    assert '"' + "y" * 57 + '..."' == quoted("y" * 61)


@given(st.text() | st.binary(max_size=2000), st.integers(10, 300))
def test_any_text_becomes_one_line(said: str | bytes, longest: int) -> None:
    """Any reason can be printed, and is no longer than allowed."""
    line = one_line(said, longest)

    assert line.isprintable()
    assert len(line) <= longest
    assert re.search(r"\s{2}|^\s|\s$", line) is None
