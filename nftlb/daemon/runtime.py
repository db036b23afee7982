"""What is remembered, laid over what the file says: what was added and removed at run time, who was up. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nftlb.config import amend, read_backend
from nftlb.errors import ConfigError
from nftlb.health import Fleet, PoolMemory

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nftlb.model import Backend, Config, Pool


def remaining(config: Config, memory: Mapping[str, PoolMemory]) -> dict[str, PoolMemory]:
    """What of it still says something beside the file, without what is remembered of health.

    A backend that was added, and that the file has by now, is the file's: when it leaves the file, it is gone.
    """
    found = {}
    for name, old in memory.items():
        pool = config.pool(name)
        if pool is not None:
            removed = tuple(one for one in old.removed if pool.backend(one) is not None)
            added = {one: text for one, text in old.added.items() if one in removed or pool.backend(one) is None}
            if added or removed:
                found[name] = PoolMemory(added=added, removed=removed)
    return found


def begin(config: Config, memory: Mapping[str, PoolMemory], now: float) -> tuple[Config, Fleet, list[str]]:
    """Give what the first load is of: the configuration, who is in rotation, and what does not fit, a line each."""
    config, misfits = overlay(config, remaining(config, memory))
    return config, Fleet.begin(config, memory, now), misfits


def overlay(config: Config, memory: Mapping[str, PoolMemory]) -> tuple[Config, list[str]]:
    """Give the configuration with what is `remaining`, and what of that does not fit, a line each."""
    misfits = []
    for name, remembered in memory.items():
        try:
            # All at once: one that was added may have the address of one that was removed.
            added = [read_backend(name, backend, written) for backend, written in remembered.added.items()]
            config = amend(config, name, add=added, remove=[*remembered.removed, *remembered.added])
            continue
        except ConfigError:
            pass  # then as much of it as fits, and what does not is told
        for backend, written in remembered.added.items():
            try:
                # One that the file has was removed before another was added by its name.
                config = amend(config, name, add=[read_backend(name, backend, written)], remove=[backend])
            except ConfigError as error:
                misfits.append(f"{name}/{backend}, added at run time, is left out: {error}")
        gone = [one for one in remembered.removed if one not in remembered.added]
        try:
            config = amend(config, name, remove=gone) if gone else config
        except ConfigError as error:
            misfits.append(f"{name}: what was removed at run time ({', '.join(gone)}) is back: {error}")
    return config, misfits


def with_added(memory: PoolMemory, backend: Backend, written: Any, file: Pool | None) -> PoolMemory:
    """What is remembered of a pool when a backend was added to it; `file` is the pool as the file has it."""
    name = backend.name
    added = memory.added if file is not None and file.backend(name) == backend else {**memory.added, name: written}
    return PoolMemory(added=added, removed=tuple(one for one in memory.removed if one != name or name in added))


def with_removed(memory: PoolMemory, name: str, file: Pool | None) -> PoolMemory:
    """What is remembered of it when a backend was removed."""
    added = {one: text for one, text in memory.added.items() if one != name}
    in_file = file is not None and file.backend(name) is not None
    removed = dict.fromkeys((*memory.removed, name)) if in_file else memory.removed
    return PoolMemory(added=added, removed=tuple(removed))
