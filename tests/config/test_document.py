"""The text of a file: where it comes from, and text that is not YAML, is hostile or is random."""

from __future__ import annotations

import io
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from config_texts import SMALLEST, faults
from hypothesis import example, given, settings
from hypothesis import strategies as st
from processor_time import takes_less
from unprivileged import unprivileged

from nftlb.config import load, parse_config
from nftlb.config.document import MAX_BYTES, MAX_DEPTH, MAX_WIDTH
from nftlb.config.faults import MAX_PROBLEMS
from nftlb.errors import ConfigError
from nftlb.lab import Namespace

if TYPE_CHECKING:
    from nftlb.model import Config

GOOD = sorted((Path(__file__).parent / "good").glob("*.yaml"))


# --- input that is not text -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "---\n", "null\n", "~", "{}", "--- {}\n...\n"])
def test_an_empty_file_lacks_pools(text: str) -> None:
    """A file without content has no pools; the fault is at the place where the content should be."""
    (fault,) = faults(text)
    assert re.fullmatch(
        r"[1-9]:[1-9]: pools: no pools are configured; needed: at least one pool, with its name as the key", fault
    )


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (b"pools: \x00", "1:8: character U+0000 can't be in YAML text; allowed: printable text"),
        (b"pools:\n  \x1b[31m: 1", "2:3: character U+001B can't be in YAML text; allowed: printable text"),
        (b"\xff\xfep\x00", "1:1: byte 0xff is not UTF-8; allowed: YAML text in UTF-8"),
        ("pools:\n  größe: \udcff", "2:10: character U+DCFF can't be in YAML text; allowed: printable text"),
        ("pools:\n  größe: ".encode() + b"\xe4", "2:10: byte 0xe4 is not UTF-8; allowed: YAML text in UTF-8"),
    ],
)
def test_binary_junk_is_refused(text: str | bytes, fault: str) -> None:
    """Bytes that are not text are a fault, with its place."""
    assert [fault] == faults(text)


def test_escaped_surrogates_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """An escaped surrogate is refused with both YAML parsers."""
    text = 'pools: {"\\ud800": 1}'
    assert "not YAML" in faults(text)[0]

    monkeypatch.delattr(yaml, "CSafeLoader")
    assert ['1:9: "\\ud800" contains a surrogate; allowed: Unicode without surrogates'] == faults(text)
    assert "not YAML" in faults('pools: {"\\U7fffffff": 1}')[0]


def test_files_that_are_too_large_are_not_parsed() -> None:
    """The size of a file is checked before it is parsed."""
    text = "[" * (MAX_BYTES + 1)

    assert ["1:1: larger than 16 MiB; allowed: a smaller file"] == faults(text)
    assert takes_less(1, lambda: faults(text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 1_000_000, f"nested too deeply; allowed: at most {MAX_DEPTH} levels"),
        ("- " * 1_000_000, f"nested too deeply; allowed: at most {MAX_DEPTH} levels"),
        ("{a: " * 1_000_000, f"nested too deeply; allowed: at most {MAX_DEPTH} levels"),
        ("? " * 1_000_000, "a mapping is not a key; allowed: text"),
        ("a: [" + "1," * 1_000_000 + "]", f"too many values in one mapping or list; allowed: at most {MAX_WIDTH}"),
        ("a: 1\n" * 1_000_000, "too many faults; the rest of the file is not checked"),
    ],
    ids=["lists", "dashes", "mappings", "keys", "wide", "repeated"],
)
def test_depth_and_size_are_limited(text: str, message: str) -> None:
    """Depth, width and the expansion of aliases are limited, without recursion."""
    assert message in faults(text)[-1]
    assert takes_less(5, lambda: faults(text))


def test_faults_are_bounded() -> None:
    """The number of faults is limited, so a large file with many faults takes little time."""
    found = faults("".join(f"k{number}: 1\n" for number in range(60_000)))

    assert MAX_PROBLEMS + 1 == len(found)
    assert " too many faults; not all are shown" == found[0]


# --- where a file comes from -----------------------------------------------------------------------------------------


def unloadable(path: object) -> str:
    with pytest.raises(ConfigError) as caught:
        load(str(path))
    return str(caught.value)


def test_a_file_is_loaded(tmp_path: Path) -> None:
    """A file and its text give the same configuration."""
    file = tmp_path / "pools.yaml"
    file.write_text(SMALLEST)

    assert parse_config(SMALLEST) == load(file)


def test_a_path_that_is_not_a_file_is_refused(tmp_path: Path) -> None:
    """A path that can't be read is a fault of the whole file, and the read does not wait."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    allowed = "allowed: a readable file, or - for standard input"
    regular = f"not a regular file; {allowed}"
    directory = f"a directory; name a file in it, such as {tmp_path}/nftlb.yaml; {allowed}"

    assert f"{tmp_path}/none: no such file; {allowed}" == unloadable(tmp_path / "none")
    assert f"{fifo}/below: Not a directory; {allowed}" == unloadable(fifo / "below")
    assert f"{tmp_path}: {directory}" == unloadable(tmp_path)
    assert f"{fifo}: {regular}" == unloadable(fifo)
    assert f"/dev/zero: {regular}" == unloadable("/dev/zero")
    assert f"/proc/self/mem: Input/output error; {allowed}" == unloadable("/proc/self/mem")
    assert r"a\x00b: the name contains a NUL character; allowed: the name of a file" == unloadable("a\0b")
    assert f": the name is empty; {allowed}" == unloadable("")


def test_an_unreadable_file_is_refused(tmp_path: Path) -> None:
    """The message about an unreadable file names the missing permission."""
    file = tmp_path / "pools.yaml"
    file.write_text(SMALLEST)
    file.chmod(0)

    with Namespace("reader") as namespace:
        said = unprivileged(namespace, lambda: unloadable(file))

    assert said.startswith(
        f"{file}: this user may not read the file; run nftlb as root, or as a user who may; allowed: "
    )


def test_a_huge_file_is_read_up_to_the_limit_only(tmp_path: Path) -> None:
    """At most one byte more than the limit is read from a file that is too large."""
    file = tmp_path / "huge.yaml"
    with file.open("wb") as sparse:
        sparse.truncate(50 << 30)

    assert f"{file}:1:1: larger than 16 MiB; allowed: a smaller file" == unloadable(file)


def test_standard_input_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dash stands for standard input."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(SMALLEST.encode())))
    assert parse_config(SMALLEST) == load("-")

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a: 1\na: 2")))
    assert unloadable("-").startswith("standard input:1:1: pools: no pools are configured; needed: ")


# --- whatever comes --------------------------------------------------------------------------------------------------


TOKENS = """pools dns listen backends health defaults { } [ ] , &a *a <<: ? | > !x " ' # ~ 0 on 2s 50%
192.0.2.53:53/udp 10.0.0.1:53"""
PIECES = st.sampled_from([*TOKENS.split(), ": ", "- ", "\n", "  ", "---\n"])


def only_config_errors(text: str | bytes) -> Config | None:
    try:
        return parse_config(text, "f")
    except ConfigError as error:
        for problem in error.problems:
            assert str(problem).isprintable(), problem
        return None


@given(st.text() | st.binary() | st.lists(PIECES).map("".join))
@settings(deadline=None)  # the first file of a process takes as long as it takes to load pydantic
@example("a: !!binary x")
@example("%TAG ! tag:x,2000:\n---\n!y z")
@example("? - a\n: b")
@example("<<: {pools: {<<: {a: {}}}}")
@example("a: &a {<<: *a}")
def test_any_text_parses_or_is_a_config_error(text: str | bytes) -> None:
    """No text raises any other exception than ConfigError."""
    only_config_errors(text)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_mutated_text_parses_or_is_a_config_error(data: st.DataObject) -> None:
    """No typing error in a good file raises any other exception than ConfigError."""
    text = data.draw(st.sampled_from([file.read_text() for file in GOOD]))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = start + data.draw(st.integers(0, 12))
        text = text[:start] + data.draw(PIECES | st.text(max_size=3)) + text[end:]

    only_config_errors(text)


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["10.0.0.1", "::1", "1s", "x:1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_mutated_data_parses_or_is_a_config_error(data: st.DataObject) -> None:
    """No wrong value in a good file raises any other exception than ConfigError."""
    document = data.draw(st.sampled_from([yaml.safe_load(file.read_text()) for file in GOOD]))
    for _ in range(data.draw(st.integers(1, 3))):
        container, key = data.draw(st.sampled_from(list(_places(document))))
        container[key] = data.draw(JUNK)

    only_config_errors(yaml.safe_dump(document, allow_unicode=data.draw(st.booleans())))


def _places(data: Any) -> list[tuple[Any, Any]]:
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [place for key, inner in items for place in [(data, key), *_places(inner)]]
