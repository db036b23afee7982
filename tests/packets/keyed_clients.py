"""ONE client socket that sends any payload to a pool with keys, and the backend that `explain` shows for a payload."""

from __future__ import annotations

import select
import socket
from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING, Self

from group_steps import host_of
from pool_lab import PORT, vip

from nftlb.explain import Question, explain_packet
from nftlb.lab import sockopt
from nftlb.model import Balance, Config, Endpoint, HashKey, Membership, Pool, Protocol

if TYPE_CHECKING:
    from nftlb.explain import Treatment
    from nftlb.lab import Host


class Asker:
    """ONE socket of a host that sends any payload to the service. A context manager."""

    def __init__(self, host: Host, version: int, *, source: tuple[str, int] = ("", 0)) -> None:
        self.service = (vip(version), PORT)
        self.sock = host.call(socket.socket, sockopt.family_of(version), socket.SOCK_DGRAM)
        self.sock.settimeout(10)
        self.sock.bind(source)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def ask(self, payload: bytes) -> str:
        """Return the name of the backend that got exactly this payload, and replied from the service."""
        self.sock.sendto(payload, self.service)
        answer, source = self.sock.recvfrom(65536)
        name, _, returned = answer.partition(b" ")
        assert (self.service, payload) == (source[:2], returned)
        return name.decode()

    def send(self, payload: bytes) -> None:
        """Send a datagram that gets no reply."""
        self.sock.sendto(payload, self.service)

    def is_idle(self) -> bool:
        """Whether no further reply has come."""
        return not select.select([self.sock], [], [], 0)[0]

    def endpoint(self, address: str) -> Endpoint:
        return Endpoint(ip_address(address), self.sock.getsockname()[1])


def keyed(pool: Pool, key: HashKey, **options: object) -> Pool:
    """The pool of the lab, balanced by the key."""
    return replace(pool, balance=Balance.HASH, key=key, **options)  # type: ignore[arg-type]


def explained(pool: Pool, client: Endpoint, payload: bytes, membership: Membership | None = None) -> Treatment:
    """What `nftlb explain` says about a datagram of a client."""
    service = Endpoint(ip_address(vip(4 if client.address.version == 4 else 6)), PORT)
    found = explain_packet(Config(pools=(pool,)), Question(client, service, Protocol.UDP, payload), membership)
    assert found.treatment is not None
    return found.treatment


def expected(pool: Pool, client: Endpoint, payload: bytes, membership: Membership | None = None) -> str:
    """The host of the backend that `nftlb explain` shows for a datagram of a client."""
    choice = explained(pool, client, payload, membership).choice
    assert choice is not None
    return host_of(choice.target)


def order_of_turns(pool: Pool, client: Endpoint, membership: Membership | None = None) -> list[str]:
    """The order of the turns from the last change of the pool on, as `nftlb explain` shows it."""
    return [host_of(name) for name in explained(pool, client, b"", membership).slots]
