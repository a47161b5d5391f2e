"""The page of the command line, from the commands' own help."""

import click

from sparsecore.cli.command_line import commands

_WIDTH = 100


def page() -> str:
    """Return a page with the help of every command, as Markdown."""
    parts = ["# Commands", "What `sparsecore --help` and `sparsecore COMMAND --help` print."]
    parts += _parts(commands, "sparsecore", None)
    return "\n\n".join(parts) + "\n"


def _parts(command: click.Command, name: str, parent: click.Context | None) -> list[str]:
    context = click.Context(command, info_name=name, parent=parent, terminal_width=_WIDTH, max_content_width=_WIDTH)
    parts = [f"## {context.command_path}", f"```text\n{command.get_help(context).rstrip()}\n```"]
    if isinstance(command, click.Group):
        for one in command.list_commands(context):
            found = command.get_command(context, one)
            if found is not None and not found.hidden:
                parts += _parts(found, one, context)
    return parts
