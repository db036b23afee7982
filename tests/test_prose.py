"""tools/prose.py: where it finds unclear phrases, and where it must not."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from processor_time import takes_less

ROOT = Path(__file__).parents[1]
PROSE = runpy.run_path(str(ROOT / "tools" / "prose.py"))


def found(text: str, name: str = "module.py") -> list[tuple[int, str]]:
    """The line and the words of each finding."""
    return [(line, words) for line, words, _ in PROSE["findings"](name, text)]


@pytest.mark.parametrize(
    "text",
    [
        '"""Tell the mend."""\n',
        "# Tell the mend.\n",
        'print("tell the mend")\n',
        'print(f"{what}: tell the mend")\n',
        "# Tell the\n# mend.\n",
        '"""Tell the\n\n    mend.\n    """\n',
    ],
)
def test_prose_of_python(text: str) -> None:
    """Comments, docstrings and messages are prose; a phrase may continue on the next line."""
    assert [(1, "the # mend" if "# mend" in text else "the mend")] == found(text)


@pytest.mark.parametrize(
    "text", ["mend = hears(anew)\n", 'print(f"use {one.mend}")\n', '"""Amend it; a recommendation."""\n']
)
def test_code_is_not_checked(text: str) -> None:
    """Names in code, attributes in f-strings and parts of words are not refused."""
    assert [] == found(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rules that somebody changed\n", ["somebody"]),
        ("the call waits for ever\n", ["for ever"]),
        ("that is no fault of the host\n", ["is no fault"]),
        ("in a thread of its own\n", ["thread of its own"]),
        ("a chain of its own, and a rule of its own chain\n", ["of its own"]),
        ("if nobody needs the table, backends go silent\n", ["nobody needs", "go silent"]),
        ("one turn of the wheel; the wheel is installed by pip\n", ["turn of the wheel"]),
        ("a commit on the heels of a dearer commit\n", ["dearer", "on the heels"]),
        ("a client of its own service; there is no file and no fault\n", []),
    ],
)
def test_phrases(text: str, words: list[str]) -> None:
    """A phrase is found where it has a plain equivalent, and not where its words have their usual meaning."""
    assert words == [found_words for _, found_words in found(text, "page.md")]


def test_documents() -> None:
    """All of a document is prose. Each place is found once, even if two phrases match there."""
    assert [(2, "the mend"), (3, "Whoever")] == found("fine\nthe mend\nWhoever reads\n", "page.md")


def test_beginnings_of_docstrings() -> None:
    """At the beginning of a docstring, `Be` and `Have` hide what the function does, and `It` has no meaning."""
    assert [(1, '"""Be the')] == found('"""Be the tokens of an API."""\n')
    assert [(1, '"""It reads')] == found('"""It reads tokens."""\n')
    assert [] == found('"""Tokens that must be the same. It fails otherwise."""\n')


def test_allowed_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line may stay if the tool's list names its file and a part of the line."""
    monkeypatch.setitem(PROSE["ALLOWED"], ("page.md", "quoted"), "the title of a book")
    assert [(2, "the mend")] == found("quoted: the mend\nthe mend\n", "page.md")


def test_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line for each finding, and exit status 1; hidden folders are skipped."""
    (tmp_path / "page.md").write_text("x\nWrite it anew.\n")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "page.md").write_text("anew\n")
    assert 1 == PROSE["main"]([str(tmp_path)])
    assert f"{tmp_path}/page.md:2: anew: write again\n" == capsys.readouterr().out


def test_the_product(capsys: pytest.CaptureFixture[str]) -> None:
    """The files that are checked by default exist, have no finding, and take less than 4 seconds of processor time."""
    assert [] == [path for path in PROSE["PATHS"] if not (ROOT / path).exists()]
    assert (0, "") == (PROSE["main"]([]), capsys.readouterr().out)
    assert takes_less(4, lambda: PROSE["main"]([]))
