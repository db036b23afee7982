"""keepalived's grammar, keyword by keyword, and our verdict beside its own."""

from __future__ import annotations

import os
import re
import subprocess
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from daemons.programs import data
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

from nftlb.cli import importing, main
from nftlb.config import parse
from nftlb.errors import ConfigError
from nftlb.importer import Imported, from_keepalived
from nftlb.importer.lines import Reading

if TYPE_CHECKING:
    from nftlb.model import Pool

COMPLAINED = {"keepalived.conf.vrrp.lvs_syncd": {4, 5, 11}}
"""The lines of samples that keepalived itself complains of: older forms of VRRP."""
judged = pytest.mark.judged_by_keepalived
SAMPLES = sorted(Path(data("usr/share/doc/keepalived/samples")).glob("keepalived.conf*"))


# --- the grammar ------------------------------------------------------------------------------------------------------


@judged
@pytest.mark.parametrize("level", LEVELS)
def test_the_table_has_every_keyword(level: str, tmp_path: Path) -> None:
    """Those that keepalived's own program knows at a level, and no others but what is marked as unknown to it."""
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
    """A whole file with the row, and the row's line."""
    around = place(row.level, row.line)
    return "\n".join((*around.before, row.line, *around.after)) + "\n", len(around.before) + 1


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row.level}: {row.line}")
def test_what_becomes_of_a_keyword(row: Row) -> None:
    """It is in the pool, or a remark names it with its line; where it changes nothing it is neither."""
    text, line = written(row)
    around = place(row.level, row.line)
    without = "\n".join((*around.before, *around.after)) + "\n"
    found = from_keepalived(text, "k")
    said = [one.message for one in found.remarks if one.line == line]
    assert parse(found.text).pools
    assert row.yaml in found.text
    if row.yaml:
        assert row.yaml not in from_keepalived(without, "k").text
    if row.remark:
        assert [] != [one for one in said if one.startswith(row.remark)], said
    else:
        assert [] == said
    if not row.yaml and not row.remark:
        assert parse(from_keepalived(without, "k").text) == parse(found.text)


@judged
def test_keepalived_agrees_on_what_it_heeds(tmp_path: Path) -> None:
    """It complains of the rows that are marked so, and of no others: all of them in one file, a service each."""
    lines: list[str] = []
    rows: dict[int, Row] = {}
    for number, row in enumerate(TABLE):
        around = place(row.level, row.line, number)
        lines += [*around.before, row.line]
        rows[len(lines)] = row
        lines += around.after
    path = tmp_path / "table.conf"
    path.write_text("\n".join(lines) + "\n")
    told = verdict(path)
    assert told.status > 0
    complained = {f"{row.level}: {row.line}" for line, row in rows.items() if line in told.complaints}
    assert {f"{row.level}: {row.line}" for row in TABLE if not row.heeded} == complained


# --- our verdict beside keepalived's ----------------------------------------------------------------------------------


def ours(text: str, name: str = "k") -> Imported | ConfigError:
    try:
        return from_keepalived(text, name)
    except ConfigError as error:
        return error


def to_balance(text: str) -> bool:
    """Whether a file has a service that is told by its address."""
    return re.search(r"^\s*virtual_server (?!fwmark)", text, re.MULTILINE) is not None


@judged
@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_samples(path: Path) -> None:
    """What keepalived takes we take, with every real server in the output or in a remark."""
    text = path.read_text()
    theirs, found = verdict(path), ours(text, path.name)
    if not to_balance(text):
        assert isinstance(found, ConfigError)
        assert "no virtual_server that can be taken over" in str(found)
        return
    assert theirs.status >= 0
    assert COMPLAINED.get(path.name, set()) == {line for line in theirs.complaints if line}
    assert not isinstance(found, ConfigError)
    assert parse(found.text).pools
    nowhere_lost(text, found)


def test_there_are_samples() -> None:
    assert 20 < len(SAMPLES)
    assert 10 < sum(to_balance(path.read_text()) for path in SAMPLES)


def nowhere_lost(text: str, found: Imported) -> None:
    """Each real server is at its line in the output, or a remark names its line."""
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
    "braces on lines of their own": """\
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


def addresses(found: Imported) -> dict[str, list[str]]:
    """The backends of each listener."""
    return {
        str(pool.listen[0].address): [str(backend.address) for backend in pool.backends]
        for pool in parse(found.text).pools
    }


@judged
def test_nested_definitions(tmp_path: Path) -> None:
    """The man page's example: definitions within definitions are put in when their turn comes."""
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
    """Those of the man page, as it says that they come out."""
    path = tmp_path / "k.conf"
    text = EXAMPLES["lists"].replace("    ~SEQx(D, 144, 16, 192) 10.0.0.7${D} 81\n", "")
    path.write_text(text)
    assert set() == {line for line in verdict(path).complaints if line}
    (pool,) = parse(from_keepalived(text).text).pools
    pairs = [(10, 1), (20, 4), (5, 6), (12, 8)]
    expected = [f"192.{last}.{a}.{b}" for a, b in pairs for last in (168, 170, 172)]
    expected += [f"192.169.{a}.{b}" for a in (1, 2, 3, 4) for b in (5, 6, 7)]
    assert expected == [str(one.address) for one in pool.listen]


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
def test_sequences_are_keepalived_s(written: str, expected: list[str], tmp_path: Path) -> None:
    """Keepalived names what it made of them where it knows no such scheduler; so do we."""
    text = f"virtual_server 192.0.2.1 53 {{\n{written} lvs_sched s${{X}}\nreal_server 10.0.0.1 53 {{\n}}\n}}\n"
    path = tmp_path / "k.conf"
    path.write_text(text)
    theirs = [re.sub(r".*'s(.*)'.*", r"\1", one) for one in verdict(path).complaints[2]]
    said = [one.message for one in from_keepalived(text).remarks if "is no scheduler" in one.message]
    assert expected == theirs
    assert sorted(f"s{one}" for one in expected) == sorted(one.split()[4].rstrip(":") for one in said)


@judged
@pytest.mark.parametrize("written", ["~SEQ(X)", "~SEQ(X,5,2,1)", "~SEQ(X,1,0,3)", "~LST(X)", "~LST(X,a b)"])
def test_sequences_that_are_none(written: str, tmp_path: Path) -> None:
    """Keepalived passes over the line, and complains; here it is a remark."""
    text = f"virtual_server 192.0.2.1 53 {{\n{written} ops\nreal_server 10.0.0.1 53 {{\n}}\n}}\n"
    path = tmp_path / "k.conf"
    path.write_text(text)
    assert 2 in verdict(path).complaints
    assert [f"not taken over: {written}: not its form; keepalived ignores the line"] == [
        one.message for one in from_keepalived(text).remarks if one.line == 2
    ]


@judged
@pytest.mark.parametrize("name", ["braces on lines of their own", "apostrophes"])
def test_forms_that_keepalived_takes(name: str, tmp_path: Path) -> None:
    """Without a complaint, and with all of its servers here."""
    path = tmp_path / "k.conf"
    path.write_text(EXAMPLES[name])
    assert set() == {line for line in verdict(path).complaints if line}
    found = from_keepalived(EXAMPLES[name])
    assert EXAMPLES[name].count("real_server") == sum(map(len, addresses(found).values()))


@judged
def test_the_man_page_s_grammar_is_the_table_s() -> None:
    """Every keyword that the man page lists for a service, a server and a check has a row."""
    page = manual()
    start = page.index("The syntax for virtual_server is")
    listed = re.findall(
        r"^\s*([a-z][a-z_-]+)(?: [<{A-Z\[].*)?$", page[start : page.index("SSL {", start)], re.MULTILINE
    )
    rows = {row.key for row in TABLE} | {"virtual_server", "dynamic", "track_file"}
    assert 60 < len(set(listed))
    assert set() == {one for one in listed if "_" in one or one in {"alpha", "omega", "retry", "warmup"}} - rows


# --- what was lost, or refused ----------------------------------------------------------------------------------------


def pool_of(text: str) -> Pool:
    (pool,) = parse(from_keepalived(text, "k").text).pools
    return pool


def said(text: str, reading: Reading | None = None) -> list[str]:
    return [f"{one.line}: {one.message}" for one in from_keepalived(text, "k", reading=reading).remarks]


def service(*inner: str, head: str = "192.0.2.1 80", protocol: str = "TCP") -> str:
    lines = [f"virtual_server {head} {{", f"protocol {protocol}", "lvs_sched rr", *inner, "}"]
    return "\n".join(lines) + "\n"


def real(address: str, *inner: str) -> str:
    return "\n".join([f"real_server {address} {{", *inner, "}"])


def misc(path: str, *more: str) -> str:
    return "\n".join(["MISC_CHECK {", f"misc_path {path}", *more, "}"])


@pytest.mark.parametrize("method", ["NAT", "DR"])
@pytest.mark.parametrize("protocol", ["TCP", "UDP", "SCTP"])
def test_a_server_that_is_a_listener(method: str, protocol: str) -> None:
    """Of this pool or of another, a real server or the sorry server: it is left out, with a remark."""
    servers = (real("192.0.2.1 80"), real("192.0.2.2 80"), real("10.0.0.1 80"), real("10.0.0.1"))
    own = service(f"lvs_method {method}", *servers[:3], "sorry_server 192.0.2.2 80", protocol=protocol)
    other = service(real("10.0.0.2 80"), real("192.0.2.1"), head="192.0.2.2 80", protocol=protocol)
    found = from_keepalived(own + other)
    assert {"192.0.2.1": ["10.0.0.1"], "192.0.2.2": ["10.0.0.2"]} == addresses(found)
    messages = [one.message for one in found.remarks if "nothing is balanced twice" in one.message]
    assert 4 == len(messages)
    assert "fallback" not in found.text
    # Another protocol's listener is none, nor is one of another port.
    apart = service(real("192.0.2.2 80"), real("192.0.2.1 81"), protocol="TCP")
    apart += service(real("10.0.0.2 80"), head="192.0.2.2 80", protocol="UDP")
    assert ["192.0.2.2", "192.0.2.1"] == addresses(from_keepalived(apart))["192.0.2.1"]


def test_a_listener_of_all_ports_is_one_too() -> None:
    text = service(real("10.0.0.1 81"), head="192.0.2.9 0") + service(real("192.0.2.9 82"), real("10.0.0.2 80"))
    assert ["10.0.0.2"] == addresses(from_keepalived(text))["192.0.2.1"]


@pytest.mark.parametrize(
    ("one", "two", "expected"),
    [
        ('"/bin/x 10.0.0.1 80"', '"/bin/x 10.0.0.2 80"', '/bin/x "$NFTLB_ADDRESS" "$NFTLB_PORT" || exit 2'),
        ("/bin/x -H 10.0.0.1", "/bin/x -H 10.0.0.2", '/bin/x -H "$NFTLB_ADDRESS" || exit 2'),
        ('"/bin/x 10.0.0.1:80"', '"/bin/x 10.0.0.2:80"', '/bin/x "$NFTLB_ADDRESS":"$NFTLB_PORT" || exit 2'),
        (
            '"/bin/x http://10.0.0.1/a?b"',
            '"/bin/x http://10.0.0.2/a?b"',
            "/bin/x http://\"$NFTLB_ADDRESS\"'/a?b' || exit 2",
        ),
        ('"/bin/x -H10.0.0.1 -p80"', '"/bin/x -H10.0.0.2 -p80"', '/bin/x -H"$NFTLB_ADDRESS" -p"$NFTLB_PORT" || exit 2'),
    ],
)
def test_programs_that_name_their_server(one: str, two: str, expected: str) -> None:
    """One check for all of them: variables stand where the address and the port were."""
    pool = pool_of(service(real("10.0.0.1 80", misc(one)), real("10.0.0.2 80", misc(two))))
    (health,) = pool.health
    assert ("/bin/sh", "-c", expected) == health.check.argv  # type: ignore[union-attr]
    assert not [one for one in said(service(real("10.0.0.1 80", misc(one)))) if "alone" in one]


def test_programs_that_name_an_ipv6_server() -> None:
    """However it is written."""
    one = real("2001:db8::a 80", misc('"/bin/x 2001:DB8:0::a 80"'))
    two = real("2001:db8::b 81", misc('"/bin/x [2001:db8::b]:81"'))
    (health,) = pool_of(service(one, head="2001:db8::1 80")).health
    assert '/bin/x "$NFTLB_ADDRESS" "$NFTLB_PORT" || exit 2' == health.check.argv[2]  # type: ignore[union-attr]
    (health,) = pool_of(service(two, head="2001:db8::1 80")).health
    assert "/bin/x '['\"$NFTLB_ADDRESS\"']:'\"$NFTLB_PORT\" || exit 2" == health.check.argv[2]  # type: ignore[union-attr]


@pytest.mark.parametrize(("address", "status"), [("10.0.0.1", 0), ("10.0.0.2", 2)])
def test_programs_get_the_address_that_is_checked(address: str, status: int) -> None:
    """Quotes and words stay as they were, and a failure is one."""
    pool = pool_of(service(real("10.0.0.1 80", misc("\"/bin/sh -c 'test $0 = 10.0.0.1' 10.0.0.1\""))))
    argv = pool.health[0].check.argv  # type: ignore[union-attr]
    assert 0 == subprocess.run(argv, check=False, env={"NFTLB_ADDRESS": address}).returncode
    pool = pool_of(service(real("10.0.0.1 80", misc("/usr/bin/test 10.0.0.1 = '10.0.0.1 '"))))
    argv = pool.health[0].check.argv  # type: ignore[union-attr]
    assert 2 == subprocess.run(argv, check=False, env={"NFTLB_ADDRESS": address}).returncode
    pool = pool_of(service(real("10.0.0.1 80", misc("\"/bin/sh -c 'echo $0 | grep -q 1$' 10.0.0.1\""))))
    argv = pool.health[0].check.argv  # type: ignore[union-attr]
    assert status == subprocess.run(argv, check=False, env={"NFTLB_ADDRESS": address}).returncode


def test_a_number_that_is_no_port_stays() -> None:
    """Where servers of different ports have the same number in their programs, that is something else."""
    servers = (real("10.0.0.1 80", misc('"/bin/x 10.0.0.1 80"')), real("10.0.0.2 81", misc('"/bin/x 10.0.0.2 80"')))
    (health,) = pool_of(service(*servers)).health
    assert '/bin/x "$NFTLB_ADDRESS" 80 || exit 2' == health.check.argv[2]  # type: ignore[union-attr]
    same = (real("10.0.0.1 80", misc('"/bin/x -w 80"')), real("10.0.0.2 81", misc('"/bin/x -w 80"')))
    (health,) = pool_of(service(*same)).health
    assert ("/bin/x", "-w", "80") == health.check.argv[4:]  # type: ignore[union-attr]


SERVERS = (
    real("10.0.0.1 80", "TCP_CHECK {\n}", misc('"/bin/x 10.0.0.1"')),
    real("10.0.0.2 80", misc('"/bin/x 10.0.0.2"'), "TCP_CHECK {\n}"),
    real("10.0.0.3 80", "PING_CHECK {\n}"),
    real("10.0.0.4 80"),
)


def test_the_order_of_servers_decides_nothing() -> None:
    """Whichever is first, the same checks survive: those that most servers have."""
    found = {frozenset(str(one.check) for one in pool_of(service(*order)).health) for order in permutations(SERVERS)}
    (kinds,) = found
    assert 2 == len(kinds)
    tied = {
        tuple(one.check.kind for one in pool_of(service(*order)).health)
        for order in permutations((SERVERS[2], real("10.0.0.5 80", "TCP_CHECK {\n}")))
    }
    assert 1 == len(tied)
    remarks = said(service(*SERVERS))
    assert ["10.0.0.3", "10.0.0.4"] == [one.split()[6] for one in remarks if "differ from" in one]


@pytest.mark.parametrize("key", ["delay_loop", "connect_timeout", "delay_before_retry", "retry"])
def test_levels(key: str) -> None:
    """The check's own value, else its server's, else the service's."""
    field = {
        "delay_loop": "interval",
        "connect_timeout": "timeout",
        "delay_before_retry": "fast_interval",
        "retry": "fall",
    }
    for values in [(7, None, None), (7, 8, None), (7, 8, 9), (None, None, 9), (None, 8, None), (7, None, 9)]:
        lines = [f"{key} {one}" if one is not None else "" for one in values]
        text = service(lines[0], real("10.0.0.1 80", lines[1], "TCP_CHECK {", lines[2], "}"))
        late = service(real("10.0.0.1 80", "TCP_CHECK {", lines[2], "}", lines[1]), lines[0])
        last = [one for one in values if one is not None][-1]
        for written in (text, late):
            (health,) = pool_of(written).health
            assert (last + 1 if key == "retry" else last * 1000) == getattr(health, field[key])


def test_a_program_s_time_is_its_service_s() -> None:
    """Neither its own delay_loop nor its server's changes how long it may take; of the service's all checks have it."""
    inner = real("10.0.0.1 80", "delay_loop 5", misc("/bin/x", "delay_loop 3"), "TCP_CHECK {\n}")
    program, tcp = pool_of(service("delay_loop 9", inner)).health
    assert (3000, 9000) == (program.interval, program.timeout)
    assert 5000 == tcp.interval
    (program,) = pool_of(service("delay_loop 9", real("10.0.0.1 80", misc("/bin/x", "misc_timeout 0")))).health
    assert (9000, 9000) == (program.interval, program.timeout)


@pytest.mark.parametrize("at", range(4))
def test_virtualhost_by_level(at: int) -> None:
    """The URL's, else the check's, else the server's, else the service's."""
    levels = [f"virtualhost {one}" if index <= at else "" for index, one in enumerate(("vs", "rs", "check", "url"))]
    url = ["url {", "path /", levels[3], "}"]
    for kind in ("HTTP_GET", "SSL_GET"):
        inner = [f"{kind} {{", "enable_sni", levels[2], *url, "}"]
        (health,) = pool_of(service(levels[0], real("10.0.0.1 80", levels[1], *inner))).health
        assert ("vs", "rs", "check", "url")[at] == health.check.host  # type: ignore[union-attr]
        assert ("tls" if kind == "SSL_GET" else None) == ("tls" if health.check.sni else None)  # type: ignore[union-attr]


def test_what_is_said_again() -> None:
    """The last counts, of scripts and digests the first, as for keepalived; the other is named."""
    text = service(
        "lvs_sched wrr", "delay_loop 3", "delay_loop 4", "delay_loop x", "quorum_up /bin/a", "quorum_up /bin/b",
        real("10.0.0.1 80", "weight 2", "weight 3", "TCP_CHECK {", "connect_port 1", "connect_port 2", "}"),
    )  # fmt: skip
    pool = pool_of(text)
    assert (4000, 2, 3) == (pool.health[0].interval, pool.health[0].port, pool.backends[0].weight)
    assert "quorum_up: [/bin/a]" in from_keepalived(text).text
    remarks = [one for one in said(text) if "not taken over" in one]
    assert [3, 5, 7, 9, 11, 14] == [int(one.split(":")[0]) for one in remarks]


def test_all_servers_methods_are_the_service_s() -> None:
    """Where each real server has the same method of its own, that is the pool's."""
    servers = [real(f"10.0.0.{number} 80", "lvs_method DR") for number in (1, 2)]
    assert "dsr" == pool_of(service(*servers)).forward
    mixed = service(*servers, real("10.0.0.3 80"))
    assert "nat" == pool_of(mixed).forward
    assert 2 == sum("forward is the same for the whole pool" in one for one in said(mixed))


def test_services_that_a_brace_too_few_hides() -> None:
    """Keepalived looks for none there; all of them are named."""
    text = "global_defs {\nrouter_id x\n" + service(real("10.0.0.1 80")) + "}\n" + service(real("10.0.0.2 80"))
    hidden = [one for one in said(text) if one.endswith("it is within global_defs, where keepalived looks for none")]
    assert ["3", "6"] == [one.split(":")[0] for one in hidden]


# --- lines ------------------------------------------------------------------------------------------------------------


def test_a_byte_order_mark() -> None:
    text = "\ufeff" + service(real("10.0.0.1 80"))
    assert parse(from_keepalived(text).text).pools
    assert said(text)[0].startswith("1: not the same: the byte order mark is left out")


@pytest.mark.parametrize(
    ("line", "host"),
    [("virtualhost a\\#b", "a#b"), ("virtualhost a\\!b", "a!b"), ("virtualhost a#b", "a"), ("virtualhost a!b", "a"),
     ('virtualhost "a#b!"', "a#b!"), ('virtualhost "a\\"#b"', 'a"#b'), ("virtualhost ${_HASH}a${_BANG}", "#a!"),
     ('virtualhost a # " {', "a"), ("virtualhost it's", "it's")],
)  # fmt: skip
def test_comments(line: str, host: str) -> None:
    """Not behind a backslash, nor in double quotes."""
    (health,) = pool_of(service(line, real("10.0.0.1 80", "HTTP_GET {", "url {", "path /", "}", "}"))).health
    assert host == health.check.host  # type: ignore[union-attr]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_comments_that_use_a_definition_of_several_lines(newline: str) -> None:
    """It is not put in there: its second line would be none of the comment."""
    text = "$RS= \\\nreal_server 10.0.0.1 80 { \\\n}\n# use $RS\n! ${RS}\n" + service("$RS", "ops # $RS")
    assert ["10.0.0.1"] == [str(one.address) for one in pool_of(text.replace("\n", newline)).backends]


def test_conditions() -> None:
    """Lines for another id are left out and named; without an id only those for all but one are taken."""
    inner = ("@main delay_loop 3", "@^main delay_loop 4", "@other delay_loop 5", "@^other @main retry 7")
    text = service(*inner, real("10.0.0.1 80", "TCP_CHECK {\n}"))

    def seen(ident: str | None) -> tuple[int, int, list[int]]:
        found = from_keepalived(text, reading=Reading(ident))
        (pool,) = parse(found.text).pools
        lines = [one.line for one in found.remarks if "line is" in one.message]
        return pool.health[0].interval, pool.health[0].fall, lines

    assert (3000, 8, [5, 6]) == seen("main")
    assert (5000, 2, [4, 7]) == (seen("other")[0], 2, [4, 7])
    assert (4000, 2, [4, 5, 6, 7, 7]) == seen(None)
    assert "4: not taken over: @main delay_loop 3: the line is for the id main; give --id main" in said(text)


def test_a_definition_under_a_condition() -> None:
    """All lines of its value belong to it."""
    text = "@main $E= \\\nlvs_sched sh \\\nops\n" + service("$E", real("10.0.0.1 80"))
    assert "hash" == parse(from_keepalived(text, reading=Reading("main")).text).pools[0].balance
    assert ["1: not taken over: @main $E= lvs_sched sh ops: the line is for another id"] == [
        one for one in said(text, Reading("x")) if one.startswith("1:")
    ]


# --- the command ------------------------------------------------------------------------------------------------------


def test_included_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --root they are read, wherever they are included; without it each is named."""
    folder = tmp_path / "etc/keepalived"
    (folder / "conf.d").mkdir(parents=True)
    (folder / "k.conf").write_text(
        "include conf.d/*.conf\n"
        + service("include real.conf", "include none.conf", "include /etc/keepalived/real.conf")
    )
    (folder / "conf.d/a.conf").write_text(
        "$A=10.0.0.7\n" + service("includea ../{real,more}.conf", head="192.0.2.2 80")
    )
    (folder / "conf.d/.b.conf").write_text("}")
    (folder / "real.conf").write_text(real("10.0.0.1 80", misc('"${_PWD}/x"'), "odd"))
    (folder / "more.conf").write_text(real("$A 80"))
    main(["import", "keepalived", str(folder / "k.conf"), "--root", str(tmp_path)])
    out, error = capsys.readouterr()
    first, second = parse(out).pools
    assert (["10.0.0.1", "10.0.0.7"], ["10.0.0.1"]) == tuple(
        [str(b.address) for b in one.backends] for one in (first, second)
    )
    assert "/etc/keepalived/x" in str(second.health[0].check)
    assert f"{folder}/k.conf:6: not taken over: include none.conf: no such file in {tmp_path}\n" in error
    assert f"{folder}/real.conf:5: not taken over: odd: no keyword" in error
    assert f"({folder}/real.conf:5)" in out
    assert f"{folder}/k.conf:7: " not in error
    main(["import", "keepalived", str(folder / "k.conf")])
    error = capsys.readouterr().err
    assert 4 == error.count("the file is not read")


@pytest.mark.parametrize(
    "pattern", ["../secret", "/../secret", "link", "e*/k.conf", "{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}", "pipe"]
)
def test_nothing_outside_is_read(pattern: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nor what is no plain file, nor too many."""
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret").write_text("word_of_secret\n")
    (root / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(root / "pipe")
    (root / "k.conf").write_text(f"include {pattern}\n" + service(real("10.0.0.1 80")))
    assert 0 == main(["import", "keepalived", str(root / "k.conf"), "--root", str(root)])
    out, error = capsys.readouterr()
    assert f"k.conf:1: not taken over: include {pattern}: " in error
    assert "word_of_secret" not in out + error


def test_circles_of_includes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.conf").write_text("\ninclude b.conf\n")
    (tmp_path / "b.conf").write_text("include a.conf\n")
    assert 1 == main(["import", "keepalived", str(tmp_path / "a.conf"), "--root", str(tmp_path)])
    assert "includes itself; allowed: no circles" in capsys.readouterr().err


def test_options_of_keepalived_s_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "saved"
    path.write_text("-A -t 192.0.2.1:80\n")
    for option in (["--id", "x"], ["--root", "/"]):
        assert 2 == main(["import", "ipvsadm", str(path), *option])
        assert f"{option[0]} is for keepalived's configuration" in capsys.readouterr().err


@pytest.mark.parametrize("what", list(importing.FROM))
def test_the_command_checks_what_it_writes(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault is told with the line that it comes from; the remarks are there, and the file is as it was."""
    source, target = tmp_path / "source", tmp_path / "pools.yaml"
    source.write_text("anything\n")
    target.write_text("as it was\n")
    remark = from_keepalived(service("omega", real("10.0.0.1 80")), "there").remarks[0]
    made = Imported("pools:\n  p:\n    listen: 192.0.2.1:53/udp\n    backends: 7\n", (remark,), {2: ("there", 12)})
    monkeypatch.setitem(importing.FROM, what, lambda *_, **__: made)
    assert 1 == main(["import", what, str(source), "-o", str(target)])
    error = capsys.readouterr().err
    assert (
        "there:12:1: what comes of this is refused by nftlb check, and nothing is written: pools.p.backends: 7" in error
    )
    assert f"{remark}\n" in error
    assert "as it was\n" == target.read_text()


def test_the_command_warns_as_check_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of what is valid and loses packets."""
    source, target = tmp_path / "k.conf", tmp_path / "pools.yaml"
    source.write_text(service("ops", real("10.0.0.1 80"), real("10.0.0.2 81"), protocol="UDP"))
    assert 0 == main(["import", "keepalived", str(source), "-o", str(target)])
    imported = [one for one in capsys.readouterr().err.splitlines() if "warning" in one]
    assert 0 == main(["check", str(target)])
    assert imported == [one for one in capsys.readouterr().err.splitlines() if "warning" in one]
