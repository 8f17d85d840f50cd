"""Options in groups: each says its group where it is declared, and a command's help has a section for each group."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click
from click.formatting import measure_table

Command = TypeVar("Command", bound=Callable[..., Any])

COMMON = "Common options"
_FIRST_COLUMN = 30  # as wide as click makes it


class GroupedOption(click.Option):
    """An option that belongs to a group of its command's help.

    Attributes:
        group: the section that shows it, one of the command's `groups`.
        common: show it in the first section instead, with the options that people need first.
    """

    def __init__(self, *args: Any, group: str, common: bool = False, **attrs: Any) -> None:
        """Take the group beside what a `click.Option` takes."""
        super().__init__(*args, **attrs)
        self.group = group
        self.common = common

    def get_help_extra(self, ctx: click.Context) -> Any:
        """Leave out the range: the help says the unit, the default comes last, and an error names the range."""
        extra = super().get_help_extra(ctx)
        extra.pop("range", None)
        return extra


class GroupedCommand(click.Command):
    """A command whose help shows its options in groups.

    Attributes:
        groups: the sections in the order in which the help shows them.
    """

    def __init__(self, *args: Any, groups: Sequence[str], **attrs: Any) -> None:
        """Take the groups beside what a `click.Command` takes."""
        super().__init__(*args, **attrs)
        self.groups = tuple(groups)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a section for each group that has options; the second column begins at the same place in all."""
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
    """Give a command an option in a group of its help; otherwise as `click.option`."""
    return click.option(*names, cls=cls, group=group, common=common, **attrs)
