"""The base classes of all commands: what they refuse, and how their messages spell parameters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import click

from twincar_edge.cli.spelling import name_of, option_spelling
from twincar_edge.errors import parameter_spelling


class Command(click.Command):
    """A command that refuses an option given twice, and empty values; its messages name its own options.

    A script whose variable is unset passes an empty value, which as a path would be the current folder. An option whose
    default is empty takes it.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments.

        Raises:
            click.UsageError: they are invalid.
        """
        if not ctx.resilient_parsing:  # shell completion
            values, _, given = self.make_parser(ctx).parse_args(args=list(args))
            if not any(parameter.is_eager for parameter in given):  # --help
                _refuse_repeated(ctx, given)
                _refuse_empty(ctx, given, values)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; messages then name its options, also after its own context has ended."""
        ctx.find_root().with_resource(parameter_spelling(partial(option_spelling, self)))
        return super().invoke(ctx)


class Group(Command, click.Group):
    """A group of such commands."""

    command_class = Command


def walk(group: click.Group, path: str = "") -> Iterator[tuple[str, click.Command]]:
    """Yield all commands and subcommands below a group with their paths, in the order of the help."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        below = f"{path} {name}".lstrip()
        yield below, command
        if isinstance(command, click.Group):
            yield from walk(command, below)


def _refuse_repeated(ctx: click.Context, given: Sequence[click.Parameter]) -> None:
    for option in (one for one in given if isinstance(one, click.Option)):
        single = not (option.multiple or option.is_flag or option.count)
        if single and given.count(option) > 1:
            raise click.UsageError(f"{name_of(option)} was given twice: give it once", ctx)


def _refuse_empty(ctx: click.Context, given: Sequence[click.Parameter], values: dict[str, Any]) -> None:
    for parameter in given:
        value = values.get(parameter.name or "")
        if parameter.default != "" and "" in (value if isinstance(value, list | tuple) else [value]):
            raise click.UsageError(f"{name_of(parameter)} is empty: give a value", ctx)
