"""Print visits: a table that fits the terminal, or all details of one visit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from twincar_edge.cli.tables import EMPTY, print_table
from twincar_edge.errors import one_line
from twincar_edge.runtime.inference.answers import certainty, rejected_guess
from twincar_edge.wording import counted, percent

if TYPE_CHECKING:
    from twincar_edge.runtime.events import Event
    from twincar_edge.runtime.sinks.store import StoredVisit

_MIN_ID_LENGTH = 8


def print_visits(visits: Sequence[StoredVisit], *, utc: bool = False) -> None:
    """Print a table of visits."""
    columns = _columns(visits, utc)
    headings = [heading for heading, _ in columns]
    rows = [[one_line(cell(visit)) or EMPTY for _, cell in columns] for visit in visits]
    left = [heading for heading in headings if heading != "Prob."]
    print_table(headings, rows, priority=headings, left=left, elsewhere="--json")


def _columns(visits: Sequence[StoredVisit], utc: bool) -> list[tuple[str, Callable[[StoredVisit], str]]]:
    """Return headings and cell functions, most important first."""
    zones = {f"{_in_zone(visit.event.started_at, utc):%Z}" for visit in visits}
    when = f"When ({zones.pop()})" if len(zones) == 1 else "When"
    form = "%Y-%m-%d %H:%M:%S %Z" if zones else "%Y-%m-%d %H:%M:%S"  # the visits span a clock change
    ids = {visit.event.id for visit in visits}
    length = next(n for n in range(_MIN_ID_LENGTH, 1000) if len({id[:n] for id in ids}) == len(ids) or n == 999)
    columns: list[tuple[str, Callable[[StoredVisit], str]]] = [
        (when, lambda visit: f"{_in_zone(visit.event.started_at, utc):{form}}"),
        ("Vehicle", lambda visit: visit.event.name + ("" if visit.event.type == "end" else " (not ended)")),
        ("ID", lambda visit: visit.event.id[:length]),
        ("Prob.", lambda visit: EMPTY if rejected_guess(visit.event) else certainty(visit.event, 1)),
        ("Camera", lambda visit: visit.event.camera),
    ]
    if any(rejected_guess(visit.event) for visit in visits):
        columns.insert(-1, ("Rejected guess", lambda visit: _rejected(visit.event)))
    if any(visit.crop or visit.clip for visit in visits):
        columns.append(("Saved", _saved))
    columns += [
        ("Level", lambda visit: visit.event.level),
        ("Direction", lambda visit: visit.event.direction.replace("_", " ")),
    ]
    return columns


def _rejected(event: Event) -> str:
    guess = rejected_guess(event)
    return "" if guess is None else f"{guess.name} {percent(guess.probability, 1)}"


def _saved(visit: StoredVisit) -> str:
    return ", ".join(what for what, path in (("picture", visit.crop), ("clip", visit.clip)) if path is not None)


def describe_visit(visit: StoredVisit, *, utc: bool = False) -> Iterator[str]:
    """Yield all details of a visit, one per line. Paths are never truncated."""
    for name, value in _facts(visit, utc):
        yield f"{name:<11}{one_line(value)}"


def _facts(visit: StoredVisit, utc: bool) -> Iterator[tuple[str, str]]:
    event = visit.event
    yield "id", event.id
    yield "vehicle", event.name
    yield "answer", f"{event.level}, {certainty(event, 1)}, from {counted(event.crops, 'picture')}"
    others = event.top5[1:] if rejected_guess(event) else [guess for guess in event.top5 if guess.name != event.name]
    if others:
        yield "or", ", ".join(f"{guess.name} {percent(guess.probability, 1)}" for guess in others)
    yield "camera", event.camera + (f", zone {event.zone}" if event.zone else "")
    yield "source", event.source + _place(event)
    yield "began", f"{_in_zone(event.started_at, utc):%Y-%m-%d %H:%M:%S %Z}"
    ended = event.ended_at
    yield "ended", "not yet" if ended is None else f"{_in_zone(ended, utc):%Y-%m-%d %H:%M:%S %Z}"
    yield "direction", event.direction.replace("_", " ")
    yield "picture", _path(visit.crop)
    yield "clip", _path(visit.clip)
    model = event.classifier
    yield "model", f"{model.name} ({model.sha256[:12]}, {model.precision}, {model.ep})"


def _place(event: Event) -> str:
    if event.image is not None:
        return f", image {event.image}"
    if event.first_time_s is None or event.last_time_s is None:
        return ""
    return f", {event.first_time_s:.1f} to {event.last_time_s:.1f} s"


def _path(path: Path | None) -> str:
    if path is None:
        return "not saved"
    return str(path) if path.exists() else f"{path} (removed, or not written yet)"


def _in_zone(moment: datetime, utc: bool) -> datetime:
    return moment.astimezone(UTC if utc else None)
