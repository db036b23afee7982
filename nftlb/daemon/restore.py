"""The daemon's first load without the daemon: at boot, before there is a network, so that the first packet finds it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nftlb.config import load, read_source
from nftlb.errors import ConfigError, NftlbError
from nftlb.health import Memory

from .clock import now
from .runtime import begin
from .source import copy_of
from .store import Store

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from nftlb.apply import Applied, Applier

    Opens = Callable[[str], AbstractContextManager[Applier]]
    """Of the name of a table: what brings configurations into the kernel."""


@dataclass(frozen=True)
class Restored:
    """What was loaded from which file, and what is to be said of it."""

    file: str
    applied: Applied
    remarks: tuple[str, ...]


def restore(file: str, directory: str, applier: Opens) -> Restored | None:
    """Load a configuration file with what is remembered; where it is bad by now, or refused, its last good copy.

    The copy is looked for in the `state_dir` that the file names, if that much of it can be read, and in `directory`.
    None: there is no such file, and so nothing to restore. Raises what is wrong with the file when neither can be
    loaded.
    """
    if not Path(file).exists():
        return None
    try:
        return _load(file, applier)
    except NftlbError as error:
        copy = copy_of(file, _text(file), directory)
        if copy is None:
            raise
        try:
            restored = _load(str(copy), applier)
        except NftlbError:
            raise error from None
        said = (f"{file} can't be used, its last good copy is:", *str(error).splitlines())
        return Restored(restored.file, restored.applied, (*said, *restored.remarks))


def _text(file: str) -> bytes:
    with suppress(ConfigError):
        return read_source(file)
    return b""


def _load(file: str, applier: Opens) -> Restored:
    base = load(file)
    remarks = []
    try:
        memory = Store(base.state_dir, base.table).look()
    except (OSError, ValueError) as error:
        memory = None
        remarks.append(f"nothing is remembered: {error}")
    config, fleet, misfits = begin(base, (memory or Memory(format=1)).pools, now())
    with applier(config.table) as to_kernel:
        applied = to_kernel.load(config, fleet.membership(now()), lenient=True)
    return Restored(file, applied, (*remarks, *misfits, *applied.lacking))
