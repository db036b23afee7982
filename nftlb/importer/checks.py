"""keepalived's health checks as ours. No I/O.

A check that can't be taken over is noted and left out; one that can only nearly is noted and kept.
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from nftlb.errors import ConfigError
from nftlb.model.checks import CHECKS
from nftlb.model.kinds import is_link_local
from nftlb.model.patterns import BadPattern, compiled
from nftlb.model.reading import show

from . import read, timing
from .left_out import note_left_out
from .programs import wrapped
from .said import Said, ignoring, name_of, truth, value
from .statements import buried
from .timing import duration

if TYPE_CHECKING:
    from collections.abc import Callable

    from .draft import Check, Server
    from .statements import Statement
    from .timing import Timing

_DEFAULT_RETRY = {"DNS_CHECK": 3, "MISC_CHECK": 0}
_DEFAULT_DELAY = {"HTTP_GET": 3_000, "SSL_GET": 3_000}
_DNS_TYPES = {"A", "NS", "CNAME", "SOA", "MX", "TXT", "AAAA", "RRSIG", "DNSKEY"}
_MOST = 255
_LONGEST_MISC = 4294
_HEXADECIMAL = re.compile(r"[0-9A-Fa-f]+")
_STATUS = re.compile(r"[1-5][0-9]{2}(?:-[1-5][0-9]{2})?")
_WITHOUT_OPTIONS = {"BFD_CHECK", "FILE_CHECK"}
_URL_LISTS = {"status_code", "regex_options"}

# What changes how a regular expression is compiled, or nothing that is in RE2's not so anyway.
_SAME_REGEX = {
    "auto_callout", "dupnames", "never_backslash_c", "never_ucp", "never_utf", "no_auto_capture", "no_auto_possess",
    "no_dotstar_anchor", "no_start_optimize", "ucp", "ungreedy", "utf",
}  # fmt: skip
_REGEX_FLAGS = {"caseless": "i", "multiline": "m", "dotall": "s", "extended": ""}


def argv(text: str) -> list[str]:
    """A program with its arguments, as keepalived splits them."""
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()


def checks(statement: Statement, outer: Timing, virtualhost: str | None, server: Server) -> list[Check]:
    """The checks that a block like `TCP_CHECK {}` is: one, or for several URLs several, or none."""
    return _Block(statement, outer, virtualhost, server).checks()


class _Block:
    """One block; what nobody has looked at when it is read is noted."""

    def __init__(self, statement: Statement, outer: Timing, virtualhost: str | None, server: Server) -> None:
        self._statement = statement
        self._server = server
        self._notes = server.notes
        self._file = server.notes.file
        self._virtualhost = virtualhost
        self._said = Said(self._notes)
        self._own = timing.Level(self._notes, self._said, least_retry=0)
        self._rest: dict[str, list[Statement]] = {}
        if statement.values:
            self._notes.missing(statement.line, f"{statement}: its words")
        for one in statement.block or []:
            if one.key == "host" and statement.key == "SMTP_CHECK":
                self._host(one)
            elif self._is_timing(one.key):
                self._own.take(one)
            else:
                self._rest.setdefault(one.key, []).append(one)
        self._timing = outer.inner(self._own.values)

    def _is_timing(self, key: str) -> bool:
        kind = self._statement.key
        return (
            key in timing.KEYS
            and kind not in _WITHOUT_OPTIONS
            and not (key == "connect_timeout" and kind == "MISC_CHECK")
            and not (key == "nb_get_retry" and kind not in {"HTTP_GET", "SSL_GET"})
        )

    def _host(self, host: Statement) -> None:
        """SMTP_CHECK's older form: where to connect to, in a block."""
        for one in host.block or []:
            if self._is_timing(one.key):
                self._own.take(one)
            else:
                self._rest.setdefault(one.key, []).append(one)

    def checks(self) -> list[Check]:
        kind = self._statement.key
        ways = {} if kind in _WITHOUT_OPTIONS | {"MISC_CHECK"} else self._ways()
        found = KINDS[kind](self)
        common = self._times() | ways
        for one in (one for several in self._rest.values() for one in several):
            note_left_out(one, kind, self._notes)
            for lost in buried(one):
                self._notes.missing(lost.line, f"{lost}: it is within {kind}, where keepalived looks for none")
        return [{**one, **common} for one in found if self._valid(one)]

    def _ways(self) -> dict[str, Any]:
        """Where it goes, and how it leaves."""
        ways: dict[str, Any] = {}
        if ip := self._take("connect_ip"):
            text = value(ip, self._file)
            with ignoring(self._notes, ip):
                address = read.address(text, self._file, ip.line)
                if address != self._server.address:
                    what = "a check asks the backend itself, not another address"
                    self._notes.missing(ip.line, f"{ip} of {self._statement.key}: {what}")
        if port := self._take("connect_port"):
            text = value(port, self._file)
            with ignoring(self._notes, port):
                ways["port"] = read.number(text, self._file, port.line, 1, read.LAST_PORT)
        source, device = self._take("bindto"), self._take("bind_if")
        if device:
            try:
                ways["device"] = read.interface(value(device, self._file), self._file, device.line)
            except ConfigError as error:
                self._notes.missing(device.line, f"{device}: {error.problems[0].message}")
        if source:
            text = value(source, self._file)
            with ignoring(self._notes, source):
                address = read.address(text, self._file, source.line)
                if is_link_local(address) and "device" not in ways:
                    self._notes.missing(source.line, f"{source}: a link-local address needs its interface, bind_if")
                elif address.version != self._server.address.version:
                    self._notes.missing(source.line, f"{source}: another family than the server's")
                else:
                    ways["source"] = str(address)
        if mark := self._take("fwmark"):
            text = value(mark, self._file)
            with ignoring(self._notes, mark):
                ways["mark"] = read.number(text, self._file, mark.line, 0, read.LAST_MARK)
        return {key: ways[key] for key in ("port", "source", "device", "mark") if ways.get(key)}  # a mark of 0 is none

    def _take(self, key: str) -> Statement | None:
        """The last statement of this key, which counts; the others are noted."""
        several = self._rest.pop(key, [])
        for one in several:
            self._said.last(key, one)
        return several[-1] if several else None

    def _text(self, key: str) -> str | None:
        found = self._take(key)
        return None if found is None else value(found, self._file)

    def _valid(self, check: Check) -> bool:
        ((kind, options),) = check.items()
        try:
            CHECKS[kind].model_validate(options)
        except ValidationError as error:
            words = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
            self._notes.missing(self._statement.line, f"{self._statement.key}: {words}")
            return False
        return True

    def _times(self) -> dict[str, Any]:
        kind = self._statement.key
        values = self._timing.values
        interval = values.get("delay_loop", timing.DELAY_LOOP)
        again = values.get("delay_before_retry", interval if kind == "DNS_CHECK" else _DEFAULT_DELAY.get(kind, 1000))
        timeout = values.get("connect_timeout", timing.CONNECT_TIMEOUT)
        if kind == "MISC_CHECK":
            timeout = self._misc_timeout()
        times: dict[str, Any] = {
            "interval": duration(interval),
            "fast_interval": duration(again),
            "timeout": duration(timeout),
            "rise": 1,
            "fall": min(values.get("retry", _DEFAULT_RETRY.get(kind, 1)) + 1, _MOST),
        }
        if values.get("alpha"):
            times["initial"] = "down"
        return times

    def _misc_timeout(self) -> int:
        """Without one of its own, or with 0, the service's delay_loop, whatever the check's own is."""
        found = 0
        if given := self._take("misc_timeout"):
            text = value(given, self._file)
            with ignoring(self._notes, given):
                found = 1000 * read.number(text, self._file, given.line, 0, _LONGEST_MISC)
        return found or self._timing.service_delay

    # --- one for each kind --------------------------------------------------------------------------------------------

    def tcp(self) -> list[Check]:
        return [{"tcp": {}}]

    def ping(self) -> list[Check]:
        return [{"icmp": {}}]

    def smtp(self) -> list[Check]:
        self._notes.changed(self._statement.line, "SMTP_CHECK reads the greeting here, and says no HELO")
        return [{"tcp": {"match": "^220"}}]

    def dns(self) -> list[Check]:
        name, kind = self._take("name"), self._take("type")
        options = {"name": ".", "type": "SOA"}
        if name is not None:
            options["name"] = value(name, self._file)
            if ".." in options["name"]:
                self._notes.missing(name.line, f"{name}: it has an empty label; keepalived ignores it, and asks for .")
                options["name"] = "."
        if kind is not None:
            options["type"] = value(kind, self._file).upper()
            if options["type"] not in _DNS_TYPES:
                self._notes.missing(
                    kind.line,
                    f"{kind}: {show(options['type'])} is not a type that keepalived asks for: SOA is asked for",
                )
                options["type"] = "SOA"
        return [{"dns": options}]

    def udp(self) -> list[Check]:
        options: dict[str, Any] = {}
        payload, reply = self._take("payload"), self._take("require_reply")
        if payload is not None and self._is_hex(payload, ""):
            options["send_hex"] = _hex(" ".join(payload.values))
        if reply is None:
            options["expect"] = "no-icmp-error"
        elif reply.values and self._is_hex(reply, "xX"):
            options |= self._lengths()
            expected = " ".join(reply.values)
            if "x" in expected.lower():
                self._notes.changed(reply.line, f"{reply}: any reply will do here")
            else:
                options["match_hex"] = _hex(expected)
                self._notes.changed(reply.line, f"{reply}: the bytes may be anywhere in the reply here")
        return [{"udp": options}]

    def _is_hex(self, one: Statement, besides: str) -> bool:
        digits = "".join(one.values)
        if not digits:
            return False
        if not _HEXADECIMAL.fullmatch(digits.translate(dict.fromkeys(map(ord, besides), "0"))):
            self._notes.missing(one.line, f"{one}: not bytes in hexadecimal; keepalived ignores it")
            return False
        return True

    def _lengths(self) -> dict[str, int]:
        """The bounds of a reply, which keepalived heeds only where it is told the reply's bytes."""
        found: dict[str, int] = {}
        for end in ("min", "max"):
            if one := self._take(f"{end}_reply_length"):
                text = value(one, self._file)
                with ignoring(self._notes, one):
                    found[f"{end}_length"] = read.number(text, self._file, one.line, 0, read.LAST_PORT)
        return found

    def misc(self) -> list[Check]:
        path, dynamic = self._take("misc_path"), self._take("misc_dynamic")
        program = [] if path is None else argv(value(path, self._file)) + path.values[1:]
        if not program:
            self._notes.missing(
                self._statement.line, "MISC_CHECK has no misc_path; keepalived ignores it: misc_path PROGRAM is needed"
            )
            return []
        if dynamic is not None:
            self._notes.missing(dynamic.line, "misc_dynamic: the weight stays; the check `agent` can change it")
        return [{"exec": wrapped(program, dynamic=dynamic is not None)}]

    def http(self, *, tls: bool = False) -> list[Check]:
        sni = self._sni()
        if virtualhost := self._take("virtualhost"):
            self._virtualhost = name_of(virtualhost, self._notes) or self._virtualhost
        urls = self._rest.pop("url", [])
        if not urls:
            self._notes.missing(self._statement.line, f"{self._statement.key} without a url")
        return [{"http": self._url(one, tls=tls, sni=sni and tls)} for one in urls]

    def https(self) -> list[Check]:
        return self.http(tls=True)

    def _sni(self) -> bool:
        found = False
        if one := self._take("enable_sni"):
            with ignoring(self._notes, one):
                found = truth(one, self._file)
        return found

    def _url(self, url: Statement, *, tls: bool, sni: bool) -> dict[str, Any]:
        given, codes, wanted = self._of_url(url)
        options: dict[str, Any] = {}
        if "path" in given:
            options["path"] = value(given.pop("path"), self._file)
        else:
            self._notes.changed(
                url.line, "url without a path, which keepalived 2.2 does not survive: / is asked for here"
            )
        own = name_of(given.pop("virtualhost"), self._notes) if "virtualhost" in given else None
        host = own or self._virtualhost
        if host is not None:
            options["host"] = host
        if "status_code" in given:
            self._statuses(given.pop("status_code"), codes, options)
        if "regex" in given:
            self._regex(given, wanted, options)
        if "digest" in given:
            options["digest"] = value(given.pop("digest"), self._file)
        if tls:
            options |= {"tls": True, "verify": False}
            if sni and host is not None:
                options["sni"] = host
        for one in given.values():
            note_left_out(one, "url", self._notes)
        return options

    def _of_url(self, url: Statement) -> tuple[dict[str, Statement], list[str], list[str]]:
        """What counts of each keyword; and the codes and options of all lines that name some."""
        given: dict[str, Statement] = {}
        said = Said(self._notes)
        several: dict[str, list[str]] = {key: [] for key in _URL_LISTS}
        for one in url.block or []:
            if one.key in _URL_LISTS:
                several[one.key] += one.values
                given.setdefault(one.key, one)
            elif one.key == "digest":
                if said.first("digest", one):
                    given["digest"] = one
            else:
                said.last(one.key, one)
                given[one.key] = one
        return given, several["status_code"], several["regex_options"]

    def _statuses(self, one: Statement, written: list[str], options: dict[str, Any]) -> None:
        value(one, self._file)
        good = []
        for code in written:
            first, _, last = code.partition("-")
            if _STATUS.fullmatch(code) and first <= (last or first):
                good.append(int(code) if code.isdecimal() else code)
            else:
                self._notes.missing(
                    one.line, f"status_code {show(code)}: no code from 100 to 599; keepalived ignores it"
                )
        if good:
            options["status"] = good

    def _regex(self, given: dict[str, Statement], wanted: list[str], options: dict[str, Any]) -> None:
        regex = given.pop("regex")
        letters = "".join(_REGEX_FLAGS.get(one, "") for one in dict.fromkeys(wanted))
        pattern = value(regex, self._file)
        reason = "" if set(wanted) <= _REGEX_FLAGS.keys() | _SAME_REGEX else "its regex_options"
        if "extended" in wanted and re.search(r"[\s#]", pattern):  # without blanks and comments, that changes nothing
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
    """Keepalived's bytes, in pairs of digits: a digit without a second one is a byte of its own."""
    pairs = []
    for group in text.split():
        pairs += [group[at : at + 2].rjust(2, "0") for at in range(0, len(group), 2)]
    return " ".join(pairs)


KINDS: dict[str, Callable[[_Block], list[Check]]] = {
    "TCP_CHECK": _Block.tcp,
    "PING_CHECK": _Block.ping,
    "SMTP_CHECK": _Block.smtp,
    "DNS_CHECK": _Block.dns,
    "UDP_CHECK": _Block.udp,
    "MISC_CHECK": _Block.misc,
    "HTTP_GET": _Block.http,
    "SSL_GET": _Block.https,
    "BFD_CHECK": _Block.nothing,
    "FILE_CHECK": _Block.nothing,
}
