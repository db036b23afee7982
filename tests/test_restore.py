"""What is loaded at boot: what the daemon last had, from the file or from its last good copy."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from running import NFTLB, Running

from nftlb.daemon.store import Store, last_good
from nftlb.lab import VIP4, Lab, Namespace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DOWN_AT_FIRST = {"tcp": {}, "port": 9, "initial": "last", "rise": 1, "fall": 1, "interval": "100ms"}


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab(backends=3) as built:
        yield built


def pools(lab: Lab, **options: Any) -> dict[str, Any]:
    return {
        "dns": {"listen": f"{VIP4}:53/udp", "backends": {b.name: f"{b.ipv4}:5353" for b in lab.backends}, **options}
    }


def restore(host: Namespace, file: Path, directory: Path) -> subprocess.CompletedProcess[str]:
    argv = [str(NFTLB), "restore", "--quiet", "--state-dir", str(directory), str(file)]
    return host.call(lambda: subprocess.run(argv, text=True, capture_output=True, timeout=30, check=False))


def boot(lab: Lab) -> None:
    """Forget what a kernel forgets."""
    lab.balancer.run(["nft", "flush", "ruleset"])


def who(lab: Lab, count: int = 12) -> list[str]:
    with lab.client.connect((VIP4, 53)) as client:
        return [answer.backend for answer in client.exchange(count)]


def test_what_the_daemon_remembers_is_restored(lab: Lab, tmp_path: Path) -> None:
    """Drained, weighted, added, removed and dead backends are so again, and the daemon then changes nothing."""
    with Running(lab.balancer, tmp_path, pools(lab)) as daemon, lab.serve():
        daemon.call("PATCH", "/api/v1/pools/dns/backends/b1", {"weight": 2})
        daemon.call("PATCH", "/api/v1/pools/dns/backends/b2", {"admin": "drain"})
        daemon.call("DELETE", "/api/v1/pools/dns/backends/b3")
        body = {"name": "b4", "address": lab.backends[2].ipv4, "port": 5353}
        assert 201 == daemon.call("POST", "/api/v1/pools/dns/backends", body)[0]
        daemon.stop()
        boot(lab)

        done = restore(lab.balancer, daemon.file, daemon.state)

        assert (0, "", "") == (done.returncode, done.stdout, done.stderr)
        assert {"b1": 8, "b3": 4} == Counter(who(lab))
        daemon.start()
        assert 0 == daemon.client.document()["kernel"]["swaps"]


def test_who_was_down_is_down(lab: Lab, tmp_path: Path) -> None:
    """Health is restored as `initial: last` has it; nobody is checked for it."""
    dead = pools(lab, health=DOWN_AT_FIRST)
    dead["dns"]["backends"]["b1"] = {"address": lab.backends[0].ipv4, "port": 5353}
    with lab.serve(), lab.serve_tcp(9, backends=lab.backends[1:]):
        with Running(lab.balancer, tmp_path, dead) as daemon:
            daemon.poll_status(lambda _: not daemon.backend("dns", "b1")["up"], "b1 down")
        boot(lab)

        assert 0 == restore(lab.balancer, daemon.file, daemon.state).returncode

        assert {"b2", "b3"} == set(who(lab))


def test_a_file_that_is_bad_by_now(lab: Lab, tmp_path: Path) -> None:
    """Its last good copy is loaded, as of the last reload that worked, and what is wrong is told."""
    with Running(lab.balancer, tmp_path, pools(lab)) as daemon, lab.serve():
        changed = pools(lab)
        del changed["dns"]["backends"]["b3"]
        daemon.write(changed)
        assert 200 == daemon.call("POST", "/api/v1/reload")[0]
        daemon.file.write_text("pools: {dns: {listen: nowhere}}\n")
        assert 422 == daemon.call("POST", "/api/v1/reload")[0]
        daemon.stop()
        boot(lab)

        done = restore(lab.balancer, daemon.file, daemon.state)

        assert 0 == done.returncode
        assert done.stderr.startswith(f"{daemon.file} can't be used, its last good copy is:\n{daemon.file}:1:")
        assert {"b1", "b2"} == set(who(lab))


def test_a_bad_file_without_a_copy(tmp_path: Path) -> None:
    """What is wrong is told, and nothing is loaded."""
    file = tmp_path / "nftlb.yaml"
    file.write_text("pools: 7\n")
    with Namespace("balancer") as host:
        done = restore(host, file, tmp_path)

        assert (1, "") == (done.returncode, done.stdout)
        assert done.stderr.startswith(f"{file}:1:8: pools: ")
        assert "" == host.run(["nft", "list", "ruleset"])


def test_no_file_is_nothing_to_do(tmp_path: Path) -> None:
    """Silent, and no copy is taken for what somebody has removed."""
    Store(str(tmp_path), "nftlb").keep(str(tmp_path / "gone.yaml"), b"pools: {}\n")
    with Namespace("balancer") as host:
        done = restore(host, tmp_path / "gone.yaml", tmp_path)

    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)


def test_before_there_is_a_network(tmp_path: Path) -> None:
    """Neither interfaces, nor addresses, nor routes are needed, whatever the way of forwarding."""
    file = tmp_path / "nftlb.yaml"
    there = {
        "nat": {"listen": f"{VIP4}:53/udp", "backends": {"b1": "10.0.1.2:53"}, "source": "192.0.2.9"},
        "stateless": {
            "listen": f"{VIP4}:54/udp",
            "backends": {"b2": "10.0.2.2:54"},
            "forward": "stateless",
            "ingress": ["eth7"],
        },
        "dsr": {"listen": f"{VIP4}:55/udp", "backends": {"b3": "10.0.3.2"}, "forward": "dsr", "ingress": ["eth7"]},
    }
    file.write_text(yaml.safe_dump({"state_dir": str(tmp_path), "pools": there}))
    with Namespace("balancer") as host:
        done = restore(host, file, tmp_path)

        assert 0 == done.returncode, done.stderr
        assert "pool stateless: there is no interface eth7, so its fast path is left out there\n" in done.stderr
        loaded = host.run(["nft", "list", "ruleset"])
    assert [] == [address for address in ("10.0.1.2", "10.0.2.2") if address not in loaded]


def test_what_is_remembered_can_not_be_read(lab: Lab, tmp_path: Path) -> None:
    """It is told and left for the daemon to set aside; the file is loaded without."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "nftlb.json").write_text("{torn")
    daemon = Running(lab.balancer, tmp_path, pools(lab))
    with lab.serve():
        done = restore(lab.balancer, daemon.file, daemon.state)

        assert 0 == done.returncode
        assert done.stderr.startswith("nothing is remembered: ")
        assert {"b1", "b2", "b3"} == set(who(lab))
    assert "{torn" == (tmp_path / "state" / "nftlb.json").read_text()


def test_a_daemon_is_not_disturbed(lab: Lab, tmp_path: Path) -> None:
    """While the daemon runs, it is the only one that writes its table."""
    with Running(lab.balancer, tmp_path, pools(lab)) as daemon:
        before = lab.balancer.run(["nft", "list", "ruleset"])
        done = restore(lab.balancer, daemon.file, daemon.state)

        assert 3 == done.returncode
        assert "another nftlb runs for the table nftlb" in done.stderr
        assert before == lab.balancer.run(["nft", "list", "ruleset"])


def test_copies_are_told_apart(tmp_path: Path) -> None:
    """The copy is that of the file that is asked for; of two tables that it had, the newer one."""
    mine, other = str(tmp_path / "mine.yaml"), str(tmp_path / "other.yaml")
    Store(str(tmp_path), "old").keep(mine, b"table: old\n")

    os.utime(tmp_path / "old.yaml", (1, 1))
    Store(str(tmp_path), "new").keep(mine, b"table: new\n")
    Store(str(tmp_path), "other").keep(other, b"table: other\n")

    assert tmp_path / "new.yaml" == last_good(str(tmp_path), mine)
    assert tmp_path / "other.yaml" == last_good(str(tmp_path), other)
    assert None is last_good(str(tmp_path), str(tmp_path / "none.yaml"))
    assert 0o600 == (tmp_path / "new.yaml").stat().st_mode & 0o777
