"""`guard` with the real daemon: the API, `nftlb clients`, and bans and lists across reloads and restarts."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

from daemon_process import NFTLB, VIP, Running, dns

from nftlb.lab import Lab

if TYPE_CHECKING:
    from pathlib import Path

PORT = 53


def test_bans_clients_and_lists_of_a_daemon(tmp_path: Path) -> None:
    """A ban outlives kill -9 and a changed list; drops and clients are shown; a bad list leaves all as it was."""
    denied = tmp_path / "deny.txt"
    denied.write_text("203.0.113.0/24\n")
    guard = {"rate": "1/h", "burst": 5, "ban": "10m", "clients": True, "deny": str(denied)}
    with Lab(backends=2, clients=2) as lab, lab.serve() as servers:
        pools = dns(lab, guard=guard)
        with Running(lab.balancer, tmp_path, pools) as daemon:
            first, second = lab.clients
            with first.connect((VIP[4], PORT)) as greedy, second.connect((VIP[4], PORT)) as other:
                greedy.send(8)
                assert 5 == len(servers.settle())
                drops = {"rate": 1, "banned": 2, "denied": 0, "full": 0}
                daemon.poll_status(
                    lambda status: drops == status["pools"][0]["guard"], "drops: counts of the last second"
                )

                argv = [str(NFTLB), "clients", "dns", "--json", "--socket", str(daemon.socket)]
                shown = json.loads(subprocess.run(argv, capture_output=True, check=True, text=True).stdout)
                (client,) = shown["clients"]
                assert (first.ipv4, 8, 3) == (client["source"], client["packets"], client["dropped"])
                assert 500 < client["banned"] <= 600

                denied.write_text(f"{second.ipv4}\nnonsense\n")
                status, answer = daemon.call("POST", "/api/v1/reload")
                assert (422, True) == (status, f"{denied}:2:1: " in str(answer))
                other.send(1)
                assert 6 == len(servers.settle())

                denied.write_text(f"{second.ipv4}\n")
                assert 200 == daemon.call("POST", "/api/v1/reload")[0]
                daemon.kill()
                daemon.start()
                other.send(1)
                greedy.send(1)
                assert 6 == len(servers.settle())
