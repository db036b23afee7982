"""The `nftlb` command. The module of a subcommand is imported only when that subcommand is called."""

from __future__ import annotations

import atexit
import gc
import os
import sys

__all__ = ["main"]

_NO_PLUGINS = ("PYDANTIC_DISABLE_PLUGINS", "__all__")
"""pydantic looks for plugins in all packages of the host. None shall change how a file is read, and the search takes
longer than the validation of a small file."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command with `arguments`, by default those of the process, and return its exit status.

    No garbage is collected: nearly all objects of a command live until its end, and to look at two million objects,
    those of 10,000 pools of four backends, took a tenth of the time of `nftlb compile`. Commands that run on after
    their load enable the collector, as `nftlb run` and `nftlb top` do.
    """
    gc.disable()
    # At its end, Python looks for garbage among all objects, which takes a tenth of the time of a short command. Frozen
    # objects are left out. The kernel frees the memory of a process that ends.
    atexit.register(gc.freeze)
    os.environ.setdefault(*_NO_PLUGINS)
    given = sys.argv[1:] if arguments is None else arguments
    try:
        from .group import root  # noqa: PLC0415 - inside the try: ^C during the imports must not print a traceback
        from .output import guarded  # noqa: PLC0415

        return guarded(lambda: root.main(given, prog_name="nftlb", standalone_mode=False))
    except KeyboardInterrupt:
        return 130
    finally:
        gc.enable()
