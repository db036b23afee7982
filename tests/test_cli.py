"""The command: statuses, streams, and what it does without root, libnftables or a patient reader."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest
from pools import DNS, config
from unprivileged import ordinary_user

from nftlb.apply import Applied
from nftlb.cli import check, doctor, main
from nftlb.cli.applier import changes
from nftlb.cli.failure import DEBUG
from nftlb.cli.group import COMMANDS, root
from nftlb.compiler import Compiled, Membership
from nftlb.config import schema
from nftlb.doctor import Finding, Severity
from nftlb.kernel.lock import hold
from nftlb.lab import Namespace
from nftlb.ruleset import file_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NFTLB = str(Path(sys.executable).with_name("nftlb"))
GOOD = """\
pools:
  dns:
    listen: [192.0.2.53:53/udp, 192.0.2.53:53/tcp]
    backends:
      b1: 10.0.0.11:5353
      b2: 10.0.0.12:5353
"""
BAD = """\
pools:
  dns:
    lissen: 192.0.2.53:53/udp
    backends:
      b1: 10.0.0.11:535353
"""
PACKET = ["198.51.100.7:40000", "192.0.2.53:53/udp"]


@pytest.fixture
def good(tmp_path: Path) -> str:
    path = tmp_path / "good.yaml"
    path.write_text(GOOD)
    return str(path)


@pytest.fixture
def bad(tmp_path: Path) -> str:
    path = tmp_path / "bad.yaml"
    path.write_text(BAD)
    return str(path)


def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the installed command."""
    defaults: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 60}
    return subprocess.run([NFTLB, *arguments], check=False, **{**defaults, **options})


def outcome(*arguments: str, **options: Any) -> tuple[int, str, str]:
    done = run(*arguments, **options)
    return done.returncode, done.stdout, done.stderr


# --- statuses and streams ---------------------------------------------------------------------------------------------


def test_check_is_silent_when_the_file_is_good(good: str) -> None:
    """Nothing on either stream, from a file or from standard input."""
    assert (0, "", "") == outcome("check", good)
    assert (0, "", "") == outcome("check", "-", input=GOOD)


def test_check_warns(tmp_path: Path) -> None:
    """What is valid and loses packets is told on standard error, by file and pool; the status is 0."""
    path = tmp_path / "dhcp.yaml"
    path.write_text(GOOD.replace(":53/udp", ":67/udp"))
    status, output, error = outcome("check", str(path))
    assert (0, "") == (status, output)
    assert error.startswith(f"nftlb: {path}: warning: pools.dns: DHCP servers answer relays at ")
    assert error.endswith("; use source: keep\n")
    assert 1 == error.count("\n")


RADIUS = "{radius: {secret: shh}}"
FROM_FILE = "{radius: {secret_file: FOLDER/secret}}"
SNMP = "{snmp: {community: shh}}"


@pytest.mark.parametrize(
    ("health", "named"),
    [(RADIUS, "pools.yaml"), (SNMP, "pools.yaml"), (FROM_FILE, "secret"), ("{snmp: {}}", ""), ("{icmp: {}}", "")],
)
def test_check_warns_of_secrets_for_everybody(health: str, named: str, tmp_path: Path) -> None:
    """The file itself where it holds a secret, and the files that it names; silent once they are mended."""
    path, token, secret = tmp_path / "pools.yaml", tmp_path / "token", tmp_path / "secret"
    health = health.replace("FOLDER", str(tmp_path))
    checked = GOOD.replace("    backends", f"    health: {health}\n    backends")
    path.write_text(f"api: {{token_file: {token}}}\n{checked}")
    for one in (token, secret):
        one.write_text("shh")
    for one in (path, token, secret):
        one.chmod(0o644)

    status, output, error = outcome("check", str(path))
    assert (0, "") == (status, output)
    expected = {str(token), *([str(tmp_path / named)] if named else [])}
    assert expected == {line.split(": ")[2] for line in error.splitlines()}
    assert all("every user of this host may read it (mode 0644)" in line for line in error.splitlines())
    assert "shh" not in error

    for one in (path, token, secret):
        one.chmod(0o640)
    assert (0, "", "") == outcome("check", str(path))


@pytest.mark.parametrize("command", [["check"], ["compile"], ["apply"], ["remove"], ["doctor"], ["explain", *PACKET]])
def test_bad_input_is_told_with_its_places(command: list[str], bad: str) -> None:
    """Status 1, every fault on standard error as FILE:LINE:COLUMN, and nothing on standard output."""
    name, *rest = command
    status, out, error = outcome(name, bad, *rest)
    assert (1, "") == (status, out)
    assert [f"{bad}:2:3: pools.dns.listen", f"{bad}:3:5: pools.dns.lissen", f"{bad}:5:11: pools.dns.backends.b1"] == [
        ": ".join(line.split(": ")[:2]) for line in error.splitlines()
    ]


@pytest.mark.parametrize("command", ["check", "compile", "apply", "doctor", "remove"])
def test_a_file_that_cannot_be_read(command: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Status 1 and the path: it is not there, or is a directory."""
    for path, reason in ((tmp_path / "nosuch.yaml", "No such file or directory"), (tmp_path, "not a regular file")):
        status = main([command, str(path)])
        out, error = capfd.readouterr()
        assert (1, "") == (status, out)
        assert error.startswith(f"{path}: {reason}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param([], "Usage: nftlb ", id="no command"),
        pytest.param(["chek"], "did you mean check?", id="unknown command"),
        pytest.param(["check"], "Missing argument 'FILE'", id="no file"),
        pytest.param(["check", "a", "b"], "unexpected extra argument", id="too much"),
        pytest.param(["check", "--nosuch", "a"], "No such option", id="unknown option"),
        pytest.param(["compile", "a", "--down", "dns"], "dns is not POOL/BACKEND", id="no slash"),
        pytest.param(["compile", "a", "--down", "/b1"], "/b1 is not POOL/BACKEND", id="no pool"),
        pytest.param(
            ["explain", "a", "198.51.100.7", PACKET[1]], "198.51.100.7 is not an address with a port", id="source"
        ),
        pytest.param(["explain", "a", PACKET[0], "192.0.2.53:53"], "192.0.2.53:53 is not a listener", id="service"),
        pytest.param(["explain", "a", PACKET[0], "192.0.2.53:53-54/udp"], "is a range of ports", id="range"),
        pytest.param(["explain", "a", PACKET[0], "[2001:db8::53]:53/udp"], "two address families", id="families"),
        pytest.param(["completion", "tcsh"], "'tcsh' is not one of", id="shell"),
    ],
)
def test_usage(arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Status 2; what is wrong and how it is meant go to standard error."""
    status = main(arguments)
    out, error = capfd.readouterr()
    assert (2, "") == (status, out)
    assert error.startswith("Usage: nftlb ")
    assert message in error


def test_unknown_backends_are_told_at_once(good: str) -> None:
    """Status 1: they are not in the file; what they may be is."""
    for command in (["compile", good], ["explain", good, *PACKET]):
        down = ["--down", "dsn/b1", "--down", "dns/b3", "--down", "dns/b1"]
        assert (
            1,
            "",
            "--down dns/b3: no such backend; there are b1, b2\n--down dsn/b1: no such pool; did you mean dns?\n",
        ) == outcome(*command, *down)


def test_version() -> None:
    """The version that is installed."""
    assert (0, "nftlb 0.1.0\n", "") == outcome("--version")


# --- compile ----------------------------------------------------------------------------------------------------------


def test_compile(good: str) -> None:
    """The text of the compiler, the same however Python hashes; `--down` takes backends out."""
    expected = file_text(Compiled(config(DNS)).ruleset())
    for seed in ("1", "2"):
        assert (0, expected, "") == outcome("compile", good, env={**os.environ, "PYTHONHASHSEED": seed})
    without = file_text(Compiled(config(DNS)).ruleset(Membership.with_down([("dns", "b1")])))
    assert (0, without, "") == outcome("compile", good, "--down", "dns/b1")


def test_nft_loads_what_is_compiled(good: str) -> None:
    """By its own command, twice: the file replaces what it has loaded before."""
    with Namespace("compiled") as namespace:
        text = run("compile", good).stdout
        for _ in range(2):
            namespace.run(["nft", "-f", "-"], input=text)
        assert "diff 0" == f"diff {namespace.call(run, 'diff', good).returncode}"


def test_an_output_file_is_replaced_as_a_whole(good: str, bad: str, tmp_path: Path) -> None:
    """It keeps its mode, a link to it stays one; bad input leaves it as it was; nothing else is left behind."""
    expected = file_text(Compiled(config(DNS)).ruleset())
    new, link, old = tmp_path / "new.nft", tmp_path / "link.nft", tmp_path / "old.nft"
    old.write_text("precious")
    old.chmod(0o640)
    link.symlink_to(old)

    assert 1 == run("compile", bad, "-o", str(old)).returncode
    assert "precious" == old.read_text()

    for target in (new, link):
        assert (0, "", "") == outcome("compile", good, "-o", str(target))
        assert expected == target.read_text()
    assert link.is_symlink()
    assert 0o640 == stat.S_IMODE(old.stat().st_mode)
    assert {"bad.yaml", "good.yaml", "link.nft", "new.nft", "old.nft"} == {path.name for path in tmp_path.iterdir()}

    assert (0, expected, "") == outcome("compile", good, "-o", "/dev/stdout")
    assert (0, expected, "") == outcome("compile", good, "-o", "-")


def test_an_output_file_that_cannot_be_written(good: str, tmp_path: Path) -> None:
    """Status 3 and the path that was asked for."""
    for path, reason in (
        (tmp_path / "nosuch" / "out.nft", "No such file or directory"),
        (tmp_path, "Is a directory"),
        (Path("/dev/full"), "No space left on device"),
    ):
        assert (3, "", f"nftlb: {path}: {reason}\n") == outcome("compile", good, "-o", str(path))


# --- nobody reads, or nothing can be written --------------------------------------------------------------------------


def test_a_full_disk_is_a_failure(good: str) -> None:
    """Standard output can't be written: status 3 and one line."""
    with Path("/dev/full").open("w") as full:
        done = run("compile", good, stdout=full, stderr=subprocess.PIPE, capture_output=False)
    assert (3, "nftlb: standard output: No space left on device\n") == (done.returncode, done.stderr)


def test_a_reader_that_has_gone_is_none(good: str) -> None:
    """As in `nftlb compile FILE | head -1`: silent, with the status of a process that the signal ended."""
    reading, writing = os.pipe()
    os.close(reading)
    done = run("compile", good, stdout=writing, stderr=subprocess.PIPE, capture_output=False)
    os.close(writing)
    assert (141, "") == (done.returncode, done.stderr)


def test_closed_streams_do_no_harm(good: str, bad: str) -> None:
    """Statuses are what they would be."""
    for status, script, file in ((0, '"$0" compile "$1" >&-', good), (1, '"$0" compile "$1" 2>&-', bad)):
        assert status == subprocess.run(["sh", "-c", script, NFTLB, file], check=False).returncode


@pytest.mark.parametrize(
    ("raised", "status", "message"),
    [
        (KeyboardInterrupt(), 130, "\n"),
        (MemoryError(), 3, "nftlb: out of memory\n"),
        (PermissionError(13, "Permission denied", "/etc/shadow"), 3, "nftlb: /etc/shadow: Permission denied\n"),
        (OSError("odd"), 3, "nftlb: odd\n"),
        (
            KeyError("what\nnow"),
            3,
            f"nftlb: a fault of nftlb itself; please report it ({DEBUG}=1 shows where it is): KeyError: 'what\\nnow'\n",
        ),
    ],
)
def test_no_traceback(
    raised: BaseException,
    status: int,
    message: str,
    good: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Whatever happens: a status and at most a line."""

    def fail(_: str) -> None:
        raise raised

    monkeypatch.setattr(check, "load", fail)
    with keeping_output():
        assert status == main(["check", good])
    assert ("", message) == tuple(capfd.readouterr())


@contextmanager
def keeping_output() -> Iterator[None]:
    """A failed write has the command turn its standard output away, and this process needs its own."""
    kept = os.dup(1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def test_a_traceback_for_those_who_ask(
    good: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """With NFTLB_DEBUG a fault of ours shows where it is."""

    def fail(_: str) -> None:
        raise KeyError("what")

    monkeypatch.setattr(check, "load", fail)
    monkeypatch.setenv(DEBUG, "1")
    assert 3 == main(["check", good])
    assert "Traceback (most recent call last)" in capfd.readouterr().err


# --- help -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
def test_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command is there, says what it is for, and shows an example that begins with its own name."""
    command = root.get_command(click.Context(root), name)
    assert command is not None
    assert name == command.name
    assert 0 == main([name, "--help"])
    text = capsys.readouterr().out
    assert text.startswith(f"Usage: nftlb {name} ")
    assert f"  nftlb {name}" in text.split("Example")[1]


def test_the_list_of_commands_loads_none_of_them() -> None:
    """`nftlb --help` and the completion of a command's name need no more than click."""
    program = "import sys; from nftlb.cli import main; main(); print(*sys.modules)"
    helped = subprocess.run(
        [sys.executable, "-c", program, "--help"], capture_output=True, text=True, check=True
    ).stdout
    *text, modules = helped.splitlines()
    assert list(COMMANDS) == [line.split()[0] for line in text if line.startswith("  ") and line.split()[0] in COMMANDS]
    assert {"pydantic", "yaml", "nftlb.config", "nftlb.compiler"}.isdisjoint(modules.split())


def test_completion() -> None:
    """The script calls nftlb, which then tells what fits."""
    for shell in ("bash", "zsh", "fish"):
        status, out, error = outcome("completion", shell)
        assert (0, "") == (status, error)
        assert "_NFTLB_COMPLETE" in out
    words = {"_NFTLB_COMPLETE": "bash_complete", "COMP_WORDS": "nftlb com", "COMP_CWORD": "1"}
    assert (0, "plain,compile\nplain,completion\n", "") == outcome(env={**os.environ, **words})


# --- without root, without libnftables --------------------------------------------------------------------------------

PURE: dict[str, list[str]] = {
    "check": [],
    "compile": ["--down", "dns/b1"],
    "explain": PACKET,
    "schema": [],
}


@pytest.mark.parametrize("name", PURE)
def test_pure_commands_need_neither_root_nor_libnftables(name: str, tmp_path: Path) -> None:
    """They work with the binding blocked, for nobody, and don't even load what talks to the kernel."""
    program = (
        "import sys; sys.modules['nftables'] = None; from nftlb.cli import main; s = main(); print(s, *sys.modules)"
    )
    file = [] if name == "schema" else ["-"]
    done = subprocess.run(
        [*ordinary_user(), sys.executable, "-c", program, name, *file, *PURE[name]],
        input=GOOD,
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        env={**os.environ, "HOME": str(tmp_path)},
    )
    assert "" == done.stderr
    status, *modules = done.stdout.splitlines()[-1].split()
    assert "0" == status
    assert {"nftlb.kernel", "nftlb.apply", "nftlb.lab", "pyroute2", "asyncio", "ssl"}.isdisjoint(modules)


@pytest.mark.parametrize("name", ["apply", "diff", "remove"])
def test_without_libnftables_the_rest_says_what_to_install(name: str, good: str) -> None:
    """Status 3, and the mend."""
    program = "import sys; sys.modules['nftables'] = None; from nftlb.cli import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", program, name, good], capture_output=True, text=True, check=False)
    assert (3, "") == (done.returncode, done.stdout)
    assert "apt install python3-nftables" in done.stderr


@pytest.mark.parametrize("name", ["apply", "diff", "remove"])
def test_without_root_the_rest_says_so(name: str) -> None:
    """Status 3."""
    powerless = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", NFTLB, name, "-"]
    done = subprocess.run(powerless, input=GOOD, capture_output=True, text=True, timeout=60, check=False)
    assert (3, "") == (done.returncode, done.stdout)
    assert "run nftlb as root" in done.stderr


# --- with a kernel ----------------------------------------------------------------------------------------------------


@pytest.fixture
def inside() -> Iterator[Callable[..., tuple[int, str, str]]]:
    """Runs the command in a namespace of its own."""
    with Namespace("cli") as namespace:
        yield lambda *arguments, **options: namespace.call(outcome, *arguments, **options)


def test_apply_diff_and_remove(inside: Callable[..., tuple[int, str, str]], good: str) -> None:
    """What each says and its status, from nothing to nothing again."""
    status, out, error = inside("diff", good)
    assert (1, "") == (status, error)
    assert out.startswith(
        f"--- kernel\n+++ {good}\n@@ table ip nftlb: chain backend/dns/b1 @@\n+chain backend/dns/b1\n"
    )

    assert (0, f"{good}: 1 transaction\n", "") == inside("apply", good)
    assert (0, f"{good}: nothing to change\n", "") == inside("apply", good)
    assert (0, "", "") == inside("apply", "--quiet", "-", input=GOOD)
    assert (0, "", "") == inside("diff", good)

    assert (0, "table nftlb: 1 transaction\n", "") == inside("remove")
    assert (0, "table nftlb: nothing to remove\n", "") == inside("remove")
    assert (0, "", "") == inside("remove", "--quiet", good)


def test_diff_has_a_status_of_its_own_for_bad_input(bad: str) -> None:
    """1 would say that there is a difference."""
    status, out, error = outcome("diff", bad)
    assert (2, "") == (status, out)
    assert error.startswith(f"{bad}:2:3: ")


def test_the_file_tells_the_name_of_the_tables(inside: Callable[..., tuple[int, str, str]]) -> None:
    """For every command that touches the kernel."""
    other = f"table: mine\n{GOOD}"
    assert 0 == inside("apply", "-", input=other)[0]
    assert (0, "table nftlb: nothing to remove\n", "") == inside("remove")
    assert (0, "", "") == inside("diff", "-", input=other)
    assert (0, "table mine: 1 transaction\n", "") == inside("remove", "-", input=other)


STATELESS = GOOD.replace("    listen", "    forward: stateless\n    listen").replace(", 192.0.2.53:53/tcp", "")
WITHOUT_B2 = STATELESS.replace("      b2: 10.0.0.12:5353\n", "")


def test_apply_stays_for_answers_under_way(inside: Callable[..., tuple[int, str, str]]) -> None:
    """Where some may be; when it ends, nothing is left that the file does not say."""
    assert 0 == inside("apply", "-", input=STATELESS)[0]
    status, out, error = inside("apply", "--linger", "0.2", "-", input=WITHOUT_B2)
    assert (0, "") == (status, error)
    assert out.endswith("; answers under way have 0.2 s left\n")
    assert (0, "", "") == inside("diff", "-", input=WITHOUT_B2)


def test_apply_that_need_not_stay(inside: Callable[..., tuple[int, str, str]]) -> None:
    assert 0 == inside("apply", "-", input=STATELESS)[0]
    status, out, error = inside("apply", "--linger", "0", "-", input=WITHOUT_B2)
    assert (0, "") == (status, error)
    assert "answers" not in out
    assert (0, "", "") == inside("diff", "-", input=WITHOUT_B2)


def test_apply_is_interrupted_while_it_stays() -> None:
    """By ^C: it clears up at once."""
    with Namespace("cli") as namespace:
        assert 0 == namespace.call(outcome, "apply", "-", input=STATELESS)[0]
        # Whoever runs the tests may ignore the signal, and we would inherit that.
        argv = ["env", "--default-signal=INT", NFTLB, "apply", "--linger", "600", "-"]
        with (
            namespace.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process,
            ExitStack() as stack,
        ):
            stack.callback(process.kill)
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(WITHOUT_B2)
            process.stdin.close()
            assert "answers under way have 600 s left" in process.stdout.readline()
            assert 1 == namespace.call(outcome, "diff", "-", input=WITHOUT_B2)[0]
            process.send_signal(signal.SIGINT)
            assert 130 == process.wait(20)
        assert (0, "", "") == namespace.call(outcome, "diff", "-", input=WITHOUT_B2)


@pytest.mark.parametrize("name", ["apply", "remove", "restore"])
def test_only_one_writes(name: str, good: str) -> None:
    """Beside a daemon these do nothing; `diff` looks all the same."""
    with Namespace("cli") as namespace:
        assert 0 == namespace.call(outcome, "apply", good)[0]
        before = namespace.call(outcome, "diff", "-", input=WITHOUT_B2)
        with namespace.call(hold, "nftlb"):
            status, out, error = namespace.call(outcome, name, good)
            assert (3, "") == (status, out)
            assert error.startswith("nftlb: another nftlb runs for the table nftlb in this network namespace: ")
            assert before == namespace.call(outcome, "diff", "-", input=WITHOUT_B2)
        assert (0, "", "") == namespace.call(outcome, "diff", good)


def test_changes_in_words() -> None:
    """One of something, many, and nothing."""
    assert "" == changes(Applied())
    assert "1 transaction, 1 change of routing, 1 conntrack entry cut" == changes(Applied(("a",), ("b",), 1))
    assert "2 transactions, 2 changes of routing, 3 conntrack entries cut" == changes(
        Applied(("a",) * 2, ("b",) * 2, 3)
    )


# --- the rest ---------------------------------------------------------------------------------------------------------


def test_explain(good: str) -> None:
    """Text for people, JSON for machines; that no pool takes a packet is an answer too."""
    status, out, error = outcome("explain", good, *PACKET, "--down", "dns/b1")
    assert (0, "") == (status, error)
    assert "  every packet -> b2\n" in out
    status, out, error = outcome("explain", good, *PACKET, "--json")
    assert (0, "", ["b1", "b2"]) == (status, error, json.loads(out)["slots"])
    status, out, error = outcome("explain", good, PACKET[0], "192.0.2.53:54/udp")
    assert (0, "") == (status, error)
    assert "taken by no pool" in out


def test_schema() -> None:
    """The configuration's own, as JSON."""
    status, out, error = outcome("schema")
    assert (0, "", schema()) == (status, error, json.loads(out))


@pytest.mark.parametrize(("severity", "status"), [(Severity.OK, 0), (Severity.WARNING, 0), (Severity.ERROR, 3)])
def test_doctor(
    severity: Severity, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was found and how to mend it; only what would stop nftlb is a failure."""
    found = [
        Finding(severity, "forwarding", "is off", "sysctl -w net.ipv4.ip_forward=1"),
        Finding(Severity.OK, "nft", "fine"),
    ]
    monkeypatch.setattr(doctor, "examine", lambda _: found)
    assert status == main(["doctor"])
    expected = f"{severity:<8} forwarding: is off\n         sysctl -w net.ipv4.ip_forward=1\nok       nft: fine\n"
    assert expected == capsys.readouterr().out
    assert status == main(["doctor", "--json"])
    assert [str(severity), "ok"] == [one["severity"] for one in json.loads(capsys.readouterr().out)]


def test_python_m(good: str) -> None:
    """`python -m nftlb` is the same command."""
    done = subprocess.run([sys.executable, "-m", "nftlb", "check", good], capture_output=True, text=True, check=False)
    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)
