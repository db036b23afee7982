"""What a block says more than once, or says so that keepalived does not heed it: read on, and noted. No I/O."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from nftlb.errors import ConfigError
from nftlb.model.reading import show

from .remark import fault

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .draft import Notes
    from .statements import Statement

_TRUE, _FALSE = {"on", "true", "yes"}, {"off", "false", "no"}


@contextmanager
def ignoring(notes: Notes, statement: Statement) -> Iterator[None]:
    """Read a value that keepalived passes over, with a complaint, if it does not fit; here it becomes a remark."""
    try:
        yield
    except ConfigError as error:
        notes.missing(statement.line, f"{statement}: {error.problems[0].message}; keepalived ignores this value")


def value(statement: Statement, file: str) -> str:
    """The value that a statement has to have; without it keepalived does not start."""
    if not statement.values:
        raise fault(file, statement.line, f"{statement.key} has no value; allowed: {statement.key} VALUE")
    return statement.values[0]


def name_of(statement: Statement, notes: Notes) -> str | None:
    """A name, which keepalived does without where a statement says none."""
    if not statement.values:
        notes.missing(statement.line, f"{statement}: it has no value; keepalived ignores it")
        return None
    return statement.values[0]


def truth(statement: Statement, file: str) -> bool:
    """Whether an option is on; it is if it says nothing more."""
    if not statement.values:
        return True
    word = statement.values[0].lower()
    if word not in _TRUE | _FALSE:
        message = f"{show(word)} is not a boolean; allowed: on, off, true, false, yes, no"
        raise fault(file, statement.line, message)
    return word in _TRUE


class Said:
    """The statements of one block by what they set. Of two that set the same one counts, and the other is noted."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._counts: dict[str, Statement] = {}

    def last(self, key: str, statement: Statement) -> None:
        """Let this statement count, and no earlier one."""
        earlier = self._counts.get(key)
        if earlier is not None:
            self._notes.missing(earlier.line, f"{earlier}: line {statement.line} says otherwise, and comes later")
        self._counts[key] = statement

    def first(self, key: str, statement: Statement) -> bool:
        """Let the earliest statement count; tell whether it is this one."""
        earlier = self._counts.setdefault(key, statement)
        if earlier is not statement:
            self._notes.missing(statement.line, f"{statement}: keepalived keeps to line {earlier.line}")
        return earlier is statement
