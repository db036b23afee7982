"""ldirectord's health checks as ours. No I/O.

A check that can't be taken over is noted and left out; one that can only nearly is noted and kept.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import quote

from pydantic import ValidationError

from nftlb.model import Forward, IPAddress, Protocol
from nftlb.model.checks import CHECKS
from nftlb.model.reading import Unfit, read_regex, show

from .programs import ADDRESS, PORT
from .timing import duration

if TYPE_CHECKING:
    from collections.abc import Callable

    from .directives import Directive
    from .draft import Check, Draft, Server
    from .options import Options

CHECK_INTERVAL = 10
CHECK_TIMEOUT, NEGOTIATE_TIMEOUT = 5, 30
_LONGEST = 24 * 3600
_MOST = 255
PORTS = {
    "ftp": 21, "smtp": 25, "dns": 53, "http": 80, "pop": 110, "nntp": 119, "imap": 143, "ldap": 389, "https": 443,
    "submission": 587, "ldaps": 636, "imaps": 993, "pops": 995, "oracle": 1521, "radius": 1812, "http_proxy": 3128,
    "mysql": 3306, "sip": 5060, "pgsql": 5432,
}  # fmt: skip
"""The ports of ldirectord's services, by which the service of a virtual is known, too."""
_SERVICES = {port: service for service, port in PORTS.items()}
_GREETINGS = {
    "ftp": "^220", "smtp": "^220", "submission": "^220", "pop": r"^\+OK", "imap": r"^\* (?:OK|PREAUTH)", "nntp": "^2",
}  # fmt: skip


@dataclass(frozen=True)
class _Asked:
    """What a check of a server is about; `line` is the one that says so. Requests are without their first slash."""

    port: int | None
    request: str
    receive: str
    own: bool
    line: int


class Negotiation:
    """The checks of one virtual; the options that they look at are taken."""

    def __init__(self, options: Options, top: Options, draft: Draft, address: IPAddress, port: int) -> None:
        self._options = options
        self._top = top
        self._draft = draft
        self._notes = draft.notes
        self._address = address
        self._port = port
        checktype, service = options.take("checktype"), options.take("service")
        self._type = "negotiate" if checktype is None else checktype.value
        self._service = _SERVICES.get(port, "none") if service is None else service.value
        self._line = next((one.line for one in (service, checktype) if one is not None), draft.line)
        self._combined = self._type.isdecimal()
        self._negotiates = self._combined or self._type == "negotiate"
        self._kind = f"service {self._service}" if self._negotiates else f"checktype {self._type}"
        self._known: dict[tuple[str | None, str | None, int | None], list[Check]] = {}
        if checktype is not None and self._combined and self._service != "none" and checktype.number:
            what = f"{checktype}: every check negotiates; ldirectord connects {checktype.number} times in between"
            self._notes.changed(checktype.line, what)

    @property
    def unread(self) -> str:
        """Why an option about checks is left."""
        return f"{self._kind} does not use the directive"

    def check(self, server: Server, request: str | None, receive: str | None) -> None:
        """Give a server its checks; with a request of its own comes what is to be received."""
        if self._type == "off":
            server.weight = 0
            self._notes.changed(self._line, "checktype = off: the servers get nothing; `nftlb enable` changes that")
        key = (request, receive, server.port)
        if key not in self._known:
            self._known[key] = self._checks(server, request, receive)
        server.checks = list(self._known[key])

    def _checks(self, server: Server, request: str | None, receive: str | None) -> list[Check]:
        maker = _SERVICE_CHECKS[self._service] if self._negotiates else _TYPE_CHECKS[self._type]
        own = request is not None
        if request is None and maker in _ASKING:
            request, receive = self._options.text("request"), self._options.text("receive")
        if own and maker not in _ASKING:
            self._notes.missing(server.line, f"request and receive of {server.address}: {self.unread}")
        line = server.line if own else self._line
        asked = _Asked(server.port, (request or "").removeprefix("/"), receive or "", own, line)
        found = maker(self, asked)
        return [{**one, **self._common(next(iter(one)), asked)} for one in found if self._valid(one, asked.line)]

    def _common(self, kind: str, asked: _Asked) -> dict[str, Any]:
        """When a check is made, and at which port."""
        common: dict[str, Any] = {}
        if CHECKS[kind].needs_port:
            given, usual = self._options.take("checkport"), PORTS.get(self._service)
            if given is not None:
                common["port"] = given.number
            elif asked.port is None and usual not in {None, self._port}:
                common["port"] = usual
        return self._times(kind) | common

    def _times(self, kind: str) -> dict[str, Any]:
        own = self._options.take("checkinterval") if self._top.says("fork", "yes") else None
        if own is None and (ignored := self._options.take("checkinterval")) is not None:
            self._notes.missing(
                ignored.line, f"{ignored}: without fork = yes, ldirectord uses the one at the top alone"
            )
        interval = self._seconds(own or self._top.take("checkinterval"), CHECK_INTERVAL)
        timeout = self._timeout()
        failures = self._first((self._options, "failurecount"), (self._top, "failurecount"))
        fall = 1 if failures is None else failures.number
        again = interval
        if kind == "icmp":
            count = self._first((self._options, "checkcount"), (self._top, "checkcount"))
            if count is not None and count.number > 1:
                fall, again = fall * count.number, timeout
                what = f"{count}: fall {min(fall, _MOST)} takes its place, with a time-out of one ping in between"
                self._notes.changed(count.line, what)
        if fall > _MOST and failures is not None:
            self._notes.changed(failures.line, f"{failures}: fall is {_MOST} here, the most")
        return {
            "interval": duration(interval * 1000),
            "fast_interval": duration(again * 1000),
            "timeout": duration(timeout * 1000),
            "rise": 1,
            "fall": min(fall, _MOST),
        }

    def _timeout(self) -> int:
        """Each time-out stands for the other one where that is missing."""
        names = ("checktimeout", "negotiatetimeout")
        default = CHECK_TIMEOUT
        if self._negotiates and self._service != "none":
            names, default = ("negotiatetimeout", "checktimeout"), NEGOTIATE_TIMEOUT
        timeout = self._seconds(
            self._first(*((where, name) for where in (self._options, self._top) for name in names)), default
        )
        if default == NEGOTIATE_TIMEOUT and self._service in _TWO_TIMEOUTS:
            # Here both are at work.
            places = ((where, name) for where in (self._options, self._top) for name in reversed(names))
            timeout = min(timeout, self._seconds(self._first(*places), CHECK_TIMEOUT))
        return timeout

    def _first(self, *places: tuple[Options, str]) -> Directive | None:
        return next((found for where, name in places if (found := where.take(name)) is not None), None)

    def _seconds(self, given: Directive | None, default: int) -> int:
        if given is None:
            return default
        if given.number > _LONGEST:
            self._notes.changed(given.line, f"{given}: a day here; allowed: 1 to {_LONGEST} seconds")
        return min(given.number, _LONGEST)

    def _valid(self, check: Check, line: int) -> bool:
        ((kind, options),) = check.items()
        try:
            CHECKS[kind].model_validate(options)
        except ValidationError as error:
            words = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
            self._notes.missing(line, f"the check of {self._kind}: {words}")
            return False
        return True

    def _expression(self, asked: _Asked) -> str | None:
        """The regular expression of what has to be received, if there is one that can be ours."""
        if not asked.receive:
            return None
        try:
            return read_regex(asked.receive)
        except Unfit:
            self._notes.missing(asked.line, f"receive {show(asked.receive)}: not a regular expression here")
            return None

    # --- one for each checktype, and each service -------------------------------------------------------------------

    def connect(self, _: _Asked) -> list[Check]:
        # ldirectord, too, pings where connecting says nothing.
        return [{"icmp": {}} if self._draft.protocol is Protocol.UDP else {"tcp": {}}]

    def ping(self, _: _Asked) -> list[Check]:
        return [{"icmp": {}}]

    def nothing(self, _: _Asked) -> list[Check]:
        return []

    def none(self, _: _Asked) -> list[Check]:
        if self._combined and self._draft.protocol is Protocol.TCP:
            return [{"tcp": {}}]
        return []

    def external(self, asked: _Asked) -> list[Check]:
        command = self._options.take("checkcommand")
        if command is None:
            self._notes.changed(self._line, f"checktype = {self._type} without checkcommand: no check, always up")
            return []
        if self._type == "external-perl":
            self._notes.changed(self._line, "checktype = external-perl: perl is started for each check")
        program = ["/usr/bin/perl", command.value] if self._type == "external-perl" else [command.value]
        # ldirectord gives IPv6 addresses in brackets.
        six = self._address.version == 6  # noqa: PLR2004
        service = f"[{self._address}]" if six else str(self._address)
        port = str(asked.port or 0)
        if asked.port and self._draft.forward is not Forward.DSR:
            port = PORT
        server = '"[' + ADDRESS[1:-1] + ']"' if six else ADDRESS  # quoted: brackets are a pattern to a shell
        script = f'"$@" {server} {port} || exit 2'
        return [{"exec": ["/bin/sh", "-c", script, "sh", *program, service, str(self._port)]}]

    def dns(self, asked: _Asked) -> list[Check]:
        options: dict[str, Any] = {"name": asked.request or ".", "type": "A"}
        with suppress(ValueError):  # a name, and no address
            options |= {"name": ip_address(asked.request).reverse_pointer, "type": "PTR"}
        if self._draft.protocol is Protocol.TCP:
            options["transport"] = "tcp"
        if not asked.request or not asked.receive:
            what = "service dns without request and receive: any answer will do; ldirectord takes every server for down"
            self._notes.changed(self._line, what)
        if asked.receive:
            self._notes.missing(asked.line, f"receive {show(asked.receive)}: any answer without an error will do")
        return [{"dns": options}]

    def http(self, asked: _Asked) -> list[Check]:
        if asked.own and f"{self._service}://" in asked.request:
            self._notes.missing(
                asked.line, f"request {show(asked.request)}: a check asks its backend, and no other host"
            )
            return self._connection()
        path = "".join(one if "!" <= one <= "~" else quote(one) for one in asked.request)
        options: dict[str, Any] = {"path": f"/{path}"}
        if (method := self._options.take("httpmethod")) is not None:
            options["method"] = method.value
        if host := self._options.text("virtualhost"):
            options["host"] = host
        if (body := self._expression(asked)) is not None:
            options["body"] = body
        if self._service == "https":
            options |= {"tls": True, "verify": False}
        self._notes.changed(
            self._line, f"service {self._service}: a redirect is a failure; ldirectord follows redirects"
        )
        return [{"http": options}]

    def greeting(self, _: _Asked) -> list[Check]:
        if self._service != "nntp":
            self._notes.changed(self._line, f"service {self._service}: a check only reads the server's greeting")
        return [{"tcp": {"match": _GREETINGS[self._service]}}]

    def connection(self, _: _Asked) -> list[Check]:
        return self._connection()

    def _connection(self) -> list[Check]:
        self._notes.changed(self._line, f"service {self._service}: a check only opens a connection")
        return [{"tcp": {}}]

    def radius(self, _: _Asked) -> list[Check]:
        secret = self._options.text("secret")
        if not secret:
            self._notes.missing(self._line, "service radius without secret: there is no check without one")
            return []
        what = "service radius: a check sends Status-Server, and logs nobody in; the server must allow that"
        self._notes.changed(self._line, what)
        return [{"radius": {"secret": secret}}]

    def sip(self, _: _Asked) -> list[Check]:
        options: dict[str, Any] = {"status": [200]}
        if login := self._options.text("login"):
            options["uri"] = f"sip:{login}"
        if self._draft.protocol is Protocol.TCP:
            options["transport"] = "tcp"
        return [{"sip": options}]

    def simpletcp(self, asked: _Asked) -> list[Check]:
        options: dict[str, Any] = {}
        if asked.request:
            options["send"] = asked.request.replace("\\n", "\n")
        if (match := self._expression(asked)) is not None:
            options["match"] = match
        if self._draft.protocol is Protocol.UDP:
            return [{"udp": options}]
        if not asked.receive:
            self._notes.changed(self._line, "service simpletcp without receive: a connection will do")
        return [{"tcp": options}]


_TWO_TIMEOUTS = {"ldap", "ldaps", "radius"}
_Maker: TypeAlias = "Callable[[Negotiation, _Asked], list[Check]]"
_TYPE_CHECKS: dict[str, _Maker] = {
    "connect": Negotiation.connect,
    "ping": Negotiation.ping,
    "on": Negotiation.nothing,
    "off": Negotiation.nothing,
    "external": Negotiation.external,
    "external-perl": Negotiation.external,
}
_SERVICE_CHECKS: dict[str, _Maker] = {
    "none": Negotiation.none,
    "dns": Negotiation.dns,
    "http": Negotiation.http,
    "https": Negotiation.http,
    "radius": Negotiation.radius,
    "sip": Negotiation.sip,
    "simpletcp": Negotiation.simpletcp,
    **dict.fromkeys(_GREETINGS, Negotiation.greeting),
    **dict.fromkeys(
        ("http_proxy", "imaps", "pops", "ldap", "ldaps", "mysql", "oracle", "pgsql"), Negotiation.connection
    ),
}
_ASKING = {Negotiation.dns, Negotiation.http, Negotiation.simpletcp}
