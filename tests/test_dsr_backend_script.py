"""The script of the Ansible role for DSR backends, with commands that only record what it makes and deletes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "deploy/ansible/roles/nftlb_dsr_backend/files/nftlb-dsr-backend"
RECORD = '#!/bin/sh\necho "${0##*/} $*" >>"$RECORD"\ncase $* in $REFUSED) exit 1 ;; esac\n'


class Backend:
    """A host on which the script runs with its files in a temporary directory."""

    def __init__(self, place: Path) -> None:
        self.place = place
        for name in ("etc", "run", "bin"):
            (place / name).mkdir()
        for name in ("ip", "sysctl"):
            command = place / "bin" / name
            command.write_text(RECORD)
            command.chmod(0o755)
        text = SCRIPT.read_text()
        for there, here in (("/etc/", "etc/"), ("/run/", "run/")):
            text = text.replace(there, f"{place}/{here}")
        (place / "script").write_text(text)

    def run(self, tunnels: str, *arguments: str, refused: str = "") -> list[str]:
        """Run the script, and return the commands about interfaces. `refused`: a pattern of commands that fail.

        Raises CalledProcessError if the script fails.
        """
        (self.place / "etc/nftlb-dsr-backend").write_text("192.0.2.53\n")
        (self.place / "etc/nftlb-dsr-backend-tunnels").write_text(tunnels)
        record = self.place / "record"
        record.write_text("")
        environment = {"PATH": f"{self.place}/bin:/usr/bin:/bin", "RECORD": f"{record}", "REFUSED": refused or "-"}
        subprocess.run(["sh", f"{self.place}/script", *arguments], check=True, env=environment)
        return [line for line in record.read_text().splitlines() if not line.startswith("ip address")]


def test_tunnels_are_made_once_and_deleted(tmp_path: Path) -> None:
    """A change of the list makes all tunnels again, an unchanged list does nothing, and `stop` deletes them alone."""
    backend = Backend(tmp_path)
    both = "ipip 10.8.0.11\nip6tnl 2001:db8:8::11\n"

    assert backend.run(both) == [
        "ip link add dsr1 type ipip local 10.8.0.11",
        "sysctl -q -w net.ipv4.conf.dsr1.rp_filter=2",
        "ip link set dsr1 up",
        "ip link add dsr2 type ip6tnl mode ip6ip6 local 2001:db8:8::11",
        "sysctl -q -w net.ipv4.conf.dsr2.rp_filter=2",
        "ip link set dsr2 up",
    ]
    assert backend.run(both) == []
    assert backend.run("gre 10.8.0.11\n") == [
        "ip link delete dsr1",
        "ip link delete dsr2",
        "ip link add dsr1 type gre local 10.8.0.11",
        "sysctl -q -w net.ipv4.conf.dsr1.rp_filter=2",
        "ip link set dsr1 up",
    ]
    assert backend.run("gre 10.8.0.11\n", "stop") == ["ip link delete dsr1"]
    assert backend.run("") == []


def test_a_failed_start_is_not_taken_for_a_finished_one(tmp_path: Path) -> None:
    """After a refusal the script fails before it adds addresses, and the next call begins again with all tunnels."""
    backend = Backend(tmp_path)
    both = "ipip 10.8.0.11\nip6tnl 2001:db8:8::11\n"

    for refused in ("link add dsr1*", "*dsr2.rp_filter*"):
        for _ in range(2):
            with pytest.raises(subprocess.CalledProcessError):
                backend.run(both, refused=refused)
            assert "ip address" not in (backend.place / "record").read_text()
    made = backend.run(both)

    assert [line for line in made if " link " in line] == [
        "ip link delete dsr1",
        "ip link delete dsr2",
        "ip link add dsr1 type ipip local 10.8.0.11",
        "ip link set dsr1 up",
        "ip link add dsr2 type ip6tnl mode ip6ip6 local 2001:db8:8::11",
        "ip link set dsr2 up",
    ]
    assert backend.run(both) == []
