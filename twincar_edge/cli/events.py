"""`twincar-edge events`: list or export the visits stored by `watch`."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from twincar_edge.cli.commands import Group
from twincar_edge.cli.moments import day_option, moment_option
from twincar_edge.cli.options import is_standard_output, refuse_options
from twincar_edge.cli.written import print_written

if TYPE_CHECKING:
    from twincar_edge.runtime.sinks.store import EventFilter, StoredVisit

_LEVELS = ("year", "model", "make", "unknown")
_TABLE_ROWS = 100


_FILTERS = (
    click.option(
        "--since",
        metavar="TIME",
        callback=moment_option,
        help="Select visits that began at or after this time: 1h or 2d (ago), today, yesterday, or 2025-03-01T12:00.",
    ),
    click.option("--until", metavar="TIME", callback=moment_option, help="Select visits that began before this time."),
    click.option(
        "--on",
        metavar="DAY",
        callback=day_option,
        help="Select visits that began on this day: today, yesterday, or 2025-03-01.",
    ),
    click.option("--camera", help="Select visits of this camera."),
    click.option("--make", help="Select this make, for example BMW."),
    click.option("--model", help="Select models whose name contains this text."),
    click.option("--name", help="Select vehicles whose full name contains this text."),
    click.option(
        "--level",
        "levels",
        type=click.Choice(_LEVELS),
        multiple=True,
        help="Select answers of this level. Repeatable.",
    ),
    click.option("--limit", type=click.IntRange(min=1), help="Select at most this many visits, the newest ones."),
    click.option(
        "--store", type=click.Path(path_type=Path), help="Read this database.  [default: the one in the state folder]"
    ),
)


def _filtered(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that select visits; the command receives them as `wanted` and `store`.

    Options before a subcommand apply to it too.
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


class _Visits(Group):
    """Treats an argument that is not a subcommand as the id of a visit to show."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.commands and not args[0].startswith("-"):
            args = ["show", *args]
        return super().resolve_command(ctx, args)


@click.group("events", cls=_Visits, invoke_without_command=True, subcommand_metavar="[ID | export | resend]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines with times in UTC, not a table.")
@click.option("--utc", is_flag=True, help="Show times in UTC, not in the local time zone.")
@_filtered
def command(wanted: EventFilter, store: Path, as_json: bool, utc: bool) -> None:
    """Print the stored visits, ordered by start time; safe while `watch` is running.

    The table shows the newest 100 visits unless --limit says otherwise, and as many columns as fit the terminal. Given
    an ID or a prefix of one, it shows all details of that visit, with the paths of its picture and clip.
    `twincar-edge events export --csv FILE` writes visits for a spreadsheet; `twincar-edge events resend` resends events
    that a receiver has rejected.
    """
    context = click.get_current_context()
    if context.invoked_subcommand is not None:
        refused = {
            "export": ("as_json", "utc"),
            "resend": [one.name for one in context.command.params if one.name is not None],
        }
        used = context.invoked_subcommand
        refuse_options(refused.get(used, ()), f"before `{used}`")
        return
    if as_json:
        _print(visit.event.to_json() + "\n" for visit in _read(store, wanted))
    else:
        _print_table(store, wanted, utc)


@command.command("show", short_help="Show all details of one visit.")
@click.argument("visit", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON with times in UTC.")
@click.option("--utc", is_flag=True, help="Show times in UTC, not in the local time zone.")
@_filtered
def show(wanted: EventFilter, store: Path, visit: str, as_json: bool, utc: bool) -> None:
    """Show all details of one visit. ID may be a prefix; the short form is `twincar-edge events ID`."""
    from twincar_edge.cli.visits import describe_visit
    from twincar_edge.runtime.sinks.store import read_visit

    parent = click.get_current_context().parent
    before = {} if parent is None else parent.params
    found = read_visit(store, visit, wanted, lambda line: click.echo(f"warning: {line}", err=True))
    if as_json or before.get("as_json"):
        _print(iter([found.event.to_json() + "\n"]))
    else:
        _print(line + "\n" for line in describe_visit(found, utc=utc or bool(before.get("utc"))))


@command.command("export", short_help="Write visits as CSV.")
@click.option(
    "--csv",
    "target",
    required=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write to this file, or - for standard output.",
)
@_filtered
def export(wanted: EventFilter, store: Path, target: Path) -> None:
    """Write visits as CSV: a header, then one row per visit, with times in UTC."""
    from twincar_edge.files import check_not_read, replacing
    from twincar_edge.runtime.sinks.csv import csv_header, csv_row

    def lines() -> Iterator[str]:
        yield csv_header()
        for visit in _read(store, wanted):
            yield csv_row(visit.event)

    if is_standard_output("target", target):
        _print(lines())
        return
    check_not_read([target], [store], "target")
    with replacing(target) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        file.writelines(lines())
    print_written(target, err=True)


@command.command("resend", short_help="Resend the events that a receiver rejected.")
@click.option("--sink", metavar="NAME", help="Resend events of this sink, by its kind or name.  [default: all]")
@click.option(
    "--since",
    metavar="TIME",
    callback=moment_option,
    help="Resend events rejected at or after this time: 1h, 2d, yesterday, ….",
)
@click.option("--state", type=click.Path(path_type=Path), help="Use this state folder of watch.")
def resend(sink: str | None, since: datetime | None, state: Path | None) -> None:
    """Resend the events that were set aside because a receiver rejected them while accepting others.

    A running `watch` resends them within seconds; otherwise the next `watch` does. Its log shows the result.
    """
    from twincar_edge.runtime.sinks.resend import request_resend

    for name in request_resend(state, sink, since):
        click.echo(f"requested: {name}")


def _read(store: Path, wanted: EventFilter) -> Iterator[StoredVisit]:
    """Yield the visits, then warn about those that could not be read."""
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
        click.echo(f"only the newest {limit} shown: --limit N shows more", err=True)
