"""What a start of the daemon uses: the configuration file or its last good copy, and the prepared rules.

A start uses the copy if the file is bad, missing or unreadable. `nftlb restore` makes the first load without the
daemon, at boot and before the network, so that the first packet meets the rules. If the kernel has no rules,
`nftlb/preload.sh` loads the prepared rules, which this module writes.
"""

from __future__ import annotations

import logging
import re
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from nftlb.compiler import Allocation, Compiled
from nftlb.compiler.allocation import ForeignNumbers
from nftlb.compiler.reply_form import unknown_host
from nftlb.config import STDIN, load, lookups_of, parse_config, read_file
from nftlb.errors import ConfigError, KernelError, NftlbError
from nftlb.health import Memory
from nftlb.health.memory import remembered_answers, write_memory
from nftlb.kernel import LibNftables
from nftlb.kernel.flow_options import has_option, without_missing_options
from nftlb.kernel.nflog import can_log
from nftlb.kernel.surroundings import addresses_for
from nftlb.model import Forward
from nftlb.model.pool import STATE_DIR
from nftlb.ruleset import Ruleset
from nftlb.swap.applier import UsedZones, without_hints
from nftlb.swap.plan import make

from .runtime import initial_state
from .store import Store, kept, last_good

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from nftlb.model import Config, SourceEntry
    from nftlb.swap.applier import Applied, Applier

    Opens = Callable[[str], AbstractContextManager[Applier]]
    """Opens the Applier for a table name."""

_log = logging.getLogger(__name__)

# For a file that can't be parsed: `state_dir` at the beginning of a line, or in a mapping in braces.
_STATE_DIR = re.compile(rb"""(?m)(?:^|[{,])[ \t]*["']?state_dir["']?[ \t]*:[ \t]*["']?(/[^"'#,}\r\n]*)""")


@dataclass(frozen=True)
class StartupConfig:
    """A configuration and its text. If the file is bad, `copy` is the path of its copy, and `problems` is not empty."""

    config: Config
    text: bytes
    copy: str = ""
    problems: tuple[str, ...] = ()


def first_source(file: str, directory: str | None) -> StartupConfig:
    """Read a configuration file, or its last good copy if the file is bad.

    The copy is searched in the `state_dir` of the file, if that part of the file can be read, and in `directory`; None:
    don't search. Raises ConfigError with the problems of the file if there is no good copy.
    """
    text = b""
    try:
        text = read_file(file)
        return StartupConfig(parse_config(text, file), text)
    except ConfigError as error:
        problems = tuple(str(error).splitlines())
        copy = None if directory is None or file == STDIN else copy_of(file, text, directory)
        if copy is None:
            raise
        with suppress(ConfigError, OSError):
            text = kept(copy)
            return StartupConfig(parse_config(text, str(copy), lenient=True), text, str(copy), problems)
        raise


def copy_of(file: str, text: bytes, directory: str) -> Path | None:
    """The path of the last good copy of a file with this text; None if there is none."""
    copies = (last_good(place, file) for place in (*_named(text), directory))
    return next((copy for copy in copies if copy is not None), None)


def _named(text: bytes) -> Iterator[str]:
    if found := _STATE_DIR.search(text):
        yield found[1].decode(errors="surrogateescape").strip()


def apis_of(file: str) -> list[str]:
    """The addresses at which the API of a daemon with this file may listen, from the file and its last good copy."""
    text = b""
    with suppress(ConfigError):
        text = read_file(file)
    texts = [text]
    if (copy := copy_of(file, text, STATE_DIR)) is not None:
        with suppress(OSError):
            texts.append(kept(copy))
    found: dict[str, None] = {}
    for former in texts:
        with suppress(ConfigError):
            found[str(parse_config(former, file, lenient=True).api.listen)] = None
    return list(found)


# --- nftlb restore ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Restored:
    """The file that was loaded, the changes, and remarks for the operator."""

    file: str
    applied: Applied
    remarks: tuple[str, ...]


def restore_rules(file: str, directory: str, applier: Opens) -> Restored | None:
    """Load a configuration file with its saved state; if the file is bad or refused, its last good copy.

    The copy is searched in the `state_dir` of the file, if that part of the file can be read, and in `directory`.
    Returns None if there is no file. Raises NftlbError with the problems of the file if neither can be loaded.
    """
    if not Path(file).exists():
        return None
    try:
        return _load_saved(file, applier)
    except NftlbError as error:
        copy = copy_of(file, _text(file), directory)
        if copy is None:
            raise
        try:
            restored = _load_saved(str(copy), applier, lenient=True)
        except NftlbError:
            raise error from None
        said = (f"{file} can't be used, its last good copy is:", *str(error).splitlines())
        return Restored(restored.file, restored.applied, (*said, *restored.remarks))


def _text(file: str) -> bytes:
    with suppress(ConfigError):
        return read_file(file)
    return b""


def _load_saved(file: str, applier: Opens, *, lenient: bool = False) -> Restored:
    base = load(file, lenient=lenient)
    remarks = []
    try:
        memory = Store(base.state_dir, base.table).look()
    except (OSError, ValueError) as error:
        memory = None
        remarks.append(f"nothing is remembered: {error}")
    initial = initial_state(base, memory or Memory(format=1), monotonic(), addresses_for(base))
    with applier(base.table) as to_kernel:
        applied = to_kernel.load(initial.config, initial.health.membership(monotonic()), lenient=True)
    shortfalls = map(str, (*applied.lacking, *applied.slower))
    return Restored(file, applied, (*remarks, *initial.misfits, *shortfalls, *applied.reduced))


# --- the prepared rules -----------------------------------------------------------------------------------------------

MOST_BACKENDS = 1000
"""A larger configuration is not prepared: each change of a backend's health would write its whole text again, and the
kernel takes most of the time of its start."""
MOST_RANGES = 1000
"""The most ranges of addresses in the lists of guards, for the same reason."""
_CODE = ("", "compiler", "config", "daemon", "health", "kernel", "model", "ruleset", "swap")
"""The folders with the code that decides what is loaded."""
_ZONES = "# conntrack zones {} to {}\n"


class Unprepared(Exception):  # noqa: N818 - no error: the start takes longer
    """The reason why a start can't be prepared."""


@dataclass(frozen=True)
class Preparation:
    """The sources of prepared rules: the configuration file, its model and text, and the zones used until now."""

    file: str
    base: Config
    source: bytes
    used: UsedZones = field(default_factory=UsedZones)

    def rules(self, memory: Memory, store: Store) -> tuple[bytes, Mapping[str, str]]:
        """Return the rules for the next start with this saved state, and the SHA-256 of each file that they depend on.

        Raises Unprepared.
        """
        made_of = {str(Path(self.file).absolute()): self.source, str(store): write_memory(memory).encode()}
        sums = {path: sha256(content).hexdigest() for path, content in made_of.items()}
        lists = {entry.path: entry.digest for entry in _source_lists(self.base) if entry.path}
        return prepare(self.base, memory, self.used), {**sums, **lists, **code()}

    def write(self, memory: Memory, store: Store) -> None:
        """Write the rules to the state directory, or delete older rules if there can be none. Raises OSError."""
        try:
            rules, sums = self.rules(memory, store)
        except Unprepared as reason:
            _log.debug("the next start is not prepared: %s", reason)
            store.unprepare()
        else:
            store.prepare(self.file, rules, sums)


def prepare(base: Config, memory: Memory, used: UsedZones | None = None) -> bytes:
    """The transaction of a start with this configuration and saved state, for a kernel without tables of nftlb.

    The kernel keeps conntrack entries longer than tables, and a shell can't delete entries. So backends get zones that
    were not used until now and have no entries. The flows of a pool keep their zone, and so their connections. Replies
    are rewritten in postrouting, because the settings of interfaces may be others at the next start.

    Raises Unprepared if the rules depend on interfaces, routes or routing rules, if the configuration is too large, or
    if the saved state does not fit the configuration.
    """
    _refuse(base)
    initial = initial_state(base, memory, 0.0)
    if initial.misfits:
        raise Unprepared(f"the saved state does not fit the configuration: {initial.misfits[0]}")
    config = initial.config
    if unknown := lookups_of(config).keys() - remembered_answers(memory).keys():
        raise Unprepared(f"no answer of DNS is saved for {min(map(str, unknown))}")
    _refuse(config)
    if not can_log():
        config = without_hints(config)
    if any(pool.helper or pool.session_timeout for pool in config.pools):
        try:
            with LibNftables() as kernel:
                config = without_missing_options(config, lambda name: has_option(kernel, name))
        except KernelError as error:
            raise Unprepared(f"the options of flows can't be found out: {error}") from error
    compiled, zones = _compiled(config, used or UsedZones())
    text = make(Ruleset(config.table, {}), compiled.ruleset(initial.health.membership(0.0))).text
    head = _ZONES.format(min(zones), max(zones)) if zones else ""
    return f"{head}{text}\n".encode()


def prepared_zones(text: bytes) -> UsedZones:
    """The zones of the backends in prepared rules. They count as used, because the rules may have been loaded."""
    words = text.partition(b"\n")[0].split()
    with suppress(ValueError, IndexError):
        if text.startswith(_ZONES.partition("{")[0].encode()):
            return UsedZones(zones=frozenset(range(int(words[3]), int(words[5]) + 1)))
    return UsedZones()


@cache
def code() -> Mapping[str, str]:
    """The SHA-256 of nftlb's own files, by path. Computed once, so that files replaced later don't count."""
    root = Path(__file__).parents[1]
    files = sorted(path for part in _CODE for path in (root / part).glob("*.py"))
    try:
        return {str(path): sha256(path.read_bytes()).hexdigest() for path in files}
    except OSError as error:
        raise Unprepared(f"nftlb's own files can't be read: {error}") from error


def _refuse(config: Config) -> None:
    if any(pool.ingress or pool.forward is Forward.DSR for pool in config.pools):
        raise Unprepared("a pool has `ingress` or `forward: dsr`: its rules depend on interfaces and routes")
    if config.listens_on_host:
        raise Unprepared("a listener stands for addresses of this host, which may be others at the next start")
    if any(entry.path and not entry.digest for entry in _source_lists(config)):
        raise Unprepared("a list of sources can't be read")
    if sum(len(entry.ip) + len(entry.ip6) for entry in _source_lists(config)) > MOST_RANGES:
        raise Unprepared(f"the lists of sources have more than {MOST_RANGES} ranges")
    if sum(len(pool.backends) for pool in config.pools) > MOST_BACKENDS:
        raise Unprepared(f"there are more than {MOST_BACKENDS} backends")


def _source_lists(config: Config) -> Iterator[SourceEntry]:
    for pool in config.pools:
        if pool.guard is not None:
            yield from (*pool.guard.allow, *pool.guard.deny)


def _compiled(config: Config, used: UsedZones) -> tuple[Compiled, frozenset[int]]:
    """Compile with unused zones. Return these zones too.

    Zones above the highest used zone come first, so that it takes long until a zone is used again.
    """
    first, flows = config.zones.first, frozenset(used.flows.values())
    below = frozenset(range(first, max(used.zones, default=first - 1) + 1))
    for taken in (below, used.zones):
        with suppress(NftlbError):
            others = ForeignNumbers(zones=taken - flows)
            compiled = Compiled(config, Allocation(zones=used.flows), taken=others, obstacles=unknown_host(config))
            zones = {zone for owner, zone in compiled.allocation.zones.items() if used.flows.get(owner) != zone}
            if not zones & used.zones:
                return compiled, frozenset(zones)
    raise Unprepared("too few conntrack zones are left that were not used since the daemon started")
