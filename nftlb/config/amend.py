"""A configuration with what was added and removed at run time, held to the same rules as a file. No I/O."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from nftlb.config import rules
from nftlb.config.document import Document
from nftlb.config.faults import Faults
from nftlb.config.parts import whole
from nftlb.config.places import Entries, path_text
from nftlb.config.written import WrittenBackend
from nftlb.errors import ConfigError, Problem
from nftlb.model.fields import BACKEND_NAME
from nftlb.model.pool import Backend
from nftlb.model.reading import Unfit

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from nftlb.model.pool import Config, Pool


def read_backend(pool: str, name: str, written: Any, source: str = "request") -> Backend:
    """Read a backend that is written as in a file; ConfigError tells all that is wrong, at its path in `source`."""
    path = ("pools", pool, "backends", name)
    faults = Faults(Document(Entries(), ()), source)
    try:
        BACKEND_NAME.read(name)
    except Unfit as unfit:
        faults.add(path, str(unfit))
    try:
        backend = WrittenBackend.model_validate(written)
    except ValidationError as error:
        faults.add_errors(error, WrittenBackend, path)
    faults.raise_any()
    return Backend(name=name, **vars(backend))


def amend(
    config: Config, pool: str, *, add: Iterable[Backend] = (), remove: Collection[str] = (), source: str = "request"
) -> Config:
    """Add backends to a pool, at its end, and remove others; ConfigError if the rules forbid what comes of it."""
    pools = tuple(_amended(one, tuple(add), remove) if one.name == pool else one for one in config.pools)
    amended = replace(config, pools=pools)
    parts = [whole(one, (), ()) for one in pools]
    found = [
        *rules.faults(list(parts), path_text),
        *rules.too_many_zones(amended),
        *rules.too_many_marks(amended),
    ]
    if found:
        raise ConfigError([Problem(source, 0, 0, path_text(fault.path), fault.message) for fault in found])
    return amended


def _amended(pool: Pool, add: tuple[Backend, ...], remove: Collection[str]) -> Pool:
    kept = tuple(one for one in pool.backends if one.name not in remove)
    return replace(pool, backends=kept + add)
