"""`nftlb` itself: its commands by name, none of which is imported before it is called."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

import click
from click.shell_completion import CompletionItem

from nftlb.cli.names import suggestion
from nftlb.cli.output import write

if TYPE_CHECKING:
    from collections.abc import Mapping


class Entry(NamedTuple):
    """Where a command is, as MODULE:NAME, and what the list of commands says of it."""

    place: str
    summary: str


COMMANDS = {
    "check": Entry("nftlb.cli.check:check", "Validate a configuration; silent when it is good."),
    "compile": Entry("nftlb.cli.compile:compile_", "Show the ruleset as nft text; needs no root."),
    "diff": Entry("nftlb.cli.diff:diff", "Compare the kernel with a configuration."),
    "apply": Entry("nftlb.cli.apply:apply", "Load a configuration once, atomically."),
    "run": Entry("nftlb.cli.run:run", "The daemon: balance, check the backends, follow their health."),
    "restore": Entry("nftlb.cli.restore:restore", "Load what the daemon last had, at boot."),
    "remove": Entry("nftlb.cli.remove:remove", "Take our tables away."),
    "status": Entry("nftlb.cli.status:status", "Show what the daemon knows."),
    "top": Entry("nftlb.cli.top:top", "Show every backend's packets per second, live."),
    "drain": Entry("nftlb.cli.operate:drain", "Give a backend nothing new."),
    "enable": Entry("nftlb.cli.operate:enable", "Give a backend packets again."),
    "maintenance": Entry("nftlb.cli.operate:maintenance", "Take a backend out at once."),
    "weight": Entry("nftlb.cli.operate:weight", "Set a backend's weight."),
    "reload": Entry("nftlb.cli.reload:reload", "Have the daemon read its file again."),
    "explain": Entry("nftlb.cli.explain:explain", "Tell which pool takes a packet, which slots, which rewrite."),
    "doctor": Entry("nftlb.cli.doctor:doctor", "Tell what on this host would stop it, and the mend."),
    "import": Entry("nftlb.cli.importing:import_", "Turn keepalived's or LVS's configuration into ours."),
    "schema": Entry("nftlb.cli.schema:schema", "Show the JSON Schema of the configuration."),
    "demo": Entry("nftlb.cli.demo:demo", "A whole lab in namespaces, no root needed."),
    "completion": Entry("nftlb.cli.completion:completion", "Show the script that teaches a shell to complete."),
}
"""In the order in which the help shows them."""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called; its help and completion need no more than the table."""

    def __init__(self, *args: Any, entries: Mapping[str, Entry], **options: Any) -> None:
        super().__init__(*args, **options)
        self._entries = entries

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(self._entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._entries:
            ctx.fail(f"No such command: {cmd_name}{suggestion(cmd_name, self._entries)}")
        module, _, name = self._entries[cmd_name].place.partition(":")
        command = getattr(import_module(module), name)
        if not isinstance(command, click.Command):
            raise TypeError(module)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in self._entries.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        fitting = [
            CompletionItem(name, help=entry.summary)
            for name, entry in self._entries.items()
            if name.startswith(incomplete)
        ]
        return fitting + click.Command.shell_complete(self, ctx, incomplete)


def _show_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from importlib.metadata import version  # noqa: PLC0415 - takes longer than all the rest

        write(f"nftlb {version('nftlb')}\n")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    entries=COMMANDS,
    help="A UDP-first load balancer for Linux: pools in a YAML file, compiled to nftables.",
    epilog="""Exit status: 0 done; 1 the input is bad; 2 usage; 3 the kernel or the system refused; 4 the daemon can't
        be reached. (diff: 0 same, 1 differs, 2 bad input or usage, 3 refused.)

        To begin with: `nftlb demo`, `nftlb doctor`, `nftlb COMMAND --help`.""",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and exit.",
)
def root() -> None:
    pass
