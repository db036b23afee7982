"""What a start loads before it has imported anything: when it is used, when it is not, and that it is right."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest
import yaml
from running import NFTLB, PATIENCE, Running, dns

from nftlb import preload as module
from nftlb.cli.group import root
from nftlb.compiler.connections import Stay
from nftlb.config import parse
from nftlb.daemon.prepared import MOST_BACKENDS, prepare
from nftlb.daemon.store import Store
from nftlb.health import Memory, PoolMemory
from nftlb.kernel.conntrack import Kept
from nftlb.kernel.lock import hold
from nftlb.lab import VIP4, Host, Lab, Namespace
from nftlb.model import Config
from nftlb.preload import COMMANDS, STATE_DIR, TABLE, Outcome, Prepared, file_of, places, preload
from nftlb.ruleset import MARK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

GALLERY = sorted((Path(__file__).parents[1] / "rules").glob("*.yaml"))
DOWN_AT_FIRST = {"tcp": {}, "port": 9, "initial": "last", "rise": 1, "fall": 1, "interval": "100ms"}
LATER = {
    "asyncio",
    "click",
    "dataclasses",
    "enum",
    "json",
    "logging",
    "nftables",
    "nftlb.apply",
    "nftlb.cli.group",
    "nftlb.compiler",
    "nftlb.config",
    "nftlb.daemon",
    "nftlb.model",
    "nftlb.swap",
    "pathlib",
    "pydantic",
    "re",
    "socket",
    "subprocess",
    "typing",
    "yaml",
}
"""What takes long to import, and what prepared rules do without."""


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab(backends=3) as built:
        yield built


@pytest.fixture(scope="module")
def shared() -> Iterator[Namespace]:
    ctypes.CDLL(module._LIBRARY)  # a daemon has it when it prepares a start
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
        self.state = directory / "state"
        pools = {"dns": {"listen": "192.0.2.53:53/udp", "backends": {"ns1": "10.0.0.11:53", "ns2": "10.0.0.12:53"}}}
        self.file.write_text(yaml.safe_dump({"state_dir": str(self.state), "pools": pools, **top}))
        self.table = top.get("table", "nftlb")
        self.prepare()

    def prepare(self, memory: Memory | None = None) -> None:
        source, memory = self.file.read_bytes(), memory or Memory(format=1)
        store = Store(str(self.state), self.table)
        store.save(memory)
        store.prepare(self.host.call(lambda: prepare(parse(source), source, memory)))

    @property
    def prepared(self) -> Path:
        return self.state / f"{self.table}.prepared"

    @property
    def memory(self) -> Path:
        return self.state / f"{self.table}.json"

    def preload(self) -> Outcome:
        return self.host.call(lambda: preload(["restore", str(self.file)]))

    def tables(self) -> list[str]:
        return tables(self.host)


@pytest.fixture
def start(host: Namespace, tmp_path: Path) -> Start:
    return Start(host, tmp_path)


def tables(host: Host | Namespace) -> list[str]:
    return host.run(["nft", "list", "tables"]).splitlines()


def boot(lab: Lab) -> None:
    """Forget what a kernel forgets; its conntrack entries it keeps."""
    lab.balancer.run(["nft", "flush", "ruleset"])


def loaded(host: Host, process: subprocess.Popen[str]) -> None:
    """Return when the kernel has a table of ours."""
    deadline = time.monotonic() + PATIENCE
    while not tables(host):
        assert process.poll() is None
        assert time.monotonic() < deadline


def who(lab: Lab, count: int = 12) -> Counter[str]:
    with lab.client.connect((VIP4, 53)) as client:
        return Counter(answer.backend for answer in client.exchange(count))


def nftlb(host: Namespace, *arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [str(NFTLB), *arguments]
    return host.call(lambda: subprocess.run(argv, text=True, capture_output=True, timeout=30, check=False))


# --- with the daemon, and with packets ------------------------------------------------------------------------------


def test_the_rules_are_there_before_anything_is_imported(lab: Lab, tmp_path: Path) -> None:
    """A start whose first long import never ends serves clients all the same, each backend in its turn."""
    endless = tmp_path / "endless"
    endless.mkdir()
    (endless / "click.py").write_text("import signal\nwhile True: signal.pause()\n")
    with Running(lab.balancer, tmp_path, dns(lab)) as daemon, lab.serve():
        daemon.stop()
        boot(lab)
        hanging = Running(lab.balancer, tmp_path, dns(lab), environment={"PYTHONPATH": str(endless)})
        process = hanging._spawn({})
        try:
            loaded(lab.balancer, process)
            assert {"b1": 4, "b2": 4, "b3": 4} == who(lab)
        finally:
            process.kill()
            process.wait(PATIENCE)


def test_the_daemon_finds_what_was_loaded_and_changes_nothing(lab: Lab, tmp_path: Path) -> None:
    """Its log says which rules those were; it makes no transaction."""
    with Running(lab.balancer, tmp_path, dns(lab)) as daemon, lab.serve():
        daemon.stop()
        boot(lab)
        daemon.start()

        assert 0 == daemon.client.document()["kernel"]["swaps"]
        assert f"the kernel has the rules of {daemon.state}/nftlb.prepared" in daemon.log.read_text()
        assert {"b1": 4, "b2": 4, "b3": 4} == who(lab)


def test_what_is_remembered_is_loaded(lab: Lab, tmp_path: Path) -> None:
    """Dead, drained, weighted, added and removed backends are so again, also after a kill -9."""
    pools = dns(lab, health=DOWN_AT_FIRST)
    del pools["dns"]["backends"]["b3"]
    with lab.serve(), lab.serve_tcp(9, backends=lab.backends[1:]), Running(lab.balancer, tmp_path, pools) as daemon:
        daemon.poll_status(lambda _: not daemon.backend("dns", "b1")["up"], "b1 down")
        body = {"name": "b4", "address": lab.backends[2].ipv4, "port": 5353, "weight": 2}
        assert 201 == daemon.call("POST", "/api/v1/pools/dns/backends", body)[0]
        daemon.poll_status(lambda _: daemon.backend("dns", "b4")["up"], "b4 up")
        assert 200 == daemon.call("PATCH", "/api/v1/pools/dns/backends/b2", {"weight": 1})[0]
        daemon.kill()
        boot(lab)

        done = nftlb(lab.balancer, "restore", str(daemon.file))

        assert (0, "", f"{daemon.file}: loaded the rules of {daemon.state}/nftlb.prepared\n") == (
            done.returncode,
            done.stderr,
            done.stdout,
        )
        assert {"b2": 4, "b3": 8} == who(lab)


def test_a_reload_is_prepared_for(lab: Lab, tmp_path: Path) -> None:
    """The next start has the rules of the new file; those of a file that can't be prepared are not there."""
    with Running(lab.balancer, tmp_path, dns(lab)) as daemon, lab.serve():
        pools = dns(lab)
        del pools["dns"]["backends"]["b1"]
        daemon.write(pools)
        assert 200 == daemon.call("POST", "/api/v1/reload")[0]
        daemon.kill()
        boot(lab)
        assert "loaded the rules" in nftlb(lab.balancer, "restore", str(daemon.file)).stdout
        assert {"b2": 6, "b3": 6} == who(lab)
        daemon.start()
        pools["dns"] |= {"forward": "dsr"}
        pools["dns"]["listen"] = f"{VIP4}:53/udp"
        pools["dns"]["backends"] = {name: at.rpartition(":")[0] for name, at in pools["dns"]["backends"].items()}
        daemon.write(pools)
        assert 200 == daemon.call("POST", "/api/v1/reload")[0]
        assert not (daemon.state / "nftlb.prepared").exists()


def test_a_bad_file_is_an_error_and_loads_nothing(lab: Lab, tmp_path: Path) -> None:
    """What is prepared for the file of before hides no fault of the present one."""
    with Running(lab.balancer, tmp_path, dns(lab)) as daemon:
        daemon.stop()
    boot(lab)
    with daemon.file.open("a") as file:
        file.write("nonsense: 1\n")

    done = nftlb(lab.balancer, "check", str(daemon.file))

    assert 1 == done.returncode
    assert "nonsense" in done.stderr
    assert file_of(["run", str(daemon.file)]) == str(daemon.file)
    outcome = lab.balancer.call(lambda: preload(["restore", str(daemon.file)]))
    assert "is not the file that" in outcome.reason
    assert [] == tables(lab.balancer)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_right_after_the_load_ends_the_daemon_in_order(lab: Lab, tmp_path: Path, number: int) -> None:
    """With --remove the rules go, although the daemon had not begun to listen to signals."""
    with Running(lab.balancer, tmp_path, dns(lab), options=("--remove",)) as daemon:
        daemon.stop()
        assert [] == tables(lab.balancer)
        process = daemon._spawn({})
        try:
            loaded(lab.balancer, process)
            process.send_signal(number)
            assert 0 == process.wait(PATIENCE)
        finally:
            process.kill()
            process.wait()
        assert [] == tables(lab.balancer)


def test_connections_that_the_kernel_kept(lab: Lab, tmp_path: Path) -> None:
    """Entries in zones of datagrams are deleted before the rules come, as in any first load."""
    with Running(lab.balancer, tmp_path, dns(lab)) as daemon, lab.serve():
        assert {"b1": 4, "b2": 4, "b3": 4} == who(lab)
        daemon.poll_status(lambda _: (daemon.state / "nftlb.prepared").exists(), "prepared rules")
        daemon.kill()
        boot(lab)
        before = lab.balancer.run(["conntrack", "-L", "-o", "extended"])
        assert "zone-orig" in before

        assert "loaded the rules" in nftlb(lab.balancer, "restore", str(daemon.file)).stdout

        assert "zone-orig" not in lab.balancer.run(["conntrack", "-L", "-o", "extended"])


# --- what is loaded -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", GALLERY, ids=lambda path: path.stem)
def test_prepared_rules_are_those_of_a_first_load(host: Namespace, tmp_path: Path, path: Path) -> None:
    """`nftlb diff` finds no difference; what depends on the host's interfaces is not prepared."""
    start = Start(host, tmp_path)
    start.file.write_text(f"state_dir: {start.state}\n{path.read_text()}")
    start.prepare()
    if not start.prepared.exists():
        assert {"ingress:", "dsr"} & set(path.read_text().replace(",", " ").split())
        return

    assert str(start.prepared) == start.preload().loaded
    done = nftlb(host, "diff", str(start.file))
    assert (0, "") == (done.returncode, done.stdout)


def test_imports(start: Start) -> None:
    """What takes long is not imported before the kernel has the rules."""
    program = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); from nftlb.preload import preload; "
        "print(preload(sys.argv[1:]).loaded, *sys.modules)"
    )
    place = Path(module.__file__).parents[1]
    # -S: what the virtual environment imports by itself says nothing.
    argv = [str(NFTLB.with_name("python")), "-I", "-S", "-c", program, str(place), "restore", str(start.file)]
    said = start.host.run(argv)

    path, *imported = said.split()
    assert str(start.prepared) == path
    assert set() == LATER & set(imported)


# --- when it is not used --------------------------------------------------------------------------------------------


def _edit(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def _other_part(name: str) -> Callable[[Start, pytest.MonkeyPatch], None]:
    def change(_: Start, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(module, name, lambda: b"another")

    return change


def _fifo(start: Start, _: pytest.MonkeyPatch) -> None:
    start.prepared.unlink()
    os.mkfifo(start.prepared, 0o600)


def _link(start: Start, _: pytest.MonkeyPatch) -> None:
    start.prepared.symlink_to(start.prepared.rename(start.state / "elsewhere"))


def _refused(start: Start, _: pytest.MonkeyPatch) -> None:
    prepared = Prepared.read(start.prepared.read_bytes())
    assert prepared is not None
    prepared.text = prepared.text.replace(b"udp", b"nonsense")
    start.prepared.write_bytes(prepared.write())


NOT_USED: dict[str, tuple[Callable[[Start, pytest.MonkeyPatch], Any], str]] = {
    "configuration changed": (lambda start, _: _edit(start.file, lambda old: old + b"\n"), "is not the file that"),
    "configuration gone": (lambda start, _: start.file.unlink(), "can't be read: No such file"),
    "memory changed": (lambda start, _: _edit(start.memory, lambda old: old + b"\n"), "what is remembered is not"),
    "memory gone": (lambda start, _: start.memory.unlink(), "the memory"),
    "another nftlb": (_other_part("code"), "another version of nftlb"),
    "another nftables": (_other_part("library"), "another version of nftables"),
    "nothing prepared": (lambda start, _: start.prepared.unlink(), "nothing is prepared"),
    "table there": (
        lambda start, _: start.host.run(["nft", "add", "table", "ip6", "nftlb"]),
        "has a table nftlb already",
    ),
    "another nftlb's table there": (
        lambda start, _: start.host.run(["nft", f"table ip second {{ chain {MARK.name} {{ }}; }}"]),
        "has table second of another nftlb",
    ),
}
NOT_TRUSTED: dict[str, tuple[Callable[[Start, pytest.MonkeyPatch], Any], str]] = {
    "empty": (lambda start, _: _edit(start.prepared, lambda _: b""), "torn, or was not written by nftlb"),
    "torn": (lambda start, _: _edit(start.prepared, lambda old: old[:-9]), "torn, or was not written by nftlb"),
    "a byte": (
        lambda start, _: _edit(start.prepared, lambda old: old.replace(b"53", b"54")),
        "torn, or was not written",
    ),
    "foreign": (lambda start, _: _edit(start.prepared, lambda _: b"flush ruleset\n"), "torn, or was not written"),
    "others can write the file": (lambda start, _: start.prepared.chmod(0o602), "others can write"),
    "a group can write the directory": (lambda start, _: start.state.chmod(0o770), "others can write"),
    "a FIFO": (_fifo, "not a regular file"),
    "a link": (_link, "needed: a regular file"),
    "refused by the kernel": (_refused, "the kernel refused"),
}


@pytest.mark.parametrize("case", NOT_USED | NOT_TRUSTED)
def test_when_prepared_rules_are_not_used(start: Start, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    """Nothing is loaded, and the reason is said: as a warning if somebody should see to it."""
    change, reason = (NOT_USED | NOT_TRUSTED)[case]
    change(start, monkeypatch)
    before = start.tables()

    outcome = start.preload()

    assert ("", case in NOT_TRUSTED) == (outcome.loaded, outcome.wrong)
    assert reason in outcome.reason
    assert before == start.tables()


def test_a_stranger_s_file_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only root's files and those of the user who starts nftlb are."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for user in (0, 1000):
        module._trust("p", "p", os.stat_result((0o100600, 0, 0, 1, user, 0, 0, 0, 0, 0)))
    with pytest.raises(module._Not, match="belongs to user 1001"):
        module._trust("p", "p", os.stat_result((0o100600, 0, 0, 1, 1001, 0, 0, 0, 0, 0)))


def test_another_nftlb_at_work_is_not_disturbed(start: Start) -> None:
    """Who has the lock of the table is the only one to write it, also while the kernel has no such table."""
    with start.host.call(lambda: hold("nftlb")):
        outcome = start.preload()

    assert "another nftlb runs" in outcome.reason
    assert [] == start.tables()
    assert str(start.prepared) == start.preload().loaded


def test_what_does_not_matter(start: Start) -> None:
    """Tables of other names, another network namespace, and a directory like /tmp."""
    start.state.chmod(0o1777)
    start.host.run(["nft", "add", "table", "ip", "other"])
    with Namespace("preload2") as namespace:
        for host in (start.host, namespace):
            assert str(start.prepared) == host.call(lambda: preload(["restore", str(start.file)])).loaded
            assert "table ip nftlb" in tables(host)


def test_each_table_has_a_file_of_its_own(host: Namespace, tmp_path: Path) -> None:
    """Two configurations with one state directory."""
    (tmp_path / "second").mkdir()
    starts = Start(host, tmp_path), Start(host, tmp_path / "second", table="second", state_dir=str(tmp_path / "state"))
    starts[1].state = starts[0].state
    starts[1].prepare()

    for start, table in zip(starts, ("nftlb", "second"), strict=True):
        assert f"{tmp_path}/state/{table}.prepared" == start.preload().loaded
        assert [f"table ip {table}"] == tables(host)
        host.run(["nft", f"delete table ip {table}"])


def test_the_code_is_told_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By the size and the time of each file of it."""
    for part in module._CODE:
        (tmp_path / part).mkdir(exist_ok=True)
    file = tmp_path / "compiler" / "nat.py"
    file.write_text("one")
    os.utime(file, (1, 1))
    monkeypatch.setattr(module, "__file__", f"{tmp_path}/preload.py")
    found = [module.code(), module.code()]
    os.utime(file, (2, 2))
    found.append(module.code())
    file.write_text("three")
    os.utime(file, (1, 1))
    found.append(module.code())

    assert found[0] == found[1]
    assert 3 == len(set(found))


# --- what is prepared -----------------------------------------------------------------------------------------------

SMALL = "pools: {dns: {listen: '192.0.2.53:53/udp', backends: {ns1: 10.0.0.11:53, ns2: 10.0.0.12:53}}}"
DSR = "pools: {dns: {listen: '192.0.2.53:53/udp', forward: dsr, backends: {ns1: 10.0.0.11, ns2: 10.0.0.12}}}"
MANY = ", ".join(f"b{n}: 10.1.{n // 250}.{n % 250 + 1}:53" for n in range(MOST_BACKENDS - 1))
MISFIT = Memory(format=1, pools={"dns": PoolMemory(added={"ns9": "nonsense"})})


@pytest.mark.parametrize(
    ("text", "memory"),
    [
        (DSR, Memory(format=1)),
        (SMALL.replace("backends", "forward: stateless, ingress: [eth0], backends"), Memory(format=1)),
        (f"{{table: other, {SMALL}}}", Memory(format=1)),
        (SMALL, MISFIT),
        (SMALL.replace("{ns1", f"{{{MANY}, ns1"), Memory(format=1)),
    ],
    ids=["routes", "interfaces", "table in braces", "misfit", "large"],
)
def test_what_is_not_prepared(host: Namespace, text: str, memory: Memory) -> None:
    """What depends on the host, what a start could not find or has to complain of, and what is large."""
    source = text.encode()

    assert host.call(lambda: prepare(parse(source), source, memory)) is None
    assert host.call(lambda: prepare(parse(SMALL), SMALL.encode(), Memory(format=1))) is not None


def test_the_mark_of_tables() -> None:
    """The name is written twice, since the ruleset's module takes long to import."""
    assert MARK.name.encode() == module._MARK


def test_the_way_to_the_file() -> None:
    """State directory and table, where they stand in lines of their own; otherwise as the model has them."""
    assert (STATE_DIR, TABLE) == places(b"") == (Config(pools=()).state_dir, Config(pools=()).table)
    assert ("/srv/a b", "mine") == places(b"table: mine\nstate_dir: '/srv/a b'\npools:\n  table: no\n")


def test_a_prepared_file_and_back() -> None:
    """Whatever bytes are in it."""
    parts = {name: f"{name}\n12\n".encode() * 3 for name in Prepared.__slots__}
    read = Prepared.read(Prepared(**parts).write())

    assert read is not None
    assert parts == {name: getattr(read, name) for name in Prepared.__slots__}


def test_endpoints_that_may_stay_and_back() -> None:
    """Of both families, with a port and without."""
    pools = parse("pools: {a: {listen: ['192.0.2.1:53/tcp'], backends: {a: 10.0.0.1:53, b: 10.0.0.2}}}").pools
    kept = Kept.of(frozenset((one.address, one.port) for one in pools[0].backends))

    read = Kept.read(kept.text().split())
    assert (kept.endpoints, kept.addresses, False) == (read.endpoints, read.addresses, read.datagrams)
    assert (1, 1) == (len(kept.endpoints), len(kept.addresses))
    assert b"" == Kept.of(Stay.NOTHING).text()


# --- which commands -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
def test_options_are_those_of_the_command(name: str) -> None:
    """A word that the command would refuse must not load anything first."""
    command = root.get_command(click.Context(root), name)
    assert command is not None
    expected: dict[str, tuple[str, ...] | None] = {}
    for one in command.params:
        if isinstance(one, click.Option) and not one.is_eager:
            values = tuple(one.type.choices) if isinstance(one.type, click.Choice) else ()
            expected |= dict.fromkeys((*one.opts, *one.secondary_opts), None if one.is_flag else values)

    assert expected == COMMANDS[name]


@pytest.mark.parametrize(
    ("words", "file"),
    [
        ("run f", "f"),
        ("run f --remove", "f"),
        ("run --log-level debug --log-format=json f", "f"),
        ("restore -q --state-dir=/x f", "f"),
        ("restore --state-dir /x f", "f"),
        ("", None),
        ("run", None),
        ("run -", None),
        ("run -- f", None),
        ("run a b", None),
        ("run --help f", None),
        ("run f --log-level", None),
        ("run f --log-level loud", None),
        ("run --keep=1 f", None),
        ("restore --remove f", None),
        ("apply f", None),
        ("--version", None),
    ],
)
def test_the_file_of_a_command(words: str, file: str | None) -> None:
    """Of the commands that load at a start; wrong words have none."""
    assert file == file_of(words.split())
