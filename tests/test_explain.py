"""Explanations: what is said of a packet, and that packets do what is said."""

from __future__ import annotations

import json
from collections import Counter
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
from pools import backend, backends, config, pool, sorry

from nftlb.apply import Applier
from nftlb.compiler import Hop, Membership, Routes
from nftlb.compiler.membership import SORRY, Why
from nftlb.explain import Explanation, Near, Question, Way, as_data, as_text, explain
from nftlb.explain.jhash import jhash
from nftlb.kernel import LibNftables
from nftlb.lab import VIP4, VIP6, Lab
from nftlb.model import Admin, Balance, Endpoint, FallbackKind, Forward, Per, Protocol, SourceKind
from nftlb.model.reading import read_endpoint, read_listener

if TYPE_CHECKING:
    from nftlb.explain import Answer
    from nftlb.model import Config

CLIENT = "198.51.100.7:40000"
THREE = backends("10.0.1.2:5353", "10.0.2.2:5353", "10.0.3.2:5353")


def ask(service: str, client: str = CLIENT) -> Question:
    listener = read_listener(service)
    return Question(read_endpoint(client), Endpoint(listener.address, listener.first_port), listener.protocol)


def answer(one: Config, service: str, client: str = CLIENT, *down: tuple[str, str]) -> Answer:
    found = explain(one, ask(service, client), Membership.with_down(down)).answer
    assert found is not None
    return found


def load(one: Config) -> None:
    with LibNftables() as kernel:
        Applier(kernel).load(one)


def states(found: Answer) -> dict[str, str]:
    return {one.name: one.state for one in found.candidates}


# --- which pool -------------------------------------------------------------------------------------------------------


def test_the_pool_that_listens_there_takes_it() -> None:
    """Address, port (also inside a range) and protocol decide; a pool's other listeners don't matter."""
    one = config(
        pool("dns", ("192.0.2.53:53/udp", "192.0.2.53:53/tcp"), THREE),
        pool("rtp", "192.0.2.53:16384-16484/udp", THREE),
        pool("six", "[2001:db8::53]:53/udp", backends("[fd00:1::2]:5353")),
    )
    taken = {
        service: answer(one, service, client).pool.name
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
def test_no_pool_takes_it(service: str, reason: str, near: list[tuple[str, str]]) -> None:
    """It is said why, and which listeners come close, the nearest first."""
    one = config(pool("dns", ("192.0.2.53:53/udp", "192.0.2.53:53/tcp"), THREE))
    expected = Explanation(
        ask(service), None, reason, tuple(Near(read_listener(text), "dns", differs) for text, differs in near)
    )
    assert expected == explain(one, ask(service))
    assert f"taken by no pool: {reason}\n" in as_text(expected)


# --- who gets it ------------------------------------------------------------------------------------------------------


def test_the_wheel_names_the_backend_of_each_slot() -> None:
    """Weights are spread over the wheel as evenly as can be; backends that are down have no slots."""
    weighted = (backend("a", "10.0.1.2:1", weight=2), backend("b", "10.0.2.2:1"), backend("c", "10.0.3.2:1"))
    one = config(pool("dns", "192.0.2.53:53/udp", weighted))
    found = answer(one, "192.0.2.53:53/udp")
    assert {"a": 2, "b": 1, "c": 1} == Counter(found.slots)
    assert [("a", 2), ("b", 1), ("c", 1)] == [(one.name, one.slots) for one in found.candidates]
    assert ("b", "c") == answer(one, "192.0.2.53:53/udp", CLIENT, ("dns", "a")).slots


def test_what_keeps_a_backend_out() -> None:
    """Health, the operator's word, a weight of 0; and the sorry server's turn has not come."""
    behind = (
        backend("a", "10.0.1.2:1"),
        backend("b", "10.0.2.2:1"),
        backend("c", "10.0.3.2:1", admin=Admin.DRAIN),
        backend("d", "10.0.4.2:1", admin=Admin.MAINTENANCE),
        backend("e", "10.0.5.2:1", weight=0),
        backend("six", "[fd00:1::2]:1"),
    )
    one = config(pool("dns", ("192.0.2.53:53/udp", "[2001:db8::53]:53/udp"), behind, fallback=sorry("10.0.9.2:1")))
    expected = {
        "a": "in",
        "b": "down",
        "c": "drain",
        "d": "maintenance",
        "e": "weight 0",
        SORRY: "waits until no backend is left",
    }
    assert expected == states(answer(one, "192.0.2.53:53/udp", CLIENT, ("dns", "b")))


def test_without_a_backend() -> None:
    """The fallback in force is named: the sorry server, everybody, or a refusal, each in its family."""
    listen = ("192.0.2.53:53/udp", "[2001:db8::53]:53/udp")
    behind = (backend("a", "10.0.1.2:1"), backend("six", "[fd00:1::2]:1"))
    down = (("dns", "a"), ("dns", "six"))
    with_sorry = config(pool("dns", listen, behind, fallback=sorry("10.0.9.2:1")))

    found = answer(with_sorry, "192.0.2.53:53/udp", CLIENT, *down)
    assert (Why.FALLBACK, None, (SORRY,)) == (found.why, found.verdict, found.slots)
    assert "no backend is left: the sorry server gets everything." == dict(found.remarks)["now"]

    found = answer(with_sorry, "[2001:db8::53]:53/udp", "[2001:db8::7]:1", *down)
    assert (Why.FALLBACK, FallbackKind.REJECT, ()) == (found.why, found.verdict, found.slots)
    assert dict(found.remarks)["none left"].startswith("reject: ")


def test_panic_uses_those_that_are_down() -> None:
    """Below the panic threshold everybody enabled takes part, and it is said that some are down."""
    one = config(pool("dns", "192.0.2.53:53/udp", THREE, panic=50))
    found = answer(one, "192.0.2.53:53/udp", CLIENT, ("dns", "b1"), ("dns", "b2"))
    assert (Why.PANIC, ("b1", "b2", "b3")) == (found.why, found.slots)
    assert {"b1": "in, though down", "b2": "in, though down", "b3": "in"} == states(found)
    assert dict(found.remarks)["now"].startswith("panic: less than 50% ")


# --- what becomes of it -----------------------------------------------------------------------------------------------


def test_ways_of_nat() -> None:
    """The request leads from the source that the pool says to the backend; the reply comes from the listener."""
    client, service = CLIENT, "192.0.2.53:53"
    for options, seen in (
        ({}, "masquerade:40000"),
        ({"source": SourceKind.KEEP}, client),
        ({"source": SourceKind.ADDRESS, "source_addresses": (ip_address("10.9.9.9"),)}, "10.9.9.9:40000"),
    ):
        one = config(
            pool("dns", "192.0.2.53:53/udp", (backend("a", "10.0.1.2:5353"), backend("b", "10.0.2.2")), **options)
        )
        found = answer(one, "192.0.2.53:53/udp")
        assert [
            (Way(client, service, seen, "10.0.1.2:5353"), Way("10.0.1.2:5353", seen, service, client)),
            (Way(client, service, seen, "10.0.2.2:53"), Way("10.0.2.2:53", seen, service, client)),
        ] == [(one.request, one.reply) for one in found.candidates]
        assert [1, 2] == [one.zone for one in found.candidates]


def test_source_ports() -> None:
    """A client keeps its port if nothing listens there, else it gets one of those at which nothing does."""
    one = config(pool("ntp", ("192.0.2.53:123/udp", "192.0.2.53:2000-3000/udp"), THREE))
    for port, seen in ((123, "3001-65535"), (2500, "3001-65535"), (3001, "3001"), (40000, "40000")):
        (found, *_) = answer(one, "192.0.2.53:123/udp", f"198.51.100.7:{port}").candidates
        assert f"masquerade:{seen}" == found.request.new_source
        assert found.reply is not None
        assert f"masquerade:{seen}" == found.reply.destination
    said = dict(answer(one, "192.0.2.53:123/udp").remarks)["source ports"]
    assert "if it is one of 3001-65535" in said
    assert "62535 clients' sockets" in said


def test_sources_with_keep() -> None:
    """The client's own, but for a backend that is its own client, and for what this host asks from a service's port."""
    one = config(pool("ntp", "192.0.2.53:123/udp", THREE, source=SourceKind.KEEP))
    sources = {
        client: [found.request.new_source for found in answer(one, "192.0.2.53:123/udp", client).candidates[:2]]
        for client in ("198.51.100.7:123", "10.0.2.2:123", "192.0.2.53:123", "192.0.2.53:4000")
    }
    assert {
        "198.51.100.7:123": ["198.51.100.7:123"] * 2,
        "10.0.2.2:123": ["10.0.2.2:123", "masquerade:1024-65535"],
        "192.0.2.53:123": ["192.0.2.53:1024-65535"] * 2,
        "192.0.2.53:4000": ["192.0.2.53:4000"] * 2,
    } == sources
    said = dict(answer(one, "192.0.2.53:123/udp", "10.0.2.2:123").remarks)
    assert said["own client"].startswith("the client is backend b2 itself")
    assert "own client" not in dict(answer(one, "192.0.2.53:123/udp").remarks)


def test_cautions_are_remarks() -> None:
    """Those of the pool, and of no other."""
    one = config(pool("dhcp", "192.0.2.53:67/udp", THREE), pool("dns", "192.0.2.53:53/udp", THREE))
    assert "use source: keep" in dict(answer(one, "192.0.2.53:67/udp").remarks)["caution"]
    assert "caution" not in dict(answer(one, "192.0.2.53:53/udp").remarks)


def test_the_source_of_a_family_that_only_a_sorry_server_is_of() -> None:
    """The file gives no address for it: it is masqueraded."""
    listen = ("192.0.2.53:53/udp", "[2001:db8::53]:53/udp")
    source = {"source": SourceKind.ADDRESS, "source_addresses": (ip_address("10.9.9.9"),)}
    one = config(pool("dns", listen, backends("10.0.1.2:5353"), fallback=sorry("[fd00::9]:53"), **source))
    (found,) = answer(one, "[2001:db8::53]:53/udp", "[2001:db8::7]:5000").candidates
    assert "masquerade:5000" == found.request.new_source


def test_ways_without_conntrack() -> None:
    """`stateless` keeps the source; `dsr` keeps everything, has a mark for each backend and never sees the reply."""
    listen, behind = "192.0.2.53:5353/udp", backends("10.0.1.2:5353", "10.0.2.2:5353")
    client, service = CLIENT, "192.0.2.53:5353"
    rewritten = answer(config(pool("dns", listen, behind, forward=Forward.STATELESS)), listen)
    assert Way(client, service, client, "10.0.1.2:5353") == rewritten.candidates[0].request
    assert Way("10.0.1.2:5353", client, service, client) == rewritten.candidates[0].reply
    assert [(None, None)] * 2 == [(one.zone, one.mark) for one in rewritten.candidates]

    direct = answer(config(pool("dns", listen, behind, forward=Forward.DSR)), listen)
    assert Way(client, service, client, service) == direct.candidates[0].request
    assert [None, None] == [one.reply for one in direct.candidates]
    assert [60001, 60002] == [one.mark for one in direct.candidates]


def test_flows_have_one_zone() -> None:
    """TCP is spread by connection in any pool, UDP where the pool says so: all backends share the pool's zone."""
    both = config(pool("dns", ("192.0.2.53:53/udp", "192.0.2.53:53/tcp"), THREE))
    by_flow = config(pool("dns", "192.0.2.53:53/udp", THREE, per=Per.FLOW))
    assert (False, [1, 2, 3]) == _zones(answer(both, "192.0.2.53:53/udp"))
    assert (True, [4, 4, 4]) == _zones(answer(both, "192.0.2.53:53/tcp"))
    assert (True, [1, 1, 1]) == _zones(answer(by_flow, "192.0.2.53:53/udp"))
    assert "of that socket to the same backend" in dict(answer(by_flow, "192.0.2.53:53/udp").remarks)["spread"]


def _zones(found: Answer) -> tuple[bool, list[int | None]]:
    return found.by_flow, [one.zone for one in found.candidates]


def test_the_fast_path() -> None:
    """It takes a pool that names interfaces, once every next hop is known: by the file, or by routes looked up."""
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
        name: answer(config(one), service).fast_path for name, (one, _) in cases.items()
    }
    routes = Routes({ip_address("10.0.1.2"): Hop(ip_address("10.0.1.2"), "eth1")})
    found = explain(config(cases["not known"][0]), ask(service), routes=routes).answer
    assert found is not None
    assert found.fast_path is True


@pytest.mark.parametrize("forward", list(Forward))
def test_every_mode_says_what_becomes_of_the_rest(forward: Forward) -> None:
    """Fragments, missing checksums, ICMP errors, a pool without a backend: said for datagrams in every mode."""
    one = config(pool("dns", "192.0.2.53:53/udp", backends("10.0.1.2"), forward=forward))
    expected = {"forward", "spread", "fragments", "zero checksum", "ICMP", "fast path", "none left"}
    if forward is not Forward.NAT:
        expected.add("own packets")
    else:
        expected.add("source ports")
    assert expected == dict(answer(one, "192.0.2.53:53/udp").remarks).keys()


# --- how it is shown --------------------------------------------------------------------------------------------------


def test_this_hosts_own_questions() -> None:
    """Without conntrack they leave from another port, and what comes in for that port is said to be their answers."""
    one = config(pool("ntp", "192.0.2.53:123/udp", backends("10.0.1.2"), forward=Forward.STATELESS))
    assert (
        "sends from 192.0.2.53:123 to other hosts leaves from port 61123"
        in dict(answer(one, "192.0.2.53:123/udp").remarks)["own packets"]
    )
    reason = explain(one, ask("192.0.2.53:61123/udp")).reason
    assert reason.startswith("192.0.2.53:61123 stands for port 123 of this host itself")
    assert explain(one, ask("192.0.2.53:61123/tcp")).reason.startswith("192.0.2.53 has listeners")


def test_a_backend_that_is_a_client_of_its_own_pool() -> None:
    """What it loses without conntrack is said to it, and to nobody else."""
    two = backends("10.0.1.2", "10.0.2.2")

    def remark(forward: Forward, client: str, *down: str, hairpin: bool = False) -> str:
        one = config(pool("dns", "192.0.2.53:53/udp", two, forward=forward, hairpin=hairpin))
        found = answer(one, "192.0.2.53:53/udp", client, *(("dns", name) for name in down))
        return dict(found.remarks).get("own client", "")

    assert remark(Forward.STATELESS, "10.0.1.2:40000").startswith("the client is backend b1 itself: packets that fall")
    assert "conntrack translates what falls to it" in remark(Forward.STATELESS, "10.0.1.2:40000", hairpin=True)
    for hairpin in (True, False):  # from the port at which it serves
        assert "look like replies" in remark(Forward.STATELESS, "10.0.1.2:53", hairpin=hairpin)
    assert "its packets do not leave it" in remark(Forward.DSR, "10.0.2.2:53")
    assert ["", "", ""] == [
        remark(Forward.STATELESS, CLIENT),
        remark(Forward.STATELESS, "10.0.1.2:40000", "b1"),
        remark(Forward.NAT, "10.0.1.2:53"),
    ]


def test_as_text() -> None:
    """What an operator reads, to the letter."""
    one = config(pool("dns", "192.0.2.53:53/udp", backends("10.0.0.11:5353", "10.0.0.12:5353")))
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
        "  packet 3 -> b1, and so on (counted from the last change of the pool)",
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
    ] == as_text(explain(one, ask("192.0.2.53:53/udp"))).splitlines()[:21]


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
def test_slots_in_words(options: dict[str, object], down: tuple[str, ...], expected: str) -> None:
    """Only a wheel that turns is drawn, and only as far as anybody would read."""
    options = {"behind": THREE, **options}
    one = config(pool("dns", "192.0.2.53:53/udp", **options))  # type: ignore[arg-type]
    membership = Membership.with_down(("dns", name) for name in down)
    assert expected in as_text(explain(one, ask("192.0.2.53:53/udp"), membership))


def test_as_data() -> None:
    """The keys are the same whether a pool takes the packet or not, and all of it is JSON."""
    one = config(pool("dns", "192.0.2.53:53/udp", THREE))
    taken, refused = (as_data(explain(one, ask(service))) for service in ("192.0.2.53:53/udp", "192.0.2.53:54/udp"))
    assert taken.keys() == refused.keys()
    assert ("dns", ["b1", "b2", "b3"], "packet") == (taken["pool"], taken["slots"], taken["per"])
    assert (None, [], None) == (refused["pool"], refused["slots"], refused["per"])
    assert [taken, refused] == json.loads(json.dumps([taken, refused]))


# --- whether it is true -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seed", "expected"), [(0, 0x17770551), (1, 0xCD628161)])
def test_jhash_is_the_published_function(seed: int, expected: int) -> None:
    """The values that the author of lookup3 gives in its source."""
    assert expected == jhash(b"Four score and seven years ago", seed, "little")


def test_one_socket_meets_the_backends_in_the_order_of_the_wheel() -> None:
    """Real packets: as many as two turns of a weighted wheel, right after the pool was loaded."""
    weighted = (
        backend("b1", "10.0.1.2:5353", weight=3),
        backend("b2", "10.0.2.2:5353", weight=2),
        backend("b3", "10.0.3.2:5353"),
    )
    one = config(pool("dns", f"{VIP4}:53/udp", weighted))
    slots = answer(one, f"{VIP4}:53/udp").slots
    with Lab(backends=3) as lab, lab.serve(), lab.client.connect((VIP4, 53)) as client:
        lab.balancer.call(load, one)
        assert [*slots, *slots] == [answer.backend for answer in client.exchange(2 * len(slots))]


def test_a_hashed_client_meets_the_backend_that_is_told() -> None:
    """Real packets: from forty addresses of each family, with `balance: hash` in `nat`."""
    behind = (*THREE, *(backend(f"s{n}", f"[fd00:{n}::2]:5353") for n in (1, 2, 3)))
    one = config(pool("dns", (f"{VIP4}:53/udp", f"[{VIP6}]:53/udp"), behind, balance=Balance.HASH))
    with Lab(backends=3) as lab, lab.serve():
        lab.balancer.call(load, one)
        told, met = [], []
        for vip, network, prefix in ((VIP4, "198.51.100.", "24"), (VIP6, "2001:db8:1::", "64")):
            for number in range(10, 50):
                own = f"{network}{number}"
                lab.client.run(["ip", "addr", "add", f"{own}/{prefix}", "dev", "eth0", "nodad"])
                question = Question(Endpoint(ip_address(own), 4000), Endpoint(ip_address(vip), 53), Protocol.UDP)
                found = explain(one, question).answer
                assert found is not None
                assert found.slot is not None
                told.append(found.slots[found.slot].replace("s", "b"))
                with lab.client.connect((vip, 53), source_address=own) as client:
                    met += [reply.backend for reply in client.exchange(1)]
        assert told == met
        assert {"b1", "b2", "b3"} == set(met)
