"""The option `--label NAME=VALUE`, which chooses backends by their labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from nftlb.errors import ConfigError, Problem

from .daemon import complete_labels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from nftlb.client import PoolView

    Wanted = Sequence[tuple[str, str]]


def label_option(help_: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The option, which a command gets as `labels`: pairs of a name and a value."""
    return click.option(
        "--label",
        "labels",
        multiple=True,
        callback=_read,
        metavar="NAME=VALUE",
        shell_complete=complete_labels,
        help=help_,
    )


def _read(_: click.Context, __: click.Parameter, values: Iterable[str]) -> tuple[tuple[str, str], ...]:
    pairs = []
    for value in dict.fromkeys(values):
        name, _equals, text = value.partition("=")
        if not (name and text and value.isprintable()):
            raise click.BadParameter(f"{value!r} is not a label; allowed: NAME=VALUE, such as site=fra")
        pairs.append((name, text))
    return tuple(pairs)


def has_labels(labels: Mapping[str, str], wanted: Wanted) -> bool:
    """Whether a backend with these labels has all that are wanted."""
    return all(labels.get(name) == text for name, text in wanted)


def label_text(labels: Iterable[tuple[str, str]]) -> str:
    """Labels as a user writes them, with commas in between."""
    return ", ".join(f"{name}={text}" for name, text in labels)


def refuse_unknown_labels(wanted: Wanted, pools: Iterable[PoolView]) -> None:
    """Raise ConfigError if no backend of these pools has all labels that are wanted."""
    if wanted and not any(has_labels(backend.labels, wanted) for pool in pools for backend in pool.backends):
        words = "this label" if len(wanted) == 1 else "all these labels"
        raise ConfigError([Problem(f"--label {label_text(wanted)}", 0, 0, "", f"no backend has {words}")])
