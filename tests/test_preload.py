"""Prepared rules, which a start loads before Python runs: when they are used, when not, and that they are right."""

from __future__ import annotations

import os
import re
import subprocess
from collections import Counter
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from daemon_process import NFTLB, Running, dns
from tcp_connections import TcpServers

import nftlb
from nftlb.compiler.allocation import LAST_ZONE, FlowZone, ZoneOwner
from nftlb.config import parse_config
from nftlb.daemon import startup as module
from nftlb.daemon.startup import MOST_BACKENDS, Preparation, Unprepared, prepare, prepared_zones
from nftlb.daemon.store import Store
from nftlb.errors import KernelError
from nftlb.health import Memory, PoolMemory
from nftlb.health.memory import remember_answers
from nftlb.kernel.lock import hold_lock
from nftlb.lab import VIP4, Host, Lab, Namespace
from nftlb.model import Family, FoundServer, HostLookup
from nftlb.ruleset import MARK
from nftlb.swap.applier import UsedZones

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SCRIPT = Path(nftlb.__file__).with_name("preload.sh")
GALLERY = sorted((Path(__file__).parents[1] / "rules").glob("*.yaml"))
DOWN_AT_FIRST = {"tcp": {}, "port": 9, "initial": "last", "rise": 1, "fall": 1, "interval": "100ms"}


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab(backends=3) as built:
        yield built


@pytest.fixture(scope="module")
def shared() -> Iterator[Namespace]:
    with Namespace("preload") as namespace:
        yield namespace


@pytest.fixture
def host(shared: Namespace) -> Namespace:
    """A network namespace without tables."""
    shared.run(["nft", "flush", "ruleset"])
    return shared


class Start:
    """A configuration that is prepared for the next start, without a daemon."""

    def __init__(self, host: Namespace, directory: Path, **top: Any) -> None:
        self.host = host
        self.file = directory / "nftlb.yaml"
        self.state = Path(top.get("state_dir", directory / "state"))
        pools = {"dns": {"listen": "192.0.2.53:53/udp", "backends": {"ns1": "10.0.0.11:53", "ns2": "10.0.0.12:53"}}}
        self.file.write_text(yaml.safe_dump({"state_dir": str(self.state), "pools": pools, **top}))
        self.table = top.get("table", "nftlb")
        self.prepare()

    def prepare(self, memory: Memory | None = None) -> None:
        source, memory = self.file.read_bytes(), memory or Memory(format=1)
        store = Store(str(self.state), self.table)
        store.save(memory)
        preparation = Preparation(str(self.file), parse_config(source), source)
        self.host.call(lambda: preparation.write(memory, store))

    @property
    def sums(self) -> Path:
        return self.state / f"{self.table}.prepared"

    @property
    def rules(self) -> Path:
        return self.state / f"{self.table}.prepared.nft"

    @property
    def memory(self) -> Path:
        return self.state / f"{self.table}.json"

    def preload(self) -> str:
        return preload(self.host, self.file, self.state)

    def tables(self) -> list[str]:
        return tables(self.host)

    @property
    def loaded(self) -> str:
        """The script's message after a load."""
        return f"nftlb-preload: loaded {self.rules}\n"


@pytest.fixture
def start(host: Namespace, tmp_path: Path) -> Start:
    return Start(host, tmp_path)


def preload(
    host: Host | Namespace, *arguments: Path, cwd: Path | None = None, path: str = "", script: Path = SCRIPT
) -> str:
    """Run the script as a unit does, and return its message. No failure may prevent the daemon's start.

    `path` is the first directory to search for programs.
    """
    argv, env = [script, *arguments], {**os.environ, "PATH": f"{path}:{os.environ['PATH']}"}
    done = host.call(
        lambda: subprocess.run(argv, text=True, capture_output=True, timeout=30, check=False, env=env, cwd=cwd)
    )
    assert (0, "") == (done.returncode, done.stdout)
    assert 1 == done.stderr.count("\n")
    return done.stderr


def changed(directory: Path, old: str, new: str) -> Path:
    """A copy of the script with a replaced text."""
    text = SCRIPT.read_text()
    assert 1 == text.count(old)
    script = directory / "changed.sh"
    script.write_text(text.replace(old, new))
    script.chmod(0o755)
    return script


def tables(host: Host | Namespace) -> list[str]:
    return host.run(["nft", "list", "tables"]).splitlines()


def boot(lab: Lab) -> None:
    """Delete all tables, but no conntrack entries."""
    lab.balancer.run(["nft", "flush", "ruleset"])


def serving_backends(lab: Lab, count: int = 12) -> Counter[str]:
    with lab.client.connect((VIP4, 53)) as client:
        return Counter(answer.backend for answer in client.exchange(count))


def zones(host: Host | Namespace) -> set[int]:
    """The zones of backends in the kernel's listing."""
    listed = host.run(["nft", "list", "map", "ip", "nftlb", "targets"])
    return {int(zone) for zone in re.findall(r"\. (\d+) (?:comment .*?)?: ", listed)} | {
        int(zone) for zone in re.findall(r"[{,]\s*(\d+) (?:comment .*?)?: ", listed)
    }


def command(host: Host | Namespace, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    argv = [NFTLB, *arguments]
    return host.call(lambda: subprocess.run(argv, text=True, capture_output=True, timeout=60, check=False))


# --- with the daemon, and with packets ------------------------------------------------------------------------------


def test_the_daemon_finds_what_was_loaded_and_changes_nothing(lab: Lab, tmp_path: Path) -> None:
    """Clients are served before the daemon runs, and the daemon makes no transaction."""
    with Running(lab.balancer, tmp_path, dns(lab)) as daemon, lab.serve():
        daemon.stop()
        boot(lab)

        assert f"loaded {daemon.state}/nftlb.prepared.nft" in preload(lab.balancer, daemon.file, daemon.state)

        assert {"b1": 4, "b2": 4, "b3": 4} == serving_backends(lab)
        daemon.start()
        assert 0 == daemon.client.document()["kernel"]["swaps"]
        assert {"b1": 4, "b2": 4, "b3": 4} == serving_backends(lab)


def test_the_saved_state_is_loaded(lab: Lab, tmp_path: Path) -> None:
    """Backends that were dead, drained, weighted, added or removed stay so, also after a kill -9."""
    pools = dns(lab, health=DOWN_AT_FIRST)
    del pools["dns"]["backends"]["b3"]
    with lab.serve(), TcpServers(lab.backends[1:], 9), Running(lab.balancer, tmp_path, pools) as daemon:
        daemon.poll_status(lambda _: not daemon.backend("dns", "b1")["up"], "b1 down")
        body = {"name": "b4", "address": lab.backends[2].ipv4, "port": 5353, "weight": 2}
        assert 201 == daemon.call("POST", "/api/v1/pools/dns/backends", body)[0]
        daemon.poll_status(lambda _: daemon.backend("dns", "b4")["up"], "b4 up")
        assert 200 == daemon.call("PATCH", "/api/v1/pools/dns/backends/b2", {"weight": 1})[0]
        daemon.kill()
        boot(lab)

        assert "loaded" in preload(lab.balancer, daemon.file, daemon.state)

        assert {"b2": 4, "b3": 8} == serving_backends(lab)


def test_a_reload_is_prepared_for(lab: Lab, tmp_path: Path) -> None:
    """The next start has the rules of the new file, or no rules if the file can't be prepared."""
    with Running(lab.balancer, tmp_path, dns(lab)) as daemon, lab.serve():
        pools = dns(lab)
        del pools["dns"]["backends"]["b1"]
        daemon.write(pools)
        assert 200 == daemon.call("POST", "/api/v1/reload")[0]
        daemon.kill()
        boot(lab)
        assert "loaded" in preload(lab.balancer, daemon.file, daemon.state)
        assert {"b2": 6, "b3": 6} == serving_backends(lab)
        daemon.start()
        pools["dns"] |= {"forward": "dsr"}
        pools["dns"]["listen"] = f"{VIP4}:53/udp"
        pools["dns"]["backends"] = {name: at.rpartition(":")[0] for name, at in pools["dns"]["backends"].items()}
        daemon.write(pools)
        assert 200 == daemon.call("POST", "/api/v1/reload")[0]
        assert [] == list(daemon.state.glob("nftlb.prepared*"))


def test_a_socket_with_entries_of_before_is_spread_exactly(lab: Lab, tmp_path: Path) -> None:
    """After each of several starts without tables, no datagram meets the conntrack entry of an earlier daemon."""
    with Running(lab.balancer, tmp_path, dns(lab)) as daemon, lab.serve(), lab.client.connect((VIP4, 53)) as client:
        used: list[set[int]] = []
        for _ in range(3):
            answers = Counter(answer.backend for answer in client.exchange(12))
            assert {"b1": 4, "b2": 4, "b3": 4} == answers
            used.append(zones(lab.balancer))
            daemon.stop()
            boot(lab)
            assert "loaded" in preload(lab.balancer, daemon.file, daemon.state)
            answers = Counter(answer.backend for answer in client.exchange(12))
            assert {"b1": 4, "b2": 4, "b3": 4} == answers
            daemon.start()
        used.append(zones(lab.balancer))

    assert [3] * 4 == [len(file) for file in used]
    assert 12 == len(set.union(*used))


def test_connections_survive_without_the_tables(lab: Lab, tmp_path: Path) -> None:
    """The flows of a pool keep their zone: packets of an old connection reach the same backend."""
    running = Running(lab.balancer, tmp_path, dns(lab, per="flow"))
    with lab.serve(), running as daemon, lab.client.connect((VIP4, 53)) as client:
        before = {answer.backend for answer in client.exchange(3)}
        daemon.stop()
        boot(lab)
        assert "loaded" in preload(lab.balancer, daemon.file, daemon.state)
        after = {answer.backend for answer in client.exchange(6)}

    assert 1 == len(before)
    assert before == after


def test_the_first_start_of_the_host(lab: Lab, tmp_path: Path) -> None:
    """`nftlb prepare` does not change the kernel, and writes rules that serve clients without a daemon."""
    daemon = Running(lab.balancer, tmp_path, dns(lab))

    done = command(lab.balancer, "prepare", daemon.file)

    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)
    assert [] == tables(lab.balancer)
    assert "loaded" in preload(lab.balancer, daemon.file, daemon.state)
    with lab.serve():
        assert {"b1": 4, "b2": 4, "b3": 4} == serving_backends(lab)
        with daemon:
            assert 0 == daemon.client.document()["kernel"]["swaps"]


def test_a_bad_file_is_an_error_and_loads_nothing(lab: Lab, tmp_path: Path) -> None:
    """Rules that were prepared for the former file do not hide an error of the present file."""
    with Running(lab.balancer, tmp_path, dns(lab)) as daemon:
        daemon.stop()
    boot(lab)
    with daemon.file.open("a") as file:
        file.write("nonsense: 1\n")

    done = command(lab.balancer, "check", daemon.file)

    assert 1 == done.returncode
    assert "nonsense" in done.stderr
    assert f"{daemon.file}: FAILED" in preload(lab.balancer, daemon.file, daemon.state)
    assert [] == tables(lab.balancer)


# --- the loaded rules -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", GALLERY, ids=lambda path: path.stem)
def test_prepared_rules_are_those_of_a_first_load(host: Namespace, tmp_path: Path, path: Path) -> None:
    """`nftlb diff` finds no difference; rules that depend on interfaces, on addresses or on DNS are not prepared."""
    start = Start(host, tmp_path)
    text = path.read_text()
    start.file.write_text(f"state_dir: {start.state}\n{text}")
    start.prepare()
    if not start.sums.exists():
        words = {"ingress:", "dsr", "resolver:"}
        assert words & set(text.replace(",", " ").split()) or parse_config(text).listens_on_host
        return

    assert start.loaded == start.preload()
    done = command(host, "diff", start.file)
    if "replies: prerouting" not in text:
        assert (0, "") == (done.returncode, done.stdout)
        return
    # Prepared rules do not know why this host needs postrouting, so the comment of that rule differs.
    changed = [re.match(r"([-+])(?![-+])(.*) comment ", line) for line in done.stdout.splitlines()]
    assert ["-", "+"] == [found[1] for found in changed if found]
    assert 1 == len({found[2] for found in changed if found})


# --- when it is not used --------------------------------------------------------------------------------------------


def _edit(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def _link(path: Path) -> None:
    path.symlink_to(path.rename(path.with_name("elsewhere")))


def _another_nftlb(start: Start) -> None:
    """Pretend that the code has changed since the rules were written."""
    digest = next(line for line in start.sums.read_text().splitlines() if line.endswith("nat.py"))[:64]
    _edit(start.sums, lambda old: old.replace(digest.encode(), b"0" * 64))


def _refused(start: Start) -> None:
    """Pretend that the rules are not valid for this kernel."""
    store = Store(str(start.state), start.table)
    store.prepare(str(start.file), start.rules.read_bytes().replace(b"udp", b"nonsense"), {})


NOT_USED: dict[str, tuple[Callable[[Start], Any], str]] = {
    "configuration changed": (lambda start: _edit(start.file, lambda old: old + b"\n"), "nftlb.yaml: FAILED"),
    "configuration gone": (lambda start: start.file.unlink(), "nftlb.yaml is not a regular file"),
    "configuration a FIFO": (lambda start: _fifo(start.file), "nftlb.yaml is not a regular file"),
    "memory changed": (lambda start: _edit(start.memory, lambda old: old + b"\n"), "nftlb.json: FAILED"),
    "memory gone": (lambda start: start.memory.unlink(), "nftlb.json: No such file"),
    "another nftlb": (_another_nftlb, "nat.py: FAILED"),
    "nothing prepared": (lambda start: start.sums.unlink(), "nothing is prepared for"),
    "no state directory": (lambda start: start.state.rename(start.state.with_name("other")), "nothing is prepared for"),
    "table there": (
        lambda start: start.host.run(["nft", "add", "table", "ip", "nftlb"]),
        "nftlb already",
    ),
    "sums empty": (lambda start: _edit(start.sums, lambda _: b""), "nothing is prepared for"),
    "sums torn": (lambda start: _edit(start.sums, lambda old: old[:-30]), "something is not as it was"),
    "sums foreign": (lambda start: _edit(start.sums, lambda _: b"flush ruleset\n"), "nothing is prepared for"),
    "sums a FIFO": (lambda start: _fifo(start.sums), "nothing is prepared for"),
    "sums a link": (lambda start: _link(start.sums), "nothing is prepared for"),
    "rules gone": (lambda start: start.rules.unlink(), "prepared.nft is not a regular file"),
    "rules changed": (
        lambda start: _edit(start.rules, lambda old: old.replace(b"53", b"54")),
        "prepared.nft: FAILED",
    ),
    "rules a FIFO": (lambda start: _fifo(start.rules), "prepared.nft is not a regular file"),
    "rules a link": (lambda start: _link(start.rules), "prepared.nft is not a regular file"),
    "others can write the sums": (lambda start: start.sums.chmod(0o602), "others can write"),
    "a group can write the rules": (lambda start: start.rules.chmod(0o660), "others can write"),
    "a group can write the directory": (lambda start: start.state.chmod(0o770), "others can write"),
    "refused by the kernel": (_refused, "the kernel refused"),
}


@pytest.mark.parametrize("case", NOT_USED)
def test_when_prepared_rules_are_not_used(start: Start, case: str) -> None:
    """No rules are loaded, and one line has the reason."""
    change, reason = NOT_USED[case]
    change(start)
    before = start.tables()

    assert reason in start.preload()
    assert before == start.tables()


@pytest.mark.parametrize("changed_list", [False, True])
def test_rules_depend_on_lists_of_sources(host: Namespace, tmp_path: Path, changed_list: bool) -> None:
    """Prepared rules are not loaded if a list that a guard names has changed since."""
    denied = tmp_path / "deny.txt"
    denied.write_text("192.0.2.7\n")
    backends = {"ns1": "10.0.0.11:53"}
    pool = {"listen": "192.0.2.53:53/udp", "backends": backends, "guard": {"deny": str(denied), "rate": "9/s"}}
    start = Start(host, tmp_path, pools={"dns": pool})
    if changed_list:
        denied.write_text("192.0.2.8\n")
        assert "deny.txt: FAILED" in start.preload()
    else:
        assert start.loaded == start.preload()
        assert (0, "") == (command(host, "diff", start.file).returncode, command(host, "diff", start.file).stdout)


@pytest.mark.parametrize("name", ["sums", "rules", "state"])
def test_files_of_other_users_are_not_trusted(start: Start, name: str, tmp_path: Path) -> None:
    """Only files of root and of the user who starts nftlb are trusted."""
    path = getattr(start, name)
    # Some user namespaces have no other user, so a fake `stat` reports another owner.
    (tmp_path / "stat").write_text(
        f'#!/bin/sh\nfor path in "$@"; do case $path in {path}) echo 1001:600 ;; /*) echo 0:700 ;; esac; done\n'
    )
    (tmp_path / "stat").chmod(0o755)
    script = changed(tmp_path, '[ -O "$path" ]', "false")
    argv = [str(script), str(start.file), str(start.state)]
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}

    done = start.host.call(lambda: subprocess.run(argv, text=True, capture_output=True, check=True, env=environment))

    assert f"{path} belongs to user 1001; needed: root or this user" in done.stderr
    assert [] == start.tables()


@pytest.mark.parametrize(
    ("marks", "asked"),
    [
        ([], False),
        (["nftlb.used", "nftlb.4-1.lock"], False),
        (["second.used"], True),
        (["nftlb.used", "second.used", "b.used"], True),
        (None, True),
    ],
)
def test_the_kernel_is_read_for_other_tables_if_needed(
    start: Start, tmp_path: Path, marks: list[str] | None, asked: bool
) -> None:
    """Only if nftlb has written another table since the boot, or if its folder can't show this."""
    folder = tmp_path / "run"
    if marks is not None:
        folder.mkdir()
        for mark in marks:
            (folder / mark).touch()
    script = changed(tmp_path, "folder=/run/nftlb", f"folder={folder}")
    (tmp_path / "nft").write_text(f'#!/bin/sh\necho "$*" >>{tmp_path}/calls\nexec /usr/sbin/nft "$@"\n')
    (tmp_path / "nft").chmod(0o755)

    assert start.loaded == preload(start.host, start.file, start.state, path=str(tmp_path), script=script)

    calls = [*(["list chains"] if asked else []), f"-f {start.rules}"]
    assert calls == (tmp_path / "calls").read_text().splitlines()
    if marks is not None:
        assert (folder / "nftlb.used").exists()


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (f"table ip second {{ chain {MARK.name} {{ }}; }}", "has a table of another nftlb"),
        ("table ip6 nftlb", "has a table ip6 nftlb already"),
    ],
)
def test_other_tables_in_the_kernel(start: Start, tmp_path: Path, table: str, reason: str) -> None:
    """No rules are loaded beside a table that may use the same conntrack zones."""
    script = changed(tmp_path, "folder=/run/nftlb", f"folder={tmp_path}")
    (tmp_path / "second.used").touch()
    start.host.run(["nft", f"add {table}" if table.endswith("nftlb") else table])
    before = start.tables()

    assert reason in preload(start.host, start.file, start.state, script=script)
    assert before == start.tables()


@pytest.mark.parametrize("missing", ["nft", "sha256sum", "stat"])
def test_the_daemon_starts_without_nft_or_coreutils(start: Start, tmp_path: Path, missing: str) -> None:
    """Without nft or coreutils, the daemon starts nevertheless."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / missing).write_text("#!/bin/sh\necho not found >&2\nexit 127\n")  # like a shell for a missing program
    (programs / missing).chmod(0o755)

    assert "loaded" not in preload(start.host, start.file, start.state, path=str(programs))
    assert [] == start.tables()


@pytest.mark.parametrize("arguments", [[], ["a", "b", "c"]])
def test_wrong_use(arguments: list[str]) -> None:
    """The script prints its usage, and exits with nftlb's status for wrong usage."""
    done = subprocess.run([SCRIPT, *arguments], text=True, capture_output=True, check=False)

    assert (2, "usage: nftlb-preload FILE [STATE_DIR]\n") == (done.returncode, done.stderr)


def test_foreign_tables_and_namespaces_do_not_matter(start: Start) -> None:
    """Tables of other programs, another network namespace, and a directory like /tmp do not matter."""
    start.state.chmod(0o1777)
    start.host.run(["nft", "table ip other { chain nftlb { }; }"])
    with Namespace("preload2") as namespace:
        for host in (start.host, namespace):
            assert start.loaded == preload(host, start.file, start.state)
            assert "table ip nftlb" in tables(host)


def test_a_relative_name_is_found(start: Start) -> None:
    """A relative name is relative to the current directory."""
    assert start.loaded == preload(start.host, Path(start.file.name), start.state, cwd=start.file.parent)


def test_each_table_has_its_own_files(host: Namespace, tmp_path: Path) -> None:
    """Two configurations may share a state directory."""
    (tmp_path / "second").mkdir()
    first = Start(host, tmp_path)
    second = Start(host, tmp_path / "second", table="second", state_dir=str(first.state))

    for start in (first, second):
        assert start.loaded == start.preload()
        assert [f"table ip {start.table}"] == tables(host)
        host.run(["nft", f"delete table ip {start.table}"])


def test_a_table_with_another_name(host: Namespace, tmp_path: Path) -> None:
    """Rules that were prepared for the same file and its old table are deleted."""
    old = Start(host, tmp_path)
    new = Start(host, tmp_path, table="renamed")

    assert not old.sums.exists()
    assert not old.rules.exists()
    assert new.loaded == new.preload()


# --- nftlb prepare --------------------------------------------------------------------------------------------------


def test_prepare_is_refused_while_the_daemon_runs(start: Start) -> None:
    """The command is refused, and names the holder of the lock."""
    before = start.sums.read_bytes(), start.rules.read_bytes()
    with start.host.call(lambda: hold_lock("nftlb")):
        done = command(start.host, "prepare", start.file)

    assert (3, "") == (done.returncode, done.stdout)
    assert "another nftlb runs" in done.stderr
    assert before == (start.sums.read_bytes(), start.rules.read_bytes())


def test_rules_that_can_not_be_prepared_cause_no_error(start: Start) -> None:
    """The reason is printed, and earlier prepared rules are deleted."""
    start.file.write_text(f"state_dir: {start.state}\n{DSR}")

    done = command(start.host, "prepare", start.file)

    assert (0, "") == (done.returncode, done.stdout)
    assert f"{start.file}: not prepared: a pool has `ingress` or `forward: dsr`" in done.stderr
    assert [] == list(start.state.glob("*.prepared*"))


def test_rules_are_prepared_for_the_saved_state(start: Start) -> None:
    """Rules are prepared for the saved state; a damaged state file stays in its place."""
    memory = Memory(format=1, pools={"dns": PoolMemory(removed=("ns1",))})
    Store(str(start.state), start.table).save(memory)
    before = start.memory.read_bytes()

    assert 0 == command(start.host, "prepare", start.file).returncode
    assert before == start.memory.read_bytes()
    assert b"10.0.0.11" not in start.rules.read_bytes()
    assert start.loaded == start.preload()

    start.memory.write_text("nonsense")
    done = command(start.host, "prepare", start.file)
    assert 3 == done.returncode
    message = f"nftlb: {start.memory} is damaged or was not written by nftlb ("
    assert done.stderr.startswith(message)
    assert done.stderr.endswith("): remove the file, or start the daemon, which renames it\n")
    assert "nonsense" == start.memory.read_text()


@pytest.mark.parametrize("there", [True, False])
def test_zones_of_earlier_rules_are_not_prepared_again(start: Start, there: bool) -> None:
    """Earlier rules may have been loaded meanwhile. Without them, zones begin with the file's first zone."""
    if not there:
        start.rules.unlink()

    assert 0 == command(start.host, "prepare", start.file).returncode
    assert start.loaded == start.preload()
    assert ({3, 4} if there else {1, 2}) == zones(start.host)


def test_standard_input_is_refused(host: Namespace) -> None:
    """A file from standard input can't be compared later."""
    assert 2 == command(host, "prepare", "-").returncode


# --- the prepared rules ---------------------------------------------------------------------------------------------

SMALL = "pools: {dns: {listen: '192.0.2.53:53/udp', backends: {ns1: 10.0.0.11:53, ns2: 10.0.0.12:53}}}"
MIXED = "pools: {dns: {listen: ['192.0.2.53:53/udp', '192.0.2.53:53/tcp'], backends: {a: 10.0.0.11, b: 10.0.0.12}}}"
DSR = "pools: {dns: {listen: '192.0.2.53:53/udp', forward: dsr, backends: {ns1: 10.0.0.11, ns2: 10.0.0.12}}}"
STATELESS = SMALL.replace("backends", "forward: stateless, backends")
FLOWS: dict[ZoneOwner, int] = {FlowZone(parse_config(MIXED).pools[0].name, Family.IP): 3}
MANY = ", ".join(f"b{n}: 10.1.{n // 250}.{n % 250 + 1}:53" for n in range(MOST_BACKENDS - 1))
RANGES = ", ".join(f"10.1.{n // 250}.{n % 250 + 1}" for n in range(1001))
MISFIT = Memory(format=1, pools={"dns": PoolMemory(added={"ns9": "no name"})})
NAMED = SMALL.replace("{ns1", "{ns: ns.lab, ns1")


@pytest.mark.parametrize(
    ("text", "memory", "reason"),
    [
        (DSR, Memory(format=1), "depend on interfaces and routes"),
        (SMALL.replace("backends", "forward: stateless, ingress: [eth0], backends"), Memory(format=1), "depend on"),
        (SMALL, MISFIT, "does not fit the configuration: dns/ns9"),
        (NAMED, Memory(format=1), "no answer of DNS is saved for ns.lab"),
        (SMALL.replace("{ns1", f"{{{MANY}, ns1"), Memory(format=1), "more than 1000 backends"),
        (
            SMALL.replace("backends", f"guard: {{deny: [{RANGES}]}}, backends"),
            Memory(format=1),
            "more than 1000 ranges",
        ),
    ],
    ids=["routes", "interfaces", "misfit", "name", "large", "long lists"],
)
def test_configurations_that_are_not_prepared(host: Namespace, text: str, memory: Memory, reason: str) -> None:
    """Configurations that depend on the host, whose start reports problems, or that are large are not prepared."""
    with pytest.raises(Unprepared, match=reason):
        host.call(lambda: prepare(parse_config(text), memory))


def test_options_of_flows_that_the_kernel_can_not_tell(host: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the kernel has no memory to say whether it has an option, the daemon loads at the start."""

    def no_memory(*_: object) -> bool:
        raise KernelError("Cannot allocate memory")

    monkeypatch.setattr(module, "has_option", no_memory)
    text = SMALL.replace("backends", "per: flow, session_timeout: 9s, backends")
    with pytest.raises(Unprepared, match="Cannot allocate memory"):
        host.call(lambda: prepare(parse_config(text), Memory(format=1)))


def test_names_are_prepared_with_their_saved_answers(host: Namespace) -> None:
    """The rules have the addresses of the last good answer: no DNS server can be asked before the rules are loaded."""
    memory = Memory(format=1, names=remember_answers({HostLookup("ns.lab"): (FoundServer(ip_address("10.0.0.9")),)}))

    assert b"dns/ns-10.0.0.9" in host.call(lambda: prepare(parse_config(NAMED), memory))


@pytest.mark.parametrize(
    ("text", "used", "expected"),
    [
        (SMALL, UsedZones(), range(1, 3)),
        (SMALL, UsedZones(zones=frozenset({1, 2})), range(3, 5)),
        (SMALL, UsedZones(zones=frozenset({5, 9})), range(10, 12)),
        (f"{{zones: {{first: 100}}, {SMALL}}}", UsedZones(zones=frozenset({5})), range(100, 102)),
        (SMALL, UsedZones(zones=frozenset({1, 3, LAST_ZONE})), [2, 4]),
        (MIXED, UsedZones(FLOWS, frozenset({1, 2, 3})), [3, 4, 5]),
        (MIXED, UsedZones(FLOWS, frozenset({1, 2, 3, LAST_ZONE})), [3, 4, 5]),
    ],
)
def test_zones_are_fresh(text: str, used: UsedZones, expected: range | list[int]) -> None:
    """New zones are those after the highest zone, and then unused zones; flows keep their zones."""
    config = parse_config(text)
    compiled, fresh = module._compiled(config, used)

    assert sorted(expected) == sorted(compiled.allocation.zones.values())
    assert fresh == set(expected) - set(used.flows.values())


@pytest.mark.parametrize("flows", [{}, {FlowZone("gone", Family.IP): 1}])
def test_too_few_zones_are_not_prepared(flows: dict[ZoneOwner, int]) -> None:
    """All zones but one were used; the zone of removed flows may still have entries."""
    used = UsedZones(flows, frozenset(range(1, LAST_ZONE)))

    with pytest.raises(Unprepared, match="too few conntrack zones"):
        module._compiled(parse_config(SMALL), used)


def test_zones_of_prepared_rules(host: Namespace) -> None:
    """The text of the rules has the zones; stateless pools have none."""
    used = UsedZones(zones=frozenset({5}))
    rules = host.call(lambda: prepare(parse_config(SMALL), Memory(format=1), used))
    stateless = host.call(lambda: prepare(parse_config(STATELESS), Memory(format=1), used))

    assert UsedZones(zones=frozenset({6, 7})) == prepared_zones(rules)
    assert [UsedZones()] * 3 == [prepared_zones(text) for text in (stateless, b"", b"# conntrack zones a to b\n")]


@pytest.mark.parametrize("name", ["a\nb", "a\\b", "a\rb"])
def test_names_that_sha256sum_writes_otherwise(host: Namespace, tmp_path: Path, name: str) -> None:
    """No rules are prepared for such names."""
    (tmp_path / name).mkdir()

    assert not Start(host, tmp_path / name, state_dir=str(tmp_path / "state")).sums.exists()


def test_names_with_blanks_and_stars(host: Namespace, tmp_path: Path) -> None:
    """The script does not split words."""
    (tmp_path / " a * [b]'$x ").mkdir()
    start = Start(host, tmp_path / " a * [b]'$x ")

    assert start.loaded == start.preload()


def test_the_code_is_that_of_the_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Files that an upgrade replaces while a daemon runs do not count as the code that wrote the rules."""
    (tmp_path / "daemon").mkdir()
    file = tmp_path / "daemon" / "x.py"
    file.write_text("one")
    monkeypatch.setattr(module, "__file__", str(file))
    module.code.cache_clear()
    try:
        before = module.code()
        file.write_text("two")
        assert before == module.code()
        assert [str(file)] == list(before)
    finally:
        module.code.cache_clear()
