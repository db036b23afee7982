"""What pools need of a host, and what of it a host lacks; hosts are values here."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
from pools import backend, config, pool

from nftlb.kernel.interfaces import Interface
from nftlb.kernel.neighbours import Neighbour
from nftlb.kernel.rtnetlink import LOCAL, Route
from nftlb.kernel.surroundings import Lookup, Surroundings
from nftlb.model import Admin, Config, Forward, Health, Icmp, SourceKind
from nftlb.requirements import Path, lacking, lookups, path, summed_up

if TYPE_CHECKING:
    from nftlb.model import Pool

V4, V6 = "192.0.2.53:53/udp", "[2001:db8::53]:53/udp"
HERE = {4: ip_address("10.0.0.1"), 6: ip_address("fd00::1")}
ETH = Interface(2, "eth1")


def host(*interfaces: Interface, routes: dict[str, Route] | None = None) -> Surroundings:
    """A host whose routes are by address."""
    found = {Lookup(ip_address(address)): route for address, route in (routes or {}).items()}
    return Surroundings((Interface(1, "lo"), *(interfaces or (ETH,))), found, {4: True, 6: True})


def on_link(version: int = 4, **more: object) -> Route:
    return replace(Route(version, 254, index=2, source=HERE[version]), **more)  # type: ignore[arg-type]


def told(of: Pool, where: Surroundings) -> list[str]:
    return [f"{one.pool}: {one.subject}" for one in lacking(config(of), where)]


def plain(version: int = 4, **options: object) -> Pool:
    listen, address = {4: (V4, "10.0.0.11"), 6: (V6, "fd00::11")}[version]
    return pool("dns", listen, (backend("b1", f"[{address}]:53" if version == 6 else f"{address}:53"),), **options)


WELL = host(routes={"10.0.0.11": on_link(), "fd00::11": on_link(6)})


@pytest.mark.parametrize("version", [4, 6])
def test_a_host_that_has_everything(version: int) -> None:
    assert [] == told(plain(version), WELL)


@pytest.mark.parametrize(
    "route",
    [None, on_link(index=1), on_link(kind=7), on_link(kind=5)],
    ids=["none", "through loopback", "unreachable", "multicast"],
)
def test_a_route_that_leads_nowhere(route: Route | None) -> None:
    where = host(routes={"10.0.0.11": route} if route else {})

    assert ["dns: route to 10.0.0.11"] == told(plain(), where)
    assert Path("no route to 10.0.0.11") == path(plain(), plain().backends[0], where)


def test_only_who_is_to_get_packets_needs_a_way() -> None:
    """Not a backend in maintenance, of weight 0, or of a family that nobody listens in."""
    idle = (
        backend("b1", "10.0.0.11:53"),
        replace(backend("b2", "10.0.9.1:53"), admin=Admin.MAINTENANCE),
        replace(backend("b3", "10.0.9.2:53"), weight=0),
        backend("b4", "[fd00:9::9]:53"),
    )

    assert [] == told(pool("dns", V4, idle), WELL)


def test_a_backend_of_this_host_needs_no_forwarding() -> None:
    local = replace(host(routes={"10.0.0.11": Route(4, 255, index=1, kind=LOCAL)}), forwards={4: False, 6: True})

    assert [] == told(plain(), local)
    assert Path() == path(plain(), plain().backends[0], local)
    assert ["dns: IPv4 forwarding"] == told(plain(), replace(WELL, forwards={4: False, 6: True}))
    assert ["dns: IPv6 forwarding"] == told(plain(6), replace(WELL, forwards={4: True, 6: False}))


def test_only_masquerade_needs_an_address() -> None:
    """Of the others, packets leave with the client's, or with one that is given."""
    where = host(routes={"10.0.0.11": on_link(source=None), "10.0.0.9": Route(4, 255, kind=LOCAL)})

    assert ["dns: route to 10.0.0.11"] == told(plain(), where)
    assert [] == told(plain(source=SourceKind.KEEP), where)
    assert [] == told(plain(forward=Forward.STATELESS), where)
    assert [] == told(plain(source_addresses=(ip_address("10.0.0.9"),)), where)


def test_a_source_may_be_of_an_interface_or_local_by_a_route() -> None:
    """A VRF's addresses are in a table of its own; an address range may be local without any interface having it."""
    given = plain(source_addresses=(ip_address("10.0.0.9"),))
    has = replace(ETH, addresses=frozenset({ip_address("10.0.0.9")}))
    routes = {"10.0.0.11": on_link()}

    assert ["dns: address 10.0.0.9"] == told(given, host(routes=routes))
    assert [] == told(given, host(has, routes=routes))
    assert ["dns: address 10.0.0.9"] == told(given, host(replace(has, up=False), routes=routes))
    tentative = replace(has, unusable=has.addresses)
    assert ["dns: address 10.0.0.9"] == told(given, host(tentative, routes=routes))
    assert [] == told(given, host(routes={**routes, "10.0.0.9": Route(4, 255, kind=LOCAL)}))


def test_routing_may_go_by_what_checks_are_given() -> None:
    """A mark or a VRF may be the only way, for packets too; then it is no lack that the main table has none."""
    by_mark = plain(health=(Health(check=Icmp(), mark=7),))
    lookup = Lookup(ip_address("10.0.0.11"), "", 7)
    assert lookup in set(lookups(config(by_mark)))

    assert [] == told(by_mark, replace(host(), routes={lookup: on_link()}))


def test_interfaces_that_are_named() -> None:
    down = Interface(5, "eth5", up=False)
    fast = plain(forward=Forward.DSR, ingress=("eth1", "eth5", "eth6"))

    where = host(ETH, down, routes={"10.0.0.11": on_link()})
    assert ["dns: interface eth5", "dns: interface eth6"] == told(fast, where)


@pytest.mark.parametrize(
    ("changed", "route", "expected"),
    [
        ({}, on_link(), Neighbour(2, ip_address("10.0.0.11"))),
        ({}, on_link(gateway=ip_address("10.0.0.254")), Neighbour(2, ip_address("10.0.0.254"))),
        ({}, on_link(gateway=ip_address("fe80::1")), Neighbour(2, ip_address("fe80::1"))),
        ({}, on_link(gateway=ip_address("10.0.0.254"), several=True), None),
        ({"device": "eth1"}, on_link(), Neighbour(2, ip_address("10.0.0.11"))),
    ],
    ids=["on the link", "behind a router", "behind one of IPv6", "behind several", "nat heeds no device"],
)
def test_who_has_to_answer(changed: dict[str, str], route: Route, expected: Neighbour | None) -> None:
    """The next hop on the link; where packets are spread over several, none of them alone."""
    one = replace(backend("b1", "10.0.0.11:53"), **changed)  # type: ignore[arg-type]

    assert Path(neighbour=expected) == path(pool("dns", V4, (one,)), one, host(routes={"10.0.0.11": route}))


@pytest.mark.parametrize("options", [{"forward": Forward.DSR}, {"forward": Forward.STATELESS, "ingress": ("eth1",)}])
def test_who_has_to_answer_on_the_fast_path(options: dict[str, object]) -> None:
    """What the backend's `device` and `via` say; without a device, as `via` is routed."""
    via = ip_address("10.0.7.1")
    one = replace(backend("b1", "10.0.0.11:53"), via=via)
    known = replace(one, device="eth1")
    of = pool("dns", V4, (one,), **options)
    where = host(routes={"10.0.7.1": on_link()})

    assert Path(neighbour=Neighbour(2, via)) == path(of, one, where)
    assert Path(neighbour=Neighbour(2, via)) == path(of, known, host())
    assert Path("there is no interface eth7") == path(of, replace(one, device="eth7"), host())
    assert Path("interface eth1 is down") == path(of, known, host(replace(ETH, up=False)))


def test_one_thing_that_many_need_is_told_once() -> None:
    pools = tuple(replace(plain(), name=f"p{number}") for number in range(6))
    lacks = list(lacking(Config(pools=pools), replace(WELL, forwards={4: False, 6: True})))

    expected = (
        "this host passes no IPv4 packets on, which pool p0 needs; sysctl -w net.ipv4.ip_forward=1; "
        "it is missing for p1, p2, p3 and 2 more too"
    )
    assert expected == summed_up(lacks)
