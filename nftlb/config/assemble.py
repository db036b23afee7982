"""A document to the model: defaults merged, each pool validated on its own, then the rules that span places. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

from pydantic import BaseModel, ValidationError

from nftlb.config import rules
from nftlb.config.defaults import merge
from nftlb.config.faults import Faults
from nftlb.config.parts import Part, Server, Whole, whole
from nftlb.config.written import WrittenBackend, WrittenConfig, WrittenDefaults, WrittenHealth, WrittenPool
from nftlb.model.checks import CHECKS, AnyCheck
from nftlb.model.fields import POOL_NAME
from nftlb.model.pool import Api, Backend, Config, Health, Hooks, Marks, Pool, Zones
from nftlb.model.reading import Unfit, read_listener, show

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nftlb.config.document import Document
    from nftlb.config.places import Path

Model = TypeVar("Model", bound=BaseModel)


def assemble(document: Document, file: str) -> Config:
    """Make the model of a document, or raise `ConfigError` with all that is wrong with it."""
    faults = Faults(document, file)
    root = document.root
    top = _validate(WrittenConfig, {**root, "defaults": {}, "pools": {}}, (), faults)
    defaults = _defaults(root.get("defaults", {}), faults)
    parts = list(_pools(root.get("pools"), defaults, faults))
    for fault in rules.faults(parts, faults.where):
        faults.add(*fault)
    config = _config(top, tuple(part.pool for part in parts if isinstance(part, Whole)))
    for fault in (
        *rules.table_of_others(config),
        *rules.too_many_zones(config),
        *rules.too_many_marks(config),
    ):
        faults.add(*fault)
    faults.raise_any()
    return config


def _config(top: WrittenConfig | None, pools: tuple[Pool, ...]) -> Config:
    if top is None:  # at fault: what follows is only looked at for further faults
        return Config(pools=pools)
    return Config(
        table=top.table,
        zones=Zones(**vars(top.zones)),
        marks=Marks(**vars(top.marks)),
        state_dir=top.state_dir,
        api=Api(**vars(top.api)),
        pools=pools,
    )


def _validate(model: type[Model], data: Any, path: Path, faults: Faults, *, partial: bool = False) -> Model | None:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        faults.add_errors(error, model, path, partial=partial)
    return None


def _defaults(data: Any, faults: Faults) -> dict[str, Any]:
    """Judge the defaults on their own too: no pool may ever use what is wrong in them."""
    _validate(WrittenDefaults, data, ("defaults",), faults, partial=True)
    return {key: data[key] for key in data if key in WrittenDefaults.model_fields} if isinstance(data, dict) else {}


def _pools(data: Any, defaults: dict[str, Any], faults: Faults) -> Iterator[Part]:
    if not data:
        faults.add(("pools",), "no pools; needed: at least one, each by its name")
    elif not isinstance(data, dict):
        faults.add(("pools",), f"{show(data)} is not a mapping; allowed: a mapping: the pools, each by its name")
    else:
        for name, body in data.items():
            yield _part(name, body, defaults, faults)


def _part(name: str, body: Any, defaults: dict[str, Any], faults: Faults) -> Part:
    path = ("pools", name)
    try:
        POOL_NAME.read(name)
    except Unfit as unfit:
        faults.add(path, str(unfit), key=True)
    data = merge(defaults, body) if isinstance(body, dict) else body
    pool = _validate(WrittenPool, data, path, faults)
    names_a_check = [_names_one_check(*check, faults) for check in _checks(data, path)]
    if pool is None or not all(names_a_check):
        return _valid_part(path, data)
    return whole(_pool(name, pool), pool.model_fields_set, body)


def _checks(data: Any, path: Path) -> Iterator[tuple[dict[str, Any], Path]]:
    health = data.get("health") if isinstance(data, dict) else None
    for index, check in enumerate(health if isinstance(health, list) else [health]):
        if isinstance(check, dict):
            yield check, (*path, "health", index)


def _names_one_check(check: dict[str, Any], path: Path, faults: Faults) -> bool:
    kinds = [kind for kind in CHECKS if kind in check]
    if not kinds:
        faults.add(path, f"no check is named; needed: one of {', '.join(CHECKS)}")
    elif len(kinds) > 1:
        faults.add(path, f"{len(kinds)} checks are named: {', '.join(kinds)}; allowed: one (a list may hold several)")
    return len(kinds) == 1


def _valid_part(path: Path, data: Any) -> Part:
    """Take what is valid of a pool that is not."""
    body = data if isinstance(data, dict) else {}
    listen = body.get("listen")
    backends = body.get("backends")
    listeners = []
    for index, text in enumerate(listen if isinstance(listen, list) else [listen]):
        try:
            listeners.append(((*path, "listen", index), read_listener(text)))
        except Unfit:
            continue
    servers = []
    for name, written in backends.items() if isinstance(backends, dict) else ():
        try:
            backend = WrittenBackend.model_validate(written)
        except ValidationError:
            continue
        servers.append(Server((*path, "backends", name), backend.address, backend.port, backend.device))
    return Part(listeners=tuple(listeners), backends=tuple(servers))


def _pool(name: str, pool: WrittenPool) -> Pool:
    settings = vars(pool) | {
        "source": pool.source.kind,
        "source_addresses": pool.source.addresses,
        "backends": tuple(Backend(name=key, **vars(backend)) for key, backend in pool.backends.items()),
        "health": tuple(map(_health, pool.health)),
        "hooks": Hooks(**vars(pool.hooks)),
    }
    return Pool(name=name, **settings)


def _health(health: WrittenHealth) -> Health:
    options = dict(vars(health))
    checks = [check for check in map(options.pop, CHECKS) if check is not None]
    return Health(check=cast("AnyCheck", checks[0]), **options)
