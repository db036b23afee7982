"""`nftlb diff`: the kernel's rules against a file, with the states of the backends in a running daemon."""

from __future__ import annotations

from contextlib import suppress
from ipaddress import ip_address
from typing import TYPE_CHECKING

import click

from nftlb.client import Unreachable
from nftlb.config import amend, load
from nftlb.errors import ConfigError
from nftlb.model import Admin, Backend, Membership
from nftlb.model.membership import BackendState

from .apply import unlocked_applier
from .arguments import examples, file_argument, resolved_now
from .daemon import DaemonAccess, daemon_options
from .output import write_output

if TYPE_CHECKING:
    from nftlb.client import BackendView, PoolView, StatusView
    from nftlb.model import Config

_TIMEOUT = 5.0
"""Seconds to wait for the daemon."""


class BadInputError(ConfigError):
    """A bad configuration, with exit status 2: status 1 means that there are differences, as in diff(1)."""

    exit_status = 2


@click.command(
    "diff", epilog=examples("nftlb diff pools.yaml", "nftlb diff --file-only pools.yaml || nftlb apply pools.yaml")
)
@file_argument
@click.option("--file-only", is_flag=True, help="Do not ask a daemon: all backends count as up, as FILE has them.")
@daemon_options
def diff_command(daemon: DaemonAccess, file: str, file_only: bool) -> int:
    """Show what is different between the kernel and FILE: `-` would be deleted, `+` would be added. Changes nothing.

    If a daemon of FILE's table runs, its states count: a backend that is down, drained or added at run time is no
    difference, and FILE is compared as a reload would use it. The output says so. Without a daemon, or with
    --file-only, the differences are those that `nftlb apply FILE` would remove.

    Exit status: 0 no differences; 1 differences; 2 the input is bad; 3 the kernel or the system refused; 4 the daemon
    that an option names can't be reached.
    """
    try:
        config = load(file)
        seen = None if file_only else _status(daemon, config.table)
    except ConfigError as error:
        raise BadInputError(list(error.problems)) from error
    title, membership = file, Membership()
    if seen is not None:
        config, membership = with_daemon(config, seen)
        title = f"{file}, with the states of the running daemon (pid {seen.pid})"
    config = resolved_now(config, file)  # after the daemon's backends: listeners have their families too
    with unlocked_applier(config.table) as to_kernel:
        differences = to_kernel.diff(config, membership)
    if differences:
        write_output(f"--- kernel\n+++ {title}\n{differences}")
    return 1 if differences else 0


def _status(daemon: DaemonAccess, table: str) -> StatusView | None:
    """The status of the named daemon or of the daemon that writes `table`; None if no daemon is named and none answers.

    ConfigError if the named address is not valid.
    """
    try:
        return daemon.reader(_TIMEOUT, table).status()
    except Unreachable:
        if daemon.named:
            raise
        return None


def with_daemon(config: Config, seen: StatusView) -> tuple[Config, Membership]:
    """The configuration with the backends that were added at run time, and the states of all backends. Pure.

    `config` is a file's, without the addresses of names and of this host.

    Weights and priorities are those of the configuration, because the status does not say whether a weight was set at
    run time or comes from an earlier file. A backend in slow start counts with its whole weight.
    """
    pools = {}
    for pool in seen.pools:
        own = config.pool(pool.name)
        if own is None:
            continue
        for backend in pool.backends:
            if backend.added and own.backend(backend.name) is None:
                with suppress(ConfigError):  # the new file may have a rule that the backend breaks
                    config = amend(config, pool.name, add=[_made(backend)])
        pools[pool.name] = frozenset((backend.name, _state(seen, pool, backend)) for backend in pool.backends)
    return config, Membership(pools)


def _made(backend: BackendView) -> Backend:
    return Backend(
        name=backend.name,
        address=ip_address(backend.address),
        port=backend.port,
        weight=backend.weight,
        priority=backend.priority,
    )


def _state(seen: StatusView, pool: PoolView, backend: BackendView) -> BackendState:
    # A daemon that does not report its host is older, and does not report either whether the admin state is the file's.
    at_run_time = backend.admin_since is not None or not seen.host
    admin = Admin(backend.admin) if at_run_time else None
    if backend.admin == Admin.ENABLED and backend.agent not in {None, Admin.ENABLED}:
        admin = Admin(backend.agent)
    serving = pool.priority
    waits = backend.standby and pool.preempts_at is not None and serving is not None and backend.priority < serving
    return BackendState(backend.up, admin, waiting=waits)
