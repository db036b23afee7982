"""`nftlb drain`, `nftlb enable`, `nftlb maintenance`, `nftlb weight` and `nftlb priority`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from nftlb.client import Unknown

from .arguments import examples
from .daemon import DaemonAccess, complete_backends, daemon_options, name_error
from .output import write_output

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nftlb.client import BackendView

MOST_WEIGHT = 256
MOST_PRIORITY = 255
_USUAL_PRIORITY = 1
Target = tuple[str, str]


def _target(ctx: click.Context, _: click.Parameter, value: str) -> Target:
    pool, _slash, backend = value.partition("/")
    if not ctx.resilient_parsing and not (pool and backend and value.isprintable()):
        raise click.BadParameter(f"{value!r} is not POOL/BACKEND; allowed: two names, such as dns/ns1")
    return pool, backend


def _backend_argument(command: Any) -> Any:
    return click.argument("target", metavar="POOL/BACKEND", callback=_target, shell_complete=complete_backends)(command)


@click.command("drain", epilog=examples("nftlb drain dns/ns1"))
@_backend_argument
@daemon_options
def drain_command(daemon: DaemonAccess, target: Target) -> None:
    """Stop new traffic to a backend. Existing connections (TCP, SCTP, `per: flow`) go on. Survives restarts."""
    _change(daemon, target, {"admin": "drain"})


@click.command("enable", epilog=examples("nftlb enable dns/ns1"))
@_backend_argument
@daemon_options
def enable_command(daemon: DaemonAccess, target: Target) -> None:
    """End `drain` or `maintenance`: the backend gets packets again if it is healthy. Survives restarts."""
    _change(daemon, target, {"admin": "enabled"})


@click.command("maintenance", epilog=examples("nftlb maintenance dns/ns1"))
@_backend_argument
@daemon_options
def maintenance_command(daemon: DaemonAccess, target: Target) -> None:
    """Stop all traffic to a backend at once, also that of existing connections. Survives restarts."""
    _change(daemon, target, {"admin": "maintenance"})


@click.command("weight", epilog=examples("nftlb weight dns/ns1 3"))
@_backend_argument
@click.argument("weight", metavar="N", type=click.IntRange(0, MOST_WEIGHT))
@daemon_options
def weight_command(daemon: DaemonAccess, target: Target, weight: int) -> None:
    """Set a backend's weight, 0 to 256, relative to the weights of its pool; 0: no packets. Survives restarts."""
    _change(daemon, target, {"weight": weight})


@click.command("priority", epilog=examples("nftlb priority dns/ns3 2"))
@_backend_argument
@click.argument("priority", metavar="N", type=click.IntRange(0, MOST_PRIORITY))
@daemon_options
def priority_command(daemon: DaemonAccess, target: Target, priority: int) -> None:
    """Set a backend's priority, 0 to 255; a lower number is preferred, others stand by. Survives restarts."""
    _change(daemon, target, {"priority": priority})


def _change(daemon: DaemonAccess, target: Target, wanted: Mapping[str, str | int]) -> None:
    client = daemon.writer()
    try:
        backend = client.change(*target, wanted)
    except Unknown as error:
        raise name_error(error, *target, client) from error
    write_output(f"{'/'.join(target)}: {_text(backend)}\n")


def _text(backend: BackendView) -> str:
    health = "up" if backend.up else "down"
    agent = f" (its agent: {backend.agent})" if backend.agent not in {None, "enabled"} else ""
    priority = "" if backend.priority == _USUAL_PRIORITY else f", priority {backend.priority}"
    share = f"{backend.share:.1%} of the pool's packets"
    return f"{backend.admin}{agent}, weight {backend.weight}{priority}, {health}, {share}"
