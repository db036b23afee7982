"""Imports of whole files, of keepalived's settings, and of arbitrary text: no setting is lost in silence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from servers.programs import environment, with_its_files

from nftlb.config import parse_config
from nftlb.errors import ConfigError
from nftlb.importer import Imported, from_ipvsadm, from_keepalived, from_ldirectord
from nftlb.model.patterns import compiled

if TYPE_CHECKING:
    from collections.abc import Callable

    from nftlb.model import Pool

HERE = Path(__file__).parent / "examples"
READERS: dict[str, Callable[[str, str], Imported]] = {
    ".conf": from_keepalived,
    ".cf": from_ldirectord,
    ".ipvsadm": from_ipvsadm,
}
SOURCES = sorted(path for path in HERE.iterdir() if path.suffix in READERS)


def imported(path: Path) -> Imported:
    return READERS[path.suffix](path.read_text(), path.name)


def keepalived(text: str) -> Pool:
    """Import a configuration with one pool, and return the pool."""
    (pool,) = parse_config(from_keepalived(text, "k").text).pools
    return pool


def remarks(text: str) -> list[str]:
    return [f"{remark.line}: {remark.message}" for remark in from_keepalived(text, "k").remarks]


def service(*options: str, head: str = "192.0.2.53 53", server: str = "") -> str:
    """A virtual_server with the options from line 4 on, and one real_server with these lines in it."""
    lines = [
        f"virtual_server {head} {{",
        "protocol UDP",
        "ops",
        *options,
        "real_server 10.0.0.11 53 {",
        server,
        "}",
        "}",
    ]
    return "\n".join(lines)


# --- whole files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_golden(path: Path) -> None:
    """Text and remarks equal the files beside the source. `python tests/importer/test_importer.py` rewrites them."""
    found = imported(path)
    assert path.with_name(f"{path.name}.yaml").read_text() == found.text
    assert path.with_name(f"{path.name}.remarks").read_text() == "".join(f"{remark}\n" for remark in found.remarks)


def test_no_golden_file_is_left_over() -> None:
    """Each golden file has a source."""
    expected = {f"{path.name}{suffix}" for path in SOURCES for suffix in ("", ".yaml", ".remarks")}
    assert expected == {path.name for path in HERE.iterdir()}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_the_result_is_valid_and_has_every_remark(path: Path) -> None:
    """Every remark is also a comment in the valid result."""
    found = imported(path)
    assert parse_config(found.text).pools
    for remark in found.remarks:
        assert f"# {remark.message} (line {remark.line})\n" in found.text


@pytest.mark.parametrize("path", [path for path in SOURCES if path.suffix == ".conf"], ids=lambda path: path.name)
def test_keepalived_accepts_the_sources(path: Path) -> None:
    """Keepalived accepts the sources, with no other complaints than these."""
    argv = [*with_its_files("keepalived"), "-t", "-l", "-f", str(path)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=environment())
    known = ("Config files missing", "no forwarding method set", "no protocol set", "don't match", "will be ignored",
             "no scheduler set", "loopback interface", "Unknown interface", "SECURITY VIOLATION")  # fmt: skip
    lines = (done.stdout + done.stderr).splitlines()
    assert [] == [line for line in lines if not any(word in line for word in known)]


# --- keepalived: what is meant ----------------------------------------------------------------------------------------


def test_per_packet_only_with_ops() -> None:
    """LVS without ops spreads UDP by flow. So does the pool, and a comment tells how to change this."""
    assert "packet" == keepalived(service()).per
    by_flow = service().replace("ops\n", "")
    assert "flow" == keepalived(by_flow).per
    assert "per: flow  # as LVS without ops" in from_keepalived(by_flow).text


def test_nat_keeps_the_source() -> None:
    """The pool keeps the source address, as LVS does."""
    pool = keepalived(service("lvs_method NAT"))
    assert ("nat", "keep") == (pool.forward, pool.source)


def test_dsr_without_ops_is_hashed() -> None:
    """With dsr, a hash of address and port keeps each flow together; with ops, none has to be kept together.

    With the address alone, all flows of a client would reach one server, which LVS does for persistent services only.
    """
    assert "round-robin" == keepalived(service("lb_kind DR", "lb_algo rr")).balance
    pool = keepalived(service("lb_kind DR", "lb_algo rr").replace("ops\n", ""))
    assert ("hash", "source-port", "dsr", None) == (pool.balance, str(pool.key), pool.forward, pool.backends[0].port)
    persistent = keepalived(service("lb_kind DR", "lb_algo rr", "persistence_timeout 9").replace("ops\n", ""))
    assert ("hash", "source") == (persistent.balance, str(persistent.key))


@pytest.mark.parametrize(
    ("options", "key", "left"),
    [
        (("lvs_sched sh", "sh-port"), "source-port", []),
        (("sh-port", "sh-fallback", "lvs_sched sh"), "source-port", []),
        (("lvs_sched mh", "mh-port", "mh-fallback"), "source-port", []),
        (("lvs_sched sh", "flag-1", "flag-2"), "source-port", []),
        (("lvs_sched mh", "mh-fallback"), "source", []),
        (("lvs_sched sh", "flag-3"), "source", ["5: not taken over: flag-3"]),
        (("lvs_sched wrr", "sh-port"), "source", ["5: not taken over: sh-port"]),
        (("lvs_sched sh", "sh-port", "persistence_granularity 24"), "source/24", ["5: not taken over: sh-port"]),
    ],
)  # fmt: skip
def test_flags_of_schedulers(options: tuple[str, ...], key: str, left: list[str]) -> None:
    """The port of the client counts if the scheduler's flag says so, and if the service is not persistent."""
    text = service(*options)
    assert (key, left) == (str(keepalived(text).key), remarks(text))


@pytest.mark.parametrize(
    ("scheduler", "balance", "remarked"),
    [("rr", "round-robin", False), ("wrr", "round-robin", False), ("sh", "hash", False), ("mh", "hash", False),
     ("dh", "hash", True), ("twos", "random", True), ("lc", "round-robin", True), ("wlc", "round-robin", True),
     ("sed", "round-robin", True), ("fo", "round-robin", True)],
)  # fmt: skip
def test_schedulers(scheduler: str, balance: str, remarked: bool) -> None:
    """Each scheduler becomes the most similar balance. Schedulers that count connections get a remark."""
    assert balance == keepalived(service(f"lvs_sched {scheduler}")).balance
    assert remarked == any(f"scheduler {scheduler}" in remark for remark in remarks(service(f"lvs_sched {scheduler}")))


def test_times() -> None:
    """A check inherits timing from its server, and the server from its service. Each level may set its own."""
    inner = "retry 4\nTCP_CHECK {\nconnect_timeout 0.25\n}"
    (health,) = keepalived(service("delay_loop 7", "retry 9", "connect_timeout 3", "alpha", server=inner)).health
    assert (7000, 1000, 250, 1, 5, "down") == (
        health.interval, health.fast_interval, health.timeout, health.rise, health.fall, health.initial
    )  # fmt: skip


def test_times_by_default() -> None:
    """The defaults are those of keepalived, which differ from nftlb's."""
    (health,) = keepalived(service(server="DNS_CHECK {\n}")).health
    assert (60_000, 60_000, 5000, 4) == (health.interval, health.fast_interval, health.timeout, health.fall)
    assert ("dns", ".", "SOA") == (health.check.kind, health.check.name, health.check.type)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("UDP_CHECK {\npayload Ab12f 3 456\nrequire_reply\n}",
         {"send_hex": b"\xab\x12\x0f\x03\x45\x06", "expect": "reply"}),
        ("UDP_CHECK {\nrequire_reply 0X\n}", {"match_hex": None, "expect": "reply"}),
        ("UDP_CHECK {\nrequire_reply 0a\nmin_reply_length 1\nmax_reply_length 9\n}",
         {"match_hex": b"\x0a", "min_length": 1, "max_length": 9}),
        ("UDP_CHECK {\n}", {"expect": "no-icmp-error"}),
        ("MISC_CHECK {\nmisc_path \"/bin/x a 'b c'\"\n}",
         {"argv": ("/bin/sh", "-c", '"$@" || exit 2', "sh", "/bin/x", "a", "b c")}),
        ("HTTP_GET {\nurl {\npath /a\nstatus_code 200 300-399\n}\n}",
         {"path": "/a", "status": ((200, 200), (300, 399))}),
        ("SSL_GET {\nurl {\nvirtualhost a.b\n}\n}", {"tls": True, "verify": False, "host": "a.b", "sni": None}),
        ("HTTP_GET {\nurl {\ndigest 9b3a0c85a887a256d6939da88aabd8cd\n}\n}",
         {"digest": "9b3a0c85a887a256d6939da88aabd8cd"}),
        ('HTTP_GET {\nurl {\nregex "a b"\nregex_options caseless\n}\n}', {"body": "(?i)a b"}),
    ],
)  # fmt: skip
def test_checks(written: str, expected: dict[str, Any]) -> None:
    """The requests of checks, and the replies that they expect."""
    (health,) = keepalived(service(server=written)).health
    assert expected == {key: getattr(health.check, key) for key in expected}


def test_source_and_port_of_checks() -> None:
    """The source address, the interface, the mark and the port of a check."""
    ways = "bindto 10.0.0.1\nconnect_port 22\nbind_if eth0.7\nfwmark 4294967295"
    (health,) = keepalived(service(server=f"TCP_CHECK {{\n{ways}\n}}")).health
    assert (("10.0.0.1",), 22) == (tuple(map(str, health.source)), health.port)
    assert ("eth0.7", 0xFFFFFFFF) == (health.device, health.mark)


def test_no_mark() -> None:
    """A mark of 0 means no mark."""
    (health,) = keepalived(service(server="TCP_CHECK {\nfwmark 0\n}")).health
    assert health.mark is None


@pytest.mark.parametrize(("body", "well"), [("all is fine", True), ("fine\nUNDER MAINTENANCE", False), ("", True)])
@pytest.mark.parametrize("options", ["caseless", "caseless extended", "caseless multiline dotall"])
def test_text_that_a_page_must_not_have(options: str, body: str, well: bool) -> None:
    """Keepalived's regex_no_match becomes body_not."""
    url = f'url {{\npath /\nregex "under.maintenance"\nregex_no_match\nregex_options {options}\n}}'
    (health,) = keepalived(service(server=f"HTTP_GET {{\n{url}\n}}")).health
    assert well is not bool(compiled(health.check.body_not).search(body.encode()))  # type: ignore[union-attr]


@pytest.mark.parametrize("status", [0, 1, 2, 7])
def test_exit_status_1_is_a_failure(status: int) -> None:
    """The wrapper turns exactly the statuses that are failures for keepalived into failures for nftlb."""
    (health,) = keepalived(service(server=f"MISC_CHECK {{\nmisc_path \"/bin/sh -c 'exit {status}'\"\n}}")).health
    assert (0 if status == 0 else 2) == subprocess.run(health.check.argv, check=False).returncode  # type: ignore[union-attr]
    dynamic = f"MISC_CHECK {{\nmisc_path \"/bin/sh -c 'exit {status}'\"\nmisc_dynamic\n}}"
    (health,) = keepalived(service(server=dynamic)).health
    assert (2 if status == 1 else 0) == subprocess.run(health.check.argv, check=False).returncode  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("option", "server", "expected"),
    [
        ("smtp_alert", "", "4: not taken over: smtp_alert"),
        ("@backup delay_loop 3", "", "4: not taken over: @backup delay_loop 3"),
        ("persistence_granularity 255.0.255.0", "", "4: not taken over: persistence_granularity 255.0.255.0: not the"),
        ("quorum 2 {\n}", "", "4: not taken over: quorum 2: its block"),
        ("# none", "weight 1\nlthreshold 3", "7: not taken over: lthreshold 3"),
        ("# none", "BFD_CHECK {\nname x\n}", "6: not taken over: BFD_CHECK"),
        ("# none", "FILE_CHECK {\ntrack_file x\n}", "6: not taken over: FILE_CHECK"),
        ("# none", "TCP_CHECK {\nconnect_ip 10.0.0.9\n}", "7: not taken over: connect_ip 10.0.0.9 of TCP_CHECK"),
        ("# none", "UDP_CHECK {\nrequire_reply\nmin_reply_length 3\n}", "8: not taken over: min_reply_length 3 of UDP"),
        ("# none", "DNS_CHECK {\ntype TKEY\n}", "7: not taken over: type TKEY: TKEY is not a type that"),
        ("# none", 'HTTP_GET {\nurl {\nregex "("\n}\n}', "8: not taken over: regex ( of HTTP_GET"),
        ("# none", "HTTP_GET {\n}", "6: not taken over: HTTP_GET without a url"),
        (
            "real_server 10.0.0.12 53 {\nlvs_method DR\n}",
            "",
            "5: not taken over: lvs_method DR: forward and encap are the same",
        ),
        ("# none", "TCP_CHECK {\ndelay_loop 0.001\n}", "7: not the same: delay_loop 0.001 is 10ms here"),
        (
            "# none",
            "TCP_CHECK {\nbindto fe80::1\n}",
            "7: not taken over: bindto fe80::1: a link-local address needs its",
        ),
        ("sorry_server 127.0.0.1 53", "", "4: not taken over: sorry_server 127.0.0.1: a loopback address"),
        ("real_server 127.0.0.1 53 {\n}", "", "4: not taken over: real server 127.0.0.1: a loopback address"),
    ],
)
def test_settings_without_counterpart_are_remarks(option: str, server: str, expected: str) -> None:
    """The remark has the line, and the rest is imported."""
    text = service(option, server=server)
    assert [] != [remark for remark in remarks(text) if remark.startswith(expected)]
    assert "10.0.0.11" in [str(backend.address) for backend in keepalived(text).backends]


def test_quorum_counts_backends() -> None:
    """Keepalived's quorum counts weight. The nearest number of backends is used, with a remark unless it is equal."""
    servers = "\n".join(f"real_server 10.0.0.{number} 53 {{\nweight 5\n}}" for number in range(1, 5))
    text = f"virtual_server 192.0.2.1 53 {{\nprotocol UDP\nops\nlvs_sched wrr\nquorum 11\nhysteresis 5\n{servers}\n}}"
    assert (3, 1) == (keepalived(text).quorum, keepalived(text).hysteresis)
    assert any(
        "quorum 11, hysteresis 5 count a weight of 20; nftlb counts backends: 3 and 1 of 4" in remark
        for remark in remarks(text)
    )
    same = text.replace("weight 5", "weight 1").replace("11", "3").replace("hysteresis 5", "hysteresis 1")
    assert ((3, 1), []) == ((keepalived(same).quorum, keepalived(same).hysteresis), remarks(same))


def test_weight_0_is_drained() -> None:
    """A backend of weight 0 drains, even if it is the only backend."""
    assert ["drain"] == [backend.admin for backend in keepalived(service("lvs_sched wrr", server="weight 0")).backends]


def test_a_service_of_all_ports_leaves_out_ports_of_other_services() -> None:
    """LVS prefers the service of a single port."""
    text = service(head="192.0.2.53 0") + "\n" + service()
    first, second = parse_config(from_keepalived(text).text).pools
    assert ["192.0.2.53:1-52/udp", "192.0.2.53:54-65535/udp"] == list(map(str, first.listen))
    assert ["192.0.2.53:53/udp"] == list(map(str, second.listen))


@pytest.mark.parametrize(
    ("member", "expected"),
    [
        ("192.0.2.10-12 53", ["192.0.2.10", "192.0.2.11", "192.0.2.12"]),
        ("192.0.2.255-192.0.3.0 53", ["192.0.2.255", "192.0.3.0"]),
        ("192.0.2.14/30 53", ["192.0.2.14", "192.0.2.15"]),
    ],
)
def test_ranges(member: str, expected: list[str]) -> None:
    """A range becomes a listener for every address."""
    text = f"virtual_server_group g {{\n{member}\n}}\n{service(head='group g')}"
    assert expected == [str(listener.address) for listener in keepalived(text).listen]


def test_ranges_of_ipv6() -> None:
    """The last part of an IPv6 range is hexadecimal."""
    text = f"virtual_server_group g {{\n2001:db8::e-10 53\n}}\n{service(head='group g')}"
    text = text.replace("10.0.0.11", "2001:db8:1::1")
    assert ["2001:db8::e", "2001:db8::f", "2001:db8::10"] == [
        str(listener.address) for listener in keepalived(text).listen
    ]


def test_names_are_unique() -> None:
    """A server that has several ports gets a name for each port."""
    two = service().replace("real_server 10.0.0.11 53 {", "real_server 10.0.0.11 5301 {\n}\nreal_server 10.0.0.11 53 {")
    assert ["10.0.0.11-5301", "10.0.0.11-53"] == [backend.name for backend in keepalived(two).backends]


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", 0, "no virtual_server can be taken over"),
        ("virtual_server fwmark 1 {\n}", 1, "not taken over: virtual_server fwmark 1"),
        ("a {\n b {\n }\n", 1, "the block of 'a' is not closed by line 4; allowed: a } for each {"),
        ("}\n", 1, "} closes nothing"),
        ("{\n}", 1, "{ follows no keyword"),
        ("a 'b\n", 1, "' is not closed"),
        ("\n" + "a {\n" * 33, 34, "allowed: at most 32 deep"),
        ("$A=$A$A\n${A}", 2, "definitions within definitions"),
        ("$A=${A}${A}\n${A}", 2, "definitions"),
        (service("quorum"), 4, "quorum has no value"),
        (service(head="192.0.2.53 99999"), 1, "99999 is not a number in the range; allowed: 0 to 65535"),
        (service(head="192.0.2.300 53"), 1, "192.0.2.300 is not an address"),
        (service(head="${VIP} 53"), 1, "${VIP} is not an address"),
        (
            service(head="group nosuch"),
            1,
            "nosuch is not a virtual_server_group of this file; allowed: the file has none",
        ),
        (service(head=""), 1, "virtual_server names no service"),
        ("virtual_server_group g {\n10.0.0.0/8 53\n}\n" + service(head="group g"), 2, "10.0.0.0/8 is not a range"),
        ("virtual_server_group g {\n}\n" * 2, 3, "line 1 defines this group already"),
    ],
)
def test_syntax_errors_of_keepalived(text: str, line: int, message: str) -> None:
    """The error has its line."""
    with pytest.raises(ConfigError) as caught:
        from_keepalived(text, "k.conf")
    assert [] != [
        problem
        for problem in caught.value.problems
        if (problem.file, problem.line) == ("k.conf", line) and message in problem.message
    ]


# --- ipvsadm ----------------------------------------------------------------------------------------------------------


def test_ipvsadm_as_commands_and_as_a_table() -> None:
    """Commands and table give the same configuration."""
    saved = "ipvsadm -A -u 192.0.2.53:53 -s wrr -o\n-a -u 192.0.2.53:53 -r 10.0.0.1:53 --masquerading --weight 3\n"
    table = "UDP  192.0.2.53:53 wrr ops\n  -> 10.0.0.1:53                  Masq    3      0          0\n"
    assert parse_config(from_ipvsadm(saved).text) == parse_config(from_ipvsadm(table).text)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", 0, "no virtual service can be taken over"),
        (
            "-A -t www.example.com:http -s rr",
            1,
            "is not ADDRESS:PORT; allowed: numbers, as `ipvsadm -S -n` prints them",
        ),
        ("-A -t", 1, "-t has no value"),
        ("-A", 1, "no service"),
        ("-D -t 192.0.2.1:80", 1, "-D removes a service that was added before; allowed: -A and -a"),
        ("-A -t 192.0.2.1:80 --odd", 1, "--odd is not an option"),
        ("-a -t 192.0.2.1:80 -r 10.0.0.1:80", 1, "was added before"),
        ("-A -t 192.0.2.1:80\n-A -t 192.0.2.1:80", 2, "is there already"),
        ("-A -t 192.0.2.1:80\n-a -t 192.0.2.1:80", 2, "no server"),
        ("-A -t 192.0.2.1:80\n-a -t 192.0.2.1:80 -r 10.0.0.1:80 -w x", 2, "x is not a number"),
        ("-> 10.0.0.1:80 Masq 1 0 0", 1, "a server without a service"),
        ("TCP 192.0.2.1:80 rr\n-> 10.0.0.1:80 0 0 0 0", 2, "is not a server; allowed: the table of `ipvsadm -L -n`"),
        ("TCP 192.0.2.1:80", 1, "is not a service"),
        ("hello", 1, "hello is not a line"),
    ],
)
def test_text_that_ipvsadm_does_not_print(text: str, line: int, message: str) -> None:
    """The error has its line."""
    with pytest.raises(ConfigError) as caught:
        from_ipvsadm(text, "saved")
    assert [] != [
        problem
        for problem in caught.value.problems
        if (problem.file, problem.line) == ("saved", line) and message in problem.message
    ]


# --- arbitrary text ---------------------------------------------------------------------------------------------------

WORDS = ["{", "}", "\n", "\n", " ", '"', "'", "\\", "#", "!", "$A=", "${A}", "$A", "@x", "virtual_server",
         "real_server", "192.0.2.53", "10.0.0.1", "53", "ops", "UDP_CHECK", "misc_path", "-A", "-u", "-a", "-r",
         "->", "UDP", "rr", "192.0.2.53:53", "-m", "-w",
         "virtual=192.0.2.53:53\n", "\n\treal=10.0.0.1:53 masq", "\n\tservice=", "dns", '\n\trequest="a']  # fmt: skip


@settings(deadline=None)
@given(st.lists(st.sampled_from(WORDS) | st.text(max_size=5), max_size=60), st.sampled_from(["", " "]))
def test_any_text_is_imported_or_refused(words: list[str], between: str) -> None:
    """Arbitrary text is imported, or refused with a ConfigError."""
    for read in READERS.values():
        try:
            found = read(between.join(words), "any")
        except ConfigError:
            continue
        assert parse_config(found.text)


def options(written: tuple[str, ...], most: int) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(written), max_size=most, unique_by=lambda line: line.split()[0])


CHECKS = st.sampled_from([
    "TCP_CHECK {\n}", "TCP_CHECK {\nbindto fe80::1\n}",
    "TCP_CHECK {\nconnect_port 22\n}", "PING_CHECK {\n}", "UDP_CHECK {\npayload 0\n}",
    "DNS_CHECK {\nname a.b\n}", "MISC_CHECK {\nmisc_path \"/bin/x '\"\n}", "SMTP_CHECK {\nretry 999\n}",
    "HTTP_GET {\nurl {\npath /\n}\n}", "SSL_GET {\nenable_sni\nurl {\npath x\n}\n}",
    "MISC_CHECK {\nmisc_path /bin/y\nmisc_timeout 99999999\n}", "BFD_CHECK {\nname x\n}",
])  # fmt: skip
SERVER_OPTIONS = (
    "weight 0", "weight 1", "weight 7", "weight 60000", "notify_up /bin/u", "notify_up \"/bin/u '\x01'\"",
    "notify_down /bin/d root", "lvs_method TUN", "delay_loop 0.5", "alpha", "odd thing",
)  # fmt: skip
SERVICE_OPTIONS = (
    "protocol UDP", "protocol TCP", "protocol SCTP", "ops", "lvs_sched rr", "lvs_sched wrr", "lvs_sched sh",
    "lb_algo lc", "lb_algo odd", "lvs_method DR", "lvs_method NAT", "lb_kind TUN", "quorum 2", "quorum 999999",
    "hysteresis 1", "hysteresis 99", "sorry_server 10.0.0.9 53", "sorry_server 10.0.0.1", "sorry_server 2001:db8::9 54",
    "sorry_server ::1 53",
    "persistence_timeout 5", "alpha", "delay_loop 0", "quorum_up \"/bin/q 'a b' #\"", "quorum_down /bin/q", "odd",
)  # fmt: skip
HEADS = (
    "192.0.2.53 53", "192.0.2.53 54", "192.0.2.53", "2001:db8::53 53", "fwmark 1", "group g",
    "127.0.0.1 53", "fe80::53 53",
)  # fmt: skip
ADDRESSES = st.sampled_from(["10.0.0.1", "10.0.0.2", "127.0.0.1", "2001:db8::1", "::1", "fe80::1"])
PORTS = st.sampled_from(["", "0", "53", "5353"])


@st.composite
def real_servers(draw: st.DrawFn) -> str:
    inner = draw(options(SERVER_OPTIONS, 4)) + draw(st.lists(CHECKS, max_size=2))
    return "\n".join([f"real_server {draw(ADDRESSES)} {draw(PORTS)} {{", *inner, "}"])


@st.composite
def virtual_servers(draw: st.DrawFn) -> str:
    inner = draw(options(SERVICE_OPTIONS, 6)) + draw(st.lists(real_servers(), max_size=4))
    return "\n".join([f"virtual_server {draw(st.sampled_from(HEADS))} {{", *inner, "}"])


GROUP = "virtual_server_group g {\n192.0.2.60-61 53\n192.0.2.62 54\n2001:db8::60 53\n192.0.2.63\nfwmark 3\n}\n"


@settings(max_examples=300, deadline=None)
@given(st.lists(virtual_servers(), min_size=1, max_size=3))
def test_every_import_from_keepalived_is_valid(services: list[str]) -> None:
    """Or it is refused because no service is left. Every remark is in the text."""
    try:
        found = from_keepalived(GROUP + "\n".join(services), "k")
    except ConfigError as error:
        assert "can be taken over" in str(error)  # noqa: PT017 - it need not be raised
        return
    assert parse_config(found.text).pools
    assert all(f"(line {remark.line})" in found.text for remark in found.remarks)


if __name__ == "__main__":
    for source in SOURCES:
        made = imported(source)
        source.with_name(f"{source.name}.yaml").write_text(made.text)
        source.with_name(f"{source.name}.remarks").write_text("".join(f"{remark}\n" for remark in made.remarks))
    sys.exit()


EVERYWHERE = {
    "keepalived": (
        from_keepalived,
        "virtual_server {a} 53 {{\n protocol UDP\n lb_kind {m}\n real_server {s} 53 {{\n }}\n}}\n",
        ("NAT", "DR"),
    ),
    "ldirectord": (
        from_ldirectord,
        "virtual{six}={b}:53\n\treal{six}={c}:53 {m}\n\tprotocol=udp\n\tscheduler=rr\n",
        ("masq", "gate"),
    ),
    "ipvsadm": (from_ipvsadm, "-A -u {b}:53 -s rr\n-a -u {b}:53 -r {c}:53 {m}\n", ("-m", "-g")),
}
"""By program: the import, a service, and the words for NAT and direct routing."""


@pytest.mark.parametrize("tool", EVERYWHERE)
@pytest.mark.parametrize(("address", "server"), [("0.0.0.0", "10.0.0.1"), ("::", "2001:db8::1")])  # noqa: S104
def test_a_service_of_any_address(tool: str, address: str, server: str) -> None:
    """With NAT, the pool listens on this host. Otherwise only this service is left out. Each has a remark."""
    read, form, words = EVERYWHERE[tool]
    six = "6" if ":" in address else ""
    brackets = {"b": f"[{address}]" if six else address, "c": f"[{server}]" if six else server, "six": six}
    nat, direct = (form.format(a=address, s=server, m=word, **brackets) for word in words)
    other = form.format(a="192.0.2.1", s="10.0.0.2", m=words[0], b="192.0.2.1", c="10.0.0.2", six="")

    found = read(nat, "f")
    assert [f"{brackets['b']}:53/udp"] == [str(one) for one in parse_config(found.text).pools[0].listen]
    assert any(f"{address}: LVS balances packets to this address only" in str(remark) for remark in found.remarks)
    kept = read(other + direct, "f")
    assert ["192.0.2.1:53/udp"] == [str(one) for pool in parse_config(kept.text).pools for one in pool.listen]
    assert any("each backend would need all addresses of this host" in str(remark) for remark in kept.remarks)


def test_a_server_by_name_beside_a_service_of_any_address() -> None:
    """The server's address is not known, and is not the address of the service."""
    text = from_ipvsadm("-A -u 0.0.0.0:53 -s rr\n-a -u 0.0.0.0:53 -r ns1.lab:53 -m\n", "f").text
    assert ["ns1.lab"] == [named.address for named in parse_config(text).pools[0].named]
