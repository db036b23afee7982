"""`nftlb prepare`."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nftlb.config import STDIN, parse_config, read_file
from nftlb.daemon.startup import Preparation, Unprepared, prepared_zones
from nftlb.daemon.store import Store
from nftlb.errors import SystemFault
from nftlb.health import Memory
from nftlb.kernel.lock import hold_lock

from .arguments import examples
from .output import write_error

if TYPE_CHECKING:
    from collections.abc import Iterator


@click.command("prepare", epilog=examples("nftlb prepare /etc/nftlb/nftlb.yaml"))
@click.argument("file", type=click.Path(), metavar="FILE")
def prepare_command(file: str) -> None:
    """Write the rules that the daemon's next start loads first to the `state_dir` of FILE. Does not change the kernel.

    Makes a first start fast. Later the daemon prepares each next start itself; while the daemon runs, this command is
    refused. Prints nothing on success. If FILE can't be prepared, the command prints the reason and succeeds, and the
    start takes longer.
    """
    if file == STDIN:
        raise click.UsageError("standard input can't be prepared; give the FILE that the daemon uses.")
    source = read_file(file)
    base = parse_config(source, file)
    store = Store(base.state_dir, base.table)
    with hold_lock(base.table):
        try:
            memory = store.look() or Memory(format=1)
            preparation = Preparation(file, base, source, prepared_zones(store.prepared()))
            rules, sums = preparation.rules(memory, store)
            with _as_owner(Path(base.state_dir)):
                store.save(memory)
                store.prepare(file, rules, sums)
        except Unprepared as reason:
            store.unprepare()
            write_error(f"{file}: not prepared: {reason}\n")
        except ValueError as error:
            raise SystemFault(f"{error}: remove the file, or start the daemon, which renames it") from error
        except OSError as error:
            raise SystemFault(
                f"{base.state_dir} can't be used: {error.strerror or error}; fix it, or change state_dir"
            ) from error


@contextmanager
def _as_owner(directory: Path) -> Iterator[None]:
    """Write files as the owner of the directory, which is the daemon's user: the daemon reads and replaces these."""
    user, group = os.geteuid(), os.getegid()
    owner = directory.stat() if directory.is_dir() else None
    if user != 0 or owner is None or owner.st_uid == 0:
        yield
        return
    os.setegid(owner.st_gid)
    os.seteuid(owner.st_uid)
    try:
        yield
    finally:
        os.seteuid(user)
        os.setegid(group)
