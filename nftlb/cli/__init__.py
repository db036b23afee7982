"""The command. Each file of this package that is named after a command is imported when that one is called."""

from __future__ import annotations

import gc
import sys

from nftlb.preload import file_of, preload

__all__ = ["main"]

_GARBAGE = 10_000
"""New objects between two searches for circles among them; Python's own number is 700. Nearly all that a command makes
lives as long as the command. With this number imports take a tenth less processor time, and the status of 10,000
backends 0.29 s in place of 0.41 s."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status; without arguments, with those of the process."""
    gc.set_threshold(_GARBAGE)
    given = sys.argv[1:] if arguments is None else arguments
    try:
        preloaded = preload(given)
        from nftlb.cli.failure import guarded  # noqa: PLC0415 - who presses ^C at once gets no traceback
        from nftlb.cli.output import write  # noqa: PLC0415

        if preloaded.loaded and given[0] == "restore":  # that was all of its work
            told = (
                "" if {"-q", "--quiet"} & set(given) else f"{file_of(given)}: loaded the rules of {preloaded.loaded}\n"
            )
            return guarded(lambda: write(told))
        from nftlb.cli.group import root  # noqa: PLC0415
    except KeyboardInterrupt:
        return 130
    return guarded(lambda: root.main(given, prog_name="nftlb", standalone_mode=False, obj=preloaded))
