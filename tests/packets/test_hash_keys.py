"""`balance: hash` with a `key`: real datagrams of each protocol reach the backend of their key, as `explain` says.

Each test sends from ONE client socket, unless the key is about the client.
"""

from __future__ import annotations

import socket
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import replace
from itertools import cycle, islice
from typing import TYPE_CHECKING

import pytest
from keyed_clients import Asker, expected, keyed
from lab_parameters import offload_id
from pool_lab import DSR_INGRESS, MODES, NAT, PORT, STATELESS, STATELESS_INGRESS, PoolLab, close_slow_path, down, vip
from protocol_datagrams import ENGINE, KEYED, KEYLESS, quic_initial, quic_short
from quic_connections import CID_LENGTH, QuicClient, QuicServers
from servers.freeradius import FreeRadius, is_genuine, status_server

from nftlb.model import (
    KEY_WORDS,
    QUIC_CID,
    SOURCE,
    Admin,
    BackendState,
    Membership,
    Pool,
    SourceKind,
    payload_key,
    prefix_key,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pool_lab import Mode


VERSIONS = (4, 6)
NUMBERS = range(24)
REPEAT_AFTER = 2.0
"""Seconds after which a RADIUS client repeats a request that has no reply."""
CASES = [*((mode, True) for mode in MODES), *((mode, False) for mode in (NAT, STATELESS_INGRESS, DSR_INGRESS))]
BYTES = payload_key(3, 5)
_DESTINATION_OPTIONS = 59  # IPV6_DSTOPTS of linux/in6.h


def in_turn(names: Iterable[str]) -> bool:
    """Whether backends got datagrams in strict order, from any backend on."""
    got = list(names)
    return got in [list(islice(cycle(("b1", "b2", "b3")), start, start + len(got))) for start in range(3)]


@pytest.mark.parametrize(("mode", "offload"), CASES, ids=offload_id)
def test_datagrams_of_protocols_reach_the_backend_of_their_key(mode: Mode, offload: bool) -> None:
    """All datagrams of a key reach the backend that `explain` shows; datagrams without a key take strict turns.

    The keys reach all backends. On the fast path, no datagram takes the ordinary path.
    """
    with PoolLab(mode, offload=offload) as pool_lab:
        close_slow_path(pool_lab)
        for word, datagrams in KEYED.items():
            pool = keyed(pool_lab.pool(), KEY_WORDS[word])
            for version in VERSIONS:
                pool_lab.load(pool)
                pool_lab.servers.clear()
                client = pool_lab.lab.client
                with Asker(client, version) as asker:
                    endpoint = asker.endpoint(client.address(version))
                    met: Counter[str] = Counter()
                    for number in NUMBERS:
                        for payload in datagrams(number):
                            backend = asker.ask(payload)
                            assert expected(pool, endpoint, payload) == backend, (word, number, payload.hex())
                            met[backend] += 1
                        assert len({expected(pool, endpoint, payload) for payload in datagrams(number)}) == 1
                    assert in_turn([asker.ask(payload) for payload in KEYLESS[word] * 6])
                assert {"b1", "b2", "b3"} == met.keys()
                turns = 2 * len(KEYLESS[word])
                assert {name: count + turns for name, count in met.items()} == pool_lab.servers.counts


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_bytes_of_the_payload(mode: Mode, version: int) -> None:
    """`payload@3+5`: other bytes do not matter, a datagram of 7 bytes takes turns, and one in fragments has its key.

    So does a datagram of 8 bytes in a frame with padding, and behind extension headers of IPv6.
    """
    with PoolLab(mode) as pool_lab:
        pool = keyed(pool_lab.pool(), BYTES)
        pool_lab.load(pool)
        client = pool_lab.lab.client
        with Asker(client, version) as asker:
            endpoint = asker.endpoint(client.address(version))
            for number in NUMBERS:
                part = f"{number:05}".encode()
                whole = [b"abc" + part, b"xyz" + part + bytes(4000), b"\xff\0\1" + part + b"end"]
                assert [expected(pool, endpoint, whole[0])] * 3 == [asker.ask(payload) for payload in whole]
            assert in_turn([asker.ask(b"seven b") for _ in range(9)])
            if version == 6:
                asker.sock.setsockopt(socket.IPPROTO_IPV6, _DESTINATION_OPTIONS, bytes((0, 0, 1, 4, 0, 0, 0, 0)))
                for number in NUMBERS:
                    payload = f"abc{number:05}".encode()
                    assert expected(pool, endpoint, payload) == asker.ask(payload)


@pytest.mark.parametrize("mode", [NAT, STATELESS, STATELESS_INGRESS, DSR_INGRESS], ids=str)
def test_keys_of_the_client(mode: Mode) -> None:
    """A part of the address, and address with port, decide as `explain` says: clients of a network stay together."""
    with PoolLab(mode) as pool_lab:
        client = pool_lab.lab.client
        addresses = {
            4: [f"198.51.100.{number}" for number in (16, 17, 31, 32, 64, 96, 128, 160, 192, 224)],
            6: [f"2001:db8:1::{number:x}00" for number in range(1, 11)],
        }
        for version, length in ((4, 24), (6, 64)):
            for address in addresses[version]:
                client.run(["ip", "addr", "replace", f"{address}/{length}", "dev", "eth0", *["nodad"][: version == 6]])
        for key in (prefix_key(28, 120), prefix_key(24, 56), KEY_WORDS["source-port"], SOURCE):
            pool = keyed(pool_lab.pool(), key, seed=77)
            pool_lab.load(pool)
            for version in VERSIONS:
                met = []
                for address in addresses[version]:
                    with Asker(client, version, source=(address, 0)) as asker:
                        met.append(asker.ask(b"?"))
                        assert expected(pool, asker.endpoint(address), b"?") == met[-1], (str(key), address)
                if key.prefixes == (24, 56):
                    assert len(set(met)) == 1
                elif not key.port:  # ports are drawn by the kernel
                    assert len(set(met)) > 1
                if key.prefixes == (28, 120) and version == 4:
                    assert len(set(met[:3])) == 1  # .16 to .31


def test_engines_of_netflow_5() -> None:
    """NetFlow 5 has no source id; the engine that sends the flows decides."""
    with PoolLab(NAT) as pool_lab, Asker(pool_lab.lab.client, 4) as asker:
        pool = keyed(pool_lab.pool(), KEY_WORDS["netflow-source-id"])
        pool_lab.load(pool)
        endpoint = asker.endpoint(pool_lab.lab.client.address(4))
        assert [expected(pool, endpoint, ENGINE)] * 3 == [asker.ask(ENGINE) for _ in range(3)]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", [SourceKind.MASQUERADE, SourceKind.KEEP])
def test_clients_elsewhere(version: int, kind: SourceKind) -> None:
    """The key decides for clients on the balancer and on a backend too, and for clients that use the service's port."""
    with PoolLab(NAT) as pool_lab:
        pool = keyed(pool_lab.pool(), BYTES, source=kind)
        pool_lab.load(pool)
        lab = pool_lab.lab
        hosts = [lab.balancer, lab.client, *([lab.backends[0]] if kind is SourceKind.MASQUERADE else [])]
        for host in hosts:
            with Asker(host, version, source=("", PORT)) as asker:
                for number in NUMBERS:
                    payload = f"abc{number:05}".encode()
                    address = host.address(version) if host is not lab.balancer else vip(version)
                    assert expected(pool, asker.endpoint(address), payload) == asker.ask(payload), host.name


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("mode", [NAT, STATELESS_INGRESS], ids=str)
def test_a_backend_that_leaves_moves_only_its_own_keys(mode: Mode, version: int) -> None:
    """When a backend leaves, the keys of others stay; when the backend returns, its keys return."""
    with PoolLab(mode) as pool_lab, Asker(pool_lab.lab.client, version) as asker:
        pool_lab.load(keyed(pool_lab.pool(), BYTES))
        payloads = [f"abc{number:05}".encode() for number in range(60)]
        before = {payload: asker.ask(payload) for payload in payloads}
        pool_lab.update(down("b2"))
        between = {payload: asker.ask(payload) for payload in payloads}
        pool_lab.update(down())
        assert before == {payload: asker.ask(payload) for payload in payloads}
        moved = {payload for payload in payloads if before[payload] != between[payload]}
        assert {payload for payload, backend in before.items() if backend == "b2"} == moved
        assert {"b1", "b3"} == {between[payload] for payload in moved}


def with_ids(pool: Pool, config_id: int = 5, length: int = 3) -> Pool:
    """The pool with a server id for each backend, the same for its IPv4 and IPv6 addresses."""
    backends = tuple(
        replace(backend, server_id=bytes([*range(length - 1), int(backend.name[1])])) for backend in pool.backends
    )
    return keyed(replace(pool, backends=backends), QUIC_CID, quic_lb_config=config_id)


def connection_id(pool: Pool, backend: str, nonce: int) -> bytes:
    """A connection id of QUIC-LB in plain text that names a backend."""
    own = pool.backend(backend)
    assert own is not None
    assert own.server_id is not None
    rest = nonce.to_bytes(max(4, 7 - len(own.server_id)), "big")  # 8 to 20 bytes in total
    return bytes([pool.quic_lb_config << 5 | len(own.server_id) + len(rest)]) + own.server_id + rest


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("mode", "length"), [*((mode, 3) for mode in MODES), (NAT, 1), (DSR_INGRESS, 11), (STATELESS, 15)]
)
def test_server_ids_in_connection_ids(mode: Mode, length: int, version: int) -> None:
    """The server id decides, in short and long headers; a drained backend keeps its connections, and gets no others."""
    with PoolLab(mode) as pool_lab, Asker(pool_lab.lab.client, version) as asker:
        close_slow_path(pool_lab)
        pool = with_ids(pool_lab.pool(), length=length)
        pool_lab.load(pool)
        endpoint = asker.endpoint(pool_lab.lab.client.address(version))

        def reached(*names: str) -> list[str]:
            found = []
            for name in names:
                for nonce in range(3):
                    own = connection_id(pool, name, nonce)
                    found += [asker.ask(quic_short(own, nonce)), asker.ask(quic_initial(own)[:1000])]
            return found

        assert ["b1"] * 6 + ["b2"] * 6 + ["b3"] * 6 == reached("b1", "b2", "b3")
        drained = Membership({"dns": frozenset((name, BackendState(admin=Admin.DRAIN)) for name in ("b2", "b2-6"))})
        pool_lab.update(drained)
        assert ["b1"] * 6 + ["b2"] * 6 == reached("b1", "b2")
        new = [quic_initial(bytes([number]) * 8) for number in range(0xE0, 0xFF)]  # 0b111: no server id
        met = [asker.ask(payload) for payload in new]
        assert [expected(pool, endpoint, payload, drained) for payload in new] == met
        assert {"b1", "b3"} == set(met)
        pool_lab.update(down("b2"))
        moved = reached("b2")
        assert "b2" not in moved
        assert 6 == len(moved)


def repeat_until_answered(asker: Asker, request: bytes) -> int:
    """Send a request until its reply comes from the service. Return how often.

    FreeRADIUS discards a repetition while it has not finished with the request, also if its reply is on the way.
    """
    asker.sock.settimeout(REPEAT_AFTER)
    for times in range(1, 11):
        asker.sock.sendto(request, asker.service)
        with suppress(TimeoutError):
            answer, source = asker.sock.recvfrom(4096)
            while not is_genuine(answer, request):  # a second reply to the request before
                answer, source = asker.sock.recvfrom(4096)
            assert asker.service == source[:2]
            return times
    raise TimeoutError(f"no reply came to {times} requests")


@pytest.mark.parametrize("version", VERSIONS)
def test_a_repeated_request_reaches_the_same_freeradius(version: int) -> None:
    """With `radius-identifier`, real servers answer requests and repetitions, each time the one of the identifier."""
    with PoolLab(NAT, serve=False) as pool_lab, ExitStack() as stack:
        for host in pool_lab.lab.backends:
            stack.enter_context(FreeRadius(host, port=NAT.port, version=version))
        pool = keyed(pool_lab.pool(), KEY_WORDS["radius-identifier"])
        pool_lab.load(pool)
        client = pool_lab.lab.client
        wanted: Counter[str] = Counter()
        with Asker(client, version) as asker:
            for number in NUMBERS:
                request = status_server(number, bytes([number]) * 16)
                for _ in range(2):
                    backend = expected(pool, asker.endpoint(client.address(version)), request)
                    wanted[backend + ("-6" if version == 6 else "")] += repeat_until_answered(asker, request)
                    counts = pool_lab.lab.balancer.call(pool_lab.applier.counters)
                    assert wanted == {
                        name.removeprefix("dns/"): count.packets for name, count in counts.items() if count.packets
                    }
        assert 3 == len(wanted)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("mode", [NAT, STATELESS, STATELESS_INGRESS, DSR_INGRESS], ids=str)
def test_a_quic_client_that_changes_its_port_stays_with_its_server(mode: Mode, version: int) -> None:
    """A client of aioquic changes port and connection id: its connection goes on, and no other server gets a packet."""
    with PoolLab(mode, serve=False) as pool_lab:
        pool = with_ids(pool_lab.pool())
        pool_lab.load(pool)
        first = bytes([pool.quic_lb_config << 5 | CID_LENGTH - 1])
        prefixes = {backend.name: first + (backend.server_id or b"") for backend in pool.backends}
        met: set[str] = set()
        with QuicServers(pool_lab.lab.backends, mode.port, prefixes) as servers:
            while met < {"b1", "b2", "b3"}:
                with QuicClient(pool_lab.lab.client, (vip(version), PORT)) as client:
                    backend = client.echo(b"first")
                    ports, ids = {client.port}, {client.identifier}
                    for _ in range(2):
                        client.migrate()
                        assert backend == client.echo(b"again")
                        ports.add(client.port)
                        ids.add(client.identifier)
                    assert (3, 3) == (len(ports), len(ids))
                    assert {prefixes[backend]} == {own[:4] for own in ids}
                    met.add(backend)
        assert {} == dict(servers.strays)
