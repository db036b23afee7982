"""What an import comes to. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .remark import Remark


@dataclass(frozen=True)
class Imported:
    """`text` is a configuration of ours, in YAML; `remarks` are in the order of the lines they are about."""

    text: str
    remarks: tuple[Remark, ...]
