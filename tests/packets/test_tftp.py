"""`helper: tftp`: servers answer a request from a new port, and the client gets the file from the service's address."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from pool_lab import NAT, PORT, PoolLab, down, vip
from tftp_transfers import TftpClient, TftpServers, Transfer

from nftlb.model import Balance, Forward, Helper, Per, Pool, SourceKind

if TYPE_CHECKING:
    from nftlb.lab import Host

VERSIONS = (4, 6)
KINDS = ("masquerade", "keep", "address")
TFTP = 69
TFTP_BACKEND = 6969
OTHER_PORT = 7777


def tftp(pool_lab: PoolLab, kind: str = "masquerade") -> Pool:
    """The pool `tftp` at port 69, in front of the backends' port 6969."""
    pool = pool_lab.pool(TFTP_BACKEND)
    return replace(
        pool,
        name="dns",
        listen=tuple(replace(listener, first_port=TFTP, last_port=TFTP) for listener in pool.listen),
        per=Per.FLOW,
        helper=Helper.TFTP,
        source=SourceKind(kind),
        source_addresses=tuple(listener.address for listener in pool.listen) if kind == "address" else (),
    )


def only_from_the_service(version: int, transfers: list[Transfer]) -> bool:
    """Whether all blocks of a file came from one port of the service that is not the port of requests."""
    sources = [source for transfer in transfers for source in transfer.sources]
    return (
        len(sources) == len(transfers)
        and {vip(version)} == {address for address, _ in sources}
        and all(port != TFTP for _, port in sources)
    )


@pytest.mark.parametrize("offload", [True, False], ids=["offload", "no-offload"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("version", VERSIONS)
def test_several_clients_at_once(version: int, kind: str, offload: bool) -> None:
    """Sockets of two clients, the service's own port among them, fetch files at the same time, and take turns."""
    with PoolLab(NAT, clients=2, offload=offload, serve=False) as pool_lab, ExitStack() as stack:
        lab = pool_lab.lab
        servers = stack.enter_context(TftpServers([*lab.backends], TFTP_BACKEND))
        pool_lab.load(tftp(pool_lab, kind))
        ports = [0, TFTP, 0]
        sockets = [
            stack.enter_context(TftpClient(client, (vip(version), TFTP), source_port=port))
            for client in lab.clients
            for port in ports
        ]
        for sock in sockets:
            sock.request()
        transfers = [sock.receive() for sock in sockets]
        assert ["b1", "b2", "b3"] * 2 == [transfer.backend for transfer in transfers]
        assert only_from_the_service(version, transfers)
        assert {"b1": 2, "b2": 2, "b3": 2} == servers.counts
        clients = {client.address(version) for client in lab.clients}
        assert (clients == {address for address, _ in servers.clients}) is (kind == "keep")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("version", VERSIONS)
def test_clients_on_the_balancer_and_on_backends(version: int, kind: str) -> None:
    """The balancer and a backend can fetch files; the backend gets one file in three from itself."""
    with PoolLab(NAT, serve=False) as pool_lab, TftpServers([*pool_lab.lab.backends], TFTP_BACKEND):
        lab = pool_lab.lab
        pool_lab.load(tftp(pool_lab, kind))

        def fetch(host: Host) -> Transfer:
            with TftpClient(host, (vip(version), TFTP)) as client:
                return client.fetch()

        for host in (lab.balancer, lab.backends[0]):
            transfers = [fetch(host) for _ in range(3)]
            assert ["b1", "b2", "b3"] == [transfer.backend for transfer in transfers]
            assert only_from_the_service(version, transfers)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("version", VERSIONS)
def test_a_backend_leaves_during_transfers(version: int, kind: str) -> None:
    """Transfers from other backends go on when a backend leaves; the client of that backend is served by another."""
    with PoolLab(NAT, serve=False) as pool_lab, TftpServers([*pool_lab.lab.backends], TFTP_BACKEND):
        lab = pool_lab.lab
        pool_lab.load(tftp(pool_lab, kind))
        with (
            TftpClient(lab.client, (vip(version), TFTP)) as first,
            TftpClient(lab.client, (vip(version), TFTP)) as second,
        ):
            assert ["b1", "b2"] == [first.fetch().backend, second.fetch().backend]
            second.request()
            second.await_block()
            pool_lab.update(down("b1"))
            transfers = [second.receive(), first.fetch()]
            assert "b2" == transfers[0].backend
            assert transfers[1].backend in {"b2", "b3"}
            assert only_from_the_service(version, transfers)


@pytest.mark.parametrize("forward", [Forward.NAT, Forward.STATELESS])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("version", VERSIONS)
def test_other_traffic_of_the_backends_is_unchanged(version: int, kind: str, forward: Forward) -> None:
    """Another pool on the same backends is balanced as before. A backend's own request keeps its source."""
    with PoolLab(NAT) as pool_lab, TftpServers([*pool_lab.lab.backends], TFTP_BACKEND):
        lab = pool_lab.lab
        dns = replace(pool_lab.pool(), name="other", forward=forward, balance=Balance.ROUND_ROBIN)
        pool_lab.load(tftp(pool_lab, kind), dns)
        with TftpClient(lab.client, (vip(version), TFTP)) as client:
            assert "b1" == client.fetch().backend
        with lab.client.connect((vip(version), PORT)) as client:
            answers = client.exchange(12)
        assert ["b1", "b2", "b3"] * 4 == [answer.backend for answer in answers]
        assert {((vip(version), PORT), 1)} == {(answer.source, answer.copies) for answer in answers}
        asked = (lab.backends[1].address(version), OTHER_PORT)
        with lab.serve(OTHER_PORT) as servers, lab.backends[0].connect(asked) as own:
            assert ["b2"] * 3 == [answer.backend for answer in own.exchange(3)]
            assert [own.source[1]] * 3 == [datagram.source[1] for datagram in servers.received]
            assert {lab.backends[0].address(version)} == {datagram.source[0] for datagram in servers.received}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("version", VERSIONS)
def test_requests_of_a_backend_to_one_of_many_services(version: int, kind: str) -> None:
    """With over four services, a request of a backend to another pool is balanced, and keeps the zone of that pool."""
    with PoolLab(NAT) as pool_lab, TftpServers([*pool_lab.lab.backends], TFTP_BACKEND):
        lab = pool_lab.lab
        dns = replace(pool_lab.pool(), name="other", balance=Balance.ROUND_ROBIN)
        more = (
            replace(listener, first_port=port, last_port=port) for listener in dns.listen for port in range(7001, 7006)
        )
        pool_lab.load(tftp(pool_lab, kind), replace(dns, listen=(*dns.listen, *more)))
        with lab.backends[0].connect((vip(version), PORT)) as client:
            answers = client.exchange(12)
        assert ["b1", "b2", "b3"] * 4 == [answer.backend for answer in answers]
        with TftpClient(lab.client, (vip(version), TFTP)) as client:
            assert "b1" == client.fetch().backend
