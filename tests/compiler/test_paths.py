"""The paths of packets: the tracer follows them through compiled rulesets of all modes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from packet_tracer import Checksum, Journey, Packet, Tracer
from pool_builders import DROP, REJECT, backend, backends, config, pool, sorry

from nftlb.compiler import Compiled
from nftlb.model import Balance, Forward, Membership, Per, Pool, Protocol, SourceKind

VIP, VIP6, OWN = "192.0.2.53", "2001:db8::53", "10.0.0.1"
LOCAL = (OWN, VIP, "2001:db8:1::1", VIP6)
ASK = Packet("198.51.100.7", 40000, VIP, 53)
ASK6 = Packet("2001:db8:7::7", 40000, VIP6, 53)
FOUR = backends("10.0.0.11:5353", "10.0.0.12:5353", "10.0.0.13:5353")
SIX = backends("[2001:db8:2::11]:5353", "[2001:db8:2::12]:5353", "[2001:db8:2::13]:5353")
MODES = [Forward.NAT, Forward.STATELESS]


def tracer(of: Pool, *down: str, **choices: Any) -> Tracer:
    compiled = Compiled(config(of))
    ruleset = compiled.ruleset(Membership.with_down((of.name, name) for name in down))
    return Tracer(ruleset, LOCAL, routed_marks=frozenset(compiled.allocation.marks.values()), **choices)


def seen(journey: Journey) -> tuple[str, str, int]:
    return journey.verdict, journey.packet.destination, journey.packet.dport


def dns(*, per: Per = Per.PACKET, **options: Any) -> Pool:
    behind = options.pop("behind", FOUR)
    listen = options.pop("listen", f"{VIP}:53/udp")
    return pool("dns", listen, behind, per=per, **options)


@pytest.mark.parametrize("forward", MODES)
@pytest.mark.parametrize(
    ("ask", "behind", "listen"), [(ASK, FOUR, f"{VIP}:53/udp"), (ASK6, SIX, f"[{VIP6}]:53/udp")], ids=["IPv4", "IPv6"]
)
def test_packets_of_one_socket_take_turns(forward: Forward, ask: Packet, behind: tuple[Any, ...], listen: str) -> None:
    """Twelve packets from one socket: four for each backend, in strict order, and every reply comes from the VIP."""
    host = tracer(dns(behind=behind, listen=listen, forward=forward))
    journeys = [host.send(ask) for _ in range(12)]
    replies = [host.reply(journey) for journey in journeys]

    assert [("forwarded", str(backend.address), 5353) for backend in behind] * 4 == list(map(seen, journeys))
    assert {(ask.destination, 53, ask.source, 40000)} == {
        (reply.packet.source, reply.packet.sport, reply.packet.destination, reply.packet.dport) for reply in replies
    }
    assert {"dns/b1": 4, "dns/b2": 4, "dns/b3": 4} == host.counts


@pytest.mark.parametrize("forward", [*MODES, Forward.DSR])
def test_packets_to_no_listener_are_not_changed(forward: Forward) -> None:
    """A packet to another port, protocol or address is forwarded and tracked as usual, and not counted."""
    host = tracer(dns(forward=forward, behind=backends("10.0.0.11", "10.0.0.12")))
    others = [
        replace(ASK, dport=54),
        replace(ASK, protocol="tcp"),
        replace(ASK, destination=OWN),
        replace(ASK, destination="203.0.113.1"),
    ]

    for packet in others:
        journey = host.send(packet)
        assert (packet, 0, True) == (journey.packet, journey.zone, journey.tracked)
    assert not host.counts


def test_sources_are_masqueraded_kept_or_given() -> None:
    """In `nat`, a backend sees the address of the balancer, of the client, or the address in the file."""
    kept, given = SourceKind.KEEP, SourceKind.ADDRESS
    address = (backend("x", "10.0.0.2").address,)

    assert OWN == tracer(dns()).send(ASK).packet.source
    assert ASK.source == tracer(dns(source=kept)).send(ASK).packet.source
    assert "10.0.0.2" == tracer(dns(source=given, source_addresses=address)).send(ASK).packet.source


def test_a_family_without_a_source_is_masqueraded() -> None:
    """With a source for IPv4 alone, packets to a sorry server of IPv6 are masqueraded."""
    host = tracer(
        dns(
            listen=(f"{VIP}:53/udp", f"[{VIP6}]:53/udp", f"[{VIP6}]:53/tcp"),
            source=SourceKind.ADDRESS,
            source_addresses=(backend("x", "10.0.0.2").address,),
            fallback=sorry("[2001:db8:2::99]:53"),
        )
    )

    assert LOCAL[2] == host.send(ASK6).packet.source == host.send(replace(ASK6, protocol="tcp")).packet.source


@pytest.mark.parametrize("forward", MODES)
def test_without_a_port_packets_keep_their_port(forward: Forward) -> None:
    """Packets to a range of ports keep their port, and replies come from the same port."""
    ranged = dns(listen=f"{VIP}:16384-16484/udp", behind=backends("10.0.0.11", "10.0.0.12"), forward=forward)
    host = tracer(ranged)
    journeys = [host.send(replace(ASK, dport=port)) for port in (16384, 16400, 16484, 16485, 16383)]

    assert [("10.0.0.11", 16384), ("10.0.0.12", 16400), ("10.0.0.11", 16484), (VIP, 16485), (VIP, 16383)] == [
        (journey.packet.destination, journey.packet.dport) for journey in journeys
    ]
    assert [(VIP, 16384), (VIP, 16400), (VIP, 16484)] == [
        (reply.packet.source, reply.packet.sport) for reply in map(host.reply, journeys[:3])
    ]


def test_a_client_on_the_balancer_is_served() -> None:
    """Packets that the host itself sends to the VIP are balanced like others (`nat`)."""
    host = tracer(dns())
    own = Packet(OWN, 40000, VIP, 53, interface="")

    assert [("forwarded", f"10.0.0.1{number}", 5353) for number in (1, 2, 3, 1)] == [
        seen(host.send(own)) for _ in range(4)
    ]


def test_a_backend_can_be_its_own_client() -> None:
    """The packet comes to the backend from the balancer's address, so the reply passes the balancer (`nat`)."""
    host = tracer(dns())
    journey = host.send(Packet("10.0.0.11", 40000, VIP, 53))
    reply = host.reply(journey)

    assert ("10.0.0.11", OWN) == (journey.packet.destination, journey.packet.source)
    assert (VIP, "10.0.0.11", 40000) == (reply.packet.source, reply.packet.destination, reply.packet.dport)


def test_health_checks_of_the_balancer_are_not_balanced() -> None:
    """A health check's reply is neither rewritten nor untracked (`stateless`: by its destination)."""
    for forward in MODES:
        host = tracer(dns(forward=forward))
        check = host.send(Packet(OWN, 50000, "10.0.0.11", 5353, interface=""))
        answer = host.reply(check)

        assert (True, "10.0.0.11", OWN, 50000) == (
            answer.tracked,
            answer.packet.source,
            answer.packet.destination,
            answer.packet.dport,
        )


@pytest.mark.parametrize("forward", [Forward.STATELESS, Forward.DSR])
@pytest.mark.parametrize("protocol", Protocol)
@pytest.mark.parametrize("version", [4, 6])
def test_replies_to_requests_from_a_services_port_reach_this_host(
    forward: Forward, protocol: Protocol, version: int
) -> None:
    """The request leaves from another port, and the reply to that port reaches the socket that sent it."""
    address, server = {4: (VIP, "203.0.113.1"), 6: (VIP6, "2001:db8:9::1")}[version]
    listen = f"[{VIP6}]:53/{protocol}" if version == 6 else f"{VIP}:53/{protocol}"
    behind = backends("2001:db8:2::11", "2001:db8:2::12") if version == 6 else backends("10.0.0.11", "10.0.0.12")
    host = tracer(dns(listen=listen, behind=behind, forward=forward, balance=Balance.HASH))
    question = Packet(address, 53, server, 53, protocol, interface="")

    asked = host.send(question)
    answered = host.reply(asked)

    assert (question.source, 61053, question.destination, 53) == (
        asked.packet.source,
        asked.packet.sport,
        asked.packet.destination,
        asked.packet.dport,
    )
    assert ("local", address, 53, True) == (*seen(answered), answered.tracked)
    assert not host.counts
    assert ("forwarded", 1) == (host.send(Packet(server, 53, address, 53, protocol)).verdict, host.counts.total())


@pytest.mark.parametrize(
    "packet", [Packet(OWN, 53, "203.0.113.1", 53, interface=""), Packet(VIP, 54, "203.0.113.1", 53, interface="")]
)
def test_other_packets_of_the_balancer_are_not_changed(packet: Packet) -> None:
    """Packets from another address or port are not changed."""
    assert packet == tracer(dns(forward=Forward.STATELESS)).send(packet).packet


def test_connections_stay_with_their_backend() -> None:
    """With TCP, and UDP `per: flow`, a connection stays with its backend, and new connections take turns."""
    for ask, of in [(ASK, dns(per=Per.FLOW)), (replace(ASK, protocol="tcp"), dns(listen=f"{VIP}:53/tcp"))]:
        host = tracer(of)
        first = [seen(host.send(ask)) for _ in range(4)]
        second = [seen(host.send(replace(ask, sport=40001))) for _ in range(4)]

        assert [("forwarded", "10.0.0.11", 5353)] * 4 == first
        assert [("forwarded", "10.0.0.12", 5353)] * 4 == second


def test_a_packet_is_counted_once() -> None:
    """Also where one address is two backends, one of them with a port (`per: flow`)."""
    host = tracer(dns(per=Per.FLOW, behind=backends("10.0.0.11:5353", "10.0.0.11")))
    for port in (40000, 40001):
        host.send(replace(ASK, sport=port))

    assert {"dns/b1": 1, "dns/b2": 1} == host.counts


def test_a_pool_balances_udp_by_packet_and_tcp_by_flow() -> None:
    """UDP by packet and TCP by connection, from one list of backends; each backend counts both."""
    host = tracer(dns(listen=(f"{VIP}:53/udp", f"{VIP}:53/tcp")))
    targets = [host.send(replace(ASK, protocol=protocol)).packet.destination for protocol in ("udp", "tcp") * 3]

    assert ["10.0.0.11", "10.0.0.11", "10.0.0.12", "10.0.0.11", "10.0.0.13", "10.0.0.11"] == targets
    assert {"dns/b1": 4, "dns/b2": 1, "dns/b3": 1} == host.counts


def test_random_and_hash_choose_the_slot() -> None:
    """`random` takes a random slot; `hash` takes the slot of the client's address, whatever the port."""
    thrown = iter([2, 2, 0])
    host = tracer(dns(balance=Balance.RANDOM), dice=lambda modulus: next(thrown) % modulus)
    assert ["10.0.0.13", "10.0.0.13", "10.0.0.11"] == [host.send(ASK).packet.destination for _ in range(3)]

    asked: list[tuple[str, int]] = []

    def hash_of(value: str, modulus: int) -> int:
        asked.append((value, modulus))
        return 7

    host = tracer(dns(balance=Balance.HASH), hash_of=hash_of)
    assert 1 == len({host.send(replace(ASK, sport=port)).packet.destination for port in range(40000, 40010)})
    assert {(ASK.source, 256)} == set(asked)


@pytest.mark.parametrize("forward", [*MODES, Forward.DSR])
def test_without_a_backend_packets_are_refused_or_dropped(forward: Forward) -> None:
    """`reject` sends an error to the client, `drop` does not. No packet reaches a backend."""
    behind = backends("10.0.0.11", "10.0.0.12")
    for fallback, verdict in [(REJECT, "rejected"), (DROP, "dropped")]:
        host = tracer(dns(behind=behind, forward=forward, fallback=fallback), "b1", "b2")

        assert verdict == host.send(ASK).verdict


def test_a_refused_connection_is_reset() -> None:
    """TCP clients get a reset."""
    host = tracer(dns(listen=f"{VIP}:53/tcp"), "b1", "b2", "b3")

    journey = host.send(replace(ASK, protocol="tcp"))

    assert ("rejected", "tcp reset") == (journey.verdict, journey.how)


@pytest.mark.parametrize("forward", MODES)
def test_the_sorry_server_answers_for_all(forward: Forward) -> None:
    """When every backend is down, packets go to the fallback's address and port; replies still come from the VIP."""
    host = tracer(dns(forward=forward, fallback=sorry("10.0.0.99:5399")), "b1", "b2", "b3")
    journey = host.send(ASK)

    assert ("forwarded", "10.0.0.99", 5399) == seen(journey)
    assert (VIP, 53) == (host.reply(journey).packet.source, host.reply(journey).packet.sport)
    assert {"dns/_sorry": 1} == host.counts


@pytest.mark.parametrize("forward", [*MODES, Forward.DSR])
def test_fragments_are_joined_first(forward: Forward) -> None:
    """A later fragment has no ports, so some rule makes the kernel join it with the first fragment."""
    host = tracer(dns(forward=forward, behind=backends("10.0.0.11", "10.0.0.12")))

    for piece in ("first", "later"):
        host.send(replace(ASK, fragment=piece))

    assert {"dns/b1": 1, "dns/b2": 1} == host.counts


@pytest.mark.parametrize("forward", MODES)
def test_a_checksum_of_zero_stays_zero(forward: Forward) -> None:
    """A UDP checksum of zero stays zero, in requests and in replies."""
    host = tracer(dns(forward=forward))
    journey = host.send(replace(ASK, checksum=Checksum.NONE))

    assert (Checksum.NONE, Checksum.NONE) == (journey.packet.checksum, host.reply(journey).packet.checksum)


def test_replies_get_the_source_of_their_listener() -> None:
    """`stateless` with several listeners: each backend's reply gets the source of the listener of its protocol."""
    host = tracer(
        dns(
            listen=(f"{VIP}:53/udp", f"{VIP}:853/tcp"),
            behind=backends("10.0.0.11", "10.0.0.12"),
            forward=Forward.STATELESS,
            balance=Balance.HASH,
        )
    )

    for ask in (ASK, replace(ASK, protocol="tcp", dport=853)):
        reply = host.reply(host.send(ask)).packet
        assert (VIP, ask.dport) == (reply.source, reply.sport)


# --- direct return ----------------------------------------------------------------------------------------


def test_dsr_does_not_change_the_packet() -> None:
    """`dsr` sets only a mark, which routes the packet. The packet is not rewritten or tracked."""
    host = tracer(dns(behind=backends("10.0.0.11", "10.0.0.12"), forward=Forward.DSR))
    journeys = [host.send(ASK) for _ in range(4)]

    assert [60001, 60002, 60001, 60002] == [journey.mark for journey in journeys]
    assert {("forwarded", ASK, False)} == {(sent.verdict, sent.packet, sent.tracked) for sent in journeys}


# --- the ingress hook -------------------------------------------------------------------------------------


def near(*texts: str, **options: Any) -> tuple[Any, ...]:
    return backends(*texts, device="eth1", **options)


def fast(forward: Forward, behind: tuple[Any, ...], **options: Any) -> Pool:
    return dns(forward=forward, behind=behind, ingress=("eth0",), **options)


def test_ingress_forwards_the_packet_itself() -> None:
    """`stateless` at ingress rewrites the packet, lowers its TTL and sends it out of the backend's interface."""
    host = tracer(fast(Forward.STATELESS, near("10.0.0.11:5353", "10.0.0.12:5353")))
    journeys = [host.send(ASK) for _ in range(4)]

    assert [("fwd", address, 5353, 0, address, "eth1") for address in ("10.0.0.11", "10.0.0.12")] * 2 == [
        journey.target for journey in journeys
    ]
    assert {63} == {journey.packet.ttl for journey in journeys}
    assert {"dns/b1": 2, "dns/b2": 2} == host.counts


def test_ingress_sends_by_way_of_the_next_hop() -> None:
    """`via` is the neighbour that gets the packet, whatever the backend's address."""
    host = tracer(fast(Forward.DSR, near("10.9.9.9", via=backend("x", "10.0.0.254").address)))

    assert ("fwd", VIP, 53, 0, "10.0.0.254", "eth1") == host.send(ASK).target


@pytest.mark.parametrize(
    "odd",
    [
        replace(ASK, interface="eth9"),
        replace(ASK, fragment="first"),
        replace(ASK, fragment="later"),
        replace(ASK, checksum=Checksum.NONE),
        replace(ASK, ttl=1),
        replace(ASK6, extended=True),
        replace(ASK6, fragment="first"),
        replace(ASK6, ttl=1),
    ],
    ids=str,
)
@pytest.mark.parametrize("forward", [Forward.STATELESS, Forward.DSR])
def test_packets_that_ingress_cannot_forward_use_the_ordinary_chains(forward: Forward, odd: Packet) -> None:
    """Fragments, no checksum, extension headers and the last hop: packets take the ordinary chains."""
    behind = near("10.0.0.11", "2001:db8:2::11")
    host = tracer(fast(forward, behind, listen=(f"{VIP}:53/udp", f"[{VIP6}]:53/udp")))
    journey = host.send(odd)
    if forward is Forward.DSR and odd.checksum is Checksum.NONE:
        assert "fwd" == journey.verdict  # nothing is rewritten, so the checksum does not matter
        return
    went = journey.packet.destination if forward is Forward.STATELESS else journey.mark

    assert "forwarded" == journey.verdict
    assert went in ("10.0.0.11", "2001:db8:2::11", 60001, 60002)


def test_ingress_is_not_used_with_an_unknown_next_hop() -> None:
    """If one backend's interface is not known, all packets of the pool take the ordinary chains, without loss."""
    host = tracer(fast(Forward.STATELESS, (*near("10.0.0.11:5353"), backend("far", "10.9.9.9:5353"))))

    assert ["10.0.0.11", "10.9.9.9"] == [host.send(ASK).packet.destination for _ in range(2)]
    assert "netdev" not in host.now.ruleset.tables


def test_ingress_without_a_backend_lets_the_ordinary_chains_refuse() -> None:
    """The ordinary chains send the ICMP error, because they know the address."""
    host = tracer(fast(Forward.STATELESS, near("10.0.0.11:5353")), "b1")

    assert "rejected" == host.send(ASK).verdict


def test_ingress_forwards_udp_tcp_and_sctp() -> None:
    """The port is rewritten in UDP, TCP and SCTP packets of one pool."""
    listen = tuple(f"{VIP}:53/{protocol}" for protocol in Protocol)
    host = tracer(fast(Forward.STATELESS, near("10.0.0.11:5353"), listen=listen, balance=Balance.HASH))

    assert {("fwd", "10.0.0.11", 5353)} == {seen(host.send(replace(ASK, protocol=protocol))) for protocol in Protocol}


def test_weights_hold_for_the_packets_of_one_socket() -> None:
    """5:3:1: of nine packets in a row, five, three and one."""
    weights = tuple(replace(server, weight=weight) for server, weight in zip(FOUR, (5, 3, 1), strict=True))
    host = tracer(dns(behind=weights))

    assert {"10.0.0.11": 10, "10.0.0.12": 6, "10.0.0.13": 2} == Counter(
        host.send(ASK).packet.destination for _ in range(18)
    )
