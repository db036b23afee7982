"""keepalived's grammar, keyword by keyword, and the import beside keepalived's own verdict."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from keepalived_files import addresses
from keepalived_grammar import (
    INSIDE_A_BLOCK_THAT_IS_LEFT_OUT,
    LEVELS,
    TABLE,
    Row,
    keywords_of,
    manual,
    place,
    verdict,
    words_in_program,
)
from servers.programs import data

from nftlb.config import parse_config
from nftlb.errors import ConfigError
from nftlb.importer import Imported, from_keepalived

COMPLAINED = {"keepalived.conf.vrrp.lvs_syncd": {4, 5, 11}}
"""The lines of samples that keepalived complains about: older forms of VRRP."""
judged = pytest.mark.judged_by_keepalived
SAMPLES = sorted(Path(data("usr/share/doc/keepalived/samples")).glob("keepalived.conf*"))


# --- the grammar ------------------------------------------------------------------------------------------------------


@judged
@pytest.mark.parametrize("level", LEVELS)
def test_the_table_has_every_keyword(level: str, tmp_path: Path) -> None:
    """The table has all keywords that keepalived knows at a level, and others only if they are marked as unknown."""
    rows = {row.key for row in TABLE if row.level == level}
    words = sorted(words_in_program() | rows)
    known = keywords_of(level, words, tmp_path)
    assert len(words) > 1000
    assert known
    if level not in INSIDE_A_BLOCK_THAT_IS_LEFT_OUT:
        assert set() == known - rows
    unknown = {row.key for row in TABLE if row.level == level and row.heeded} - known - {"include"}
    assert set() == unknown


def written(row: Row) -> tuple[str, int]:
    """A whole file with the row, and the line of the row."""
    around = place(row.level, row.line)
    return "\n".join((*around.before, row.line, *around.after)) + "\n", len(around.before) + 1


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row.level}: {row.line}")
def test_result_of_a_keyword(row: Row) -> None:
    """A keyword changes the pool, or a remark names it with its line, or it has no effect at all."""
    text, line = written(row)
    around = place(row.level, row.line)
    without = "\n".join((*around.before, *around.after)) + "\n"
    found = from_keepalived(text, "k")
    said = [remark.message for remark in found.remarks if remark.line == line]
    assert parse_config(found.text).pools
    assert row.yaml in found.text
    if row.yaml:
        assert row.yaml not in from_keepalived(without, "k").text
    if row.remark:
        assert [] != [remark for remark in said if remark.startswith(row.remark)], said
    else:
        assert [] == said
    if not row.yaml and not row.remark:
        assert parse_config(from_keepalived(without, "k").text) == parse_config(found.text)


@judged
def test_keepalived_complains_about_the_marked_rows(tmp_path: Path) -> None:
    """Keepalived reads all rows in one file, each in a separate service, and complains about no other rows."""
    lines: list[str] = []
    rows: dict[int, Row] = {}
    for number, row in enumerate(TABLE):
        around = place(row.level, row.line, number)
        lines += [*around.before, row.line]
        rows[len(lines)] = row
        lines += around.after
    path = tmp_path / "table.conf"
    path.write_text("\n".join(lines) + "\n")
    result = verdict(path)
    assert result.status > 0
    complained = {f"{row.level}: {row.line}" for line, row in rows.items() if line in result.complaints}
    assert {f"{row.level}: {row.line}" for row in TABLE if not row.heeded} == complained


# --- the import beside keepalived -------------------------------------------------------------------------------------


def ours(text: str, name: str = "k") -> Imported | ConfigError:
    try:
        return from_keepalived(text, name)
    except ConfigError as error:
        return error


def to_balance(text: str) -> bool:
    """Whether a file has a service with an address."""
    return re.search(r"^\s*virtual_server (?!fwmark)", text, re.MULTILINE) is not None


@judged
@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_samples(path: Path) -> None:
    """A sample is imported, with every real server in the output or in a remark."""
    text = path.read_text()
    theirs, found = verdict(path), ours(text, path.name)
    if not to_balance(text):
        assert isinstance(found, ConfigError)
        assert "no virtual_server can be taken over" in str(found)
        return
    assert theirs.status >= 0
    assert COMPLAINED.get(path.name, set()) == {line for line in theirs.complaints if line}
    assert not isinstance(found, ConfigError)
    assert parse_config(found.text).pools
    assert_no_server_is_lost(text, found)


def test_there_are_samples() -> None:
    assert 20 < len(SAMPLES)
    assert 10 < sum(to_balance(path.read_text()) for path in SAMPLES)


def assert_no_server_is_lost(text: str, found: Imported) -> None:
    """Assert that each real server is in the output with its line, or in a remark."""
    named = {remark.line for remark in found.remarks}
    for number, line in enumerate(text.splitlines(), 1):
        if line.split()[:1] == ["real_server"]:
            assert f"# line {number}\n" in found.text or number in named, line


EXAMPLES = {
    "nested definitions": """\
$RS= \\
real_server 192.168.${VS_NUM}.${RS_NUM} 80 { \\
    weight 1 \\
    inhibit_on_failure \\
    MISC_CHECK { \\
        misc_path "/bin/true RS_misc.${VS_NUM}.${RS_NUM}.0 10.0.${VS_NUM}.4:80->192.168.${VS_NUM}.${RS_NUM}:80" \\
    } \\
}
$VS= \\
virtual_server 10.0.${VS_NUM}.4 80 { \\
    protocol TCP \\
    quorum 2 \\
    $RS_NUM=1 \\
    $RS \\
    $RS_NUM=2 \\
    $RS \\
    $RS_NUM=3 \\
    $RS \\
}
$VS_NUM=0
$VS
$VS_NUM=1
$VS
""",
    "late definitions": """\
$BASE=10.2.${SUB}
$SUB=0
virtual_server ${BASE}.100 80 {
    real_server ${BASE}.1 80 {
    }
}
$SUB=10
virtual_server ${BASE}.100 80 {
    real_server ${BASE}.1 80 {
    }
}
""",
    "lists": """\
virtual_server_group g {
    ~LST({IP,   IP1},  {10,1},{20,4},{5,6},{12,8})  ~SEQ(IP2,168,2,172) 192.${IP2}.${IP}.${IP1} 80
    ~LST(A, 1, 2, 3, 4) ~LST(B, 5,6,7) 192.169.${A}.${B} 80
    ~SEQx(D, 144, 16, 192) 10.0.0.7${D} 81
}
virtual_server group g {
    real_server 10.9.0.1 80 {
    }
}
""",
    "braces on separate lines": """\
virtual_server 192.0.2.1 80
{
    real_server 10.0.0.1 80

    {
        weight 1}
    real_server 10.0.0.2 80 { TCP_CHECK {} }
}
""",
    "apostrophes": """\
global_defs {
    router_id it's
    notification_email_from o'brien@example.com
}
virtual_server 192.0.2.1 80 {
    real_server 10.0.0.1 80 {
        HTTP_GET {
            url {
                path "/it's"
                regex 'it s'
            }
        }
    }
}
""",
}


@judged
def test_nested_definitions(tmp_path: Path) -> None:
    """The example of the man page: definitions within definitions are expanded when they are used."""
    found = from_keepalived(EXAMPLES["nested definitions"])
    three = {f"10.0.{vs}.4": [f"192.168.{vs}.{rs}" for rs in (1, 2, 3)] for vs in (0, 1)}
    assert three == addresses(found)
    assert "RS_misc.0.1.0" in found.text
    late = from_keepalived(EXAMPLES["late definitions"])
    assert {"10.2.0.100": ["10.2.0.1"], "10.2.10.100": ["10.2.10.1"]} == addresses(late)
    path = tmp_path / "k.conf"
    path.write_text(EXAMPLES["nested definitions"])
    assert set() == {line for line in verdict(path).complaints if line}


@judged
def test_lists_and_sequences(tmp_path: Path) -> None:
    """The examples of the man page expand to the lines that it names."""
    path = tmp_path / "k.conf"
    text = EXAMPLES["lists"].replace("    ~SEQx(D, 144, 16, 192) 10.0.0.7${D} 81\n", "")
    path.write_text(text)
    assert set() == {line for line in verdict(path).complaints if line}
    (pool,) = parse_config(from_keepalived(text).text).pools
    pairs = [(10, 1), (20, 4), (5, 6), (12, 8)]
    expected = [f"192.{last}.{a}.{b}" for a, b in pairs for last in (168, 170, 172)]
    expected += [f"192.169.{a}.{b}" for a in (1, 2, 3, 4) for b in (5, 6, 7)]
    assert expected == [str(listener.address) for listener in pool.listen]


@judged
@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("~SEQ(X, 3)", ["1", "2", "3"]),
        ("~SEQ(X,3,1)", ["3", "2", "1"]),
        ("~SEQ(X, 1, 2, 5)", ["1", "3", "5"]),
        ("~SEQx(X, 8, 4, 16)", ["8", "c", "10"]),
        ("~SEQ(X,0x10,0x11)", ["16", "17"]),
        ("~LST(X,a,b)", ["a", "b"]),
    ],
)
def test_sequences_expand_as_in_keepalived(written: str, expected: list[str], tmp_path: Path) -> None:
    """Keepalived's complaints about unknown schedulers show how it expands sequences; the import expands the same."""
    text = f"virtual_server 192.0.2.1 53 {{\n{written} lvs_sched s${{X}}\nreal_server 10.0.0.1 53 {{\n}}\n}}\n"
    path = tmp_path / "k.conf"
    path.write_text(text)
    theirs = [re.sub(r".*'s(.*)'.*", r"\1", complaint) for complaint in verdict(path).complaints[2]]
    said = [remark.message for remark in from_keepalived(text).remarks if "is not a scheduler" in remark.message]
    assert expected == theirs
    assert sorted(f"s{name}" for name in expected) == sorted(message.split()[4].rstrip(":") for message in said)


@judged
@pytest.mark.parametrize("written", ["~SEQ(X)", "~SEQ(X,5,2,1)", "~SEQ(X,1,0,3)", "~LST(X)", "~LST(X,a b)"])
def test_invalid_sequences(written: str, tmp_path: Path) -> None:
    """Keepalived ignores the line with a complaint; the import makes a remark."""
    text = f"virtual_server 192.0.2.1 53 {{\n{written} ops\nreal_server 10.0.0.1 53 {{\n}}\n}}\n"
    path = tmp_path / "k.conf"
    path.write_text(text)
    assert 2 in verdict(path).complaints
    assert [f"not taken over: {written}: wrong form; keepalived ignores the line"] == [
        remark.message for remark in from_keepalived(text).remarks if remark.line == 2
    ]


@judged
@pytest.mark.parametrize("name", ["braces on separate lines", "apostrophes"])
def test_forms_that_keepalived_accepts_are_imported(name: str, tmp_path: Path) -> None:
    """Keepalived does not complain, and all servers are imported."""
    path = tmp_path / "k.conf"
    path.write_text(EXAMPLES[name])
    assert set() == {line for line in verdict(path).complaints if line}
    found = from_keepalived(EXAMPLES[name])
    assert EXAMPLES[name].count("real_server") == sum(map(len, addresses(found).values()))


@judged
def test_the_man_page_s_grammar_is_the_table_s() -> None:
    """Every keyword in the man page for a service, server or check has a row."""
    page = manual()
    start = page.index("The syntax for virtual_server is")
    listed = re.findall(
        r"^\s*([a-z][a-z_-]+)(?: [<{A-Z\[].*)?$", page[start : page.index("SSL {", start)], re.MULTILINE
    )
    rows = {row.key for row in TABLE} | {"virtual_server", "dynamic", "track_file"}
    assert 60 < len(set(listed))
    assert set() == {word for word in listed if "_" in word or word in {"alpha", "omega", "retry", "warmup"}} - rows
