"""The requirements of pools, compared with hosts that are given as values."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
from pool_builders import backend, config, pool

from nftlb.compiler.routes import tunnel_hop
from nftlb.kernel.neighbours import Neighbour
from nftlb.kernel.rtnetlink import LOCAL, Route
from nftlb.kernel.surroundings import Interface, Lookup, Surroundings
from nftlb.kernel.tunnels import Link
from nftlb.model import Admin, Config, Encap, Forward, Health, Helper, Icmp, Per, SourceKind
from nftlb.requirements import (
    BackendPath,
    Lack,
    LackFault,
    backend_path,
    faults_of,
    lacking,
    lookups,
    pool_lines,
    stale_tunnels,
    tunnel_kinds,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nftlb.model import Pool

V4, V6 = "192.0.2.53:53/udp", "[2001:db8::53]:53/udp"
HERE = {4: ip_address("10.0.0.1"), 6: ip_address("fd00::1")}
ETH = Interface(2, "eth1")


def host(*interfaces: Interface, routes: dict[str, Route] | None = None) -> Surroundings:
    """A host with these interfaces, and with routes by address."""
    found = {Lookup(ip_address(address)): route for address, route in (routes or {}).items()}
    return Surroundings((Interface(1, "lo"), *(interfaces or (ETH,))), found, {4: True, 6: True})


def on_link(version: int = 4, **more: object) -> Route:
    return replace(Route(version, 254, index=2, source=HERE[version]), **more)  # type: ignore[arg-type]


def subjects(of: Pool, where: Surroundings) -> list[str]:
    return [f"{requirement.pool}: {requirement.subject}" for requirement in lacking(config(of), where)]


def plain(version: int = 4, **options: object) -> Pool:
    listen, address = {4: (V4, "10.0.0.11"), 6: (V6, "fd00::11")}[version]
    return pool("dns", listen, (backend("b1", f"[{address}]:53" if version == 6 else f"{address}:53"),), **options)


WELL = host(routes={"10.0.0.11": on_link(), "fd00::11": on_link(6)})


@pytest.mark.parametrize("version", [4, 6])
def test_a_host_that_has_everything(version: int) -> None:
    assert [] == subjects(plain(version), WELL)


@pytest.mark.parametrize(
    "route",
    [None, on_link(index=1), on_link(kind=7), on_link(kind=5)],
    ids=["none", "through loopback", "unreachable", "multicast"],
)
def test_a_route_that_leads_nowhere(route: Route | None) -> None:
    where = host(routes={"10.0.0.11": route} if route else {})

    assert ["dns: route to 10.0.0.11"] == subjects(plain(), where)
    assert BackendPath("no route to 10.0.0.11") == backend_path(plain(), plain().backends[0], where)


@pytest.mark.parametrize(
    ("route", "message", "fix"),
    [
        (None, "there is no route to 10.0.0.11, backend dns/b1", "ip route add 10.0.0.11 via ROUTER"),
        (
            on_link(kind=5),
            "packets can't be sent to 10.0.0.11, backend dns/b1: it is a multicast address",
            "ip route get 10.0.0.11",
        ),
        (
            on_link(source=None),
            "this host has no address for `source: masquerade` on the route to 10.0.0.11, backend dns/b1",
            "ip address add ADDRESS dev eth1",
        ),
    ],
    ids=["no route", "multicast", "no source"],
)
def test_messages_about_routes(route: Route | None, message: str, fix: str) -> None:
    """A route that is missing, unusable or without a source address has its own message and fix."""
    where = host(routes={"10.0.0.11": route} if route else {})

    assert [(message, fix)] == [
        (requirement.message, requirement.fix) for requirement in lacking(config(plain()), where)
    ]


def test_only_backends_that_get_packets_need_a_route() -> None:
    """A backend in maintenance, of weight 0, or of a family without a listener needs no route."""
    idle = (
        backend("b1", "10.0.0.11:53"),
        replace(backend("b2", "10.0.9.1:53"), admin=Admin.MAINTENANCE),
        replace(backend("b3", "10.0.9.2:53"), weight=0),
        backend("b4", "[fd00:9::9]:53"),
    )

    assert [] == subjects(pool("dns", V4, idle), WELL)


def test_a_backend_of_this_host_needs_no_forwarding() -> None:
    local = replace(host(routes={"10.0.0.11": Route(4, 255, index=1, kind=LOCAL)}), forwards={4: False, 6: True})

    assert [] == subjects(plain(), local)
    assert BackendPath() == backend_path(plain(), plain().backends[0], local)
    assert ["dns: IPv4 forwarding"] == subjects(plain(), replace(WELL, forwards={4: False, 6: True}))
    assert ["dns: IPv6 forwarding"] == subjects(plain(6), replace(WELL, forwards={4: True, 6: False}))


def test_only_masquerade_needs_an_address() -> None:
    """With other values of `source`, packets keep the client's address or have a given address."""
    where = host(routes={"10.0.0.11": on_link(source=None), "10.0.0.9": Route(4, 255, kind=LOCAL)})

    assert ["dns: route to 10.0.0.11"] == subjects(plain(), where)
    assert [] == subjects(plain(source=SourceKind.KEEP), where)
    assert [] == subjects(plain(forward=Forward.STATELESS), where)
    assert [] == subjects(plain(source_addresses=(ip_address("10.0.0.9"),)), where)


def test_a_source_may_be_of_an_interface_or_local_by_a_route() -> None:
    """The addresses of a VRF are in its own table. A range may be local by a route, without any interface."""
    given = plain(source_addresses=(ip_address("10.0.0.9"),))
    has = replace(ETH, addresses=frozenset({ip_address("10.0.0.9")}))
    routes = {"10.0.0.11": on_link()}

    assert ["dns: address 10.0.0.9"] == subjects(given, host(routes=routes))
    assert [] == subjects(given, host(has, routes=routes))
    assert ["dns: address 10.0.0.9"] == subjects(given, host(replace(has, up=False), routes=routes))
    tentative = replace(has, unusable=has.addresses)
    assert ["dns: address 10.0.0.9"] == subjects(given, host(tentative, routes=routes))
    assert [] == subjects(given, host(routes={**routes, "10.0.0.9": Route(4, 255, kind=LOCAL)}))


def test_routes_by_the_options_of_checks() -> None:
    """If a mark or a VRF has the only route, a missing route in the main table is not a fault."""
    by_mark = plain(health=(Health(check=Icmp(), mark=7),))
    lookup = Lookup(ip_address("10.0.0.11"), "", 7)
    assert lookup in set(lookups(config(by_mark)))

    assert [] == subjects(by_mark, replace(host(), routes={lookup: on_link()}))


def test_missing_interfaces() -> None:
    down = Interface(5, "eth5", up=False)
    fast = plain(forward=Forward.DSR, ingress=("eth1", "eth5", "eth6"))

    where = host(ETH, down, routes={"10.0.0.11": on_link()})
    assert ["dns: interface eth5", "dns: interface eth6"] == subjects(fast, where)


@pytest.mark.parametrize(
    ("changed", "route", "expected"),
    [
        ({}, on_link(), Neighbour(2, ip_address("10.0.0.11"))),
        ({}, on_link(gateway=ip_address("10.0.0.254")), Neighbour(2, ip_address("10.0.0.254"))),
        ({}, on_link(gateway=ip_address("fe80::1")), Neighbour(2, ip_address("fe80::1"))),
        ({}, on_link(gateway=ip_address("10.0.0.254"), several=True), None),
        ({"device": "eth1"}, on_link(), Neighbour(2, ip_address("10.0.0.11"))),
    ],
    ids=["on the link", "behind a router", "behind an IPv6 router", "behind several routers", "nat ignores device"],
)
def test_next_hop(changed: dict[str, str], route: Route, expected: Neighbour | None) -> None:
    """The next hop on the link. A route with several next hops has no single next hop."""
    changed_backend = replace(backend("b1", "10.0.0.11:53"), **changed)  # type: ignore[arg-type]

    assert BackendPath(neighbour=expected) == backend_path(
        pool("dns", V4, (changed_backend,)), changed_backend, host(routes={"10.0.0.11": route})
    )


@pytest.mark.parametrize("options", [{"forward": Forward.DSR}, {"forward": Forward.STATELESS, "ingress": ("eth1",)}])
def test_next_hop_on_the_fast_path(options: dict[str, object]) -> None:
    """The next hop is the backend's `via`, on its `device` or else on the interface of the route to `via`."""
    via = ip_address("10.0.7.1")
    changed_backend = replace(backend("b1", "10.0.0.11:53"), via=via)
    known = replace(changed_backend, device="eth1")
    of = pool("dns", V4, (changed_backend,), **options)
    where = host(routes={"10.0.7.1": on_link()})

    assert BackendPath(neighbour=Neighbour(2, via)) == backend_path(of, changed_backend, where)
    assert BackendPath(neighbour=Neighbour(2, via)) == backend_path(of, known, host())
    assert BackendPath("there is no interface eth7") == backend_path(
        of, replace(changed_backend, device="eth7"), host()
    )
    assert BackendPath("interface eth1 is down") == backend_path(of, known, host(replace(ETH, up=False)))


def test_a_requirement_of_many_pools_gives_one_message() -> None:
    pools = tuple(replace(plain(), name=f"p{number}") for number in range(6))
    lacks = list(lacking(Config(pools=pools), replace(WELL, forwards={4: False, 6: True})))

    expected = (
        "this host does not forward IPv4 packets, which pool p0 needs; sysctl -w net.ipv4.ip_forward=1; "
        "the same for p1, p2, p3 and 2 more"
    )
    assert {"IPv4 forwarding": LackFault(expected, tuple(f"p{number}" for number in range(6)))} == faults_of(lacks)


def lacks_of(count: int, device: str | None = None) -> list[Lack]:
    """What a pool lacks whose backends are all behind a missing interface, or have no route."""
    backends = (backend(f"b{number}", f"10.0.0.{number}:53") for number in range(1, count + 1))
    forward = Forward.DSR if device else Forward.NAT
    made = pool("dns", V4, tuple(replace(one, device=device) for one in backends), forward=forward)
    return list(lacking(Config(pools=(made,)), host()))


@pytest.mark.parametrize("device", [None, "eth7"])
def test_a_requirement_of_many_backends_gives_one_message(device: str | None) -> None:
    """One cause concerns all backends of a pool: a line for each would hide all other lines. Few have a line each."""
    few, many = lacks_of(3, device), lacks_of(250, device)
    assert [str(lack) for lack in few] == list(pool_lines(few))
    assert (f"{many[0]}; the same for dns/b2, dns/b3, dns/b4 and 246 more",) == pool_lines(many)


def messages(lacks: Iterable[Lack]) -> dict[str, str]:
    """The messages of the faults, by subject."""
    return {subject: fault.message for subject, fault in faults_of(lacks).items()}


def test_faults_of_many_backends() -> None:
    """Few and many backends with one cause are one fault, with the same subject; the message has their number."""
    first = "there is no route to 10.0.0.1, backend dns/b1; ip route add 10.0.0.1 via ROUTER"
    assert {"routes to backends": first} == messages(lacks_of(1))
    assert {"routes to backends": f"{first}; the same for dns/b2, dns/b3"} == messages(lacks_of(3))
    assert {"routes to backends": f"{first}; the same for dns/b2, dns/b3, dns/b4"} == messages(lacks_of(4))
    assert ("dns",) == faults_of(lacks_of(4))["routes to backends"].pools
    missing = "there is no interface eth7, `device` of backend b1 of pool dns; ip link show"
    assert {"interface eth7": f"{missing}; the same for dns/b2, dns/b3, dns/b4 and 246 more"} == messages(
        lacks_of(250, "eth7")
    )


def test_an_interface_of_a_pool_and_of_its_backends() -> None:
    """One fault names the pool and the backends that need the interface."""
    one = replace(backend("b1", "10.0.0.1:53"), device="eth7")
    made = pool("dns", V4, (one,), forward=Forward.DSR, ingress=("eth7",))
    assert {
        "interface eth7": "there is no interface eth7, `ingress` of pool dns; ip link show; the same for dns/b1"
    } == messages(lacking(config(made), host(routes={"10.0.0.1": on_link()})))


def test_types_of_tunnels_are_not_joined() -> None:
    """A kernel may lack the type for IPv4 and the type for IPv6: each type needs its module."""
    options = {"forward": Forward.DSR, "encap": Encap.GRE}
    pools = config(plain(4, **options), replace(plain(6, **options), name="six"))
    where = replace(WELL, missing_tunnels=frozenset({(Encap.GRE, 4), (Encap.GRE, 6)}))
    faults = messages(lacking(pools, where))
    assert ["encap gre (gre)", "encap gre (ip6gre)"] == list(faults)
    assert ["modprobe ip_gre", "modprobe ip6_gre"] == [message.split("; ")[1] for message in faults.values()]


def test_different_causes_of_many_backends_are_not_joined() -> None:
    """Each cause has a fault with its own command: types of addresses, interfaces, IP versions, tunnels."""
    routes: dict[str, Route] = {}
    for number in range(1, 6):
        routes |= {
            f"10.0.1.{number}": on_link(kind=3),
            f"10.0.2.{number}": on_link(kind=5),
            f"10.0.3.{number}": on_link(index=1),
            f"10.0.4.{number}": on_link(source=None),
            f"10.0.5.{number}": on_link(source=None, index=3),
            f"fd00::{number}": on_link(6, source=None),
        }
    listen, where = (V4, V6), host(ETH, Interface(3, "eth2"), routes=routes)
    goals = [f"[{address}]:53" if ":" in address else f"{address}:53" for address in routes]
    made = pool("dns", listen, tuple(backend(f"b{place}", goal) for place, goal in enumerate(goals)))
    lacks = list(lacking(config(made), where))
    assert {
        "routes to backends (a broadcast address)": "ip route get 10.0.1.1",
        "routes to backends (a multicast address)": "ip route get 10.0.2.1",
        "routes to backends (ends at this host)": "ip route get 10.0.3.1",
        "IPv4 source address on eth1": "ip address add ADDRESS dev eth1",
        "IPv4 source address on eth2": "ip address add ADDRESS dev eth2",
        "IPv6 source address on eth1": "ip address add ADDRESS dev eth1",
    } == {subject: message.split("; ")[1] for subject, message in messages(lacks).items()}
    assert len(routes) // 5 == len(pool_lines(lacks))


def test_different_causes_of_tunnels_are_not_joined() -> None:
    """Tunnels that are missing, that another interface has the name of, and that send from a lost address."""
    addresses = [ip_address(f"fd00::{number}") for number in range(1, 16)]
    own = ip_address("fd00::ff")
    names = [tunnel_hop(Encap.GRE, address).device for address in addresses]
    foreign = {name: Link(7, ours=False, up=True, kind="bridge") for name in names[5:10]}
    stale = {
        name: Link(8, ours=True, up=True, kind="ip6gre", local=own, remote=address)
        for name, address in zip(names[10:], addresses[10:], strict=True)
    }
    where = replace(host(routes={str(address): on_link(6) for address in addresses}), tunnels=foreign | stale)
    backends = tuple(backend(f"b{place}", f"[{address}]:53") for place, address in enumerate(addresses))
    made = pool("dns", V6, backends, forward=Forward.DSR, encap=Encap.GRE)
    lacks = list(lacking(config(made), where))
    subjects_ = ["tunnels to backends", "names of tunnels to backends", "tunnels to backends from fd00::ff"]
    assert subjects_ == list(faults_of(lacks))
    commands = [line.split("; ")[1] for line in pool_lines(lacks)]
    assert ["the daemon tries again", f"ip link set {names[5]} name ANOTHER"] == commands[:2]
    assert commands[2].endswith("ip route get fd00::11")


def test_different_requirements_are_not_joined() -> None:
    """Backends without a route, backends without a source address, and what the whole pool needs."""
    there = {f"10.0.0.{number}": on_link(source=None) for number in range(1, 6)}
    made = pool("dns", V4, tuple(backend(f"b{number}", f"10.0.0.{number}:53") for number in range(1, 11)))
    lines = pool_lines(lacking(Config(pools=(made,)), replace(host(routes=there), forwards={4: False, 6: True})))
    assert [
        (
            "this host has no address for `source: masquerade` on the route to 10.0.0.1, backend dns/b1; "
            "ip address add ADDRESS dev eth1; the same for dns/b2, dns/b3, dns/b4 and 1 more"
        ),
        (
            "there is no route to 10.0.0.6, backend dns/b6; ip route add 10.0.0.6 via ROUTER; "
            "the same for dns/b7, dns/b8, dns/b9 and 1 more"
        ),
        "this host does not forward IPv4 packets, which pool dns needs; sysctl -w net.ipv4.ip_forward=1",
    ] == list(lines)


def test_a_kernel_without_a_helper() -> None:
    """Only the pool that needs the helper lacks something, and the message names the module."""
    where = replace(WELL, missing_options=frozenset({"tftp"}))
    helped = plain(per=Per.FLOW, helper=Helper.TFTP)

    assert [] == subjects(plain(), where)
    assert [] == subjects(helped, WELL)
    (lack,) = lacking(config(helped), where)
    assert "the kernel has no helper for tftp, which pool dns needs" == lack.message
    assert "modprobe nf_nat_tftp" == lack.fix.splitlines()[0]
    assert str(lack).endswith(" needs; modprobe nf_nat_tftp; without the daemon, also nftlb apply after that")


def test_a_kernel_without_time_outs() -> None:
    """Only the pool that needs time-outs lacks something, and the message names the option of the kernel."""
    where = replace(WELL, missing_options=frozenset({"session_timeout"}))
    timed = plain(per=Per.FLOW, session_timeout=60_000)

    assert [] == subjects(plain(), where)
    assert [] == subjects(timed, WELL)
    (lack,) = lacking(config(timed), where)
    assert "the kernel has no time-outs for flows, which `session_timeout` of pool dns needs" == lack.message
    assert "CONFIG_NF_CONNTRACK_TIMEOUT" in lack.fix


def test_a_kernel_without_tunnels() -> None:
    """Only the pool that needs a missing type of tunnel lacks something, and the message names the module."""
    where = replace(WELL, missing_tunnels=frozenset({(Encap.IPIP, 4), (Encap.GRE, 6)}))
    tunnelled = plain(forward=Forward.DSR, encap=Encap.IPIP)

    assert [] == subjects(plain(), where)
    assert [] == subjects(tunnelled, WELL)
    (lack,) = lacking(config(tunnelled), where)
    assert "this kernel has no interfaces of the type ipip, which `encap` of pool dns needs" == lack.message
    assert "modprobe ipip" in lack.fix
    assert {(Encap.IPIP, 4)} == tunnel_kinds(config(plain(), tunnelled))


def test_a_tunnel_that_is_missing_or_sends_from_nowhere() -> None:
    """A tunnel must be ours, be up, lead to the backend, and send from an address of this host."""
    tunnelled = plain(6, forward=Forward.DSR, encap=Encap.GRE)
    address, own = ip_address("fd00::11"), ip_address("fd00::1")
    name = tunnel_hop(Encap.GRE, address).device
    good = Link(7, ours=True, up=True, kind="ip6gre", local=own, remote=address)
    here = replace(WELL, interfaces=(Interface(2, "eth1", addresses=frozenset({own})),))
    gone = replace(WELL, interfaces=(Interface(2, "eth1", addresses=frozenset({own}), unusable=frozenset({own})),))
    path = BackendPath(neighbour=Neighbour(2, address))

    def findings(where: Surroundings, link: Link | None) -> tuple[list[str], BackendPath, frozenset[str]]:
        where = replace(where, tunnels={name: link} if link else {})
        lacks = list(lacking(config(tunnelled), where))
        assert {"b1"} >= {lack.backend for lack in lacks}
        stale = stale_tunnels(config(tunnelled), where)
        return [lack.message for lack in lacks], backend_path(tunnelled, tunnelled.backends[0], where), stale

    assert ([], path, frozenset()) == findings(here, good)
    bad = "the tunnel to fd00::11 could not be made, or was deleted"
    away = "the tunnel to fd00::11 sends from fd00::1, which this host does not have any more"
    foreign = f"the interface {name}, which nftlb did not make, has the name of the tunnel to fd00::11"
    for where, link, trouble in (
        (here, None, bad),
        (here, replace(good, up=False), bad),
        (here, replace(good, remote=own), bad),
        (here, replace(good, kind="ip6tnl"), bad),
        (here, replace(good, doomed=True), bad),
        (here, Link(8, ours=False, up=True, kind="bridge"), foreign),
        (gone, good, away),
    ):
        stale = frozenset({name} if trouble == away else ())
        assert ([f"{trouble}, for backend dns/b1"], BackendPath(trouble), stale) == findings(where, link)
    assert [] == subjects(tunnelled, WELL)  # the tunnels were not read
    without = replace(here, tunnels={}, missing_tunnels=frozenset({(Encap.GRE, 6)}))
    assert ["dns: encap gre"] == subjects(tunnelled, without)


def test_an_interface_of_a_listener() -> None:
    """A listener without an address needs its interface. `*`, and an interface that is up, only wait for addresses."""
    where = host(ETH, Interface(3, "eth2", up=False), routes={"10.0.0.11": on_link()})

    def lacks(*listen: str) -> list[str]:
        waiting = replace(plain(), listen=pool("dns", listen, ()).listen)
        return [lack.message for lack in lacking(config(waiting), where)]

    assert ["there is no interface any, `listen` of pool dns"] == lacks("any:53/udp", "any:54/udp", "*:55/udp")
    assert ["interface eth2, `listen` of pool dns, is down"] == lacks("eth2:53/udp")
    assert [] == lacks("eth1:53/udp", "0.0.0.0:54/udp")
