"""`nftlb drain`, `nftlb enable`, `nftlb maintenance` and `nftlb weight`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from nftlb.cli.daemon import Daemon, better, complete_backends, daemon_options
from nftlb.cli.examples import examples
from nftlb.cli.output import write
from nftlb.client import Unknown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nftlb.client import Backend

MOST = 256
Target = tuple[str, str]


def _target(ctx: click.Context, _: click.Parameter, value: str) -> Target:
    pool, _slash, backend = value.partition("/")
    if not ctx.resilient_parsing and not (pool and backend and value.isprintable()):
        raise click.BadParameter(f"{value!r} is not POOL/BACKEND")
    return pool, backend


def _backend_argument(command: Any) -> Any:
    return click.argument("target", metavar="POOL/BACKEND", callback=_target, shell_complete=complete_backends)(command)


@click.command(epilog=examples("nftlb drain dns/ns1"))
@_backend_argument
@daemon_options
def drain(daemon: Daemon, target: Target) -> None:
    """Give a backend nothing new, while connections (TCP, SCTP, `per: flow`) go on. Survives restarts."""
    _change(daemon, target, {"admin": "drain"})


@click.command(epilog=examples("nftlb enable dns/ns1"))
@_backend_argument
@daemon_options
def enable(daemon: Daemon, target: Target) -> None:
    """End `drain` and `maintenance`: a backend gets its packets if it is healthy. Survives restarts."""
    _change(daemon, target, {"admin": "enabled"})


@click.command(epilog=examples("nftlb maintenance dns/ns1"))
@_backend_argument
@daemon_options
def maintenance(daemon: Daemon, target: Target) -> None:
    """Take a backend out at once, its connections too. Survives restarts."""
    _change(daemon, target, {"admin": "maintenance"})


@click.command(epilog=examples("nftlb weight dns/ns1 3"))
@_backend_argument
@click.argument("weight", metavar="N", type=click.IntRange(0, MOST))
@daemon_options
def weight(daemon: Daemon, target: Target, weight: int) -> None:
    """Set a backend's share, relative to the others': 0 to 256; 0 gets nothing. Survives restarts."""
    _change(daemon, target, {"weight": weight})


def _change(daemon: Daemon, target: Target, wanted: Mapping[str, str | int]) -> None:
    client = daemon.writer()
    try:
        backend = client.change(*target, wanted)
    except Unknown as error:
        raise better(error, *target, client) from error
    write(f"{'/'.join(target)}: {_text(backend)}\n")


def _text(backend: Backend) -> str:
    health = "up" if backend.up else "down"
    agent = f" (its agent: {backend.agent})" if backend.agent not in {None, "enabled"} else ""
    return f"{backend.admin}{agent}, weight {backend.weight}, {health}, {backend.share:.1%} of the pool's packets"
