"""`nftlb completion`."""

import click
from click.shell_completion import BashComplete, FishComplete, ZshComplete

from nftlb.cli.inputs import examples
from nftlb.cli.output import write

_SHELLS = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}


@click.command(
    epilog=examples(
        "nftlb completion bash > /etc/bash_completion.d/nftlb",
        'nftlb completion zsh > "${fpath[1]}/_nftlb"',
        "nftlb completion fish > ~/.config/fish/completions/nftlb.fish",
    )
)
@click.argument("shell", type=click.Choice(list(_SHELLS)))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Show the script that makes a shell complete nftlb's commands, options and files."""
    # click runs nftlb with this variable set for every completion, and finds it by nftlb's name.
    write(_SHELLS[shell](ctx.find_root().command, {}, "nftlb", "_NFTLB_COMPLETE").source() + "\n")
