"""What a valid configuration does not do as its author may expect, since the kernel can't. Pure."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from nftlb.model import Family, Forward, Protocol, SourceKind
from nftlb.model.kinds import Listener, endpoint_text

from .allocation import source
from .membership import targets
from .source_ports import ENOUGH, gaps
from .words import write

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nftlb.model import Config, IPAddress

_RELAYS = {Family.IP: ("DHCP", 67, "the address that the request names"), Family.IP6: ("DHCPv6", 547, "port 547")}


@dataclass(frozen=True, slots=True)
class Caution:
    """`lossy`: some packets are lost; otherwise packets only look different. `mend`: what to change in the file."""

    pool: str
    message: str
    mend: str
    lossy: bool = True


def cautions(config: Config) -> Iterator[Caution]:
    """All of them, those that lose packets first."""
    yield from _relays(config)
    yield from _without_room(config)
    yield from _shared_backends(config)


def _relays(config: Config) -> Iterator[Caution]:
    """DHCP servers don't answer to where a relay's packet came from: conntrack does not know their answers."""
    for pool in config.pools:
        for listener in pool.listen if pool.forward is Forward.NAT and pool.source is not SourceKind.KEEP else ():
            what, port, where = _RELAYS[listener.family]
            if listener.protocol is Protocol.UDP and listener.first_port <= port <= listener.last_port:
                yield Caution(
                    pool.name,
                    f"{what} servers answer relays at {where}, and not where a translated request came from: their "
                    f"answers to {listener} would not come from the service",
                    "source: keep",
                )


def _without_room(config: Config) -> Iterator[Caution]:
    """Replies to a service's address and port take turns, or worse, where new flows can't be kept from its port."""
    for (family, protocol), gap in gaps(config).items():
        if len(gap) >= ENOUGH:
            continue
        every = (one for pool in config.pools for one in pool.listen)
        addresses = {write(one.address) for one in every if (one.family, one.protocol) == (family, protocol)}
        for pool in config.pools:
            if pool.forward is Forward.NAT and any(
                (one.family, one.protocol) == (family, protocol) for one in pool.listen
            ):
                seen = source(pool, family)
                if seen == SourceKind.MASQUERADE or seen in addresses:
                    yield Caution(
                        pool.name,
                        f"the listeners for {protocol} leave no {ENOUGH} ports in a row above 1023 free (at most "
                        f"{len(gap)}): replies to {_seen(seen)} are taken for requests where a client's port is one "
                        "of a listener's",
                        "source: an address of this host at which nothing listens, or fewer ports",
                    )


def _seen(source_: str) -> str:
    return (
        "the address that `masquerade` picks, where that is a listener's,"
        if source_ == SourceKind.MASQUERADE
        else source_
    )


def _shared_backends(config: Config) -> Iterator[Caution]:
    """Two services with one backend: conntrack tells the replies to a client's socket apart by the client's port alone.

    So the service that the socket asks second is asked from another port, as the backend sees it.
    """
    told = set()
    for first, second, server in shared_servers(config):
        if (first, second) not in told:
            told.add((first, second))
            yield Caution(
                second.pool,
                f"{_both(first, second)} lead to one server ({server}): of a client that asks both from one socket, it "
                "sees another port at one of them (`source: keep` keeps the address)",
                "a backend port of its own for each listener",
                lossy=False,
            )


class Service(NamedTuple):
    """A listener of a pool."""

    pool: str
    listener: Listener


def shared_servers(config: Config) -> Iterator[tuple[Service, Service, str]]:
    """Two listeners with `source: keep` and a server that both lead to; twice the same if its ports lead to one."""
    servers: dict[tuple[IPAddress, Protocol], list[tuple[int, int, Service]]] = defaultdict(list)
    for pool in config.pools:
        for one in pool.listen if pool.forward is Forward.NAT and pool.source is SourceKind.KEEP else ():
            for target in targets(pool, one.family):
                ports = (one.first_port, one.last_port) if target.port is None else (target.port, target.port)
                servers[target.address, one.protocol].append((*ports, Service(pool.name, one)))
                if target.port is not None and one.first_port != one.last_port:
                    yield Service(pool.name, one), Service(pool.name, one), target.owner
    for (address, _), found in servers.items():
        found.sort(key=lambda one: one[:2])
        for (_, last, before), (first, _, after) in pairwise(found):
            if first <= last:
                yield before, after, endpoint_text(address, first)


def _both(first: Service, second: Service) -> str:
    if first == second:
        return f"the ports of {first.listener}"
    if first.pool == second.pool:
        return f"{first.listener} and {second.listener}"
    return f"{first.listener} of pool {first.pool} and {second.listener}"
