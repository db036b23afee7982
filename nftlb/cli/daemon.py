"""The way to the daemon, for commands: where it is, with which token, and the names that it knows."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from nftlb.cli.names import suggestion
from nftlb.client import Address, Client, read_address
from nftlb.errors import ConfigError, NftlbError, Problem, SystemFault
from nftlb.permissions import exposure
from nftlb.printable import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from nftlb.client import Seen, Unknown

URL = "NFTLB_URL"
TOKEN_FILE = "NFTLB_TOKEN_FILE"  # noqa: S105 - the name of a variable
_MOST_BYTES = 64 << 10  # the daemon takes no larger file of tokens
_COMPLETION_TIMEOUT = 0.5
_CHANGE_TIMEOUT = 60.0


class Daemon:
    """The daemon that the options name. `reader` does for those who only look: no token is read."""

    def __init__(self, url: str | None, socket: str | None, token_file: str | None) -> None:
        if url is not None and socket is not None:
            raise click.UsageError("--url and --socket both say where the daemon is; allowed: one of them.")
        # An option beats the environment; only the latter may be there without being meant.
        where = f"unix:{os.path.abspath(socket)}" if socket is not None else url or os.environ.get(URL)  # noqa: PTH100 - for a socket that is gone too
        self._address = read_address(where) if where else Address()
        self._token_file = token_file

    def reader(self) -> Client:
        """What can look."""
        return Client(self._address)

    def writer(self) -> Client:
        """What can change something, if the daemon takes its token. SystemFault if the token can't be read."""
        return Client(self._address, _token(self._token_file) if self._token_file else None, _CHANGE_TIMEOUT)

    def names(self) -> list[str]:
        """POOL/BACKEND for all there are, for completion: in a moment, or none."""
        with suppress(NftlbError):
            return [
                f"{pool.name}/{backend.name}"
                for pool in Client(self._address, timeout=_COMPLETION_TIMEOUT).status().pools
                for backend in pool.backends
            ]
        return []


def _token(path: str) -> str:
    try:
        with Path(path).open("rb") as file:  # which may be a pipe: --token-file <(pass nftlb)
            exposed = exposure(os.fstat(file.fileno()))
            lines = [] if exposed else file.read(_MOST_BYTES).decode("ascii").splitlines()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a file of tokens"
        raise SystemFault(f"{path}: {reason}; --token-file or {TOKEN_FILE} names a file with a token") from error
    if exposed:
        raise SystemFault(f"{path}: not used: {exposed}; mend: chmod 600 {path}, and take another token if it was read")
    token = next((line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")), "")
    if not token.isprintable() or " " in token or not token:
        raise SystemFault(f"{path}: no token in it; allowed: a token on a line of its own")
    return token


def daemon_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that name the daemon, and the `daemon` itself."""

    @click.option("--url", metavar="URL", help=f"Where the daemon is: http://127.0.0.1:9146, unix:/PATH. [{URL}]")
    @click.option("--socket", metavar="PATH", type=click.Path(), help="The same, for a unix socket.")
    @click.option(
        "--token-file",
        metavar="FILE",
        type=click.Path(),
        envvar=TOKEN_FILE,
        help=f"A token that the daemon takes, for changes. [{TOKEN_FILE}]",
    )
    @wraps(command)
    def with_daemon(url: str | None, socket: str | None, token_file: str | None, **rest: Any) -> Any:
        return command(daemon=Daemon(url, socket, token_file), **rest)

    return with_daemon


def _found_by(ctx: click.Context) -> list[str]:
    with suppress(NftlbError, click.UsageError):
        return Daemon(ctx.params.get("url"), ctx.params.get("socket"), None).names()
    return []


def complete_backends(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The backends that begin so."""
    return [CompletionItem(name) for name in _found_by(ctx) if name.startswith(incomplete)]


def complete_pools(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The pools that begin so and are not there yet."""
    pools = dict.fromkeys(name.partition("/")[0] for name in _found_by(ctx))
    there = ctx.params.get("pools") or ()
    return [CompletionItem(name) for name in pools if name.startswith(incomplete) and name not in there]


def unknown_pool(asked: str, name: str, seen: Seen) -> ConfigError:
    """Say that there is no pool of that name, and what may have been meant; `asked` is what the user wrote."""
    near = suggestion(name, (pool.name for pool in seen.pools))
    return ConfigError([Problem(printable(asked), 0, 0, "", f"no such pool{near}")])


def better(error: Unknown, pool: str, backend: str, client: Client) -> NftlbError:
    """Say the same with what may have been meant, if the daemon tells."""
    try:
        seen = client.status()
    except NftlbError:
        return error
    asked = f"{pool}/{backend}"
    found = next((one for one in seen.pools if one.name == pool), None)
    if found is None:
        return unknown_pool(asked, pool, seen)
    near = suggestion(backend, (one.name for one in found.backends))
    return ConfigError([Problem(printable(asked), 0, 0, "", f"no such backend{near}")])
