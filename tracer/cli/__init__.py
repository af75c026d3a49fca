"""The command line: a group that loads a command when it is called, and not before."""

from __future__ import annotations

from importlib import import_module

import click

from tracer.version import __version__

__all__ = ["cli", "global_options", "main", "show_help"]

# name: module, attribute, help. Here, since asking the commands for their help would load them.
COMMANDS = {
    "sessions": ("tracer.cli.api", "sessions", "Start sessions and add events to them."),
    "events": ("tracer.cli.api", "events", "Store, change, read and find events."),
    "serve": ("tracer.cli.serve", "serve", "Run the local collector."),
    "push": ("tracer.cli.push", "push", "Upload what local mode recorded."),
    "spool": ("tracer.cli.spool", "spool", "Look at the journal, send or clear what is left."),
    "doctor": ("tracer.cli.doctor", "doctor", "Show settings, and what would be masked."),
    "demo": ("tracer.cli.demo", "demo", "Record a made-up agent, to look at."),
}


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])


def global_options() -> list[click.Parameter]:
    """Return the options that the root and every command of the API take."""
    return [
        click.Option(
            ["--api-key"],
            metavar="KEY",
            help="Prefer the variable HH_API_KEY: other users of this machine can see a command "
            "line, with `ps` for instance.",
        ),
        click.Option(["--base-url"], metavar="URL", help="Server to call instead of HH_API_URL."),
        click.Option(
            ["--verbose"],
            is_flag=True,
            help="Log URL, masked key and version to standard error.",
        ),
    ]


def show_help(ctx: click.Context, **_: object) -> None:
    """Print the help of a group that was called without a command."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


cli = _Lazy(
    "tracer",
    params=global_options(),
    callback=click.pass_context(show_help),
    invoke_without_command=True,
    help="Record, store and look at the traces of LLM agents.",
)
cli = click.version_option(__version__, message="%(prog)s %(version)s")(cli)


def main() -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 wrong usage."""
    cli.main(prog_name="tracer")
