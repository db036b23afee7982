"""The commands in the code blocks of documents, the output that the documents show, and what the tests do not run.

A code block has commands, one on each line, unless it is

- a configuration: YAML with keys;
- a drawing: it has an arrow or characters for lines;
- other text, with the comment `<!-- no commands: REASON -->` directly before the block.

If the first line of a block of commands begins with `$ `, then each line with `$ ` is a command, lines with `> `
continue the command, and all other lines are its output.

Two comments before a block of commands say what is not run: `<!-- not run: REASON -->` is for the whole block, and
`<!-- not run (PROGRAM, ...): REASON -->` for the lines that call one of the programs.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

NFTLB = "nftlb"
_MARK = re.compile(r"<!-- (?P<kind>not run|no commands)(?: \((?P<programs>[\w$/., -]+)\))?: (?P<reason>\S.*) -->")
_DRAWING = re.compile(r"[─│┌└├┬┼╰]|──>")
_KEY = re.compile(r"[\w./-]+")
_ALL = "every program"
_QUOTED = r"""'[^']*'|"(?:\\.|[^"\\])*"|\\."""
_COMMENT = re.compile(rf"({_QUOTED})|(?<!\S)#[^\n]*", re.DOTALL)
_NUMBER_OF_STREAM = re.compile(rf"({_QUOTED})|(?<!\S)[0-9](?=[<>])", re.DOTALL)
_LINE_END = re.compile(rf"({_QUOTED})|\n", re.DOTALL)
_LITERAL = re.compile(r"""("(?:\\.|[^"\\])*")|'[^']*'|\\.""", re.DOTALL)
_INSIDE = re.compile(r"\$[({]|`|[<>]\(")
_PUNCTUATION = frozenset("();<>|&")
NESTED = "$(...)"
"""Stands for the programs whose output is a part of a command: the document does not show the words of the command."""


@dataclass(frozen=True)
class Command:
    """A command of a document, in one or more lines. `output` is None if the document does not show the output."""

    place: str
    line: str
    output: str | None = None
    reason: str = ""
    """Why no test runs the command; empty if a test has to."""

    @property
    def calls(self) -> list[list[str]]:
        """The words of each program that the command calls, without redirections."""
        line = _without(_COMMENT, self.line.replace("\\\n", " "))
        found: list[list[str]] = [[NESTED]] if _INSIDE.search(_without(_LITERAL, line)) else []
        words: list[str] = []
        skipped = False
        # The shell ends a word at `;`, `|`, `&`, `<`, `>` and brackets, with or without a blank.
        split = shlex.shlex(
            _without(_LINE_END, _without(_NUMBER_OF_STREAM, line), ";"), posix=True, punctuation_chars=True
        )
        split.commenters, split.whitespace_split = "", True
        try:
            parts = [*split, ";"]
        except ValueError as error:
            raise ValueError(f"{self.place}: {self.line}: {error}") from error
        for word in parts:
            if not word or not _PUNCTUATION.issuperset(word):
                words += [] if skipped else [word]
                skipped = False
            elif {"<", ">"} & set(word) and "(" not in word:
                skipped = True
            else:
                found += [words] if words else []
                words, skipped = [], False
        return found

    @property
    def programs(self) -> set[str]:
        return {words[0] for words in self.calls}


def _without(pattern: re.Pattern[str], line: str, instead: str = "") -> str:
    """Replace all that the pattern finds, but keep its first group."""
    return pattern.sub(lambda found: found[1] or instead, line)


@dataclass
class Step:
    """A command after `$ `, in one or more lines, and the lines of output below it."""

    command: str
    output: list[str] = field(default_factory=list)


def steps(block: str) -> list[Step]:
    """The commands of a block whose lines with `$ ` are commands, with their output."""
    found: list[Step] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            found.append(Step(line[2:]))
        elif line.startswith(">") and found and not found[-1].output:
            found[-1].command += f"\n{line[2:]}"
        else:
            found[-1].output.append(line)
    return found


def code_blocks(text: str) -> list[str]:
    """All code blocks of a document."""
    return [token.content for token in _tokens(text) if token.type in {"code_block", "fence"}]


def commands(text: str, name: str) -> list[Command]:
    """The commands of a document. ValueError, with the place, for a comment that is not understood or has no use."""
    found: list[Command] = []
    comments: list[str] = []
    for token in [*_tokens(text), Token("end", "", 0)]:
        place = f"{name}:{(token.map or [0])[0] + 1}"
        if token.type == "html_block" and token.content.startswith("<!--"):
            comments += token.content.splitlines()
        elif token.type in {"code_block", "fence"}:
            found += _of_block(token.content, list(_marks(comments, place)), place)
            comments = []
        else:
            if useless := [line for line in comments if _MARK.fullmatch(line)]:
                raise ValueError(f"{place}: no code block follows the comment {useless[0]}")
            comments = []
    return found


def calls_in_text(text: str) -> Iterator[list[str]]:
    """The words of each `nftlb ...` that a document has in its running text."""
    for token in _tokens(text):
        for part in token.children or ():
            if part.type == "code_inline" and part.content.startswith(f"{NFTLB} "):
                yield part.content.split()


def comment_text(text: str) -> str:
    """The comments of a configuration file, as Markdown. Other lines end a paragraph."""
    lines = (re.fullmatch(r"\s*# ?(.*)", line) for line in text.splitlines())
    return "".join(f"{line[1] if line else ''}\n" for line in lines)


def _tokens(text: str) -> Iterable[Token]:
    return MarkdownIt().enable("table").parse(text)


def _marks(comments: list[str], place: str) -> Iterator[re.Match[str]]:
    for line in comments:
        mark = _MARK.fullmatch(line)
        if not mark:
            raise ValueError(f"{place}: {line}: write <!-- not run: REASON --> or <!-- no commands: REASON -->")
        yield mark


def _of_block(block: str, marks: list[re.Match[str]], place: str) -> list[Command]:
    """The commands of one block, with the reasons that its marks give."""
    kinds = {mark["kind"] for mark in marks}
    if kinds == {"no commands"} or (not kinds and (_DRAWING.search(block) or is_configuration(block))):
        return []
    if block.startswith("$ "):
        found = [Command(place, step.command, "\n".join(step.output)) for step in steps(block)]
    else:
        found = [Command(place, line) for line in block.splitlines() if line.strip()]
    reasons = {program: mark["reason"] for mark in marks for program in (mark["programs"] or _ALL).split(", ")}
    if unused := reasons.keys() - {_ALL}.union(*(command.programs for command in found)):
        raise ValueError(f"{place}: the block does not call {', '.join(sorted(unused))}")
    return [
        replace(command, reason=next((reasons[one] for one in (_ALL, *sorted(command.programs)) if one in reasons), ""))
        for command in found
    ]


def is_configuration(block: str) -> bool:
    """Return whether a block is YAML with keys, or has nothing but comments."""
    try:
        read = yaml.safe_load(block)
    except yaml.YAMLError:
        return False
    first = read[0] if isinstance(read, list) and read else read
    return read is None or (isinstance(first, dict) and all(_KEY.fullmatch(str(key)) for key in first))
