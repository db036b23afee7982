"""`nftlb health`: whether pools are ready, for scripts and for Nagios."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import click

from nftlb.errors import NftlbError
from nftlb.name_list import names_text
from nftlb.printable import printable

from .arguments import examples
from .daemon import DaemonAccess, complete_pools, daemon_options, refuse_unknown_pools
from .output import write_output

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from nftlb.client import PoolView, StatusView


class NagiosState(IntEnum):
    """The exit status of a Nagios plugin. A greater number is not always worse: see `_ORDER`."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


_ORDER = (NagiosState.OK, NagiosState.UNKNOWN, NagiosState.WARNING, NagiosState.CRITICAL)


@dataclass(frozen=True, slots=True)
class Range:
    """A range of a Nagios threshold: an alert is due outside of it or, if `inside`, inside of it."""

    text: str
    low: float
    high: float
    inside: bool = False

    def alerts(self, value: float) -> bool:
        """Whether an alert is due for a value."""
        return (self.low <= value <= self.high) is self.inside


_NUMBER = r"-?[0-9]{1,9}(?:\.[0-9]{1,9})?"
_RANGE = re.compile(rf"(@?)(?:(~|{_NUMBER})?:)?({_NUMBER})?")


def read_range(text: str) -> Range:
    """Read `10`, `10:`, `~:10`, `10:20` or `@10:20`, as the guidelines for Nagios plugins define them. ValueError."""
    match = _RANGE.fullmatch(text)
    if match is None or not text.strip("@"):
        raise ValueError(text)
    low = float("-inf") if match[2] == "~" else float(match[2] or 0)
    high = float("inf") if match[3] is None else float(match[3])
    if low > high:
        raise ValueError(text)
    return Range(text, low, high, bool(match[1]))


def _range(_: click.Context, __: click.Parameter, value: str | None) -> Range | None:
    try:
        return None if value is None else read_range(value)
    except ValueError:
        allowed = "2: (at least 2), 5 (0 to 5), 2:5, ~:5 (at most 5), or @2:5 (not 2 to 5)"
        raise click.BadParameter(f"{value!r} is not a range; allowed: {allowed}") from None


class _HealthCommand(click.Command):
    """With --nagios, each error is a line on standard output and the exit status 3 (UNKNOWN): 2 would mean CRITICAL."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        nagios = "--nagios" in args
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            if not nagios:
                raise
            ctx.exit(_unknown(error))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.UsageError, NftlbError) as error:
            if not ctx.params["nagios"]:
                raise
            return _unknown(error)


def _unknown(error: click.UsageError | NftlbError) -> int:
    text = error.format_message() if isinstance(error, click.UsageError) else str(error)
    return _answer(NagiosState.UNKNOWN, [" ".join(text.split())], [])


@click.command(
    "health",
    cls=_HealthCommand,
    epilog=examples(
        "nftlb health dns && echo ready",
        "nftlb health --json",
        "nftlb health --nagios",
        "nftlb health dns --nagios --warning 3: --critical 2:",
    ),
)
@click.argument("pools", metavar="[POOL]...", nargs=-1, shell_complete=complete_pools)
@click.option("--json", "as_json", is_flag=True, help="Print JSON: for each pool its name, `ready`, and the reason.")
@click.option("--nagios", is_flag=True, help="Behave as a Nagios plugin: exit status 0 to 3, and performance data.")
@click.option(
    "-w",
    "--warning",
    callback=_range,
    metavar="RANGE",
    help="With --nagios: WARNING if the number of backends in service is outside, in any of the pools.",
)
@click.option(
    "-c",
    "--critical",
    callback=_range,
    metavar="RANGE",
    help="With --nagios: CRITICAL if the number of backends in service is outside, in any of the pools.",
)
@daemon_options
def health_command(
    daemon: DaemonAccess,
    pools: tuple[str, ...],
    as_json: bool,
    nagios: bool,
    warning: Range | None,
    critical: Range | None,
) -> int:
    """Print whether all pools, or each POOL, are ready. Exit status: 0 they are; 1 one is not; 4 no daemon answers.

    With --nagios, the exit status is 0 (OK), 1 (WARNING), 2 (CRITICAL) or 3 (UNKNOWN). CRITICAL: a pool is not ready or
    uses its fallback, or the kernel lacks the wanted rules. WARNING: an enabled backend is down, a pool is in panic or
    served by another priority, the file was refused, or a part of the daemon has a fault. UNKNOWN: no daemon answers,
    or the command line is wrong.
    """
    if not nagios:
        if warning or critical:
            raise click.UsageError("--warning and --critical are only used with --nagios.")
        return _plain(daemon, pools, as_json)
    if as_json:
        raise click.UsageError("--json and --nagios were both given; allowed: one of them.")
    seen = daemon.reader().status()
    refuse_unknown_pools(pools, seen)
    shown = [pool for pool in seen.pools if not pools or pool.name in pools]
    found = [
        *daemon_problems(seen.of(shown)),
        *(line for pool in shown for line in pool_problems(pool, warning, critical)),
    ]
    state = max((state for state, _ in found), key=_ORDER.index, default=NagiosState.OK)
    texts = [text for _, text in sorted(found, key=lambda item: -_ORDER.index(item[0]))]
    return _answer(state, texts or [_calm(shown)], [_data(pool, warning, critical) for pool in shown])


def _plain(daemon: DaemonAccess, pools: Sequence[str], as_json: bool) -> int:
    seen = daemon.reader().status()
    refuse_unknown_pools(pools, seen)
    shown = [pool for pool in seen.pools if not pools or pool.name in pools]
    found = [{"name": pool.name, "ready": pool.ready, "reason": _not_ready_because(pool)} for pool in shown]
    if as_json:
        write_output(json.dumps({"pools": found}, indent=2) + "\n")
    else:
        states = ["ready" if pool["ready"] else f"not ready: {pool['reason']}" for pool in found]
        write_output("".join(f"{pool.name}: {state}\n" for pool, state in zip(shown, states, strict=True)))
    return int(not all(pool.ready for pool in shown))


def _not_ready_because(pool: PoolView) -> str:
    """Why a pool is not ready; empty if it is ready."""
    return "" if pool.ready else "; ".join(pool.lacking) or f"{pool.healthy} usable, {pool.quorum} needed"


def _calm(pools: Sequence[PoolView]) -> str:
    serving = sum(serving_in(pool) for pool in pools)
    total = sum(len(pool.backends) for pool in pools)
    return f"{len(pools)} {'pool' if len(pools) == 1 else 'pools'} ready, {serving} of {total} backends in service"


def serving_in(pool: PoolView) -> int:
    """How many backends of a pool are in service: they get packets."""
    return sum(backend.in_rotation for backend in pool.backends)


def daemon_problems(seen: StatusView) -> Iterator[tuple[NagiosState, str]]:
    """What is wrong with the daemon itself."""
    if not seen.kernel.synced:
        yield NagiosState.CRITICAL, f"the kernel lacks the wanted rules: {seen.kernel.error or 'the reason is unknown'}"
    if not seen.config.success:
        yield NagiosState.WARNING, f"{seen.config.file} was refused, and the configuration before is in use"
    for fault in seen.faults:
        yield NagiosState.WARNING, f"{fault.what}: {fault.message}"


def pool_problems(pool: PoolView, warning: Range | None, critical: Range | None) -> Iterator[tuple[NagiosState, str]]:
    """What is wrong with a pool."""
    serving = serving_in(pool)
    in_service = f"{pool.name}: {serving} of {len(pool.backends)} backends in service"
    if not pool.ready:
        yield NagiosState.CRITICAL, f"{pool.name}: not ready: {_not_ready_because(pool)}"
    if pool.mode == "fallback":
        yield NagiosState.CRITICAL, f"{pool.name}: no backend is usable, so the fallback is used"
    elif pool.mode != "healthy":
        yield NagiosState.WARNING, f"{pool.name}: {pool.mode}"
    elif pool.backends and pool.priority != min(backend.priority for backend in pool.backends):
        serves = "no priority serves alone" if pool.priority is None else f"priority {pool.priority} serves"
        yield NagiosState.WARNING, f"{pool.name}: {serves}"
    if critical is not None and critical.alerts(serving):
        yield NagiosState.CRITICAL, f"{in_service}, wanted {critical.text}"
    elif warning is not None and warning.alerts(serving):
        yield NagiosState.WARNING, f"{in_service}, wanted {warning.text}"
    if down := [backend.name for backend in pool.backends if not backend.up and backend.admin == "enabled"]:
        yield NagiosState.WARNING, f"{pool.name}: down: {names_text(down)}"


def _data(pool: PoolView, warning: Range | None, critical: Range | None) -> str:
    """The performance data of a pool: labels, values, units, thresholds, and limits."""
    limits = ";".join("" if limit is None else limit.text for limit in (warning, critical))
    name = re.sub(r"['=|\s]", "_", pool.name)
    return f"'{name} in service'={serving_in(pool)};{limits};0;{len(pool.backends)} '{name} packets'={pool.packets}c"


def _answer(state: NagiosState, texts: Sequence[Any], data: Iterable[str]) -> int:
    """Print the line of a plugin, and more lines if there is more; return the exit status."""
    first, *rest = [printable(str(text)).replace("|", "/") for text in texts]
    figures = " ".join(data)
    lines = [f"NFTLB {state.name} - {first}{f' | {figures}' if figures else ''}", *rest]
    write_output("".join(f"{line}\n" for line in lines))
    return int(state)
