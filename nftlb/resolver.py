"""Looks up the names of backends in DNS. An answer may contain anything; `nftlb.config.resolution` judges addresses.

dnspython sends the queries, repeats them, asks the next server, uses TCP for long answers and follows CNAME records, at
most 16 of them. Its queries are asynchronous, so the event loop never waits for DNS.
"""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import dataclass, field
from io import StringIO
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, TypeVar

import dns.asyncresolver
import dns.exception
import dns.inet
import dns.name
import dns.nameserver
import dns.rcode
import dns.resolver

from nftlb.errors import SystemFault
from nftlb.files import read_regular
from nftlb.model import MOST_ADDRESSES, MOST_KEPT, Family, FoundServer, HostLookup, after_answer
from nftlb.printable import printable, show

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from nftlb.model import NameAnswers, NameServers

T = TypeVar("T")

_log = logging.getLogger(__name__)

RESOLV_CONF = "/etc/resolv.conf"
_MOST_BYTES = 64 * 1024
DNS_PORT = 53
_AT_ONCE = 32
"""The most lookups at a time: each has a socket, and DNS servers limit the queries of a client."""
_TYPES = {Family.IP: "A", Family.IP6: "AAAA"}


@dataclass(frozen=True)
class LookupResult:
    """What DNS has for a name.

    `servers` has each family that was answered, also without an address. `ttl` is in seconds. `troubles` are the
    reasons why other families were not answered, and `missing` the reasons why answered families have no address.
    `cut` says which records are not in `servers` because an answer has too many.
    """

    servers: Mapping[Family, tuple[FoundServer, ...]]
    ttl: float = 0.0
    troubles: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    cut: tuple[str, ...] = ()


@dataclass
class _Records:
    """The records of one query, and the seconds for which they are valid. `missing`: why there are none."""

    data: list[Any] = field(default_factory=list)
    ttl: float | None = None
    missing: str = ""


class _NoAnswer(Exception):  # noqa: N818 - becomes a reason in a result
    """The reason why a query has no answer."""


class NameResolver:
    """Asks the DNS servers of `settings`, or those of /etc/resolv.conf."""

    def __init__(self, settings: NameServers) -> None:
        self._settings = settings
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._ignored: tuple[str, ...] = ()

    async def look_up(self, wanted: HostLookup, families: Collection[Family]) -> LookupResult:
        """Look up a name. Faults of DNS and of this host are in the result."""
        async with self._slots:
            try:
                asking = self._resolver()
                if wanted.srv:
                    return await self._srv(asking, wanted.name, families)
                found = await self._addresses(asking, wanted.name, families)
            except _NoAnswer as reason:
                return LookupResult({}, troubles=(str(reason),))
            servers = {family: tuple(map(FoundServer, addresses)) for family, addresses in found.addresses.items()}
            return LookupResult(servers, found.ttl or 0.0, _once(found.troubles), _once(found.missing), found.cut)

    async def _srv(self, asking: dns.asyncresolver.Resolver, name: str, families: Collection[Family]) -> LookupResult:
        records = await self._query(asking, name, "SRV")
        usable = [record for record in records.data if record.port and record.target.labels != (b"",)]
        usable.sort(key=lambda record: (record.priority, -record.weight, record.target, record.port))
        cut: list[str] = []
        offered = _cut(usable, MOST_ADDRESSES, f"SRV records of {name}", cut)
        ranks = {priority: rank for rank, priority in enumerate(sorted({record.priority for record in offered}))}
        targets = list(dict.fromkeys(record.target.to_text() for record in offered))
        all_ = await asyncio.gather(*(self._addresses(asking, target, families) for target in targets))
        hosts = dict(zip(targets, all_, strict=True))
        failed = {family for host in all_ for family in families if family not in host.addresses}
        cut += [line for host in all_ for line in host.cut]
        servers = {
            family: tuple(
                _cut(
                    [
                        FoundServer(address, record.port, record.weight, ranks[record.priority])
                        for record in offered
                        for address in hosts[record.target.to_text()].addresses[family]
                    ],
                    MOST_KEPT,
                    f"servers of {name} by {_TYPES[family]} records",
                    cut,
                )
            )
            for family in families
            if family not in failed
        }
        missing = [records.missing] if records.missing else [reason for host in all_ for reason in host.missing]
        if records.data and not offered:
            missing = [f"the SRV records of {name} say that there is no server"]
        troubles = _once(reason for host in all_ for reason in host.troubles)
        ttl = _shortest([records.ttl, *(host.ttl for host in all_)])
        return LookupResult(servers, ttl or 0.0, troubles, _once(missing), _once(cut))

    async def _addresses(
        self, asking: dns.asyncresolver.Resolver, name: str, families: Collection[Family]
    ) -> _HostAddresses:
        wanted = sorted(families)
        answers = await asyncio.gather(
            *(self._query(asking, name, _TYPES[family]) for family in wanted), return_exceptions=True
        )
        found = _HostAddresses()
        ttls = []
        cut: list[str] = []
        for family, answer in zip(wanted, answers, strict=True):
            if isinstance(answer, _NoAnswer):
                found.troubles += (str(answer),)
            elif isinstance(answer, BaseException):
                raise answer
            else:
                # The order of records changes with each answer, and must not decide which addresses are kept.
                addresses = sorted(ip_address(record.address) for record in answer.data)
                found.addresses[family] = _cut(addresses, MOST_KEPT, f"{_TYPES[family]} records of {name}", cut)
                ttls.append(answer.ttl)
                found.missing += (answer.missing,) if answer.missing else ()
        # A family without an address has no TTL, and does not shorten the TTL of the other family.
        found.ttl, found.cut = _shortest(ttls), tuple(cut)
        return found

    async def _query(self, asking: dns.asyncresolver.Resolver, name: str, kind: str) -> _Records:
        """Ask for the records of one type. Raises _NoAnswer."""
        try:
            # With a search list, a record for all names of a local domain would answer for a name that is gone.
            answer = await asking.resolve(name, kind, search="." not in name)
        except dns.resolver.NXDOMAIN:
            return _Records(missing=f"{name} does not exist")
        except dns.resolver.NoAnswer:
            return _Records(missing=f"{name} has no {kind} record")
        except dns.resolver.LifetimeTimeout:
            servers = ", ".join(map(_server_text, asking.nameservers))
            raise _NoAnswer(f"no answer for {name} from {servers} within {self._settings.timeout / 1000:g} s") from None
        except dns.resolver.NoNameservers as error:
            raise _NoAnswer(f"no answer for {name}: {_said(error)}") from None
        except (dns.exception.DNSException, OSError, ValueError) as error:
            raise _NoAnswer(f"{name} can't be looked up: {printable(str(error))}") from None
        return _Records(list(answer.rrset or ()), float(answer.chaining_result.minimum_ttl))

    def _resolver(self) -> dns.asyncresolver.Resolver:
        """A resolver with the servers of now: other programs change /etc/resolv.conf at any time. Raises _NoAnswer."""
        asking = dns.asyncresolver.Resolver(configure=False)
        if self._settings.servers:
            asking.nameservers = [
                dns.nameserver.Do53Nameserver(str(server.address), server.port) for server in self._settings.servers
            ]
        else:
            try:
                text = read_regular(RESOLV_CONF, _MOST_BYTES).decode(errors="replace")
            except OSError as error:
                raise _NoAnswer(f"can't read {RESOLV_CONF}: {error.strerror or error}") from None
            usable, ignored = _usable_lines(text)
            self._report(ignored)
            try:
                asking.read_resolv_conf(StringIO(usable))
            except dns.resolver.NoResolverConfiguration:
                raise _NoAnswer("; ".join((f"{RESOLV_CONF} names no DNS server", *ignored))) from None
        asking.lifetime = self._settings.timeout / 1000
        # Each server is asked before the time is over, and the first one twice. Some files have `timeout:0`.
        each = asking.lifetime / (len(asking.nameservers) + 1)
        asking.timeout = min(asking.timeout, each) if asking.timeout > 0 else each
        return asking

    def _report(self, ignored: tuple[str, ...]) -> None:
        """Log the lines of the file that are ignored, unless they are those of the lookup before."""
        before, self._ignored = self._ignored, ignored
        for line in ignored:
            if line not in before:
                _log.warning("%s: %s", RESOLV_CONF, line)


def _usable_lines(text: str) -> tuple[str, tuple[str, ...]]:
    """The parts of a resolv.conf that dnspython can read, and a notice for each part that is left out.

    dnspython refuses the whole file for one bad value. The resolver of the C library ignores the value.
    """
    usable, ignored = [], []
    for number, line in enumerate(text.split("\n"), 1):
        keyword, *values = line.split() or [""]
        if keyword == "nameserver" and values and not dns.inet.is_address(values[0]):
            ignored.append(f"line {number} is ignored: {show(values[0])} is not the address of a DNS server")
        elif keyword in {"search", "domain"}:
            good = [value for value in values if _is_domain(value)]
            ignored += [
                f"{show(value)} in line {number} is ignored: it is not the name of a domain"
                for value in values
                if value not in good
            ]
            usable.append(" ".join((keyword, *good)))
        else:
            usable.append(line)
    return "\n".join(usable), tuple(ignored)


def _is_domain(text: str) -> bool:
    try:
        dns.name.from_text(text)
    except dns.exception.DNSException:
        return False
    return True


@dataclass
class _HostAddresses:
    """The addresses of a host by family; families that were not answered are missing. `ttl`: None without a record."""

    addresses: dict[Family, list[Any]] = field(default_factory=dict)
    ttl: float | None = None
    troubles: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    cut: tuple[str, ...] = ()


def _cut(found: list[T], most: int, what: str, notes: list[str]) -> list[T]:
    """The first elements of a list, with a note if there are more: answers are kept in memory and on the disk."""
    if len(found) > most:
        notes.append(f"{len(found)} {what} were found, and the first {most} of them are kept")
    return found[:most]


def _shortest(ttls: Iterable[float | None]) -> float | None:
    return min((ttl for ttl in ttls if ttl is not None), default=None)


def _once(reasons: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(reasons))


def _server_text(server: str | dns.nameserver.Nameserver) -> str:
    if isinstance(server, str):
        return printable(server)
    return _at_port(server.answer_nameserver(), server.answer_port())


def _at_port(address: str, port: int) -> str:
    """A DNS server in words; its port only if the port is not the usual one."""
    host = f"[{address}]" if ":" in address else address
    return printable(address if port == DNS_PORT else f"{host}:{port}")


def _said(error: dns.resolver.NoNameservers) -> str:
    """What the servers answered."""
    said = {}
    for server, _, port, reason, response in error.kwargs.get("errors", ()):
        words = _reason_text(reason) if response is None else dns.rcode.to_text(response.rcode())
        # dnspython writes its kind before the address, and the port behind.
        said[_at_port(str(server).removeprefix("Do53:").partition("@")[0], port)] = printable(words)
    return ", ".join(f"{server} says {words}" for server, words in said.items()) or "no server can be asked"


def _reason_text(reason: object) -> str:
    """Why a query failed. asyncio's errors have the address once more in place of the words for the number."""
    if isinstance(reason, OSError) and reason.errno:
        return os.strerror(reason.errno)
    return str(reason)


# --- commands that run once -------------------------------------------------------------------------------------------


def look_up_now(wanted: Mapping[HostLookup, Collection[Family]], settings: NameServers) -> NameAnswers:
    """Look up all names, and wait for the answers. SystemFault with all reasons if a name has no address."""

    async def ask() -> Iterable[LookupResult]:
        resolver = NameResolver(settings)
        return await asyncio.gather(*(resolver.look_up(lookup, families) for lookup, families in wanted.items()))

    answers = {}
    faults: dict[str, None] = {}
    for lookup, result in zip(wanted, asyncio.run(ask()), strict=True):
        servers = after_answer((), result.servers)
        if result.troubles or servers is None:
            faults |= dict.fromkeys(result.troubles or result.missing)
        else:
            answers[lookup] = servers
    if faults:
        raise SystemFault("\n".join(f"{reason}; needed: an answer of DNS for each name" for reason in faults))
    return answers
