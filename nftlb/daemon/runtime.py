"""What the daemon puts on top of the file: changes of backends at run time, answers of DNS and saved health. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nftlb.config import Resolution, amend, read_backend, resolve, write_backend
from nftlb.errors import ConfigError
from nftlb.health import PoolMemory, PoolStates
from nftlb.health.memory import remembered_answers

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from nftlb.health import Memory
    from nftlb.model import Backend, Config, HostAddresses, NamedBackend, Pool


@dataclass(frozen=True)
class InitialState:
    """What a start begins with.

    `declared` is the configuration of the file with the changes at run time, and `resolution` the same with the last
    answers of DNS and the `addresses` of this host. `misfits` has a line for each backend added at run time that does
    not fit the file.
    """

    declared: Config
    resolution: Resolution
    health: PoolStates
    addresses: HostAddresses
    misfits: tuple[str, ...] = ()

    @property
    def config(self) -> Config:
        return self.resolution.config


def remaining(config: Config, memory: Mapping[str, PoolMemory]) -> dict[str, PoolMemory]:
    """The changes at run time that still differ from the file, without the saved health.

    An added backend that is also in the file now belongs to the file: when it leaves the file, it is gone.
    """
    found = {}
    for name, old in memory.items():
        pool = config.pool(name)
        if pool is not None:
            removed = tuple(backend for backend in old.removed if pool.entry(backend) is not None)
            added = {
                backend: text
                for backend, text in old.added.items()
                if backend in removed or pool.entry(backend) is None
            }
            if added or removed:
                found[name] = PoolMemory(added=added, removed=removed)
    return found


def initial_state(
    config: Config,
    memory: Memory,
    now: float,
    addresses: HostAddresses | None = None,
    at: datetime | None = None,
) -> InitialState:
    """Return what a start with this file and this saved state begins with, on a host that has these addresses.

    `at`: the time of day, as for `PoolStates.begin`.
    """
    declared, misfits = overlay(config, remaining(config, memory.pools))
    resolution = resolve(declared, remembered_answers(memory), addresses)
    health = PoolStates.begin(resolution.config, memory.pools, now, at)
    return InitialState(declared, resolution, health, addresses or {}, tuple(misfits))


def overlay(config: Config, memory: Mapping[str, PoolMemory]) -> tuple[Config, list[str]]:
    """Return the configuration with the `remaining` changes, and a line for each change that does not fit."""
    misfits = []
    for name, remembered in memory.items():
        try:
            # All at once: an added backend may have the address of a removed backend.
            added = [read_backend(name, backend, written) for backend, written in remembered.added.items()]
            config = amend(config, name, add=added, remove=[*remembered.removed, *remembered.added])
            continue
        except ConfigError:
            pass  # then one by one, and what does not fit is reported
        for backend, written in remembered.added.items():
            try:
                # A backend of the file was removed before another backend with its name was added.
                config = amend(config, name, add=[read_backend(name, backend, written)], remove=[backend])
            except ConfigError as error:
                misfits.append(f"{name}/{backend}, added at run time, is left out: {error}")
        gone = [backend for backend in remembered.removed if backend not in remembered.added]
        try:
            config = amend(config, name, remove=gone) if gone else config
        except ConfigError as error:
            misfits.append(f"{name}: backends removed at run time ({', '.join(gone)}) are back: {error}")
    return config, misfits


def with_added(memory: PoolMemory, backend: Backend | NamedBackend, file: Pool | None) -> PoolMemory:
    """The changes of a pool after a backend was added; `file` is the pool in the file."""
    name = backend.name
    same = file is not None and file.entry(name) == backend
    added = memory.added if same else {**memory.added, name: write_backend(backend)}
    return PoolMemory(
        added=added, removed=tuple(backend for backend in memory.removed if backend != name or name in added)
    )


def with_removed(memory: PoolMemory, name: str, file: Pool | None) -> PoolMemory:
    """The changes of a pool after a backend was removed; `file` is the pool in the file."""
    added = {backend: text for backend, text in memory.added.items() if backend != name}
    in_file = file is not None and file.entry(name) is not None
    removed = dict.fromkeys((*memory.removed, name)) if in_file else memory.removed
    return PoolMemory(added=added, removed=tuple(removed))
