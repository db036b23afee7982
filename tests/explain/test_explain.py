"""Explanations of packets, and real packets that behave as explained."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import pytest
from pool_builders import backend, backends, config, pool, sorry

from nftlb.compiler import Hop, Routes
from nftlb.compiler.routes import tunnel_hop
from nftlb.compiler.selection import SORRY
from nftlb.config.reading import read_endpoint, read_listener
from nftlb.explain import Explanation, NearListener, PacketPath, Question, as_data, as_text, explain_packet
from nftlb.explain.jhash import jhash
from nftlb.kernel import LibNftables
from nftlb.lab import VIP4, VIP6, Lab
from nftlb.model import (
    Admin,
    BackendState,
    Balance,
    Collector,
    Encap,
    Endpoint,
    FallbackKind,
    Forward,
    Guard,
    Helper,
    Membership,
    MinHealthy,
    Per,
    Protocol,
    Rate,
    RotationMode,
    SourceEntry,
    SourceKind,
    SourceLengths,
    Templates,
)
from nftlb.swap.applier import Applier

if TYPE_CHECKING:
    from nftlb.explain import Treatment
    from nftlb.model import Config

CLIENT = "198.51.100.7:40000"
THREE = backends("10.0.1.2:5353", "10.0.2.2:5353", "10.0.3.2:5353")


def ask(service: str, client: str = CLIENT) -> Question:
    listener = read_listener(service)
    return Question(read_endpoint(client), Endpoint(listener.address, listener.first_port), listener.protocol)


def answer(configuration: Config, service: str, client: str = CLIENT, *down: tuple[str, str]) -> Treatment:
    found = explain_packet(configuration, ask(service, client), Membership.with_down(down)).treatment
    assert found is not None
    return found


def load(configuration: Config) -> None:
    with LibNftables() as kernel:
        Applier(kernel).load(configuration)


def states(found: Treatment) -> dict[str, str]:
    return {configuration.name: configuration.state for configuration in found.candidates}


# --- which pool -------------------------------------------------------------------------------------------------------


def test_the_pool_with_the_listener_gets_the_packet() -> None:
    """Address, port (also inside a range) and protocol decide; a pool's other listeners don't matter."""
    configuration = config(
        pool("dns", ("192.0.2.53:53/udp", "192.0.2.53:53/tcp"), THREE),
        pool("rtp", "192.0.2.53:16384-16484/udp", THREE),
        pool("six", "[2001:db8::53]:53/udp", backends("[fd00:1::2]:5353")),
    )
    taken = {
        service: answer(configuration, service, client).pool.name
        for service, client in {
            "192.0.2.53:53/udp": CLIENT,
            "192.0.2.53:53/tcp": CLIENT,
            "192.0.2.53:16384/udp": CLIENT,
            "192.0.2.53:16484/udp": CLIENT,
            "[2001:db8::53]:53/udp": "[2001:db8::7]:40000",
        }.items()
    }
    assert ["dns", "dns", "rtp", "rtp", "six"] == list(taken.values())


@pytest.mark.parametrize(
    ("service", "reason", "near"),
    [
        pytest.param(
            "192.0.2.53:54/udp",
            "192.0.2.53 has listeners, but none of them for port 54/udp",
            [("192.0.2.53:53/udp", "port"), ("192.0.2.53:53/tcp", "port and protocol")],
            id="port",
        ),
        pytest.param(
            "192.0.2.53:53/sctp",
            "192.0.2.53 has listeners, but none of them for port 53/sctp",
            [("192.0.2.53:53/udp", "protocol"), ("192.0.2.53:53/tcp", "protocol")],
            id="protocol",
        ),
        pytest.param(
            "192.0.2.99:53/udp",
            "no pool listens on 192.0.2.99",
            [("192.0.2.53:53/udp", "address")],
            id="address",
        ),
        pytest.param("203.0.113.1:80/tcp", "no pool listens on 203.0.113.1", [], id="nothing"),
        pytest.param(
            "10.0.1.2:5353/udp",
            "10.0.1.2:5353 is backend dns/b1 itself: what is sent there is not balanced",
            [],
            id="backend",
        ),
    ],
)
def test_without_a_matching_listener_the_nearest_are_named(
    service: str, reason: str, near: list[tuple[str, str]]
) -> None:
    """The explanation gives the reason, and the listeners that almost match, the nearest first."""
    configuration = config(pool("dns", ("192.0.2.53:53/udp", "192.0.2.53:53/tcp"), THREE))
    expected = Explanation(
        ask(service), None, reason, tuple(NearListener(read_listener(text), "dns", differs) for text, differs in near)
    )
    assert expected == explain_packet(configuration, ask(service))
    assert f"taken by no pool: {reason}\n" in as_text(expected)


# --- who gets it ------------------------------------------------------------------------------------------------------


def test_slots_name_their_backends() -> None:
    """Weights are spread evenly over a turn, and backends that are down have no slots."""
    weighted = (backend("a", "10.0.1.2:1", weight=2), backend("b", "10.0.2.2:1"), backend("c", "10.0.3.2:1"))
    configuration = config(pool("dns", "192.0.2.53:53/udp", weighted))
    found = answer(configuration, "192.0.2.53:53/udp")
    assert {"a": 2, "b": 1, "c": 1} == Counter(found.slots)
    assert [("a", 2), ("b", 1), ("c", 1)] == [
        (configuration.name, configuration.slots) for configuration in found.candidates
    ]
    assert ("b", "c") == answer(configuration, "192.0.2.53:53/udp", CLIENT, ("dns", "a")).slots


def test_the_reason_why_a_backend_is_out() -> None:
    """A backend is out because of its health, the operator's setting or weight 0; a sorry server waits."""
    behind = (
        backend("a", "10.0.1.2:1"),
        backend("b", "10.0.2.2:1"),
        backend("c", "10.0.3.2:1", admin=Admin.DRAIN),
        backend("d", "10.0.4.2:1", admin=Admin.MAINTENANCE),
        backend("e", "10.0.5.2:1", weight=0),
        backend("six", "[fd00:1::2]:1"),
    )
    configuration = config(
        pool("dns", ("192.0.2.53:53/udp", "[2001:db8::53]:53/udp"), behind, fallback=sorry("10.0.9.2:1"))
    )
    expected = {
        "a": "in",
        "b": "down",
        "c": "drain",
        "d": "maintenance",
        "e": "weight 0",
        SORRY: "waits until no backend is left",
    }
    assert expected == states(answer(configuration, "192.0.2.53:53/udp", CLIENT, ("dns", "b")))


def test_without_a_backend() -> None:
    """The explanation names the fallback of the family: the sorry server, all backends, or a rejection."""
    listen = ("192.0.2.53:53/udp", "[2001:db8::53]:53/udp")
    behind = (backend("a", "10.0.1.2:1"), backend("six", "[fd00:1::2]:1"))
    down = (("dns", "a"), ("dns", "six"))
    with_sorry = config(pool("dns", listen, behind, fallback=sorry("10.0.9.2:1")))

    found = answer(with_sorry, "192.0.2.53:53/udp", CLIENT, *down)
    assert (RotationMode.FALLBACK, None, (SORRY,)) == (found.mode, found.verdict, found.slots)
    assert "no backend is left: the sorry server gets all packets." == dict(found.remarks)["now"]

    found = answer(with_sorry, "[2001:db8::53]:53/udp", "[2001:db8::7]:1", *down)
    assert (RotationMode.FALLBACK, FallbackKind.REJECT, ()) == (found.mode, found.verdict, found.slots)
    assert dict(found.remarks)["none left"].startswith("reject: ")


def test_the_priority_that_serves_is_explained() -> None:
    """Backends of other priorities stand by, and the remark names the priority and the condition."""
    behind = (*THREE[:2], backend("b3", "10.0.3.2:5353", priority=2))
    one = config(pool("dns", "192.0.2.53:53/udp", behind))
    first, second = (answer(one, "192.0.2.53:53/udp", CLIENT, *down) for down in ((), (("dns", "b1"), ("dns", "b2"))))

    assert (1, {"b1": "in", "b2": "in", "b3": "standby, priority 2"}) == (first.priority, states(first))
    assert (2, {"b1": "down", "b2": "down", "b3": "in"}) == (second.priority, states(second))
    assert "priority 2 serves: no lower number has enough usable backends" in dict(second.remarks)["priority"]
    assert "priority" not in dict(answer(config(pool("dns", "192.0.2.53:53/udp", THREE)), "192.0.2.53:53/udp").remarks)


def test_a_waiting_priority_is_explained() -> None:
    """With the states of a daemon, a priority that waits to take over is shown, and the case that none serves alone."""
    behind = (THREE[0], backend("b3", "10.0.3.2:5353", priority=2))
    one = config(pool("dns", "192.0.2.53:53/udp", behind, min_healthy=MinHealthy(50, percent=True)))
    waits = BackendState(waiting=True)
    membership = Membership({"dns": frozenset({("b1", waits)})})
    found = explain_packet(one, ask("192.0.2.53:53/udp"), membership).treatment
    assert found is not None
    assert {"b1": "priority 1 waits to take over", "b3": "in"} == states(found)
    assert "waits for 10 s (preempt_delay)" in dict(found.remarks)["priority"]

    every = Membership({"dns": frozenset({("b1", waits), ("b3", waits)})})
    found = explain_packet(one, ask("192.0.2.53:53/udp"), every).treatment
    assert found is not None
    assert "no priority has enough usable backends" in dict(found.remarks)["priority"]


def test_panic_uses_those_that_are_down() -> None:
    """Below the panic threshold all enabled backends are used, and the explanation says which are down."""
    configuration = config(pool("dns", "192.0.2.53:53/udp", THREE, panic=50))
    found = answer(configuration, "192.0.2.53:53/udp", CLIENT, ("dns", "b1"), ("dns", "b2"))
    assert (RotationMode.PANIC, ("b1", "b2", "b3")) == (found.mode, found.slots)
    assert {"b1": "in, though down", "b2": "in, though down", "b3": "in"} == states(found)
    assert dict(found.remarks)["now"].startswith("panic: less than 50% of the weight is usable, ")


# --- what the rules do with the packet --------------------------------------------------------------------------------


def test_ways_of_nat() -> None:
    """The request has the pool's source and goes to the backend; the reply comes from the listener."""
    client, service = CLIENT, "192.0.2.53:53"
    for options, seen in (
        ({}, "masquerade:40000"),
        ({"source": SourceKind.KEEP}, client),
        ({"source": SourceKind.ADDRESS, "source_addresses": (ip_address("10.9.9.9"),)}, "10.9.9.9:40000"),
    ):
        configuration = config(
            pool("dns", "192.0.2.53:53/udp", (backend("a", "10.0.1.2:5353"), backend("b", "10.0.2.2")), **options)
        )
        found = answer(configuration, "192.0.2.53:53/udp")
        assert [
            (PacketPath(client, service, seen, "10.0.1.2:5353"), PacketPath("10.0.1.2:5353", seen, service, client)),
            (PacketPath(client, service, seen, "10.0.2.2:53"), PacketPath("10.0.2.2:53", seen, service, client)),
        ] == [(configuration.request, configuration.reply) for configuration in found.candidates]
        assert [1, 2] == [configuration.zone for configuration in found.candidates]


def test_source_ports() -> None:
    """A client keeps its port if no service listens there; otherwise it gets a port without listener."""
    configuration = config(pool("ntp", ("192.0.2.53:123/udp", "192.0.2.53:2000-3000/udp"), THREE))
    for port, seen in ((123, "3001-65535"), (2500, "3001-65535"), (3001, "3001"), (40000, "40000")):
        (found, *_) = answer(configuration, "192.0.2.53:123/udp", f"198.51.100.7:{port}").candidates
        assert f"masquerade:{seen}" == found.request.new_source
        assert found.reply is not None
        assert f"masquerade:{seen}" == found.reply.destination
    said = dict(answer(configuration, "192.0.2.53:123/udp").remarks)["source ports"]
    assert "if it is one of 3001-65535" in said
    assert "62535 clients' sockets" in said


def test_sources_with_keep() -> None:
    """The client's own source, except for a backend's packet to itself and requests from a service's port."""
    configuration = config(pool("ntp", "192.0.2.53:123/udp", THREE, source=SourceKind.KEEP))
    sources = {
        client: [
            found.request.new_source for found in answer(configuration, "192.0.2.53:123/udp", client).candidates[:2]
        ]
        for client in ("198.51.100.7:123", "10.0.2.2:123", "192.0.2.53:123", "192.0.2.53:4000")
    }
    assert {
        "198.51.100.7:123": ["198.51.100.7:123"] * 2,
        "10.0.2.2:123": ["10.0.2.2:123", "masquerade:1024-65535"],
        "192.0.2.53:123": ["192.0.2.53:1024-65535"] * 2,
        "192.0.2.53:4000": ["192.0.2.53:4000"] * 2,
    } == sources
    said = dict(answer(configuration, "192.0.2.53:123/udp", "10.0.2.2:123").remarks)
    assert said["own client"].startswith("the client is backend b2 itself")
    assert "own client" not in dict(answer(configuration, "192.0.2.53:123/udp").remarks)


def test_cautions_are_remarks() -> None:
    """The remarks have the cautions of the pool, and of no other pool."""
    configuration = config(pool("dhcp", "192.0.2.53:67/udp", THREE), pool("dns", "192.0.2.53:53/udp", THREE))
    assert "use source: keep" in dict(answer(configuration, "192.0.2.53:67/udp").remarks)["caution"]
    assert "caution" not in dict(answer(configuration, "192.0.2.53:53/udp").remarks)


def test_the_source_of_a_family_that_only_a_sorry_server_is_of() -> None:
    """The file gives no source address for the family, so packets are masqueraded."""
    listen = ("192.0.2.53:53/udp", "[2001:db8::53]:53/udp")
    source = {"source": SourceKind.ADDRESS, "source_addresses": (ip_address("10.9.9.9"),)}
    configuration = config(pool("dns", listen, backends("10.0.1.2:5353"), fallback=sorry("[fd00::9]:53"), **source))
    (found,) = answer(configuration, "[2001:db8::53]:53/udp", "[2001:db8::7]:5000").candidates
    assert "masquerade:5000" == found.request.new_source


def test_ways_without_conntrack() -> None:
    """`stateless` keeps the source. `dsr` keeps all addresses, has a mark for each backend, and gets no replies."""
    listen, behind = "192.0.2.53:5353/udp", backends("10.0.1.2:5353", "10.0.2.2:5353")
    client, service = CLIENT, "192.0.2.53:5353"
    rewritten = answer(config(pool("dns", listen, behind, forward=Forward.STATELESS)), listen)
    assert PacketPath(client, service, client, "10.0.1.2:5353") == rewritten.candidates[0].request
    assert PacketPath("10.0.1.2:5353", client, service, client) == rewritten.candidates[0].reply
    assert [(None, None)] * 2 == [(configuration.zone, configuration.mark) for configuration in rewritten.candidates]

    direct = answer(config(pool("dns", listen, behind, forward=Forward.DSR)), listen)
    assert PacketPath(client, service, client, service) == direct.candidates[0].request
    assert [None, None] == [configuration.reply for configuration in direct.candidates]
    assert [60001, 60002] == [configuration.mark for configuration in direct.candidates]
    assert [None, None] == [configuration.tunnel for configuration in direct.candidates]


def test_ways_through_tunnels() -> None:
    """With `encap`, addresses stay too, and each backend has the interface of its tunnel beside its mark."""
    listen, behind = "192.0.2.53:5353/udp", backends("10.0.1.2", "10.0.2.2")
    found = answer(config(pool("dns", listen, behind, forward=Forward.DSR, encap=Encap.IPIP)), listen)
    names = [tunnel_hop(Encap.IPIP, ip_address(address)).device for address in ("10.0.1.2", "10.0.2.2")]
    assert names == [candidate.tunnel for candidate in found.candidates]
    assert [60001, 60002] == [candidate.mark for candidate in found.candidates]
    assert PacketPath(CLIENT, "192.0.2.53:5353", CLIENT, "192.0.2.53:5353") == found.candidates[0].request
    assert "in a tunnel (ipip)" in dict(found.remarks)["forward"]


def test_flows_have_one_zone() -> None:
    """TCP is spread by connection in any pool, UDP where the pool says so: all backends share the pool's zone."""
    both = config(pool("dns", ("192.0.2.53:53/udp", "192.0.2.53:53/tcp"), THREE))
    by_flow = config(pool("dns", "192.0.2.53:53/udp", THREE, per=Per.FLOW))
    assert (False, [1, 2, 3]) == _zones(answer(both, "192.0.2.53:53/udp"))
    assert (True, [4, 4, 4]) == _zones(answer(both, "192.0.2.53:53/tcp"))
    assert (True, [1, 1, 1]) == _zones(answer(by_flow, "192.0.2.53:53/udp"))
    assert "of that socket to the same backend" in dict(answer(by_flow, "192.0.2.53:53/udp").remarks)["spread"]


def test_copies() -> None:
    """The remark names the collectors of the family of the listener, and says what happens to templates."""
    archive = Collector(name="archive", address=ip_address("10.0.9.9"), one_in=10)
    six = Collector(name="six", address=ip_address("2001:db8::9"))
    flows = pool(
        "flows", ("192.0.2.53:2055/udp", "192.0.2.53:2055/tcp"), THREE, forward=Forward.STATELESS, balance=Balance.HASH
    )
    copied = config(replace(flows, mirror=(archive, six), templates=Templates.ALL))
    found = dict(answer(copied, "192.0.2.53:2055/udp").remarks)["copies"]
    assert found.startswith("archive (1 in 10): copies with the source of the client.")
    assert "templates: a datagram that begins with templates" in found
    for configuration, service in ((copied, "192.0.2.53:2055/tcp"), (config(flows), "192.0.2.53:2055/udp")):
        assert "copies" not in dict(answer(configuration, service).remarks)


def test_time_outs_and_helpers_of_flows() -> None:
    """A pool's own time-out takes the place of Linux's defaults; a helper has a remark, and no other pool has one."""
    flows = pool("dns", "192.0.2.53:53/udp", THREE, per=Per.FLOW)
    helped = replace(flows, session_timeout=90_000, helper=Helper.TFTP)
    plain, found = (dict(answer(config(one), "192.0.2.53:53/udp").remarks) for one in (flows, helped))
    assert "Linux: 30 s" in plain["spread"]
    assert "until none has come for 90 s (`session_timeout`)" in found["spread"]
    assert found["helper"].startswith("tftp: the backend answers from a new port.")
    assert "helper" not in plain


def _zones(found: Treatment) -> tuple[bool, list[int | None]]:
    return found.by_flow, [configuration.zone for configuration in found.candidates]


def test_the_fast_path() -> None:
    """The fast path needs interfaces in the pool and all next hops, from the file or from routes."""
    service = "192.0.2.53:53/udp"
    known = (backend("a", "10.0.1.2:53", device="eth1"),)
    looked_up = (backend("a", "10.0.1.2:53"),)
    cases = {
        "nat": (pool("dns", service, known), False),
        "no interface": (pool("dns", service, known, forward=Forward.DSR), False),
        "device": (pool("dns", service, known, forward=Forward.DSR, ingress=("eth0",)), True),
        "not known": (pool("dns", service, looked_up, forward=Forward.DSR, ingress=("eth0",)), None),
    }
    assert {name: expected for name, (_, expected) in cases.items()} == {
        name: answer(config(pools), service).fast_path for name, (pools, _) in cases.items()
    }
    routes = Routes({ip_address("10.0.1.2"): Hop(ip_address("10.0.1.2"), "eth1")})
    found = explain_packet(config(cases["not known"][0]), ask(service), routes=routes).treatment
    assert found is not None
    assert found.fast_path is True


@pytest.mark.parametrize("forward", list(Forward))
def test_every_mode_has_remarks(forward: Forward) -> None:
    """In every mode there are remarks about fragments, missing checksums, ICMP errors, TTLs and a lack of backends."""
    configuration = config(pool("dns", "192.0.2.53:53/udp", backends("10.0.1.2"), forward=forward))
    expected = {"forward", "spread", "fragments", "zero checksum", "ICMP", "last hop", "fast path", "none left"}
    if forward is not Forward.NAT:
        expected.add("own packets")
    else:
        expected.add("source ports")
    if forward is Forward.STATELESS:
        expected.add("replies")
    assert expected == dict(answer(configuration, "192.0.2.53:53/udp").remarks).keys()


# --- how it is shown --------------------------------------------------------------------------------------------------


def test_requests_of_the_host_are_explained() -> None:
    """Without conntrack, requests leave from another port; packets to that port are explained as replies."""
    configuration = config(pool("ntp", "192.0.2.53:123/udp", backends("10.0.1.2"), forward=Forward.STATELESS))
    assert (
        "sends from 192.0.2.53:123 to other hosts leaves from port 61123"
        in dict(answer(configuration, "192.0.2.53:123/udp").remarks)["own packets"]
    )
    reason = explain_packet(configuration, ask("192.0.2.53:61123/udp")).reason
    assert reason.startswith("192.0.2.53:61123 stands for port 123 of this host itself")
    assert explain_packet(configuration, ask("192.0.2.53:61123/tcp")).reason.startswith("192.0.2.53 has listeners")


def test_a_backend_that_is_a_client_of_its_own_pool() -> None:
    """The explanation for such a backend says which packets are lost; that for other clients does not."""
    two = backends("10.0.1.2", "10.0.2.2")

    def remark(forward: Forward, client: str, *down: str, hairpin: bool = False) -> str:
        configuration = config(pool("dns", "192.0.2.53:53/udp", two, forward=forward, hairpin=hairpin))
        found = answer(configuration, "192.0.2.53:53/udp", client, *(("dns", name) for name in down))
        return dict(found.remarks).get("own client", "")

    assert remark(Forward.STATELESS, "10.0.1.2:40000").startswith("the client is backend b1 itself: packets that it")
    assert "conntrack translates packets" in remark(Forward.STATELESS, "10.0.1.2:40000", hairpin=True)
    for hairpin in (True, False):  # from the port at which it serves
        assert "look like replies" in remark(Forward.STATELESS, "10.0.1.2:53", hairpin=hairpin)
    assert "its packets do not leave it" in remark(Forward.DSR, "10.0.2.2:53")
    assert ["", "", ""] == [
        remark(Forward.STATELESS, CLIENT),
        remark(Forward.STATELESS, "10.0.1.2:40000", "b1"),
        remark(Forward.NAT, "10.0.1.2:53"),
    ]


def test_as_text() -> None:
    """The exact text for an operator."""
    configuration = config(pool("dns", "192.0.2.53:53/udp", backends("10.0.0.11:5353", "10.0.0.12:5353")))
    assert [
        "198.51.100.7:40000 to 192.0.2.53:53/udp",
        "  taken by pool dns, which listens on 192.0.2.53:53/udp",
        "",
        "backends",
        "  b1  10.0.0.11:5353  in  weight 1  1 of 2 slots  zone 1",
        "  b2  10.0.0.12:5353  in  weight 1  1 of 2 slots  zone 2",
        "",
        "slots",
        "  packet 1 -> b1",
        "  packet 2 -> b2",
        "  packet 3 -> b1, then in order (counted from the last change of the pool)",
        "",
        "rewriting",
        "  b1  request  198.51.100.7:40000 > 192.0.2.53:53  becomes masquerade:40000 > 10.0.0.11:5353",
        "      reply    10.0.0.11:5353 > masquerade:40000   becomes 192.0.2.53:53 > 198.51.100.7:40000",
        "  b2  request  198.51.100.7:40000 > 192.0.2.53:53  becomes masquerade:40000 > 10.0.0.12:5353",
        "      reply    10.0.0.12:5353 > masquerade:40000   becomes 192.0.2.53:53 > 198.51.100.7:40000",
        "",
        "remarks",
        "  forward        nat: conntrack rewrites the request, and the reply back; each has an entry in a",
        "                 zone of ours.",
    ] == as_text(explain_packet(configuration, ask("192.0.2.53:53/udp"))).splitlines()[:21]


@pytest.mark.parametrize(
    ("options", "down", "expected"),
    [
        ({}, ("b1", "b2"), "  every packet -> b3\n"),
        ({}, ("b1", "b2", "b3"), "  none: no backend is left\n"),
        ({"balance": Balance.RANDOM}, (), "  every packet draws one of 3\n"),
        ({"balance": Balance.HASH}, (), " of 256, by the client's address: every packet -> b"),
        ({"per": Per.FLOW}, (), "  connection 1 -> b1\n"),
        (
            {"behind": (*backends("10.0.0.1", "10.0.0.2"), backend("z", "10.0.0.3", weight=98))},
            (),
            "  ... 76 more slots\n",
        ),
    ],
)
def test_slots_as_text(options: dict[str, object], down: tuple[str, ...], expected: str) -> None:
    """Slots are listed only for a rotation, and only the first slots."""
    options = {"behind": THREE, **options}
    configuration = config(pool("dns", "192.0.2.53:53/udp", **options))  # type: ignore[arg-type]
    membership = Membership.with_down(("dns", name) for name in down)
    assert expected in as_text(explain_packet(configuration, ask("192.0.2.53:53/udp"), membership))


def test_as_data() -> None:
    """The keys are the same whether or not a pool takes the packet, and all values are JSON."""
    configuration = config(pool("dns", "192.0.2.53:53/udp", THREE))
    taken, refused = (
        as_data(explain_packet(configuration, ask(service))) for service in ("192.0.2.53:53/udp", "192.0.2.53:54/udp")
    )
    assert taken.keys() == refused.keys()
    assert ("dns", ["b1", "b2", "b3"], "packet") == (taken["pool"], taken["slots"], taken["per"])
    assert (None, [], None) == (refused["pool"], refused["slots"], refused["per"])
    assert [taken, refused] == json.loads(json.dumps([taken, refused]))


# --- whether it is true -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seed", "expected"), [(0, 0x17770551), (1, 0xCD628161)])
def test_jhash_is_the_published_function(seed: int, expected: int) -> None:
    """The values that the author of lookup3 gives in its source."""
    assert expected == jhash(b"Four score and seven years ago", seed, "little")


def test_packets_of_a_socket_follow_the_explained_order() -> None:
    """Real packets follow two turns of a weighted rotation from the load of the pool on."""
    weighted = (
        backend("b1", "10.0.1.2:5353", weight=3),
        backend("b2", "10.0.2.2:5353", weight=2),
        backend("b3", "10.0.3.2:5353"),
    )
    configuration = config(pool("dns", f"{VIP4}:53/udp", weighted))
    slots = answer(configuration, f"{VIP4}:53/udp").slots
    with Lab(backends=3) as lab, lab.serve(), lab.client.connect((VIP4, 53)) as client:
        lab.balancer.call(load, configuration)
        assert [*slots, *slots] == [answer.backend for answer in client.exchange(2 * len(slots))]


def test_hashed_clients_reach_the_explained_backend() -> None:
    """Real packets from forty addresses of each family go to the backends that the explanation gives."""
    behind = (*THREE, *(backend(f"s{n}", f"[fd00:{n}::2]:5353") for n in (1, 2, 3)))
    configuration = config(pool("dns", (f"{VIP4}:53/udp", f"[{VIP6}]:53/udp"), behind, balance=Balance.HASH))
    with Lab(backends=3) as lab, lab.serve():
        lab.balancer.call(load, configuration)
        explained, met = [], []
        for vip, network, prefix in ((VIP4, "198.51.100.", "24"), (VIP6, "2001:db8:1::", "64")):
            for number in range(10, 50):
                own = f"{network}{number}"
                lab.client.run(["ip", "addr", "add", f"{own}/{prefix}", "dev", "eth0", "nodad"])
                question = Question(Endpoint(ip_address(own), 4000), Endpoint(ip_address(vip), 53), Protocol.UDP)
                found = explain_packet(configuration, question).treatment
                assert found is not None
                assert found.choice is not None
                explained.append(found.choice.target.replace("s", "b"))
                with lab.client.connect((vip, 53), source_address=own) as client:
                    met += [reply.backend for reply in client.exchange(1)]
        assert explained == met
        assert {"b1", "b2", "b3"} == set(met)


@pytest.mark.parametrize(
    ("client", "said"),
    [
        ("10.0.1.1:5060", "leaves from 192.0.2.50:5060"),
        ("10.0.1.2:5060", "leaves from 192.0.2.50:5060"),
        ("10.0.1.2:5061", "no pool listens on"),
        ("10.0.1.9:5060", "no pool listens on"),
    ],
)
def test_a_request_of_a_backend(client: str, said: str) -> None:
    """With `outbound`, a request that a backend sends from its port leaves from the service."""
    behind = backends("10.0.1.1:5060", "10.0.1.2")
    configuration = config(pool("sip", ("192.0.2.50:5060/udp", "192.0.2.50:5060/tcp"), behind, outbound=True))
    question = Question(read_endpoint(client), read_endpoint("203.0.113.9:5060"), Protocol.UDP)
    assert said in explain_packet(configuration, question).reason


def test_a_guard_is_explained() -> None:
    """The remark says whether the client is in a list, and otherwise what it may send; a prefix is one source."""
    guard = Guard(
        rate=Rate(100),
        burst=20,
        ban=60_000,
        per=SourceLengths(24, 64),
        allow=(SourceEntry(ip=((int(ip_address("198.51.100.7")),) * 2,)),),
        deny=(SourceEntry(ip=((int(ip_address("198.51.100.0")), int(ip_address("198.51.100.255"))),)),),
    )
    configuration = config(replace(pool("dns", ("192.0.2.53:53/udp", "192.0.2.53:53/tcp"), THREE), guard=guard))

    def said(client: str, service: str = "192.0.2.53:53/udp") -> str:
        return dict(answer(configuration, service, client).remarks)["guard"]

    assert "the client is in `allow`, so its packets always pass." == said("198.51.100.7:40000")
    assert "the client is in `deny`, so its packets are dropped." == said("198.51.100.8:40000")
    later = "at once and 100/second later"
    ban, full = (
        "Then it is banned for 60 s.",
        "While 65536 other sources have a limit (`sources`), this source shares a limit with",
    )
    who = "all clients in 203.0.113.0/24, which are one source, may send"
    for protocol, what in (("udp", "20 packets"), ("tcp", "20 new connections")):
        shared = f"{full} all sources that have none: {what} {later}."
        expected = f"{who} {what} {later}; the rest is dropped. {ban} {shared}"
        assert expected == said("203.0.113.7:40000", f"192.0.2.53:53/{protocol}")
    plain = config(pool("dns", "192.0.2.53:53/udp", THREE))
    assert "guard" not in dict(answer(plain, "192.0.2.53:53/udp").remarks)

    # A denied client reaches no backend, whatever the slots are.
    dropped = "none: the guard drops the packets of this client, which is in `deny`"
    for balance in Balance:
        of = replace(configuration.pools[0], balance=balance)
        found = explain_packet(config(of), ask("192.0.2.53:53/udp", "198.51.100.8:40000"))
        assert f"slots\n  {dropped}\n" in as_text(found)
        assert (dropped, None, []) == tuple(as_data(found)[key] for key in ("decided_by", "target", "slots"))
        assert ["guard"] == list(as_data(found)["remarks"])
        assert "rewriting\n  nothing\n" in as_text(found)
        allowed = explain_packet(config(of), ask("192.0.2.53:53/udp", "198.51.100.7:40000"))
        assert dropped not in as_text(allowed)


@pytest.mark.parametrize("forward", Forward)
@pytest.mark.parametrize("templates", Templates)
def test_the_last_hop(forward: Forward, templates: Templates) -> None:
    """A remark says what the sender of a packet with a TTL of 1 gets, and that the packet is not copied."""
    source = SourceKind.KEEP if forward is Forward.NAT else SourceKind.MASQUERADE
    listen = ("192.0.2.53:53/udp", "192.0.2.53:53/sctp")
    configuration = config(pool("dns", listen, THREE, forward=forward, source=source, templates=templates))
    for service in listen:
        said = dict(answer(configuration, service).remarks)["last hop"]
        assert (forward is Forward.STATELESS) == ("quotes the address of a backend" in said)
        copied = templates is Templates.ALL and service.endswith("udp")
        assert copied == said.endswith("Such a packet is not copied.")


def test_answers_to_requests_of_backends() -> None:
    """With `outbound` and nat, slots do not decide about answers, and a remark says so. With stateless, they do."""

    def headings(**options: Any) -> set[str]:
        configuration = config(pool("sip", "192.0.2.50:5060/udp", backends("10.0.1.1", "10.0.1.2"), **options))
        found = answer(configuration, "192.0.2.50:5060/udp")
        return {heading for heading, _ in found.remarks} & {"answers", "caution"}

    assert {"answers"} == headings(outbound=True)
    assert {"caution"} == headings(outbound=True, forward=Forward.STATELESS)
    assert set() == headings()


@pytest.mark.parametrize(
    ("options", "slow"),
    [
        ({"forward": Forward.STATELESS}, "fragments, datagrams without a checksum, IPv6 with extension headers, and"),
        ({"forward": Forward.DSR}, "fragments, IPv6 with extension headers, and"),
        ({"forward": Forward.DSR, "encap": Encap.IPIP}, "extension headers, packets longer than 1260 bytes, and"),
        ({"forward": Forward.DSR, "encap": Encap.GRE}, "extension headers, packets longer than 1256 bytes, and"),
        ({"forward": Forward.DSR, "templates": Templates.ALL}, "headers, templates of NetFlow v9 and IPFIX, and"),
        ({"forward": Forward.STATELESS, "hairpin": True}, "headers, packets of the pool's own backends, and"),
    ],
)
def test_packets_that_leave_the_fast_path(options: dict[str, Any], slow: str) -> None:
    """The remark about the fast path has the packets that the rules there let go on."""
    configuration = config(pool("dns", "192.0.2.53:53/udp", backends("10.0.1.2"), ingress=("eth0",), **options))
    assert f"{slow} a TTL of 1." in dict(answer(configuration, "192.0.2.53:53/udp").remarks)["fast path"]
