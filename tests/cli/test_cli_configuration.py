"""Commands that only read a configuration: `check`, `compile`, `explain`, `schema`, `doctor`."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from dns_zone import Zone
from installed_command import GOOD, PACKET, outcome, run_command
from pool_builders import DNS, config
from unprivileged import ordinary_user

from nftlb.cli import doctor, main
from nftlb.compiler import Compiled
from nftlb.config import json_schema
from nftlb.doctor import Finding, Severity
from nftlb.lab import Namespace
from nftlb.model import Membership
from nftlb.ruleset import file_text

pytest_plugins = ("cli_fixtures",)


def test_check_is_silent_when_the_file_is_good(good: str) -> None:
    """A valid file, or standard input, prints nothing on either stream."""
    assert (0, "", "") == outcome("check", good)
    assert (0, "", "") == outcome("check", "-", input=GOOD)


def test_check_warns(tmp_path: Path) -> None:
    """A valid setting that loses packets gives a warning on standard error with file and pool; the status is 0."""
    path = tmp_path / "dhcp.yaml"
    path.write_text(GOOD.replace(":53/udp", ":67/udp"))
    status, output, error = outcome("check", str(path))
    assert (0, "") == (status, output)
    assert error.startswith(f"nftlb: {path}: warning: pools.dns: DHCP servers send re")
    assert error.endswith("; use source: keep\n")
    assert 1 == error.count("\n")


def test_names_are_looked_up_by_commands_that_need_addresses(tmp_path: Path) -> None:
    """`compile` and `explain` use the addresses of now, or end with the reason; `check` asks nobody and warns."""
    path = tmp_path / "names.yaml"

    def write(name: str) -> None:
        resolver = f"{{servers: '127.0.0.1:{zone.port}', timeout: 1s}}"
        path.write_text(f"resolver: {resolver}\n{GOOD}      ns: {name}:53\n")

    with Zone(ns=["10.0.0.13", "127.0.0.1"]) as zone:
        write("ns.lab")
        assert (0, "", f"nftlb: {path}: warning: not looked up: ns.lab; use nftlb doctor {path}\n") == outcome(
            "check", str(path)
        )
        assert [] == zone.asked
        status, rules, warning = outcome("compile", str(path))
        assert (0, True) == (status, '"dns/ns-10.0.0.13"' in rules)
        assert f"{path}: warning: pools.dns.backends.ns: 127.0.0.1:53 is left out" in warning
        assert (0, True) == (outcome("explain", str(path), *PACKET)[0], "ns-10.0.0.13" in rules)
        write("gone.lab")
        status, rules, error = outcome("compile", str(path))
        assert (3, "") == (status, rules)
        assert "gone.lab does not exist; needed: an answer of DNS for each name" in error
        found = json.loads(outcome("doctor", "--json", str(path))[1])
        assert ["gone.lab does not exist; needed: an answer of DNS for each name"] == [
            one["message"] for one in found if one["subject"] == "names"
        ]


RADIUS = "{radius: {secret: shh}}"


FROM_FILE = "{radius: {secret_file: FOLDER/secret}}"


SNMP = "{snmp: {community: shh}}"


@pytest.mark.parametrize(
    ("health", "named"),
    [(RADIUS, "pools.yaml"), (SNMP, "pools.yaml"), (FROM_FILE, "secret"), ("{snmp: {}}", ""), ("{icmp: {}}", "")],
)
def test_check_warns_of_secrets_for_everybody(health: str, named: str, tmp_path: Path) -> None:
    """Warns of the file itself if it has a secret, and of secret files that it names; silent after chmod."""
    path, token, secret = tmp_path / "pools.yaml", tmp_path / "token", tmp_path / "secret"
    health = health.replace("FOLDER", str(tmp_path))
    checked = GOOD.replace("    backends", f"    health: {health}\n    backends")
    path.write_text(f"api: {{token_file: {token}}}\n{checked}")
    for file in (token, secret):
        file.write_text("shh")
    for file in (path, token, secret):
        file.chmod(0o644)

    status, output, error = outcome("check", str(path))
    assert (0, "") == (status, output)
    expected = {str(token), *([str(tmp_path / named)] if named else [])}
    assert expected == {line.split(": ")[2] for line in error.splitlines()}
    assert all("every user of this host may read it (mode 0644)" in line for line in error.splitlines())
    assert "shh" not in error

    for file in (path, token, secret):
        file.chmod(0o640)
    assert (0, "", "") == outcome("check", str(path))


@pytest.mark.parametrize("command", [["check"], ["compile"], ["apply"], ["remove"], ["doctor"], ["explain", *PACKET]])
def test_bad_input_is_reported_with_lines_and_columns(command: list[str], bad: str) -> None:
    """Status 1, every error on standard error with FILE:LINE:COLUMN, nothing on standard output.

    A misspelt key that is needed is one error.
    """
    name, *rest = command
    status, out, error = outcome(name, bad, *rest)
    assert (1, "") == (status, out)
    assert [f"{bad}:3:5: pools.dns.lissen", f"{bad}:5:11: pools.dns.backends.b1"] == [
        ": ".join(line.split(": ")[:2]) for line in error.splitlines()
    ]


@pytest.mark.parametrize("command", ["check", "compile", "apply", "doctor", "remove"])
def test_a_file_that_cannot_be_read(command: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Status 1 and the path, for a file that does not exist and for a directory."""
    for path, reason in ((tmp_path / "nosuch.yaml", "no such file"), (tmp_path, "a directory; name a file")):
        status = main([command, str(path)])
        out, error = capfd.readouterr()
        assert (1, "") == (status, out)
        assert error.startswith(f"{path}: {reason}")


def test_unknown_backends_are_all_reported(good: str) -> None:
    """Status 1; the message names similar pools and backends of the file."""
    for command in (["compile", good], ["explain", good, *PACKET]):
        down = ["--down", "dsn/b1", "--down", "dns/b3", "--down", "dns/b1"]
        assert (
            1,
            "",
            "--down dns/b3: no such backend; known: b1, b2\n--down dsn/b1: no such pool; did you mean dns?\n",
        ) == outcome(*command, *down)


def test_compile(good: str) -> None:
    """Prints the compiler's text, the same with any hash seed of Python; `--down` leaves backends out."""
    expected = file_text(Compiled(config(DNS)).ruleset())
    for seed in ("1", "2"):
        assert (0, expected, "") == outcome("compile", good, env={**os.environ, "PYTHONHASHSEED": seed})
    without = file_text(Compiled(config(DNS)).ruleset(Membership.with_down([("dns", "b1")])))
    assert (0, without, "") == outcome("compile", good, "--down", "dns/b1")


def test_nft_loads_what_is_compiled(good: str) -> None:
    """Nft -f loads the output, also a second time: the text replaces the tables that it has loaded before."""
    with Namespace("compiled") as namespace:
        text = run_command("compile", good).stdout
        for _ in range(2):
            namespace.run(["nft", "-f", "-"], input=text)
        assert "diff 0" == f"diff {namespace.call(run_command, 'diff', good).returncode}"


def test_an_output_file_is_replaced_atomically(good: str, bad: str, tmp_path: Path) -> None:
    """The file keeps its mode, a link stays a link, bad input changes nothing, no temporary file remains."""
    expected = file_text(Compiled(config(DNS)).ruleset())
    new, link, old = tmp_path / "new.nft", tmp_path / "link.nft", tmp_path / "old.nft"
    old.write_text("precious")
    old.chmod(0o640)
    link.symlink_to(old)

    assert 1 == run_command("compile", bad, "-o", str(old)).returncode
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
    """Status 3 and the path that the user gave."""
    for path, reason in (
        (tmp_path / "nosuch" / "out.nft", "No such file or directory"),
        (tmp_path, "Is a directory"),
        (Path("/dev/full"), "No space left on device"),
    ):
        assert (3, "", f"nftlb: {path}: {reason}\n") == outcome("compile", good, "-o", str(path))


PURE: dict[str, list[str]] = {
    "check": [],
    "compile": ["--down", "dns/b1"],
    "explain": PACKET,
    "schema": [],
}


@pytest.mark.parametrize("name", PURE)
def test_pure_commands_need_neither_root_nor_libnftables(name: str, tmp_path: Path) -> None:
    """They work as an ordinary user and without libnftables, and import no module that talks to the kernel."""
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
    assert {"nftlb.kernel", "nftlb.swap.applier", "nftlb.lab", "asyncio", "ssl"}.isdisjoint(modules)


def test_explain(good: str) -> None:
    """Prints text or JSON; a packet that no pool takes is a result, not an error."""
    status, out, error = outcome("explain", good, *PACKET, "--down", "dns/b1")
    assert (0, "") == (status, error)
    assert "  every packet -> b2\n" in out
    status, out, error = outcome("explain", good, *PACKET, "--json")
    assert (0, "", ["b1", "b2"]) == (status, error, json.loads(out)["slots"])
    status, out, error = outcome("explain", good, PACKET[0], "192.0.2.53:54/udp")
    assert (0, "") == (status, error)
    assert "taken by no pool" in out


def test_explain_a_payload(tmp_path: Path) -> None:
    """The payload is given in hexadecimal or as a file, not both; a file that does not exist is a usage error."""
    file, datagram = tmp_path / "keys.yaml", tmp_path / "datagram"
    options = "balance: hash, key: payload@1+1, backends: {b1: 10.0.0.1, b2: 10.0.0.2}"
    file.write_text(f"pools: {{dns: {{listen: 192.0.2.53:53/udp, {options}}}}}")
    datagram.write_bytes(b"\0\7")
    text = outcome("explain", str(file), *PACKET, "--payload", "0007")
    assert (0, "") == (text[0], text[2])
    assert "by byte 1 of the payload: every packet -> b" in text[1]
    assert text == outcome("explain", str(file), *PACKET, "--payload-file", str(datagram))
    assert "give the payload" in outcome("explain", str(file), *PACKET)[1]
    both = outcome("explain", str(file), *PACKET, "--payload", "00", "--payload-file", str(datagram))
    assert (2, "") == both[:2]
    assert "both --payload and --payload-file" in both[2]
    assert 2 == outcome("explain", str(file), *PACKET, "--payload-file", str(tmp_path / "missing"))[0]


def test_schema() -> None:
    """Prints the schema of the configuration as JSON."""
    status, out, error = outcome("schema")
    assert (0, "", json_schema()) == (status, error, json.loads(out))


@pytest.mark.parametrize(("severity", "status"), [(Severity.OK, 0), (Severity.WARNING, 0), (Severity.ERROR, 3)])
def test_doctor(
    severity: Severity, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Prints findings with their fixes; only an error, not a warning, gives status 3."""
    found = [
        Finding(severity, "forwarding", "is off", "sysctl -w net.ipv4.ip_forward=1"),
        Finding(Severity.OK, "nft", "fine"),
    ]
    monkeypatch.setattr(doctor, "examine", lambda _: found)
    assert status == main(["doctor"])
    expected = f"{severity:<8} forwarding: is off\n         sysctl -w net.ipv4.ip_forward=1\nok       nft: fine\n"
    assert expected == capsys.readouterr().out
    assert status == main(["doctor", "--json"])
    assert [str(severity), "ok"] == [finding["severity"] for finding in json.loads(capsys.readouterr().out)]
