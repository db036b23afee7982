"""Imports from ldirectord: the result of each directive, and no directive is lost in silence.

The table (ldirectord_table.py) has the result of each directive at each level that allows it. ldirectord itself reads
every file of the table, too.
"""

from __future__ import annotations

import itertools
import re
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ldirectord_table import TABLE, TOP_TABLE, VIRTUAL_TABLE, checked, inner, top, udp
from servers import ldirectord
from servers.programs import data

from nftlb.config import parse_config
from nftlb.errors import ConfigError
from nftlb.importer import from_ldirectord
from nftlb.importer.draft import FOLLOWED
from nftlb.importer.ldirectord_directives import CHECKTYPES, SERVICES, TOP, VIRTUAL
from nftlb.model import Admin, Family

# The rows that only one of ldirectord and the import accepts.
STRICTER: set[str] = set()


def problems(text: str) -> list[str]:
    """The errors and remarks of an import, each with its line."""
    try:
        return [f"{remark.line}: {remark.message}" for remark in from_ldirectord(text, "cf").remarks]
    except ConfigError as error:
        return [f"error {problem.line}: {problem.message}" for problem in error.problems]


REMARK = re.compile(r"(?:error )?[0-9]+: ")


@pytest.mark.parametrize("name", TABLE)
def test_table(name: str) -> None:
    """The result is as the row says, without other remarks, and it is valid."""
    text, expected = TABLE[name]
    said = [line for line in expected if REMARK.match(line)]
    written = [line for line in expected if line not in said]
    found = problems(text)
    assert len(said) == len(found), found
    for remark in said:
        assert any(line.startswith(remark) for line in found), (remark, found)
    if not any(line.startswith("error ") for line in found):
        became = from_ldirectord(text, "cf").text
        assert parse_config(became).pools
        for wanted in written:
            assert wanted in became, became
        if not written:
            assert parse_config(became) == parse_config(from_ldirectord(without(text), "cf").text)


def without(text: str) -> str:
    """The usual file without the directive of its row; other files are returned unchanged."""
    for base in (top("#"), inner("#")):
        if set(base.split("\n")) - {"#", "    #"} <= set(text.split("\n")):
            return base
    return text


def test_every_word_of_ldirectord_is_in_the_table() -> None:
    """The table has every word that ldirectord's source compares with, at the same level. A new word fails here."""
    reader = ldirectord.source().partition("\nsub read_config\n")[2].partition("\nsub _ld_read_config_virtual")[0]
    words: dict[str, set[str]] = {"linedata": set(), "rcmd": set()}
    for level, word, also_six in re.findall(r"\$(linedata|rcmd)\s*=~\s*/\^\(?(\w+?)(\(6\)\?)?(?=[^\w(])", reader):
        words[level] |= {word, f"{word}6"} if also_six else {word}
    assert {"virtual6", "autoreload", "timeout"} < words["linedata"]
    assert {"real6", "ops", "fallback6"} < words["rcmd"]
    gone = {"connecttimeout", "timeout"}
    assert words["linedata"] - gone == set(TOP)
    assert words["rcmd"] - gone == set(VIRTUAL)
    for level, table in (("linedata", TOP_TABLE), ("rcmd", VIRTUAL_TABLE)):
        assert set() == words[level] - {name.split()[0] for name in table}


def test_every_check_of_ldirectord_is_in_the_table() -> None:
    """The table has every service and checktype that ldirectord's source compares with."""
    reader = ldirectord.source().partition("\nsub read_config\n")[2].partition("\nsub _ld_read_config_virtual")[0]
    compared = set(re.findall(r'\$1 eq "([\w-]+)"', reader)) - {"yes", "no", "tcp", "udp", "fwm"}
    assert {"simpletcp", "external-perl"} < compared
    rows = {name.split()[2].strip(",") for name in VIRTUAL_TABLE if name.startswith(("service = ", "checktype = "))}
    assert set() == compared - rows
    assert CHECKTYPES | SERVICES == compared


def test_ldirectord_judges_the_table(tmp_path: Path) -> None:
    """Ldirectord refuses the rows that are errors, and accepts the others, except for STRICTER."""
    judged = ldirectord.verdicts({name: text for name, (text, _) in TABLE.items()}, tmp_path)
    ours = {name: any(line.startswith("error") for line in expected) for name, (_, expected) in TABLE.items()}
    differing = {name for name in TABLE if bool(judged[name]) != ours[name]}
    assert STRICTER == differing, {name: judged[name] for name in differing ^ STRICTER}


# --- ldirectord's own examples ----------------------------------------------------------------------------------------


def examples() -> dict[str, str]:
    """The virtuals of ldirectord's sample, each as a file, with those that are commented out."""
    sample = Path(data("usr/share/doc/ldirectord/examples/ldirectord.cf")).read_text()
    found = {}
    lines = iter(re.sub(r"(?m)^#+(?=virtual|\t)", "", sample).split("\n"))
    for number, line in enumerate(lines, 1):
        if line.startswith("virtual"):
            block = itertools.takewhile(lambda line: line.startswith(("\t", "#")), lines)
            found[f"{number} {line}"] = "\n".join([line, *block, ""])
    return found


def test_ldirectord_judges_its_examples(tmp_path: Path) -> None:
    """The import accepts the examples that ldirectord accepts, except those named here."""
    cases = {**examples(), "all": Path(data("usr/share/doc/ldirectord/examples/ldirectord.cf")).read_text()}
    assert len(cases) > 15
    judged = ldirectord.verdicts(cases, tmp_path)
    for name, text in cases.items():
        found = problems(text)
        if "=sql01" in name + text and name != "all":  # ldirectord asks for the address of a name; an import does not
            assert "gate 10: sql01 and sql03: not an address" in " ".join(found)
        elif "::5060" in text and name != "all":  # ldirectord reads 5060 as the address 0.0.19.196
            assert "" == judged[name]
            assert found[0].startswith("error 2: 192.168.6.2::5060 gate is not a real server")
        else:
            left_out = "virtual=1" in name.split()
            assert ("", left_out) == (judged[name], any(line.startswith("error") for line in found)), name


# --- lines that are not directives ------------------------------------------------------------------------------------

WHOLE = (Path(__file__).parent / "examples/everything.cf").read_text()


@pytest.mark.parametrize(
    "written",
    [f"\ufeff{WHOLE}", WHOLE.replace("\n", "\r\n"), WHOLE.replace("\n", " \t\n"), f"{WHOLE}\n\n# the end"],
    ids=["byte order mark", "line ends of Windows", "blanks at the end of lines", "more below"],
)
def test_text_without_effect(written: str) -> None:
    """The result is the same with and without this text."""
    written = written.replace("\n \t\n", "\n\n")  # a line of blanks is an error to ldirectord
    assert from_ldirectord(WHOLE) == from_ldirectord(written)


def test_names_of_hosts() -> None:
    """A real server may have a name. Other names become remarks, because an import asks no name server."""
    text = (
        "virtual = www.example.com:80\n\treal = 10.0.0.1:80 masq\n\n"
        "fallback = sorry.example.com\n"
        "virtual = 192.0.2.80:80\n\treal = a.example.com:80 masq\n\treal = 10.0.0.1->b:80 masq\n"
        "\treal = 10.0.0.2:80 masq\n\tchecktype = on\n"
    )
    assert [
        "1: not taken over: virtual = www.example.com:80, with its 1 real servers: www.example.com: not an address",
        "4: not taken over: fallback = sorry.example.com: sorry.example.com: not an address",
        f"6: not the same: real = a.example.com:80 masq: {FOLLOWED}",
        "7: not taken over: real = 10.0.0.1->b:80 masq: b: not an address",
    ] == [problem.partition(";")[0] for problem in problems(text)]
    (pool,) = parse_config(from_ldirectord(text).text).pools
    assert ["10.0.0.2"] == [str(backend.address) for backend in pool.backends]
    assert [("a.example.com", 80, 1)] == [(str(named.lookup), named.port, named.weight) for named in pool.named]


def test_names_of_both_families() -> None:
    """`real6` asks for IPv6 addresses. Long names, names that begin other names, and a weight of 0 fit the rules."""
    text = "".join(
        f"virtual{six} = {address}:53\n\treal{six} = web masq\n\treal{six} = web-1 masq 0\n"
        f"\treal{six} = web-1.a-long-name.of.example.com:5353 masq 7\n\treal{six} = WEB:54 masq\n"
        f"\treal{six} = web masq\n\tservicename = s{six}\n\tchecktype = on\n\n"
        for six, address in (("", "192.0.2.80"), ("6", "[2001:db8::80]"))
    )
    pools = parse_config(from_ldirectord(text).text).pools

    assert [[Family.IP], [Family.IP6]] == [list(pool.families) for pool in pools]
    for pool in pools:
        found = {named.name: (str(named.lookup), named.port, named.weight, named.admin) for named in pool.named}
        assert {
            "host1": ("web", None, 1, Admin.ENABLED),
            "web-1": ("web-1", None, 1, Admin.DRAIN),
            "host2": ("web-1.a-long-name.of.example.com", 5353, 7, Admin.ENABLED),
            "WEB": ("web", 54, 1, Admin.ENABLED),
        } == found


@pytest.mark.parametrize(
    "text", [checked('passwd = "s3cret"'), udp('service = sip\nsecret = "s3cret"\npasswd = s3cret')]
)
def test_no_password_is_shown(text: str) -> None:
    """Remarks, which go to terminals and logs, show no passwords."""
    assert "..." in " ".join(problems(text))
    assert "s3cret" not in " ".join(problems(text))


@pytest.mark.parametrize(("status", "expected"), [(0, 0), (1, 2), (2, 2), (7, 2)])
def test_the_arguments_of_a_check_program(status: int, expected: int, tmp_path: Path) -> None:
    """As in ldirectord: the service and the server. Every status but 0 is a failure."""
    program = tmp_path / "the check"
    program.write_text(f'#!/bin/sh\necho "$@" >"{tmp_path}/said"\nexit {status}\n')
    program.chmod(0o755)
    (pool,) = parse_config(from_ldirectord(checked(f'checktype = external\ncheckcommand = "{program}"')).text).pools
    found = {"NFTLB_ADDRESS": "10.0.0.11", "NFTLB_PORT": "80"}
    argv = pool.health[0].check.argv  # type: ignore[union-attr]
    assert expected == subprocess.run(argv, env=found, check=False).returncode
    assert "192.0.2.80 80 10.0.0.11 80\n" == (tmp_path / "said").read_text()


def test_the_arguments_of_a_fallback_command(tmp_path: Path) -> None:
    """As in ldirectord. The command may have arguments and shell syntax."""
    program = f"echo 'a  b' >{tmp_path}/said"
    (pool,) = parse_config(from_ldirectord(inner(f"fallbackcommand = {program}")).text).pools
    assert b"" == subprocess.run(pool.hooks.quorum_down, check=True, capture_output=True).stdout
    assert "a  b start 192.0.2.80:80 tcp\n" == (tmp_path / "said").read_text()


def test_the_order_of_servers_does_not_change_the_check() -> None:
    """The pool gets the check that most servers have; the other check becomes a remark."""
    servers = [f'real = 10.0.0.{number}:80 masq 1 "/{"other" if number == 1 else "same"}", ""' for number in (1, 2, 3)]
    for order in itertools.permutations(servers):
        text = "\n\t".join(["virtual = 192.0.2.80:80", *order]) + "\n"
        (pool,) = parse_config(from_ldirectord(text, "cf").text).pools
        assert ["/same"] == [health.check.path for health in pool.health]  # type: ignore[union-attr]
        assert [order.index(servers[0]) + 2] == [
            remark.line for remark in from_ldirectord(text, "cf").remarks if "differ from" in remark.message
        ]


def test_servers_that_are_listeners() -> None:
    """A server or fallback at the address of a virtual is left out, with a remark."""
    text = (
        "virtual = 192.0.2.80:80\n\treal = 192.0.2.80:80 masq\n\treal = 192.0.2.81:80 masq\n"
        "\treal = 10.0.0.1:80 masq\n\tfallback = 192.0.2.80:80\n\tchecktype = on\n"
        "virtual = 192.0.2.81:80\n\treal = 192.0.2.81:81 masq\n\tchecktype = on\n"
    )
    assert [
        "2: not taken over: real server 192.0.2.80: a listener has this address and port",
        "3: not taken over: real server 192.0.2.81: a listener has this address and port",
        "5: not taken over: fallback 192.0.2.80: a listener has this address and port",
    ] == problems(text)
    first, second = parse_config(from_ldirectord(text).text).pools
    assert (["10.0.0.1"], ["192.0.2.81"]) == tuple(
        [str(backend.address) for backend in pool.backends] for pool in (first, second)
    )


def test_too_many_servers() -> None:
    """More servers than conntrack zones are an error with the virtual that is over the limit."""
    ranges = "".join(f"\treal = 10.{number}.0.0->10.{number}.3.255:80 masq\n" for number in range(64))
    assert problems(f"virtual = 192.0.2.80:80\n{ranges}")[0].startswith(
        "error 1: virtual = 192.0.2.80:80: the servers up"
    )


# --- arbitrary text ---------------------------------------------------------------------------------------------------

ONE = "virtual=192.0.2.80:80\n"
HOSTILE = {
    "one word": "x" * 5_000_000,
    "one text": ONE + '\trequest="' + "x" * 5_000_000 + '"\n',
    "quotes": (ONE + "\treal=10.0.0.1 masq " + '" ' * 30_000 + "\n") * 50,
    "texts": ONE + "\treal=10.0.0.1 masq " + '"a","b" ' * 8_000 + "\n",
    "arrows": ONE + "\treal=" + "a->" * 20_000 + " masq\n",
    "colons": "fallback=" + "a:" * 30_000 + "\n" + top("#"),
    "blanks": "fallback=a" + " " * 60_000 + "b c\n" + top("#"),
    "digits": f"checktimeout={'9' * 60_000}\n{top('#')}",
    "a mark": f"virtual={'9' * 60_000}\n",
    "comments": "#\n" * 1_000_000,
    "virtuals": "".join(
        f"virtual=10.{number >> 8}.{number & 255}.1:80\n\treal=192.0.2.1 masq\n" for number in range(5_000)
    ),
    "servers": top("#") + "".join(f"\treal=10.1.{number >> 8}.{number & 255}:80 masq\n" for number in range(5_000)),
    "requests": top("#")
    + "".join(f'\treal=10.1.{number >> 8}.{number & 255} masq "a{number}","b"\n' for number in range(2_000)),
    "ranges": top("#") + "\treal=10.1.0.0->10.1.3.255:80 masq\n" * 20,
    "repeated": top("#") + "\tcomment = x\n" * 50_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_read_in_bounded_time(name: str) -> None:
    """Hostile text is imported or refused within 30 seconds of processor time."""
    began = time.process_time()
    problems(HOSTILE[name])
    assert time.process_time() - began < 30


LINES = st.sampled_from(
    sorted(
        {
            line.strip()
            for text, _ in VIRTUAL_TABLE.values()
            for line in text.split("\n")
            if line.startswith((" ", "\t"))
        }
    )
)
HEADS = st.sampled_from(
    ["virtual=192.0.2.80:80", "virtual=192.0.2.53:53", "virtual=192.0.2.1:0", "virtual6=[2001:db8::80]:80", "virtual=7",
     "virtual=127.0.0.1:80", "virtual=www.example.com:80", "virtual6=[fe80::1]:5060", "virtual=10.0.0.11:80"]
)  # fmt: skip
TOPS = st.sampled_from(sorted({text.split("\n")[0] for text, _ in TOP_TABLE.values()} - {""}))
SERVERS = st.sampled_from(
    ["real=10.0.0.11:80 masq", "real=10.0.0.12->10.0.0.14:81 gate 0", "real=10.0.0.15 ipip 70000",
     "real=127.0.0.1:80 gate", 'real=10.0.0.16:53 masq 2 "a","b"', "real6=[2001:db8:1::1]:80 masq"]
)  # fmt: skip
BLOCKS = st.builds(
    lambda head, servers, lines: "\n\t".join([head, *servers, *lines]) + "\n",
    HEADS, st.lists(SERVERS, max_size=3), st.lists(LINES, max_size=4),
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.lists(TOPS | BLOCKS, min_size=1, max_size=4))
def test_every_import_is_valid(parts: list[str]) -> None:
    """Or it is refused. Every remark is in the text."""
    try:
        found = from_ldirectord("\n".join(parts), "cf")
    except ConfigError as error:
        assert all(problem.file == "cf" for problem in error.problems)  # noqa: PT017 - it need not be raised
        return
    assert parse_config(found.text).pools
    assert all(f"(line {remark.line})" in found.text for remark in found.remarks)
