"""Listeners for addresses of this host, with other options: each address is served like an address in the file.

The tests use ONE client socket for each address.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import pytest
from added_addresses import add_addresses
from combinations import Place, Who
from copies_lab import COLLECTOR_PORT, CopiesLab
from flow_datagrams import DATA, TEMPLATE, V9, Exporter, arrived, flow_datagram
from pool_lab import BACKEND_PORT, DSR, DSR_INGRESS, NAT, PORT, PoolLab, vip
from sites import Site
from tcp_connections import TcpConnection, TcpServers

from nftlb.config import parse_config, resolve
from nftlb.kernel.surroundings import read_host_addresses
from nftlb.model import UNSPECIFIED, Balance, Config, Guard, Per, Protocol, Rate, SourceKind, Templates

if TYPE_CHECKING:
    from pool_lab import Mode

    from nftlb.lab import Host
    from nftlb.model import Pool

VERSIONS = (4, 6)
ADDRESSES = {4: (vip(4), "198.51.100.1", "10.0.1.1"), 6: (vip(6), "2001:db8:1::1", "fd00:1::1")}
"""Addresses of the balancer: on loopback, towards the client, and towards b1."""
NEW = {4: "192.0.2.77", 6: "2001:db8:77::77"}
COUNT = 6
TURNS = {"b1": 2, "b2": 2, "b3": 2}
SLOW = Rate(1, 3600)
"""No packet comes back while a test runs, so a burst is exact."""


def resolved(host: Host, config: Config) -> Config:
    """The configuration with the addresses that a host has now."""
    return resolve(config, {}, host.call(read_host_addresses)).config


def on_host(pool_lab: PoolLab, host: str = "*", **options: Any) -> Pool:
    """The pool of the lab, which listens on addresses of the balancer: on all, or on those of an interface."""
    pool = replace(pool_lab.pool(), **options)
    listen = tuple(replace(one, address=UNSPECIFIED[one.family], host=host) for one in pool.listen)
    return resolved(pool_lab.lab.balancer, Config(pools=(replace(pool, listen=listen),))).pools[0]


def over_tcp(pool_lab: PoolLab, host: str = "*", **options: Any) -> Pool:
    """The same for TCP."""
    listen = tuple(replace(one, protocol=Protocol.TCP) for one in pool_lab.pool().listen)
    return on_host(pool_lab, host, listen=listen, **options)


FORMS: dict[str, dict[str, Any]] = {
    "masquerade": {},
    "keep": {"source": SourceKind.KEEP},
    "per flow": {"per": Per.FLOW},
    "keep, per flow": {"source": SourceKind.KEEP, "per": Per.FLOW},
    "hash": {"balance": Balance.HASH},
}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("offload", [True, False], ids=["offload", "no-offload"])
@pytest.mark.parametrize("form", FORMS)
def test_every_address_is_served(form: str, offload: bool, version: int) -> None:
    """Replies come from the address that a client used, for clients elsewhere, on the balancer and on a backend.

    The port of the client may be that of the service.
    """
    stays = form not in {"masquerade", "keep"}
    with PoolLab(NAT, offload=offload) as pool_lab:
        pool_lab.load(on_host(pool_lab, **FORMS[form]))
        hosts = (pool_lab.lab.client, pool_lab.lab.balancer, pool_lab.lab.backends[0])
        for host, address, port in (
            (host, one, port) for host in hosts for one in ADDRESSES[version] for port in (0, PORT)
        ):
            with host.connect((address, PORT), connected=False, source_port=port) as client:
                answers = client.exchange(COUNT)
                assert [] == client.drain()
            found = Counter(answer.backend for answer in answers)
            case = (host.name, address, port)
            assert ([COUNT] if stays else [2, 2, 2]) == sorted(found.values()), case
            assert {((address, PORT), 1)} == {(answer.source, answer.copies) for answer in answers}, case
            assert found == Counter(one.backend for one in pool_lab.servers.settle()), case
            pool_lab.servers.clear()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("source", [SourceKind.MASQUERADE, SourceKind.KEEP])
def test_connections_to_every_address(source: SourceKind, version: int) -> None:
    """TCP connections to each address take turns and stay, for all clients."""
    with PoolLab(NAT, serve=False) as pool_lab, TcpServers(pool_lab.lab.backends, BACKEND_PORT) as servers:
        pool_lab.load(over_tcp(pool_lab, source=source))
        payload = bytes(range(256)) * 200
        hosts = (pool_lab.lab.client, pool_lab.lab.balancer, pool_lab.lab.backends[0])
        for host, address in ((host, address) for host in hosts for address in ADDRESSES[version]):
            with TcpConnection(host, (address, PORT)) as flow:
                assert payload == flow.echo(payload), (host.name, address)
        assert {"b1": 3, "b2": 3, "b3": 3} == servers.counts


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("source", [SourceKind.MASQUERADE, SourceKind.KEEP])
def test_copies_of_datagrams_to_every_address(source: SourceKind, version: int) -> None:
    """`mirror` copies the datagrams to each address, whole and with their source, for all clients."""
    with CopiesLab(NAT, collector_answers=False) as lab:
        lab.load(on_host(lab, source=source, mirror=lab.collectors()))
        hosts = (lab.lab.client, lab.lab.balancer, lab.lab.backends[0])
        for host, address, size in (
            (host, one, size) for host in hosts for one in ADDRESSES[version] for size in (64, 4000)
        ):
            with host.connect((address, PORT), connected=False) as client:
                answers = client.exchange(COUNT, size=size)
                copies = lab.copies()
                assert {"b1": 3, "b2": 3} == Counter(answer.backend for answer in answers), (host.name, address)
                assert list(range(COUNT)) == sorted(copy.sequence or 0 for copy in copies), (host.name, address)
                assert {(client.source[1], size, True)} == {(copy.source[1], copy.size, copy.whole) for copy in copies}
            assert {(lab.collector.address(version), COLLECTOR_PORT)} == {copy.destination for copy in copies}
            lab.archive.clear()


@pytest.mark.parametrize("version", VERSIONS)
def test_templates_with_every_address(version: int) -> None:
    """`templates: all` works for all addresses of the balancer: each backend gets a template once."""
    with PoolLab(NAT) as pool_lab, Exporter(pool_lab, version) as exporter:
        pool_lab.load(on_host(pool_lab, source=SourceKind.KEEP, templates=Templates.ALL))
        for number in range(9):
            exporter.send(flow_datagram(V9, DATA if number % 3 else TEMPLATE, number))
        found = arrived(pool_lab)
        assert [[0, 3, 6]] * 3 == [[one for one in of_one if not one % 3] for of_one in found.values()]
        assert [2, 2, 2] == [sum(one % 3 > 0 for one in of_one) for of_one in found.values()]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_collector_on_this_host_is_no_listener(version: int) -> None:
    """A collector may be at an address of the balancer, also at the port of the service; this address is not served."""
    with CopiesLab(NAT, collector_answers=False) as lab:
        near = ADDRESSES[version][2]
        (collector,) = (one for one in lab.collectors() if one.address.version == version)
        lab.load(on_host(lab, mirror=(replace(collector, address=ip_address(near), port=PORT),)))
        with (
            lab.collect(PORT, [lab.lab.balancer], (version,)) as archive,
            lab.lab.client.connect((ADDRESSES[version][0], PORT), connected=False) as client,
            lab.lab.client.connect((near, PORT), connected=False) as direct,
        ):
            assert {"b1": 3, "b2": 3} == Counter(answer.backend for answer in client.exchange(COUNT))
            archive.wait(COUNT)  # a copy to this host takes another way than the datagrams that `settle` sends
            assert COUNT == len(archive.settle())
            direct.send(2)
            assert COUNT + 2 == len(archive.settle())
            assert {near} == {copy.destination[0] for copy in archive.received}


@pytest.mark.parametrize("version", VERSIONS)
def test_one_limit_for_all_addresses(version: int) -> None:
    """A guard limits a source at all addresses together. A limit and a ban outlive a new address, which has both."""
    with PoolLab(NAT) as pool_lab:
        guard = Guard(rate=SLOW, burst=7, ban=3_600_000)
        pool_lab.load(on_host(pool_lab, guard=guard))
        client = pool_lab.lab.client
        for address, passed in zip(ADDRESSES[version], (3, 6, 7), strict=True):
            with client.connect((address, PORT)) as sender:
                sender.send(3)
            assert passed == len(pool_lab.servers.settle())
        length = {4: 32, 6: 128}[version]
        add_addresses(pool_lab.lab.balancer, "lo", f"{NEW[version]}/{length}")
        pool_lab.load(on_host(pool_lab, guard=guard))
        for address in (NEW[version], ADDRESSES[version][0]):
            with client.connect((address, PORT)) as sender:
                sender.send(2)
            assert 7 == len(pool_lab.servers.settle())
        with pool_lab.lab.backends[1].connect((NEW[version], PORT)) as other:
            assert [(NEW[version], PORT)] * 3 == [answer.source for answer in other.exchange(3)]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("mode", [DSR, DSR_INGRESS], ids=str)
def test_an_interface_with_dsr(mode: Mode, version: int) -> None:
    """`dsr` serves the addresses of an interface: exact turns behind a guard, and TCP by the client's address."""
    with PoolLab(mode, serve=False) as pool_lab:
        with pool_lab.lab.serve(PORT) as servers, pool_lab.lab.client.connect((vip(version), PORT)) as client:
            pool_lab.load(on_host(pool_lab, "eth0", guard=Guard(rate=SLOW, burst=9)))
            answers = client.exchange(9)
            assert {"b1": 3, "b2": 3, "b3": 3} == Counter(answer.backend for answer in answers)
            assert {(vip(version), PORT)} == {answer.source for answer in answers}
            client.send(3)
            assert 9 == len(servers.settle())
        with TcpServers(pool_lab.lab.backends, PORT) as tcp:
            pool_lab.load(over_tcp(pool_lab, "eth0", balance=Balance.HASH))
            payload = bytes(range(256)) * 200
            for _ in range(3):
                with TcpConnection(pool_lab.lab.client, (vip(version), PORT)) as flow:
                    assert payload == flow.echo(payload)
            assert [0, 0, 3] == sorted(tcp.counts.values())


@pytest.mark.parametrize("version", VERSIONS)
def test_copies_with_dsr_on_an_interface(version: int) -> None:
    """`dsr` with the addresses of an interface has copies too."""
    with CopiesLab(DSR, collector_answers=False) as lab, lab.lab.client.connect((vip(version), PORT)) as client:
        lab.load(on_host(lab, "eth0", mirror=lab.collectors()))
        assert {"b1": 3, "b2": 3} == Counter(answer.backend for answer in client.exchange(COUNT))
        assert {client.source} == {copy.source for copy in lab.copies()}
        assert COUNT == len(lab.archive.received)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("per", Per)
def test_a_host_with_one_address(per: Per, version: int) -> None:
    """The only address of a host is served, also at a port from which the host itself asks others and gets answers."""
    with Site(Place.ONLY, dsr=False) as site:
        backends = {f"{one.name}-{six}": one.address(six) for one in site.lab.backends for six in VERSIONS}
        config = parse_config(f"pools: {{a: {{listen: '*:123/udp', per: {per}, backends: {backends}}}}}")
        site.lab.balancer.call(site.applier.load, resolved(site.lab.balancer, config))
        service = (site.service[version], 123)
        for who in (Who.ELSEWHERE, Who.BALANCER, Who.BACKEND):
            for port in (123, 33050):
                with site.client(site.host(who), service, port) as client:
                    answers = client.exchange(COUNT)
                    assert [] == client.drain()
                shares = sorted(Counter(answer.backend for answer in answers).values())
                assert ([COUNT] if per is Per.FLOW else [3, 3]) == shares, (who, port)
                assert {(service, 1)} == {(answer.source, answer.copies) for answer in answers}, (who, port)
        outside = (site.outside.address(version), 123)
        with site.client(site.lab.balancer, outside, 123) as own:
            assert {(site.outside.name, outside, 1)} == {
                (answer.backend, answer.source, answer.copies) for answer in own.exchange(COUNT)
            }
