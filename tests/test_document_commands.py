"""Each command in the code blocks of documents is run, or a comment before the block gives the reason why it is not.

docs/tutorial.md has a separate test, which carries out every command.
"""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import click
import pytest
from document_commands import NESTED, NFTLB, Command, calls_in_text, commands, comment_text
from document_lab import RUNS, Outcome, run_in_lab

from nftlb.cli.group import COMMANDS as VERBS
from nftlb.cli.group import root

ROOT = Path(__file__).parents[1]
TUTORIAL = ROOT / "docs/tutorial.md"
PAGES: list[Path] = runpy.run_path(str(ROOT / "tools/links.py"))["documents"]()
COMMENTED = sorted(
    path
    for folder in ("deploy", "rules")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in {".cfg", ".conf", ".service", ".yaml", ".yml"} or path.name == "Containerfile"
)
TEXTS = {str(path.relative_to(ROOT)): path.read_text() for path in PAGES} | {
    str(path.relative_to(ROOT)): comment_text(path.read_text()) for path in COMMENTED
}
COMMANDS = {name: commands(text, name) for name, text in TEXTS.items() if name != str(TUTORIAL.relative_to(ROOT))}
TO_RUN = {name: found for name, all_ in COMMANDS.items() if (found := [one for one in all_ if not one.reason])}
DIFFERS: dict[tuple[str, ...], set[int]] = {("nftlb", "diff"): {0, 1}, ("nftlb", "health"): {0, 1, 2}}
"""The exit statuses of commands that report a state. All other commands end with 0."""
TRIES = 3
LATE = "no answer within"
"""In an output: the servers of the lab stood still, because this machine is busy. Then the test is repeated."""
_QUANTITY = re.compile(r"(?<![\w.:/-])\d[\d.]*(?:%|[kMG]|(?:ms|[dhms])[\dhms]*|c)?(?![\w.:/-])")


@pytest.mark.timeout(900)
@pytest.mark.slow
@pytest.mark.parametrize("name", TO_RUN)
def test_commands_run(name: str, tmp_path: Path) -> None:
    """The commands of a document succeed, in its order, on a host with a daemon, and print what the document shows."""
    for attempt in range(TRIES):
        (folder := tmp_path / f"{attempt}").mkdir()
        wrong = run_commands(TO_RUN[name], folder)
        if not any(LATE in text for text in wrong):
            break
    assert [] == wrong


def run_commands(every: list[Command], folder: Path) -> list[str]:
    """Run the commands on a new host. Return those that fail, or print something else than the document."""
    outcomes = run_in_lab([(command.line, command.calls) for command in every], folder)
    return [
        f"{command.place}: {command.line}\nexit status {outcome.status}\n{outcome.output}"
        for command, outcome in zip(every, outcomes, strict=True)
        if not as_documented(command, outcome)
    ]


def as_documented(command: Command, outcome: Outcome) -> bool:
    """Whether a command succeeded and, if the document shows its output, printed that."""
    succeeded = outcome.status in DIFFERS.get(tuple(command.calls[0][:2]), {0}) and "Traceback" not in outcome.output
    return succeeded and (command.output is None or similar(command.output, outcome.output))


def similar(shown: str, printed: str) -> bool:
    """Compare two outputs. Numbers, durations and the width of gaps may differ; `...` stands for any text."""
    expected, found = (re.sub(r"[ \n]+", " ", _QUANTITY.sub("1", text)).strip() for text in (shown, printed))
    return re.fullmatch(".*".join(map(re.escape, expected.split("..."))), found) is not None


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("ready for 3d1h, 24.7k packets", "ready for 4s, 12 packets", True),
        ("a  12%\nb   7", "a 1.5%\nb      1200\n", True),
        ("...\nb", "a\nb", True),
        ("10.0.0.11:53", "10.0.0.12:53", False),
        ("2 up", "2 down", False),
        ("a", "a\nb", False),
        ("udp4", "udp5", False),
    ],
)
def test_outputs_are_compared(shown: str, printed: str, same: bool) -> None:
    """Numbers and times may differ; names, addresses and words may not, and no line may be missing."""
    assert same == similar(shown, printed)


def test_only_harmless_programs_run() -> None:
    """A command that no comment excludes calls only programs that can't change the machine."""
    unknown = {
        f"{command.place}: {program}"
        for found in TO_RUN.values()
        for command in found
        for program in command.programs - RUNS
    }
    assert set() == unknown, "write <!-- not run: REASON --> before the block, or teach the lab the program"


@pytest.mark.parametrize(
    ("line", "programs"),
    [
        ("nftlb status;rm -r x", {"nftlb", "rm"}),
        ("nftlb status&rm -r x", {"nftlb", "rm"}),
        ("nftlb status|tee x", {"nftlb", "tee"}),
        ("nftlb status&&rm x||ls", {"nftlb", "rm", "ls"}),
        ("(rm x)", {"rm"}),
        ("nftlb status >x;rm x", {"nftlb", "rm"}),
        ("nftlb status\nrm x", {"nftlb", "rm"}),
        ("nftlb status 2>/dev/null 3<x >>y 2>&1 | ls", {"nftlb", "ls"}),
        ("nftlb weight dns/ns1 3 > x", {"nftlb"}),
        ("nftlb status \\\n  dns", {"nftlb"}),
        ("nftlb status $(rm x)", {NESTED, "nftlb", "rm"}),
        ('nftlb status "$(rm x)"', {NESTED, "nftlb"}),
        ('nftlb status "it\'s $(rm x)"', {NESTED, "nftlb"}),
        ("nftlb status `rm x`", {NESTED, "nftlb"}),
        ("nftlb check <(rm x)", {NESTED, "nftlb", "rm"}),
        ("nftlb status ${x:=y}", {NESTED, "nftlb"}),
        ("nft 'add table x; add chain $(x) `y`' # `rm` $(ls); it's", {"nft"}),
        ('nft "a; b | c"', {"nft"}),
        ("nft \\$x a\\;b", {"nft"}),
    ],
)
def test_programs_of_a_command(line: str, programs: set[str], tmp_path: Path) -> None:
    """The shell ends words at operators without blanks, and runs commands inside of words; text in quotes is a word."""
    command = Command("x:1", line)
    assert programs == command.programs
    if programs - RUNS:
        with pytest.raises(ValueError, match="without harm"):
            run_in_lab([(line, command.calls)], tmp_path)


def test_words_of_a_command() -> None:
    """Redirections are no words of a program; words in quotes keep their operators and blanks."""
    command = Command("x:1", "nftlb weight dns/ns1 3 > x 2>&1; nft 'a; b' \"c > d\" <y 4")
    assert [["nftlb", "weight", "dns/ns1", "3"], ["nft", "a; b", "c > d", "4"]] == command.calls


def test_most_commands_of_nftlb_run() -> None:
    """At least nine in ten commands of nftlb in the documents are run."""
    ours = [one for found in COMMANDS.values() for one in found if NFTLB in one.programs]

    assert len([one for one in ours if not one.reason]) >= 0.9 * len(ours)


def test_blocks_are_told_apart() -> None:
    """Configurations and drawings are no commands; all else is, also in a fence, in a list and in a comment of YAML."""
    page = "text\n\n    pools:\n      dns: {}\n\ntext\n\n    a ──> b\n\n"
    page += "- item\n\n      nftlb check x\n\n```sh\nls -l\n```\n"
    shown = "text\n\n    $ cat <<END\n    > nftlb\n    > END\n    nftlb\n    $ ls > x\n"
    yaml = "# Text:\n#\n#     nft list ruleset\npools:\n  a: {}  # comment\n"

    assert ["nftlb check x", "ls -l"] == [one.line for one in commands(page, "x")]
    assert [("cat <<END\nnftlb\nEND", "nftlb"), ("ls > x", "")] == [
        (one.line, one.output) for one in commands(shown, "x")
    ]
    assert ["nft list ruleset"] == [one.line for one in commands(comment_text(yaml), "x")]


def test_comments_give_reasons() -> None:
    """A comment is for the next block: for all of its lines, or for the lines that call one of the named programs."""
    block = "\n    nftlb check x && apt install y\n    nftlb check x\n    rm z\n\ntext\n\n    ls\n"

    def reasons(comment: str) -> list[str]:
        return [one.reason for one in commands(f"{comment}\n{block}", "x")]

    assert ["", "", "", ""] == reasons("text\n")
    assert ["why", "why", "why", ""] == reasons("<!-- not run: why -->")
    assert ["why", "", "no", ""] == reasons("<!-- not run (apt): why -->\n<!-- not run (rm): no -->")
    assert ["why", "", "why", ""] == reasons("<!-- not run (apt, rm): why -->")
    assert [""] == reasons("<!-- no commands: a table -->")
    assert ["", "", "", ""] == reasons("<!-- written by a program -->\n\ntext\n")


@pytest.mark.parametrize(
    ("page", "error"),
    [
        ("<!-- not run -->\n\n    ls\n", "x:3: <!-- not run -->: write <!-- not run: REASON -->"),
        ("<!-- not run: -->\n\n    ls\n", "write <!-- not run: REASON -->"),
        ("<!-- skipped: why -->\n\n    ls\n", "write <!-- not run: REASON -->"),
        ("<!-- not run: why -->\n\ntext\n\n    ls\n", "x:3: no code block follows"),
        ("text\n\n<!-- not run: why -->\n", "no code block follows"),
        ("<!-- not run (apt): why -->\n\n    ls\n", "x:3: the block does not call apt"),
        ("text\n\n    the host's\n", "x:3: the host's: No closing quotation"),
    ],
)
def test_unknown_comments_are_errors(page: str, error: str) -> None:
    """A comment without a reason, of another kind, without a block or for a program that is not there is an error."""
    with pytest.raises(ValueError, match=re.escape(error)):
        assert [one.programs for one in commands(page, "x")]


@pytest.mark.parametrize(
    "command",
    [one for found in COMMANDS.values() for one in found if NFTLB in one.programs],
    ids=lambda one: f"{one.place} {one.line}",
)
def test_commands_of_nftlb_are_valid(command: Command) -> None:
    """Nftlb has the command and each of its options, and takes that many arguments."""
    for words in command.calls:
        if words[0] == NFTLB:
            parse(words[1:])


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


@pytest.mark.parametrize("name", [name for name in TEXTS if name.endswith(".md")])
def test_commands_in_running_text_are_valid(name: str) -> None:
    """A command of nftlb that a sentence or a table names exists, and has each option."""
    for words in calls_in_text(TEXTS[name]):
        verb = next((word for word in words[1:] if not word.startswith("-")), "")
        if verb and not verb.isupper():
            assert verb in VERBS, words
            command = root.get_command(click.Context(root), verb)
            assert command is not None
            known = {"--help", *(option for one in command.params for option in (*one.opts, *one.secondary_opts))}
            assert set() == {word for word in words if word.startswith("-") and word != "-"} - known, words


def test_targets_of_make_exist() -> None:
    """Each target that a document names is in the Makefile."""
    targets = set(re.findall(r"(?m)^([a-z0-9-]+):", (ROOT / "Makefile").read_text()))
    calls = [words for found in COMMANDS.values() for one in found for words in one.calls if words[0] == "make"]
    inline = {name for text in TEXTS.values() for name in re.findall(r"`make ([a-z0-9-]+)`", text)}

    assert set() == ({name for words in calls for name in words[1:]} | inline) - targets
