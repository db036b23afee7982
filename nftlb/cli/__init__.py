"""The command. Each file of this package that is named after a command is imported when that one is called."""

from __future__ import annotations

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status; without arguments, with those of the process."""
    try:
        from nftlb.cli.failure import guarded  # noqa: PLC0415 - who presses ^C at once gets no traceback
        from nftlb.cli.group import root  # noqa: PLC0415
    except KeyboardInterrupt:
        return 130
    return guarded(lambda: root.main(arguments, prog_name="nftlb", standalone_mode=False))
