"""The commands in the documents: those of nftlb are parsed by nftlb, targets of make exist, and nft runs its commands.

docs/tutorial.md has a separate test, which carries out every command.
"""

from __future__ import annotations

import re
import shlex
import textwrap
from pathlib import Path

import click
import pytest

from nftlb.cli.group import root
from nftlb.lab import Namespace

ROOT = Path(__file__).parents[1]
TUTORIAL = ROOT / "docs/tutorial.md"
DOCUMENTS = sorted({*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "rules").glob("*.md")} - {TUTORIAL})
NOT_RUN = {
    "$EDITOR": "an editor",
    "ansible-playbook": "tests/deploy/ runs the playbooks on machines that boot",
    "apt": "tests/deploy/ installs, upgrades and removes the package",
    "buildah": "no image of Debian can be downloaded in the tests; docs/install.md says what was tried",
    "cd": "a directory of the checkout, whose existence the test of named files covers",
    "cp": "tests/deploy/ installs the file",
    "dpkg-deb": "tests/deploy/test_package_files.py reads the file in the package",
    "gpg": "needs a key of the person who signs",
    "install": "tests/deploy/ and tests/end_to_end/test_pair.py install the files",
    "ipvsadm": "LVS is not on this machine; tests/importer/ reads its output",
    "journalctl": "tests/daemon/test_systemd.py starts journald",
    "keepalived": "tests/end_to_end/test_pair.py runs keepalived with the file",
    "nftlb-preload": "tests/test_preload.py runs the script",
    "podman": "no image of Debian can be downloaded in the tests; docs/install.md says what was tried",
    "python3": "tests/deploy/test_wheel.py makes the environment",
    "sha256sum": "tests/deploy/test_package_files.py checks the hashes",
    "systemctl": "tests/deploy/ starts and reloads the service",
    "/opt/nftlb/bin/pip": "tests/deploy/test_wheel.py installs the wheel",
    "tar": "tests/deploy/test_package_files.py reads the file in the package",
    "tools/inside.sh": "`make test-debian13` runs it",
}
"""Programs whose commands no test of documents runs, with the reason."""
RUN = {"make", "nft", "nftlb"}
_ENDS = {"&&", "||", "|", ";", ">", "<"}


def commands(text: str) -> list[list[str]]:
    """The commands of the indented blocks of a document, as words. A block of commands has a known program."""
    found = []
    for block in re.findall(r"(?m)(?:(?:^ {4}.*)?\n)+", text):
        lines = textwrap.dedent(block).strip("\n").splitlines()
        if any(line.split(" ")[0] in RUN | NOT_RUN.keys() for line in lines):
            for line in lines:
                words: list[str] = []
                for word in [*shlex.split(line, comments=True), ";"]:
                    if word in _ENDS:
                        found += [words] if words else []
                        words = []
                        if word in {">", "<"}:
                            break
                    else:
                        words.append(word)
    return found


COMMANDS = {
    f"{path.relative_to(ROOT)}: {shlex.join(words)}": words
    for path in DOCUMENTS
    for words in commands(path.read_text())
}


@pytest.mark.parametrize("name", [name for name, words in COMMANDS.items() if words[0] == "nftlb"])
def test_commands_of_nftlb_are_valid(name: str) -> None:
    """Nftlb has the command and each of its options, and takes that many arguments."""
    parse(COMMANDS[name][1:])


def parse(words: list[str]) -> None:
    """Parse the words behind `nftlb`. Raises an error for what nftlb does not know."""
    command = root.get_command(click.Context(root), words[0])
    assert command is not None
    values, rest, _ = command.make_parser(click.Context(command)).parse_args(words[1:])
    assert [] == rest
    missing = [
        one.name for one in command.params if one.required and not isinstance(values.get(one.name or ""), str | tuple)
    ]
    assert [] == missing


def test_wrong_commands_are_found() -> None:
    """An unknown command, an unknown option, a missing argument and too many arguments are errors."""
    for words in (["balance", "x"], ["check", "--fast", "x"]):
        with pytest.raises(click.UsageError):
            parse(words)
    for words in (["check"], ["check", "x", "y"]):
        with pytest.raises((AssertionError, click.UsageError)):
            parse(words)


def test_every_command_is_tested_or_has_a_reason() -> None:
    """Each command of the documents begins with a program that a test runs, or that a reason names."""
    assert {} == {name: words for name, words in COMMANDS.items() if words[0] not in RUN | NOT_RUN.keys()}
    assert set() == NOT_RUN.keys() - {words[0] for words in COMMANDS.values()}


def test_targets_of_make_exist() -> None:
    """Each target that a document names is in the Makefile."""
    targets = set(re.findall(r"(?m)^([a-z0-9-]+):", (ROOT / "Makefile").read_text()))
    inline = {name for path in DOCUMENTS for name in re.findall(r"`make ([a-z0-9-]+)`", path.read_text())}

    assert set() == ({words[1] for words in COMMANDS.values() if words[0] == "make"} | inline) - targets


def test_nft_accepts_its_commands() -> None:
    """The commands of nft run in the order of the document. `nft monitor` would not end."""
    lines = [words for words in COMMANDS.values() if words[0] == "nft" and words[1] != "monitor"]

    with Namespace("nft") as namespace:
        for words in lines:
            namespace.run(words)
    assert lines
