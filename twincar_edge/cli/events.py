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

from twincar_edge.cli.pipes import discard_output

if TYPE_CHECKING:
    from twincar_edge.runtime.events import Event
    from twincar_edge.runtime.sinks.store import EventFilter

_LEVELS = ("year", "model", "make", "unknown")
_TABLE_ROWS = 100


def _moment(_context: click.Context, _option: click.Parameter, text: str | None) -> datetime | None:
    """Return the time that `1h` (ago) or an ISO 8601 date or time names; without a zone it is local."""
    from twincar_edge.runtime.quantities import parse_age

    if text is None:
        return None
    try:
        return datetime.now().astimezone() - parse_age(text)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError, OSError) as error:
        raise click.BadParameter(f"invalid time {text!r}: use 1h or 2d (ago), or 2025-03-01T12:00") from error


_FILTERS = (
    click.option(
        "--since", metavar="TIME", callback=_moment, help="Began at or after: 1h or 2d ago, or 2025-03-01T12:00."
    ),
    click.option("--until", metavar="TIME", callback=_moment, help="Began before."),
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
    def with_filter(*args: Any, store: Path | None, **options: Any) -> None:
        from twincar_edge.runtime.sinks.store import EventFilter
        from twincar_edge.runtime.storage.state import StateFolder

        context = click.get_current_context()
        names = {field.name for field in fields(EventFilter)}
        given = {name: options.pop(name, None) for name in names}
        before, store_before = context.obj or (EventFilter(), None)
        wanted = replace(before, **{name: value for name, value in given.items() if value not in (None, ())})
        context.obj = wanted, store or store_before
        command(*args, wanted=wanted, store=store or store_before or StateFolder().store, **options)

    for option in reversed(_FILTERS):
        with_filter = option(with_filter)
    return with_filter


@click.group("events", invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="JSON lines with times in UTC, not a table.")
@_filtered
def command(wanted: EventFilter, store: Path, as_json: bool) -> None:
    """Print the visits in the store, in the order in which they began; a running `watch` is not disturbed.

    The table shows times in the local time zone, and the newest 100 visits unless --limit says otherwise.
    `twincar-edge events export --csv FILE` writes them for a spreadsheet.
    """
    if click.get_current_context().invoked_subcommand is not None:
        return
    if as_json:
        _print(event.to_json() + "\n" for event in _read(store, wanted))
    else:
        _print_table(store, wanted)


@command.command("export")
@click.option("--csv", "target", required=True, metavar="FILE", help="The file to write, or - for standard output.")
@_filtered
def export(wanted: EventFilter, store: Path, target: str) -> None:
    """Write visits as CSV: one row each, under one header, with times in UTC."""
    from twincar_edge.files import replacing
    from twincar_edge.runtime.sinks.csv import csv_header, csv_row

    def lines() -> Iterator[str]:
        yield csv_header()
        for event in _read(store, wanted):
            yield csv_row(event)

    if target == "-":
        _print(lines())
        return
    with replacing(Path(target)) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        file.writelines(lines())


def _read(store: Path, wanted: EventFilter) -> Iterator[Event]:
    """Give the visits, and say in the end how many could not be read."""
    from twincar_edge.runtime.sinks.store import read_events

    unreadable: list[str] = []
    yield from read_events(store, wanted, unreadable.append)
    if unreadable:
        more = f" (and {len(unreadable) - 1} more)" if unreadable[1:] else ""
        click.echo(f"warning: {unreadable[0]}{more}", err=True)


def _print(lines: Iterator[str]) -> None:
    try:
        for line in lines:
            sys.stdout.write(line)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read them has enough
        discard_output()


def _print_table(store: Path, wanted: EventFilter) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    limit = wanted.limit or _TABLE_ROWS
    events = list(_read(store, replace(wanted, limit=limit + (wanted.limit is None))))
    more = len(events) > limit
    table = Table()
    for heading in ("when", "camera", "vehicle", "level", "probability", "direction"):
        table.add_column(heading, justify="right" if heading == "probability" else "left")
    for event in events[-limit:]:
        table.add_row(
            f"{event.started_at.astimezone():%Y-%m-%d %H:%M:%S}",
            escape(event.camera),
            escape(event.name) + ("" if event.type == "end" else " (not ended)"),
            event.level,
            f"{event.probability:.1%}",
            event.direction.replace("_", " "),
        )
    try:
        Console().print(table)
        if not events:
            click.echo("no visits", err=True)
        elif more:
            click.echo(f"the newest {limit}: --limit N shows more", err=True)
    except BrokenPipeError:
        discard_output()
