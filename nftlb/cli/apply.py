"""`nftlb apply`."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from nftlb.kernel import LibNftables
from nftlb.kernel.lock import hold_lock
from nftlb.swap.applier import Applier
from nftlb.swap.spellings import unknown_nft

from .arguments import examples, file_argument, load_resolved
from .output import write_error, write_output

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nftlb.swap.applier import Applied


@click.command(
    "apply", epilog=examples("nftlb apply pools.yaml", "nftlb diff pools.yaml || nftlb apply --quiet pools.yaml")
)
@file_argument
@click.option(
    "--linger",
    type=click.FloatRange(0, 3600),
    default=5.0,
    metavar="SECONDS",
    help="How long to wait for in-flight replies of removed backends, so that their source is still rewritten to the "
    "address of the service. Only waits where replies may be in flight. [5]",
)
@click.option("-q", "--quiet", is_flag=True, help="Print nothing on success.")
def apply_command(file: str, linger: float, quiet: bool) -> None:
    """Load FILE (- for standard input) into this network namespace without losing a packet.

    Prints the changes in one line. All backends count as up; `nftlb run` checks them. Changes only nftlb's own tables,
    the connections in its own conntrack zones and, for `forward: dsr`, its own routing rules.
    """
    config = load_resolved(file)
    with locked_applier(config.table, linger) as to_kernel:
        applied = to_kernel.load(config)
        try:
            if not quiet:
                wait = "" if applied.lingers is None else f"; waiting {linger:g} s for in-flight replies"
                write_output(f"{file}: {changes_text(applied) or 'nothing to change'}{wait}\n")
            if applied.unrecognised:
                write_error(f"{file}: warning: {unknown_nft(applied.unrecognised)}\n")
            for line in (*applied.slower, *applied.reduced):
                write_error(f"{file}: warning: {line}\n")
            # Rules without conntrack keep no record of a request, so only time says that its reply can't come any more.
            time.sleep(applied.lingers or 0.0)
        finally:
            to_kernel.tidy(at_once=True)


@contextmanager
def locked_applier(table: str, linger: float = 0.0) -> Iterator[Applier]:
    """An applier for this network namespace that holds the lock of `table`: no other nftlb changes it meanwhile.

    `linger`: the seconds for which rules of in-flight replies stay.
    """
    with hold_lock(table), unlocked_applier(table, linger) as to_kernel:
        yield to_kernel


@contextmanager
def unlocked_applier(table: str, linger: float = 0.0) -> Iterator[Applier]:
    """An applier for commands that only read: another nftlb may change the table at the same time."""
    with LibNftables() as kernel:
        yield Applier(kernel, table, linger=linger)


def changes_text(applied: Applied) -> str:
    """The changes, counted, in one line without its end; empty if nothing was changed."""
    counts = (
        (len(applied.transactions), "transaction", "transactions"),
        (len(applied.routing), "change of routing", "changes of routing"),
        (applied.deleted, "conntrack entry deleted", "conntrack entries deleted"),
    )
    return ", ".join(f"{count} {singular if count == 1 else many}" for count, singular, many in counts if count)
