"""The configuration that a start and `nftlb restore` use: the file, or its last good copy."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from daemon_process import NFTLB, Running
from tcp_connections import TcpServers

from nftlb.daemon.startup import apis_of, copy_of, first_source
from nftlb.daemon.store import Store, last_good
from nftlb.errors import ConfigError
from nftlb.lab import VIP4, Lab, Namespace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


GOOD = "pools: {dns: {listen: 192.0.2.53:53/udp, backends: {ns1: 10.0.0.11:53}}}\n"
BAD = "pools: {dns: {listen: nowhere}}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "nftlb.yaml"


def keep(tmp_path: Path, file: Path, text: str = GOOD) -> Path:
    """A directory with a copy of the file, as a daemon left it."""
    directory = tmp_path / "state"
    Store(str(directory), "nftlb").keep(str(file), text.encode())
    return directory


def test_a_good_file_is_taken(file: Path, tmp_path: Path) -> None:
    """With a good file, its copy is not read."""
    directory = keep(tmp_path, file, "pools: 7\n")
    file.write_text(GOOD)

    found = first_source(str(file), str(directory))

    assert (GOOD.encode(), "", ()) == (found.text, found.copy, found.problems)


@pytest.mark.parametrize("what", ["bad", "torn", "empty", "binary", "missing", "directory", "fifo", "loop"])
def test_a_copy_replaces_a_bad_or_missing_file(what: str, file: Path, tmp_path: Path) -> None:
    """The copy has the text of the file. The problems are the same as in `nftlb check`."""
    directory = keep(tmp_path, file)
    match what:
        case "directory":
            file.mkdir()
        case "fifo":
            os.mkfifo(file)
        case "loop":
            file.symlink_to(file)
        case "missing":
            pass
        case _:
            file.write_bytes({"bad": BAD.encode(), "torn": b"pools: {dns", "empty": b"", "binary": b"\xff\0"}[what])
    with pytest.raises(ConfigError) as caught:
        first_source(str(file), None)

    found = first_source(str(file), str(directory))

    assert (GOOD.encode(), str(directory / "nftlb.yaml")) == (found.text, found.copy)
    assert ["ns1"] == [backend.name for backend in found.config.pools[0].backends]
    assert tuple(str(caught.value).splitlines()) == found.problems
    before = (directory / "nftlb.yaml").read_bytes()
    keep(tmp_path, file, found.text.decode())
    assert before == (directory / "nftlb.yaml").read_bytes()


def test_a_bad_list_of_sources_does_not_make_the_copy_bad(file: Path, tmp_path: Path) -> None:
    """Lists have no copy. With a bad list, the copy of the file is used, with the good lines of the list."""
    denied = tmp_path / "deny.txt"
    denied.write_text("nonsense\n192.0.2.7\n")
    text = GOOD.replace("backends", f"guard: {{deny: [{denied}, {tmp_path}/none]}}, backends")
    directory = keep(tmp_path, file, text)
    file.write_text(text)

    found = first_source(str(file), str(directory))

    assert [f"{denied}:1:1", f"{file}:1:{text.index(f'{tmp_path}/none') + 1}"] == sorted(
        problem.partition(": ")[0] for problem in found.problems
    )
    guard = found.config.pools[0].guard
    assert guard is not None
    assert [1, 0] == [len(entry.ip) for entry in guard.deny]


def test_a_bad_copy_is_of_no_use(file: Path, tmp_path: Path) -> None:
    """With a bad copy, the problems of the file are raised."""
    directory = keep(tmp_path, file, BAD)
    file.write_text("pools: 7\n")

    for place in (directory, tmp_path / "none"):
        with pytest.raises(ConfigError, match=r"nftlb\.yaml:1:8: pools: "):
            first_source(str(file), str(place))


@pytest.mark.parametrize(
    "text",
    [
        "state_dir: {0}\npools: {{dns: {{listen: nowhere}}}}\n",
        "state_dir: '{0}'  # here\npools: [\n",
        '{{"pools": 7, "state_dir": "{0}"}}',
        "pools:\n\t- x\nstate_dir: {0}\r\n",
    ],
    ids=["block", "torn", "json", "a tab"],
)
def test_the_state_dir_of_a_bad_file_is_searched_first(text: str, file: Path, tmp_path: Path) -> None:
    """The `state_dir` of the file is searched before the given directory."""
    directory = keep(tmp_path, file)
    file.write_text(text.format(directory))

    assert str(directory / "nftlb.yaml") == first_source(str(file), str(tmp_path / "none")).copy
    assert directory / "nftlb.yaml" == copy_of(str(file), file.read_bytes(), "/none")


def test_whose_copy_is_taken(file: Path, tmp_path: Path) -> None:
    """A copy that others may write, a link and a FIFO are ignored, because a copy names programs to run."""
    directory = keep(tmp_path, file)
    copy = directory / "nftlb.yaml"
    assert copy == last_good(directory, str(file))

    copy.chmod(0o620)
    assert None is last_good(directory, str(file))
    copy.chmod(0o602)
    assert None is last_good(directory, str(file))
    copy.chmod(0o600)
    copy.rename(tmp_path / "elsewhere")
    copy.symlink_to(tmp_path / "elsewhere")
    assert None is last_good(directory, str(file))
    copy.unlink()
    os.mkfifo(copy)
    assert None is last_good(directory, str(file))


@pytest.mark.skipif(os.geteuid() != 0, reason="files of others")
def test_copies_of_other_users_are_ignored(file: Path, tmp_path: Path) -> None:
    """A copy of another user is ignored, except in the directory of this user."""
    directory = keep(tmp_path, file)
    os.chown(directory / "nftlb.yaml", 1, 1)
    assert None is last_good(directory, str(file))

    os.chown(directory, 1, 1)
    assert directory / "nftlb.yaml" == last_good(directory, str(file))


def test_where_the_api_may_be(file: Path, tmp_path: Path) -> None:
    """The addresses of the API come from the file and from its copy; with a bad file only from the copy."""
    directory = tmp_path / "state"
    keep(tmp_path, file, f"api: {{listen: unix:/old.sock}}\n{GOOD}")
    file.write_text(f"state_dir: {directory}\napi: {{listen: 127.0.0.1:1}}\n{GOOD}")
    assert ["127.0.0.1:1", "unix:/old.sock"] == apis_of(str(file))

    file.write_text(f"state_dir: {directory}\n{BAD}")
    assert ["unix:/old.sock"] == apis_of(str(file))


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
    """Delete what a reboot of the kernel deletes."""
    lab.balancer.run(["nft", "flush", "ruleset"])


def serving_backends(lab: Lab, count: int = 12) -> list[str]:
    with lab.client.connect((VIP4, 53)) as client:
        return [answer.backend for answer in client.exchange(count)]


def test_the_saved_state_of_backends_is_restored(lab: Lab, tmp_path: Path) -> None:
    """The saved state of backends is restored, so that the daemon's start changes nothing."""
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
        assert {"b1": 8, "b3": 4} == Counter(serving_backends(lab))
        daemon.start()
        assert 0 == daemon.client.document()["kernel"]["swaps"]


def test_health_is_restored_without_checks(lab: Lab, tmp_path: Path) -> None:
    """Health is restored as `initial` says, without checks."""
    dead = pools(lab, health=DOWN_AT_FIRST)
    dead["dns"]["backends"]["b1"] = {"address": lab.backends[0].ipv4, "port": 5353}
    with lab.serve(), TcpServers(lab.backends[1:], 9):
        with Running(lab.balancer, tmp_path, dead) as daemon:
            daemon.poll_status(lambda _: not daemon.backend("dns", "b1")["up"], "b1 down")
        boot(lab)

        assert 0 == restore(lab.balancer, daemon.file, daemon.state).returncode

        assert {"b2", "b3"} == set(serving_backends(lab))


def test_a_file_that_is_bad_by_now(lab: Lab, tmp_path: Path) -> None:
    """With a bad file its last good copy is loaded, and the problems are reported."""
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
        assert {"b1", "b2"} == set(serving_backends(lab))


def test_a_bad_file_without_a_copy(tmp_path: Path) -> None:
    """Without a good copy the problems are reported and nothing is loaded."""
    file = tmp_path / "nftlb.yaml"
    file.write_text("pools: 7\n")
    with Namespace("balancer") as host:
        done = restore(host, file, tmp_path)

        assert (1, "") == (done.returncode, done.stdout)
        assert done.stderr.startswith(f"{file}:1:8: pools: ")
        assert "" == host.run(["nft", "list", "ruleset"])


def test_no_file_is_nothing_to_do(tmp_path: Path) -> None:
    """Without a file nothing is loaded and reported, even if a copy exists."""
    Store(str(tmp_path), "nftlb").keep(str(tmp_path / "gone.yaml"), b"pools: {}\n")
    with Namespace("balancer") as host:
        done = restore(host, tmp_path / "gone.yaml", tmp_path)

    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)


def test_before_there_is_a_network(tmp_path: Path) -> None:
    """No way of forwarding needs interfaces, addresses or routes for the restore."""
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


def test_a_bad_state_file_is_reported_and_kept(lab: Lab, tmp_path: Path) -> None:
    """A bad state file is reported and left for the daemon; the configuration is loaded without it."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "nftlb.json").write_text("{torn")
    daemon = Running(lab.balancer, tmp_path, pools(lab))
    with lab.serve():
        done = restore(lab.balancer, daemon.file, daemon.state)

        assert 0 == done.returncode
        file = tmp_path / "state" / "nftlb.json"
        assert done.stderr.startswith(f"nothing is remembered: {file} is damaged or was not written by nftlb (")
        assert {"b1", "b2", "b3"} == set(serving_backends(lab))
    assert "{torn" == (tmp_path / "state" / "nftlb.json").read_text()


def test_a_daemon_is_not_disturbed(lab: Lab, tmp_path: Path) -> None:
    """`nftlb restore` is refused while the daemon runs."""
    with Running(lab.balancer, tmp_path, pools(lab)) as daemon:
        before = lab.balancer.run(["nft", "list", "ruleset"])
        done = restore(lab.balancer, daemon.file, daemon.state)

        assert 3 == done.returncode
        assert "another nftlb runs for the table nftlb" in done.stderr
        assert before == lab.balancer.run(["nft", "list", "ruleset"])


def test_the_newest_copy_of_the_requested_file_counts(tmp_path: Path) -> None:
    """Only copies of the requested file count, and of two copies the newer one."""
    mine, other = str(tmp_path / "mine.yaml"), str(tmp_path / "other.yaml")
    Store(str(tmp_path), "old").keep(mine, b"table: old\n")

    os.utime(tmp_path / "old.yaml", (1, 1))
    Store(str(tmp_path), "new").keep(mine, b"table: new\n")
    Store(str(tmp_path), "other").keep(other, b"table: other\n")

    assert tmp_path / "new.yaml" == last_good(str(tmp_path), mine)
    assert tmp_path / "other.yaml" == last_good(str(tmp_path), other)
    assert None is last_good(str(tmp_path), str(tmp_path / "none.yaml"))
    assert 0o600 == (tmp_path / "new.yaml").stat().st_mode & 0o777
