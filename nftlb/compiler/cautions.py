"""Cautions: what a user may not expect of a valid configuration, because of limits of the kernel. Pure."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from nftlb.model import (
    QUIC_CID,
    Admin,
    BackendState,
    Balance,
    Family,
    Forward,
    Protocol,
    SourceKind,
    contenders,
    sufficient,
)
from nftlb.model.kinds import Listener, endpoint_text

from .allocation import source_of
from .selection import targets
from .source_ports import ENOUGH, gaps
from .words import format_address

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nftlb.model import Config, IPAddress, PoolState

_NAMES = {Family.IP: "IPv4", Family.IP6: "IPv6"}
_RELAYS = {Family.IP: ("DHCP", 67, "the address that the request names"), Family.IP6: ("DHCPv6", 547, "port 547")}


@dataclass(frozen=True, slots=True)
class Caution:
    """One caution about a pool. `fix`: what to change in the file.

    `warns`: `nftlb check` prints a warning, because packets are lost or an option has no effect.
    """

    pool: str
    message: str
    fix: str
    warns: bool = True


def cautions(config: Config) -> Iterator[Caution]:
    """Yield all cautions about a configuration; those about lost packets come first."""
    yield from _relays(config)
    yield from _without_room(config)
    yield from _keys_of_servers(config)
    yield from _useless_priorities(config)
    yield from _useless_silence(config)
    yield from _lost_answers(config)
    yield from _shared_backends(config)


def _relays(config: Config) -> Iterator[Caution]:
    """DHCP servers do not send replies to the source of a relay's packet, so conntrack finds no entry for them."""
    for pool in config.pools:
        for listener in pool.listen if pool.forward is Forward.NAT and pool.source is not SourceKind.KEEP else ():
            what, port, where = _RELAYS[listener.family]
            if listener.protocol is Protocol.UDP and listener.first_port <= port <= listener.last_port:
                yield Caution(
                    pool.name,
                    f"{what} servers send replies to {where}, and not to the source of a translated request: their "
                    f"replies to relays at {listener} would not come from the service",
                    "source: keep",
                )


def _without_room(config: Config) -> Iterator[Caution]:
    """Replies to a service's address and port are balanced like requests if new flows may have that port."""
    for (family, protocol), gap in gaps(config).items():
        if len(gap) >= ENOUGH:
            continue
        every = (listener for pool in config.pools for listener in pool.listen)
        same = [listener for listener in every if (listener.family, listener.protocol) == (family, protocol)]
        addresses = {format_address(listener.address) for listener in same}
        # The addresses of an interface are not known here.
        anywhere = any(listener.host and not listener.interface for listener in same)
        for pool in config.pools:
            if pool.forward is Forward.NAT and any(
                (listener.family, listener.protocol) == (family, protocol) for listener in pool.listen
            ):
                seen = source_of(pool, family)
                listened = anywhere and seen != SourceKind.KEEP
                if seen == SourceKind.MASQUERADE or seen in addresses or listened:
                    free = "" if anywhere else "source: an address of this host without a listener, or "
                    yield Caution(
                        pool.name,
                        f"the listeners for {protocol} leave no {ENOUGH} ports in a row above 1023 free (at most "
                        f"{len(gap)}): replies to {_seen(seen)} are balanced like requests if a client's port is a "
                        "listener's port",
                        f"{free}fewer ports",
                    )


def _seen(source_: str) -> str:
    return (
        "the address that `masquerade` chooses (if a listener has it)" if source_ == SourceKind.MASQUERADE else source_
    )


def _useless_silence(config: Config) -> Iterator[Caution]:
    """A silent backend is down only if another backend of the family can take its packets."""
    for pool in config.pools:
        for family in Family if pool.silence is not None else ():
            if sum(backend.family is family for backend in pool.backends) == 1:
                yield Caution(
                    pool.name,
                    f"passive: replies never takes the only backend of {_NAMES[family]} out: the last one always stays",
                    "another backend of the family, or count_replies: true to see the share of answered packets",
                )


def _lost_answers(config: Config) -> Iterator[Caution]:
    """Without conntrack, an answer to a request of a backend looks like a request of the peer."""
    for pool in config.pools:
        if pool.outbound and pool.forward is Forward.STATELESS and len(pool.backends) > 1:
            which = "of the peer's address" if pool.balance is Balance.HASH else "whose turn it is"
            yield Caution(
                pool.name,
                "requests of backends leave from the service, but with stateless nothing in an answer shows which "
                f"backend asked: the answer goes to the backend {which}",
                "forward: nat, or another port for the requests of backends",
            )


def _useless_priorities(config: Config) -> Iterator[Caution]:
    """A priority with less than `min_healthy` backends never serves alone, even if all its backends are healthy."""
    for pool in config.pools:
        enabled: PoolState = frozenset((backend.name, BackendState(admin=Admin.ENABLED)) for backend in pool.backends)
        for family in Family:
            all_ = contenders(pool, family, enabled)
            short = {backend.priority for backend in all_}.difference(sufficient(pool, all_))
            if len({backend.priority for backend in all_}) == 1:
                continue
            for priority in sorted(short):
                count = sum(backend.healthy for backend in all_ if backend.priority == priority)
                yield Caution(
                    pool.name,
                    f"priority {priority} has {count} backends of {_NAMES[family]} with a weight, and min_healthy is "
                    f"{pool.min_healthy}: the priority never serves alone, and its backends get packets only while no "
                    "priority has enough",
                    "a lower min_healthy, a share such as 50%, or more backends of the priority",
                )


def _keys_of_servers(config: Config) -> Iterator[Caution]:
    """Servers choose these keys themselves during the handshake, so the key of a session changes."""
    for pool in config.pools:
        if pool.balance is not Balance.HASH or (len(pool.backends) == 1 and not pool.named):
            continue
        if pool.key == QUIC_CID and all(backend.server_id is None for backend in pool.backends):
            yield Caution(
                pool.name,
                "key: quic-cid without server ids: a server chooses a new connection id in its first reply, and the "
                "next packets of the client may reach another backend",
                "a server_id for each backend, if the servers put one into connection ids (QUIC-LB), or key: source",
            )
        if pool.key.text == "wireguard-receiver":
            yield Caution(
                pool.name,
                "key: wireguard-receiver: a server chooses the index during the handshake, and the data packets of the "
                "client may reach another backend",
                "key: source, unless the servers share their sessions",
            )


def _shared_backends(config: Config) -> Iterator[Caution]:
    """Two services share a backend: for replies to one client, conntrack differs only by the client's port.

    So the backend sees another port of the client for the service that a socket uses second.
    """
    reported = set()
    for first, second, server in shared_servers(config):
        if (first, second) not in reported:
            reported.add((first, second))
            yield Caution(
                second.pool,
                f"{_both(first, second)} lead to one server ({server}): if a client sends to both from one socket, the "
                "server sees another port of the client for one of them (`source: keep` keeps the address)",
                "a separate backend port for each listener",
                warns=False,
            )


class PoolListener(NamedTuple):
    """A listener of a pool."""

    pool: str
    listener: Listener


def shared_servers(config: Config) -> Iterator[tuple[PoolListener, PoolListener, str]]:
    """Yield pairs of listeners with `source: keep`, and a server that both lead to.

    A pair is one listener twice if several of its ports lead to one port of the server.
    """
    servers: dict[tuple[IPAddress, Protocol], list[tuple[int, int, PoolListener]]] = defaultdict(list)
    for pool in config.pools:
        for listener in pool.listen if pool.forward is Forward.NAT and pool.source is SourceKind.KEEP else ():
            for target in targets(pool, listener.family):
                ports = (listener.first_port, listener.last_port) if target.port is None else (target.port, target.port)
                servers[target.address, listener.protocol].append((*ports, PoolListener(pool.name, listener)))
                if target.port is not None and listener.first_port != listener.last_port:
                    yield PoolListener(pool.name, listener), PoolListener(pool.name, listener), target.owner
    for (address, _), found in servers.items():
        found.sort(key=lambda entry: entry[:2])
        for (_, last, before), (first, _, after) in pairwise(found):
            if first <= last:
                yield before, after, endpoint_text(address, first)


def _both(first: PoolListener, second: PoolListener) -> str:
    if first == second:
        return f"the ports of {first.listener}"
    if first.pool == second.pool:
        return f"{first.listener} and {second.listener}"
    return f"{first.listener} of pool {first.pool} and {second.listener}"
