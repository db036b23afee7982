"""Root operates a daemon as it is installed: without a token, an option or a variable."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, Any

from daemon_process import NFTLB, PATIENCE, Running, dns

from nftlb.lab import Lab

if TYPE_CHECKING:
    from pathlib import Path


def command(daemon: Running, *words: str) -> tuple[int, str]:
    """The exit status and the messages of a command on the daemon's host."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NFTLB_")}
    with daemon.host.popen(
        [str(NFTLB), *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
    ) as running:
        said, _ = running.communicate(timeout=PATIENCE)
        return running.returncode, said


def operations(daemon: Running) -> list[tuple[str, str, str]]:
    """Who did what, and the result, the last first."""
    status, found = daemon.call("GET", "/api/v1/history?kind=operated", token=None)
    assert 200 == status
    details: list[dict[str, Any]] = [event["details"] for event in found["events"]]
    return [(one["who"], one["what"], one["result"]) for one in details]


def test_root_needs_no_token(tmp_path: Path) -> None:
    """Commands work without a token, also when the file has just gained its token file; a restart keeps the history."""
    with Lab(backends=2) as lab, lab.serve():
        daemon = Running(lab.balancer, tmp_path, dns(lab))
        daemon.top["api"] = {"listen": f"unix:{daemon.socket}"}
        daemon.write(dns(lab))
        with daemon:
            assert 0 == command(daemon, "drain", "dns/b1")[0]
            assert ("drain", 0.0) == tuple(daemon.backend("dns", "b1")[key] for key in ("admin", "share"))
            del daemon.top["api"]
            daemon.write(dns(lab))
            assert (0, "") == command(daemon, "reload")
            assert 0 == command(daemon, "weight", "dns/b2", "3")[0]
            path = "/api/v1/pools/dns/backends/b2"
            status, preview = daemon.call("PATCH", f"{path}?preview=true", {"admin": "drain"})
            assert (200, True) == (status, "no usable backend" in preview["consequences"][0])

            question = f"source=198.51.100.7:40000&destination={lab.balancer.address(4)}:53/udp"
            status, explained = daemon.call("GET", f"/api/v1/explain?{question}", token=None)
            assert (200, {"b1": "drain", "b2": "in"}) == (
                status,
                {one["name"]: one["state"] for one in explained["candidates"]},
            )
            status, changes = daemon.call("GET", "/api/v1/ruleset/changes", token=None)
            drained = next(one for one in changes["changes"] if "admin drain" in one["reason"])
            assert any(line.startswith("- ") for line in drained["lines"])
            status, notices = daemon.call("GET", "/api/v1/notices", token=None)
            assert 200 == status
            assert "doctor" not in {finding["subject"] for finding in notices["findings"]}
            done = [("root", "weight 3", "done"), ("root", "reload", "done"), ("root", "drain", "done")]
            assert done == operations(daemon)
            last = daemon.events[-1].event["id"]
            assert last > 0

            daemon.stop()
            daemon.start()
            assert done == operations(daemon)
            status, history = daemon.call("GET", f"/api/v1/history?before={last + 1}&limit=1", token=None)
            assert [last] == [event["id"] for event in history["events"]]
