"""Reads the virtual services of ldirectord.cf into drafts of pools. No I/O.

Every directive is either taken over or noted.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

from nftlb.model import UNSPECIFIED, Family, IPAddress, Protocol
from nftlb.model.kinds import endpoint_text
from nftlb.printable import show

from .draft import (
    ALL_PORTS,
    DIRECT,
    FOLLOWED,
    MARKS,
    MAX_RANGE,
    MOST_WEIGHT,
    NAT,
    TUNNEL,
    Draft,
    DraftListener,
    DraftServer,
    Line,
    Netmask,
    Notes,
    SchedulerFlags,
    SorryServer,
    bad_text,
    is_host_name,
    parse_address,
    parse_named_port,
    parse_number,
    parse_service_address,
)
from .ldirectord_checks import VirtualChecks
from .ldirectord_directives import Directive, Options, ParsedDirectives, VirtualBlock, parse_directives
from .write import write_config

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .draft import Imported

DEFAULT_SCHEDULER = "wrr"
METHODS = {"masq": NAT, "gate": DIRECT, "ipip": TUNNEL}

_AS_HERE = {("cleanstop", "no"), ("autoreload", "no"), ("readdquiescent", "no")}
_LEFT = {
    "autoreload": "nftlb reads its file again at `nftlb reload`",
    "comment": "",
    "database": "no check of nftlb speaks SQL",
    "load": "ldirectord does not use the directive either",
    "callback": "nftlb has no hook for a changed file",
    "cleanstop": "the rules stay when nftlb stops; `nftlb run --remove` deletes them",
    "emailalert": "hooks can send mail",
    "execute": "import that configuration too",
    "fork": "nftlb checks all backends side by side",
    "logfile": "nftlb's log goes to standard error, and with systemd to the journal",
    "maintenancedir": "`nftlb maintenance POOL/BACKEND` does this",
    "monitorfile": "nftlb's log has the results of checks",
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
    """Translate a configuration of ldirectord. ConfigError, with its line, for text that can't be understood."""
    notes = Notes()
    return write_config(_File(parse_directives(text, file), notes).drafts(), notes, file, "ldirectord", "virtual")


class _File:
    def __init__(self, parsed: ParsedDirectives, notes: Notes) -> None:
        self._notes = notes
        self._blocks = parsed.blocks
        self._top = Options(parsed.top, self._notes)
        self._seen: set[tuple[str, str]] = set()

    def drafts(self) -> list[Draft]:
        drafts = [draft for draft in map(self._draft, self._blocks) if draft is not None]
        for directive in self._top.unused():
            _note_unused(directive, self._notes, "no virtual uses it")
        return drafts

    def _draft(self, block: VirtualBlock) -> Draft | None:
        head = block.head
        where = _HEAD.fullmatch(head.value)
        mark = None if where else _MARK.match(head.value)
        if mark is not None:
            self._mark(block, mark[0])
            return None
        if where is None:
            raise bad_text(head.line, f"{show(head.value)} is not a service; allowed: ADDRESS:PORT, or a firewall mark")
        virtual = _Virtual(block, where[1], where[2], self._top)
        if where[3].strip():
            virtual.draft.notes.missing(head.line, f"{where[3].strip()} of {head}: ldirectord ignores it too")
        self._refuse_second(virtual.identity, head)
        if virtual.address is None:
            what = f"{head}, with its {_server_count(block)} real servers: {_not_an_address(where[1])}"
            self._notes.missing(head.line, what)
            return None
        return virtual.read(virtual.address)

    def _mark(self, block: VirtualBlock, mark: str) -> None:
        head = block.head
        for directive in block.inner:
            if directive.key == "protocol" and directive.value != "fwm":
                raise bad_text(directive.line, f"{directive}: the virtual is a firewall mark; allowed: fwm")
        self._refuse_second((head.key, mark), head)
        taken = "" if head.value == mark else f", which ldirectord reads as the mark {mark}"
        what = f"{head}{taken}, with its {_server_count(block)} real servers"
        self._notes.missing(head.line, f"{what}: {MARKS}")

    def _refuse_second(self, identity: tuple[str, str], head: Directive) -> None:
        if identity in self._seen:
            raise bad_text(head.line, f"{head} is there already; allowed: each virtual once")
        self._seen.add(identity)


class _Virtual:
    """Reads one virtual into a draft."""

    def __init__(self, block: VirtualBlock, host: str, port: str, top: Options) -> None:
        head = block.head
        self._line = head.line
        self._top = top
        self._six = "6" if head.key == "virtual6" else ""
        self._reals = [directive for directive in block.inner if directive.key in {"real", "real6"}]
        notes = Notes()
        self._options = Options(
            (directive for directive in block.inner if directive.key not in {"real", "real6"}), notes
        )
        self.draft = Draft(
            written=str(head),
            line=head.line,
            notes=notes,
            protocol=self._protocol(port),
            way=DIRECT,
            scheduler=DEFAULT_SCHEDULER,
            program="checktype external",
        )
        self.address = self._address(host, head.line, parse_service_address)
        self._port = parse_named_port(port, head.line)
        self.identity = (self.draft.protocol.value, f"{self.address or host} {self._port}")

    def _protocol(self, port: str) -> Protocol:
        given = self._options.use("protocol")
        if given is None:
            return Protocol.UDP if port in {"53", "domain"} else Protocol.TCP
        if given.value == "fwm":
            raise bad_text(given.line, f"{given}: the virtual is not a firewall mark; allowed: tcp, udp")
        return Protocol(given.value)

    def read(self, address: IPAddress) -> Draft:
        draft, options = self.draft, self._options
        ports = ALL_PORTS if self._port is None else (self._port, self._port)
        draft.listen.append(DraftListener(address, ports, self._line))
        draft.scheduler = options.text("scheduler", DEFAULT_SCHEDULER)
        draft.name = options.text("servicename")
        self._ops()
        self._flags()
        self._persistence()
        self._quiescence()
        self._fallback()
        self._fallback_command(address)
        checks = VirtualChecks(options, self._top, draft, address, self._port or 0)
        for directive in self._reals:
            self._real(directive, checks)
        for left in options.unused():
            _note_unused(left, draft.notes, checks.reason_unused)
        return draft

    # --- options ----------------------------------------------------------------------------------------------------

    def _ops(self) -> None:
        given = self._options.use("ops")
        if given is None or given.value == "no":
            return
        if self.draft.protocol is Protocol.UDP:
            self.draft.ops = True
        else:
            self.draft.notes.missing(given.line, f"{given}: only udp has this option")

    def _flags(self) -> None:
        if (given := self._options.use("schedflags")) is not None:
            words = tuple(word.strip() for word in given.value.split(","))
            self.draft.flags.append(SchedulerFlags(words, f"{given}", given.line))

    def _persistence(self) -> None:
        notes = self.draft.notes
        persistent, netmask = self._options.use("persistent"), self._options.use("netmask")
        if persistent is not None and persistent.number:
            self.draft.make_persistent(persistent.line, str(persistent))
        elif persistent is not None:
            notes.missing(persistent.line, f"{persistent}: a persistence of 0 seconds has no effect")
        if netmask is None:
            return
        dotted = "." in netmask.value
        fits = not dotted and 1 <= int(netmask.value) <= _LONGEST_PREFIX if self._six else dotted
        if not fits:
            raise bad_text(netmask.line, f"{netmask} is not a netmask; allowed: 255.255.255.0, for IPv6 1 to 128")
        if not self.draft.persistent:
            notes.missing(netmask.line, f"{netmask}: without persistent, ldirectord does not use a netmask either")
        else:
            self.draft.netmask = Netmask(netmask.value, f"{netmask}", netmask.line)

    def _quiescence(self) -> None:
        given = self._options.use("quiescent") or self._top.use("quiescent")
        if given is not None and given.value == "yes":
            what = f"{given}: nftlb ends the connections of a server that is down; `nftlb drain` keeps them"
            self.draft.notes.changed(given.line, what)

    def _fallback(self) -> None:
        if wrong := self._options.use("fallback" if self._six else "fallback6"):
            raise bad_text(wrong.line, f"{wrong}: the wrong family; allowed: fallback{self._six}")
        given = self._options.use(f"fallback{self._six}") or self._top.use(f"fallback{self._six}")
        if given is None:
            return
        match = _FALLBACK.fullmatch(given.value)
        if match is None or match[3] not in {None, *METHODS}:
            allowed = "ADDRESS[:PORT] [gate|masq|ipip]"
            raise bad_text(given.line, f"{given} is not a fallback; allowed: {allowed}")
        address = self._address(match[1], given.line)
        if address is None:
            self.draft.notes.missing(given.line, f"{given}: {_not_an_address(match[1])}")
            return
        port = parse_named_port(match[2], given.line) if match[2] else self._port
        self.draft.sorry = SorryServer(address, port, given.line, given.key)

    def _fallback_command(self, address: IPAddress) -> None:
        given = self._options.use("fallbackcommand") or self._top.use("fallbackcommand")
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

    def _real(self, directive: Directive, checks: VirtualChecks) -> None:
        if directive.key != f"real{self._six}":
            raise bad_text(directive.line, f"{directive}: the wrong family; allowed: real{self._six}")
        match = _REAL.fullmatch(directive.value)
        flags = _FLAGS.fullmatch(match[4]) if match else None
        if match is None or flags is None or flags[1] not in METHODS:
            raise bad_text(directive.line, f"{show(directive.value)} is not a real server; allowed: {_REAL_FORM}")
        request, receive, limits = self._pair(flags[3], directive)
        port = parse_named_port(match[3], directive.line) if match[3] else None
        notes = Notes()
        for limit in limits:
            notes.missing(
                directive.line,
                f"{limit} of {directive.key} = {match[1]}: nftlb does not limit the connections of a backend",
            )
        for address, host in self._addresses(match[1], match[2], directive):
            server = DraftServer(address, port, directive.line, notes, host=host)
            if host:
                notes.changed(directive.line, f"{directive}: {FOLLOWED}")
            server.weight = parse_number(flags[2] or "1", directive.line, 0, MOST_WEIGHT)
            self.draft.add_server(server, METHODS[flags[1]], flags[1])
            checks.add_checks(server, request, receive)

    def _pair(self, text: str, directive: Directive) -> tuple[str | None, str | None, list[str]]:
        """Read the request and the expected answer of a server, and its limits of connections."""
        request = receive = None
        quotes = [match.start() for match in re.finditer('"', text)]
        if quotes:
            # As ldirectord reads it, the first text is as long as possible while a second text follows.
            ends = [
                place
                for place in range(1, len(quotes) - 2)
                if _BETWEEN.fullmatch(text, quotes[place] + 1, quotes[place + 1])
            ]
            if text[: quotes[0]].strip() or not text[: quotes[0]] or not ends:
                raise bad_text(directive.line, f"{show(text.strip())} does not fit here; allowed: {_REAL_FORM}")
            end = ends[-1]
            request = text[quotes[0] + 1 : quotes[end]]
            receive = text[quotes[end + 1] + 1 : quotes[-1]]
            text = text[quotes[-1] + 1 :]
        match = _LIMITS.fullmatch(text)
        if match is None:
            raise bad_text(directive.line, f"{show(text.strip())} does not fit here; allowed: {_REAL_FORM}")
        return request, receive, [f"{name}:{value}" for name, value in zip("lu", match.groups(), strict=True) if value]

    def _addresses(self, first: str, last: str | None, directive: Directive) -> Iterator[tuple[IPAddress, str]]:
        """The addresses of an entry, one or a range; or the unspecified address with the name of a host.

        None, with a remark, where the ends of a range are names.
        """
        if last is None and self._address(first, directive.line) is None and is_host_name(first):
            yield UNSPECIFIED[Family.IP6 if self._six else Family.IP], first
            return
        ends = [self._address(host, directive.line) for host in (first, last) if host is not None]
        if None in ends:
            names = " and ".join(
                host for host, found in zip((first, last), ends, strict=False) if host and found is None
            )
            self.draft.notes.missing(directive.line, f"{directive}: {_not_an_address(names)}")
            return
        start, end = (int(address) for address in (ends[0], ends[-1]) if address is not None)
        if last is not None and self._six:
            raise bad_text(directive.line, f"{show(f'{first}->{last}')} is a range; allowed: a range of IPv4 addresses")
        if not start <= end < start + MAX_RANGE:
            what = f"{show(f'{first}->{last}')} is not a range"
            raise bad_text(directive.line, f"{what}; allowed: an upward range of at most {MAX_RANGE} addresses")
        for number in range(start, end + 1):
            yield (IPv6Address(number) if self._six else IPv4Address(number)), ""

    # --- values -----------------------------------------------------------------------------------------------------

    def _address(
        self, host: str, line: Line, read: Callable[[str, Line], IPAddress] = parse_address
    ) -> IPAddress | None:
        """Read an address of the virtual's family. None for a name."""
        numeric = host.startswith("[") or _NUMBERS.fullmatch(host)
        if not numeric:
            if not _NAME.fullmatch(host):
                raise bad_text(line, f"{show(host)} is not an address; IPv6 addresses need brackets")
            return None
        found = read(host.strip("[]"), line)
        if found.version != (6 if self._six else 4):
            family = "virtual6, real6 and fallback6" if found.version == 6 else "virtual, real and fallback"  # noqa: PLR2004
            raise bad_text(line, f"{show(host)} is of the wrong family; allowed: with {family}")
        return found


def _server_count(block: VirtualBlock) -> int:
    return sum(directive.key in {"real", "real6"} for directive in block.inner)


def _not_an_address(name: str) -> str:
    return f"{name}: not an address; `getent ahosts NAME` prints the addresses of a name"


def _note_unused(directive: Directive, notes: Notes, otherwise: str) -> None:
    """Note a directive that was not used, unless nftlb behaves like this anyway."""
    if (directive.key, directive.value) in _AS_HERE:
        return
    key = "emailalert" if directive.key.startswith("emailalert") or directive.key == "smtp" else directive.key
    why = _LEFT.get(key, otherwise)
    notes.missing(directive.line, f"{directive}: {why}" if why else str(directive))
