"""Backends with harmful replies to their checks: the daemon goes on with all other work."""

from __future__ import annotations

import re
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daemon_process import PORT, VIP, Running, at, dns
from machine_stalls import Stalls
from servers.answerer import Answerer

from nftlb.lab import Lab

sys.path.append(str(Path(__file__).parents[2] / "bench"))
from hostile import KINDS

if TYPE_CHECKING:
    import subprocess

    from nftlb.lab import Host

HOSTILE_PORT = 9000
SERVER = Path(__file__).parents[2] / "bench" / "hostile.py"
CHECK = {"udp": {"send": "are you there", "match": "are you there"}}
TIMERS = {"interval": "400ms", "fast_interval": "100ms", "timeout": "200ms", "rise": 2, "fall": 3}
BOUND = 0.4 + 2 * 0.1 + 0.25
"""Seconds after which a server that refuses is out by those timers (docs/daemon.md), and 250 ms."""
SIGTERM_BOUND = 2.0
TURNS = 20
"""So many times in a row the daemon has to be given a processor until a backend is out, or until it has ended."""


def pools(lab: Lab) -> dict[str, Any]:
    """Return one pool of healthy servers, and two pools of hostile servers for each kind of check."""
    found = dns(lab, health=CHECK | TIMERS)
    b1, _, b3 = lab.backends
    for number, (check, *_) in enumerate(KINDS):
        for times in range(2):
            port = HOSTILE_PORT + number
            found[f"hostile{number}-{times}"] = {
                "listen": f"{at(VIP[4], 1000 + 2 * number + times)}/udp",
                "backends": {host.name: at(host.address(4), port) for host in (b1, b3)},
                "health": {**check, "interval": "2s", "timeout": "1s", "fast_interval": "1s"},
            }
    return found


def memory(daemon: Running, what: str) -> int:
    """Return the memory in KiB."""
    found = re.search(rf"^{what}:\s+(\d+) kB", Path(f"/proc/{daemon.process.pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def hostile(host: Host, stack: ExitStack) -> None:
    """Run all hostile servers on a host, until the end of `with`."""
    server: subprocess.Popen[str] = host.popen([sys.executable, str(SERVER), str(HOSTILE_PORT)], stdout=-1)
    stack.callback(server.wait)
    stack.callback(server.kill)
    assert server.stdout is not None
    stack.callback(server.stdout.close)
    assert "ready" in server.stdout.readline()


def reasons(daemon: Running) -> set[str]:
    found = daemon.client.document()["pools"]
    return {
        backend.get("reason") or ""
        for pool in found
        if pool["name"].startswith("hostile")
        for backend in pool["backends"]
    }


def test_hostile_servers_do_not_disturb_the_daemon(tmp_path: Path) -> None:
    """With 48 hostile servers, a killed server is out in time, memory does not grow, and SIGTERM ends the daemon."""
    with Lab(backends=3) as lab, ExitStack() as stack:
        b1, b2, b3 = lab.backends
        stack.enter_context(lab.serve(PORT, backends=[b1, b3]))
        server = stack.enter_context(Answerer(b2, port=PORT))
        daemon = Running(lab.balancer, tmp_path, pools(lab))
        stack.enter_context(daemon)
        stalls = stack.enter_context(Stalls(lambda: [daemon.process.pid]))
        daemon.poll_status(lambda _: not any("answer within" in reason for reason in reasons(daemon)), "refusals")
        rest = memory(daemon, "VmRSS")
        for host in (b1, b3):
            hostile(host, stack)
        # Each kind has been met when its reason has come.
        daemon.poll_status(lambda _: "refused" not in " ".join(reasons(daemon)), "answers of all that are hostile")

        assert any('does not match "status.*ok"' in reason for reason in reasons(daemon))

        mark = stalls.mark()
        began = time.monotonic()
        server.kill()
        seen = daemon.wait("backend_down", "b2", since=began)
        out = seen.happened - began
        lost = stalls.since(mark, TURNS)
        highest = memory(daemon, "VmHWM")

        mark = stalls.mark()
        began = time.monotonic()
        daemon.process.send_signal(signal.SIGTERM)
        assert 0 == daemon.process.wait(20)
        ended = time.monotonic() - began
        lost_at_end = stalls.since(mark, TURNS)
        figures = f"out after {out:.3f} s, memory {rest} and at most {highest} KiB, ended after {ended:.3f} s"
        print(f"\n{figures}; the machine stood still for {lost:.3f} and {lost_at_end:.3f} s")  # noqa: T201 - for docs/daemon.md

        assert out <= BOUND + lost
        assert highest < 2 * rest
        assert ended <= SIGTERM_BOUND + lost_at_end
