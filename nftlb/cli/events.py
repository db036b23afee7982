"""`nftlb events` and `nftlb history`: what happened, as lines of text or JSON."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from nftlb.client import Unavailable, Unreachable
from nftlb.name_list import names_text
from nftlb.printable import printable

from .arguments import examples, limit_option
from .daemon import DaemonAccess, complete_names_of_events, daemon_options, refuse_names_without_events
from .output import end_with_reader, write_error, write_output
from .terminal import time_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from nftlb.client import DaemonClient, EventView

MOST = 1000
"""Events that the daemon keeps."""
_USUAL = 50
_OPERATED = ("who", "from", "what", "backends", "result")
"""The details of an event that say who did what."""
_PAUSE = 2.0
"""Seconds until the next attempt to connect, as the daemon advises in its stream."""


def _filters(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the argument POOL and the options that both commands have."""
    command = click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each event.")(command)
    command = click.option("--kind", metavar="KIND", help="Only events of this kind, such as backend_down.")(command)
    return click.argument(
        "where", metavar="[POOL[/BACKEND]]", required=False, default="", shell_complete=complete_names_of_events
    )(command)


@click.command(
    "events",
    epilog=examples("nftlb events", "nftlb events dns --kind backend_down --json | while read event; do :; done"),
)
@_filters
@daemon_options
def events_command(daemon: DaemonAccess, where: str, kind: str | None, as_json: bool) -> None:
    """Print each event of the daemon when it happens, until ^C: transitions, changes, swaps of the rules, reloads.

    If the daemon restarts, the command connects again, and prints first what happened meanwhile.
    """
    client = daemon.reader()
    pool, _, backend = where.partition("/")
    refuse_names_without_events(pool, backend, client.status())
    if kind is not None:
        client.history({"kind": kind, "limit": 1})  # the daemon refuses a kind that it does not have
    after = client.last_event()  # also a stream that ends before its first event is continued without a gap
    connected = True
    end_with_reader()
    with suppress(KeyboardInterrupt):
        while True:
            try:
                for name, document in client.events(after):
                    connected, after = True, name
                    event = client.event_view(document)
                    if (not pool or event.pool == pool) and _fits(event, document.get("details"), backend, kind):
                        write_output(_line(client, document, as_json))
            except (Unreachable, Unavailable) as error:
                if connected:
                    write_error(f"nftlb: {error}; trying again\n")
                connected = False
            time.sleep(_PAUSE)


def _fits(event: EventView, details: object, backend: str, kind: str | None) -> bool:
    """Whether an event is of this kind, and concerns this backend, perhaps as one of several."""
    several = str(details.get("backends", "")).split(", ") if isinstance(details, dict) else []
    return (not backend or event.backend == backend or backend in several) and kind in {None, event.kind}


@click.command("history", epilog=examples("nftlb history", "nftlb history dns/ns1 --limit 200", "nftlb history --json"))
@_filters
@limit_option("events", _USUAL, MOST)
@daemon_options
def history_command(daemon: DaemonAccess, where: str, kind: str | None, as_json: bool, limit: int) -> None:
    """Print the last events that the daemon has kept, the newest last. The daemon keeps the last 1000.

    Pools and backends that were removed still have their events.
    """
    client = daemon.reader()
    pool, _, backend = where.partition("/")
    wanted: dict[str, str | int | None] = {"pool": pool, "backend": backend, "kind": kind, "limit": limit}
    found = client.history({name: value for name, value in wanted.items() if value})
    if not found and not (kind and _has_events(client, pool, backend)):
        refuse_names_without_events(pool, backend, client.status())
    write_output("".join(_line(client, document, as_json) for document in reversed(found)))


def _has_events(client: DaemonClient, pool: str, backend: str) -> bool:
    """Whether there is an event of any kind, as for a pool that was removed."""
    wanted = {name: value for name, value in (("pool", pool), ("backend", backend)) if value}
    return bool(client.history({**wanted, "limit": 1}))


def _line(client: DaemonClient, document: dict[str, Any], as_json: bool) -> str:
    if as_json:
        return json.dumps(document) + "\n"
    return event_text(client.event_view(document), document.get("details")) + "\n"


def event_text(event: EventView, details: object = None) -> str:
    """An event in one line: local time, kind, subject, change of state, reason, and who did it."""
    subject = "/".join(filter(None, (event.pool, event.backend)))
    change = f"{event.old} -> {event.new}" if event.old and event.new else event.new or event.old
    said = dict(details) if isinstance(details, dict) else {}
    words = [
        time_text(event.at),
        f"{event.kind:<16}",
        subject,
        change,
        f"({event.reason})" if event.reason else "",
        *(f"{name}={_detail(name, said[name])}" for name in _OPERATED if said.get(name)),
    ]
    return "  ".join(filter(None, words)).rstrip()


def _detail(name: str, value: object) -> str:
    """A detail as text. A change of a whole pool has a long list of backends."""
    text = printable(str(value))
    return names_text(text.split(", ")) if name == "backends" else text
