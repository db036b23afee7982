"""keepalived's health checks as ours. No I/O.

A check that can't be taken over is noted and left out; one that can only nearly is noted and kept.
"""

from __future__ import annotations

import re
import shlex
from collections import ChainMap
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from nftlb.model.checks import CHECKS
from nftlb.model.kinds import is_link_local
from nftlb.model.reading import show

from . import read
from .remark import fault

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .draft import Check, Notes
    from .statements import Statement

TIMING = {"connect_timeout", "retry", "delay_before_retry", "delay_loop", "alpha", "warmup"}
Timing = ChainMap[str, "Statement"]
_TRUE, _FALSE = {"on", "true", "yes"}, {"off", "false", "no"}
_DELAY_LOOP = 60_000
_CONNECT_TIMEOUT = 5_000
_LONGEST = 24 * 3_600_000
_SHORTEST = 10
_DEFAULT_RETRY = {"DNS_CHECK": 3, "MISC_CHECK": 0}
_DEFAULT_DELAY = {"HTTP_GET": 3_000, "SSL_GET": 3_000}
_TIMER = re.compile(r"[0-9]{1,9}(?:\.[0-9]{0,9})?|\.[0-9]{1,9}")
_MOST = 255

# keepalived has a program's exit status 1 for a failure, a plugin of Nagios for a warning.
_ONE_IS_BAD = ["/bin/sh", "-c", '"$@" || exit 2', "sh"]
_ONLY_ONE_IS_BAD = ["/bin/sh", "-c", '"$@"; test $? -ne 1 || exit 2', "sh"]


def truth(statement: Statement, file: str) -> bool:
    """Whether an option is on; it is if it says nothing more."""
    if not statement.values:
        return True
    word = statement.values[0].lower()
    if word not in _TRUE | _FALSE:
        raise fault(file, statement.line, f"{show(word)} is not a boolean; allowed: on, off, true, false, yes, no")
    return word in _TRUE


def value(statement: Statement, file: str) -> str:
    """The value that a statement has to have."""
    if not statement.values:
        raise fault(file, statement.line, f"{statement.key} has no value; allowed: {statement.key} VALUE")
    return statement.values[0]


def argv(text: str) -> list[str]:
    """A program with its arguments, as keepalived splits them."""
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()


def checks(statement: Statement, outer: Timing, virtualhost: str | None, notes: Notes) -> list[Check]:
    """The checks that a block like `TCP_CHECK {}` is: one, or for several URLs several, or none."""
    return _Block(statement, outer, virtualhost, notes).checks()


class _Block:
    """One block; what nobody has looked at when it is read is noted."""

    def __init__(self, statement: Statement, outer: Timing, virtualhost: str | None, notes: Notes) -> None:
        self._statement = statement
        self._notes = notes
        self._file = notes.file
        self._virtualhost = virtualhost
        inner = statement.block or []
        self._timing: Mapping[str, Statement] = outer.new_child({one.key: one for one in inner if one.key in TIMING})
        self._rest = [one for one in inner if one.key not in TIMING]

    def checks(self) -> list[Check]:
        kind = self._statement.key
        ways = self._ways()
        found = KINDS[kind](self)
        common = self._times() | ways
        for one in self._rest:
            self._notes.missing(one.line, f"{one} of {kind}")
        return [{**one, **common} for one in found if self._valid(one)]

    def _ways(self) -> dict[str, Any]:
        """Where it goes, and how it leaves."""
        ways: dict[str, Any] = {}
        if port := self._take("connect_port"):
            ways["port"] = read.number(value(port, self._file), self._file, port.line, 1, read.LAST_PORT)
        source, device = self._take("bindto"), self._take("bind_if")
        if source:
            address = read.address(value(source, self._file), self._file, source.line)
            if is_link_local(address) and not device:
                self._notes.missing(source.line, f"{source}: a link-local address needs its interface, bind_if")
            else:
                ways["source"] = str(address)
        if device:
            ways["device"] = read.interface(value(device, self._file), self._file, device.line)
        if mark := self._take("fwmark"):
            ways["mark"] = read.number(value(mark, self._file), self._file, mark.line, 0, read.LAST_MARK)
        return {key: found for key, found in ways.items() if found}  # a mark of 0 is none

    def _take(self, key: str) -> Statement | None:
        for one in self._rest:
            if one.key == key:
                self._rest.remove(one)
                return one
        return None

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
        interval = self._timer("delay_loop", _DELAY_LOOP)
        again = self._timer("delay_before_retry", interval if kind == "DNS_CHECK" else _DEFAULT_DELAY.get(kind, 1000))
        timeout = self._timer("connect_timeout", _CONNECT_TIMEOUT)
        if kind == "MISC_CHECK":
            given = self._take("misc_timeout")
            timeout = interval if given is None else self._milliseconds(given)
        retry = _DEFAULT_RETRY.get(kind, 1)
        if "retry" in self._timing:
            given = self._timing["retry"]
            retry = read.number(value(given, self._file), self._file, given.line, 0, 10**9)
        if "warmup" in self._timing and self._timing["warmup"] in (self._statement.block or []):
            self._notes.missing(
                self._timing["warmup"].line, f"{self._timing['warmup']}: first checks are spread anyway"
            )
        times: dict[str, Any] = {
            "interval": duration(interval),
            "fast_interval": duration(again),
            "timeout": duration(timeout),
            "rise": 1,
            "fall": min(retry + 1, _MOST),
        }
        if "alpha" in self._timing and truth(self._timing["alpha"], self._file):
            times["initial"] = "down"
        return times

    def _timer(self, key: str, default: int) -> int:
        return self._milliseconds(self._timing[key]) if key in self._timing else default

    def _milliseconds(self, statement: Statement) -> int:
        text = value(statement, self._file)
        if not _TIMER.fullmatch(text):
            raise fault(self._file, statement.line, f"{show(text)} is not a time; allowed: seconds, such as 3 or 0.5")
        found = round(float(text) * 1000)
        within = min(max(found, _SHORTEST), _LONGEST)
        if within != found:
            self._notes.changed(statement.line, f"{statement} is {duration(within)} here; allowed: 10ms to 24h")
        return within

    # --- one for each kind --------------------------------------------------------------------------------------------

    def tcp(self) -> list[Check]:
        return [{"tcp": {}}]

    def ping(self) -> list[Check]:
        return [{"icmp": {}}]

    def smtp(self) -> list[Check]:
        self._notes.changed(self._statement.line, "SMTP_CHECK reads the greeting here, and says no HELO")
        return [{"tcp": {"match": "^220"}}]

    def dns(self) -> list[Check]:
        options = {"name": self._text("name") or ".", "type": (self._text("type") or "SOA").upper()}
        return [{"dns": options}]

    def udp(self) -> list[Check]:
        options: dict[str, Any] = {}
        payload, reply = self._take("payload"), self._take("require_reply")
        if payload is not None:
            options["send_hex"] = _hex(
                "".join(payload.values) if len(payload.values) == 1 else " ".join(payload.values)
            )
        if reply is None:
            options["expect"] = "no-icmp-error"
        elif reply.values:
            options |= self._lengths()
            expected = " ".join(reply.values)
            if "x" in expected.lower():
                self._notes.changed(reply.line, f"{reply}: any reply will do here")
            else:
                options["match_hex"] = _hex(expected)
                self._notes.changed(reply.line, f"{reply}: the bytes may be anywhere in the reply here")
        return [{"udp": options}]

    def _lengths(self) -> dict[str, int]:
        """The bounds of a reply, which keepalived heeds only where it is told the reply's bytes."""
        given = {end: self._take(f"{end}_reply_length") for end in ("min", "max")}
        return {
            f"{end}_length": read.number(value(one, self._file), self._file, one.line, 0, read.LAST_PORT)
            for end, one in given.items()
            if one is not None
        }

    def misc(self) -> list[Check]:
        path, dynamic = self._take("misc_path"), self._take("misc_dynamic")
        if path is None:
            raise fault(self._file, self._statement.line, "MISC_CHECK has no misc_path; allowed: misc_path PROGRAM")
        program = argv(value(path, self._file))
        if len(path.values) > 1:
            program += path.values[1:]
        if not program:
            raise fault(self._file, path.line, "misc_path names no program; allowed: misc_path PROGRAM")
        if dynamic is not None:
            self._notes.missing(dynamic.line, "misc_dynamic: the weight stays; the check `agent` can change it")
        wrapper = _ONE_IS_BAD if dynamic is None else _ONLY_ONE_IS_BAD
        return [{"exec": [*wrapper, *program]}]

    def http(self, *, tls: bool = False) -> list[Check]:
        sni = self._take("enable_sni") is not None
        urls = [one for one in self._rest if one.key == "url"]
        self._rest = [one for one in self._rest if one.key != "url"]
        if not urls:
            self._notes.missing(self._statement.line, f"{self._statement.key} without a url")
        return [{"http": self._url(one.block or [], tls=tls, sni=sni)} for one in urls]

    def https(self) -> list[Check]:
        return self.http(tls=True)

    def _url(self, inner: list[Statement], *, tls: bool, sni: bool) -> dict[str, Any]:
        given = {one.key: one for one in inner}
        options: dict[str, Any] = {}
        if "path" in given:
            options["path"] = value(given["path"], self._file)
        host = value(given["virtualhost"], self._file) if "virtualhost" in given else self._virtualhost
        if host is not None:
            options["host"] = host
        if "status_code" in given:
            codes = given["status_code"]
            value(codes, self._file)
            options["status"] = [int(one) if one.isdecimal() and len(one) < 9 else one for one in codes.values]  # noqa: PLR2004
        if "regex" in given:
            self._regex(given, options)
        if "digest" in given:
            options["digest"] = value(given["digest"], self._file)
        if tls:
            options |= {"tls": True, "verify": False}
            if sni and host is not None:
                options["sni"] = host
        for key, one in given.items():
            if key not in {"path", "virtualhost", "status_code", "regex", "digest"} and not (
                key in {"regex_options", "regex_no_match"} and "body" in options
            ):
                self._notes.missing(one.line, f"{one} of {self._statement.key}")
        return options

    def _regex(self, given: dict[str, Statement], options: dict[str, Any]) -> None:
        regex = given["regex"]
        wanted = given["regex_options"].values if "regex_options" in given else []
        flags = {"caseless": "i", "multiline": "m", "dotall": "s", "extended": "x"}
        letters = "".join(flags.get(one, "") for one in dict.fromkeys(wanted))
        pattern = value(regex, self._file)
        if "regex_no_match" in given:
            end = "\n" if "x" in letters else ""  # of a comment that the pattern may end with
            pattern = rf"\A(?![\s\S]*(?:{pattern}{end}))"
        body = f"(?{letters}){pattern}" if letters else pattern
        if not set(wanted) <= flags.keys() or not _compiles(body):
            self._notes.missing(regex.line, f"{regex} of {self._statement.key}: not as a regular expression of Python")
            return
        options["body"] = body

    def nothing(self) -> list[Check]:
        self._rest = []
        self._notes.missing(self._statement.line, f"{self._statement.key}")
        return []


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError):
        return False
    return True


def _hex(text: str) -> str:
    """Keepalived's bytes, in pairs of digits: a digit without a second one is a byte of its own."""
    pairs = []
    for group in text.split():
        pairs += [group[at : at + 2].rjust(2, "0") for at in range(0, len(group), 2)]
    return " ".join(pairs)


def duration(milliseconds: int) -> str:
    """As the configuration writes it."""
    seconds, rest = divmod(milliseconds, 1000)
    return f"{milliseconds}ms" if rest else f"{seconds}s"


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
