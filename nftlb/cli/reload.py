"""`nftlb reload`, by a request to the API or by a signal, which needs no token."""

from __future__ import annotations

import os
import signal
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nftlb.client import Address, DaemonClient, Rejected, Unreachable, addresses_here, read_daemon_address
from nftlb.errors import NftlbError

from .arguments import examples
from .daemon import DaemonAccess, daemon_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nftlb.client import ConfigState

_PATIENCE = 90.0
"""Seconds that a reload may take. The systemd unit allows 120."""
_SILENCE = 10.0
"""Seconds that the API may be unreachable during a reload, which may give the API another address."""
_PAUSES = (0.05, 1.0)
"""Seconds between two requests for the status, at the beginning and at the end."""


@click.command("reload", epilog=examples("nftlb reload", "nftlb check /etc/nftlb/pools.yaml && nftlb reload"))
@click.option(
    "--pid",
    type=click.IntRange(1),
    metavar="PID",
    help="Send SIGHUP to this process instead of a request; needs no token.",
)
@click.option(
    "--file",
    type=click.Path(),
    metavar="FILE",
    help="With --pid: the daemon's configuration file, for the address of its API.",
)
@daemon_options
def reload_command(daemon: DaemonAccess, pid: int | None, file: str | None) -> None:
    """Make the daemon read its configuration file again. Prints nothing on success.

    If the file is bad, every error is printed with its line, and the previous configuration stays in use.
    """
    if pid is None:
        if file is not None:
            raise click.UsageError("--file is only used with --pid; add --pid, or use --url or --socket.")
        daemon.writer().reload()
    else:
        places = _places_in(file) if file is not None else _places_of(daemon)
        _reload_by_signal(pid, [DaemonClient(place) for place in places])


def _places_in(file: str) -> list[Address]:
    """The addresses of the API in `file` and in its last good copy.

    The API is at the address of the copy until the reload has ended, and at that of the file from then on.
    """
    from nftlb.daemon.startup import apis_of  # noqa: PLC0415 - the import takes longer than all the rest, and is rarely needed

    return [read_daemon_address(place) for place in apis_of(file)] or [Address()]


def _places_of(daemon: DaemonAccess) -> list[Address]:
    """The address that the options name, or the addresses of all daemons here: the process id says which is meant."""
    return [daemon.address()] if daemon.named else list(addresses_here().values()) or [Address()]


def _reload_by_signal(pid: int, clients: Sequence[DaemonClient]) -> None:
    """Make the daemon with this process id read its file again, and wait for the result.

    The result comes from the status, at the first of `clients` that answers. Raises Rejected with all faults of the
    file, and Unreachable.
    """
    began = datetime.now(UTC)
    try:
        if not _handles_reload(pid):
            raise Unreachable(f"process {pid} would end by the signal to reload, and gets no signal; is it the daemon?")
        os.kill(pid, signal.SIGHUP)
    except OSError as error:
        raise Unreachable(f"can't signal process {pid} to reload: {error.strerror}; is it the daemon?") from error
    start = last_reply = time.monotonic()
    pause, longest = _PAUSES
    reasons: dict[Address, str] = {}
    while True:
        for client in clients:
            try:
                seen = client.status()
            except NftlbError as error:
                reasons[client.address] = str(error)
                continue
            if seen.pid != pid:
                reasons[client.address] = f"the daemon at {client.address} is process {seen.pid}"
                continue
            # After the clock was set back, the time of an earlier attempt may be in the future.
            if began <= seen.config.attempted <= datetime.now(UTC):
                return _report(seen.config)
            last_reply = time.monotonic()
            reasons = {client.address: f"the reload has not ended after {last_reply - start:.0f} s"}
            # Another daemon that does not answer would delay each round. The reload may move the API.
            clients = [client, *(other for other in clients if other is not client)]
            break
        if time.monotonic() + pause > min(start + _PATIENCE, last_reply + _SILENCE):
            break
        time.sleep(pause)
        pause = min(2 * pause, longest)
    why = "; ".join(reasons.values())
    raise Unreachable(f"process {pid} was signalled to reload, but the result is unknown: {why}; see the daemon's log")


def _handles_reload(pid: int) -> bool:
    """Whether the process has a handler for SIGHUP, which ends all other processes. OSError if there is no process.

    True without /proc, because nothing is known then.
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        os.kill(pid, 0)
        return True
    caught = next((line.partition(":")[2] for line in lines if line.startswith("SigCgt:")), "1")
    return bool(int(caught, 16) & 1 << signal.SIGHUP - 1)


def _report(config: ConfigState) -> None:
    if not config.success:
        words = "the file has faults, and the configuration before stays in use:"
        raise Rejected("\n".join((words, *config.problems)))
