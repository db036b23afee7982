"""Untrusted text in logs, on terminals and in messages."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from daemon_process import NFTLB
from hypothesis import given
from hypothesis import strategies as st

from nftlb.cli.output import write_error, write_output
from nftlb.daemon import LogFormat, configure_logging
from nftlb.errors import ConfigError, Problem
from nftlb.importer.draft import Line, Remark, bad_text
from nftlb.printable import printable, printable_lines

if TYPE_CHECKING:
    from pathlib import Path

EVIL = "a\nx:1: forged\r\x1b[2J\u202e\u2028\x85\x9b31m\udcff"
TAME = r"a\nx:1: forged\r\x1b[2J\u202e\u2028\x85\x9b31m\xff"


@given(st.text())
def test_any_text(text: str) -> None:
    """The result is one printable line with all printable characters of the text; printable text stays unchanged."""
    shown = printable(text)

    assert shown.isprintable()
    shown.encode()
    assert [character for character in text if character.isprintable()] == [
        character for character in printable(text, "") if character in text
    ]
    assert text == shown or not text.isprintable()
    assert len(text) == len(printable(text, "?"))
    assert text.count("\n") == printable_lines(text).count("\n")
    assert all(line.replace("\t", "").isprintable() for line in printable_lines(text).split("\n"))


def test_unprintable_characters_are_escaped() -> None:
    """Control characters, line ends, characters that reorder a line, and bytes that are not UTF-8 are escaped."""
    assert TAME == printable(EVIL)
    assert "größe: €, ok\\" == printable("größe: €, ok\\")


@pytest.fixture
def log() -> logging.Logger:
    """A logger below nftlb; logging is restored afterwards."""
    return logging.getLogger("nftlb.daemon.printable")


@pytest.mark.parametrize("form", LogFormat)
def test_the_log(form: LogFormat, log: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    """Untrusted text in a log message is one line; each fault of a file is one printable line."""
    root, before = logging.getLogger(), (logging.getLogger().handlers[:], logging.getLogger().level)
    try:
        configure_logging(form, "info")
        log.warning("%s: down after %.1f ms, %d left", EVIL, 1.5, 2, extra={"fields": {"reason": EVIL}})
        log.error("bad:\n%s", ConfigError([Problem(EVIL, 1, 2, "pools", EVIL), Problem("z", 3, 4, "", "two")]))
        try:
            int(EVIL)
        except ValueError:
            log.exception("it broke")
    finally:
        root.handlers[:] = before[0]
        root.setLevel(before[1])

    said = capsys.readouterr().err
    assert all(line.isprintable() for line in said.split("\n"))
    if form is LogFormat.JSON:
        first, second, _ = map(json.loads, said.splitlines())
        assert (f"{TAME}: down after 1.5 ms, 2 left", EVIL) == (first["message"], first["reason"])
        assert f"bad:\n{TAME}:1:2: pools: {TAME}\nz:3:4: two" == second["message"]
    else:
        lines = [line[33:] for line in said.split("\n")]
        assert [f"{TAME}: down after 1.5 ms, 2 left", "bad:", f"{TAME}:1:2: pools: {TAME}", "z:3:4: two"] == lines[:4]


def test_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """The messages of commands are printable, with their own lines and tabs."""
    write_output(f"one\ttwo\n{EVIL}\n")
    write_error(f"{EVIL}\n")

    out, error = capsys.readouterr()
    kept = TAME.replace("\\n", "\n")
    assert (f"one\ttwo\n{kept}\n", f"{kept}\n") == (out, error)


def run(*argv: str | bytes, source: bytes | None = None) -> tuple[str, str]:
    done = subprocess.run([str(NFTLB), *argv], input=source, capture_output=True, timeout=60, check=False)
    return done.stdout.decode(), done.stderr.decode()


def test_errors_of_check(tmp_path: Path) -> None:
    """The name of a file, its keys and its values can't start a line or move the cursor."""
    name = os.fsencode(tmp_path) + b"/a\nx:1: forged\x1b[2J\xff.yaml"
    with open(name, "wb") as file:  # noqa: PTH123 - which has no name that is text
        file.write(b'"po\\nx:1: forged\\e[2J": 1\npools: {"d\\u202e": 7, b: {listen: "x\\n:1: \\u202e"}}\n')

    for command in ("check", "compile", "explain"):
        more = ("192.0.2.1:1", "192.0.2.53:53/udp") if command == "explain" else ()
        out, error = run(command, name, *more)
        assert "" == out
        assert error.splitlines() == [line for line in error.split("\n") if line.startswith(str(tmp_path))]
        assert all(line.isprintable() for line in error.splitlines())


@pytest.mark.parametrize("word", ["v\x1b[2J\u202e", "v\x85x:1:", "v\rx:1:"])
def test_remarks_of_an_import_are_printable(word: str, tmp_path: Path) -> None:
    """A remark of an import begins with the name of the file, and is one line."""
    text = f"virtual_server 192.0.2.1 53 {{\n protocol UDP\n {word} {word}\n real_server 10.0.0.1 53 {{ {word} }}\n}}\n"
    for what, source in (("keepalived", text), ("ipvsadm", f"-A -u 192.0.2.1:53 -s {word}\n")):
        file = tmp_path / what
        file.write_text(source)
        _, error = run("import", what, str(file))
        lines = error.rstrip("\n").split("\n")
        assert lines == [line for line in lines if line.startswith(f"{file}:") and line.isprintable()]


def test_lines_of_an_import() -> None:
    """All remarks and faults of an import are printable."""
    assert rf"{TAME}:7: {TAME}" == str(Remark(EVIL, 7, EVIL))
    assert rf"{TAME}:7:1: {TAME}" == str(bad_text(Line(7, EVIL), EVIL))


def test_names_of_the_state_file() -> None:
    """A stored backend that does not fit is one line of the log, whatever its name is."""
    program = """
import json, logging, sys
from nftlb.config import parse_config
from nftlb.daemon import LogFormat, configure_logging
from nftlb.daemon.runtime import overlay
from nftlb.health import PoolMemory

configure_logging(LogFormat.TEXT, "info")
config = parse_config("pools: {dns: {listen: 192.0.2.53:53/udp, backends: {ns1: 10.0.0.11:53}}}")
_, misfits = overlay(config, {"dns": PoolMemory(added={json.loads(sys.argv[1]): "10.0.0.12"})})
for misfit in misfits:
    logging.getLogger("nftlb").warning("%s", misfit)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(EVIL)], capture_output=True, text=True, check=True, timeout=60
    )

    (line,) = done.stderr.rstrip("\n").split("\n")
    assert line.isprintable()
    assert f"dns/{TAME}, added at run time, is left out: " in line
