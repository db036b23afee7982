"""What all commands share: usage errors, help, completion, and failures without a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest
from installed_command import NFTLB, PACKET, outcome, run_command

from nftlb.cli import check, main
from nftlb.cli.group import COMMANDS, root
from nftlb.cli.output import DEBUG

if TYPE_CHECKING:
    from collections.abc import Iterator


pytest_plugins = ("cli_fixtures",)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param([], "Usage: nftlb ", id="no command"),
        pytest.param(["chek"], "did you mean check?", id="unknown command"),
        pytest.param(["disable"], "No such command: disable; use drain, or maintenance\n", id="word of HAProxy"),
        pytest.param(["undrain"], "use enable\n", id="opposite"),
        pytest.param(["resume"], "use enable\n", id="similar to remove"),
        pytest.param(["stop"], "use systemctl stop nftlb; the rules stay, and traffic goes on\n", id="stop"),
        pytest.param(["restart"], "use systemctl restart nftlb\n", id="similar to restore"),
        pytest.param(["unload"], "use remove, after the end of the daemon; all rules are deleted\n", id="unload"),
        pytest.param(["create"], "use add\n", id="create"),
        pytest.param(["set"], "use weight, priority, drain, maintenance or enable\n", id="set"),
        pytest.param(["clear"], "use remove, after the end of the daemon; all rules", id="ipvsadm's word"),
        pytest.param(["offline"], "use drain, or maintenance\n", id="offline"),
        pytest.param(["online"], "use enable\n", id="online"),
        pytest.param(["help"], "use --help\n", id="help"),
        pytest.param(["check"], "Missing argument 'FILE'", id="no file"),
        pytest.param(["check", "a", "b"], "unexpected extra argument", id="too much"),
        pytest.param(["check", "--nosuch", "a"], "No such option", id="unknown option"),
        pytest.param(
            ["compile", "a", "--down", "dns"],
            "dns is not POOL/BACKEND; allowed: two names, such as dns/ns1",
            id="no slash",
        ),
        pytest.param(["compile", "a", "--down", "/b1"], "/b1 is not POOL/BACKEND", id="no pool"),
        pytest.param(
            ["explain", "a", "198.51.100.7", PACKET[1]], "198.51.100.7 is not an address with a port", id="source"
        ),
        pytest.param(["explain", "a", PACKET[0], "192.0.2.53:53"], "192.0.2.53:53 is not a listener", id="service"),
        pytest.param(["explain", "a", PACKET[0], "192.0.2.53:53-54/udp"], "is a range of ports", id="range"),
        pytest.param(["explain", "a", *PACKET, "--payload", "abc"], "abc is not bytes in hexadecimal", id="payload"),
        pytest.param(
            ["explain", "a", PACKET[0], "[2001:db8::53]:53/udp"], "belong to two address families", id="families"
        ),
        pytest.param(["completion", "tcsh"], "'tcsh' is not one of", id="shell"),
    ],
)
def test_usage(arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Status 2; the error and the usage are on standard error."""
    status = main(arguments)
    out, error = capfd.readouterr()
    assert (2, "") == (status, out)
    assert error.startswith("Usage: nftlb ")
    assert message in error


@pytest.mark.parametrize("option", ["--version", "-v", "-V"])
def test_version(option: str) -> None:
    """Prints the installed version; the short options are those of nft, keepalived and HAProxy."""
    assert (0, "nftlb 0.1.0\n", "") == outcome(option)


def test_a_terminal_without_unicode(tmp_path: Path) -> None:
    """In a locale without UTF-8, text is escaped, but a file that is written to a pipe is UTF-8."""
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    unknown = outcome("health", "\xe9", "--nagios", "--url", "unix:/nonexistent/\xe9", env=environment)
    assert (3, True, "") == (unknown[0], "unix:/nonexistent/\\xe9: No such file" in unknown[1], unknown[2])
    services = tmp_path / "keepalived.conf"
    services.write_text(
        "virtual_server 192.0.2.1 53 {\n protocol UDP\n größe 1\n real_server 10.0.0.1 53 {\n}\n}\n", encoding="utf-8"
    )
    status, text, _ = outcome("import", "keepalived", str(services), env=environment)
    assert (0, True) == (status, "größe" in text)


@pytest.mark.parametrize("command", ["status", "check", "health", "import"])
def test_version_of_a_command(command: str) -> None:
    """--version works behind each command too, also without the arguments that the command needs."""
    assert (0, "nftlb 0.1.0\n", "") == outcome(command, "--version")


def test_a_full_disk_is_a_failure(good: str) -> None:
    """If standard output can't be written, the status is 3 and the message one line."""
    with Path("/dev/full").open("w") as full:
        done = run_command("compile", good, stdout=full, stderr=subprocess.PIPE, capture_output=False)
    assert (3, "nftlb: standard output: No space left on device\n") == (done.returncode, done.stderr)


def test_a_closed_pipe_causes_no_message(good: str) -> None:
    """As in `nftlb compile FILE | head -1`: no message, and the status of a process killed by SIGPIPE."""
    reading, writing = os.pipe()
    os.close(reading)
    done = run_command("compile", good, stdout=writing, stderr=subprocess.PIPE, capture_output=False)
    os.close(writing)
    assert (141, "") == (done.returncode, done.stderr)


def test_closed_streams_do_no_harm(good: str, bad: str) -> None:
    """With a closed standard output or standard error the status is the same."""
    for status, script, file in ((0, '"$0" compile "$1" >&-', good), (1, '"$0" compile "$1" 2>&-', bad)):
        assert status == subprocess.run(["sh", "-c", script, NFTLB, file], check=False).returncode


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ("check -", 1),
        ("import ipvsadm -", 1),
        ("explain FILE 198.51.100.7:40000 192.0.2.53:53/udp --payload-file -", 2),
    ],
)
def test_a_closed_standard_input_is_reported(words: str, status: int, good: str) -> None:
    """A service may be started without standard input. The message says so."""
    script = f'"$0" {words.replace("FILE", good)} <&-'
    done = subprocess.run(["sh", "-c", script, NFTLB], capture_output=True, text=True, check=False)
    assert (status, "") == (done.returncode, done.stdout)
    assert "is closed; allowed: an open standard input, or the name of a file" in done.stderr


@pytest.mark.parametrize(
    ("raised", "status", "message"),
    [
        (KeyboardInterrupt(), 130, "\n"),
        (MemoryError(), 3, "nftlb: out of memory\n"),
        (PermissionError(13, "Permission denied", "/etc/shadow"), 3, "nftlb: /etc/shadow: Permission denied\n"),
        (OSError("odd"), 3, "nftlb: odd\n"),
        (
            KeyError("what\n!"),
            3,
            f"nftlb: a fault of nftlb itself; please report it ({DEBUG}=1 prints a traceback): KeyError: 'what\\n!'\n",
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
    """Every exception gives an exit status and at most one line."""

    def fail(_: str) -> None:
        raise raised

    monkeypatch.setattr(check, "load", fail)
    with keeping_output():
        assert status == main(["check", good])
    assert ("", message) == tuple(capfd.readouterr())


@contextmanager
def keeping_output() -> Iterator[None]:
    """Restore standard output, which main() redirects to /dev/null after a failed write."""
    kept = os.dup(1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def test_debug_shows_a_traceback(good: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """With NFTLB_DEBUG a fault of nftlb itself prints a traceback."""

    def fail(_: str) -> None:
        raise KeyError("what")

    monkeypatch.setattr(check, "load", fail)
    monkeypatch.setenv(DEBUG, "1")
    assert 3 == main(["check", good])
    assert "Traceback (most recent call last)" in capfd.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command in the list exists, has a help text, and an example that begins with its name."""
    command = root.get_command(click.Context(root), name)
    assert command is not None
    assert name == command.name
    assert 0 == main([name, "--help"])
    text = capsys.readouterr().out
    assert text.startswith(f"Usage: nftlb {name} ")
    assert f"  nftlb {name}" in text.split("Example")[1]


@pytest.mark.parametrize(
    "name", ["status", "health", "top", "events", "history", "ruleset", "clients", "explain", "doctor"]
)
def test_every_list_has_json(name: str) -> None:
    """Each command that prints a list of what the daemon or the host has can print JSON."""
    command = root.get_command(click.Context(root), name)
    assert command is not None
    assert any("--json" in option.opts for option in command.params)


def test_the_list_of_commands_loads_none_of_them() -> None:
    """`nftlb --help` imports neither pydantic nor YAML nor the configuration."""
    program = "import sys; from nftlb.cli import main; main(); print(*sys.modules)"
    helped = subprocess.run(
        [sys.executable, "-c", program, "--help"], capture_output=True, text=True, check=True
    ).stdout
    *text, modules = helped.splitlines()
    assert list(COMMANDS) == [line.split()[0] for line in text if line.startswith("  ") and line.split()[0] in COMMANDS]
    assert {"pydantic", "yaml", "nftlb.config", "nftlb.compiler"}.isdisjoint(modules.split())


def test_completion() -> None:
    """Prints a script for each shell; nftlb, called with its variable, prints the completions."""
    for shell in ("bash", "zsh", "fish"):
        status, out, error = outcome("completion", shell)
        assert (0, "") == (status, error)
        assert "_NFTLB_COMPLETE" in out
    words = {"_NFTLB_COMPLETE": "bash_complete", "COMP_WORDS": "nftlb com", "COMP_CWORD": "1"}
    assert (0, "plain,compile\nplain,completion\n", "") == outcome(env={**os.environ, **words})


def test_python_m(good: str) -> None:
    """`python -m nftlb` runs the same command."""
    done = subprocess.run([sys.executable, "-m", "nftlb", "check", good], capture_output=True, text=True, check=False)
    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)
