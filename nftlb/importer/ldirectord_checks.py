"""Translates ldirectord's health checks. No I/O.

A check without a counterpart becomes a remark only. A check with a similar counterpart is kept, with a remark.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import quote

from nftlb.config.reading import Unfit, read_regex, shown_duration
from nftlb.model import Forward, IPAddress, Protocol
from nftlb.model.checks import CHECKS
from nftlb.printable import show

from .draft import Line, is_valid_check
from .fit_checks import ADDRESS, PORT

if TYPE_CHECKING:
    from collections.abc import Callable

    from .draft import Check, Draft, DraftServer
    from .ldirectord_directives import Directive, Options

CHECK_INTERVAL = 10
CHECK_TIMEOUT, NEGOTIATE_TIMEOUT = 5, 30
_LONGEST = 24 * 3600
_MOST = 255
PORTS = {
    "ftp": 21, "smtp": 25, "dns": 53, "http": 80, "pop": 110, "nntp": 119, "imap": 143, "ldap": 389, "https": 443,
    "submission": 587, "ldaps": 636, "imaps": 993, "pops": 995, "oracle": 1521, "radius": 1812, "http_proxy": 3128,
    "mysql": 3306, "sip": 5060, "pgsql": 5432,
}  # fmt: skip
"""The ports of ldirectord's services. The port of a virtual also sets its service, if none is given."""
_SERVICES = {port: service for service, port in PORTS.items()}
_GREETINGS = {
    "ftp": "^220", "smtp": "^220", "submission": "^220", "pop": r"^\+OK", "imap": r"^\* (?:OK|PREAUTH)", "nntp": "^2",
}  # fmt: skip


@dataclass(frozen=True)
class _Wanted:
    """The values that a check of a server is made from. `request` has no slash at its start; `line` is for remarks."""

    port: int | None
    request: str
    receive: str
    own: bool
    line: Line


class VirtualChecks:
    """Makes the checks of one virtual, and counts the options that they depend on as used."""

    def __init__(self, options: Options, top: Options, draft: Draft, address: IPAddress, port: int) -> None:
        self._options = options
        self._top = top
        self._draft = draft
        self._notes = draft.notes
        self._address = address
        self._port = port
        checktype, service = options.use("checktype"), options.use("service")
        self._type = "negotiate" if checktype is None else checktype.value
        self._service = _SERVICES.get(port, "none") if service is None else service.value
        self._line = next((directive.line for directive in (service, checktype) if directive is not None), draft.line)
        self._combined = self._type.isdecimal()
        self._negotiates = self._combined or self._type == "negotiate"
        self._kind = f"service {self._service}" if self._negotiates else f"checktype {self._type}"
        self._known: dict[tuple[str | None, str | None, int | None], list[Check]] = {}
        if checktype is not None and self._combined and self._service != "none" and checktype.number:
            what = f"{checktype}: nftlb always negotiates; ldirectord only connects {checktype.number} times in between"
            self._notes.changed(checktype.line, what)

    @property
    def reason_unused(self) -> str:
        """The reason why an option about checks has no effect."""
        return f"{self._kind} does not use the directive"

    def add_checks(self, server: DraftServer, request: str | None, receive: str | None) -> None:
        """Add the checks of a server. `request` and `receive` are its own, or both None."""
        if self._type == "off":
            server.weight = 0
            self._notes.changed(self._line, "checktype = off: the servers get no packets; `nftlb enable` changes that")
        key = (request, receive, server.port)
        if key not in self._known:
            self._known[key] = self._checks(server, request, receive)
        server.checks = list(self._known[key])

    def _checks(self, server: DraftServer, request: str | None, receive: str | None) -> list[Check]:
        maker = _SERVICE_CHECKS[self._service] if self._negotiates else _TYPE_CHECKS[self._type]
        own = request is not None
        if request is None and maker in _ASKING:
            request, receive = self._options.text("request"), self._options.text("receive")
        if own and maker not in _ASKING:
            self._notes.missing(server.line, f"request and receive of {server.where}: {self.reason_unused}")
        line = server.line if own else self._line
        wanted = _Wanted(server.port, (request or "").removeprefix("/"), receive or "", own, line)
        found = maker(self, wanted)
        name = f"the check of {self._kind}"
        valid = [check for check in found if is_valid_check(check, self._notes, wanted.line, name)]
        return [{**check, **self._common(next(iter(check)), wanted)} for check in valid]

    def _common(self, kind: str, wanted: _Wanted) -> dict[str, Any]:
        """The timing and the port of a check."""
        common: dict[str, Any] = {}
        if CHECKS[kind].needs_port:
            given, usual = self._options.use("checkport"), PORTS.get(self._service)
            if given is not None:
                common["port"] = given.number
            elif wanted.port is None and usual not in {None, self._port}:
                common["port"] = usual
        return self._times(kind) | common

    def _times(self, kind: str) -> dict[str, Any]:
        own = self._options.use("checkinterval") if self._top.has("fork", "yes") else None
        if own is None and (ignored := self._options.use("checkinterval")) is not None:
            self._notes.missing(
                ignored.line, f"{ignored}: without fork = yes, ldirectord uses only the checkinterval at the top"
            )
        interval = self._seconds(own or self._top.use("checkinterval"), CHECK_INTERVAL)
        timeout = self._timeout()
        failures = self._first((self._options, "failurecount"), (self._top, "failurecount"))
        fall = 1 if failures is None else failures.number
        again = interval
        if kind == "icmp":
            count = self._first((self._options, "checkcount"), (self._top, "checkcount"))
            if count is not None and count.number > 1:
                fall, again = fall * count.number, timeout
                what = f"{count}: fall {min(fall, _MOST)} replaces it, with the time-out of a ping between checks"
                self._notes.changed(count.line, what)
        if fall > _MOST and failures is not None:
            self._notes.changed(failures.line, f"{failures}: fall is {_MOST}, the highest value")
        return {
            "interval": shown_duration(interval * 1000),
            "fast_interval": shown_duration(again * 1000),
            "timeout": shown_duration(timeout * 1000),
            "rise": 1,
            "fall": min(fall, _MOST),
        }

    def _timeout(self) -> int:
        """The time-out of a check in seconds. Each of the two time-outs is the default of the other."""
        names = ("checktimeout", "negotiatetimeout")
        default = CHECK_TIMEOUT
        if self._negotiates and self._service != "none":
            names, default = ("negotiatetimeout", "checktimeout"), NEGOTIATE_TIMEOUT
        timeout = self._seconds(
            self._first(*((where, name) for where in (self._options, self._top) for name in names)), default
        )
        if default == NEGOTIATE_TIMEOUT and self._service in _TWO_TIMEOUTS:
            # These checks use both time-outs.
            places = ((where, name) for where in (self._options, self._top) for name in reversed(names))
            timeout = min(timeout, self._seconds(self._first(*places), CHECK_TIMEOUT))
        return timeout

    def _first(self, *places: tuple[Options, str]) -> Directive | None:
        return next((found for where, name in places if (found := where.use(name)) is not None), None)

    def _seconds(self, given: Directive | None, default: int) -> int:
        if given is None:
            return default
        if given.number > _LONGEST:
            self._notes.changed(given.line, f"{given}: nftlb uses a day; allowed: 1 to {_LONGEST} seconds")
        return min(given.number, _LONGEST)

    def _expression(self, wanted: _Wanted) -> str | None:
        """The regular expression of the expected answer; None, with a remark, if nftlb does not support it."""
        if not wanted.receive:
            return None
        try:
            return read_regex(wanted.receive)
        except Unfit:
            self._notes.missing(
                wanted.line, f"receive {show(wanted.receive)}: not a regular expression that nftlb supports"
            )
            return None

    # --- one for each checktype, and each service -------------------------------------------------------------------

    def connect(self, _: _Wanted) -> list[Check]:
        # For UDP, where a connection proves nothing, ldirectord pings too.
        return [{"icmp": {}} if self._draft.protocol is Protocol.UDP else {"tcp": {}}]

    def none(self, _: _Wanted) -> list[Check]:
        if self._combined and self._draft.protocol is Protocol.TCP:
            return [{"tcp": {}}]
        return []

    def external(self, wanted: _Wanted) -> list[Check]:
        command = self._options.use("checkcommand")
        if command is None:
            self._notes.changed(
                self._line,
                f"checktype = {self._type} without checkcommand: the servers have no check, and are always up",
            )
            return []
        if self._type == "external-perl":
            self._notes.changed(self._line, "checktype = external-perl: perl is started for each check")
        program = ["/usr/bin/perl", command.value] if self._type == "external-perl" else [command.value]
        # ldirectord gives IPv6 addresses in brackets.
        six = self._address.version == 6  # noqa: PLR2004
        service = f"[{self._address}]" if six else str(self._address)
        port = str(wanted.port or 0)
        if wanted.port and self._draft.forward is not Forward.DSR:
            port = PORT
        server = '"[' + ADDRESS[1:-1] + ']"' if six else ADDRESS  # quoted: to a shell, brackets are a pattern
        script = f'"$@" {server} {port} || exit 2'
        return [{"exec": ["/bin/sh", "-c", script, "sh", *program, service, str(self._port)]}]

    def dns(self, wanted: _Wanted) -> list[Check]:
        options: dict[str, Any] = {"name": wanted.request or ".", "type": "A"}
        with suppress(ValueError):  # a name, not an address
            options |= {"name": ip_address(wanted.request).reverse_pointer, "type": "PTR"}
        if self._draft.protocol is Protocol.TCP:
            options["transport"] = "tcp"
        if not wanted.request or not wanted.receive:
            what = (
                "service dns without request and receive: nftlb accepts any answer; to ldirectord all servers are down"
            )
            self._notes.changed(self._line, what)
        if wanted.receive:
            self._notes.missing(
                wanted.line, f"receive {show(wanted.receive)}: nftlb accepts any answer without an error"
            )
        return [{"dns": options}]

    def http(self, wanted: _Wanted) -> list[Check]:
        if wanted.own and f"{self._service}://" in wanted.request:
            self._notes.missing(wanted.line, f"request {show(wanted.request)}: a check connects to the backend only")
            return self.connection(wanted)
        path = "".join(letter if "!" <= letter <= "~" else quote(letter) for letter in wanted.request)
        options: dict[str, Any] = {"path": f"/{path}"}
        if (method := self._options.use("httpmethod")) is not None:
            options["method"] = method.value
        if host := self._options.text("virtualhost"):
            options["host"] = host
        if (body := self._expression(wanted)) is not None:
            options["body"] = body
        if self._service == "https":
            options |= {"tls": True, "verify": False}
        self._notes.changed(
            self._line, f"service {self._service}: nftlb counts a redirect as a failure; ldirectord follows redirects"
        )
        return [{"http": options}]

    def greeting(self, _: _Wanted) -> list[Check]:
        if self._service != "nntp":
            self._notes.changed(self._line, f"service {self._service}: a check only reads the server's greeting")
        return [{"tcp": {"match": _GREETINGS[self._service]}}]

    def connection(self, _: _Wanted) -> list[Check]:
        self._notes.changed(self._line, f"service {self._service}: a check only opens a connection")
        return [{"tcp": {}}]

    def radius(self, _: _Wanted) -> list[Check]:
        secret = self._options.text("secret")
        if not secret:
            self._notes.missing(self._line, "service radius without secret: no check, because a check needs the secret")
            return []
        what = "service radius: a check sends Status-Server instead of a login; the server must allow Status-Server"
        self._notes.changed(self._line, what)
        return [{"radius": {"secret": secret}}]

    def sip(self, _: _Wanted) -> list[Check]:
        options: dict[str, Any] = {"status": [200]}
        if login := self._options.text("login"):
            options["uri"] = f"sip:{login}"
        if self._draft.protocol is Protocol.TCP:
            options["transport"] = "tcp"
        return [{"sip": options}]

    def simpletcp(self, wanted: _Wanted) -> list[Check]:
        options: dict[str, Any] = {}
        if wanted.request:
            options["send"] = wanted.request.replace("\\n", "\n")
        if (match := self._expression(wanted)) is not None:
            options["match"] = match
        if self._draft.protocol is Protocol.UDP:
            return [{"udp": options}]
        if not wanted.receive:
            self._notes.changed(self._line, "service simpletcp without receive: a connection is enough")
        return [{"tcp": options}]


_TWO_TIMEOUTS = {"ldap", "ldaps", "radius"}
_Maker: TypeAlias = "Callable[[VirtualChecks, _Wanted], list[Check]]"
_TYPE_CHECKS: dict[str, _Maker] = {
    "connect": VirtualChecks.connect,
    "ping": lambda _, __: [{"icmp": {}}],
    "on": lambda _, __: [],
    "off": lambda _, __: [],
    "external": VirtualChecks.external,
    "external-perl": VirtualChecks.external,
}
_SERVICE_CHECKS: dict[str, _Maker] = {
    "none": VirtualChecks.none,
    "dns": VirtualChecks.dns,
    "http": VirtualChecks.http,
    "https": VirtualChecks.http,
    "radius": VirtualChecks.radius,
    "sip": VirtualChecks.sip,
    "simpletcp": VirtualChecks.simpletcp,
    **dict.fromkeys(_GREETINGS, VirtualChecks.greeting),
    **dict.fromkeys(
        ("http_proxy", "imaps", "pops", "ldap", "ldaps", "mysql", "oracle", "pgsql"), VirtualChecks.connection
    ),
}
_ASKING = {VirtualChecks.dns, VirtualChecks.http, VirtualChecks.simpletcp}
