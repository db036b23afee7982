"""`mirror` and `templates` together, and with a guard, weights, priorities, a hash, and a pool without backends.

ONE client socket sends everything.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

import pytest
from copies_lab import COLLECTOR_PORT, CopiesLab
from flow_datagrams import DATA, IPFIX, OPTIONS, TEMPLATE, V9, Exporter, arrived, exporting, flow_datagram, number_of
from pool_lab import BACKEND_PORT, DSR, DSR_INGRESS, NAT, PORT, STATELESS, STATELESS_INGRESS, PoolLab, down, vip

from nftlb.model import (
    Admin,
    BackendState,
    Balance,
    Endpoint,
    Fallback,
    FallbackKind,
    Guard,
    Membership,
    Rate,
    SourceEntry,
    SourceKind,
)

if TYPE_CHECKING:
    from pool_lab import Mode

    from nftlb.lab.servers import Servers

VERSIONS = (4, 6)
MODES = (NAT, STATELESS, DSR)
ALL_MODES = (*MODES, STATELESS_INGRESS, DSR_INGRESS)
SLOW = Rate(1, 3600)
"""No packet comes back while a test runs, so a burst is exact."""


def denied(*addresses: str) -> tuple[SourceEntry, ...]:
    """Sources of a guard's list."""
    networks = [ip_network(address) for address in addresses]
    spans = {
        version: tuple((int(one[0]), int(one[0])) for one in networks if one.version == version) for version in VERSIONS
    }
    return (SourceEntry(ip=spans[4], ip6=spans[6]),)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_what_a_guard_drops_is_not_copied(mode: Mode, version: int) -> None:
    """A collector gets what passes the guard: nothing above the limit, during a ban, or from a denied source."""
    with CopiesLab(mode, clients=3, collector_answers=False) as lab:
        limited, other, refused = lab.lab.clients
        guard = Guard(rate=SLOW, burst=5, ban=3_600_000, deny=denied(refused.address(version)))
        lab.load(replace(lab.mirrored(), guard=guard))
        for host, sent in ((refused, 4), (limited, 9), (other, 3)):
            with host.connect((vip(version), PORT)) as client:
                client.send(sent)
                lab.servers.settle()
        expected = {limited.name: 5, other.name: 3}
        assert expected == Counter(copy.sender for copy in lab.copies())
        assert expected == lab.senders()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_samples_of_several_collectors_are_exact(mode: Mode, version: int) -> None:
    """Collectors of a pool have their own samples: all, 1 in 3, 1 in 7, also while backends and collectors change."""
    with CopiesLab(mode, collector_answers=False) as lab:
        every = (
            *lab.collectors(),
            *lab.collectors("third", port=9997, one_in=3),
            *lab.collectors("seventh", port=9998, one_in=7),
        )
        lab.load(replace(lab.pool(), mirror=every))
        gone = Membership({"dns": frozenset((f"third{six}", BackendState(up=False)) for six in ("", "-6"))})
        with (
            lab.collect(9997, [lab.collector], (version,)) as third,
            lab.collect(9998, [lab.collector], (version,)) as seventh,
            lab.lab.client.connect((vip(version), PORT)) as client,
        ):
            for state in (Membership(), down("b1"), gone, Membership()):
                lab.update(state)
                assert {1} == {answer.copies for answer in client.exchange(42, size=1500)}
            assert list(range(4 * 42)) == numbers(lab.archive)
            assert [one for one in range(0, 4 * 42, 3) if not 2 * 42 <= one < 3 * 42] == numbers(third)
            assert list(range(0, 4 * 42, 7)) == numbers(seventh)


def numbers(archive: Servers) -> list[int]:
    """The numbers of the datagrams that a collector got."""
    return sorted(copy.sequence or 0 for copy in archive.settle())


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_collectors_get_copies_while_no_backend_is_left(mode: Mode, version: int) -> None:
    """A pool without a backend is served by its fallback, and collectors still get each datagram."""
    with CopiesLab(mode, collector_answers=False) as lab, lab.lab.client.connect((vip(version), PORT)) as client:
        lab.load(replace(lab.mirrored(), fallback=Fallback(FallbackKind.DROP)), membership=down("b1", "b2"))
        client.send(6)
        assert list(range(6)) == numbers(lab.archive)
        assert [] == lab.servers.settle()
        lab.update(Membership())
        assert {"b1": 3, "b2": 3} == Counter(answer.backend for answer in client.exchange(6))
        assert list(range(12)) == numbers(lab.archive)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_clients_at_the_port_of_the_service(mode: Mode, version: int) -> None:
    """Datagrams from the port of the service, from that of the backends and from that of the collector are copied."""
    with CopiesLab(mode) as lab:
        if mode.dsr:
            lab.load(replace(lab.mirrored(), mirror=lab.collectors()))
        else:
            lab.load(lab.mirrored())
        for port in (PORT, BACKEND_PORT, COLLECTOR_PORT):
            with lab.lab.client.connect((vip(version), PORT), source_port=port) as client:
                assert {"b1": 3, "b2": 3} == Counter(answer.backend for answer in client.exchange(6))
                assert [(lab.lab.client.address(version), port)] * 6 == [copy.source for copy in lab.copies()]
                assert [] == client.drain()
            lab.archive.clear()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("mode", [NAT, STATELESS], ids=str)
def test_a_client_on_the_host_of_a_collector(mode: Mode, version: int) -> None:
    """The client is served. Over IPv4, there are no copies: the kernel drops packets from an address of the host."""
    with (
        CopiesLab(mode, collector_answers=False) as lab,
        lab.collector.connect((vip(version), PORT), connected=False) as client,
    ):
        lab.load(lab.mirrored())
        assert {"b1": 3, "b2": 3} == Counter(answer.backend for answer in client.exchange(6))
        assert {4: 0, 6: 6}[version] == len(lab.copies())


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_templates_and_mirror(mode: Mode, version: int) -> None:
    """A collector gets templates and data once, each backend gets all templates once, and data take strict turns."""
    with CopiesLab(mode, collector_answers=False) as lab, Exporter(lab, version) as exporter:
        pool = exporting(lab, mode)
        lab.load(replace(pool, mirror=lab.collectors()))
        templates: list[int] = []
        for number in range(24):
            kind = (TEMPLATE, DATA, DATA, OPTIONS)[number % 4]
            templates += [number] * (kind != DATA)
            exporter.send(flow_datagram((V9, IPFIX)[number % 3 == 0], kind, number, 3000 if number % 8 == 0 else 64))
        found = arrived(lab)
        assert list(range(24)) == sorted(number_of(copy.payload) for copy in lab.archive.settle())
        assert {exporter.source} == {copy.source for copy in lab.archive.received}
        assert [templates, templates, []] == [
            [one for one in found[name] if one in templates] for name in ("b1", "b2", "b3")
        ]
        data = [[one for one in found[name] if one not in templates] for name in ("b1", "b2")]
        assert [6, 6] == [len(of_one) for of_one in data]
        assert sorted(set(range(24)).difference(templates)) == sorted(data[0] + data[1])


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("mode", ALL_MODES, ids=str)
def test_templates_by_weight(mode: Mode, version: int) -> None:
    """Each backend gets a template once, whatever its weight; data go by weight. Weight 0 and drained get nothing."""
    with PoolLab(mode, weights=(3, 1, 1)) as lab, Exporter(lab, version) as exporter:
        lab.load(exporting(lab, mode))
        for state, shares in ((BackendState(), (6, 2, 2)), (BackendState(weight=0), (8, 2, 0)), (DRAINED, (8, 2, 0))):
            lab.update(Membership({"dns": frozenset((f"b3{six}", state) for six in ("", "-6"))}))
            in_rotation = [name for name, share in zip(("b1", "b2", "b3"), shares, strict=True) if share]
            total = sum(shares) if shares[2] else 8
            for number in range(total + 2):
                exporter.send(flow_datagram(V9, TEMPLATE if number < 2 else DATA, number))
            found = arrived(lab)
            assert {name: [0, 1] if name in in_rotation else [] for name in found} == {
                name: [one for one in of_one if one < 2] for name, of_one in found.items()
            }
            assert total == sum(one >= 2 for of_one in found.values() for one in of_one)
            assert (6, 2) == tuple(sum(one >= 2 for one in found[name]) for name in ("b1", "b2"))


DRAINED = BackendState(admin=Admin.DRAIN)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("mode", [NAT, STATELESS], ids=str)
def test_templates_until_nobody_is_left(mode: Mode, version: int) -> None:
    """The last backend gets each datagram once, then the sorry server, and no other server."""
    with PoolLab(mode) as lab, Exporter(lab, version) as exporter:
        third = lab.lab.backends[2]
        sorry = tuple(Endpoint(ip_address(address), BACKEND_PORT) for address in (third.ipv4, third.ipv6))
        pool = exporting(lab, mode)
        two = tuple(backend for backend in pool.backends if not backend.name.startswith("b3"))
        lab.load(replace(pool, backends=two, fallback=Fallback(FallbackKind.SORRY, sorry)))
        for gone, left in (((), ""), (("b1",), "b2"), (("b1", "b2"), "b3"), (("b2",), "b1"), ((), "")):
            lab.update(down(*gone))
            for number in range(6):
                exporter.send(flow_datagram(IPFIX, DATA if number % 3 else TEMPLATE, number))
            found = arrived(lab)
            if left:
                assert {name: list(range(6)) if name == left else [] for name in found} == found
            else:
                assert [[0, 3], [0, 3], []] == [[one for one in found[name] if not one % 3] for name in found]
                assert [1, 2, 4, 5] == sorted(one for of_one in found.values() for one in of_one if one % 3)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("mode", ALL_MODES, ids=str)
def test_templates_and_priorities(mode: Mode, version: int) -> None:
    """Templates go to the backends of the priority that serves, and so do data; a guard drops both alike."""
    with PoolLab(mode) as lab, Exporter(lab, version) as exporter:
        pool = exporting(lab, mode)
        backends = tuple(replace(one, priority=2 if one.name.startswith("b3") else 1) for one in pool.backends)
        lab.load(replace(pool, backends=backends, guard=Guard(rate=SLOW, burst=100)))
        for gone, serving in (((), ("b1", "b2")), (("b1", "b2"), ("b3",)), (("b2",), ("b1",)), ((), ("b1", "b2"))):
            lab.update(down(*gone))
            for number in range(6):
                exporter.send(flow_datagram(V9, DATA if number % 3 else TEMPLATE, number))
            found = arrived(lab)
            assert {name: [0, 3] if name in serving else [] for name in found} == {
                name: [one for one in of_one if not one % 3] for name, of_one in found.items()
            }
            assert [1, 2, 4, 5] == sorted(one for of_one in found.values() for one in of_one if one % 3)


@pytest.mark.parametrize("version", VERSIONS)
def test_templates_with_a_hash(version: int) -> None:
    """With `balance: hash`, data of one exporter stay at one backend, and templates reach all of them."""
    with PoolLab(NAT) as lab, Exporter(lab, version) as exporter:
        lab.load(replace(exporting(lab, NAT), balance=Balance.HASH, source=SourceKind.KEEP))
        for number in range(9):
            exporter.send(flow_datagram(V9, DATA if number % 3 else TEMPLATE, number))
        found = arrived(lab)
        assert [3, 3, 9] == sorted(len(of_one) for of_one in found.values())
        assert all([0, 3, 6] == [one for one in of_one if not one % 3] for of_one in found.values())
