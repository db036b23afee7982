"""Puts into a configuration what is not known beforehand: the answers of DNS, and the addresses of this host. No I/O.

Each address of a name becomes a backend; `host_listeners.py` does the same for listeners.

The backends of a name follow the backends with addresses. A backend is named after its name in the file and its
address, `ns-10.0.0.11`, so it is the same backend for as long as the address is in the answers. Answers come from
outside: an address that breaks the rules of a file is left out, with a note, and never makes a configuration invalid.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias

from nftlb.model.kinds import Family, endpoint_text
from nftlb.model.names import MOST_ADDRESSES
from nftlb.model.pool import Backend

from . import rules
from .faults import path_text
from .host_listeners import with_addresses
from .pool_rules import name as family_name
from .pool_rules import valid_pool
from .reading import Unfit, read_address

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping

    from nftlb.model.kinds import HostAddresses, IPAddress
    from nftlb.model.names import FoundServer, HostLookup, NameAnswers
    from nftlb.model.pool import Config, NamedBackend, Pool

    from .faults import Path
    from .pool_rules import RuleViolation

_LOWEST_PRIORITY = 255
_MOST_TRIALS = 64
"""The most trials to find out which addresses break a rule: each reads all pools, and the daemon waits."""
_TOO_MANY = "too many addresses of the answers break rules between pools"

Place: TypeAlias = tuple[str, str]
"""The names of a pool and of one of its backends."""
Made: TypeAlias = "dict[str, dict[str, list[Backend]]]"
"""The backends made of answers, by pool and name of the file."""
Owners: TypeAlias = "dict[Place, tuple[str, Backend]]"
"""The backends made of answers, with their name in the file."""
Notes: TypeAlias = "dict[tuple[str, str], list[str]]"
"""Why addresses are left out, by pool and name of the file."""


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


def resolve(
    declared: Config, answers: NameAnswers, addresses: HostAddresses | None = None, former: Config | None = None
) -> Resolution:
    """Replace the backends of all names by those of the answers. A name without an answer has no backend.

    Also replace the listeners for addresses of this host, which has these addresses. A pool that is equal to its pool
    in the `former` configuration is the same object.
    """
    config = with_addresses(declared, answers, addresses or {})
    if not any(pool.named for pool in config.pools):
        return Resolution(_with_former_pools(config, former))
    notes: Notes = defaultdict(list)
    made: Made = {pool.name: _found(pool, answers, notes) for pool in config.pools if pool.named}
    while refused := _refused(config, made, notes):
        made = _without(made, refused)
    for pool, names in made.items():
        for name, backends in names.items():
            names[name] = _first(backends, notes[pool, name])
    resolved = _with_former_pools(_resolved(config, made), former)
    return Resolution(resolved, {place: tuple(dict.fromkeys(said)) for place, said in notes.items()})


def _with_former_pools(config: Config, former: Config | None) -> Config:
    if former is None:
        return config
    return replace(config, pools=tuple(_former_if_equal(pool, former.pool(pool.name)) for pool in config.pools))


def _former_if_equal(pool: Pool, former: Pool | None) -> Pool:
    return former if former is not None and former == pool else pool


def backend_name(name: str, address: IPAddress, port: int | None = None) -> str:
    """The name of the backend of an address. `port` is that of an SRV record: hosts may have several servers."""
    text = str(address).replace(":", "-")
    return f"{name}-{text}" if port is None else f"{name}-{text}-{port}"


def _found(pool: Pool, answers: NameAnswers, notes: Notes) -> dict[str, list[Backend]]:
    """The backends of each name, without addresses that no backend may have."""
    made: dict[str, list[Backend]] = {}
    for named in pool.named:
        said = notes[pool.name, named.name]
        fit = _merged(server for server in answers.get(named.lookup, ()) if _is_fit(pool, server, said))
        made[named.name] = [
            _backend(named, server, weight) for server, weight in zip(fit, _weights(fit, named), strict=True)
        ]
    return made


def _merged(servers: Iterable[FoundServer]) -> list[FoundServer]:
    """Each address and port once: with its best rank, and all its weight in this rank.

    Several SRV records may name one server, also through several names of its host.
    """
    found: dict[tuple[IPAddress, int | None], FoundServer] = {}
    for server in servers:
        place = (server.address, server.port)
        other = found.get(place)
        if other is None or server.rank < other.rank:
            found[place] = server
        elif server.rank == other.rank and other.weight is not None:
            found[place] = replace(other, weight=other.weight + (server.weight or 0))
    return list(found.values())


def _first(backends: list[Backend], notes: list[str]) -> list[Backend]:
    """At most MOST_ADDRESSES backends, the first of each family: one family does not take the places of the other."""
    if len(backends) <= MOST_ADDRESSES:
        return backends
    notes.append(f"{len(backends)} addresses were found, and {MOST_ADDRESSES} of them are used")
    four = [backend for backend in backends if backend.family is Family.IP]
    six = [backend for backend in backends if backend.family is Family.IP6]
    places = max(MOST_ADDRESSES // 2, MOST_ADDRESSES - len(six))
    return [*four[:places], *six[: MOST_ADDRESSES - min(places, len(four))]]


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
        labels=named.labels,
    )


def _with(pool: Pool, made: Mapping[str, list[Backend]]) -> Pool:
    """The pool with these backends of its names."""
    if not pool.named:
        return pool
    before = {name for named in pool.named for name in named.backends}
    own = (backend for backend in pool.backends if backend.name not in before)
    named = tuple(replace(named, backends=tuple(backend.name for backend in made[named.name])) for named in pool.named)
    return replace(pool, backends=(*own, *(backend for found in made.values() for backend in found)), named=named)


def _resolved(config: Config, made: Made) -> Config:
    return replace(config, pools=tuple(_with(pool, made.get(pool.name, {})) for pool in config.pools))


def _without(made: Made, refused: Container[Place]) -> Made:
    return {
        pool: {
            name: [backend for backend in backends if (pool, backend.name) not in refused]
            for name, backends in names.items()
        }
        for pool, names in made.items()
    }


def _violations(config: Config) -> list[RuleViolation]:
    return list(rules.faults([valid_pool(pool, (), ()) for pool in config.pools], path_text))


def _refused(config: Config, made: Made, notes: Notes) -> set[Place]:
    """The backends that break a rule of files. Each gets a note. Empty: there is none left."""
    owners: Owners = {
        (pool, backend.name): (name, backend)
        for pool, names in made.items()
        for name, backends in names.items()
        for backend in backends
    }
    if not owners:
        return set()
    refused: dict[Place, str] = {}
    unclear: dict[Place, None] = {}
    resolved = _resolved(config, made)
    for path, message in _violations(resolved):
        suspects = _suspects(resolved, path, owners)
        if len(suspects) == 1:
            refused.setdefault(suspects[0], message)
        else:
            unclear |= dict.fromkeys(suspects or owners)
    if unclear and not refused:
        refused = _tried(config, made, list(unclear), owners)
    for place, message in refused.items():
        name, server = owners[place]
        where = str(server.address) if server.port is None else endpoint_text(server.address, server.port)
        notes[place[0], name].append(f"{where} is left out: {message.partition('; allowed')[0]}")
    return set(refused)


def _tried(config: Config, made: Made, unclear: list[Place], owners: Owners) -> dict[Place, str]:
    """Add backends until one breaks a rule, leave this one out, and go on. Return those left out, with the reasons.

    Backends are added together, and halved where a rule is broken: an address in fault costs the logarithm of the
    number of addresses. Names with few addresses are first: a huge answer can use all trials up.
    """
    groups: dict[tuple[str, str], list[Place]] = defaultdict(list)
    for place in unclear:
        groups[place[0], owners[place][0]].append(place)
    left_out: dict[Place, str] = {}
    outside = set(unclear)
    before = set(_violations(_resolved(config, _without(made, outside))))
    waiting = sorted(groups.values(), key=len, reverse=True)
    for _ in range(_MOST_TRIALS):
        if not waiting:
            break
        group = waiting.pop()
        outside.difference_update(group)
        found = _violations(_resolved(config, _without(made, outside)))
        new = next((violation.message for violation in found if violation not in before), None)
        if new is None:
            continue
        outside.update(group)
        if len(group) == 1:
            left_out[group[0]] = new
        else:
            half = len(group) // 2
            waiting += [group[half:], group[:half]]  # the first half is the next
    return left_out | {place: _TOO_MANY for group in waiting for place in group}


def _suspects(config: Config, path: Path, owners: Owners) -> list[Place]:
    """The backends of names that may cause a violation at a path: one, if it is certain.

    Where two servers exclude each other, the violation is at the later one, which may be a server of the file.
    """
    pool = config.pool(str(path[1]))
    if pool is None:
        return []
    if path[2] == "backends" and path[3:] and (pool.name, str(path[3])) in owners:
        return [(pool.name, str(path[3]))]
    addresses = _addresses_at(pool, path)
    if same := [place for place, (_, backend) in owners.items() if backend.address in addresses]:
        return same
    return [place for place in owners if place[0] == pool.name]


def _addresses_at(pool: Pool, path: Path) -> set[IPAddress]:
    """The addresses of the servers of a path within a pool: of one server, or of all."""
    sorry = {endpoint.address for endpoint in pool.fallback.sorry}
    if path[2] == "fallback":
        return sorry
    servers = {("mirror", collector.name): collector.address for collector in pool.mirror}
    servers |= {("backends", backend.name): backend.address for backend in pool.backends}
    place = (path[2], path[3]) if path[3:] else None
    return {servers[place]} if place in servers else {*servers.values(), *sorry}
