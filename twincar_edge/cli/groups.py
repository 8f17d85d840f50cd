"""Grouped options: each option declares its group, and a command's help has one section per group."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click
from click.formatting import measure_table

from twincar_edge.cli import commands

Command = TypeVar("Command", bound=Callable[..., Any])

COMMON = "Common options"
_FIRST_COLUMN = 30  # click's own maximum width


class GroupedOption(click.Option):
    """An option that belongs to a group in its command's help.

    Attributes:
        group: its section in the help, one of the command's `groups`.
        common: list it in the first section instead, with the options needed most.
    """

    def __init__(self, *args: Any, group: str, common: bool = False, **attrs: Any) -> None:
        """Create the option; further arguments go to `click.Option`."""
        super().__init__(*args, **attrs)
        self.group = group
        self.common = common

    def get_help_extra(self, ctx: click.Context) -> Any:
        """Leave out the range: the help text gives the unit, and errors name the range."""
        extra = super().get_help_extra(ctx)
        extra.pop("range", None)
        return extra


class GroupedCommand(commands.Command):
    """A command whose help shows its options in groups.

    Attributes:
        groups: titles of the help's sections, in order.
    """

    def __init__(self, *args: Any, groups: Sequence[str], **attrs: Any) -> None:
        """Create the command; further arguments go to `Command`."""
        super().__init__(*args, **attrs)
        self.groups = tuple(groups)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section per group that has options, with the second column aligned across sections."""
        sections: dict[str, list[tuple[str, str]]] = {title: [] for title in (COMMON, *self.groups)}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                sections[_section(parameter)].append(record)
        width = min(_FIRST_COLUMN, measure_table(row for rows in sections.values() for row in rows)[0])
        for title, rows in sections.items():
            if rows:
                with formatter.section(title):
                    formatter.write_dl([(first.ljust(width), text) for first, text in rows])


def _section(option: click.Option) -> str:
    return option.group if isinstance(option, GroupedOption) and not option.common else COMMON


def option(
    *names: str, group: str, common: bool = False, cls: type[GroupedOption] = GroupedOption, **attrs: Any
) -> Callable[[Command], Command]:
    """Add an option to a help group of a command; otherwise like `click.option`."""
    return click.option(*names, cls=cls, group=group, common=common, **attrs)
