"""What `nftlb top` shows, and how keys change it. Pure: the command carries the actions out."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from .rates import MOST_FAULTS, Order, head_lines, rate_table_lines
from .screen import BACKSPACE, DOWN, ESCAPE, PAGE_DOWN, PAGE_UP, QUIT_KEYS, RETURN, UP
from .terminal import Colour

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from .rates import RateRow, Sample
    from .terminal import TextStyle

MOST_WEIGHT = 256
_PAGE = 10
_LONGEST_INPUT = 60
_MOST_CONSEQUENCES = 4


class Proposal(NamedTuple):
    """A change of a backend that the user has asked for and has not confirmed yet."""

    pool: str
    backend: str
    wanted: Mapping[str, str | int]
    text: str
    """The change in words: `drain dns/ns1`."""


class Quit(NamedTuple):
    """End the command."""


class Preview(NamedTuple):
    """Find the consequences of a change out, and ask the user."""

    proposal: Proposal


class CarryOut(NamedTuple):
    """Carry a change out, which the user has confirmed."""

    proposal: Proposal


Action: TypeAlias = Quit | Preview | CarryOut


class Typing(StrEnum):
    """What the user is typing."""

    NOTHING = ""
    FILTER = "filter"
    WEIGHT = "weight"


@dataclass(frozen=True, slots=True)
class TopView:
    """What is shown. `chosen` is the name of a backend, POOL/BACKEND; `note` is the result of the last key."""

    order: Order = Order.RATE
    filter: str = ""
    chosen: str = ""
    typing: Typing = Typing.NOTHING
    typed: str = ""
    proposal: Proposal | None = None
    consequences: tuple[str, ...] = field(default=())
    note: str = ""

    def asking(self, proposal: Proposal, consequences: Sequence[str]) -> TopView:
        """The view that asks whether to carry a change out."""
        return replace(self, proposal=proposal, consequences=tuple(consequences), note="")

    def matches(self, row: RateRow) -> bool:
        """Whether a row is shown: its name, address, state, admin state or a label NAME=VALUE contains the filter."""
        backend = row.backend
        states = ("up" if backend.up else "down", "standby" if backend.standby else "", backend.admin)
        labels = (f"{name}={text}" for name, text in backend.labels.items())
        texts = (row.name, backend.endpoint, *states, *labels)
        return any(self.filter.lower() in text.lower() for text in texts)


def press(view: TopView, key: str, names: Sequence[str]) -> tuple[TopView, Action | None]:
    """The view after a key, and what to do. `names`: the backends that are shown, in their order."""
    if view.proposal is not None:
        proposal, closed = view.proposal, replace(view, proposal=None, consequences=(), note="")
        return (closed, CarryOut(proposal)) if key in {"y", "Y"} else (replace(closed, note="nothing changed"), None)
    if view.typing is not Typing.NOTHING:
        return _typed(view, key)
    view = replace(view, note="")
    action: Action | None = None
    if key in QUIT_KEYS:
        action = Quit()
    elif key in _STEPS:
        view = replace(view, chosen=_moved(view.chosen, _STEPS[key], names))
    elif key == "s":
        orders = list(Order)
        view = replace(view, order=orders[(orders.index(view.order) + 1) % len(orders)])
    elif key == "/":
        view = replace(view, typing=Typing.FILTER, typed=view.filter)
    elif key == ESCAPE:
        view = replace(view, filter="", chosen="")
    elif key in _ADMIN or key == "w":
        view, action = _change(view, key, names)
    return view, action


_STEPS = {UP: -1, "k": -1, DOWN: 1, "j": 1, PAGE_UP: -_PAGE, PAGE_DOWN: _PAGE}
_ADMIN = {"d": ("drain", "drain"), "e": ("enable", "enabled"), "m": ("maintenance", "maintenance")}
"""By key, the command and the admin state."""


def _moved(chosen: str, step: int, names: Sequence[str]) -> str:
    if not names:
        return ""
    if chosen not in names:
        return names[0] if step > 0 else names[-1]
    return names[min(max(names.index(chosen) + step, 0), len(names) - 1)]


def _change(view: TopView, key: str, names: Sequence[str]) -> tuple[TopView, Action | None]:
    if view.chosen not in names:
        return replace(view, note="choose a backend first, with the arrow keys"), None
    if key == "w":
        return replace(view, typing=Typing.WEIGHT, typed=""), None
    command, admin = _ADMIN[key]
    return view, Preview(_proposal(view.chosen, {"admin": admin}, f"{command} {view.chosen}"))


def _proposal(chosen: str, wanted: Mapping[str, str | int], text: str) -> Proposal:
    pool, _, backend = chosen.partition("/")
    return Proposal(pool, backend, wanted, text)


def _typed(view: TopView, key: str) -> tuple[TopView, Action | None]:
    """The view after a key while the user types the filter or a weight."""
    done = replace(view, typing=Typing.NOTHING, typed="")
    if key in {ESCAPE, "\x03", "\x04"}:
        return done, None
    if key == BACKSPACE:
        return _with_text(view, view.typed[:-1]), None
    if key != RETURN:
        fits = len(key) == 1 and key.isprintable() and len(view.typed) < _LONGEST_INPUT
        return (_with_text(view, view.typed + key) if fits else view), None
    if view.typing is Typing.FILTER:
        return replace(done, filter=view.typed), None
    if not (view.typed.isascii() and view.typed.isdecimal() and int(view.typed) <= MOST_WEIGHT):
        return replace(done, note=f"{view.typed or 'nothing'} is not a weight; allowed: 0 to {MOST_WEIGHT}"), None
    weight = int(view.typed)
    return done, Preview(_proposal(view.chosen, {"weight": weight}, f"weight {view.chosen} {weight}"))


def _with_text(view: TopView, text: str) -> TopView:
    """A filter has an effect while it is typed."""
    return replace(view, typed=text, filter=text if view.typing is Typing.FILTER else view.filter)


# --- lines ------------------------------------------------------------------------------------------------------------

_HELP = "q quit  s sort: {}  / filter{}  d drain  e enable  m maintenance  w weight"


def screen_lines(
    view: TopView, now: Sample, rows: list[RateRow], moment: datetime, style: TextStyle, height: int, trouble: str = ""
) -> list[str]:
    """The lines to show, at most `height`: the daemon and its faults, the rows, and what the keys do.

    `rows`: those that the view matches. `trouble`: why there is no newer sample.
    """
    foot = _foot(view, style)[:height]
    head = [*head_lines(now, rows, moment, style, trouble, MOST_FAULTS), ""][: height - len(foot)]
    titles, *table = rate_table_lines(rows, style, "  ")
    room = height - len(head) - len(foot)
    lines = [titles, *_window(view, rows, table, room - 1)][: max(room, 0)]
    return [style.encodable(line) for line in (*head, *lines, *foot)]


def _window(view: TopView, rows: list[RateRow], table: list[str], room: int) -> list[str]:
    """As many rows as fit, with the chosen one among them, and a line with the number of the others."""
    names = [row.name for row in rows]
    at = names.index(view.chosen) if view.chosen in names else 0
    lines = [f">{line[1:]}" if name == view.chosen else line for name, line in zip(names, table, strict=True)]
    if len(lines) <= room:
        return lines
    kept = max(room - 1, 0)
    first = min(max(at - kept // 2, 0), len(lines) - kept)
    return [*lines[first : first + kept], f"... {len(lines) - kept} more"]


def _foot(view: TopView, style: TextStyle) -> list[str]:
    """What is asked of the user, or what the keys do."""
    if view.proposal is not None:
        found = list(view.consequences[:_MOST_CONSEQUENCES])
        if len(view.consequences) > _MOST_CONSEQUENCES:
            found[-1] = f"and {len(view.consequences) - _MOST_CONSEQUENCES + 1} more"
        lines = [style.paint(style.cut(f"! {line}", style.width), Colour.WARNING) for line in found]
        return [
            *lines,
            style.paint(style.cut(f"{view.proposal.text}? y: yes, any other key: no", style.width), Colour.BOLD),
        ]
    if view.typing is Typing.FILTER:
        return [style.cut(f"filter: {view.typed}_  (return: keep, escape: end)", style.width)]
    if view.typing is Typing.WEIGHT:
        return [style.cut(f"weight of {view.chosen}, 0 to {MOST_WEIGHT}: {view.typed}_", style.width)]
    if view.note:
        return [style.paint(style.cut(view.note, style.width), Colour.BOLD)]
    shown = f": {view.filter}" if view.filter else ""
    return [style.paint(style.cut(_HELP.format(view.order, shown), style.width), Colour.FAINT)]
