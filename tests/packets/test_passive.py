"""Passive detection: a backend's own port-unreachable is reported at once; what only looks like one is not."""

from __future__ import annotations

import select
import socket
from contextlib import ExitStack
from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Self

import pytest
from packets.world import BACKEND_PORT, NAT, PORT, World, vip
from unreachable import HOST, Unreachable, send

from nftlb.kernel.nflog import Refusals, Refused
from nftlb.model import Config, Health, Icmp, Listener, Per, Protocol, SourceKind

if TYPE_CHECKING:
    from nftlb.lab import Client, Host, Servers

VERSIONS = (4, 6)


class Watched:
    """A world whose pool is watched, and what is reported of it. No server runs yet."""

    def __init__(self, *, offload: bool = True, backends: int = 3, **changes: Any) -> None:
        self.world = World(NAT, serve=False, offload=offload, backends=backends)
        self.changes = {"passive": True, **changes}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self.world)
            self.lab = self.world.lab
            self.load()
            self.refusals = stack.enter_context(self.lab.balancer.call(Refusals))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def load(self, *without: str) -> None:
        pool = replace(self.world.pool(), **self.changes)
        names = {name + suffix for name in without for suffix in ("", "-6")}
        self.world.load(replace(pool, backends=tuple(one for one in pool.backends if one.name not in names)))

    def serve(self, *hosts: Host, answer: bool = True) -> Servers:
        return self.lab.serve(BACKEND_PORT, backends=hosts, answer=answer)

    def client(self, version: int) -> Client:
        return self.lab.client.connect((vip(version), PORT))

    def reported(self) -> list[Refused]:
        """What is reported next; nothing if nothing is within a second."""
        select.select([self.refusals], [], [], 1)
        return self.refusals.read()


def refused(host: Host, version: int, port: int = BACKEND_PORT) -> list[Refused]:
    return [Refused(ip_address(host.address(version)), port)]


def true_error(host: Host, near: str, port: int, version: int) -> Unreachable:
    """What a host says whose server is gone, to the balancer's address `near` it, about a datagram from that port."""
    address = host.address(version)
    return Unreachable(address, near, (near, port), (address, BACKEND_PORT))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("offload", [True, False], ids=["offload", "no-offload"])
def test_a_server_that_dies_is_reported_at_once(version: int, offload: bool) -> None:
    """The first datagram that it refuses is reported, with the address and port it was sent on to; no other is."""
    with Watched(offload=offload) as watched:
        first, second, third = watched.lab.backends
        with watched.serve(first, third), watched.client(version) as client:
            with watched.serve(second):
                assert ["b1", "b2", "b3"] == [answer.backend for answer in client.exchange(3)]
            assert ["b1", "", "b3"] == [answer.backend for answer in client.exchange(3)]
            assert refused(second, version) == watched.reported()


@pytest.mark.parametrize("version", VERSIONS)
def test_large_datagrams(version: int) -> None:
    """An error about a datagram that came in fragments is reported too."""
    with Watched() as watched, watched.client(version) as client:
        client.exchange(1, size=4000)
        assert refused(watched.lab.backends[0], version) == watched.reported()


@pytest.mark.parametrize("version", VERSIONS)
def test_one_way_traffic(version: int) -> None:
    """Servers that never answer are not reported, however much they get; one that dies is."""
    with Watched() as watched, watched.client(version) as client:
        first, second, third = watched.lab.backends
        with watched.serve(first, second, answer=False) as servers:
            with watched.serve(third, answer=False):
                client.send(300)
                assert 200 == len(servers.wait(200))
            client.send(3)
            assert refused(third, version) == watched.reported()


@pytest.mark.parametrize("version", VERSIONS)
def test_only_what_we_sent_counts(version: int) -> None:
    """Of errors from the backend's own host, only one that quotes a datagram of ours is reported.

    Not one about another client, another port, another protocol; nor another kind of error about the right one.
    """
    with (
        Watched(
            backends=1,
        ) as watched,
        watched.client(version) as client,
    ):
        (host,) = watched.lab.backends
        with watched.serve(host) as servers:
            client.exchange(1)
            (received,) = servers.received
        near, port = received.source
        right = true_error(host, near, port, version)
        send(
            host,
            replace(right, sender=(near, port ^ 1)),
            replace(right, receiver=(host.address(version), BACKEND_PORT + 1)),
            replace(right, protocol=socket.IPPROTO_TCP),
            replace(right, what=HOST),
        )
        watched.lab.balancer.call(_knock, host.address(version))
        assert [] == watched.refusals.read()

        send(host, right)
        assert refused(host, version) == watched.reported()


@pytest.mark.parametrize("version", VERSIONS)
def test_only_the_backend_itself_counts(version: int) -> None:
    """The right error is not believed of another host, under its own name or the backend's, nor of the client.

    This holds where the backend and the liar are behind different interfaces of the balancer.
    """
    with Watched() as watched, watched.client(version) as client:
        host, other, _ = watched.lab.backends
        with watched.serve(*watched.lab.backends) as servers:
            client.exchange(3)
        (received,) = (one for one in servers.received if one.backend == host.name)
        right = true_error(host, *received.source, version)
        send(other, replace(right, reporter=other.address(version)), right)
        send(watched.lab.client, replace(right, reporter=watched.lab.client.address(version)), right)
        assert [] == watched.refusals.read()

        send(host, right)
        assert refused(host, version) == watched.reported()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_client_that_has_gone(version: int) -> None:
    """A client's own port-unreachable, about a late reply, says nothing of the backend."""
    family = {4: socket.AF_INET, 6: socket.AF_INET6}[version]
    with Watched(backends=1) as watched:
        (host,) = watched.lab.backends
        with host.call(socket.socket, family, socket.SOCK_DGRAM) as server:
            server.settimeout(2)
            server.bind(("", BACKEND_PORT))
            with watched.client(version) as client, watched.lab.balancer.tap("client1") as tap:
                client.send(1)
                _, peer = server.recvfrom(100)
                client.close()
                server.sendto(b"late", peer)
                protocols = {packet.protocol for packet in tap.packets() if not packet.outgoing}
        assert protocols & {socket.IPPROTO_ICMP, socket.IPPROTO_ICMPV6}
        assert [] == watched.refusals.read()

        with watched.client(version) as client:
            client.exchange(1)
        assert refused(host, version) == watched.reported()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_backend_that_was_removed_and_is_back(version: int) -> None:
    """An error about what was sent before the backend was removed is not held against the one that has come back."""
    with Watched() as watched, watched.client(version) as client:
        host, *_ = watched.lab.backends
        with watched.serve(*watched.lab.backends) as servers:
            client.exchange(3)
        (received,) = (one for one in servers.received if one.backend == host.name)
        right = true_error(host, *received.source, version)
        watched.load(host.name)
        send(host, right)
        watched.load()
        send(host, right)
        assert [] == watched.refusals.read()


@pytest.mark.parametrize("version", VERSIONS)
def test_by_flow(version: int) -> None:
    """`per: flow`: a refusal is reported; a firewall's port-unreachable about a TCP connection of the zone is not."""
    listen = tuple(
        Listener(ip_address(vip(version)), PORT, PORT, protocol) for protocol in (Protocol.UDP, Protocol.TCP)
    )
    with Watched(per=Per.FLOW, listen=listen, backends=1) as watched:
        (host,) = watched.lab.backends
        family = {4: "ip", 6: "ip6"}[version]
        host.run(["nft", f"add table {family} wall"])
        host.run(["nft", f"add chain {family} wall input {{ type filter hook input priority 0; }}"])
        host.run(["nft", f"add rule {family} wall input tcp dport {BACKEND_PORT} reject"])
        with pytest.raises(ConnectionRefusedError):
            watched.lab.client.dial((vip(version), PORT))
        assert [] == watched.refusals.read()

        with watched.client(version) as client:
            client.exchange(1)
        assert refused(host, version) == watched.reported()


@pytest.mark.parametrize("version", VERSIONS)
def test_the_clients_own_address(version: int) -> None:
    """With `source: keep` the error is for the client, and passes the balancer on its way."""
    with Watched(backends=1, source=SourceKind.KEEP) as watched, watched.client(version) as client:
        client.exchange(1)
        assert refused(watched.lab.backends[0], version) == watched.reported()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_backend_as_a_client(version: int) -> None:
    """A backend that asks the service is told by another, and by itself, and both are reported."""
    with Watched(backends=2) as watched:
        first, second = watched.lab.backends
        with first.connect((vip(version), PORT)) as client:
            client.exchange(1)
            assert refused(first, version) == watched.reported()
            client.exchange(1)
            assert refused(second, version) == watched.reported()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_backend_on_the_balancer(version: int) -> None:
    """A backend at one of the balancer's own addresses is watched like any other."""
    near = {4: "10.0.1.1", 6: "fd00:1::1"}[version]
    with Watched(backends=1) as watched, watched.client(version) as client:
        pool = replace(watched.world.pool(), passive=True)
        backends = tuple(
            replace(one, address=ip_address(near)) for one in pool.backends if one.address.version == version
        )
        listen = tuple(one for one in pool.listen if one.address.version == version)
        watched.world.load(replace(pool, backends=backends, listen=listen))
        client.exchange(1)
        assert [Refused(ip_address(near), BACKEND_PORT)] == watched.reported()


def test_the_rules_are_listed_as_they_were_written() -> None:
    """Once loaded, the kernel's listing differs from the configuration in nothing."""
    with Watched() as watched:
        config = Config(pools=(replace(watched.world.pool(), passive=True),))
        assert "" == watched.lab.balancer.call(watched.world.applier.diff, config)


def test_a_pool_that_is_not_watched() -> None:
    """Without `passive` nothing is reported, and there are no rules for it."""
    with Watched(passive=False) as watched, watched.client(4) as client:
        client.exchange(3)
        assert [] == watched.refusals.read()
        assert "log" not in watched.lab.balancer.run(["nft", "list", "ruleset"])


def _knock(address: str) -> None:
    """Do what a health check does, at a port where nobody listens: return when the refusal has come."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(2)
        sock.connect((address, BACKEND_PORT))
        sock.send(b"?")
        with pytest.raises(ConnectionRefusedError):
            sock.recv(1)


# --- hints, which a pool has by default -------------------------------------------------------------------------------


class Hinted(Watched):
    """By default: a pool with a check, whose backends see the balancer's address."""

    def __init__(self, **changes: Any) -> None:
        super().__init__(**{"passive": None, "health": (Health(check=Icmp()),), **changes})


def hints(host: Host, version: int) -> list[Refused]:
    return [replace(one, hint=True) for one in refused(host, version)]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("offload", [True, False], ids=["offload", "no-offload"])
@pytest.mark.parametrize("per", list(Per))
def test_by_default_a_refusal_is_a_hint(per: Per, offload: bool, version: int) -> None:
    """The first refused datagram is told; what is answered is not."""
    with Hinted(offload=offload, per=per, backends=1) as watched, watched.client(version) as client:
        (host,) = watched.lab.backends
        with watched.serve(host):
            assert ["b1"] * 3 == [answer.backend for answer in client.exchange(3)]
            assert [] == watched.refusals.read()
        client.exchange(1)
        assert hints(host, version) == watched.reported()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_hint_of_large_datagrams(version: int) -> None:
    """An error about a datagram that came in fragments is a hint too."""
    with Hinted() as watched, watched.client(version) as client:
        client.exchange(1, size=4000)
        assert hints(watched.lab.backends[0], version) == watched.reported()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_hint_of_a_backend_on_the_balancer(version: int) -> None:
    """A backend at one of the balancer's own addresses refuses with an error that never comes in."""
    near = {4: "10.0.1.1", 6: "fd00:1::1"}[version]
    with Hinted(backends=1) as watched, watched.client(version) as client:
        pool = replace(watched.world.pool(), **watched.changes)
        backends = tuple(
            replace(one, address=ip_address(near)) for one in pool.backends if one.address.version == version
        )
        listen = tuple(one for one in pool.listen if one.address.version == version)
        watched.world.load(replace(pool, backends=backends, listen=listen))
        client.exchange(1)
        assert [Refused(ip_address(near), BACKEND_PORT, hint=True)] == watched.reported()


@pytest.mark.parametrize("version", VERSIONS)
def test_only_the_backend_itself_gives_hints(version: int) -> None:
    """No other host, nor one behind another interface with the backend's address; nor is another kind of error one."""
    with Hinted() as watched, watched.client(version) as client:
        host, other, _ = watched.lab.backends
        with watched.serve(*watched.lab.backends) as servers:
            client.exchange(3)
        (received,) = (one for one in servers.received if one.backend == host.name)
        right = true_error(host, *received.source, version)
        send(other, replace(right, reporter=other.address(version)), right)
        send(watched.lab.client, right)
        send(host, replace(right, protocol=socket.IPPROTO_TCP), replace(right, what=HOST))
        assert [] == watched.refusals.read()

        send(host, right)
        assert hints(host, version) == watched.reported()


def test_hints_are_listed_as_they_were_written() -> None:
    """Once loaded, the kernel's listing differs from the configuration in nothing."""
    with Hinted() as watched:
        config = Config(pools=(replace(watched.world.pool(), **watched.changes),))
        assert "" == watched.lab.balancer.call(watched.world.applier.diff, config)


def test_a_kernel_that_can_not_log() -> None:
    """It would refuse the rule, and all others with it: a pool does without, where nobody asked for hints."""
    with Hinted() as watched, watched.client(4) as client, watched.serve(*watched.lab.backends):
        watched.world.applier.logs = lambda: False
        watched.load()
        assert "log" not in watched.lab.balancer.run(["nft", "list", "ruleset"])
        assert ["b1", "b2", "b3"] == [answer.backend for answer in client.exchange(3)]
        watched.changes["passive"] = True
        watched.load()
        assert "log" in watched.lab.balancer.run(["nft", "list", "ruleset"])


def test_a_request_passes_no_rule_for_hints() -> None:
    """What a datagram to the service meets is the same with hints and without: the rule stands behind the look-up."""
    with Hinted() as watched:
        table = watched.lab.balancer.run(["nft", "list", "table", "ip", "nftlb"])
        hooks = table.count("type filter hook")
        lookup = table.index("vmap @services")
        assert lookup < table.index('log prefix "hint"')
        watched.changes["passive"] = False
        watched.load()
        assert hooks == watched.lab.balancer.run(["nft", "list", "table", "ip", "nftlb"]).count("type filter hook")
