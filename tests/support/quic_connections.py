"""QUIC with aioquic, in namespaces: a server on each backend with its server id, and clients that change their port."""

from __future__ import annotations

import datetime as dt
import os
import select
import socket
import ssl
import threading
import time
from collections import Counter
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Self

from aioquic._buffer import Buffer
from aioquic.quic import connection as implementation
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet import QuicPacketType, pull_quic_header
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from nftlb.lab import sockopt
from nftlb.lab.servers import SocketLoop

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from nftlb.lab import Host

CID_LENGTH = 12
"""The length of the connection ids that the servers choose; the clients choose shorter ones."""
PATIENCE = 20.0
_NAME = "a.example"
_PROTOCOLS = ["nftlb-test"]


class _RandomBytes:
    """What aioquic needs of the module `os`. A thread with a server id gets connection ids with the id in them."""

    def __init__(self) -> None:
        self.of_thread = threading.local()

    def urandom(self, length: int) -> bytes:
        make: Callable[[], bytes] | None = getattr(self.of_thread, "make", None)
        return make() if make and length == CID_LENGTH else os.urandom(length)


_RANDOM = _RandomBytes()
vars(implementation)["os"] = _RANDOM


@cache
def _certificate() -> tuple[Any, Any]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, _NAME)])
    begin = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(begin)
        .not_valid_after(begin.replace(year=2090))
        .sign(key, hashes.SHA256())
    )
    return made, key


class QuicServers:
    """A context manager. The servers reply to each stream with their name and the data of the stream.

    `prefixes`: the beginning of the connection ids of each host. `counts`: datagrams by host. `strays`: datagrams of
    connections of another server, by host.
    """

    def __init__(self, hosts: Sequence[Host], port: int, prefixes: Mapping[str, bytes]) -> None:
        self.counts: Counter[str] = Counter()
        self.strays: Counter[str] = Counter()
        self._hosts, self._port, self._prefixes = hosts, port, prefixes
        self._connections: dict[str, dict[bytes, QuicConnection]] = {host.name: {} for host in hosts}
        self._loop = SocketLoop("quic-servers")

    def __enter__(self) -> Self:
        for host in self._hosts:
            for version in (4, 6):
                self._loop.add(host.call(self._open, version), partial(self._serve, host.name))
        self._loop.__enter__()
        return self

    def __exit__(self, *problem: object) -> None:
        self._loop.__exit__(*problem)

    def _open(self, version: int) -> socket.socket:
        sock = socket.socket(sockopt.family_of(version), socket.SOCK_DGRAM)
        if version == 6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sockopt.receive_destination(sock)
        sock.bind(("", self._port))
        return sock

    def _serve(self, name: str, sock: socket.socket) -> None:
        payload, ancillary, _, peer = sock.recvmsg(65536, sockopt.ANCILLARY_SIZE)
        self.counts[name] += 1
        prefix = self._prefixes[name]
        _RANDOM.of_thread.make = lambda: prefix + os.urandom(CID_LENGTH - len(prefix))
        connection = self._connection(name, payload)
        if connection is None:
            self.strays[name] += 1
            return
        connection.receive_datagram(payload, peer[:2], now=time.monotonic())
        self._handle_events(name, connection)
        for datagram, address in connection.datagrams_to_send(now=time.monotonic()):
            to = (*address, *peer[2:]) if len(peer) > len(address) else address
            sockopt.send_reply(sock, datagram, sockopt.destination_of(ancillary), to)
        self._handle_events(name, connection)  # connection ids are issued when they are sent

    def _connection(self, name: str, payload: bytes) -> QuicConnection | None:
        """Return the connection of a datagram, a new one for its first datagram; None if it is another server's."""
        known = self._connections[name]
        header = pull_quic_header(Buffer(data=payload), host_cid_length=CID_LENGTH)
        if header.destination_cid not in known:
            if header.packet_type is not QuicPacketType.INITIAL:
                return None
            options = QuicConfiguration(is_client=False, connection_id_length=CID_LENGTH, alpn_protocols=_PROTOCOLS)
            options.certificate, options.private_key = _certificate()
            made = QuicConnection(configuration=options, original_destination_connection_id=header.destination_cid)
            known[header.destination_cid] = known[made.host_cid] = made
        return known[header.destination_cid]

    def _handle_events(self, name: str, connection: QuicConnection) -> None:
        while (event := connection.next_event()) is not None:
            match event:
                case events.ConnectionIdIssued():
                    self._connections[name][event.connection_id] = connection
                case events.StreamDataReceived(end_stream=True):
                    connection.send_stream_data(event.stream_id, f"{name} ".encode() + event.data, end_stream=True)


class QuicClient:
    """One connection of a client. A context manager."""

    def __init__(self, host: Host, target: tuple[str, int]) -> None:
        self._host, self._target = host, target
        options = QuicConfiguration(is_client=True, server_name=_NAME, alpn_protocols=_PROTOCOLS)
        options.verify_mode = ssl.CERT_NONE
        self._connection = QuicConnection(configuration=options)
        self._sock = self._open()
        self._connection.connect(target, now=time.monotonic())
        self._wait(events.HandshakeCompleted)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    @property
    def port(self) -> int:
        port: int = self._sock.getsockname()[1]
        return port

    @property
    def identifier(self) -> bytes:
        """The connection id to which the packets are addressed."""
        return bytes(self._connection._peer_cid.cid)

    def echo(self, data: bytes) -> str:
        """Send data in a new stream; return the name of the server that returned the data."""
        stream = self._connection.get_next_available_stream_id()
        self._connection.send_stream_data(stream, data, end_stream=True)
        name, _, returned = self._wait(events.StreamDataReceived).data.partition(b" ")
        assert data == returned
        return str(name, "ascii")

    def migrate(self) -> None:
        """Go on from another port, with another connection id: RFC 9000, section 9."""
        former, self._sock = self._sock, self._open()
        former.close()
        self._connection.change_connection_id()

    def _open(self) -> socket.socket:
        version = sockopt.version_of(self._target[0])
        sock = self._host.call(socket.socket, sockopt.family_of(version), socket.SOCK_DGRAM)
        sock.connect(self._target)
        return sock

    def _wait(self, kind: type[events.QuicEvent]) -> Any:
        """Exchange datagrams until an event of this kind; TimeoutError after a while."""
        deadline = time.monotonic() + PATIENCE
        while True:
            while (event := self._connection.next_event()) is not None:
                if isinstance(event, kind):
                    return event
            now = time.monotonic()
            for datagram, _ in self._connection.datagrams_to_send(now=now):
                self._sock.send(datagram)
            if now > deadline:
                raise TimeoutError(f"no {kind.__name__} within {PATIENCE} s")
            timer = self._connection.get_timer() or deadline
            if select.select([self._sock], [], [], max(0.0, min(timer, deadline) - now))[0]:
                self._connection.receive_datagram(self._sock.recv(65536), self._target, now=time.monotonic())
            elif time.monotonic() >= timer:
                self._connection.handle_timer(now=time.monotonic())
