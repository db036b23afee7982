"""Imports from keepalived: servers, checks and levels; definitions, comments and conditions."""

from __future__ import annotations

import subprocess
from itertools import permutations

import pytest
from keepalived_files import addresses, misc, pool_of, real, remark_lines, service

from nftlb.config import parse_config
from nftlb.importer import from_keepalived
from nftlb.importer.keepalived_statements import ReadContext

# --- servers, checks and levels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["NAT", "DR"])
@pytest.mark.parametrize("protocol", ["TCP", "UDP", "SCTP"])
def test_a_server_that_is_a_listener(method: str, protocol: str) -> None:
    """A real server or sorry server that is a listener of any pool is left out, with a remark."""
    servers = (real("192.0.2.1 80"), real("192.0.2.2 80"), real("10.0.0.1 80"), real("10.0.0.1"))
    own = service(f"lvs_method {method}", *servers[:3], "sorry_server 192.0.2.2 80", protocol=protocol)
    other = service(real("10.0.0.2 80"), real("192.0.2.1"), head="192.0.2.2 80", protocol=protocol)
    found = from_keepalived(own + other)
    assert {"192.0.2.1": ["10.0.0.1"], "192.0.2.2": ["10.0.0.2"]} == addresses(found)
    messages = [remark.message for remark in found.remarks if "a listener has this address" in remark.message]
    assert 4 == len(messages)
    assert "fallback" not in found.text
    # A listener of another protocol or another port does not count.
    apart = service(real("192.0.2.2 80"), real("192.0.2.1 81"), protocol="TCP")
    apart += service(real("10.0.0.2 80"), head="192.0.2.2 80", protocol="UDP")
    assert ["192.0.2.2", "192.0.2.1"] == addresses(from_keepalived(apart))["192.0.2.1"]


def test_a_server_at_a_listener_of_all_ports() -> None:
    text = service(real("10.0.0.1 81"), head="192.0.2.9 0") + service(real("192.0.2.9 82"), real("10.0.0.2 80"))
    assert ["10.0.0.2"] == addresses(from_keepalived(text))["192.0.2.1"]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
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
def test_programs_that_name_their_server(first: str, second: str, expected: str) -> None:
    """The servers share one check, with variables for address and port."""
    pool = pool_of(service(real("10.0.0.1 80", misc(first)), real("10.0.0.2 80", misc(second))))
    (health,) = pool.health
    assert ("/bin/sh", "-c", expected) == health.check.argv  # type: ignore[union-attr]
    assert not [line for line in remark_lines(service(real("10.0.0.1 80", misc(first)))) if "only:" in line]


def test_programs_that_name_an_ipv6_server() -> None:
    """The address may be written in any form."""
    server = real("2001:db8::a 80", misc('"/bin/x 2001:DB8:0::a 80"'))
    two = real("2001:db8::b 81", misc('"/bin/x [2001:db8::b]:81"'))
    (health,) = pool_of(service(server, head="2001:db8::1 80")).health
    assert '/bin/x "$NFTLB_ADDRESS" "$NFTLB_PORT" || exit 2' == health.check.argv[2]  # type: ignore[union-attr]
    (health,) = pool_of(service(two, head="2001:db8::1 80")).health
    assert "/bin/x '['\"$NFTLB_ADDRESS\"']:'\"$NFTLB_PORT\" || exit 2" == health.check.argv[2]  # type: ignore[union-attr]


@pytest.mark.parametrize(("address", "status"), [("10.0.0.1", 0), ("10.0.0.2", 2)])
def test_programs_get_the_address_that_is_checked(address: str, status: int) -> None:
    """Quotes and words are not changed, and a failure stays a failure."""
    pool = pool_of(service(real("10.0.0.1 80", misc("\"/bin/sh -c 'test $0 = 10.0.0.1' 10.0.0.1\""))))
    argv = pool.health[0].check.argv  # type: ignore[union-attr]
    assert 0 == subprocess.run(argv, check=False, env={"NFTLB_ADDRESS": address}).returncode
    pool = pool_of(service(real("10.0.0.1 80", misc("/usr/bin/test 10.0.0.1 = '10.0.0.1 '"))))
    argv = pool.health[0].check.argv  # type: ignore[union-attr]
    assert 2 == subprocess.run(argv, check=False, env={"NFTLB_ADDRESS": address}).returncode
    pool = pool_of(service(real("10.0.0.1 80", misc("\"/bin/sh -c 'echo $0 | grep -q 1$' 10.0.0.1\""))))
    argv = pool.health[0].check.argv  # type: ignore[union-attr]
    assert status == subprocess.run(argv, check=False, env={"NFTLB_ADDRESS": address}).returncode


def test_a_number_that_is_not_the_port_is_kept() -> None:
    """If servers of different ports have the same number in their programs, it is not the port."""
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


def test_the_order_of_servers_does_not_matter() -> None:
    """The pool gets the checks that most servers have, whatever the order of the servers."""
    found = {
        frozenset(str(health.check) for health in pool_of(service(*order)).health) for order in permutations(SERVERS)
    }
    (kinds,) = found
    assert 2 == len(kinds)
    tied = {
        tuple(health.check.kind for health in pool_of(service(*order)).health)
        for order in permutations((SERVERS[2], real("10.0.0.5 80", "TCP_CHECK {\n}")))
    }
    assert 1 == len(tied)
    remarks = remark_lines(service(*SERVERS))
    assert ["10.0.0.3", "10.0.0.4"] == [remark.split()[6] for remark in remarks if "differ from" in remark]


@pytest.mark.parametrize("key", ["delay_loop", "connect_timeout", "delay_before_retry", "retry"])
def test_levels(key: str) -> None:
    """The value of the check is used, else that of the server, else that of the service."""
    field = {
        "delay_loop": "interval",
        "connect_timeout": "timeout",
        "delay_before_retry": "fast_interval",
        "retry": "fall",
    }
    for values in [(7, None, None), (7, 8, None), (7, 8, 9), (None, None, 9), (None, 8, None), (7, None, 9)]:
        lines = [f"{key} {value}" if value is not None else "" for value in values]
        text = service(lines[0], real("10.0.0.1 80", lines[1], "TCP_CHECK {", lines[2], "}"))
        late = service(real("10.0.0.1 80", "TCP_CHECK {", lines[2], "}", lines[1]), lines[0])
        last = [value for value in values if value is not None][-1]
        for written in (text, late):
            (health,) = pool_of(written).health
            assert (last + 1 if key == "retry" else last * 1000) == getattr(health, field[key])


def test_the_time_out_of_a_program_is_the_delay_of_its_service() -> None:
    """The delay_loop of the check or of the server does not change the time-out of a program."""
    inner = real("10.0.0.1 80", "delay_loop 5", misc("/bin/x", "delay_loop 3"), "TCP_CHECK {\n}")
    program, tcp = pool_of(service("delay_loop 9", inner)).health
    assert (3000, 9000) == (program.interval, program.timeout)
    assert 5000 == tcp.interval
    (program,) = pool_of(service("delay_loop 9", real("10.0.0.1 80", misc("/bin/x", "misc_timeout 0")))).health
    assert (9000, 9000) == (program.interval, program.timeout)


@pytest.mark.parametrize("at", range(4))
def test_virtualhost_by_level(at: int) -> None:
    """The name of the URL is used, else that of the check, of the server, or of the service."""
    levels = [f"virtualhost {level}" if index <= at else "" for index, level in enumerate(("vs", "rs", "check", "url"))]
    url = ["url {", "path /", levels[3], "}"]
    for kind in ("HTTP_GET", "SSL_GET"):
        inner = [f"{kind} {{", "enable_sni", levels[2], *url, "}"]
        (health,) = pool_of(service(levels[0], real("10.0.0.1 80", levels[1], *inner))).health
        assert ("vs", "rs", "check", "url")[at] == health.check.host  # type: ignore[union-attr]
        assert ("tls" if kind == "SSL_GET" else None) == ("tls" if health.check.sni else None)  # type: ignore[union-attr]


def test_repeated_keywords() -> None:
    """As in keepalived, the last statement has an effect, for scripts the first. The others become remarks."""
    text = service(
        "lvs_sched wrr", "delay_loop 3", "delay_loop 4", "delay_loop x", "quorum_up /bin/a", "quorum_up /bin/b",
        real("10.0.0.1 80", "weight 2", "weight 3", "TCP_CHECK {", "connect_port 1", "connect_port 2", "}"),
    )  # fmt: skip
    pool = pool_of(text)
    assert (4000, 2, 3) == (pool.health[0].interval, pool.health[0].port, pool.backends[0].weight)
    assert "quorum_up: [/bin/a]" in from_keepalived(text).text
    remarks = [remark for remark in remark_lines(text) if "not taken over" in remark]
    assert [3, 5, 7, 9, 11, 14] == [int(remark.split(":")[0]) for remark in remarks]


def test_the_common_method_of_all_servers_is_the_pools() -> None:
    """If all real servers set the same method, the pool has this method."""
    servers = [real(f"10.0.0.{number} 80", "lvs_method DR") for number in (1, 2)]
    assert "dsr" == pool_of(service(*servers)).forward
    mixed = service(*servers, real("10.0.0.3 80"))
    assert "nat" == pool_of(mixed).forward
    assert 2 == sum("forward and encap are the same for the whole pool" in remark for remark in remark_lines(mixed))


def test_services_hidden_by_a_missing_brace() -> None:
    """Keepalived ignores such services; each becomes a remark."""
    text = "global_defs {\nrouter_id x\n" + service(real("10.0.0.1 80")) + "}\n" + service(real("10.0.0.2 80"))
    hidden = [
        remark
        for remark in remark_lines(text)
        if remark.endswith("it is inside global_defs, where keepalived ignores it")
    ]
    assert ["3", "6"] == [remark.split(":")[0] for remark in hidden]


# --- lines ------------------------------------------------------------------------------------------------------------


def test_a_byte_order_mark() -> None:
    text = "\ufeff" + service(real("10.0.0.1 80"))
    assert parse_config(from_keepalived(text).text).pools
    assert remark_lines(text)[0].startswith("1: not the same: the byte order mark is left out")


@pytest.mark.parametrize(
    ("line", "host"),
    [("virtualhost a\\#b", "a#b"), ("virtualhost a\\!b", "a!b"), ("virtualhost a#b", "a"), ("virtualhost a!b", "a"),
     ('virtualhost "a#b!"', "a#b!"), ('virtualhost "a\\"#b"', 'a"#b'), ("virtualhost ${_HASH}a${_BANG}", "#a!"),
     ('virtualhost a # " {', "a"), ("virtualhost it's", "it's")],
)  # fmt: skip
def test_comments(line: str, host: str) -> None:
    """No comment begins behind a backslash, or in double quotes."""
    (health,) = pool_of(service(line, real("10.0.0.1 80", "HTTP_GET {", "url {", "path /", "}", "}"))).health
    assert host == health.check.host  # type: ignore[union-attr]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_comments_that_use_a_definition_of_several_lines(newline: str) -> None:
    """The definition is not expanded in the comment: its second line would no longer be a comment."""
    text = "$RS= \\\nreal_server 10.0.0.1 80 { \\\n}\n# use $RS\n! ${RS}\n" + service("$RS", "ops # $RS")
    assert ["10.0.0.1"] == [str(backend.address) for backend in pool_of(text.replace("\n", newline)).backends]


def test_conditions() -> None:
    """Lines for another id become remarks. Without an id, only lines for all ids but one are used."""
    inner = ("@main delay_loop 3", "@^main delay_loop 4", "@other delay_loop 5", "@^other @main retry 7")
    text = service(*inner, real("10.0.0.1 80", "TCP_CHECK {\n}"))

    def seen(ident: str | None) -> tuple[int, int, list[int]]:
        found = from_keepalived(text, reading=ReadContext(ident))
        (pool,) = parse_config(found.text).pools
        lines = [remark.line for remark in found.remarks if "line is" in remark.message]
        return pool.health[0].interval, pool.health[0].fall, lines

    assert (3000, 8, [5, 6]) == seen("main")
    assert (5000, 2, [4, 7]) == (seen("other")[0], 2, [4, 7])
    assert (4000, 2, [4, 5, 6, 7, 7]) == seen(None)
    assert "4: not taken over: @main delay_loop 3: the line is for the id main; give --id main" in remark_lines(text)


def test_a_definition_with_a_condition() -> None:
    """The condition holds for all lines of the value."""
    text = "@main $E= \\\nlvs_sched sh \\\nops\n" + service("$E", real("10.0.0.1 80"))
    assert "hash" == parse_config(from_keepalived(text, reading=ReadContext("main")).text).pools[0].balance
    assert ["1: not taken over: @main $E= lvs_sched sh ops: the line is for another id"] == [
        remark for remark in remark_lines(text, ReadContext("x")) if remark.startswith("1:")
    ]
