"""The command group `nftlb`, and `nftlb completion`. The module of another subcommand is imported when it is called."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import BashComplete, CompletionItem, FishComplete, ZshComplete

from nftlb.errors import EXIT_STATUSES

from .arguments import examples, suggestion
from .output import write_output

if TYPE_CHECKING:
    from collections.abc import Mapping

COMMANDS = {
    "check": "Validate a configuration; prints nothing if it is valid.",
    "compile": "Print the ruleset as nft text; needs no root.",
    "diff": "Compare the kernel's rules with a configuration.",
    "apply": "Load a configuration once, atomically.",
    "run": "Run the daemon: balance, check backends, follow their health.",
    "prepare": "Write the rules that a first start loads at once.",
    "restore": "Load the daemon's last rules at boot.",
    "remove": "Delete nftlb's tables, connections and routing rules.",
    "status": "Show the state of the daemon, pools and backends.",
    "health": "Tell scripts and Nagios whether the pools are ready.",
    "top": "Show every backend's packets per second, live; operate by keys.",
    "events": "Print what happens, when it happens.",
    "history": "Print the last events.",
    "ruleset": "Print the rules that the daemon loaded, or their last changes.",
    "clients": "Show the sources of a pool with the most packets.",
    "drain": "Stop new traffic to a backend.",
    "enable": "End drain or maintenance of a backend.",
    "maintenance": "Stop all traffic to a backend at once.",
    "weight": "Set a backend's weight.",
    "priority": "Set a backend's priority.",
    "add": "Add a backend to a pool of the running daemon.",
    "delete": "Delete a backend from a pool of the running daemon.",
    "reload": "Make the daemon read its configuration file again.",
    "explain": "Show the pool, slots and rewrite that a packet gets.",
    "doctor": "Find problems of this host, and how to fix them.",
    "import": "Convert a configuration of keepalived, ldirectord or LVS.",
    "schema": "Print the JSON Schema of the configuration file.",
    "demo": "Show nftlb at work in namespaces; needs no root.",
    "completion": "Print a script for shell completion.",
}
"""The commands, in the order of the help, each with its line there."""
_MODULES = {
    **dict.fromkeys(("drain", "enable", "maintenance", "weight", "priority", "add", "delete"), "operate"),
    "history": "events",
    "completion": "group",
    "import": "importing",
}
"""The modules of `nftlb.cli` with the function `NAME_command`, where the module has another name than the command."""


_OTHER_WORDS = {
    **dict.fromkeys(("help", "usage"), "--help"),
    "version": "--version",
    **dict.fromkeys(("test", "configtest", "validate", "verify", "lint"), "check"),
    **dict.fromkeys(("load", "start"), "run, or apply to load the rules without a daemon"),
    "stop": "systemctl stop nftlb; the rules stay, and traffic goes on",
    **dict.fromkeys(("restart", "reboot"), "systemctl restart nftlb"),
    **dict.fromkeys(
        ("flush", "unload", "clear", "reset"), "remove, after the end of the daemon; all rules are deleted"
    ),
    **dict.fromkeys(("list", "ls", "show", "stat", "stats", "info", "pools", "backends"), "status"),
    **dict.fromkeys(("log", "logs", "journal"), "events, or history"),
    "monitor": "top, or status --watch",
    **dict.fromkeys(("disable", "down", "suspend", "offline", "pause"), "drain, or maintenance"),
    **dict.fromkeys(("undrain", "unmaintenance", "up", "ready", "activate", "online", "resume", "revert"), "enable"),
    **dict.fromkeys(("set", "edit", "modify"), "weight, priority, drain, maintenance or enable"),
    **dict.fromkeys(("create", "new", "register"), "add"),
    **dict.fromkeys(("del", "rm", "remove-backend", "deregister"), "delete"),
    **dict.fromkeys(("rules", "dump"), "ruleset"),
    **dict.fromkeys(("convert", "migrate"), "import"),
}
"""Words of other programs, with the command here. The most similar command may do the opposite, as `enable` does."""


class LazyGroup(click.Group):
    """A group that imports a command when it is called. Help and completion of command names use only `entries`."""

    def __init__(self, *args: Any, entries: Mapping[str, str], **options: Any) -> None:
        super().__init__(*args, **options)
        self._entries = entries

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(self._entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._entries:
            other = _OTHER_WORDS.get(cmd_name)
            ctx.fail(f"No such command: {cmd_name}{f'; use {other}' if other else suggestion(cmd_name, self._entries)}")
        module = import_module(f"{__package__}.{_MODULES.get(cmd_name, cmd_name)}")
        command = getattr(module, f"{cmd_name}_command")
        if not isinstance(command, click.Command):
            raise TypeError(cmd_name)
        if not any("--version" in option.opts for option in command.params):
            # A user may add --version to any command line; the help shows the option once, at the group.
            version = click.Option(
                ["--version"], is_flag=True, is_eager=True, expose_value=False, hidden=True, callback=_show_version
            )
            command.params.append(version)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(self._entries.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        fitting = [
            CompletionItem(name, help=line) for name, line in self._entries.items() if name.startswith(incomplete)
        ]
        return fitting + click.Command.shell_complete(self, ctx, incomplete)


def _show_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from importlib.metadata import version  # noqa: PLC0415 - the import takes longer than all the rest

        write_output(f"nftlb {version('nftlb')}\n")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    entries=COMMANDS,
    help="A UDP-first load balancer for Linux: pools in a YAML file, compiled to nftables.",
    epilog=f"""Exit status: {"; ".join(f"{status} {meaning}" for status, meaning in EXIT_STATUSES.items())}.
        `nftlb diff` ends with 1 for differences, and with 2 for bad input; `nftlb health` ends with 1 if a pool is not
        ready, and has the exit statuses of Nagios plugins with --nagios.

        To begin: `nftlb demo`, `nftlb doctor`, `nftlb COMMAND --help`.""",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "-v",
    "-V",
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and exit.",
)
def root() -> None:
    pass


_SHELLS = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}


@click.command(
    "completion",
    epilog=examples(
        "nftlb completion bash > /etc/bash_completion.d/nftlb",
        'nftlb completion zsh > "${fpath[1]}/_nftlb"',
        "nftlb completion fish > ~/.config/fish/completions/nftlb.fish",
    ),
)
@click.argument("shell", type=click.Choice(list(_SHELLS)))
@click.pass_context
def completion_command(ctx: click.Context, shell: str) -> None:
    """Print the script that makes a shell complete nftlb's commands, options, files, pools and backends."""
    # For each completion the script runs nftlb with the variable _NFTLB_COMPLETE, which click handles.
    write_output(_SHELLS[shell](ctx.find_root().command, {}, "nftlb", "_NFTLB_COMPLETE").source() + "\n")
