"""What was added and removed at run time, laid over what the file says. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nftlb.config import amend, read_backend
from nftlb.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nftlb.health import PoolMemory
    from nftlb.model import Config


def overlay(config: Config, memory: Mapping[str, PoolMemory]) -> tuple[Config, list[str]]:
    """Give the configuration with what is remembered, and what of that no longer fits, a line each."""
    misfits = []
    for name, remembered in memory.items():
        pool = config.pool(name)
        if pool is None:
            continue
        for backend, written in remembered.added.items():
            if pool.backend(backend) is not None:
                continue  # the file has it by now
            try:
                config = amend(config, name, add=[read_backend(name, backend, written)])
            except ConfigError as error:
                misfits.append(f"{name}/{backend}, added at run time, is left out: {error}")
        gone = [backend for backend in remembered.removed if pool.backend(backend) is not None]
        try:
            config = amend(config, name, remove=gone) if gone else config
        except ConfigError as error:
            misfits.append(f"{name}: what was removed at run time ({', '.join(gone)}) is back: {error}")
    return config, misfits
