"""The configuration and the health that the kernel should follow: the one place that knows what is wanted."""

from __future__ import annotations

from difflib import get_close_matches
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from nftlb.config import STDIN, lookups_of, parse_config, read_file
from nftlb.errors import ConfigError, Problem
from nftlb.file_systems import wait_for_answer
from nftlb.health import Memory, PoolMemory
from nftlb.health.absent import KEPT, kept_wishes
from nftlb.health.memory import remember_answers, remembered_answers
from nftlb.service import UnknownBackend, UnknownPool

from .events import now, wall
from .names import NameBook
from .reconciler import Wanted
from .runtime import overlay, remaining, with_added, with_removed
from .startup import Preparation

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from nftlb.config import Resolution
    from nftlb.health import Change, PoolHealth
    from nftlb.model import Backend, Config, HostAddresses, NameAnswers, NamedBackend
    from nftlb.swap.applier import UsedZones

    from .runtime import InitialState
    from .startup import StartupConfig

_LENGTH_DIFFERENCE, _COMPARED = 3, 50
"""A name that does not exist is compared with at most so many names, whose lengths differ by at most so much."""


class FileText(NamedTuple):
    """A configuration file as it was read."""

    base: Config
    text: bytes


class WantedState:
    """The configuration in use, and the state of its pools and backends.

    `base` is the configuration of the file, `text` its text, and `copy` the path of its last good copy while that copy
    is in use because the file is bad. `config` also has the backends added and removed at run time, and the backends
    that DNS gives for names. `declared` is `config` without the answers of DNS, which `names` has, and without the
    `addresses` of this host. `health` has the states that checks, the operator and this host lead to.
    """

    def __init__(self, file: str, source: StartupConfig, initial: InitialState, memory: Memory) -> None:
        self.file = file
        self.base = source.config
        self.text = source.text
        self.copy = source.copy
        self.declared = initial.declared
        self.config = initial.config
        self.health = initial.health
        self.addresses = initial.addresses
        self.names = NameBook(remembered_answers(memory), initial.resolution.notes)
        self._runtime = remaining(self.base, memory.pools)

    def wanted(self) -> Wanted:
        """What the kernel should have now."""
        moment = now()
        until = self.health.next_step(moment)
        return Wanted(self.config, self.health.membership(moment), until)

    def use(
        self, declared: Config, answers: NameAnswers, addresses: HostAddresses, resolution: Resolution
    ) -> Sequence[Change]:
        """Use another configuration. Return the changes of health."""
        self.health, changes = self.health.with_config(resolution.config, now())
        self.declared, self.config, self.addresses = declared, resolution.config, addresses
        self.names.use(answers, resolution.notes, lookups_of(declared))
        return changes

    # --- the file and the changes at run time ------------------------------------------------------------------------

    def read_new_file(self) -> FileText:
        """Read the file again. Raises ConfigError with all problems of the file. Runs in any thread."""
        text = _read(self.file)
        base = parse_config(text, self.file, read=_read)
        if base.table != self.base.table:
            message = f"{base.table} is another table than {self.base.table}, which a reload can't leave"
            raise ConfigError([Problem(self.file, 0, 0, "table", f"{message}; needed: a restart")])
        return FileText(base, text)

    def with_runtime(self, base: Config) -> tuple[Config, dict[str, PoolMemory], list[str]]:
        """Add the backends that were added at run time to a new file's configuration.

        Return the configuration, the changes at run time that still differ from the file, and a line for each added
        backend that does not fit.
        """
        added = {name: PoolMemory(added=memory.added) for name, memory in self._runtime.items()}
        runtime = remaining(base, added)
        config, misfits = overlay(base, runtime)
        return config, runtime, misfits

    def use_file(self, read: FileText, runtime: dict[str, PoolMemory]) -> None:
        """Record that the configuration in use comes from this text of the file."""
        self.base, self.text, self.copy = read.base, read.text, ""
        self._runtime = runtime

    def record_added(self, pool: str, backend: Backend | NamedBackend) -> None:
        """Record that a backend was added at run time."""
        before = self._runtime.get(pool, PoolMemory())
        self._runtime[pool] = with_added(before, backend, self.base.pool(pool))

    def record_removed(self, pool: str, backend: str) -> None:
        """Record that a backend was removed at run time."""
        self._runtime[pool] = with_removed(self._runtime.get(pool, PoolMemory()), backend, self.base.pool(pool))

    # --- what is saved -----------------------------------------------------------------------------------------------

    def memory(self) -> Memory:
        """The state to save."""
        pools = self.health.memory(now(), wall())
        for name, runtime in self._runtime.items():
            saved = pools.get(name, PoolMemory())
            pools[name] = PoolMemory(
                backends=saved.backends, added=runtime.added, serving=saved.serving, removed=runtime.removed
            )
        names = remember_answers(self.names.answers)
        return Memory(format=1, table=self.config.table, names=names, pools=pools)

    def good_file(self) -> tuple[str, bytes] | None:
        """The file and its text, to keep a copy once the kernel has accepted it."""
        return (self.file, self.text) if self.text else None

    def preparation(self, used: UsedZones) -> Preparation | None:
        """What prepares the next start; None if the configuration does not come from a file. `used`: see Applier."""
        if not self.text or self.file == STDIN:
            return None
        return Preparation(self.file, self.base, self.text, used)

    # --- pools and backends ------------------------------------------------------------------------------------------

    def find(self, pool: str, backend: str | None = None, *, absent: bool = False) -> PoolHealth:
        """The pool of this name. Raises UnknownPool, or UnknownBackend if the pool has no backend of this name.

        `absent`: the backend may also be an absent address of a name, if what the operator set of the address is kept.
        """
        found = self.health.pools.get(pool)
        if found is None:
            raise UnknownPool(f"there is no pool {pool}{_similar(pool, self.health.pools)}")
        if backend is not None and backend not in found.backends:
            for named in found.pool.named:
                if named.name == backend:
                    its = f"its backends are {', '.join(named.backends)}" if named.backends else "it has no backend now"
                    raise UnknownBackend(f"{backend} is the name of {named.lookup} in {pool}; {its}")
            if wish := kept_wishes(found.absent, now()).get(backend):
                if absent:
                    return found
                kept = f"what the operator set is kept until it returns, for at most {KEPT / 3600:g} h: {wish}"
                raise UnknownBackend(f"{backend} is not in the answers of DNS for {pool} now; {kept}")
            raise UnknownBackend(f"{pool} has no backend {backend}{_similar(backend, found.backends)}")
        return found

    def added(self, pool: PoolHealth) -> set[str]:
        """The names of the backends of a pool that were added at run time."""
        file = self.base.pool(pool.pool.name)
        if file is None:
            return set(pool.backends)
        known = {entry.name for entry in file.entries}
        known |= {backend for named in pool.pool.named if named.name in known for backend in named.backends}
        return pool.backends.keys() - known


def _read(file: str) -> bytes:
    """Read a file of the configuration. Raises ConfigError, also if its file system does not answer."""
    try:
        return wait_for_answer(file, partial(read_file, file))
    except OSError as error:  # no answer, or no further thread to ask
        raise ConfigError([Problem(file, 0, 0, "", f"{error.strerror}; needed: a readable file")]) from None


def _similar(name: str, known: Iterable[str]) -> str:
    # Any client may send any name: a comparison with ten thousand names would take half a second.
    alike = (
        candidate
        for candidate in known
        if candidate[:1] == name[:1] and abs(len(candidate) - len(name)) <= _LENGTH_DIFFERENCE
    )
    near = get_close_matches(name, islice(alike, _COMPARED), n=1)
    return f"; did you mean {near[0]}?" if near else ""
