"""Lookups with a DNS server on this host: good answers, faults of DNS, and hostile answers."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address
from itertools import pairwise
from typing import TYPE_CHECKING

import dns.asyncresolver
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
from dns_zone import LongAnswers, Zone

from nftlb import resolver as module
from nftlb.errors import SystemFault
from nftlb.model import MOST_ADDRESSES, MOST_KEPT, Endpoint, Family, FoundServer, HostLookup, NameServers
from nftlb.resolver import LookupResult, NameResolver, look_up_now

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


NS, SRV = HostLookup("ns.lab"), HostLookup("_sip._udp.lab", srv=True)
BOTH = (Family.IP, Family.IP6)


@pytest.fixture
def zone() -> Iterator[Zone]:
    with Zone(ns=["10.0.0.2", "10.0.0.1", "2001:db8::1"]) as served:
        yield served


def settings(zone: Zone, timeout: int = 20_000) -> NameServers:
    return NameServers(servers=(Endpoint(ip_address("127.0.0.1"), zone.port),), timeout=timeout)


def look_up(zone: Zone, lookup: HostLookup = NS, timeout: int = 20_000) -> LookupResult:
    async def ask() -> LookupResult:
        return await NameResolver(settings(zone, timeout)).look_up(lookup, BOTH)

    return asyncio.run(ask())


def texts(result: LookupResult) -> dict[str, set[str]]:
    return {family: {str(server.address) for server in found} for family, found in result.servers.items()}


def test_addresses(zone: Zone) -> None:
    """A name has the addresses of its A and AAAA records, and their TTL."""
    found = look_up(zone)

    assert {"ip": {"10.0.0.1", "10.0.0.2"}, "ip6": {"2001:db8::1"}} == texts(found)
    assert (1.0, (), ()) == (found.ttl, found.troubles, found.missing)


def test_srv(zone: Zone) -> None:
    """SRV records have ports, weights and ranks; records without a server are left out."""
    zone.set_addresses("a", "10.0.0.3")
    zone.records["_sip._udp.lab.", "SRV"] = ["20 7 5061 a.lab.", "10 5 5060 ns.lab.", "10 5 0 a.lab.", "10 5 9 ."]
    found = look_up(zone, SRV)
    record = {str(server.address): server for server in found.servers[Family.IP]}

    assert FoundServer(ip_address("10.0.0.3"), 5061, 7, 1) == record["10.0.0.3"]
    assert FoundServer(ip_address("10.0.0.1"), 5060, 5, 0) == record["10.0.0.1"]
    assert {("2001:db8::1", 5060)} == {(str(server.address), server.port) for server in found.servers[Family.IP6]}


def test_names_that_do_not_exist(zone: Zone) -> None:
    """The answer is empty, and has the reason; one family without an address does not change the other."""
    assert ({Family.IP: (), Family.IP6: ()}, ("no.lab does not exist",)) == (
        look_up(zone, HostLookup("no.lab")).servers,
        look_up(zone, HostLookup("no.lab")).missing,
    )
    assert {"no.lab."} == {name for name, _ in zone.asked}  # no search list
    zone.set_addresses("ns", "10.0.0.1")
    assert ({"ip": {"10.0.0.1"}, "ip6": set()}, 1.0) == (texts(look_up(zone)), look_up(zone).ttl)


@pytest.mark.parametrize("ttls", [(0, 60), (60, 0)])
def test_a_ttl_of_zero(zone: Zone, ttls: tuple[int, int]) -> None:
    """0 is the shortest TTL; a host of SRV records without an address has no TTL."""
    zone.records["_sip._udp.lab.", "SRV"] = ["10 5 5060 four.lab.", "10 5 5060 empty.lab."]
    zone.set_addresses("four", "10.0.0.1")
    zone.set_addresses("empty")

    def respond(query: dns.message.Message) -> dns.message.Message:
        response = zone.answer(query)
        for rrset in response.answer:
            rrset.ttl = ttls[rrset.rdtype == dns.rdatatype.AAAA]
        return response

    assert 1 == look_up(zone, SRV).ttl
    zone.respond = respond
    assert 0 == look_up(zone).ttl


def test_dead_servers(zone: Zone) -> None:
    """Without an answer, no family is answered, and the reason names the server; the time is bounded."""
    zone.silent.set()
    found = look_up(zone, timeout=300)

    assert {} == found.servers
    assert (f"no answer for ns.lab from 127.0.0.1:{zone.port} within 0.3 s",) == found.troubles
    zone.silent.clear()
    zone.rcode = dns.rcode.SERVFAIL
    (trouble,) = look_up(zone, timeout=20_000).troubles
    assert f"no answer for ns.lab: 127.0.0.1:{zone.port} says SERVFAIL" == trouble


def test_a_failed_host_of_srv_records(zone: Zone) -> None:
    """If one host of the records can't be looked up, no family counts as answered: its servers must not vanish."""
    zone.records["_sip._udp.lab.", "SRV"] = ["10 5 5060 ns.lab.", "10 5 5060 bad.lab."]

    def respond(query: dns.message.Message) -> dns.message.Message:
        response = zone.answer(query)
        if query.question[0].name.to_text() == "bad.lab.":
            response.set_rcode(dns.rcode.SERVFAIL)
        return response

    zone.respond = respond
    found = look_up(zone, SRV, timeout=20_000)
    assert ({}, True) == (found.servers, "bad.lab." in found.troubles[0])


def test_alias_circles(zone: Zone) -> None:
    """A circle of CNAME records ends with a fault or without an address, and never hangs."""

    def respond(query: dns.message.Message) -> dns.message.Message:
        response = zone.answer(query)
        response.set_rcode(dns.rcode.NOERROR)
        response.answer[:] = [
            dns.rrset.from_text("ns.lab.", 1, "IN", "CNAME", "other.lab."),
            dns.rrset.from_text("other.lab.", 1, "IN", "CNAME", "ns.lab."),
        ]
        return response

    zone.respond = respond
    found = look_up(zone, timeout=300)
    assert ([], True) == (
        [one for servers in found.servers.values() for one in servers],
        bool(found.troubles or found.missing),
    )


@pytest.mark.parametrize("srv", [False, True])
def test_aliases(srv: bool, zone: Zone) -> None:
    """A chain of aliases leads to the addresses, and the shortest TTL of the chain counts; also behind SRV records."""
    zone.records["_sip._udp.lab.", "SRV"] = ["10 5 5060 alias0.lab."]
    aliases = [f"alias{number}.lab." for number in range(8)]

    def respond(query: dns.message.Message) -> dns.message.Message:
        response = zone.answer(query)
        if query.question[0].name.to_text() == aliases[0]:
            response.set_rcode(dns.rcode.NOERROR)
            kind = query.question[0].rdtype.name
            found = zone.records["ns.lab.", kind]
            response.answer[:] = [
                dns.rrset.from_text(name, 60 + number, "IN", "CNAME", target)
                for number, (name, target) in enumerate(pairwise([*aliases, "ns.lab."]))
            ]
            response.answer[5].ttl = 7
            response.answer.append(dns.rrset.from_text("ns.lab.", 90, "IN", kind, *found))
        if srv:
            for rrset in response.answer:
                rrset.ttl = rrset.ttl if rrset.ttl == 7 else 60
        return response

    zone.respond = respond
    found = look_up(zone, SRV if srv else HostLookup("alias0.lab"))
    assert {"ip": {"10.0.0.1", "10.0.0.2"}, "ip6": {"2001:db8::1"}} == texts(found)
    assert (7.0, (), ()) == (found.ttl, found.troubles, found.missing)
    assert ({5060} if srv else {None}) == {one.port for servers in found.servers.values() for one in servers}


@pytest.mark.parametrize("length", [1, 40])
def test_aliases_that_lead_nowhere(length: int, zone: Zone) -> None:
    """An alias without an address, or at the end of a chain without an end, gives no address and a reason."""

    def respond(query: dns.message.Message) -> dns.message.Message:
        response = zone.answer(query)
        names = ["ns.lab.", *(f"alias{number}.lab." for number in range(length))]
        response.answer[:] = [dns.rrset.from_text(name, 60, "IN", "CNAME", target) for name, target in pairwise(names)]
        return response

    zone.respond = respond
    found = look_up(zone, timeout=300)
    assert [] == [one for servers in found.servers.values() for one in servers]
    assert found.troubles or found.missing


@pytest.mark.parametrize(("ttl", "expected"), [(2**31 - 1, 2**31 - 1), (2**31, 0), (2**32 - 1, 0)])
def test_huge_ttls(ttl: int, expected: float, zone: Zone) -> None:
    """A TTL may have 31 bits; by RFC 2181, larger numbers count as 0. The bounds of the file hold for both."""

    def respond(query: dns.message.Message) -> dns.message.Message:
        response = zone.answer(query)
        for rrset in response.answer:
            rrset.ttl = ttl
        return response

    zone.respond = respond
    found = look_up(zone)
    assert ({"10.0.0.1", "10.0.0.2"}, expected, ()) == (texts(found)["ip"], found.ttl, found.troubles)


def test_names_of_one_family(zone: Zone) -> None:
    """A name with addresses of one family has the TTL of these addresses, and the reason for the other family."""
    zone.set_addresses("six", "2001:db8::6")
    zone.set_addresses("four", "10.0.0.4")
    six, four = look_up(zone, HostLookup("six.lab")), look_up(zone, HostLookup("four.lab"))
    assert ({"ip": set(), "ip6": {"2001:db8::6"}}, 1.0, ("six.lab has no A record",)) == (
        texts(six), six.ttl, six.missing,
    )  # fmt: skip
    assert ({"ip": {"10.0.0.4"}, "ip6": set()}, 1.0, ("four.lab has no AAAA record",)) == (
        texts(four), four.ttl, four.missing,
    )  # fmt: skip


@pytest.mark.parametrize("unusable", [False, True])
def test_a_query_for_one_family_that_fails(unusable: bool, zone: Zone) -> None:
    """Only a family that DNS answers counts as answered, so the addresses of the other family stay."""
    zone.set_addresses("six", "2001:db8::6")

    def respond(query: dns.message.Message) -> dns.message.Message:
        response = zone.answer(query)
        if query.question[0].rdtype == dns.rdatatype.A:
            response.set_rcode(dns.rcode.SERVFAIL)
            response.id ^= unusable  # a response to another query is like none
        return response

    zone.respond = respond
    found = look_up(zone, HostLookup("six.lab"), timeout=2000 if unusable else 20_000)
    assert {"ip6": {"2001:db8::6"}} == texts(found)
    (trouble,) = found.troubles
    assert ("no answer for six.lab from" if unusable else "says SERVFAIL") in trouble


def test_answers_to_other_questions(zone: Zone) -> None:
    """Records of other names in an answer do not count, and nothing that is not DNS ends a lookup."""

    def respond(query: dns.message.Message) -> dns.message.Message:
        response = zone.answer(query)
        response.answer[:] = [dns.rrset.from_text("evil.lab.", 1, "IN", "A", "10.6.6.6")]
        return response

    zone.respond = respond
    assert [] == [one for servers in look_up(zone, timeout=300).servers.values() for one in servers]


def test_an_answer_with_many_records(zone: Zone) -> None:
    """A part of a long answer is kept, the same part in any order of the records, and a note says so."""
    many = [f"10.1.{number // 200}.{number % 200}" for number in range(3 * MOST_KEPT)]
    zone.set_addresses("many", *many, "2001:db8::1")
    found = look_up(zone, HostLookup("many.lab"))
    zone.set_addresses("many", *reversed(many), "2001:db8::1")

    assert [ip_address(address) for address in many[:MOST_KEPT]] == [one.address for one in found.servers[Family.IP]]
    assert 1 == len(found.servers[Family.IP6])
    assert (f"{len(many)} A records of many.lab were found, and the first {MOST_KEPT} of them are kept",) == found.cut
    assert found == look_up(zone, HostLookup("many.lab"))


def test_a_truncated_answer(zone: Zone) -> None:
    """A long answer comes over TCP. If TCP is refused, there is no answer, and never a part of an answer."""
    zone.set_addresses("ns", *(f"10.0.1.{number}" for number in range(1, 101)), "2001:db8::1")
    with LongAnswers(zone) as long_answers:
        found = look_up(zone, timeout=20_000)
        assert (100, 1) == (len(found.servers[Family.IP]), len(found.servers[Family.IP6]))
        assert 2 == long_answers.answered
    zone.respond = zone.truncated
    found = look_up(zone, timeout=20_000)
    assert {} == found.servers
    assert (f"no answer for ns.lab: 127.0.0.1:{zone.port} says Connection refused",) == found.troubles


def test_srv_records_with_many_servers(zone: Zone) -> None:
    """The most preferred records are kept, with a part of the addresses of their hosts."""
    hosts = range(2 * MOST_ADDRESSES)
    zone.records["_sip._udp.lab.", "SRV"] = [f"{number} 5 5060 h{number}.lab." for number in hosts]
    for number in hosts:
        zone.set_addresses(f"h{number}", *(f"10.2.{number}.{last}" for last in range(1, 9)))
    found = look_up(zone, SRV)

    assert MOST_KEPT == len(found.servers[Family.IP])
    assert {*range(MOST_KEPT // 8)} == {one.rank for one in found.servers[Family.IP]}
    assert [
        f"{len(hosts)} SRV records of _sip._udp.lab",
        f"{8 * MOST_ADDRESSES} servers of _sip._udp.lab by A records",
    ] == [line.partition(" were found")[0] for line in found.cut]


def test_the_servers_of_the_host(
    zone: Zone, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Without `servers`, /etc/resolv.conf names them. It is read for each lookup; a bad line is left out and logged."""
    path = tmp_path / "resolv.conf"
    monkeypatch.setattr(module, "RESOLV_CONF", str(path))

    def found(timeout: int = 200) -> LookupResult:
        async def ask() -> LookupResult:
            return await NameResolver(NameServers(timeout=timeout)).look_up(NS, BOTH)

        return asyncio.run(ask())

    def trouble() -> str:
        return found().troubles[0]

    class Ported(dns.asyncresolver.Resolver):
        def reset(self) -> None:
            super().reset()
            self.port = zone.port

    assert f"can't read {path}: No such file or directory" == trouble()
    path.write_text("search lab\n")
    assert f"{path} names no DNS server" == trouble()
    path.write_bytes(b"nameserver 127.0.0.2\nsearch lab\noptions timeout:1\n")
    assert "no answer for ns.lab" in trouble()
    path.write_text("nameserver 127.0.0.256\n")
    ignored = "line 1 is ignored: 127.0.0.256 is not the address of a DNS server"
    assert f"{path} names no DNS server; {ignored}" == trouble()
    path.write_bytes(b"nameserver 127.0.0.1\noptions timeout:0\n")
    monkeypatch.setattr(dns.asyncresolver, "Resolver", Ported)
    assert {"10.0.0.1", "10.0.0.2"} == texts(found(timeout=10_000))["ip"]
    assert [] == caplog.messages[1:]
    path.write_bytes(b"nameserver ns.lab\nnameserver 10.0.0.x%\nsearch \xff.. lab\nnameserver 127.0.0.1\n")
    resolver = NameResolver(NameServers(timeout=10_000))

    async def ask_twice() -> list[LookupResult]:
        return [await resolver.look_up(HostLookup("ns"), BOTH) for _ in range(2)]

    assert [{"10.0.0.1", "10.0.0.2"}] * 2 == [texts(result)["ip"] for result in asyncio.run(ask_twice())]
    assert [
        f"{path}: line 1 is ignored: ns.lab is not the address of a DNS server",
        f"{path}: line 2 is ignored: 10.0.0.x% is not the address of a DNS server",
        f"{path}: \ufffd.. in line 3 is ignored: it is not the name of a domain",
    ] == caplog.messages[1:]  # each once
    zone.asked.clear()
    path.unlink()
    path.mkdir()
    assert "not a regular file" in trouble()
    assert [] == zone.asked


def test_commands_need_an_answer(zone: Zone) -> None:
    """A command gets the answers, or one error with all names that have no address."""
    wanted = {NS: BOTH, HostLookup("no.lab"): BOTH}

    assert {NS: 3} == {lookup: len(found) for lookup, found in look_up_now({NS: BOTH}, settings(zone)).items()}
    with pytest.raises(SystemFault, match=r"no\.lab does not exist; needed: an answer of DNS for each name"):
        look_up_now(wanted, settings(zone))
