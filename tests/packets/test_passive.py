"""Passive detection: a port-unreachable of a backend itself is reported at once; similar errors are not."""

from __future__ import annotations

import select
import socket
from contextlib import ExitStack
from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Self

import pytest
from icmp_errors import HOST, Unreachable, send
from packet_tap import Tap
from pool_lab import BACKEND_PORT, NAT, PORT, PoolLab, vip
from tcp_connections import TcpConnection

from nftlb.kernel.nflog import PortUnreachable, RefusalMonitor
from nftlb.model import Config, Health, Icmp, Listener, Per, Protocol, SourceKind

if TYPE_CHECKING:
    from nftlb.lab import Host, LabClient, Servers

VERSIONS = (4, 6)


class PassiveLab:
    """A lab whose pool has `passive: true`, with the reported errors. No server runs at first."""

    def __init__(self, *, offload: bool = True, backends: int = 3, **changes: Any) -> None:
        self.pool_lab = PoolLab(NAT, serve=False, offload=offload, backends=backends)
        self.changes = {"passive": True, **changes}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self.pool_lab)
            self.lab = self.pool_lab.lab
            self.load()
            self.refusals = stack.enter_context(self.lab.balancer.call(RefusalMonitor))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def load(self, *without: str) -> None:
        pool = replace(self.pool_lab.pool(), **self.changes)
        names = {name + suffix for name in without for suffix in ("", "-6")}
        self.pool_lab.load(
            replace(pool, backends=tuple(backend for backend in pool.backends if backend.name not in names))
        )

    def serve(self, *hosts: Host, answer: bool = True) -> Servers:
        return self.lab.serve(BACKEND_PORT, backends=hosts, answer=answer)

    def client(self, version: int) -> LabClient:
        return self.lab.client.connect((vip(version), PORT))

    def reported(self) -> list[PortUnreachable]:
        """Wait for errors, and return them."""
        select.select([self.refusals], [], [], 20)
        return self.refusals.read()


def refused(host: Host, version: int, port: int = BACKEND_PORT) -> list[PortUnreachable]:
    return [PortUnreachable(ip_address(host.address(version)), port)]


def true_error(host: Host, near: str, port: int, version: int) -> Unreachable:
    """The error of a host without its server, to the balancer's address `near`, about a datagram from a port."""
    address = host.address(version)
    return Unreachable(address, near, (near, port), (address, BACKEND_PORT))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("offload", [True, False], ids=["offload", "no-offload"])
def test_a_server_that_dies_is_reported_at_once(version: int, offload: bool) -> None:
    """The first refused datagram is reported, with the backend's address and port; no other datagram is."""
    with PassiveLab(offload=offload) as watched:
        first, second, third = watched.lab.backends
        with watched.serve(first, third), watched.client(version) as client:
            with watched.serve(second):
                assert ["b1", "b2", "b3"] == [answer.backend for answer in client.exchange(3)]
            assert ["b1", "", "b3"] == [answer.backend for answer in client.exchange(3)]
            assert refused(second, version) == watched.reported()


@pytest.mark.parametrize("version", VERSIONS)
def test_large_datagrams(version: int) -> None:
    """An error about a datagram that came in fragments is reported too."""
    with PassiveLab() as watched, watched.client(version) as client:
        client.exchange(1, size=4000)
        assert refused(watched.lab.backends[0], version) == watched.reported()


@pytest.mark.parametrize("version", VERSIONS)
def test_one_way_traffic(version: int) -> None:
    """A server that never replies is not reported, whatever its load; a server that dies is."""
    with PassiveLab() as watched, watched.client(version) as client:
        first, second, third = watched.lab.backends
        with watched.serve(first, second, answer=False) as servers:
            with watched.serve(third, answer=False):
                client.send(300)
                assert 200 == len(servers.wait(200))
            client.send(3)
            assert refused(third, version) == watched.reported()


@pytest.mark.parametrize("version", VERSIONS)
def test_only_errors_about_our_datagrams_count(version: int) -> None:
    """Of the errors from a backend's own host, only those that quote a datagram of the balancer are reported.

    Errors about another client, port or protocol are not, and neither are other kinds of errors about the right one.
    """
    with (
        PassiveLab(
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
    """The right error from another host, with its own or the backend's address, or from the client, does not count.

    This holds if the backend and the forger are behind different interfaces of the balancer.
    """
    with PassiveLab() as watched, watched.client(version) as client:
        host, other, _ = watched.lab.backends
        with watched.serve(*watched.lab.backends) as servers:
            client.exchange(3)
        (received,) = (datagram for datagram in servers.received if datagram.backend == host.name)
        right = true_error(host, *received.source, version)
        send(other, replace(right, reporter=other.address(version)), right)
        send(watched.lab.client, replace(right, reporter=watched.lab.client.address(version)), right)
        assert [] == watched.refusals.read()

        send(host, right)
        assert refused(host, version) == watched.reported()


@pytest.mark.parametrize("version", VERSIONS)
def test_client_that_has_closed_its_socket(version: int) -> None:
    """A client's own port-unreachable, about a late reply, does not count against the backend."""
    family = {4: socket.AF_INET, 6: socket.AF_INET6}[version]
    with PassiveLab(backends=1) as watched:
        (host,) = watched.lab.backends
        with host.call(socket.socket, family, socket.SOCK_DGRAM) as server:
            server.settimeout(20)
            server.bind(("", BACKEND_PORT))
            with watched.client(version) as client, Tap(watched.lab.balancer, "client1") as tap:
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
    """An error about a datagram from before the removal does not count against the backend that is back."""
    with PassiveLab() as watched, watched.client(version) as client:
        host, *_ = watched.lab.backends
        with watched.serve(*watched.lab.backends) as servers:
            client.exchange(3)
        (received,) = (datagram for datagram in servers.received if datagram.backend == host.name)
        right = true_error(host, *received.source, version)
        watched.load(host.name)
        send(host, right)
        watched.load()
        send(host, right)
        assert [] == watched.refusals.read()


@pytest.mark.parametrize("version", VERSIONS)
def test_by_flow(version: int) -> None:
    """`per: flow`: a refusal is reported; a firewall's port-unreachable about a TCP connection is not."""
    listen = tuple(
        Listener(ip_address(vip(version)), PORT, PORT, protocol) for protocol in (Protocol.UDP, Protocol.TCP)
    )
    with PassiveLab(per=Per.FLOW, listen=listen, backends=1) as watched:
        (host,) = watched.lab.backends
        family = {4: "ip", 6: "ip6"}[version]
        host.run(["nft", f"add table {family} wall"])
        host.run(["nft", f"add chain {family} wall input {{ type filter hook input priority 0; }}"])
        host.run(["nft", f"add rule {family} wall input tcp dport {BACKEND_PORT} reject"])
        with pytest.raises(ConnectionRefusedError):
            TcpConnection(watched.lab.client, (vip(version), PORT))
        assert [] == watched.refusals.read()

        with watched.client(version) as client:
            client.exchange(1)
        assert refused(host, version) == watched.reported()


@pytest.mark.parametrize("version", VERSIONS)
def test_the_clients_own_address(version: int) -> None:
    """With `source: keep`, the error goes to the client, and passes the balancer."""
    with PassiveLab(backends=1, source=SourceKind.KEEP) as watched, watched.client(version) as client:
        client.exchange(1)
        assert refused(watched.lab.backends[0], version) == watched.reported()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_backend_as_a_client(version: int) -> None:
    """A backend as a client gets refusals from another backend and from itself; both are reported."""
    with PassiveLab(backends=2) as watched:
        first, second = watched.lab.backends
        with first.connect((vip(version), PORT)) as client:
            client.exchange(1)
            assert refused(first, version) == watched.reported()
            client.exchange(1)
            assert refused(second, version) == watched.reported()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_backend_on_the_balancer(version: int) -> None:
    """Errors of a backend at one of the balancer's own addresses are reported too."""
    near = {4: "10.0.1.1", 6: "fd00:1::1"}[version]
    with PassiveLab(backends=1) as watched, watched.client(version) as client:
        pool = replace(watched.pool_lab.pool(), passive=True)
        backends = tuple(
            replace(backend, address=ip_address(near))
            for backend in pool.backends
            if backend.address.version == version
        )
        listen = tuple(listener for listener in pool.listen if listener.address.version == version)
        watched.pool_lab.load(replace(pool, backends=backends, listen=listen))
        client.exchange(1)
        assert [PortUnreachable(ip_address(near), BACKEND_PORT)] == watched.reported()


def test_the_rules_are_listed_as_they_were_written() -> None:
    """Once loaded, the kernel's listing does not differ from the configuration."""
    with PassiveLab() as watched:
        config = Config(pools=(replace(watched.pool_lab.pool(), passive=True),))
        assert "" == watched.lab.balancer.call(watched.pool_lab.applier.diff, config)


def test_a_pool_without_passive() -> None:
    """Without `passive`, no error is reported, and there are no rules for errors."""
    with PassiveLab(passive=False) as watched, watched.client(4) as client:
        client.exchange(3)
        assert [] == watched.refusals.read()
        assert "log" not in watched.lab.balancer.run(["nft", "list", "ruleset"])


def _knock(address: str) -> None:
    """Send a datagram to a port without a listener, as a health check does. Return when the refusal has arrived."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(20)
        sock.connect((address, BACKEND_PORT))
        sock.send(b"?")
        with pytest.raises(ConnectionRefusedError):
            sock.recv(1)


# --- hints, which a pool has by default -------------------------------------------------------------------------------


class HintLab(PassiveLab):
    """A lab with the default: a pool with a check, whose backends see the balancer's address."""

    def __init__(self, **changes: Any) -> None:
        super().__init__(**{"passive": None, "health": (Health(check=Icmp()),), **changes})


def hints(host: Host, version: int) -> list[PortUnreachable]:
    return [replace(error, hint=True) for error in refused(host, version)]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("offload", [True, False], ids=["offload", "no-offload"])
@pytest.mark.parametrize("per", list(Per))
def test_by_default_a_refusal_is_a_hint(per: Per, offload: bool, version: int) -> None:
    """The first refused datagram is reported; datagrams with a reply are not."""
    with HintLab(offload=offload, per=per, backends=1) as watched, watched.client(version) as client:
        (host,) = watched.lab.backends
        with watched.serve(host):
            assert ["b1"] * 3 == [answer.backend for answer in client.exchange(3)]
            assert [] == watched.refusals.read()
        client.exchange(1)
        assert hints(host, version) == watched.reported()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_hint_of_large_datagrams(version: int) -> None:
    """An error about a datagram that came in fragments is a hint too."""
    with HintLab() as watched, watched.client(version) as client:
        client.exchange(1, size=4000)
        assert hints(watched.lab.backends[0], version) == watched.reported()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_hint_of_a_backend_on_the_balancer(version: int) -> None:
    """The error of a backend at one of the balancer's own addresses arrives at no interface."""
    near = {4: "10.0.1.1", 6: "fd00:1::1"}[version]
    with HintLab(backends=1) as watched, watched.client(version) as client:
        pool = replace(watched.pool_lab.pool(), **watched.changes)
        backends = tuple(
            replace(backend, address=ip_address(near))
            for backend in pool.backends
            if backend.address.version == version
        )
        listen = tuple(listener for listener in pool.listen if listener.address.version == version)
        watched.pool_lab.load(replace(pool, backends=backends, listen=listen))
        client.exchange(1)
        assert [PortUnreachable(ip_address(near), BACKEND_PORT, hint=True)] == watched.reported()


@pytest.mark.parametrize("version", VERSIONS)
def test_only_the_backend_itself_gives_hints(version: int) -> None:
    """Errors of other hosts, from another interface with the backend's address, or of another kind are not hints."""
    with HintLab() as watched, watched.client(version) as client:
        host, other, _ = watched.lab.backends
        with watched.serve(*watched.lab.backends) as servers:
            client.exchange(3)
        (received,) = (datagram for datagram in servers.received if datagram.backend == host.name)
        right = true_error(host, *received.source, version)
        send(other, replace(right, reporter=other.address(version)), right)
        send(watched.lab.client, right)
        send(host, replace(right, protocol=socket.IPPROTO_TCP), replace(right, what=HOST))
        assert [] == watched.refusals.read()

        send(host, right)
        assert hints(host, version) == watched.reported()


def test_hints_are_listed_as_they_were_written() -> None:
    """Once loaded, the kernel's listing does not differ from the configuration."""
    with HintLab() as watched:
        config = Config(pools=(replace(watched.pool_lab.pool(), **watched.changes),))
        assert "" == watched.lab.balancer.call(watched.pool_lab.applier.diff, config)


def test_a_kernel_without_nflog() -> None:
    """Such a kernel would refuse all rules because of this rule: a pool with the default has no rule for hints then."""
    with HintLab() as watched, watched.client(4) as client, watched.serve(*watched.lab.backends):
        watched.pool_lab.applier.logs = lambda: False
        watched.load()
        assert "log" not in watched.lab.balancer.run(["nft", "list", "ruleset"])
        assert ["b1", "b2", "b3"] == [answer.backend for answer in client.exchange(3)]
        watched.changes["passive"] = True
        watched.load()
        assert "log" in watched.lab.balancer.run(["nft", "list", "ruleset"])


def test_a_request_passes_no_rule_for_hints() -> None:
    """A datagram to the service meets the same rules with and without hints: the hint rule comes later."""
    with HintLab() as watched:
        table = watched.lab.balancer.run(["nft", "list", "table", "ip", "nftlb"])
        hooks = table.count("type filter hook")
        service = table.index("vmap @pool/")
        assert service < table.index('log prefix "hint"')
        watched.changes["passive"] = False
        watched.load()
        assert hooks == watched.lab.balancer.run(["nft", "list", "table", "ip", "nftlb"]).count("type filter hook")
