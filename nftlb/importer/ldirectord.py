"""ldirectord's virtual services to drafts of pools. No I/O.

Every directive is either taken over or noted.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

from nftlb.model import Forward, IPAddress, Protocol
from nftlb.model.kinds import endpoint_text
from nftlb.model.reading import show

from . import read
from .directives import Block, Directive, Parsed, parse
from .draft import ALL_PORTS, Draft, Listening, Notes, Server, Sorry
from .negotiate import Negotiation
from .options import Options
from .remark import fault
from .write import write

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .imported import Imported

DEFAULT_SCHEDULER = "wrr"
MAX_RANGE = 1024
METHODS = {"masq": Forward.NAT, "gate": Forward.DSR, "ipip": Forward.DSR}
PORTS = {
    "ftp": 21, "ssh": 22, "telnet": 23, "smtp": 25, "domain": 53, "tftp": 69, "http": 80, "www": 80, "kerberos": 88,
    "pop3": 110, "sunrpc": 111, "nntp": 119, "ntp": 123, "imap": 143, "imap2": 143, "snmp": 161, "ldap": 389,
    "https": 443, "syslog": 514, "submission": 587, "domain-s": 853, "ldaps": 636, "imaps": 993, "pop3s": 995,
    "radius": 1812, "radius-acct": 1813, "nfs": 2049, "mysql": 3306, "postgresql": 5432, "sip": 5060, "sip-tls": 5061,
}  # fmt: skip
"""The names of ports that are known here: an import reads nothing but its file, /etc/services neither."""

_AS_HERE = {("cleanstop", "no"), ("autoreload", "no"), ("readdquiescent", "no")}
_LEFT = {
    "autoreload": "nftlb reads its file again at `nftlb reload`",
    "comment": "",
    "database": "no check of nftlb speaks SQL",
    "load": "ldirectord does not use the directive either",
    "schedflags": "nftlb's ways to balance have no flags",
    "callback": "nftlb has no hook for a changed file",
    "cleanstop": "the rules stay when nftlb stops; `nftlb run --remove` takes them away",
    "emailalert": "hooks can send mail",
    "execute": "import that configuration too",
    "fork": "nftlb checks all backends side by side",
    "logfile": "nftlb's log goes to standard error, and with systemd to the journal",
    "maintenancedir": "`nftlb maintenance POOL/BACKEND` does this",
    "monitorfile": "nftlb's log says what checks find",
    "readdquiescent": "nftlb has no backends of weight 0 that are down",
    "supervised": "`nftlb run` always stays in the foreground",
}
_FALLBACK = re.compile(r"(\S+?)(?::([A-Za-z0-9_-]+))?(?:\s+(\S+))?")
_NUMBERS = re.compile(r"[0-9.]+")
_NAME = re.compile(r"[0-9A-Za-z._+-]+")
_HEAD = re.compile(r"(\[[0-9A-Fa-f:]+\]|[0-9A-Za-z._+-]+):([0-9A-Za-z_-]+)(.*)", re.DOTALL)
_MARK = re.compile(r"[0-9]+")
_REAL = re.compile(
    r"(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9.-]+?)(?:->(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9.-]+))?(?::([A-Za-z0-9_-]+))?\s+(.*)",
    re.DOTALL,
)
_FLAGS = re.compile(r"(\w+)(?:\s+([0-9]+)(?!\S))?(.*)", re.DOTALL)
_LIMITS = re.compile(r"(?:\s+l:([0-9]+))?(?:\s+u:([0-9]+))?\s*")
_PLAIN = re.compile(r"[A-Za-z0-9_./ :=,@%+-]+")
_LONGEST_PREFIX = 128
_BETWEEN = re.compile(r"[, ]\s*")
_REAL_FORM = 'ADDRESS[->ADDRESS][:PORT] gate|masq|ipip [WEIGHT] ["REQUEST", "RECEIVE"] [l:N] [u:N]'


def from_ldirectord(text: str, file: str = "ldirectord.cf") -> Imported:
    """Make a configuration of ours of ldirectord's; ConfigError tells the line of what can't be understood."""
    return _File(parse(text, file), file).imported()


class _File:
    def __init__(self, parsed: Parsed, file: str) -> None:
        self._file = file
        self._notes = Notes(file)
        self._blocks = parsed.blocks
        self._top = Options(parsed.top, self._notes)
        self._seen: set[tuple[str, str]] = set()

    def imported(self) -> Imported:
        drafts = [draft for draft in map(self._draft, self._blocks) if draft is not None]
        for one in self._top.rest():
            _note_left(one, self._notes, "no virtual needs it")
        return write(drafts, self._notes, "ldirectord", "virtual")

    def _draft(self, block: Block) -> Draft | None:
        head = block.head
        where = _HEAD.fullmatch(head.value)
        mark = None if where else _MARK.match(head.value)
        if mark is not None:
            self._mark(block, mark[0])
            return None
        if where is None:
            raise fault(
                self._file, head.line, f"{show(head.value)} is no service; allowed: ADDRESS:PORT, or a firewall mark"
            )
        virtual = _Virtual(block, where[1], where[2], self._top, self._file)
        if where[3].strip():
            virtual.draft.notes.missing(
                head.line, f"{where[3].strip()} of {head}: ldirectord does not read this either"
            )
        self._once(virtual.identity, head)
        if virtual.address is None:
            what = f"{head}, with its {_servers(block)} real servers: {_named(where[1])}"
            self._notes.missing(head.line, what)
            return None
        return virtual.read(virtual.address)

    def _mark(self, block: Block, mark: str) -> None:
        head = block.head
        for one in block.inner:
            if one.key == "protocol" and one.value != "fwm":
                raise fault(self._file, one.line, f"{one}: the virtual is a firewall mark; allowed: fwm")
        self._once((head.key, mark), head)
        taken = "" if head.value == mark else f", which ldirectord takes for the mark {mark}"
        what = f"{head}{taken}, with its {_servers(block)} real servers"
        self._notes.missing(head.line, f"{what}: pools take packets by address and port, not by mark")

    def _once(self, identity: tuple[str, str], head: Directive) -> None:
        if identity in self._seen:
            raise fault(self._file, head.line, f"{head} is there already; allowed: each virtual once")
        self._seen.add(identity)


class _Virtual:
    """Reads one virtual into a draft."""

    def __init__(self, block: Block, host: str, port: str, top: Options, file: str) -> None:
        head = block.head
        self._file = file
        self._line = head.line
        self._top = top
        self._six = "6" if head.key == "virtual6" else ""
        self._reals = [one for one in block.inner if one.key in {"real", "real6"}]
        notes = Notes(file)
        self._options = Options((one for one in block.inner if one.key not in {"real", "real6"}), notes)
        self.draft = Draft(
            written=str(head),
            line=head.line,
            notes=notes,
            protocol=self._protocol(port),
            forward=Forward.DSR,
            scheduler=DEFAULT_SCHEDULER,
            program="checktype external",
        )
        self.address = self._address(host, head.line)
        self._port = self._port_number(port, head.line)
        self.identity = (self.draft.protocol.value, f"{self.address or host} {self._port}")

    def _protocol(self, port: str) -> Protocol:
        given = self._options.take("protocol")
        if given is None:
            return Protocol.UDP if port in {"53", "domain"} else Protocol.TCP
        if given.value == "fwm":
            raise fault(self._file, given.line, f"{given}: the virtual is no firewall mark; allowed: tcp, udp")
        return Protocol(given.value)

    def read(self, address: IPAddress) -> Draft:
        draft, options = self.draft, self._options
        ports = ALL_PORTS if self._port is None else (self._port, self._port)
        draft.listen.append(Listening(address, ports, self._line))
        draft.scheduler = options.text("scheduler", DEFAULT_SCHEDULER)
        draft.name = options.text("servicename")
        self._ops()
        self._persistence()
        self._quiescence()
        self._fallback()
        self._fallback_command(address)
        negotiation = Negotiation(options, self._top, draft, address, self._port or 0)
        for one in self._reals:
            self._real(one, negotiation)
        for left in options.rest():
            _note_left(left, draft.notes, negotiation.unread)
        return draft

    # --- options ----------------------------------------------------------------------------------------------------

    def _ops(self) -> None:
        given = self._options.take("ops")
        if given is None or given.value == "no":
            return
        if self.draft.protocol is Protocol.UDP:
            self.draft.ops = True
        else:
            self.draft.notes.missing(given.line, f"{given}: this is for udp alone")

    def _persistence(self) -> None:
        notes = self.draft.notes
        persistent, netmask = self._options.take("persistent"), self._options.take("netmask")
        if persistent is not None and persistent.number:
            self.draft.persistent = True
            what = f"{persistent}: balance: hash keeps a client with its backend, without a time-out"
            notes.changed(persistent.line, what)
        elif persistent is not None:
            notes.missing(persistent.line, f"{persistent}: nothing lasts for 0 seconds")
        if netmask is None:
            return
        dotted = "." in netmask.value
        fits = not dotted and 1 <= int(netmask.value) <= _LONGEST_PREFIX if self._six else dotted
        if not fits:
            raise fault(self._file, netmask.line, f"{netmask} is no netmask; allowed: 255.255.255.0, for IPv6 1 to 128")
        if not self.draft.persistent:
            notes.missing(netmask.line, f"{netmask}: without persistent, ldirectord does not use a netmask either")
        elif netmask.value not in {"255.255.255.255", "128"}:
            notes.missing(netmask.line, f"{netmask}: each address is a client of its own")

    def _quiescence(self) -> None:
        given = self._options.take("quiescent") or self._top.take("quiescent")
        if given is not None and given.value == "yes":
            what = f"{given}: the connections of a server that is down are ended; `nftlb drain` lets them go on"
            self.draft.notes.changed(given.line, what)

    def _fallback(self) -> None:
        if wrong := self._options.take("fallback" if self._six else "fallback6"):
            raise fault(self._file, wrong.line, f"{wrong}: the wrong family; allowed: fallback{self._six}")
        given = self._options.take(f"fallback{self._six}") or self._top.take(f"fallback{self._six}")
        if given is None:
            return
        match = _FALLBACK.fullmatch(given.value)
        if match is None or match[3] not in {None, *METHODS}:
            allowed = "ADDRESS[:PORT] [gate|masq|ipip]"
            raise fault(self._file, given.line, f"{given} is no fallback; allowed: {allowed}")
        address = self._address(match[1], given.line)
        if address is None:
            self.draft.notes.missing(given.line, f"{given}: {_named(match[1])}")
            return
        port = self._port_number(match[2], given.line) if match[2] else self._port
        self.draft.sorry = Sorry(address, port, given.line, given.key)

    def _fallback_command(self, address: IPAddress) -> None:
        given = self._options.take("fallbackcommand") or self._top.take("fallbackcommand")
        if given is None:
            return
        if not given.value.isprintable():
            self.draft.notes.missing(given.line, str(given))
            return
        service = [endpoint_text(address, self._port or 0), self.draft.protocol.value]
        plain = _PLAIN.fullmatch(given.value) is not None
        program = given.value.split() if plain else ["/bin/sh", "-c", f'{given.value} "$@"', "sh"]
        self.draft.hooks["quorum_down"] = (*program, "start", *service)
        self.draft.hooks["quorum_up"] = (*program, "stop", *service)

    # --- real servers -----------------------------------------------------------------------------------------------

    def _real(self, one: Directive, negotiation: Negotiation) -> None:
        if one.key != f"real{self._six}":
            raise fault(self._file, one.line, f"{one}: the wrong family; allowed: real{self._six}")
        match = _REAL.fullmatch(one.value)
        flags = _FLAGS.fullmatch(match[4]) if match else None
        if match is None or flags is None or flags[1] not in METHODS:
            raise fault(self._file, one.line, f"{show(one.value)} is no real server; allowed: {_REAL_FORM}")
        request, receive, limits = self._pair(flags[3], one)
        port = self._port_number(match[3], one.line) if match[3] else None
        notes = Notes(self._file)
        for limit in limits:
            notes.missing(one.line, f"{limit} of {one.key} = {match[1]}: nftlb limits no connections of a backend")
        for address in self._addresses(match[1], match[2], one):
            server = Server(address, port, one.line, notes)
            server.weight = read.number(flags[2] or "1", self._file, one.line, 0, 2**31 - 1)
            self._forward(server, flags[1])
            negotiation.check(server, request, receive)
            self.draft.servers.append(server)

    def _pair(self, text: str, one: Directive) -> tuple[str | None, str | None, list[str]]:
        """The server's own request and what it has to answer, and its limits of connections."""
        request = receive = None
        quotes = [match.start() for match in re.finditer('"', text)]
        if quotes:
            # As ldirectord has it, the first text goes on as long as a second one still follows.
            ends = [
                place
                for place in range(1, len(quotes) - 2)
                if _BETWEEN.fullmatch(text, quotes[place] + 1, quotes[place + 1])
            ]
            if text[: quotes[0]].strip() or not text[: quotes[0]] or not ends:
                raise fault(self._file, one.line, f"{show(text.strip())} can't stand here; allowed: {_REAL_FORM}")
            end = ends[-1]
            request = text[quotes[0] + 1 : quotes[end]]
            receive = text[quotes[end + 1] + 1 : quotes[-1]]
            text = text[quotes[-1] + 1 :]
        match = _LIMITS.fullmatch(text)
        if match is None:
            raise fault(self._file, one.line, f"{show(text.strip())} can't stand here; allowed: {_REAL_FORM}")
        return request, receive, [f"{name}:{value}" for name, value in zip("lu", match.groups(), strict=True) if value]

    def _addresses(self, first: str, last: str | None, one: Directive) -> Iterator[IPAddress]:
        """The servers of an entry: one, or a range; none where the entry has names."""
        ends = [self._address(host, one.line) for host in (first, last) if host is not None]
        if None in ends:
            names = " and ".join(
                host for host, found in zip((first, last), ends, strict=False) if host and found is None
            )
            self.draft.notes.missing(one.line, f"{one}: {_named(names)}")
            return
        start, end = (int(address) for address in (ends[0], ends[-1]) if address is not None)
        if last is not None and self._six:
            raise fault(
                self._file, one.line, f"{show(f'{first}->{last}')} is a range; allowed: a range of IPv4 addresses"
            )
        if not start <= end < start + MAX_RANGE:
            what = f"{show(f'{first}->{last}')} is no range"
            raise fault(self._file, one.line, f"{what}; allowed: at most {MAX_RANGE} addresses, upwards")
        for number in range(start, end + 1):
            yield IPv6Address(number) if self._six else IPv4Address(number)

    def _forward(self, server: Server, method: str) -> None:
        forward = METHODS[method]
        if not self.draft.servers:
            self.draft.forward = forward
        elif forward is not self.draft.forward:
            server.notes.missing(server.line, f"{method}: forward is the same for the whole pool")
        if method == "ipip":
            what = "ipip: nftlb has no tunnels; with dsr backends must be on a link of this host"
            server.notes.changed(server.line, what)

    # --- values -----------------------------------------------------------------------------------------------------

    def _address(self, host: str, line: int) -> IPAddress | None:
        """An address of the virtual's family; None for a name."""
        numeric = host.startswith("[") or _NUMBERS.fullmatch(host)
        if not numeric:
            if not _NAME.fullmatch(host):
                raise fault(self._file, line, f"{show(host)} is no address; IPv6 addresses need brackets")
            return None
        found = read.address(host.strip("[]"), self._file, line)
        if found.version != (6 if self._six else 4):
            family = "virtual6, real6 and fallback6" if found.version == 6 else "virtual, real and fallback"  # noqa: PLR2004
            raise fault(self._file, line, f"{show(host)} is of the wrong family; allowed: with {family}")
        return found

    def _port_number(self, text: str, line: int) -> int | None:
        if text.isdecimal():
            return read.port(text, self._file, line)
        if text not in PORTS:
            raise fault(self._file, line, f"{show(text)} is a name of a port; allowed: a number, 0 to {read.LAST_PORT}")
        return PORTS[text]


def _servers(block: Block) -> int:
    return sum(one.key in {"real", "real6"} for one in block.inner)


def _named(name: str) -> str:
    return f"{name} is no address; `getent ahosts NAME` finds one"


def _note_left(one: Directive, notes: Notes, otherwise: str) -> None:
    """Note a directive that nobody has taken, unless nftlb does what it says anyway."""
    if (one.key, one.value) in _AS_HERE:
        return
    key = "emailalert" if one.key.startswith("emailalert") or one.key == "smtp" else one.key
    why = _LEFT.get(key, otherwise)
    notes.missing(one.line, f"{one}: {why}" if why else str(one))
