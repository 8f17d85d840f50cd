"""`twincar-edge events`: the visits that `watch` has put in its store."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from twincar_edge.cli.moments import day_option, moment_option

if TYPE_CHECKING:
    from twincar_edge.runtime.sinks.store import EventFilter, StoredVisit

_LEVELS = ("year", "model", "make", "unknown")
_TABLE_ROWS = 100


_FILTERS = (
    click.option(
        "--since",
        metavar="TIME",
        callback=moment_option,
        help="Began at or after: 1h or 2d (ago), today, yesterday, or 2025-03-01T12:00.",
    ),
    click.option("--until", metavar="TIME", callback=moment_option, help="Began before."),
    click.option(
        "--on", metavar="DAY", callback=day_option, help="Began on this day: today, yesterday, or 2025-03-01."
    ),
    click.option("--camera", help="Of this camera."),
    click.option("--make", help="Of this make, such as BMW."),
    click.option("--model", help="With this in the model's name."),
    click.option("--name", help="With this anywhere in the name."),
    click.option(
        "--level",
        "levels",
        type=click.Choice(_LEVELS),
        multiple=True,
        help="Whose answer goes so far. May be given again.",
    ),
    click.option("--limit", type=click.IntRange(min=1), help="The newest so many."),
    click.option(
        "--store", type=click.Path(path_type=Path), help="The store's file.  [default: the one in the state folder]"
    ),
)


def _filtered(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that choose visits; it takes them as `wanted` and `store`.

    What stands before `export` counts for it too.
    """

    @functools.wraps(command)
    def with_filter(
        *args: Any, store: Path | None, on: tuple[datetime, datetime] | None = None, **options: Any
    ) -> None:
        from twincar_edge.runtime.sinks.store import EventFilter
        from twincar_edge.runtime.storage.state import StateFolder

        context = click.get_current_context()
        names = {field.name for field in fields(EventFilter)}
        given = {name: options.pop(name, None) for name in names}
        if on is not None:
            if given["since"] or given["until"]:
                raise click.UsageError("--on cannot be combined with --since or --until")
            given["since"], given["until"] = on
        before, store_before = context.obj or (EventFilter(), None)
        wanted = replace(before, **{name: value for name, value in given.items() if value not in (None, ())})
        context.obj = wanted, store or store_before
        command(*args, wanted=wanted, store=store or store_before or StateFolder().store, **options)

    for option in reversed(_FILTERS):
        with_filter = option(with_filter)
    return with_filter


class _Visits(click.Group):
    """Takes what is not a subcommand's name for the id of a visit to show."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.commands and not args[0].startswith("-"):
            args = ["show", *args]
        return super().resolve_command(ctx, args)


@click.group("events", cls=_Visits, invoke_without_command=True, subcommand_metavar="[ID | export | resend]")
@click.option("--json", "as_json", is_flag=True, help="JSON lines with times in UTC, not a table.")
@click.option("--utc", is_flag=True, help="Show times in UTC, not in the local time zone.")
@_filtered
def command(wanted: EventFilter, store: Path, as_json: bool, utc: bool) -> None:
    """Print the visits in the store, in the order in which they began; a running `watch` is not disturbed.

    The table shows the newest 100 visits unless --limit says otherwise, and as many columns as the terminal is wide.
    With an ID, or how it begins, it shows all of that visit, with the paths of its picture and clip.
    `twincar-edge events export --csv FILE` writes visits for a spreadsheet; `twincar-edge events resend` sends events
    again that a receiver has refused.
    """
    if click.get_current_context().invoked_subcommand is not None:
        return
    if as_json:
        _print(visit.event.to_json() + "\n" for visit in _read(store, wanted))
    else:
        _print_table(store, wanted, utc)


@command.command("show")
@click.argument("visit", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="One line of JSON with times in UTC.")
@click.option("--utc", is_flag=True, help="Show times in UTC, not in the local time zone.")
@_filtered
def show(wanted: EventFilter, store: Path, visit: str, as_json: bool, utc: bool) -> None:
    """Show all that is known of one visit: `twincar-edge events ID`, where ID may be how its id begins."""
    from twincar_edge.cli.visits import describe_visit
    from twincar_edge.runtime.sinks.store import read_visit

    parent = click.get_current_context().parent
    before = {} if parent is None else parent.params
    found = read_visit(store, visit, wanted, lambda line: click.echo(f"warning: {line}", err=True))
    if as_json or before.get("as_json"):
        _print(iter([found.event.to_json() + "\n"]))
    else:
        _print(line + "\n" for line in describe_visit(found, utc=utc or bool(before.get("utc"))))


@command.command("export")
@click.option("--csv", "target", required=True, metavar="FILE", help="The file to write, or - for standard output.")
@_filtered
def export(wanted: EventFilter, store: Path, target: str) -> None:
    """Write visits as CSV: one row each, under one header, with times in UTC."""
    from twincar_edge.files import replacing
    from twincar_edge.runtime.sinks.csv import csv_header, csv_row

    def lines() -> Iterator[str]:
        yield csv_header()
        for visit in _read(store, wanted):
            yield csv_row(visit.event)

    if target == "-":
        _print(lines())
        return
    with replacing(Path(target)) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        file.writelines(lines())


@command.command("resend")
@click.option("--sink", metavar="NAME", help="Of this sink: its kind or name.  [default: all]")
@click.option("--since", metavar="TIME", callback=moment_option, help="Refused at or after: 1h, 2d, yesterday, ….")
@click.option("--state", type=click.Path(path_type=Path), help="The state folder of watch.")
def resend(sink: str | None, since: datetime | None, state: Path | None) -> None:
    """Send again the events that a receiver refused while it took others, and that were set aside.

    A running `watch` does so within seconds, otherwise the next one; its log has the outcome.
    """
    from twincar_edge.runtime.sinks.resend import request_resend

    for name in request_resend(state, sink, since):
        click.echo(f"requested: {name}")


def _read(store: Path, wanted: EventFilter) -> Iterator[StoredVisit]:
    """Give the visits, and say in the end how many could not be read."""
    from twincar_edge.runtime.sinks.store import read_visits

    unreadable: list[str] = []
    yield from read_visits(store, wanted, unreadable.append)
    if unreadable:
        more = f" (and {len(unreadable) - 1} more)" if unreadable[1:] else ""
        click.echo(f"warning: {unreadable[0]}{more}", err=True)


def _print(lines: Iterator[str]) -> None:
    for line in lines:
        sys.stdout.write(line)


def _print_table(store: Path, wanted: EventFilter, utc: bool) -> None:
    from twincar_edge.cli.visits import print_visits

    limit = wanted.limit or _TABLE_ROWS
    visits = list(_read(store, replace(wanted, limit=limit + (wanted.limit is None))))
    more = len(visits) > limit
    if visits:
        print_visits(visits[-limit:], utc=utc)
    else:
        click.echo("no visits", err=True)
    if more:
        click.echo(f"the newest {limit}: --limit N shows more", err=True)
