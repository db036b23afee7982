"""Refuse words and phrases that a reader has to guess at, in comments, docstrings, messages and documents.

Prints FILE:LINE: PHRASE: what to write instead. The exit status is 1 if something was found. `make lint` runs it on
PATHS; arguments are other files and folders.
"""

from __future__ import annotations

import io
import re
import sys
import tokenize
from bisect import bisect_right
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
PATHS = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "docs",
    "rules",
    "bench",
    "nftlb",
    "tests",
    "deploy",
    "tools",
    ".ci",
    "Makefile",
    "pyproject.toml",
)
"""The files and folders that are checked."""
SUFFIXES = {"", ".8", ".cfg", ".conf", ".ini", ".md", ".py", ".service", ".sh", ".toml", ".yaml", ".yml"}

INSTEAD = {
    # Verbs of people, for parts of the program.
    r"(?:hears?|heard) of": "receives, is notified of",
    r"hears?": "receives, records",
    r"told otherwise": "unless the configuration says otherwise",
    r"told": "receives, is notified; of a message: is printed, is logged",
    r"(?:is|are|was|were) heard": "arrives, is received",
    r"befall(?:s|en)?": "happens to, affects",
    r"believe[sd]?": "records, assumes; the state",
    r"ears": "monitors",
    r"witness(?:es)?": "monitor",
    # Own words for terms of the field.
    r"(?:the|a) mend": "fix",
    r"mend(?:s|ed|ing)?": "fix, fixed",
    r"(?:answers?|replies) under way": "in-flight replies",
    r"under way": "in flight, in progress",
    r"take[sn]? away": "delete, remove",
    r"anew": "again",
    # Old or literary words.
    r"hence": "therefore, from here",
    r"thereof": "of the ...",
    r"lest": "so that ... not",
    r"ought": "must, should",
    r"but for": "except, without",
    r"all the while": "meanwhile",
    r"all the same": "nevertheless",
    r"to the letter": "exactly",
    r"(?:let|lets|letting) go of": "close, release",
    r"(?:would|will) not do": "is not enough, does not work",
    r"has it that": "demands, says",
    r"for ever": "endlessly, without a limit; of a call: never returns",
    r"as ever": "as usual",
    r"dearer": "costs more",
    r"on the heels": "right after",
    r"in vain": "without success",
    r"what it was told": "a noun: the file, the setting, the request",
    r"how things are": "the state, the status",
    # People who are programs, users, or not there at all.
    r"(?:some|any|every)body": "another program, a user, all clients",
    r"nobody (?:did|else|needs|sends|served|uses)": "no program, user or client",
    r"empty-handed": "without elements, without a result",
    r"fall(?:s|ing)? silent": "stops answering",
    r"go(?:es|ing)? silent": "stops answering",
    r"to do harm": "with harmful data",
    r"of theirs": "a noun",
    r"unheard": "unnoticed, without a result",
    # Riddles.
    r"of it that": "a noun",
    r"as that one": "a noun",
    r"whoever": "the process, user or client that ...",
    r"no more than said": "a sentence with a noun",
    r"bec[ao]mes? of": "the result of, what the rules do with",
    r"turns? of the wheel": "cycle",
    r"who gets what": "which backend gets which packets",
    r"(?:what|which|that|it|he) is (?-i:none)": "is not a ...",
    r"(?:is|are) no (?:errors?|faults?|hints?|loss|name|nftlb|proof|refusals?|terminal|wildcards?)": "is not a ...",
    r"(?:context|directory|environment|namespace|process|subnet|thread) of (?:its|their) own": "a separate ...",
    r"of (?:its|their) own(?!\s+[`\w])": "separate",
    r"such a one": "a noun",
    r"and so on": "the whole list, or a word for its items",
    r'"""(?:Be|Have) \w+': "what the function does, with another verb",
    r'"""It \w+': "a sentence with a noun: a docstring has nothing before it",
}
"""Phrases as regular expressions, in any case, between limits of words; and what to write in place of each."""

ALLOWED = {
    ("CHANGELOG.md", "the key `mend` is now `fix`"): "it names the former key",
    ("nftlb/compiler/in_flight.py", "keeps answers under way translated"): "a comment of a rule does not change",
    ("tools/prose.py", ""): "it has the list itself",
    ("tests/test_prose.py", ""): "its samples are what the tool must find",
}
"""Lines that may stay: the file and a part of the line, with the reason."""


# After a full stop there is an attribute in an f-string, and no word.
_BEGIN = r"(?<![\w.])"


def pattern_of(phrase: str) -> str:
    """The regular expression of a phrase from its beginning on, which may continue in the next line or comment."""
    return phrase.replace(" ", r"\s+(?:#\s*)?") + r"\b"


_PATTERNS = [(re.compile(_BEGIN + pattern_of(phrase), re.IGNORECASE), phrase) for phrase in INSTEAD]
# The limit of a word comes first, and once: most places in a text are within a word, and need no further comparison.
_ANY = re.compile(_BEGIN + "(?:" + "|".join(map(pattern_of, INSTEAD)) + ")", re.IGNORECASE)


def findings(name: str, text: str) -> Iterator[tuple[int, str, str]]:
    """The line, the words and the advice for each phrase that `text`, the content of the file `name`, has in prose."""
    if not _ANY.search(text):
        return
    starts = [0, *accumulate(map(len, text.splitlines(keepends=True)))]
    spans = _prose_of_python(text, starts) if name.endswith(".py") else [(0, len(text))]
    taken: set[int] = set()
    for pattern, phrase in _PATTERNS:
        for match in pattern.finditer(text):
            if match.start() in taken or not any(begin <= match.start() < end for begin, end in spans):
                continue
            number = bisect_right(starts, match.start())
            line = text[starts[number - 1] : starts[number]]
            if not any(name == file and part in line for file, part in ALLOWED):
                taken.update(range(match.start(), match.end()))
                yield number, " ".join(match[0].split()), INSTEAD[phrase]


# From Python 3.12 on, the text of an f-string has its own tokens.
_PROSE_TOKENS = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}


def _prose_of_python(text: str, starts: list[int]) -> list[tuple[int, int]]:
    """Where comments and strings begin and end."""
    return [
        (starts[token.start[0] - 1] + token.start[1], starts[token.end[0] - 1] + token.end[1])
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type in _PROSE_TOKENS
    ]


def files(paths: list[str]) -> Iterator[Path]:
    """All files with prose in these files and folders, in the order of their names."""
    for path in map(Path, paths):
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        yield from (path for path in inside if path.is_file() and path.suffix in SUFFIXES and not _generated(path))


def _generated(path: Path) -> bool:
    return any(part == "__pycache__" or (part.startswith(".") and part != ".ci") for part in path.parts[1:])


def main(arguments: list[str]) -> int:
    """Check these files and folders, or PATHS, and return the exit status."""
    failed = False
    for file in files(arguments or [str(ROOT / path) for path in PATHS]):
        name = str(file.resolve().relative_to(ROOT)) if file.resolve().is_relative_to(ROOT) else str(file)
        for number, words, advice in sorted(findings(name, file.read_text(encoding="utf-8"))):
            print(f"{name}:{number}: {words}: write {advice}")
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
