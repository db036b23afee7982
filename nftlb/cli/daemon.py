"""Access to the daemon for commands: its address, the token, and the names of its pools and backends."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from nftlb.client import TIMEOUT, DaemonClient, default_address, read_daemon_address
from nftlb.errors import ConfigError, NftlbError, SystemFault
from nftlb.files import exposure

from .arguments import no_such

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from nftlb.client import Address, BackendView, CollectorView, NameView, PoolView, StatusView, Unknown

URL = "NFTLB_URL"
TOKEN_FILE = "NFTLB_TOKEN_FILE"  # noqa: S105 - the name of a variable
EVERY = "*"
"""`nftlb.model.EVERY_BACKEND`, without the import."""
_MOST_BYTES = 64 << 10  # the daemon reads no larger token file either
_COMPLETION_TIMEOUT = 0.5
_CHANGE_TIMEOUT = 60.0


class DaemonAccess:
    """The daemon that the options or NFTLB_URL name; by default the daemon of this network namespace."""

    def __init__(self, url: str | None, socket: str | None, token_file: str | None) -> None:
        if url is not None and socket is not None:
            raise click.UsageError("--url and --socket were both given; allowed: one of them.")
        # An option wins over the environment, which may be set for other commands.
        self._where = f"unix:{os.path.abspath(socket)}" if socket is not None else url or os.environ.get(URL)  # noqa: PTH100 - resolve() would follow links
        self._token_file = token_file

    @property
    def named(self) -> bool:
        """Whether an option or NFTLB_URL names the daemon."""
        return bool(self._where)

    def address(self, table: str = "", *, changing: bool = False) -> Address:
        """The address of the daemon; `table`: of the daemon that writes this table, if no daemon is named.

        `changing`: for a change, as in `default_address`. ConfigError if the named address is not valid, Unreachable if
        it is not clear which daemon is meant.
        """
        return read_daemon_address(self._where) if self._where else default_address(table, changing=changing)

    def reader(self, timeout: float = TIMEOUT, table: str = "") -> DaemonClient:
        """A client that only reads; the token file is not read. `table` and the errors are those of `address`."""
        return DaemonClient(self.address(table), timeout=timeout)

    def writer(self) -> DaemonClient:
        """A client that changes something, with the token. Errors of `address`; SystemFault without a usable token.

        Unreachable also if no option names the daemon, and only a daemon of another table runs here.
        """
        address = self.address(changing=True)
        return DaemonClient(address, _token(self._token_file) if self._token_file else None, _CHANGE_TIMEOUT)

    def pools(self) -> Sequence[PoolView]:
        """All pools, for completion; none if the daemon does not answer within half a second."""
        with suppress(NftlbError):
            return self.reader(_COMPLETION_TIMEOUT).status().pools
        return ()


def _token(path: str) -> str:
    try:
        with Path(path).open("rb") as file:  # may be a pipe: --token-file <(pass nftlb)
            exposed = exposure(os.fstat(file.fileno()))
            lines = [] if exposed else file.read(_MOST_BYTES).decode("ascii").splitlines()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not ASCII text"
        raise SystemFault(f"{path}: {reason}; name a file with a token by --token-file or {TOKEN_FILE}") from error
    if exposed:
        raise SystemFault(
            f"{path}: not used: {exposed}; fix: chmod 600 {path}, and replace the token if others may have read it"
        )
    words = next((line.split() for line in lines if line.strip() and not line.lstrip().startswith("#")), [])
    token = words[-1] if len(words) in {1, 2} else ""  # TOKEN, or NAME TOKEN
    if not token.isprintable() or not token:
        raise SystemFault(f"{path}: no token found; put a token on a separate line")
    return token


def daemon_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that name the daemon to a command, which receives them as its argument `daemon`."""

    @click.option("--url", metavar="URL", help=f"The daemon's address: http://HOST:PORT or unix:/PATH. [{URL}]")
    @click.option("--socket", metavar="PATH", type=click.Path(), help="The daemon's Unix socket.")
    @click.option(
        "--token-file",
        metavar="FILE",
        type=click.Path(),
        envvar=TOKEN_FILE,
        help=f"A file with the token that changes need. [{TOKEN_FILE}]",
    )
    @wraps(command)
    def with_daemon(url: str | None, socket: str | None, token_file: str | None, **rest: Any) -> Any:
        return command(daemon=DaemonAccess(url, socket, token_file), **rest)

    return with_daemon


def _pools(ctx: click.Context) -> Sequence[PoolView]:
    with suppress(NftlbError, click.UsageError):
        return DaemonAccess(ctx.params.get("url"), ctx.params.get("socket"), None).pools()
    return ()


def complete_backends(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete POOL/BACKEND."""
    names = (f"{pool.name}/{backend.name}" for pool in _pools(ctx) for backend in pool.backends)
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def complete_labels(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete NAME=VALUE of a label that a backend has."""
    labels = {f"{name}={text}" for pool in _pools(ctx) for one in pool.backends for name, text in one.labels.items()}
    return [CompletionItem(label) for label in sorted(labels) if label.startswith(incomplete)]


def complete_pools(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name of a pool that is not yet in the command line."""
    given = ctx.params.get("pools") or ()
    names = (pool.name for pool in _pools(ctx))
    return [CompletionItem(name) for name in names if name.startswith(incomplete) and name not in given]


def complete_names_of_events(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete POOL, or POOL/NAME with a name that events may have."""
    pools = _pools(ctx)
    members = (f"{pool.name}/{name}" for pool in pools for name in _names_of_events(pool))
    names = (*(pool.name for pool in pools), *members)
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def _names_of_events(pool: PoolView) -> list[str]:
    """The names in a pool that events may have: backends, collectors, and names whose addresses come from DNS."""
    members: tuple[BackendView | CollectorView | NameView, ...] = (*pool.backends, *pool.collectors, *pool.names)
    return [member.name for member in members]


def refuse_unknown_pools(names: Iterable[str], seen: StatusView) -> None:
    """Raise ConfigError for names of pools that the daemon does not have."""
    known = [pool.name for pool in seen.pools]
    for name in names:
        if name not in known:
            raise ConfigError([no_such("pool", name, name, known)])


def refuse_names_without_events(pool: str, backend: str, seen: StatusView) -> None:
    """Raise ConfigError for a pool or a name in it that no event can have. Both may be empty: none is named."""
    refuse_unknown_pools([pool] if pool else [], seen)
    known = [name for candidate in seen.pools if pool in {"", candidate.name} for name in _names_of_events(candidate)]
    if backend and backend not in known:
        raise ConfigError([no_such("backend", f"{pool}/{backend}", backend, known)])


def name_error(error: Unknown, pool: str, backend: str, client: DaemonClient) -> NftlbError:
    """The same error with a similar name, if the daemon answers. `backend` is empty in a question about a pool."""
    return names_error(error, [(pool, backend)], client)


def names_error(error: Unknown, asked: Sequence[tuple[str, str]], client: DaemonClient) -> NftlbError:
    """The same error for each pool and backend that the daemon does not have, as `name_error`."""
    try:
        pools = {pool.name: pool for pool in client.status().pools}
    except NftlbError:
        return error
    problems = []
    for pool, backend in dict.fromkeys(asked):
        text = f"{pool}/{backend}" if backend else pool
        found = pools.get(pool)
        known = [] if found is None else [known.name for known in found.backends]
        if found is None:
            problems.append(no_such("pool", text, pool, pools))
        elif any(name.name == backend or backend in name.kept for name in found.names):
            return error  # it says which backends the name has, or what is kept for the absent address
        elif backend not in ("", EVERY, *known):
            problems.append(no_such("backend", text, backend, known))
    return ConfigError(problems) if problems else error
