"""Packets to a service's address that are not requests: replies take no turns, own requests get replies.

Clients send from the service's port here, like NTP, SIP, IKE, DHCP relays and many others, each with ONE socket.
"""

from __future__ import annotations

import errno
import re
import select
import socket
from contextlib import ExitStack
from dataclasses import replace
from enum import Enum
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
from error_queue import ErrorQueueClient
from pool_lab import NAT, PoolLab, vip
from tcp_connections import TcpConnection, TcpServers

from nftlb.compiler.cautions import cautions
from nftlb.kernel.libnftables import read_version
from nftlb.lab import Lab
from nftlb.model import Backend, Config, Forward, Listener, Per, Pool, Protocol, SourceKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nftlb.lab import DatagramResult, Host

PORT = 123
VERSION = pytest.mark.parametrize("version", [4, 6])
OFFLOAD = pytest.mark.parametrize("offload", [True, False], ids=["offload", "no-offload"])


class Place(Enum):
    """The place of the service's address."""

    TOWARDS = "on the interface towards the first backend, so that `masquerade` picks it"
    NAMED = "on the loopback interface, and `source` names it"
    ONLY = "on the only interface, in one segment with all other hosts"

    def __str__(self) -> str:
        return self.name.lower()

    def address(self, version: int) -> str:
        return {
            Place.TOWARDS: {4: "10.0.1.1", 6: "fd00:1::1"},
            Place.NAMED: {4: vip(4), 6: vip(6)},
            Place.ONLY: {4: "198.51.100.1", 6: "2001:db8:1::1"},
        }[self][version]


PLACE = pytest.mark.parametrize("place", Place, ids=str)


class Site(PoolLab):
    """A lab without servers, in which clients, the service and two backends use the same port."""

    def __init__(self, place: Place, version: int, port: int = PORT, *, offload: bool = True) -> None:
        super().__init__(NAT, serve=False)
        self.lab = Lab(backends=2, clients=2, offload=offload, dsr=place is Place.ONLY)
        self.place, self.version, self.number = place, version, port

    @property
    def service(self) -> tuple[str, int]:
        return self.place.address(self.version), self.number

    def pool(self, port: int = 0) -> Pool:
        named = self.place is Place.NAMED
        backends = [(host.name, ip_address(host.address(self.version))) for host in self.lab.backends]
        return Pool(
            name="own",
            listen=(self.listener(self.number),),
            backends=tuple(Backend(name=name, address=address, port=port or None) for name, address in backends),
            source=SourceKind.ADDRESS if named else SourceKind.MASQUERADE,
            source_addresses=(ip_address(self.service[0]),) if named else (),
        )

    def keep(self) -> Pool:
        """The pool with `source: keep`, whose backends see the clients' own addresses."""
        return replace(self.pool(), source=SourceKind.KEEP, source_addresses=())

    def listener(self, first: int, last: int = 0, protocol: Protocol = Protocol.UDP) -> Listener:
        return Listener(ip_address(self.service[0]), first, last or first, protocol)

    def ask(self, host: Host, count: int, *, port: int | None = None, address: str = "") -> list[str]:
        """The backends that reply to one socket of a host, datagram by datagram; empty if not from the service."""
        number = self.number if port is None else port
        with host.connect(self.service, source_port=number, source_address=address, connected=False) as client:
            return answered_by(client.exchange(count), self.service)

    def ask_others(self, host: Host, count: int, *, port: int | None = None) -> list[str]:
        """The servers that reply to requests of the balancer itself, from the service's address to another host."""
        target, number = (host.address(self.version), self.number), self.number if port is None else port
        with (
            self.lab.serve(self.number, backends=[host]),
            self.lab.balancer.connect(
                target, source_port=number, source_address=self.service[0], connected=False
            ) as client,
        ):
            return answered_by(client.exchange(count), target)


def answered_by(answers: Sequence[DatagramResult], source: tuple[str, int]) -> list[str]:
    return [answer.backend if answer.source == source else f"{answer.backend} as {answer.source}" for answer in answers]


@VERSION
@OFFLOAD
@PLACE
@pytest.mark.parametrize("port", [123, 5060])
def test_replies_take_no_turns(place: Place, version: int, port: int, offload: bool) -> None:
    """A client whose port is the service's port reaches the backends in strict turn, with replies from the service."""
    with Site(place, version, port, offload=offload) as site, site.lab.serve(port):
        assert ["b1", "b2"] * 15 == site.ask(site.lab.client, 30)


@VERSION
@PLACE
def test_replies_take_no_turns_of_a_weighted_pool(place: Place, version: int) -> None:
    """Weights of 3 to 1 are kept, and slots interleaved."""
    with Site(place, version) as site, site.lab.serve(PORT):
        pool = site.pool()
        first, other = pool.backends
        site.load(replace(pool, backends=(replace(first, weight=3), other)))
        found = site.ask(site.lab.client, 48)
    assert [found[:4]] * 12 == [found[at : at + 4] for at in range(0, 48, 4)]
    assert ["b1", "b1", "b1", "b2"] == sorted(found[:4])


@VERSION
@PLACE
def test_replies_take_no_turns_of_another_pool(place: Place, version: int) -> None:
    """This holds for a pool that by chance has a client's port, and for connections of `per: flow`."""
    with Site(place, version) as site, site.lab.serve([PORT, 514]):
        flows = replace(site.pool(), name="flows", listen=(site.listener(514),), per=Per.FLOW)
        site.load(site.pool(), flows)
        assert ["b1"] == site.ask(site.lab.client, 1, port=0)
        with site.lab.client.connect((site.service[0], 514), source_port=PORT) as client:
            assert [("b1", 5)] == [(name, 5) for name in {answer.backend for answer in client.exchange(5)}]
        assert ["b2"] == site.ask(site.lab.client, 1, port=0)


@VERSION
@PLACE
def test_many_clients_with_a_privileged_port(place: Place, version: int) -> None:
    """There are more clients than privileged ports. By default, conntrack would use a port below 512 for each."""
    clients, net = 700, {4: "10.99.{}.{}", 6: "2001:db8:99::{:x}:{:x}"}[version]
    addresses = [net.format(number // 250, number % 250 + 1) for number in range(clients)]
    with Site(place, version) as site, site.lab.serve(PORT), ExitStack() as stack:
        prefix = {4: "10.99.0.0/16", 6: "2001:db8:99::/96"}[version]
        asking, balancer = site.lab.client, site.lab.balancer
        asking.run(["ip", f"-{version}", "route", "add", "local", prefix, "dev", "lo"])
        balancer.run(["ip", f"-{version}", "route", "add", prefix, "via", asking.address(version)])
        asking.sysctl(f"net.ipv{version}.ip_nonlocal_bind", 1)
        found = []
        for address in addresses:
            sock = stack.enter_context(
                asking.connect(site.service, source_port=PORT, source_address=address, connected=False)
            )
            found += answered_by(sock.exchange(2), site.service)
    assert ["b1", "b2"] * clients == found


@VERSION
@OFFLOAD
@PLACE
def test_errors_reach_the_client(place: Place, version: int, offload: bool) -> None:
    """After a server dies, the client's connected socket gets the error at once, from the service."""
    with (
        Site(place, version, offload=offload) as site,
        ErrorQueueClient(site.lab.client, site.service, source_port=PORT) as client,
    ):
        answers = client.exchange(4)
        assert [errno.ECONNREFUSED] * 4 == [answer.error.errno if answer.error else 0 for answer in answers]
        assert {site.service[0]} == {error.offender for error in client.icmp_errors()}


@VERSION
@OFFLOAD
@PLACE
def test_own_requests_get_replies(place: Place, version: int, offload: bool) -> None:
    """The balancer sends requests from the service's address and port to a host, before and after it is a client.

    All requests of that host go to the backends, and its replies take no turns.
    """
    with Site(place, version, offload=offload) as site:
        peer = site.lab.clients[1]
        for _ in range(2):
            with site.lab.serve(PORT):
                assert ["b1"] == site.ask(peer, 1)
            assert ["client2"] * 5 == site.ask_others(peer, 5)
            with site.lab.serve(PORT):
                assert ["b2"] == site.ask(peer, 1)


@VERSION
@PLACE
@pytest.mark.parametrize("per", Per)
def test_own_requests_to_peers(place: Place, version: int, per: Per) -> None:
    """Peers that send requests to each other from the same port get their own replies, also in pools by flow."""
    with Site(place, version) as site:
        site.load(replace(site.pool(), per=per))
        peer = site.lab.clients[1]
        with site.lab.serve(PORT):
            asked = site.ask(peer, 4)
        assert {"b1", "b2"} >= set(asked)
        assert ["client2"] * 5 == site.ask_others(peer, 5)
        with site.lab.serve(PORT):
            assert asked == site.ask(peer, 4)


@VERSION
@PLACE
@pytest.mark.parametrize("source", [SourceKind.MASQUERADE, SourceKind.KEEP])
def test_own_requests_from_a_range(place: Place, version: int, source: SourceKind) -> None:
    """The service has the balancer's ephemeral ports: its own requests, such as health checks, take no turns."""
    with Site(place, version, 40000) as site, site.lab.serve(40000):
        site.load(
            replace(
                site.pool() if source is SourceKind.MASQUERADE else site.keep(), listen=(site.listener(32768, 60999),)
            )
        )
        masked = place is Place.ONLY and source is SourceKind.KEEP  # backends in one segment reply past the balancer
        count = 4 if source is SourceKind.MASQUERADE else 5  # so that turns taken by replies would show
        if not masked:
            assert ["b1"] == site.ask(site.lab.client, 1, port=0)
        assert ["client2"] * count == site.ask_others(site.lab.clients[1], count, port=0)
        if not masked:
            assert ["b2"] == site.ask(site.lab.client, 1, port=0)
        backend = site.lab.backends[0]
        with site.lab.balancer.connect(
            (backend.address(version), 40000), source_address=site.service[0], source_port=50000
        ) as check:
            assert ["b1"] * 3 == [answer.backend for answer in check.exchange(3)]
        if not masked:
            assert ["b1"] == site.ask(site.lab.client, 1, port=0)


@VERSION
@PLACE
@pytest.mark.parametrize("source", [SourceKind.MASQUERADE, SourceKind.KEEP])
def test_client_on_the_balancer(place: Place, version: int, source: SourceKind) -> None:
    """A socket on the balancer with the service's own address and port is a client, and takes strict turns."""
    with Site(place, version) as site, site.lab.serve(PORT):
        site.load(site.pool() if source is SourceKind.MASQUERADE else site.keep())
        assert ["b1", "b2"] * 6 == site.ask(site.lab.balancer, 12, address=site.service[0])


@VERSION
@OFFLOAD
@PLACE
def test_client_on_a_backend(place: Place, version: int, offload: bool) -> None:
    """A backend may be a client of its own service, from the service's port."""
    with Site(place, version, offload=offload) as site, site.lab.serve(PORT, backends=site.lab.backends[1:]):
        site.load(replace(site.pool(), backends=site.pool().backends[1:]))
        assert ["b2"] * 6 == site.ask(site.lab.backends[0], 6)
        with site.lab.backends[0].connect(site.service, source_port=PORT) as client:
            assert ["b2"] * 6 == [answer.backend for answer in client.exchange(6)]


@VERSION
@OFFLOAD
@pytest.mark.parametrize("place", [Place.TOWARDS, Place.NAMED], ids=str)
@pytest.mark.parametrize("per", Per)
@pytest.mark.parametrize("translated", [True, False], ids=["port", "no-port"])
def test_a_backend_that_is_its_own_client(
    place: Place, version: int, offload: bool, per: Per, translated: bool
) -> None:
    """`source: keep`: its own turns get replies from the service too, and only these have another source address."""
    server = 5353 if translated else PORT
    with Site(place, version, offload=offload) as site, site.lab.serve(server) as servers:
        site.load(replace(site.pool(server if translated else 0), per=per, source=SourceKind.KEEP, source_addresses=()))
        backend = site.lab.backends[0]
        if per is Per.PACKET:
            assert ["b1", "b2"] * 4 == site.ask(backend, 8, port=0)
        else:
            assert ["b1", "b2"] * 2 == [site.ask(backend, 1, port=0)[0] for _ in range(4)]
        seen = {record.backend: record.source[0] for record in servers.received}
    assert seen["b2"] == backend.address(version)
    assert seen["b1"] != backend.address(version)


@VERSION
@pytest.mark.parametrize("place", [Place.TOWARDS, Place.NAMED], ids=str)
def test_a_backend_that_is_its_own_client_over_tcp(place: Place, version: int) -> None:
    """`source: keep`: a backend can open connections to its own service, also if it gets them itself."""
    with Site(place, version) as site, TcpServers(site.lab.backends, PORT):
        site.load(replace(site.keep(), listen=(site.listener(PORT, protocol=Protocol.TCP),)))
        for expected in ("b1", "b2", "b1"):
            with TcpConnection(site.lab.backends[0], site.service) as flow:
                assert (expected, b"echo") == (flow.backend, flow.echo(b"echo"))


@VERSION
@PLACE
def test_tcp_from_the_services_port(place: Place, version: int) -> None:
    """TCP works from a client at the service's port, and from the balancer at this port to a server."""
    with Site(place, version) as site, TcpServers(site.lab.backends, PORT), TcpServers(site.lab.clients[1:], 80):
        site.load(replace(site.pool(), listen=(site.listener(PORT, protocol=Protocol.TCP),)))
        with TcpConnection(site.lab.client, site.service, source_port=PORT) as flow:
            assert ("b1", b"echo") == (flow.backend, flow.echo(b"echo"))
        target = (site.lab.clients[1].address(version), 80)
        with site.lab.balancer.call(socket.create_connection, target, 2, site.service) as own:
            assert b"client2" in own.recv(100)
        with TcpConnection(site.lab.clients[1], site.service, source_port=PORT) as flow:
            assert ("b2", b"echo") == (flow.backend, flow.echo(b"echo"))


@VERSION
@pytest.mark.parametrize("place", [Place.TOWARDS, Place.NAMED], ids=str)
def test_tcp_beside_a_stateless_pool(place: Place, version: int) -> None:
    """Replies of a `nat` pool don't go to a `stateless` pool that by chance has the client's port."""
    with Site(place, version) as site, TcpServers(site.lab.backends, 80):
        pools = [
            replace(site.pool(), name="web", listen=(site.listener(80, protocol=Protocol.TCP),)),
            replace(
                site.pool(),
                name="raw",
                listen=(site.listener(PORT, protocol=Protocol.TCP),),
                forward=Forward.STATELESS,
                source=SourceKind.MASQUERADE,
                source_addresses=(),
            ),
        ]
        site.load(*pools)
        for client, expected in zip(site.lab.clients, ("b1", "b2"), strict=True):
            with TcpConnection(client, (site.service[0], 80), source_port=PORT) as flow:
                assert (expected, b"echo") == (flow.backend, flow.echo(b"echo"))


EARLIER = """
table {ip} nftlb {{
    map services {{
        type {address} . inet_proto . inet_service : verdict
        elements = {{ {service} . udp . 123 comment "own" : goto pool/own }}
    }}
    map hosts {{
        typeof ct original zone : {ip} daddr
        elements = {{ 1 comment "own/b1" : {b1}, 2 comment "own/b2" : {b2} }}
    }}
    {sources}
    chain prerouting-raw {{
        type filter hook prerouting priority raw; policy accept;
        {ip} daddr . meta l4proto . th dport vmap @services
    }}
    chain output-raw {{
        type filter hook output priority raw; policy accept;
        {ip} daddr . meta l4proto . th dport vmap @services
    }}
    chain prerouting {{ type nat hook prerouting priority dstnat; dnat to ct original zone map @hosts; }}
    chain output {{ type nat hook output priority -100; dnat to ct original zone map @hosts; }}
    {postrouting}
    chain backend/own/b1 {{ counter ct original zone set 1; }}
    chain backend/own/b2 {{ counter ct original zone set 2; }}
    chain pool/own {{ goto pool/own/4b0170b4 comment "b1, b2"; }}
    chain pool/own/4b0170b4 {{ numgen inc mod 2 vmap {{ 0 : goto backend/own/b1, 1 : goto backend/own/b2 }}; }}
}}
"""
"""The rules of versions without a range of source ports."""
POSTROUTING = "chain postrouting {{{{ type nat hook postrouting priority srcnat; {rule}; }}}}"
BEFORE = {
    SourceKind.MASQUERADE: (
        'set masqueraded {{ typeof ct original zone; elements = {{ 1 comment "own/b1", 2 comment "own/b2" }}; }}',
        POSTROUTING.format(rule="ct original zone @masqueraded masquerade"),
    ),
    SourceKind.ADDRESS: (
        """map sources {{
        typeof ct original zone : {ip} saddr
        elements = {{ 1 comment "own/b1" : {service}, 2 comment "own/b2" : {service} }}
    }}""",
        POSTROUTING.format(rule="snat to ct original zone map @sources"),
    ),
    SourceKind.KEEP: ("", ""),
}


SWAPS_NO_KEYS = (1, 1, 3)
"""The latest nft that is known to load maps by zone unchanged."""


def earlier(site: Site, source: SourceKind) -> str:
    """An earlier version's rules for the site's pool."""
    b1, b2 = (host.address(site.version) for host in site.lab.backends)
    words = {"ip": {4: "ip", 6: "ip6"}[site.version], "address": f"ipv{site.version}_addr", "service": site.service[0]}
    sources, postrouting = (text.format(**words) for text in BEFORE[source])
    text = EARLIER.format(b1=b1, b2=b2, sources=sources, postrouting=postrouting, **words)
    if tuple(map(int, read_version().split("."))) <= SWAPS_NO_KEYS:
        return text
    # Later versions of nft swap the bytes of a zone that is a whole key: these maps never worked there.
    text = text.replace("typeof ct original zone :", "typeof ct direction . ct original zone :")
    text = text.replace("to ct original zone map", "to ct direction . ct original zone map")
    return re.sub(r'(\d) (comment "own/b\d" :)', r"original . \1 \2", text)


@VERSION
@PLACE
def test_upgrade_with_requests_in_flight(place: Place, version: int) -> None:
    """After an upgrade a socket gets strict turns at once, and the replies to its earlier requests."""
    with Site(place, version) as site, ExitStack() as stack:
        pool = site.pool()
        site.applier.remove()
        site.lab.nft(earlier(site, pool.source))
        family = {4: socket.AF_INET, 6: socket.AF_INET6}[version]
        servers = [
            stack.enter_context(host.call(socket.socket, family, socket.SOCK_DGRAM)) for host in site.lab.backends
        ]
        client = stack.enter_context(site.lab.client.connect(site.service, source_port=PORT, connected=False))
        for server in servers:
            server.bind(("", PORT))
            server.settimeout(20)
        client.send(2)
        asked = [(server, *server.recvfrom(2000)) for server in servers]
        site.load(pool)
        for server, payload, peer in asked:
            server.sendto(payload, peer)
        late: list[DatagramResult] = []
        while len(late) < len(asked):
            assert select.select([client], [], [], 20)[0]
            late += client.drain()
        assert [site.service] * 2 == [answer.source for answer in late]
        for server in servers:
            server.close()
        with site.lab.serve(PORT):
            found = answered_by(client.exchange(12), site.service)
        # Replies to earlier requests go to the service's port, so each of them may take a last turn.
        assert found in (["b1", "b2"] * 6, ["b2", "b1"] * 6)
        assert not site.lab.balancer.call(site.applier.diff, Config(pools=(pool,)))


@VERSION
@PLACE
def test_a_new_listener_inside_the_range(place: Place, version: int) -> None:
    """A reload takes the source port of a socket out of the range: its replies take no turns of the new pool."""
    with Site(place, version) as site, site.lab.serve(PORT), ExitStack() as stack:
        client = stack.enter_context(site.lab.client.connect(site.service, source_port=50000, connected=False))
        assert ["b1", "b2"] == answered_by(client.exchange(2), site.service)
        more = replace(site.pool(PORT), name="more", listen=(site.listener(49000, 51000),))
        site.load(site.pool(), more)
        found = []
        with site.lab.client.connect((site.service[0], 50000), connected=False) as other:
            for backend in ("b1", "b2") * 2:
                found += answered_by(other.exchange(1), other.target)
                assert [backend] == answered_by(client.exchange(1), site.service)
        assert ["b1", "b2"] * 2 == found


@VERSION
@pytest.mark.parametrize("source", [SourceKind.MASQUERADE, SourceKind.KEEP])
def test_dhcp_servers_answer_the_relay(version: int, source: SourceKind) -> None:
    """A DHCP server replies to the relay's address. Only with `keep` the reply comes from the service.

    Otherwise, `check` warns.
    """
    with Site(Place.TOWARDS, version, 67) as site, ExitStack() as stack:
        site.load(site.keep() if source is SourceKind.KEEP else site.pool())
        family = {4: socket.AF_INET, 6: socket.AF_INET6}[version]
        relay, server = (
            stack.enter_context(host.call(socket.socket, family, socket.SOCK_DGRAM))
            for host in (site.lab.client, site.lab.backends[0])
        )
        for sock in (relay, server):
            sock.bind(("", 67))
            sock.settimeout(20)
        relay.sendto(b"discover", site.service)
        assert b"discover" == server.recv(100)
        server.sendto(b"offer", (site.lab.client.address(version), 67))
        payload, seen = relay.recvfrom(100)
        direct = (site.lab.backends[0].address(version), 67)
        assert (b"offer", site.service if source is SourceKind.KEEP else direct) == (payload, seen[:2])


@VERSION
def test_a_socket_that_uses_two_services_with_the_same_server(version: int) -> None:
    """`source: keep`: replies are right, but the server sees another port at the second service; `doctor` warns."""
    with Site(Place.NAMED, version) as site, site.lab.serve(PORT) as servers:
        kept = replace(site.keep(), backends=site.pool(PORT).backends[:1])
        other = replace(kept, name="other", listen=(site.listener(514),))
        site.load(kept, other)
        family = {4: socket.AF_INET, 6: socket.AF_INET6}[version]
        services = [site.service, (site.service[0], 514)]
        with site.lab.client.call(socket.socket, family, socket.SOCK_DGRAM) as sock:
            sock.bind(("", 40000))
            sock.settimeout(20)
            for service in services * 2:
                sock.sendto(b"who?", service)
                assert service == sock.recvfrom(100)[1][:2]
        first, second, *again = [record.source for record in servers.received]
        assert (site.lab.client.address(version), 40000) == first
        assert first[0] == second[0]
        assert first != second
        assert [first, second] == again
        (caution,) = cautions(Config(pools=(kept, other)))
        assert "other" == caution.pool
