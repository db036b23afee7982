"""Translates keepalived's health checks. No I/O.

A check without a counterpart becomes a remark only. A check with a similar counterpart is kept, with a remark.
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Any

from nftlb.config.reading import shown_duration
from nftlb.errors import ConfigError
from nftlb.model.kinds import is_link_local
from nftlb.model.patterns import BadPattern, compiled
from nftlb.printable import show

from .draft import LAST_MARK, LAST_PORT, is_valid_check, parse_interface
from .fit_checks import wrap_keepalived_program
from .keepalived_statements import hidden_services
from .keepalived_values import (
    CONNECT_TIMEOUT,
    DELAY_LOOP,
    TIMING_KEYS,
    EffectiveStatements,
    TimingReader,
    ignoring_bad_value,
    is_on,
    note_without_counterpart,
    optional_address,
    optional_name,
    optional_number,
    required_value,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from .draft import Check, DraftServer
    from .keepalived_statements import Statement
    from .keepalived_values import Timing

_DEFAULT_RETRY = {"DNS_CHECK": 3, "MISC_CHECK": 0}
_DEFAULT_DELAY = {"HTTP_GET": 3_000, "SSL_GET": 3_000}
_DNS_TYPES = {"A", "NS", "CNAME", "SOA", "MX", "TXT", "AAAA", "RRSIG", "DNSKEY"}
_MOST = 255
_LONGEST_MISC = 4294
_HEXADECIMAL = re.compile(r"[0-9A-Fa-f]+")
_STATUS = re.compile(r"[1-5][0-9]{2}(?:-[1-5][0-9]{2})?")
_WITHOUT_OPTIONS = {"BFD_CHECK", "FILE_CHECK"}
_URL_LISTS = {"status_code", "regex_options"}

# Options that change only how an expression is compiled, or that ask for behaviour that RE2 always has.
_SAME_REGEX = {
    "auto_callout", "dupnames", "never_backslash_c", "never_ucp", "never_utf", "no_auto_capture", "no_auto_possess",
    "no_dotstar_anchor", "no_start_optimize", "ucp", "ungreedy", "utf",
}  # fmt: skip
_REGEX_FLAGS = {"caseless": "i", "multiline": "m", "dotall": "s", "extended": ""}


def split_program(text: str) -> list[str]:
    """Split a command into program and arguments, as keepalived does."""
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()


def read_checks(statement: Statement, outer: Timing, virtualhost: str | None, server: DraftServer) -> list[Check]:
    """Translate a block such as `TCP_CHECK {}`: one check, one for each URL, or none."""
    return _Block(statement, outer, virtualhost, server).checks()


class _Block:
    """Reads one block. Statements that no method used become remarks."""

    def __init__(self, statement: Statement, outer: Timing, virtualhost: str | None, server: DraftServer) -> None:
        self._statement = statement
        self._server = server
        self._notes = server.notes
        self._virtualhost = virtualhost
        self._effective = EffectiveStatements(self._notes)
        self._own = TimingReader(self._notes, self._effective, least_retry=0)
        self._rest: dict[str, list[Statement]] = {}
        if statement.values:
            self._notes.missing(statement.line, f"{statement}: the words after the keyword")
        for inner in statement.block or []:
            if inner.key == "host" and statement.key == "SMTP_CHECK":
                self._host(inner)
            elif self._is_timing(inner.key):
                self._own.read(inner)
            else:
                self._rest.setdefault(inner.key, []).append(inner)
        self._timing = outer.inner(self._own.values)

    def _is_timing(self, key: str) -> bool:
        kind = self._statement.key
        return (
            key in TIMING_KEYS
            and kind not in _WITHOUT_OPTIONS
            and not (key == "connect_timeout" and kind == "MISC_CHECK")
            and not (key == "nb_get_retry" and kind not in {"HTTP_GET", "SSL_GET"})
        )

    def _host(self, host: Statement) -> None:
        """Read the older form of SMTP_CHECK, with a block for address and port."""
        for statement in host.block or []:
            if self._is_timing(statement.key):
                self._own.read(statement)
            else:
                self._rest.setdefault(statement.key, []).append(statement)

    def checks(self) -> list[Check]:
        kind = self._statement.key
        ways = {} if kind in _WITHOUT_OPTIONS | {"MISC_CHECK"} else self._connection()
        found = CHECK_KINDS[kind](self)
        common = self._times() | ways
        for statement in (statement for several in self._rest.values() for statement in several):
            note_without_counterpart(statement, kind, self._notes)
            for lost in hidden_services(statement):
                self._notes.missing(lost.line, f"{lost}: it is inside {kind}, where keepalived ignores it")
        line = self._statement.line
        return [{**check, **common} for check in found if is_valid_check(check, self._notes, line, kind)]

    def _connection(self) -> dict[str, Any]:
        """The port to connect to; and the source address, interface and mark to connect with."""
        ways: dict[str, Any] = {}
        if ip := self._last("connect_ip"):
            address = optional_address(ip, self._notes)
            if address not in {None, self._server.address}:
                what = "a check connects to the backend only"
                self._notes.missing(ip.line, f"{ip} of {self._statement.key}: {what}")
        if port := self._last("connect_port"):
            ways["port"] = optional_number(port, self._notes, 1, LAST_PORT)
        source, device = self._last("bindto"), self._last("bind_if")
        if device:
            try:
                ways["device"] = parse_interface(required_value(device), device.line)
            except ConfigError as error:
                self._notes.missing(device.line, f"{device}: {error.problems[0].message}")
        if source and (address := optional_address(source, self._notes)) is not None:
            if is_link_local(address) and "device" not in ways:
                self._notes.missing(source.line, f"{source}: a link-local address needs its interface, bind_if")
            elif address.version != self._server.address.version:
                self._notes.missing(source.line, f"{source}: another family than the server's")
            else:
                ways["source"] = str(address)
        if mark := self._last("fwmark"):
            ways["mark"] = optional_number(mark, self._notes, 0, LAST_MARK)
        # A mark of 0 means no mark.
        return {key: ways[key] for key in ("port", "source", "device", "mark") if ways.get(key)}

    def _last(self, key: str) -> Statement | None:
        """Return the last statement of a keyword, which has an effect; earlier statements become remarks."""
        several = self._rest.pop(key, [])
        for statement in several:
            self._effective.keep_last(key, statement)
        return several[-1] if several else None

    def _times(self) -> dict[str, Any]:
        kind = self._statement.key
        values = self._timing.values
        interval = values.get("delay_loop", DELAY_LOOP)
        again = values.get("delay_before_retry", interval if kind == "DNS_CHECK" else _DEFAULT_DELAY.get(kind, 1000))
        timeout = values.get("connect_timeout", CONNECT_TIMEOUT)
        if kind == "MISC_CHECK":
            timeout = self._misc_timeout()
        times: dict[str, Any] = {
            "interval": shown_duration(interval),
            "fast_interval": shown_duration(again),
            "timeout": shown_duration(timeout),
            "rise": 1,
            "fall": min(values.get("retry", _DEFAULT_RETRY.get(kind, 1)) + 1, _MOST),
        }
        if values.get("alpha"):
            times["initial"] = "down"
        return times

    def _misc_timeout(self) -> int:
        """The time-out in milliseconds: misc_timeout or, if that is missing or 0, the delay_loop of the service."""
        given = self._last("misc_timeout")
        found = None if given is None else optional_number(given, self._notes, 0, _LONGEST_MISC)
        return 1000 * found if found else self._timing.service_delay

    # --- one for each kind --------------------------------------------------------------------------------------------

    def smtp(self) -> list[Check]:
        self._notes.changed(self._statement.line, "SMTP_CHECK: nftlb reads the greeting, and sends no HELO")
        return [{"tcp": {"match": "^220"}}]

    def dns(self) -> list[Check]:
        name, kind = self._last("name"), self._last("type")
        options = {"name": ".", "type": "SOA"}
        if name is not None:
            options["name"] = required_value(name)
            if ".." in options["name"]:
                self._notes.missing(name.line, f"{name}: it has an empty label; keepalived ignores it, and queries .")
                options["name"] = "."
        if kind is not None:
            options["type"] = required_value(kind).upper()
            if options["type"] not in _DNS_TYPES:
                self._notes.missing(
                    kind.line,
                    f"{kind}: {show(options['type'])} is not a type that keepalived can query; keepalived queries SOA",
                )
                options["type"] = "SOA"
        return [{"dns": options}]

    def udp(self) -> list[Check]:
        options: dict[str, Any] = {}
        payload, reply = self._last("payload"), self._last("require_reply")
        if payload is not None and self._is_hex(payload, ""):
            options["send_hex"] = _hex(" ".join(payload.values))
        if reply is None:
            options["expect"] = "no-icmp-error"
        elif reply.values and self._is_hex(reply, "xX"):
            options |= self._lengths()
            expected = " ".join(reply.values)
            if "x" in expected.lower():
                self._notes.changed(reply.line, f"{reply}: nftlb accepts any reply")
            else:
                options["match_hex"] = _hex(expected)
                self._notes.changed(reply.line, f"{reply}: nftlb accepts these bytes anywhere in the reply")
        return [{"udp": options}]

    def _is_hex(self, statement: Statement, besides: str) -> bool:
        digits = "".join(statement.values)
        if not digits:
            return False
        if not _HEXADECIMAL.fullmatch(digits.translate(dict.fromkeys(map(ord, besides), "0"))):
            self._notes.missing(statement.line, f"{statement}: not bytes in hexadecimal; keepalived ignores it")
            return False
        return True

    def _lengths(self) -> dict[str, int]:
        """The bounds for the length of a reply. keepalived uses them only with the bytes of require_reply."""
        found: dict[str, int] = {}
        for end in ("min", "max"):
            statement = self._last(f"{end}_reply_length")
            if statement is not None and (length := optional_number(statement, self._notes, 0, LAST_PORT)) is not None:
                found[f"{end}_length"] = length
        return found

    def misc(self) -> list[Check]:
        path, dynamic = self._last("misc_path"), self._last("misc_dynamic")
        program = [] if path is None else split_program(required_value(path)) + path.values[1:]
        if not program:
            self._notes.missing(
                self._statement.line, "MISC_CHECK has no misc_path; keepalived ignores it: misc_path PROGRAM is needed"
            )
            return []
        if dynamic is not None:
            self._notes.missing(
                dynamic.line, "misc_dynamic: the weight does not change; the check `agent` can change it"
            )
        return [{"exec": wrap_keepalived_program(program, dynamic=dynamic is not None)}]

    def http(self, *, tls: bool = False) -> list[Check]:
        sni = False
        if statement := self._last("enable_sni"):
            with ignoring_bad_value(self._notes, statement):
                sni = is_on(statement)
        if virtualhost := self._last("virtualhost"):
            self._virtualhost = optional_name(virtualhost, self._notes) or self._virtualhost
        urls = self._rest.pop("url", [])
        if not urls:
            self._notes.missing(self._statement.line, f"{self._statement.key} without a url")
        return [{"http": self._url(statement, tls=tls, sni=sni and tls)} for statement in urls]

    def _url(self, url: Statement, *, tls: bool, sni: bool) -> dict[str, Any]:
        given, codes, wanted = self._of_url(url)
        options: dict[str, Any] = {}
        if "path" in given:
            options["path"] = required_value(given.pop("path"))
        else:
            self._notes.changed(url.line, "url without a path, which makes keepalived 2.2 crash: nftlb requests /")
        own = optional_name(given.pop("virtualhost"), self._notes) if "virtualhost" in given else None
        host = own or self._virtualhost
        if host is not None:
            options["host"] = host
        if "status_code" in given:
            self._statuses(given.pop("status_code"), codes, options)
        if "regex" in given:
            self._regex(given, wanted, options)
        if "digest" in given:
            options["digest"] = required_value(given.pop("digest"))
        if tls:
            options |= {"tls": True, "verify": False}
            if sni and host is not None:
                options["sni"] = host
        for statement in given.values():
            note_without_counterpart(statement, "url", self._notes)
        return options

    def _of_url(self, url: Statement) -> tuple[dict[str, Statement], list[str], list[str]]:
        """The effective statement of each keyword, then all status codes, then all regex_options."""
        given: dict[str, Statement] = {}
        effective = EffectiveStatements(self._notes)
        several: dict[str, list[str]] = {key: [] for key in _URL_LISTS}
        for statement in url.block or []:
            if statement.key in _URL_LISTS:
                several[statement.key] += statement.values
                given.setdefault(statement.key, statement)
            elif statement.key == "digest":
                if effective.keep_first("digest", statement):
                    given["digest"] = statement
            else:
                effective.keep_last(statement.key, statement)
                given[statement.key] = statement
        return given, several["status_code"], several["regex_options"]

    def _statuses(self, statement: Statement, written: list[str], options: dict[str, Any]) -> None:
        required_value(statement)
        good = []
        for code in written:
            first, _, last = code.partition("-")
            if _STATUS.fullmatch(code) and first <= (last or first):
                good.append(int(code) if code.isdecimal() else code)
            else:
                self._notes.missing(
                    statement.line, f"status_code {show(code)}: not a code from 100 to 599; keepalived ignores it"
                )
        if good:
            options["status"] = good

    def _regex(self, given: dict[str, Statement], wanted: list[str], options: dict[str, Any]) -> None:
        regex = given.pop("regex")
        letters = "".join(_REGEX_FLAGS.get(flag, "") for flag in dict.fromkeys(wanted))
        pattern = required_value(regex)
        reason = "" if set(wanted) <= _REGEX_FLAGS.keys() | _SAME_REGEX else "its regex_options"
        # In a pattern without blanks and comments, the option changes nothing.
        if "extended" in wanted and re.search(r"[\s#]", pattern):
            reason = "regex_options extended"
        body = f"(?{letters}){pattern}" if letters else pattern
        if not reason:
            try:
                compiled(body)
            except BadPattern as error:
                reason = str(error)
        if reason:
            self._notes.missing(regex.line, f"{regex} of {self._statement.key}: not in RE2's syntax: {reason}")
            return
        given.pop("regex_options", None)
        options["body_not" if given.pop("regex_no_match", None) else "body"] = body

    def nothing(self) -> list[Check]:
        self._rest = {}
        self._notes.missing(self._statement.line, f"{self._statement.key}")
        return []


def _hex(text: str) -> str:
    """Write keepalived's bytes as pairs of digits. A digit without a second digit is a separate byte."""
    pairs = []
    for group in text.split():
        pairs += [group[at : at + 2].rjust(2, "0") for at in range(0, len(group), 2)]
    return " ".join(pairs)


CHECK_KINDS: dict[str, Callable[[_Block], list[Check]]] = {
    "TCP_CHECK": lambda _: [{"tcp": {}}],
    "PING_CHECK": lambda _: [{"icmp": {}}],
    "SMTP_CHECK": _Block.smtp,
    "DNS_CHECK": _Block.dns,
    "UDP_CHECK": _Block.udp,
    "MISC_CHECK": _Block.misc,
    "HTTP_GET": _Block.http,
    "SSL_GET": lambda block: block.http(tls=True),
    "BFD_CHECK": _Block.nothing,
    "FILE_CHECK": _Block.nothing,
}
