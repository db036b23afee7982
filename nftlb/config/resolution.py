"""Puts the answers of DNS into a configuration: each address of a name becomes a backend. No I/O.

The backends of a name follow the backends with addresses. A backend is named after its name in the file and its
address, `ns-10.0.0.11`, so it is the same backend for as long as the address is in the answers. Answers come from
outside: an address that breaks the rules of a file is left out, with a note, and never makes a configuration invalid.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias

from nftlb.model.kinds import endpoint_text
from nftlb.model.names import MOST_ADDRESSES
from nftlb.model.pool import Backend

from . import rules
from .faults import path_text
from .pool_rules import name as family_name
from .pool_rules import valid_pool
from .reading import Unfit, read_address

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from nftlb.model.kinds import Family, IPAddress
    from nftlb.model.names import FoundServer, HostLookup, NameAnswers
    from nftlb.model.pool import Collector, Config, NamedBackend, Pool

    from .faults import Path

_LOWEST_PRIORITY = 255


@dataclass(frozen=True)
class Resolution:
    """A configuration without open names. `notes`: why addresses were left out, by pool and name of the file."""

    config: Config
    notes: Mapping[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)


def lookups_of(config: Config) -> dict[HostLookup, frozenset[Family]]:
    """What to ask DNS for, with the families of the pools."""
    wanted: dict[HostLookup, frozenset[Family]] = {}
    for pool in config.pools:
        for named in pool.named:
            wanted[named.lookup] = wanted.get(named.lookup, frozenset()).union(pool.families)
    return wanted


def resolve(config: Config, answers: NameAnswers) -> Resolution:
    """Replace the backends of all names by those of the answers. A name without an answer has no backend."""
    if not any(pool.named for pool in config.pools):
        return Resolution(config)
    notes: dict[tuple[str, str], list[str]] = defaultdict(list)
    made = {pool.name: _found(pool, answers, notes) for pool in config.pools if pool.named}
    while True:
        resolved = replace(config, pools=tuple(_with(pool, made.get(pool.name, {})) for pool in config.pools))
        refused = _refused(resolved, made, notes)
        if not refused:
            return Resolution(resolved, {place: tuple(dict.fromkeys(lines)) for place, lines in notes.items()})
        made = {
            pool: {
                name: [backend for backend in backends if (pool, backend.name) not in refused]
                for name, backends in names.items()
            }
            for pool, names in made.items()
        }


def backend_name(name: str, address: IPAddress, port: int | None = None) -> str:
    """The name of the backend of an address. `port` is that of an SRV record: hosts may have several servers."""
    text = str(address).replace(":", "-")
    return f"{name}-{text}" if port is None else f"{name}-{text}-{port}"


def _found(pool: Pool, answers: NameAnswers, notes: dict[tuple[str, str], list[str]]) -> dict[str, list[Backend]]:
    """The backends of each name, without addresses that no backend may have."""
    made: dict[str, list[Backend]] = {}
    for named in pool.named:
        said = notes[pool.name, named.name]
        found = answers.get(named.lookup, ())
        fit = [server for server in found if _is_fit(pool, server, said)]
        if len(fit) > MOST_ADDRESSES:
            said.append(f"{len(fit)} addresses were found, and the first {MOST_ADDRESSES} are used")
        weights = _weights(fit[:MOST_ADDRESSES], named)
        made[named.name] = [
            _backend(named, server, weight) for server, weight in zip(fit[:MOST_ADDRESSES], weights, strict=True)
        ]
    return made


def _is_fit(pool: Pool, server: FoundServer, notes: list[str]) -> bool:
    """Whether a server may be a backend of the pool by itself; if not, add the reason to the notes."""
    if server.family not in pool.families:
        words = " and ".join(map(family_name, pool.families))
        notes.append(f"{server.address} is left out: the pool listens on {words} only")
        return False
    try:
        read_address(str(server.address))
    except Unfit as unfit:
        notes.append(f"{server.address} is left out: {str(unfit).partition(';')[0]}")
        return False
    return True


MOST_WEIGHT = 256


def _weights(servers: list[FoundServer], named: NamedBackend) -> list[int]:
    """The weights of the servers. Those of SRV records go to 65535, and are made smaller in proportion.

    A record of weight 0 gets the smallest weight: by RFC 2782 it is chosen seldom, and not never.
    """
    given = [server.weight for server in servers if server.weight is not None]
    most = max(given, default=0)
    if most <= MOST_WEIGHT:
        return [named.weight if server.weight is None else max(1, server.weight) for server in servers]
    return [max(1, round((server.weight or 0) * MOST_WEIGHT / most)) for server in servers]


def _backend(named: NamedBackend, server: FoundServer, weight: int) -> Backend:
    return Backend(
        name=backend_name(named.name, server.address, server.port if named.srv else None),
        address=server.address,
        port=server.port if named.srv else named.port,
        weight=weight,
        priority=min(named.priority + server.rank, _LOWEST_PRIORITY),
        admin=named.admin,
        device=named.device,
    )


def _with(pool: Pool, made: Mapping[str, list[Backend]]) -> Pool:
    """The pool with these backends of its names."""
    if not pool.named:
        return pool
    before = {name for named in pool.named for name in named.backends}
    own = (backend for backend in pool.backends if backend.name not in before)
    named = tuple(replace(named, backends=tuple(backend.name for backend in made[named.name])) for named in pool.named)
    return replace(pool, backends=(*own, *(backend for found in made.values() for backend in found)), named=named)


def _refused(
    config: Config, made: Mapping[str, Mapping[str, list[Backend]]], notes: dict[tuple[str, str], list[str]]
) -> set[tuple[str, str]]:
    """The backends, as pool and name, that break a rule of files. Each gets a note."""
    owners = {
        (pool, backend.name): (name, backend)
        for pool, names in made.items()
        for name, backends in names.items()
        for backend in backends
    }
    refused = set()
    for path, message in rules.faults([valid_pool(pool, (), ()) for pool in config.pools], path_text) if owners else ():
        for pool, backend in _at_fault(config, path, owners):
            name, server = owners[pool, backend]
            where = str(server.address) if server.port is None else endpoint_text(server.address, server.port)
            notes[pool, name].append(f"{where} is left out: {message.partition('; allowed')[0]}")
            refused.add((pool, backend))
    return refused


def _server_at(pool: Pool, path: Path) -> Backend | Collector | None:
    """The backend or the collector of a path within a pool."""
    if path[2] == "mirror":
        return next((collector for collector in pool.mirror if collector.name == path[3]), None)
    return pool.backend(str(path[3])) if path[2] == "backends" else None


Owners: TypeAlias = "dict[tuple[str, str], tuple[str, Backend]]"
"""The backends of names, by pool and name, with their name in the file."""


def _at_fault(config: Config, path: Path, owners: Owners) -> Iterable[tuple[str, str]]:
    """The backends of names that cause a violation at a path.

    Where two servers exclude each other, the violation is at the later one, which may be a server of the file.
    """
    pool = config.pool(str(path[1]))
    server = _server_at(pool, path) if pool is not None and path[3:] else None
    if pool is not None and server is not None:
        if (pool.name, server.name) in owners:
            return [(pool.name, server.name)]
        if same := [place for place, (_, backend) in owners.items() if backend.address == server.address]:
            return same
    return [place for place in owners if pool is not None and place[0] == pool.name] or list(owners)
