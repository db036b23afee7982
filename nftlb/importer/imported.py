"""What an import comes to. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .remark import Remark


@dataclass(frozen=True)
class Imported:
    """`text` is a configuration of ours, in YAML; `remarks` are in the order of the lines they are about.

    `origins` tells for lines of the text, counted from 1, which line of which file they come from.
    """

    text: str
    remarks: tuple[Remark, ...]
    origins: dict[int, tuple[str, int]] = field(default_factory=dict)

    def origin(self, line: int) -> tuple[str, int] | None:
        """Where a line of the text is from; None if it is nobody's."""
        while line > 0 and line not in self.origins:
            line -= 1
        return self.origins.get(line)
