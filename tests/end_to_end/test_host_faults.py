"""Parts of the host fail: all other work continues, and the status shows the fault."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import time
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
from daemon_process import PORT, Running, Seen, dns, mounted
from servers.programs import data
from steady_traffic import Flow, lost, twice

from nftlb.lab import VIP4, VIP6, Lab

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

CHECK = {
    "udp": {"send": "are you there", "match": "are you there"},
    "interval": "200ms",
    "fast_interval": "50ms",
    "timeout": "1s",  # a busy machine must not look like a dead backend
}


def pools(lab: Lab, **options: Any) -> dict[str, Any]:
    return dns(lab, health=CHECK, **options)


def fault(what: str) -> Any:
    """A condition on the status: it shows this fault. The value is the fault's message."""

    def found(document: dict[str, Any]) -> str:
        return next((entry["message"] for entry in document["faults"] if entry["what"] == what), "")

    return found


def no_fault(document: dict[str, Any]) -> bool:
    return not document["faults"]


def clock(offset: Path) -> dict[str, str]:
    """Variables that change only the time of day, by the offset in a file: at first by nothing."""
    offset.write_text("+0")
    return {
        "LD_PRELOAD": data("usr/lib/*/faketime/libfaketime.so.1"),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


@pytest.mark.parametrize("hours", [1, -1])
def test_the_clock_jumps(hours: int, tmp_path: Path) -> None:
    """The clock jumps by an hour: no backend is removed, checks stay in time, and a dead backend is found."""
    offset = tmp_path / "offset"
    with Lab(backends=3) as lab, ExitStack() as servers:
        second = servers.enter_context(ExitStack())
        second.enter_context(lab.serve(PORT, backends=[lab.backends[1]]))
        servers.enter_context(lab.serve(PORT, backends=[lab.backends[0], lab.backends[2]]))
        with (
            Running(lab.balancer, tmp_path, pools(lab), environment=clock(offset)) as daemon,
            Flow(lab.client, (VIP4, 53), rate=1000) as flow,
        ):
            flow.wait(200)
            begin = daemon.backend("dns", "b1")["checks"][0]["at"]
            offset.write_text(f"{hours * 3600:+d}")
            jumped = time.monotonic()
            daemon.poll_status(
                lambda status: (status["pools"][0]["backends"][0]["checks"][0]["at"] > begin) == (hours > 0),
                "a check at another time of day",
            )
            flow.wait(1000)
            quiet = [event for event in daemon.events if event.at > jumped]
            before = len(flow.sent)
            second.close()
            out = daemon.wait("backend_down", "b2", since=jumped)

            assert [] == quiet
            assert [] == lost(flow.sent[: before - 100])
            reason = out.event["reason"].removesuffix(", after traffic was refused")
            assert reason in ("udp: connection refused", "udp: no answer within 1s")


@pytest.mark.parametrize("hours", [1, -1])
def test_the_clock_jumps_amid_a_slow_start(hours: int, tmp_path: Path) -> None:
    """A slow start and the reading of counters continue at the same pace."""
    offset = tmp_path / "offset"
    with (
        Lab(backends=3) as lab,
        lab.serve(PORT),
        Running(lab.balancer, tmp_path, dns(lab, slow_start="1m"), environment=clock(offset)) as daemon,
        Flow(lab.client, (VIP4, 53), rate=200) as flow,
    ):
        for admin in ("drain", "enabled"):
            assert 200 == daemon.call("PATCH", "/api/v1/pools/dns/backends/b3", {"admin": admin})[0]
        counted = daemon.client.document()["pools"][0]["packets"]
        offset.write_text(f"{hours * 3600:+d}")
        share = daemon.backend("dns", "b3")["share"]
        daemon.poll_status(lambda status: status["pools"][0]["packets"] > counted, "counters that go on")
        daemon.poll_status(lambda status: status["pools"][0]["backends"][2]["share"] > share, "a larger share")
        flow.wait(100)
        sent = flow.stop()

        assert 0 < daemon.backend("dns", "b3")["share"] < 0.25
        assert [] == lost(sent)


@pytest.mark.parametrize("options", ["size=64k", "ro"], ids=["full", "read-only"])
def test_state_directory_fails(options: str, tmp_path: Path) -> None:
    """With a full or read-only disk, commands and checks still work; the status shows what may be lost."""
    state = tmp_path / "state"
    state.mkdir()
    fill = f"dd if=/dev/zero of={state}/filler bs=1k count=64 status=none" if options != "ro" else "true"
    wrapper = mounted(f"mount -t tmpfs -o {options} tmpfs {state}; {fill}")
    with Lab(backends=3) as lab, ExitStack() as servers:
        third = servers.enter_context(ExitStack())
        third.enter_context(lab.serve(PORT, backends=[lab.backends[2]]))
        servers.enter_context(lab.serve(PORT, backends=lab.backends[:2]))
        daemon = servers.enter_context(Running(lab.balancer, tmp_path, pools(lab), wrapper=wrapper))
        answer, document = daemon.call("PATCH", "/api/v1/pools/dns/backends/b2", {"admin": "drain"})
        message = daemon.poll_status(fault("state_dir"), "the fault")
        with lab.client.connect((VIP4, 53), connected=False) as client:
            answers = client.exchange(6)
            third.close()
            daemon.wait("swap", since=daemon.wait("backend_down", "b3").at)
            alone = client.exchange(4)
        daemon.poll_status(fault("state_dir"), "the fault, still")

        assert (200, "drain") == (answer, document["admin"])
        assert ("No space left" if options != "ro" else "Read-only file system") in message
        assert {"b1", "b3"} == {reply.backend for reply in answers}
        assert {"b1"} == {reply.backend for reply in alone}


def test_nobody_reads_the_log(tmp_path: Path) -> None:
    """The reader of standard error stops reading: a dead backend is out, and SIGTERM ends the daemon."""
    log = tmp_path / "log"
    os.mkfifo(log)
    reader = os.open(log, os.O_RDWR | os.O_NONBLOCK)
    wrapper = ("sh", "-c", f'exec "$@" 2>{log}', "sh")
    try:
        with Lab(backends=3) as lab, ExitStack() as servers:
            third = servers.enter_context(ExitStack())
            third.enter_context(lab.serve(PORT, backends=[lab.backends[2]]))
            servers.enter_context(lab.serve(PORT, backends=lab.backends[:2]))
            with Running(lab.balancer, tmp_path, pools(lab), wrapper=wrapper) as daemon:
                with suppress(BlockingIOError):
                    while os.write(reader, b"\n"):
                        pass
                third.close()
                daemon.wait("swap", since=daemon.wait("backend_down", "b3").at)
                with lab.client.connect((VIP4, 53), connected=False) as client:
                    answers = client.exchange(6)

                assert {"b1", "b2"} == {reply.backend for reply in answers}
                assert 0 == daemon.stop()
    finally:
        os.close(reader)


def test_descriptors_run_out(tmp_path: Path) -> None:
    """Without descriptors, checks can't run: no backend is removed, traffic continues, and the status has a fault."""
    with Lab(backends=3) as lab, lab.serve(PORT), Running(lab.balancer, tmp_path, pools(lab)) as daemon:
        process = daemon.process.pid
        daemon.poll_status(
            lambda status: all(backend["checks"][0]["passed"] for backend in status["pools"][0]["backends"]), "checks"
        )
        enough = resource.prlimit(process, resource.RLIMIT_NOFILE)

        def of_checks(kind: str) -> list[Seen]:
            # The daemon may be about to save its state, with a fault for that too.
            return [
                event for event in daemon.events if event.kind == kind and "checks" == event.event["details"]["what"]
            ]

        with Flow(lab.client, (VIP4, 53), rate=1000) as flow:
            resource.prlimit(process, resource.RLIMIT_NOFILE, (5, enough[1]))
            event = daemon.wait_for(lambda: of_checks("fault"), "a fault of checks")[0]
            flow.wait(1500)
            resource.prlimit(process, resource.RLIMIT_NOFILE, enough)
            daemon.wait_for(lambda: of_checks("fault_gone"), "its end")
        sent = flow.stop()

        assert "too many files open" in event.event["reason"]
        assert [] == [event for event in daemon.events if event.kind in ("backend_down", "quorum_down")]
        assert [] == lost(sent)
        daemon.poll_status(no_fault, "an end of all faults")


@pytest.mark.parametrize(
    "hang", [["sh", "-c", "exec tail -f /dev/null"], ["getent", "hosts", "ns.example"]], ids=["for-ever", "dead-dns"]
)
def test_hooks_and_plugins_that_hang(hang: list[str], tmp_path: Path) -> None:
    """A hook that hangs, or waits for a dead DNS server, delays nothing; a plugin fails at its time-out."""
    check = {"exec": hang, "interval": "200ms", "fast_interval": "50ms", "timeout": "200ms", "fall": 2}
    with Lab(backends=3) as lab, lab.serve(PORT), lab.serve(53, answer=False):
        resolv = tmp_path / "resolv.conf"
        resolv.write_text(f"nameserver {lab.backends[0].ipv4}\n")
        wrapper = mounted(f"mount --bind {resolv} /etc/resolv.conf")
        two = pools(lab, hooks={"backend_down": hang})
        two["other"] = {"listen": f"{VIP4}:54/udp", "backends": two["dns"]["backends"], "health": check}
        two["other"]["hooks"] = {"backend_down": hang, "quorum_down": hang}
        with Running(lab.balancer, tmp_path, two, wrapper=wrapper) as daemon:
            first = daemon.wait("backend_down")
            quorum = daemon.wait("quorum_down")
            swap = daemon.wait("swap", since=quorum.at)
            status = daemon.client.document()

            assert swap.happened - quorum.happened < 5
            assert swap.happened - first.happened < 5  # each hook takes ten seconds
            assert {"exec: no answer within 0.2s"} == {backend["reason"] for backend in status["pools"][1]["backends"]}
            assert [True] * 3 == [backend["up"] for backend in status["pools"][0]["backends"]]


@contextmanager
def unopenable(plugin: Path) -> Iterator[Callable[[], object]]:
    """A plugin whose file can't be opened, as on a dead file system, until the function is called.

    A lease of the file keeps open(2) and exec(2) waiting, for up to 45 s (`fs.lease-break-time`).
    """
    write_plugin(plugin)
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)  # asks the holder of a lease to give it up
    lease = os.open(plugin, os.O_RDONLY)
    fcntl.fcntl(lease, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    try:
        yield lambda: fcntl.fcntl(lease, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    finally:
        os.close(lease)
        signal.signal(signal.SIGIO, before)


def write_plugin(plugin: Path) -> None:
    plugin.write_text("#!/bin/sh\necho it works\n")
    plugin.chmod(0o755)


def test_the_file_of_a_plugin_can_not_be_opened(tmp_path: Path) -> None:
    """As on a dead file system: the state of its backend stays, all other checks and programs work; later it runs."""
    stuck, works = tmp_path / "stuck", tmp_path / "works"
    write_plugin(works)
    with unopenable(stuck) as let_open, Lab(backends=3) as lab, ExitStack() as servers:
        third = servers.enter_context(ExitStack())
        third.enter_context(lab.serve(PORT, backends=[lab.backends[2]]))
        servers.enter_context(lab.serve(PORT, backends=lab.backends[:2]))
        both = pools(lab, hooks={"backend_down": [str(stuck)]})
        for number, (plugin, timeout) in enumerate(((stuck, "500ms"), (works, "30s"))):
            both[plugin.name] = {
                "listen": f"{VIP4}:{100 + number}/udp",
                "backends": {"ns": both["dns"]["backends"]["b1"]},
                "health": {"exec": [str(plugin)], "interval": "200ms", "timeout": timeout},
            }
        with Running(lab.balancer, tmp_path, both) as daemon:
            daemon.poll_status(
                lambda status: f"can't run {stuck}: it has not started within 0.5s" in fault("checks")(status),
                "the fault",
            )
            third.close()
            daemon.wait("swap", since=daemon.wait("backend_down", "b3").at)
            with lab.client.connect((VIP4, 53), connected=False) as client:
                answers = client.exchange(6)
            daemon.poll_status(lambda status: status["pools"][2]["backends"][0]["checks"][0]["passed"], "it")
            unknown = daemon.backend("stuck", "ns")
            let_open()
            daemon.poll_status(no_fault, "an end of all faults")
            after = daemon.backend("stuck", "ns")

        assert {"b1", "b2"} == {reply.backend for reply in answers}
        assert (True, "no check yet") == (unknown["up"], unknown["reason"])
        assert (True, "exec: it works") == (after["up"], after["reason"])


def test_the_end_while_the_file_of_a_plugin_can_not_be_opened(tmp_path: Path) -> None:
    """SIGTERM ends the daemon, although a thread waits for the file."""
    stuck = tmp_path / "stuck"
    with unopenable(stuck), Lab(backends=1) as lab, lab.serve(PORT):
        check = {"exec": [str(stuck)], "interval": "200ms", "timeout": "200ms"}
        with Running(lab.balancer, tmp_path, dns(lab, health=check)) as daemon:
            daemon.poll_status(fault("checks"), "the fault")
            asked = time.monotonic()
            status = daemon.stop()
            took = time.monotonic() - asked

    assert 0 == status
    assert took < 25  # the thread waits for up to 45 s


def test_the_kernel_refuses(tmp_path: Path) -> None:
    """While another process owns a table of our name, the status shows this; later, all rules are restored."""
    with Lab(backends=3) as lab, lab.serve(PORT), Running(lab.balancer, tmp_path, pools(lab)) as daemon:
        taken = time.monotonic()
        lab.nft("delete table ip nftlb; add table ip nftlb { flags owner; }")
        daemon.wait("swap_failed", since=taken)
        message = daemon.poll_status(fault("kernel"), "the fault")
        answer, document = daemon.call("PATCH", "/api/v1/pools/dns/backends/b2", {"admin": "drain"})
        metrics = daemon.call("GET", "/metrics")[1]
        given = time.monotonic()
        lab.nft("delete table ip nftlb")
        daemon.wait("swap", since=given)
        with lab.client.connect((VIP4, 53), connected=False) as client:
            answers = client.exchange(6)

        assert "Operation not permitted" in message
        assert (503, True) == (answer, "Operation not permitted" in document["error"])
        assert "nftlb_kernel_synced 0\n" in metrics
        # Changes from meanwhile were saved, and take effect now.
        assert {"b1", "b3"} == {reply.backend for reply in answers}
        daemon.poll_status(no_fault, "an end of all faults")


def test_the_old_rules_stay(tmp_path: Path) -> None:
    """If the kernel refuses rules for IPv6, IPv4 does not change either, and checks continue; later both change."""
    with Lab(backends=3) as lab, lab.serve(PORT, versions=[4]), ExitStack() as servers:
        first = servers.enter_context(ExitStack())
        first.enter_context(lab.serve(PORT, backends=lab.backends[:1], versions=[6]))
        servers.enter_context(lab.serve(PORT, backends=lab.backends[1:], versions=[6]))
        both = pools(lab)
        both["dns"]["listen"] = [f"{VIP4}:53/udp", f"[{VIP6}]:53/udp"]
        both["dns"]["backends"] |= {f"{host.name}-6": f"[{host.ipv6}]:{PORT}" for host in lab.backends}
        with (
            Running(lab.balancer, tmp_path, both) as daemon,
            Flow(lab.client, (VIP4, 53), rate=1000) as flow,
        ):
            flow.wait(100)
            taken = time.monotonic()
            lab.nft("delete table ip6 nftlb; add table ip6 nftlb { flags owner; }")
            daemon.wait("swap_failed", since=taken)
            answers = [
                daemon.call("PATCH", "/api/v1/pools/dns/backends/b2", {"admin": "drain"}),
                daemon.call("POST", "/api/v1/reload"),
            ]
            refused = time.monotonic()
            first.close()
            daemon.wait("backend_down", "b1-6", since=refused)
            flow.wait(300)
            stayed = time.monotonic()
            status = daemon.client.document()
            given = time.monotonic()
            lab.nft("delete table ip6 nftlb")
            daemon.wait("swap", since=given)
            daemon.poll_status(no_fault, "an end of all faults")
            done = time.monotonic()
            flow.wait(300)
            sent = flow.stop()
            with lab.client.connect((VIP6, 53), connected=False) as client:
                backends = {answer.backend for answer in client.exchange(12)}

        assert [503, 503] == [code for code, _ in answers]
        assert all("Operation not permitted" in document["error"] for _, document in answers)
        assert (False, False) == (status["kernel"]["synced"], status["config"]["success"])
        assert "Operation not permitted" in fault("kernel")(status)
        assert ([], []) == (lost(sent), twice(sent))
        assert {"b1", "b2", "b3"} == {datagram.backend for datagram in sent if refused <= datagram.at < stayed}
        assert {"b1", "b3"} == {datagram.backend for datagram in sent if datagram.at > done}
        assert {"b2", "b3"} == backends


def test_a_bad_file_is_refused(tmp_path: Path) -> None:
    """A reload of a bad file reports all errors, and changes nothing."""
    with Lab(backends=3) as lab, lab.serve(PORT), Running(lab.balancer, tmp_path, pools(lab)) as daemon:
        good = daemon.file.read_text()
        daemon.file.write_text(good.replace("interval: 200ms", "interval: soon").replace("listen: 192", "lisent: 192"))
        with Flow(lab.client, (VIP4, 53), rate=1000) as flow:
            flow.wait(100)
            answer, document = daemon.call("POST", "/api/v1/reload")
            config = daemon.client.document()["config"]
            daemon.file.write_text(good)
            again, _ = daemon.call("POST", "/api/v1/reload")
            flow.wait(100)
        sent = flow.stop()

        assert (422, 200) == (answer, again)
        assert all(any(word in problem for problem in document["problems"]) for word in ("soon", "lisent"))
        assert (False, len(document["problems"])) == (config["success"], len(config["problems"]))
        assert ([], []) == (lost(sent), twice(sent))
