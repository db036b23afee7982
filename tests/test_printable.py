"""Text that may hold anything, in logs, on terminals and in messages."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from running import NFTLB

from nftlb.cli.output import write, write_error
from nftlb.daemon import LogFormat, configure
from nftlb.errors import ConfigError, Problem
from nftlb.importer.remark import Remark, fault
from nftlb.printable import printable, printable_lines

if TYPE_CHECKING:
    from pathlib import Path

EVIL = "a\nx:1: forged\r\x1b[2J\u202e\u2028\x85\x9b31m\udcff"
TAME = r"a\nx:1: forged\r\x1b[2J\u202e\u2028\x85\x9b31m\xff"


@given(st.text())
def test_any_text(text: str) -> None:
    """One line that can be printed, from which nothing that could be printed is missing; what is harmless stays."""
    shown = printable(text)

    assert shown.isprintable()
    shown.encode()
    assert [one for one in text if one.isprintable()] == [one for one in printable(text, "") if one in text]
    assert text == shown or not text.isprintable()
    assert len(text) == len(printable(text, "?"))
    assert text.count("\n") == printable_lines(text).count("\n")
    assert all(line.replace("\t", "").isprintable() for line in printable_lines(text).split("\n"))


def test_what_can_not_be_printed_is_shown() -> None:
    """Control characters, line ends of all kinds, what reorders a line, and bytes that are no UTF-8."""
    assert TAME == printable(EVIL)
    assert "größe: €, ok\\" == printable("größe: €, ok\\")


@pytest.fixture
def log() -> logging.Logger:
    """A log with a name below nftlb; afterwards logging is as it was."""
    return logging.getLogger("nftlb.daemon.printable")


@pytest.mark.parametrize("form", LogFormat)
def test_the_log(form: LogFormat, log: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    """What is put into a message is one line of it; faults of a file have a line each, each of them harmless."""
    root, before = logging.getLogger(), (logging.getLogger().handlers[:], logging.getLogger().level)
    try:
        configure(form, "info")
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
    """Whatever a command says by the way of all commands; lines and tabs are its own."""
    write(f"one\ttwo\n{EVIL}\n")
    write_error(f"{EVIL}\n")

    out, error = capsys.readouterr()
    kept = TAME.replace("\\n", "\n")
    assert (f"one\ttwo\n{kept}\n", f"{kept}\n") == (out, error)


def run(*argv: str | bytes, source: bytes | None = None) -> tuple[str, str]:
    done = subprocess.run([str(NFTLB), *argv], input=source, capture_output=True, timeout=60, check=False)
    return done.stdout.decode(), done.stderr.decode()


def test_errors_of_check(tmp_path: Path) -> None:
    """A file's own name, its keys and its values begin no line and move nothing."""
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
def test_imported_words(word: str, tmp_path: Path) -> None:
    """What is told of a word that has no counterpart begins with the name of the file, and is one line."""
    text = f"virtual_server 192.0.2.1 53 {{\n protocol UDP\n {word} {word}\n real_server 10.0.0.1 53 {{ {word} }}\n}}\n"
    for what, source in (("keepalived", text), ("ipvsadm", f"-A -u 192.0.2.1:53 -s {word}\n")):
        file = tmp_path / what
        file.write_text(source)
        _, error = run("import", what, str(file))
        lines = error.rstrip("\n").split("\n")
        assert lines == [line for line in lines if line.startswith(f"{file}:") and line.isprintable()]


def test_lines_of_an_import() -> None:
    """Whatever an import says of whichever line."""
    assert rf"{TAME}:7: {TAME}" == str(Remark(EVIL, 7, EVIL))
    assert rf"{TAME}:7:1: {TAME}" == str(fault(EVIL, 7, EVIL))


def test_names_of_the_state_file() -> None:
    """What is remembered and does not fit is told in one line of the log, whatever its name is."""
    program = """
import json, logging, sys
from nftlb.config import parse
from nftlb.daemon import LogFormat, configure
from nftlb.daemon.runtime import overlay
from nftlb.health import PoolMemory

configure(LogFormat.TEXT, "info")
config = parse("pools: {dns: {listen: 192.0.2.53:53/udp, backends: {ns1: 10.0.0.11:53}}}")
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
