"""The real shells complete commands, options and the names of pools and backends, with the scripts of the package."""

from __future__ import annotations

import os
import subprocess
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from installed_command import NFTLB, outcome
from pseudo_terminal import Terminal
from servers.programs import data, environment, program

if TYPE_CHECKING:
    from fake_api import Api

pytest_plugins = ("cli_fixtures",)

PATH = os.pathsep.join([str(Path(NFTLB).parent), environment()["PATH"]])


def script(shell: str, file: Path) -> Path:
    """Write the script for a shell into a file, as the package installs the script."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(outcome("completion", shell)[1])
    return file


def complete(shell: Terminal) -> None:
    """Type a command line with as few characters as possible, and see the whole."""
    shell.type(b"nftlb dra\t")
    shell.see("in")
    shell.type(b"dns/ns\t\t")
    shell.see("dns/ns1")
    shell.see("dns/ns2")
    shell.type(b"1 --soc\t")
    shell.see("ket")


def test_bash(api: Api, tmp_path: Path) -> None:
    """The shell bash completes a command, lists the backends of the daemon, and completes an option."""
    file = script("bash", tmp_path / "nftlb")
    arguments = ("--noprofile", "--norc", "-i")
    with closing(Terminal(api.where, *arguments, program="/bin/bash", PATH=PATH, PS1="ready>")) as shell:
        shell.see("ready>")
        shell.type(f"source {file}\n".encode())
        shell.see("ready>")
        complete(shell)


def test_zsh(api: Api, tmp_path: Path) -> None:
    """The shell zsh does so too, with the script in a folder of `fpath`."""
    folder = script("zsh", tmp_path / "_nftlb").parent
    functions = Path(data("usr/share/zsh/functions"))
    variables = {
        "PATH": PATH,
        "PS1": "ready>",
        "LD_LIBRARY_PATH": environment()["LD_LIBRARY_PATH"],
        "FPATH": os.pathsep.join(map(str, [folder, functions, *sorted(filter(Path.is_dir, functions.rglob("*")))])),
    }
    with closing(Terminal(api.where, "-f", "-i", program=program("zsh"), **variables)) as shell:
        shell.see("ready>")
        modules = Path(data("usr/lib/*/zsh/*/zsh/zle.so")).parents[1]
        shell.type(f"module_path=({modules}); autoload -Uz compinit && compinit -u -D && zle && echo loaded\n".encode())
        shell.see("ready>")
        complete(shell)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("nftlb dra", ["drain"]),
        ("nftlb drain dns/", ["dns/ns1", "dns/ns2"]),
        ("nftlb drain dns/ns1 --soc", ["--socket"]),
        ("nftlb check po", ["pools.yaml"]),
    ],
)
@pytest.mark.usefixtures("api")
def test_fish(line: str, expected: list[str], tmp_path: Path) -> None:
    """The shell fish completes the same words, and files."""
    (tmp_path / "pools.yaml").touch()
    file = script("fish", tmp_path / "nftlb.fish")
    variables = {"PATH": PATH, "HOME": str(tmp_path)}
    commands = f"set fish_function_path {data('usr/share/fish/functions')}; source {file}; complete -C '{line}'"
    done = subprocess.run(
        [program("fish"), "-c", commands],
        cwd=tmp_path,
        env={**os.environ, **environment(), **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert expected == [found.partition("\t")[0] for found in done.stdout.splitlines()], done.stderr
