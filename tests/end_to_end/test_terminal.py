"""The terminal with the real daemon: keys of `top`, events over a restart, and a drain that waits."""

from __future__ import annotations

import json
import select
import subprocess
from contextlib import ExitStack
from itertools import cycle
from typing import TYPE_CHECKING

import pytest
from daemon_process import NFTLB, VIP, Running, at, dns
from pseudo_terminal import Terminal

from nftlb.lab import Lab

if TYPE_CHECKING:
    from pathlib import Path

PORT = 53


def nftlb(daemon: Running, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command against the daemon, on its host."""
    argv = [str(NFTLB), *arguments, "--socket", str(daemon.socket), "--token-file", str(daemon.directory / "token")]
    with daemon.host.popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        out, error = process.communicate(timeout=60)
    return subprocess.CompletedProcess(argv, process.returncode, out, error)


def test_top_operates_backends(tmp_path: Path) -> None:
    """A chosen backend is drained after y, keeps its state after n, and gets another weight; the daemon has it so."""
    with Lab(backends=2) as lab, Running(lab.balancer, tmp_path, dns(lab)) as daemon:
        url, token = f"unix:{daemon.socket}", str(tmp_path / "token")
        terminal = Terminal(url, "top", "--interval", "0.1", "--sort", "name", NFTLB_TOKEN_FILE=token)
        try:
            terminal.see("dns/b2")
            terminal.type(b"d")
            terminal.see("choose a backend first")
            terminal.type(b"\x1b[Bd")
            terminal.see("drain dns/b1? y: yes")
            terminal.type(b"n")
            terminal.see("nothing changed")
            assert "enabled" == daemon.backend("dns", "b1")["admin"]
            terminal.type(b"d")
            terminal.see("drain dns/b1? y: yes")
            terminal.type(b"y")
            terminal.see("dns/b1: drain, weight 1, up, 0.0% of the pool's packets")
            assert "drain" == daemon.backend("dns", "b1")["admin"]
            terminal.type(b"jw7\r")
            terminal.see("weight dns/b2 7? y: yes")
            terminal.type(b"y")
            terminal.see("dns/b2: enabled, weight 7, up, 100.0% of the pool's packets")
            assert 7 == daemon.backend("dns", "b2")["weight"]
            terminal.type(b"q")
            assert 0 == terminal.end()
        finally:
            terminal.close()


@pytest.mark.slow
def test_events_continue_after_a_restart(tmp_path: Path) -> None:
    """`events` prints what happens at once, connects again when the daemon restarts, and filters by pool and kind."""
    with Lab(backends=2) as lab, Running(lab.balancer, tmp_path, dns(lab)) as daemon, ExitStack() as stack:
        argv = [str(NFTLB), "events", "dns", "--kind", "backend_changed", "--json", "--socket", str(daemon.socket)]
        process = stack.enter_context(subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0))
        stack.callback(process.kill)
        assert process.stdout is not None
        assert process.stderr is not None

        def next_change(backend: str) -> None:
            """Change a backend again and again until the command has connected and prints a change."""
            for command in cycle(["drain", "enable"]):
                assert 0 == nftlb(daemon, command, f"dns/{backend}").returncode
                assert process.stdout is not None
                while select.select([process.stdout], [], [], 1)[0]:
                    event = json.loads(process.stdout.readline())
                    assert ("backend_changed", "dns") == (event["kind"], event["pool"])
                    if event["backend"] == backend:
                        return

        next_change("b1")
        daemon.kill()
        assert b"trying again" in process.stderr.readline()
        daemon.start()
        next_change("b2")


@pytest.mark.slow
def test_drain_waits_for_connections(tmp_path: Path) -> None:
    """With a flow, `drain --wait` returns when conntrack has ended the flow, and fails if that takes too long.

    `add` and `delete` work at the same daemon.
    """
    with Lab(backends=2) as lab, lab.serve() as servers:
        pools = dns(lab, per="flow", session_timeout="12s")  # a command takes seconds on a busy machine
        with Running(lab.balancer, tmp_path, pools) as daemon, lab.client.connect((VIP[4], PORT)) as client:
            (name,) = {answer.backend for answer in client.exchange(2)}
            failed = nftlb(daemon, "drain", f"dns/{name}", "--wait", "--timeout", "0")
            assert 3 == failed.returncode
            assert f"dns/{name} is drained, but after 0 s 1 connection is left" in failed.stderr
            assert {name} == {answer.backend for answer in client.exchange(1)}
            done = nftlb(daemon, "drain", f"dns/{name}", "--wait")
            assert (0, "") == (done.returncode, done.stderr)
            assert done.stdout.endswith("no packets and no connections any more\n")
            assert {name} != {answer.backend for answer in client.exchange(1)}
            assert servers.settle()

            spare = at(lab.backends[0].ipv4, 5353).replace("5353", "5354")
            assert 0 == nftlb(daemon, "add", "dns/b9", spare, "--weight", "0").returncode
            assert 0 == daemon.backend("dns", "b9")["weight"]
            assert 0 == nftlb(daemon, "delete", "dns/b9").returncode
            assert ["b1", "b2"] == [shown["name"] for shown in daemon.client.document()["pools"][0]["backends"]]


def test_diff_uses_the_states_of_the_daemon(tmp_path: Path) -> None:
    """A drained backend and a backend that was added are no difference; a change of the file is one."""
    with Lab(backends=3) as lab, Running(lab.balancer, tmp_path, dns(lab)) as daemon:
        file = str(daemon.file)
        assert (0, "") == ((same := nftlb(daemon, "diff", file)).returncode, same.stdout)
        assert 0 == nftlb(daemon, "drain", "dns/b1").returncode
        assert 0 == nftlb(daemon, "add", "dns/b9", f"{lab.backends[0].ipv4}:5354").returncode
        assert (0, "") == ((same := nftlb(daemon, "diff", file)).returncode, same.stdout)
        strict = nftlb(daemon, "diff", "--file-only", file)
        assert (1, True) == (strict.returncode, strict.stdout.startswith(f"--- kernel\n+++ {file}\n"))

        changed = dns(lab)
        del changed["dns"]["backends"]["b2"]
        daemon.write(changed)
        found = nftlb(daemon, "diff", file)
        assert 1 == found.returncode
        title = f"--- kernel\n+++ {file}, with the states of the running daemon (pid {daemon.process.pid})\n"
        assert found.stdout.startswith(title)
        assert "-chain backend/dns/b2" in found.stdout

        other = nftlb(daemon, "diff", file, "--url", "127.0.0.1:1")
        assert 2 == other.returncode  # two addresses
        daemon.kill()
        assert 4 == nftlb(daemon, "diff", file).returncode
