"""Imports of hostile text: the time grows in proportion to the text, and no server is lost in silence."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nftlb.config import parse_config
from nftlb.errors import ConfigError
from nftlb.importer import from_keepalived
from nftlb.importer.keepalived_statements import MAX_LINE, ReadContext, SourceFile, UnreadError

if TYPE_CHECKING:
    from collections.abc import Callable

SIZE = 5 << 20
PLAIN = "real_server 10.0.0.1 80 {\n}\n"
HEAD = "virtual_server 192.0.2.1 80 {\n"
DEFINED = "$A= \\\nops \\\nops\n"


def repeated(part: str, size: int) -> str:
    return part * (size // len(part))


def numbered(form: str, size: int) -> str:
    """Lines of `size` characters in all, each with another number."""
    return "".join(form.format(number) for number in range(size // len(form)))


def servers(inner: str, size: int) -> str:
    """Real servers with `inner` in each, about one for every hundred characters of `size`."""
    lines = (f"real_server 10.{n >> 16}.{n >> 8 & 255}.{n & 255} 80 {{\n{inner}}}\n" for n in range(1, size // 100))
    return HEAD + "".join(lines) + "}\n"


TEXTS: dict[str, Callable[[int], str]] = {
    "one quoted word": lambda size: f'{HEAD}virtualhost "{"a" * size}"\n{PLAIN}}}\n',
    "an open quote": lambda size: f'{HEAD}virtualhost "{"a" * size}\n{PLAIN}}}\n',
    "quoted words": lambda size: repeated("\"a\\n\" 'b' ", MAX_LINE // 2).join([repeated("\n", size // MAX_LINE)] * 2),
    "long lines of open quotes": lambda size: repeated("'\\'\\" * (MAX_LINE // 5) + "\n", size),
    "long lines of open uses": lambda size: repeated("${a" * (MAX_LINE // 4) + "\n", size),
    "long lines of conditions": lambda size: repeated("@a " * (MAX_LINE // 4) + "\n", size),
    "long lines of lists": lambda size: repeated("~LST(" + "{a,b}," * (MAX_LINE // 7) + "a)\n", size),
    "long lines of includes": lambda size: repeated("include" + " " * (MAX_LINE // 2) + "x\n", size),
    "opened blocks": lambda size: "{" * size,
    "blocks in blocks": lambda size: repeated("a {\n", size),
    "closed blocks": lambda size: repeated("a {}\n", size),
    "closing braces": lambda size: "a\n" + "}" * size,
    "includes": lambda size: repeated("include a\n", size),
    "uses of a definition": lambda size: DEFINED + repeated("$A\n", size),
    "a definition of many lines": lambda size: "$A= \\\n" + repeated("ops \\\n", size) + "ops\n$A\n",
    "definitions": lambda size: numbered("$A{}=x\n", size),
    "sequences": lambda size: repeated("~SEQ(X, 0, 9) $Y=1\n", size),
    "services": lambda size: numbered("virtual_server 192.0.2.1 80 {{ real_server 10.0.0.1 {} {{}} }}\n", size),
    "services of a group": lambda size: (
        "virtual_server_group g {\n192.0.2.1 80\n}\n" + repeated("virtual_server group g {\n" + PLAIN + "}\n", size)
    ),
    "ranges": lambda size: (
        "virtual_server_group g {\n"
        + repeated("10.0.0.0/22 80\n", size)
        + "}\nvirtual_server group g {\n"
        + PLAIN
        + "}\n"
    ),
    "servers": lambda size: servers("", size),
    "servers that are listeners": lambda size: (
        "virtual_server_group g {\n"
        + "".join(f"10.0.{n >> 8 & 255}.{n & 255} {1 + n % 60000}\n" for n in range(1, size // 100))
        + "}\n"
        + servers("", size // 2).replace(" 80 {", " {").replace("virtual_server 192.0.2.1 80", "virtual_server group g")
    ),
    "servers with programs": lambda size: servers('MISC_CHECK {\nmisc_path "/bin/x 10.0.0.1 80 10.0.0.2"\n}\n', size),
    "checks": lambda size: HEAD + "real_server 10.0.0.1 80 {\n" + repeated("TCP_CHECK {\n}\n", size) + "}\n}\n",
    "urls": lambda size: (
        HEAD + "real_server 10.0.0.1 80 {\nHTTP_GET {\n" + repeated("url {\npath /\n}\n", size) + "}\n}\n}\n"
    ),
    "a keyword again": lambda size: HEAD + repeated("delay_loop 3\n", size) + PLAIN + "}\n",
    "a check's keyword again": lambda size: (
        HEAD + "real_server 10.0.0.1 80 {\nTCP_CHECK {\n" + repeated("connect_port 7\n", size) + "}\n}\n}\n"
    ),
}


def spent(text: str) -> float:
    """The seconds of processor time until the text is imported, or refused."""
    before = time.process_time()
    with suppress(ConfigError):
        from_keepalived(text, "k")
    return time.process_time() - before


@pytest.mark.parametrize("name", TEXTS)
def test_time_grows_with_the_text(name: str) -> None:
    """Eight times the text takes less than 24 times as long. Quadratic code would take 64 times as long.

    The shortest time counts, because the processor time of one import grows with the load of the machine.
    """
    few = max(min(spent(TEXTS[name](SIZE >> 8)) for _ in range(3)), 0.02)
    times = (spent(TEXTS[name](SIZE >> 5)) for _ in range(4))
    assert any(many < 24 * few for many in times)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("one quoted word", "a line of 5242894 characters; allowed: at most 65536"),
        ("an open quote", "a line of 5242893 characters; allowed: at most 65536"),
        ("opened blocks", "a line of 5242880 characters; allowed: at most 65536"),
        ("blocks in blocks", "blocks within blocks; allowed: at most 32 deep"),
        ("closing braces", "a line of 5242880 characters; allowed: at most 65536"),
        ("a definition of many lines", "definitions expand to more than 65536 characters; allowed: fewer"),
    ],
)
def test_five_megabytes(name: str, message: str) -> None:
    """Five megabytes are refused with a reason and its line, within a minute on a slow machine."""
    text = TEXTS[name](SIZE)
    before = time.process_time()
    with pytest.raises(ConfigError) as caught:
        from_keepalived(text, "k")
    assert time.process_time() - before < 60
    assert [] != [problem for problem in caught.value.problems if problem.line and message in problem.message]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("~SEQ(X, 0, 999999999) $Y=1\n", "k:1:1: more than 524288 lines with definitions expanded; allowed: fewer"),
        (
            "$A= \\\n" + "ops \\\n" * 5000 + "ops\n" + "$A\n" * 5000,
            "k:5107:1: more than 524288 lines with definitions expanded; allowed: fewer",
        ),
        ("$A=" + "a" * 60_000 + "\n" + "$A\n" * 300, "more than 16 MiB with definitions and included files"),
        (
            "virtual_server_group g {\n" + "10.0.0.0/22 80\n" * 65 + f"}}\nvirtual_server group g {{\n{PLAIN}}}\n",
            "k:66:1: more than 65536 listeners; allowed: fewer",
        ),
    ],
    ids=["a sequence", "a definition of many lines", "a long definition", "ranges"],
)
def test_short_text_that_expands_to_much(text: str, message: str) -> None:
    """Text that expands too far is refused with its line."""
    with pytest.raises(ConfigError) as caught:
        from_keepalived(text, "k")
    assert message in str(caught.value)


def test_more_servers_than_zones() -> None:
    """The error has the line of the service that is over the limit."""
    many = "".join(f"real_server 10.{n >> 16}.{n >> 8 & 255}.{n & 255} 80\n" for n in range(1, 65_535))
    text = f"{HEAD}{PLAIN}}}\nvirtual_server 192.0.2.7 80 {{\n{many}}}\n"
    with pytest.raises(ConfigError, match=r"k:5:1: virtual_server 192.0.2.7 80: the servers up to here need more than"):
        from_keepalived(text, "k")


def test_a_hundred_thousand_included_files() -> None:
    """Too many included files are an error; files that do not exist are remarks."""

    def unused_include(pattern: str, within: SourceFile) -> list[SourceFile]:
        if pattern == "a":
            raise UnreadError("no such file")
        return [SourceFile(f"{within.name}+", "\n", None)]

    text = "include a\n" * 100_000 + f"{HEAD}{PLAIN}}}\n"
    found = from_keepalived(text, "k", reading=ReadContext(include=unused_include))
    assert 100_000 < len(found.remarks)
    with pytest.raises(ConfigError, match="k:1025:1: more than 1024 included files; allowed: fewer"):
        from_keepalived(text.replace("include a", "include b"), "k", reading=ReadContext(include=unused_include))
    with pytest.raises(ConfigError, match="includes within includes; allowed: at most 32 deep"):
        from_keepalived(
            "include b",
            "k",
            reading=ReadContext(include=lambda _, within: [SourceFile(f"{within.name}+", "include b", None)]),
        )


# --- arbitrary text ---------------------------------------------------------------------------------------------------

TIMES = ["", "0", "1", "3", "0.001", "x", "99999999", "-1", "3 4"]
TIMED = st.builds(
    "{} {}".format,
    st.sampled_from(
        ["delay_loop", "connect_timeout", "delay_before_retry", "retry", "warmup", "alpha", "nb_get_retry"]
    ),
    st.sampled_from([time for time in TIMES if time]),
)
ADDRESSES = st.sampled_from(["10.0.0.1", "10.0.0.2", "10.0.0.3", "192.0.2.1", "2001:db8::9", "127.0.0.1"])
PORTS = st.sampled_from(["", "0", "53", "80", "81", "80 80"])


def block(head: st.SearchStrategy[str], inner: st.SearchStrategy[str], most: int) -> st.SearchStrategy[str]:
    return st.builds(
        lambda keyword, lines: "\n".join([f"{keyword} {{", *lines, "}"]), head, st.lists(inner, max_size=most)
    )


URL = block(
    st.just("url"),
    st.sampled_from(["path /", "path x", "status_code 200", "status_code 9 200-300", "regex (", "regex a", "digest x",
                     "virtualhost a", "regex_no_match", "regex_options caseless odd", "odd"]),
    5,
)  # fmt: skip
WAYS = st.sampled_from(["connect_port 22", "connect_port 0", "connect_ip 10.0.0.1", "connect_ip x", "bindto 10.0.0.9",
                        "bindto fe80::1", "bind_if lo", "bind_if e*", "fwmark 7", "fwmark x", "odd",
                        "helo_name"])  # fmt: skip
CHECK = st.one_of(
    block(
        st.sampled_from(["TCP_CHECK", "PING_CHECK", "SMTP_CHECK", "DNS_CHECK", "UDP_CHECK", "BFD_CHECK"]),
        TIMED | WAYS,
        3,
    ),
    block(
        st.sampled_from(["HTTP_GET", "SSL_GET"]), TIMED | WAYS | URL | st.sampled_from(["enable_sni", "virtualhost"]), 4
    ),
    block(
        st.just("MISC_CHECK"),
        TIMED | st.sampled_from(["misc_path /x", "misc_path '/x 10.0.0.1 80'", "misc_timeout 0", "misc_dynamic",
                                 "misc_path \"/x 10.0.0.2 '\"", "misc_timeout x", "user root"]),
        4,
    ),
)  # fmt: skip
SERVER = block(
    st.builds("real_server {} {}".format, ADDRESSES, PORTS),
    TIMED | CHECK | st.sampled_from(["weight 0", "weight 3", "weight x", "lvs_method DR", "lvs_method FNAT", "odd",
                                     "notify_up /u", "notify_down", "inhibit_on_failure", "@main weight 9"]),
    4,
)  # fmt: skip
SERVICE = block(
    st.builds("virtual_server {} {}".format, st.sampled_from(["192.0.2.1", "192.0.2.2", "10.0.0.3", "::1:1"]), PORTS)
    | st.sampled_from(["virtual_server group g", "virtual_server fwmark 3"]),
    SERVER | SERVER | TIMED | st.sampled_from(
        ["protocol TCP", "protocol UDP", "protocol odd", "lvs_sched wrr", "lvs_sched odd", "ops", "lvs_method DR",
         "lvs_method TUN", "quorum 0", "quorum 3", "hysteresis 2", "persistence_timeout 0", "persistence_timeout",
         "weight 2",
         "sorry_server 192.0.2.2 80", "sorry_server 10.0.0.9", "inhibit_on_failure", "~SEQ(X,1,2) quorum $X",
         "$R=3", "retry ${R}", "include x", "@^main omega", "global_defs {\nreal_server 10.0.0.1 80 {\n}\n}"]),
    7,
)  # fmt: skip
GROUP = "virtual_server_group g {\n192.0.2.3-4 80\n10.0.0.3 81\nfwmark 3\n192.0.2.5 80 80\n}\n"


@settings(max_examples=250, deadline=None)
@given(st.lists(SERVICE, min_size=1, max_size=3), st.sampled_from([None, "main"]))
def test_no_server_is_lost_in_silence(services: list[str], ident: str | None) -> None:
    """The result is valid. Every server is in it with its line, or a remark names its line."""
    text = GROUP + "\n".join(services)
    try:
        found = from_keepalived(text, "k", reading=ReadContext(ident))
    except ConfigError as error:
        assert error.problems  # noqa: PT017 - it need not be raised
        return
    assert parse_config(found.text).pools
    named = {remark.line for remark in found.remarks}
    for number, line in enumerate(text.split("\n"), 1):
        if line.startswith("real_server"):
            assert number in named or f"# line {number}\n" in found.text, line


@settings(max_examples=100, deadline=None)
@given(st.lists(CHECK, max_size=2), st.lists(CHECK, max_size=2), st.permutations(range(4)))
def test_the_order_of_servers_does_not_change_the_checks(first: list[str], second: list[str], order: list[int]) -> None:
    """Four servers with two sets of checks give the same checks in every order."""
    given_ = [first, first, second, [*reversed(first)]]

    def surviving(numbers: list[int]) -> set[str] | None:
        inner = ["\n".join([f"real_server 10.0.0.{n + 1} 80 {{", *given_[n], "}"]) for n in numbers]
        try:
            text = from_keepalived("\n".join([HEAD, *inner, "}"]), "k").text
        except ConfigError:
            return None
        (pool,) = parse_config(text).pools
        return {str(health) for health in pool.health}

    assert surviving([0, 1, 2, 3]) == surviving(order)
