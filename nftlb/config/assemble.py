"""Makes the model from a document: merges defaults, validates each pool alone, then applies `rules`. No I/O.

Backends that are added and removed at run time are checked with the same rules.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from nftlb.errors import ConfigError, Problem
from nftlb.model.checks import CHECKS
from nftlb.model.constraints import BACKEND_NAME, POOL_NAME
from nftlb.model.kinds import Family, Forward, Protocol
from nftlb.model.pool import Backend, Config, NamedBackend, Pool

from . import rules
from .faults import Entries, ProblemCollector, YamlDocument, no_mapping, path_text
from .fields import options, without_none, write_value
from .pool_rules import Destination, ValidParts, ValidPool, uncounted_replies, valid_pool, without_datagram_flows
from .reading import Unfit, read_listener, read_text
from .written import Written, WrittenBackend, WrittenConfig, WrittenDefaults, WrittenPool

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from nftlb.model.kinds import Listener

    from .faults import Path
    from .source_lists import SourceLists


def assemble(document: YamlDocument, file: str, lists: SourceLists) -> Config:
    """Make the model from a document. `ConfigError` with all faults of the document and of the files of `lists`."""
    faults = ProblemCollector(document, file)
    root = document.root
    top = _validate(WrittenConfig, {**root, "defaults": {}, "pools": {}}, (), faults)
    defaults = _defaults(root.get("defaults", {}), faults)
    parts = list(_pools(root.get("pools"), defaults, lists, faults))
    for fault in rules.faults(parts, faults.where):
        faults.add(*fault)
    config = _config(top, tuple(part.pool for part in parts if isinstance(part, ValidPool)))
    for fault in (
        *rules.table_of_others(config),
        *rules.impossible_ttl(config),
        *rules.too_many_zones(config),
        *rules.too_many_marks(config),
    ):
        faults.add(*fault)
    faults.raise_any()
    return config


def _config(top: Written | None, pools: tuple[Pool, ...]) -> Config:
    if top is None:  # the top level is at fault, and the rules below look for further faults only
        return Config(pools=pools)
    settings = {key: value for key, value in vars(top).items() if key != "defaults"}
    return Config(**{**settings, "pools": pools})


def _validate(
    model: type[Written], data: Any, path: Path, faults: ProblemCollector, *, partial: bool = False
) -> Written | None:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        faults.add_errors(error, model, path, partial=partial)
    return None


def _defaults(data: Any, faults: ProblemCollector) -> dict[str, Any]:
    """Validate the defaults alone too: no pool may use a setting with a fault, so no pool would report it."""
    _validate(WrittenDefaults, data, ("defaults",), faults, partial=True)
    return {key: data[key] for key in data if key in WrittenDefaults.model_fields} if isinstance(data, dict) else {}


def _pools(data: Any, defaults: dict[str, Any], lists: SourceLists, faults: ProblemCollector) -> Iterator[ValidParts]:
    if not data:
        faults.add(("pools",), "no pools are configured; needed: at least one pool, with its name as the key")
    elif not isinstance(data, dict):
        faults.add(("pools",), no_mapping(data, named="the pools, each by its name"))
    else:
        for name, body in data.items():
            yield _part(name, body, defaults, lists, faults)


def _part(name: str, body: Any, defaults: dict[str, Any], lists: SourceLists, faults: ProblemCollector) -> ValidParts:
    path = ("pools", name)
    try:
        read_text(POOL_NAME, name)
    except Unfit as unfit:
        faults.add(path, str(unfit), key=True)
    data = merge_defaults(defaults, body) if isinstance(body, dict) else body
    pool = _validate(WrittenPool, data, path, faults)
    names_a_check = [_names_one_check(*check, faults) for check in _checks(data, path)]
    if pool is None or not all(names_a_check):
        return _valid_part(path, data)
    made = lists.fill(_without_useless_defaults(_pool(name, pool), body), faults)
    return valid_pool(made, pool.model_fields_set, body)


def _checks(data: Any, path: Path) -> Iterator[tuple[dict[str, Any], Path]]:
    if not isinstance(data, dict):
        return
    collectors = data.get("mirror")
    places = [(data, path)]
    for name, collector in collectors.items() if isinstance(collectors, dict) else ():
        if isinstance(collector, dict):
            places.append((collector, (*path, "mirror", name)))
    for holder, place in places:
        health = holder.get("health")
        for index, check in enumerate(health if isinstance(health, list) else [health]):
            if isinstance(check, dict):
                yield check, (*place, "health", index)


def _names_one_check(check: dict[str, Any], path: Path, faults: ProblemCollector) -> bool:
    kinds = [kind for kind in CHECKS if kind in check]
    if not kinds:
        faults.add(path, f"no check is named; needed: one of {', '.join(CHECKS)}")
    elif len(kinds) > 1:
        faults.add(
            path,
            f"{len(kinds)} checks are named: {', '.join(kinds)}; allowed: one check (for several checks, write a list)",
        )
    return len(kinds) == 1


def _valid_part(path: Path, data: Any) -> ValidParts:
    """The valid listeners and backends of a pool that has faults."""
    body = data if isinstance(data, dict) else {}
    listen = body.get("listen")
    backends = body.get("backends")
    listeners = []
    for index, text in enumerate(listen if isinstance(listen, list) else [listen]):
        try:
            found = read_listener(text)
        except Unfit:
            continue
        listeners += [((*path, "listen", index), listener) for listener in found.in_families(Family)]
    servers = []
    for name, written in backends.items() if isinstance(backends, dict) else ():
        try:
            backend = WrittenBackend.model_validate(written).value(name=name)
        except ValidationError:
            continue
        if isinstance(backend, NamedBackend):
            continue
        servers.append(Destination((*path, "backends", name), backend.address, backend.port, backend.device))
    return ValidParts(listeners=tuple(listeners), backends=tuple(servers))


def _pool(name: str, written: Written) -> Pool:
    settings = dict(vars(written))
    source = settings["source"]
    entries = [backend.value(name=key) for key, backend in settings["backends"].items()]
    collectors = tuple(collector.value(name=key) for key, collector in settings["mirror"].items())
    changed = {
        "listen": _served(settings["listen"], entries),
        "source": source.kind,
        "source_addresses": source.addresses,
        **_by_kind(entries),
        "mirror": collectors,
    }
    return Pool(name=name, **{**settings, **changed})


def _served(listeners: Iterable[Listener], entries: Collection[Backend | NamedBackend]) -> tuple[Listener, ...]:
    """The listeners, where one without a family of its own stands for the families of these backends.

    Without a backend, packets of a family would only be rejected. A host name may have addresses of both families.
    """
    served = {entry.family if isinstance(entry, Backend) else None for entry in entries}
    families = [of for of in Family if of in served or None in served]
    return tuple(one for listener in listeners for one in listener.in_families(families))


def _by_kind(entries: Iterable[Backend | NamedBackend]) -> dict[str, Any]:
    """The fields of a pool for backends with an address and for backends with a host name."""
    backends, named = [], []
    for entry in entries:
        if isinstance(entry, NamedBackend):
            named.append(entry)
        else:
            backends.append(entry)
    return {"backends": tuple(backends), "named": tuple(named)}


def _without_useless_defaults(pool: Pool, own: Collection[str]) -> Pool:
    """Leave out defaults for UDP that have no effect on the pool. `own` are the keys of the pool itself."""
    useless: dict[str, bool | None] = {}
    if without_datagram_flows(pool):
        useless |= {"session_timeout": None, "helper": None}
    if pool.has_reply_counts and uncounted_replies(pool):
        useless |= {"count_replies": False} | ({} if pool.silence is None else {"passive": None})
    if all(listener.protocol is not Protocol.UDP for listener in pool.listen):
        useless["outbound"] = False
    found = {key: value for key, value in useless.items() if key not in own and getattr(pool, key) != value}
    return replace(pool, **found) if found else pool  # type: ignore[arg-type]  # each value is the default of its key


# --- the settings of `defaults` ---------------------------------------------------------------------------------------

USELESS: dict[object, set[str]] = {
    Forward.NAT: {"encap", "ingress", "hairpin", "replies"},
    Forward.STATELESS: {"encap", "source", "passive", "session_timeout", "helper"},
    Forward.DSR: {
        *("source", "passive", "hairpin", "replies", "session_timeout", "helper"),
        *("count_replies", "outbound"),
    },
}


def merge_defaults(defaults: dict[str, Any], pool: dict[str, Any]) -> dict[str, Any]:
    """The settings of a pool, with the defaults that apply to this pool.

    Mappings are merged deeply. Any other value of a pool replaces the default. Two kinds of defaults are left out,
    because they can't be meant for the pool: options that `forward` of the pool does not have, and a check of another
    kind than the check of the pool.
    """
    forward = pool.get("forward", defaults.get("forward", Forward.NAT))
    useless = USELESS.get(forward, set()) if isinstance(forward, str) else set()
    if forward == Forward.STATELESS and not isinstance(defaults.get("passive"), bool):
        useless = useless - {"passive"}  # replies are counted there too
    general = {key: value for key, value in defaults.items() if key not in useless}
    merged = _deep(general, pool)
    if "health" in general:
        merged.pop("health")
        if "health" in pool:
            merged["health"] = _health(general["health"], pool["health"])
        elif not isinstance(general["health"], dict) or CHECKS.keys() & general["health"].keys():
            merged["health"] = general["health"]
    return merged


def _deep(general: dict[str, Any], special: dict[str, Any]) -> dict[str, Any]:
    merged = {**general, **special}
    for key in general.keys() & special.keys():
        if isinstance(general[key], dict) and isinstance(special[key], dict):
            merged[key] = _deep(general[key], special[key])
    return merged


def _health(general: Any, special: Any) -> Any:
    if not isinstance(general, dict):
        return special
    if isinstance(special, list):
        return [_check(general, check) for check in special]
    return _check(general, special)


def _check(general: dict[str, Any], special: Any) -> Any:
    if not isinstance(special, dict):
        return special
    named = CHECKS.keys() & special.keys()
    others = CHECKS.keys() - named if named else set()
    return _deep({key: value for key, value in general.items() if key not in others}, special)


# --- changes at run time ----------------------------------------------------------------------------------------------


def read_backend(pool: str, name: str, written: Any) -> Backend | NamedBackend:
    """Read a backend that is written as in a file. ConfigError with all faults."""
    path = ("pools", pool, "backends", name)
    faults = ProblemCollector(YamlDocument(Entries(), ()), "request")
    try:
        read_text(BACKEND_NAME, name)
    except Unfit as unfit:
        faults.add(path, str(unfit))
    try:
        backend: Backend | NamedBackend = WrittenBackend.model_validate(written).value(name=name)
    except ValidationError as error:
        faults.add_errors(error, WrittenBackend, path)
    faults.raise_any()
    return backend


def write_backend(backend: Backend | NamedBackend) -> dict[str, Any]:
    """Write a backend as a file has it, in values of JSON, without its name and its defaults."""
    given = {option: getattr(backend, option.name) for option in options(type(backend)) if option.name != "name"}
    return {
        option.name: write_value(without_none(option.type), value)
        for option, value in given.items()
        if value != option.default
    }


def amend(
    config: Config, pool: str, *, add: Iterable[Backend | NamedBackend] = (), remove: Collection[str] = ()
) -> Config:
    """Add backends at the end of a pool and remove others. ConfigError if the result breaks the rules of a file."""
    changed = config.pool(pool)
    if changed is not None:
        entries = (*(entry for entry in changed.entries if entry.name not in remove), *add)
        listen = tuple(dict.fromkeys(_served(changed.listen, entries)))
        changed = replace(changed, listen=listen, **_by_kind(entries))
    pools = tuple(changed if changed and former.name == pool else former for former in config.pools)
    amended = replace(config, pools=pools)
    parts = [valid_pool(part, (), ()) for part in pools]
    found = [
        *rules.faults(list(parts), path_text),
        *rules.too_many_zones(amended),
        *rules.too_many_marks(amended),
    ]
    if found:
        raise ConfigError([Problem("request", 0, 0, path_text(fault.path), fault.message) for fault in found])
    return amended
