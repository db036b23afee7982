"""The keywords of keepalived, at each level that allows them, and the result of their import.

`keywords_of` finds the keywords with keepalived itself: it writes every text in keepalived's program that can be a
keyword at each level, and keepalived complains about the texts that it does not know.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from servers.programs import data, environment, program, with_its_files

if TYPE_CHECKING:
    from collections.abc import Iterable

CONNECTING = ("TCP_CHECK", "SMTP_CHECK", "DNS_CHECK", "UDP_CHECK", "PING_CHECK", "HTTP_GET", "SSL_GET")
KINDS = (*CONNECTING, "MISC_CHECK", "BFD_CHECK", "FILE_CHECK")
LEVELS = ("virtual_server", "real_server", "url", "host", "SSL", *KINDS)
_NEEDED = {"MISC_CHECK": "misc_path /bin/x", "UDP_CHECK": "require_reply 00"}


@dataclass(frozen=True)
class Place:
    """The lines before and after a row."""

    before: tuple[str, ...]
    after: tuple[str, ...]


def place(level: str, row: str = "", number: int = 0) -> Place:
    """Return the lines around a row of a level, without the row's own keyword. `number` is that of the service."""
    service = [f"virtual_server 192.0.{2 + number // 250}.{1 + number % 250} 53 {{", "protocol UDP", "lvs_sched wrr"]
    key = row.split(maxsplit=1)[0] if row else ""
    service = [line for line in service if line.split()[0] != key]
    server = "real_server 10.0.0.11 53 {"
    check = ("TCP_CHECK {", "}")
    if level == "SSL":
        return Place(("SSL {",), ("}", *place("virtual_server").before, server, *check, "}", "}"))
    if level == "virtual_server":
        return Place(tuple(service), (server, *check, "}", "}"))
    if level == "real_server":
        return Place((*service, server), (*check, "}", "}"))
    if level == "url":
        path = () if key == "path" else ("path /",)
        return Place((*service, server, "HTTP_GET {", "url {", *path), ("}", "}", "}", "}"))
    if level == "host":
        return Place((*service, server, "SMTP_CHECK {", "host {"), ("}", "}", "}", "}"))
    inner: tuple[str, ...] = ()
    if level in {"HTTP_GET", "SSL_GET"} and key != "url":
        inner = ("url {", "path /", "}")
    elif level in _NEEDED and not _NEEDED[level].startswith(f"{key} "):
        inner = (_NEEDED[level],)
    return Place((*service, server, f"{level} {{", *inner), ("}", "}", "}"))


class Verdict(NamedTuple):
    """keepalived's exit status for a file, and its complaints by line; 0 for complaints without a line."""

    status: int
    complaints: dict[int, list[str]]


_ABOUT_THE_HOST = (
    "Config files missing", "SECURITY VIOLATION", "Unknown interface", "doesn't exist", "interface specified",
    "no scheduler set", "no forwarding method set", "loopback interface", "with no interface specified",
)  # fmt: skip
_COMPLAINT = re.compile(r"\((?:[^()]*: )?Line (\d+)\) (.*)")


def verdict(path: Path, *options: str) -> Verdict:
    """Test a file with keepalived. Complaints about this host, and notes about defaults, do not count."""
    argv = [*with_its_files("keepalived"), "-t", "-l", "-f", str(path), *options]
    done = subprocess.run(argv, capture_output=True, check=False, env=environment())
    complaints: dict[int, list[str]] = {}
    for line in (done.stdout + done.stderr).decode("utf-8", "replace").splitlines():
        if line and not any(words in line for words in _ABOUT_THE_HOST):
            match = _COMPLAINT.fullmatch(line)
            complaints.setdefault(int(match[1]) if match else 0, []).append(match[2] if match else line)
    return Verdict(done.returncode, complaints)


def words_in_program() -> set[str]:
    """All texts in keepalived's program and man page that could be keywords, and their ends: linkers merge texts."""
    found = set()
    for text in re.findall(rb"[\x20-\x7e]+(?=\0)", Path(program("keepalived")).read_bytes()):
        match = re.search(r"[A-Za-z][A-Za-z0-9_-]*$", text.decode())
        rest = match[0] if match else ""
        while len(rest) > 1:
            found.add(rest)
            rest = re.split("[_-]", rest, maxsplit=1)[1] if re.search("[_-]", rest) else ""
    return found | set(re.findall(r"[A-Za-z][A-Za-z0-9_-]+", manual()))


def manual() -> str:
    """The source of the man page, without font marks."""
    packed = data("usr/share/man/man5/keepalived.conf.5.gz")
    text = subprocess.run(["gzip", "-dc", packed], capture_output=True, check=True).stdout.decode()
    return re.sub(r"\\f[A-Z]", "", text).replace("\\-", "-").replace("\\e", "\\").replace("\\'", "'")


def keywords_of(level: str, words: Iterable[str], folder: Path) -> set[str]:
    """The words that keepalived knows at a level. `include` is known at every level, and would end the test."""
    lines: list[str] = []
    where: dict[int, str] = {}
    for word in words:
        if word.startswith("include"):
            continue
        around = place(level)
        lines += [*around.before, f"{word} 1"]
        where[len(lines)] = word
        lines += around.after
    path = folder / "words.conf"
    path.write_text("\n".join(lines) + "\n")
    result = verdict(path)
    assert result.status >= 0, f"keepalived crashed on the words for {level}"
    unknown = {
        number
        for number, said in result.complaints.items()
        if any("Unknown keyword" in complaint for complaint in said)
    }
    return {word for number, word in where.items() if number not in unknown}


# --- the table --------------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """A line at a level, and the result of its import.

    `yaml` is text that is in the result with the row, and not without it. `remark` is the beginning of a remark about
    the line. Without both, the line has no effect. `heeded`: keepalived does not complain about the line.
    """

    level: str
    line: str
    yaml: str = ""
    remark: str = ""
    heeded: bool = True

    @property
    def key(self) -> str:
        return self.line.split()[0]


def _timing(level: str, least_retry: int) -> list[Row]:
    return [
        Row(level, "delay_loop 7", "interval: 7s"),
        Row(level, "delay_loop 0", remark="not taken over: delay_loop 0: 0 is not a time above 0", heeded=False),
        Row(level, "delay_loop 3x", remark="not taken over: delay_loop 3x: 3x is not a time", heeded=False),
        Row(level, "delay_before_retry 0.25", "fast_interval: 250ms"),
        Row(level, "delay_before_retry 0", "fast_interval: 10ms", "not the same: delay_before_retry 0 is 10ms here"),
        Row(level, "retry 4", "fall: 5"),
        Row(level, "retry -1", remark="not taken over: retry -1: -1 is not a number", heeded=False),
        *(
            [Row(level, "retry 0", remark="not taken over: retry 0: 0 is not a number", heeded=False)]
            if least_retry
            else [Row(level, "retry 0", "" if level == "MISC_CHECK" else "fall: 1")]
        ),
        Row(level, "warmup 3", remark="not taken over: warmup 3: nftlb always spreads the first checks"),
    ]


def _connect_timeout(level: str) -> list[Row]:
    return [
        Row(level, "connect_timeout 2.5", "timeout: 2500ms"),
        Row(level, "connect_timeout 0", remark="not taken over: connect_timeout 0: 0 is not a time", heeded=False),
        Row(level, "connect_timeout 99999", remark="not taken over: connect_timeout 99999: 99999 is too", heeded=False),
    ]


def _alpha(level: str) -> list[Row]:
    return [
        Row(level, "alpha", "initial: down"),
        Row(level, "alpha on", "initial: down"),
        Row(level, "alpha no"),
        Row(level, "alpha 1", remark="not taken over: alpha 1: 1 is not a boolean", heeded=False),
    ]


def _connecting(level: str) -> list[Row]:
    """The rows of all checks that connect."""
    other = "" if level == "host" else level
    kind = "SMTP_CHECK" if level == "host" else other
    return [
        Row(level, "connect_ip 10.0.0.11"),
        Row(level, "connect_ip 10.0.0.9", remark=f"not taken over: connect_ip 10.0.0.9 of {kind}: a check connects to"),
        Row(level, "connect_ip x", remark="not taken over: connect_ip x: x is not an address", heeded=False),
        Row(level, "connect_port 22", "port: 22"),
        Row(level, "connect_port 0", remark="not taken over: connect_port 0: 0 is not a number", heeded=False),
        Row(level, "bindto 10.0.0.1", "source: 10.0.0.1"),
        Row(level, "bindto x", remark="not taken over: bindto x: x is not an address", heeded=False),
        Row(
            level,
            "bindto 2001:db8::1",
            remark="not taken over: bindto 2001:db8::1: another family",
            heeded=level == "SMTP_CHECK",
        ),
        Row(level, "bind_if lo", "device: lo"),
        Row(level, "bind_port 4000", remark=f"not taken over: bind_port 4000 of {kind}"),
        Row(level, "fwmark 16", "mark: 16"),
        Row(level, "fwmark 0"),
        Row(level, "fwmark 4294967296", remark="not taken over: fwmark 4294967296: 4294967296 is not a", heeded=False),
        Row(level, "log_all_failures", remark=f"not taken over: log_all_failures of {kind}"),
        *_timing(level, 0),
        *_connect_timeout(level),
        *_alpha(level),
    ]


def _http(level: str) -> list[Row]:
    return [
        *_connecting(level),
        Row(level, "nb_get_retry 6", "fall: 7", heeded=False),
        Row(level, "virtualhost a.example", "host: a.example"),
        Row(level, "virtualhost", remark="not taken over: virtualhost: it has no value", heeded=False),
        Row(level, "http_protocol 1.1", remark=f"not taken over: http_protocol 1.1 of {level}"),
        Row(level, "fast_recovery", remark=f"not taken over: fast_recovery of {level}"),
        Row(level, "enable_sni off"),
        Row(level, "enable_sni 1", remark="not taken over: enable_sni 1: 1 is not a boolean", heeded=False),
        Row(level, "url { path /deep }", "path: /deep"),
    ]


def _named(level: str, *keys: str) -> list[Row]:
    return [Row(level, key, remark=f"not taken over: {key}") for key in keys]


TABLE = [
    # --- the service
    Row("virtual_server", "lvs_sched rr", "round-robin  # was rr"),
    Row(
        "virtual_server",
        "lvs_sched nosuch",
        remark="not taken over: lvs_sched nosuch: nosuch is not a sch",
        heeded=False,
    ),
    Row("virtual_server", "lb_algo sh", "balance: hash"),
    Row("virtual_server", "lvs_method DR", "forward: dsr"),
    Row("virtual_server", "lb_kind DR", "forward: dsr"),
    Row("virtual_server", "lvs_method TUN", "encap: ipip"),
    Row("virtual_server", "lvs_method TUN type ipip", "encap: ipip"),
    Row("virtual_server", "lvs_method TUN type gre", "encap: gre"),
    Row(
        "virtual_server",
        "lvs_method TUN type gue port 6080",
        "encap: ipip",
        "not taken over: lvs_method TUN type gue port 6080: nftlb has tunnels of IP in IP and of GRE only",
    ),
    Row(
        "virtual_server",
        "lvs_method FNAT",
        remark="not taken over: lvs_method FNAT: FNAT is a method of dpvs",
        heeded=False,
    ),
    Row("virtual_server", "lvs_method GRE", remark="not taken over: lvs_method GRE: GRE is not a method", heeded=False),
    Row("virtual_server", "protocol SCTP", "/sctp"),
    Row("virtual_server", "ops", "balance: round-robin  # was wrr\n    backends"),
    Row("virtual_server", "persistence_timeout", "balance: hash", "not the same: persistence_timeout: balance: hash"),
    Row("virtual_server", "persistence_timeout 9", "balance: hash", "not the same: persistence_timeout 9: balance"),
    Row("virtual_server", "persistence_timeout 0", remark="not taken over: persistence_timeout 0: 0 is", heeded=False),
    Row("virtual_server", "persistence_granularity 255.255.255.0", 'key: "source/24"'),
    Row("virtual_server", "quorum 1"),
    Row("virtual_server", "quorum 0", remark="not taken over: quorum 0: 0 is not a number", heeded=False),
    Row("virtual_server", "quorum x", remark="not taken over: quorum x: x is not a number", heeded=False),
    Row("virtual_server", "hysteresis 0"),
    Row("virtual_server", "hysteresis -1", remark="not taken over: hysteresis -1: -1 is not a number", heeded=False),
    Row("virtual_server", "weight 3", "weight: 3"),
    Row("virtual_server", "weight 0", remark="not taken over: weight 0: 0 is not a number", heeded=False),
    Row("virtual_server", "virtualhost a.example"),
    Row("virtual_server", "virtualhost", remark="not taken over: virtualhost: it has no value", heeded=False),
    Row("virtual_server", "inhibit_on_failure", remark="not the same: inhibit_on_failure: keepalived keeps conn"),
    Row("virtual_server", "quorum_up /bin/true", "quorum_up: [/bin/true]"),
    Row("virtual_server", "quorum_down /bin/true", "quorum_down: [/bin/true]"),
    Row("virtual_server", "sorry_server 10.0.0.9 53", "fallback: 10.0.0.9:53"),
    Row("virtual_server", "sorry_server 10.0.0.9 53 53", "fallback: 10.0.0.9:53", "not taken over: sorry_server 10.0"),
    Row("virtual_server", "sorry_server_inhibit", remark="not taken over: sorry_server_inhibit", heeded=False),
    Row("virtual_server", "sorry_server_lvs_method NAT", heeded=False),
    Row(
        "virtual_server",
        "sorry_server_lvs_method DR",
        remark="not taken over: sorry_server_lvs_method DR",
        heeded=False,
    ),
    Row(
        "virtual_server",
        "real_server 10.0.0.12 53 { weight 3 }",
        "10.0.0.12, port: 53, weight: 3",
        "not the same: checks of 10.0.0.12 (none) differ",
    ),
    Row(
        "virtual_server",
        "real_server 10.0.0.12 53 53 { weight 3 }",
        "10.0.0.12, port: 53",
        "not taken over: real_server",
    ),
    Row("virtual_server", "include /nonexistent.conf", remark="not taken over: include /nonexistent.conf: the file is"),
    Row("virtual_server", "alpha", "initial: down"),
    Row("virtual_server", "alpha 1", "initial: down"),
    Row(
        "virtual_server", "alpha off", "initial: down", "not the same: alpha off: it is on, because keepalived ignores"
    ),
    *_timing("virtual_server", 1),
    *_connect_timeout("virtual_server"),
    *_named("virtual_server", "flag-1", "flag-2", "flag-3", "ha_suspend", "omega", "smtp_alert"),
    *_named("virtual_server", "ip_family inet", "persistence_engine sip", "snmp_name x"),
    *(
        Row("virtual_server", key, remark=f"not taken over: {key}", heeded=False)
        for key in ("hashed", "mh-fallback", "mh-port", "sh-fallback", "sh-port")
    ),
    Row("virtual_server", "nosuch 1", remark="not taken over: nosuch 1: not a keyword of keepalived", heeded=False),
    # --- its real servers
    Row("real_server", "weight 3", "weight: 3"),
    Row("real_server", "weight 0", "admin: drain"),
    Row("real_server", "weight -1", remark="not taken over: weight -1: -1 is not a number", heeded=False),
    Row("real_server", "lvs_method DR", "forward: dsr"),
    Row("real_server", "lvs_method X", remark="not taken over: lvs_method X: X is not a method", heeded=False),
    Row("real_server", "notify_up /bin/true", "backend_up: [/bin/true]"),
    Row("real_server", "notify_down '/bin/true a'", "backend_down: [/bin/true, a]"),
    Row("real_server", "virtualhost a.example"),
    Row("real_server", "virtualhost", remark="not taken over: virtualhost: it has no value", heeded=False),
    Row("real_server", "inhibit_on_failure", remark="not the same: inhibit_on_failure: keepalived keeps conn"),
    Row("real_server", "inhibit_on_failure no"),
    Row("real_server", "inhibit_on_failure 1", remark="not taken over: inhibit_on_failure 1: 1 is", heeded=False),
    Row("real_server", "include /nonexistent.conf", remark="not taken over: include /nonexistent.conf: the file is"),
    *_timing("real_server", 1),
    *_connect_timeout("real_server"),
    *_alpha("real_server"),
    *_named("real_server", "uthreshold 9", "lthreshold 1", "smtp_alert", "snmp_name x"),
    Row("real_server", "lb_kind DR", remark="not taken over: lb_kind DR: not a keyword of keepalived", heeded=False),
    Row("real_server", "TCP_CHECK { connect_port 7 }", "port: 7"),
    Row("real_server", "PING_CHECK { }", "icmp: {}"),
    Row("real_server", "SMTP_CHECK { }", "^220", "not the same: SMTP_CHECK: nftlb reads the greeting"),
    Row("real_server", "DNS_CHECK { }", 'dns: {name: ".", type: SOA}'),
    Row("real_server", "UDP_CHECK { }", "no-icmp-error"),
    Row("real_server", "MISC_CHECK { misc_path /bin/true }", "exec:"),
    Row("real_server", "HTTP_GET { url { path /a } }", "path: /a"),
    Row("real_server", "SSL_GET { url { path /a } }", "tls: true"),
    Row("real_server", "BFD_CHECK { name x }", remark="not taken over: BFD_CHECK", heeded=False),
    Row("real_server", "FILE_CHECK { track_file x }", remark="not taken over: FILE_CHECK", heeded=False),
    # --- its checks
    *(row for kind in ("TCP_CHECK", "SMTP_CHECK", "DNS_CHECK", "UDP_CHECK", "PING_CHECK") for row in _connecting(kind)),
    *_connecting("host"),
    *_http("HTTP_GET"),
    *_http("SSL_GET"),
    Row("SMTP_CHECK", "helo_name x", remark="not taken over: helo_name x of SMTP_CHECK"),
    Row("SMTP_CHECK", "host { connect_port 22 }", "port: 22"),
    Row("DNS_CHECK", "type aaaa", "type: AAAA"),
    Row("DNS_CHECK", "type PTR", remark="not taken over: type PTR: PTR is not a type", heeded=False),
    Row("DNS_CHECK", "name dns.example", "name: dns.example"),
    Row("DNS_CHECK", "name a..b", remark="not taken over: name a..b: it has an empty label", heeded=False),
    Row("UDP_CHECK", "payload 00 f", 'send_hex: "00 0f"'),
    Row("UDP_CHECK", "payload xyz", remark="not taken over: payload xyz: not bytes", heeded=False),
    Row(
        "UDP_CHECK",
        "require_reply 0a",
        "match_hex: ",
        "not the same: require_reply 0a: nftlb accepts these bytes anywhere",
    ),
    Row("UDP_CHECK", "require_reply zz", remark="not taken over: require_reply zz: not bytes", heeded=False),
    Row("UDP_CHECK", "min_reply_length 1", "min_length: 1"),
    Row("UDP_CHECK", "max_reply_length 9", "max_length: 9"),
    Row(
        "UDP_CHECK", "max_reply_length x", remark="not taken over: max_reply_length x: x is not a number", heeded=False
    ),
    Row("MISC_CHECK", "misc_path /bin/true", "/bin/true"),
    Row("MISC_CHECK", "misc_path '/bin/true -H 10.0.0.11 53'", '\\"$NFTLB_ADDRESS\\" \\"$NFTLB_PORT\\"'),
    Row("MISC_CHECK", "misc_timeout 3", "timeout: 3s"),
    Row("MISC_CHECK", "misc_timeout 0"),
    Row("MISC_CHECK", "misc_timeout x", remark="not taken over: misc_timeout x: x is not a number", heeded=False),
    Row("MISC_CHECK", "misc_dynamic", "test $? -ne 1", "not taken over: misc_dynamic: the weight does not change"),
    Row("MISC_CHECK", "user root", remark="not taken over: user root of MISC_CHECK"),
    Row("MISC_CHECK", "log_all_failures", remark="not taken over: log_all_failures of MISC_CHECK"),
    Row("MISC_CHECK", "connect_timeout 3", remark="not taken over: connect_timeout 3 of MISC_CHECK: not", heeded=False),
    *_timing("MISC_CHECK", 0),
    *_alpha("MISC_CHECK"),
    # --- the URLs of checks
    Row("url", "path /a", "path: /a"),
    Row("url", "virtualhost a.example", "host: a.example"),
    Row("url", "status_code 200-204 301", 'status: ["200-204", 301]'),
    Row("url", "status_code 99", remark="not taken over: status_code 99: not a code from 100 to 599", heeded=False),
    Row("url", "digest 9b3a0c85a887a256d6939da88aabd8cd", "digest: "),
    Row("url", "regex ^ok", 'body: "^ok"'),
    *_named("url", "regex_no_match", "regex_options caseless", "regex_stack 1 2"),
    *_named("url", "regex_min_offset 3", "regex_max_offset 9"),
]
"""Each keyword has at least one row for each level that allows it."""

INSIDE_A_BLOCK_THAT_IS_LEFT_OUT = {"BFD_CHECK", "FILE_CHECK", "SSL"}
"""Levels whose whole block is left out, with one remark."""
