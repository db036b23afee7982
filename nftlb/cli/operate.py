"""The commands that change a backend of a running daemon: its admin state, weight and priority, `add` and `delete`."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from nftlb.client import Conflicting, NameView, Unknown
from nftlb.printable import printable

from .arguments import examples
from .daemon import EVERY, DaemonAccess, complete_backends, complete_pools, daemon_options, name_error, names_error
from .labels import has_labels, label_option, refuse_unknown_labels
from .output import write_error, write_output
from .waiting import wait_until_drained

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from nftlb.client import BackendView, DaemonClient

    from .labels import Wanted

MOST_WEIGHT = 256
MOST_PRIORITY = 255
_MOST_PORT = 65535
_USUAL_PRIORITY = 1
_LONGEST_WAIT = 86400.0
_ATTEMPTS = 3
"""How often the backends with a label are read and changed, if one of them leaves in between."""


class NamedTarget(NamedTuple):
    """A backend, as a user writes it."""

    pool: str
    backend: str

    def __str__(self) -> str:
        return f"{self.pool}/{self.backend}"


def _target(ctx: click.Context, param: click.Parameter, value: str) -> NamedTarget:
    pool, _slash, backend = value.partition("/")
    if not ctx.resilient_parsing and not (pool and backend and value.isprintable()):
        every = f", or 'POOL/{EVERY}' for all backends of a pool" if param.nargs < 0 else ""
        raise click.BadParameter(f"{value!r} is not POOL/BACKEND; allowed: two names, such as dns/ns1{every}")
    return NamedTarget(pool, backend)


def _targets(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[NamedTarget, ...]:
    return tuple(_target(ctx, param, value) for value in dict.fromkeys(values))


def _backends_argument(command: Any) -> Any:
    """The backends of a command: `targets`, or in their place `labels`."""
    named = click.argument(
        "targets", metavar="[POOL/BACKEND]...", nargs=-1, callback=_targets, shell_complete=complete_backends
    )
    return named(
        label_option("In place of names: all backends with this label. Repeatable: with all these labels.")(command)
    )


def _backend_argument(command: Any) -> Any:
    return click.argument("target", metavar="POOL/BACKEND", callback=_target, shell_complete=complete_backends)(command)


class WholeNumber(click.IntRange):
    """A whole number from 0 to `most`. `noun`: what the number is, such as `a weight`."""

    def __init__(self, noun: str, most: int) -> None:
        super().__init__(0, most)
        self._noun = noun
        self._most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value)
        if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) <= self._most):  # noqa: PLR2004
            self.fail(f"{text!r} is not {self._noun}; allowed: a whole number from 0 to {self._most}", param, ctx)
        return int(text)


WEIGHT = WholeNumber("a weight", MOST_WEIGHT)
PRIORITY = WholeNumber("a priority", MOST_PRIORITY)


# --- values of a backend ----------------------------------------------------------------------------------------------


@click.command(
    "drain",
    epilog=examples(
        "nftlb drain dns/ns1 sip/gw1", "nftlb drain --label rack=r12", "nftlb drain sip/gw1 --wait --timeout 600"
    ),
)
@_backends_argument
@click.option(
    "--wait", is_flag=True, help="Return when the backend gets no more packets, and its connections have ended."
)
@click.option(
    "--timeout",
    type=click.FloatRange(0, _LONGEST_WAIT),
    default=300.0,
    show_default=True,
    metavar="SECONDS",
    help="With --wait: the longest time to wait.",
)
@daemon_options
def drain_command(
    daemon: DaemonAccess, targets: tuple[NamedTarget, ...], labels: Wanted, wait: bool, timeout: float
) -> None:
    """Stop new traffic to backends. Existing connections (TCP, SCTP, `per: flow`) go on. Survives restarts.

    Several backends are drained at once, and 'POOL/*' means all backends of a pool.

    With --wait, the exit status is 3 if there is still traffic after the time-out; the backend stays drained. Where
    pools have connections, --wait reads them from conntrack: on the host of the daemon, as root. Elsewhere the command
    is refused, and drains nothing.
    """
    if not wait:
        _set_admin(daemon, targets, labels, "drain")
        return
    _refuse_no_choice(targets, labels)
    if labels or len(targets) > 1 or targets[0].backend == EVERY:
        raise click.UsageError("--wait was given with several backends; allowed: one, by its name.")
    (target,) = targets
    if wait_until_drained(daemon.reader(), *target, timeout, lambda: _change(daemon, target, {"admin": "drain"})):
        write_output(f"{target}: no packets and no connections any more\n")
    else:
        write_output(f"{target}: left the pool, so the end of its traffic was not watched\n")


def _admin_command(name: str, admin: str, doc: str) -> click.Command:
    """A command that sets the admin state of backends."""
    samples = (f"nftlb {name} dns/ns1", f"nftlb {name} 'dns/*' sip/gw1", f"nftlb {name} --label rack=r12")

    @click.command(name, epilog=examples(*samples), help=doc)
    @_backends_argument
    @daemon_options
    def command(daemon: DaemonAccess, targets: tuple[NamedTarget, ...], labels: Wanted) -> None:
        _set_admin(daemon, targets, labels, admin)

    return command


def _number_command(name: str, kind: WholeNumber, example: str, doc: str) -> click.Command:
    """A command that sets a number of a backend."""

    @click.command(name, epilog=examples(f"nftlb {name} {example}"), help=doc)
    @_backend_argument
    @click.argument("number", metavar="N", type=kind)
    @daemon_options
    def command(daemon: DaemonAccess, target: NamedTarget, number: int) -> None:
        _change(daemon, target, {name: number})

    return command


enable_command = _admin_command(
    "enable",
    "enabled",
    "End `drain` or `maintenance`: the backends get packets again if they are healthy. Survives restarts. Several "
    "backends are enabled at once, and 'POOL/*' means all backends of a pool.",
)
maintenance_command = _admin_command(
    "maintenance",
    "maintenance",
    "Stop all traffic to backends at once, also that of existing connections. Survives restarts. Several backends "
    "leave in one change, and 'POOL/*' means all backends of a pool.",
)
weight_command = _number_command(
    "weight",
    WEIGHT,
    "dns/ns1 3",
    f"Set a backend's weight, 0 to {MOST_WEIGHT}, relative to the weights of its pool; 0: no packets. Survives "
    "restarts.",
)
priority_command = _number_command(
    "priority",
    PRIORITY,
    "dns/ns3 2",
    f"Set a backend's priority, 0 to {MOST_PRIORITY}; a lower number is preferred, others stand by. Survives restarts.",
)


def _refuse_no_choice(targets: tuple[NamedTarget, ...], labels: Wanted) -> None:
    """Raise UsageError unless backends are chosen in one of the two ways."""
    if not targets and not labels:
        raise click.MissingParameter(param_type="argument", param_hint="'POOL/BACKEND...' or --label NAME=VALUE")
    if targets and labels:
        raise click.UsageError("POOL/BACKEND and --label were both given; allowed: one of them.")


def _set_admin(daemon: DaemonAccess, targets: tuple[NamedTarget, ...], labels: Wanted, admin: str) -> None:
    """Set the admin state of backends, all in one change."""
    _refuse_no_choice(targets, labels)
    if len(targets) == 1 and targets[0].backend != EVERY:
        _change(daemon, targets[0], {"admin": admin})
        return
    client = daemon.writer()
    if labels:
        targets, changes = _change_labelled(client, labels, admin)
    else:
        changes = _change_several(client, targets, admin)
    changed = {NamedTarget(backend.pool, backend.name): backend for backend in changes}
    for target, backend in changed.items():
        write_output(f"{target}: {change_text(backend)}\n")
    for target in targets:
        if target.backend != EVERY and target not in changed:
            write_output(_left_line(target, admin))


def _change_several(client: DaemonClient, targets: Sequence[NamedTarget], admin: str) -> list[BackendView]:
    # The daemon knows which backends a pool has at the moment of the change: DNS may add and remove some.
    try:
        return _changed_together(client, targets, admin)
    except Unknown as error:
        raise names_error(error, targets, client) from error


def _change_labelled(
    client: DaemonClient, labels: Wanted, admin: str
) -> tuple[tuple[NamedTarget, ...], list[BackendView]]:
    """Change all backends with these labels.

    If DNS removes one of them after the names were read, the daemon changes none. Then the names are read again.
    """
    for _ in range(_ATTEMPTS - 1):
        targets = _labelled(labels, client)
        with suppress(Unknown):
            return targets, _changed_together(client, targets, admin)
    targets = _labelled(labels, client)
    return targets, _change_several(client, targets, admin)


def _changed_together(client: DaemonClient, targets: Sequence[NamedTarget], admin: str) -> list[BackendView]:
    names, wanted = list(map(str, targets)), {"admin": admin}
    _warn(client.consequences_of_changes(names, wanted))
    return client.change_backends(names, wanted)


def _warn(consequences: Iterable[str]) -> None:
    """Write what a change means for the traffic. A command does not ask, because scripts run commands."""
    write_error("".join(f"nftlb: warning: {consequence}\n" for consequence in consequences))


def _left_line(target: NamedTarget, change: str) -> str:
    """The line about a backend that was changed, and left its pool before the answer was written."""
    return f"{target}: {change}, and is no backend of the pool any more: DNS or a reload removed it\n"


def _labelled(labels: Wanted, client: DaemonClient) -> tuple[NamedTarget, ...]:
    """The backends of all pools that have these labels. ConfigError if there is none."""
    pools = client.status().pools
    refuse_unknown_labels(labels, pools)
    return tuple(
        NamedTarget(pool.name, backend.name)
        for pool in pools
        for backend in pool.backends
        if has_labels(backend.labels, labels)
    )


def _change(daemon: DaemonAccess, target: NamedTarget, wanted: Mapping[str, str | int]) -> None:
    client = daemon.writer()
    try:
        _warn(client.consequences_of_change(*target, wanted))
        changed = client.change(*target, wanted)
    except Unknown as error:
        raise name_error(error, *target, client) from error
    except Conflicting:
        change = ", ".join(str(value) if name == "admin" else f"{name} {value}" for name, value in wanted.items())
        write_output(_left_line(target, change))
        return
    write_output(f"{target}: {changed_text(target.backend, changed)}\n")


def changed_text(backend: str, changed: BackendView | NameView) -> str:
    """The state of a backend after a change, in one line: what is kept of the backend if `changed` is its name."""
    if isinstance(changed, NameView):
        kept = changed.kept.get(backend, "nothing")
        return f"not in the answers of DNS for {changed.lookup} now; kept until it returns: {kept}"
    return change_text(changed)


def change_text(backend: BackendView) -> str:
    """The state of a backend after a change, in one line."""
    health = "up" if backend.up else "down"
    agent = f" (its agent: {backend.agent})" if backend.agent not in {None, "enabled"} else ""
    priority = "" if backend.priority == _USUAL_PRIORITY else f", priority {backend.priority}"
    share = f"{backend.share:.1%} of the pool's packets"
    return f"{backend.admin}{agent}, weight {backend.weight}{priority}, {health}, {share}"


# --- the backends of a pool -------------------------------------------------------------------------------------------


class _Server(NamedTuple):
    """The address or host name of a backend, and its port; without one, a packet keeps its port."""

    address: str
    port: int | None


def _server(_: click.Context, __: click.Parameter, value: str) -> _Server:
    """Read `ADDRESS:PORT`, `[ADDRESS]:PORT`, a bare address or a host name. The daemon checks the address."""
    address, port = value, ""
    if value.startswith("["):
        address, bracket, rest = value[1:].partition("]")
        if not bracket or ":" not in address or (rest and not rest.startswith(":")):
            raise click.BadParameter(_bad_server(value))
        port = rest[1:]
    elif value.count(":") == 1:
        address, port = value.split(":")
        if not port:
            raise click.BadParameter(_bad_server(value))
    if not address or not value.isprintable():
        raise click.BadParameter(_bad_server(value))
    if port and not (port.isascii() and port.isdecimal() and len(port) < 6 and 1 <= int(port) <= _MOST_PORT):  # noqa: PLR2004
        raise click.BadParameter(f"{port!r} is not a port; {_advice(port, port=True)}allowed: 1 to {_MOST_PORT}")
    return _Server(address, int(port) if port else None)


def _bad_server(value: str) -> str:
    advice = _advice(value)
    return (
        f"{value!r} is not the address of a backend; {advice}allowed: 10.0.0.11:5353, [2001:db8::11]:5353, or without "
        "a port"
    )


def _advice(found: str, *, port: bool = False) -> str:
    """What is meant by a bad server or port, as a part of a message."""
    from nftlb.config import meant  # noqa: PLC0415 - loads pydantic, and is needed for a bad value only

    advice = meant.number("a port", found) if port else meant.server(found)
    return f"{printable(advice)}; " if advice else ""


@click.command("add", epilog=examples("nftlb add dns/ns3 10.0.0.13:5353", "nftlb add dns/ns4 10.0.0.14:53 --weight 2"))
@click.argument("target", metavar="POOL/BACKEND", callback=_target, shell_complete=complete_pools)
@click.argument("server", metavar="ADDRESS:PORT", callback=_server)
@click.option("--weight", type=WEIGHT, metavar="N", help="The weight of the backend. [1]")
@click.option("--priority", type=PRIORITY, metavar="N", help="Its priority. [1]")
@label_option("A label of the backend. Repeatable.")
@daemon_options
def add_command(
    daemon: DaemonAccess,
    target: NamedTarget,
    server: _Server,
    weight: int | None,
    priority: int | None,
    labels: Wanted,
) -> None:
    """Add a backend to a pool of the running daemon. Survives restarts, and is not written to the file.

    Without a port, packets keep theirs. In place of an address there may be a host name.
    """
    if repeated := sorted({name for name, _ in labels if [other for other, _ in labels].count(name) > 1}):
        raise click.UsageError(
            f"--label {repeated[0]} was given with several values; allowed: one value for each name."
        )
    wanted: dict[str, object] = {
        "name": target.backend,
        "address": server.address,
        "port": server.port,
        "weight": weight,
        "priority": priority,
        "labels": dict(labels) or None,
    }
    client = daemon.writer()
    try:
        client.add(target.pool, {name: value for name, value in wanted.items() if value is not None})
    except Unknown as error:
        raise name_error(error, target.pool, "", client) from error
    write_output(f"{target}: added\n")


@click.command("delete", epilog=examples("nftlb delete dns/ns3"))
@_backend_argument
@daemon_options
def delete_command(daemon: DaemonAccess, target: NamedTarget) -> None:
    """Delete a backend from a pool of the running daemon. A backend of the file returns with the next reload.

    The last backend of a pool can't be deleted. `nftlb drain POOL/BACKEND --wait` ends its traffic before.
    """
    client = daemon.writer()
    try:
        _warn(client.consequences_of_deletion(*target))
        client.delete(*target)
    except Unknown as error:
        raise name_error(error, *target, client) from error
    write_output(f"{target}: deleted\n")
