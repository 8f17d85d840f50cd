"""`twincar-edge events`: selection of visits by local time, and output for any terminal width."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from tests.support.event_toys import CROP, visit
from twincar_edge.cli.moments import parse_day, parse_moment
from twincar_edge.cli.visits import describe_visit, print_visits
from twincar_edge.runtime.sinks.store import EventStore, StoredVisit

BERLIN = "Europe/Berlin"
LONG = "Chevrolet Silverado 1500 Extended Cab 2012"


@pytest.fixture
def in_berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", BERLIN)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("in_berlin")
@pytest.mark.parametrize(("day", "hours"), [("2026-03-29", 23), ("2026-10-25", 25), ("2026-11-27", 24)])
def test_a_day_lasts_from_local_midnight_to_midnight(day: str, hours: int) -> None:
    begin, end = (moment.astimezone(UTC) for moment in parse_day(day))
    assert begin == datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(BERLIN)).astimezone(UTC)
    assert end - begin == timedelta(hours=hours)


@pytest.mark.usefixtures("in_berlin")
def test_today_and_yesterday_are_days() -> None:
    today = date.today()
    assert parse_day("today") == parse_day(today.isoformat())
    assert parse_day("Yesterday") == parse_day((today - timedelta(days=1)).isoformat())
    assert parse_moment("yesterday") == parse_day("yesterday")[0]
    assert parse_moment("2026-11-27") == parse_day("2026-11-27")[0]
    assert parse_moment("2026-11-27T12:00Z") == datetime(2026, 11, 27, 12, tzinfo=UTC)
    assert abs(parse_moment("2d") - (datetime.now(UTC) - timedelta(days=2))) < timedelta(minutes=1)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A store of a night with a clock change, with a visit every hour from 21:30 UTC on."""
    crops = tmp_path / "crops"
    crops.mkdir()
    (crops / "kept.jpg").touch()
    with EventStore(tmp_path / "events.sqlite", crops=crops, clips=tmp_path / "clips") as store:
        for hour in range(28):
            started_at = datetime(2026, 10, 24, 21, 30, tzinfo=UTC) + timedelta(hours=hour)
            saved = {"crop": "kept.jpg", "clip": "gone.mp4"} if hour == 1 else {}
            store.write(visit(id=f"{hour:02d}{'0' * 34}", started_at=started_at, name=LONG, **saved), CROP)
    return tmp_path


def events(state: Path, *arguments: str, zone: str = BERLIN, columns: int = 80) -> subprocess.CompletedProcess[str]:
    environment = {"TWINCAR_STATE": str(state), "TZ": zone, "COLUMNS": str(columns)}
    return subprocess.run(
        [sys.executable, "-m", "twincar_edge", "events", *arguments],
        capture_output=True, text=True, check=False, env=os.environ | environment,
    )  # fmt: skip


@pytest.mark.parametrize(("zone", "hours"), [(BERLIN, range(1, 26)), ("UTC", range(3, 27))])
def test_a_day_selects_the_visits_of_the_local_day(state: Path, zone: str, hours: range) -> None:
    lines = events(state, "--on", "2026-10-25", "--json", zone=zone).stdout.splitlines()
    assert [int(json.loads(line)["id"][:2]) for line in lines] == list(hours)
    assert all(json.loads(line)["started_at"].endswith("Z") for line in lines)


def table(state: Path, *arguments: str, columns: int = 80) -> tuple[str, list[str]]:
    """Return the headings and the rows of the table, one line each."""
    _, headings, _, *rows = events(state, *arguments, columns=columns).stdout.splitlines()
    return headings.strip(), [row.strip() for row in rows if row.strip() and not row.startswith("columns not shown")]


def test_the_time_zone_is_shown_once_or_with_each_time_if_it_changes(state: Path) -> None:
    headings, (first, *_) = table(state, "--on", "2026-10-24")
    assert headings.startswith("When (CEST)  ") and first.startswith("2026-10-24 23:30:00  ")
    headings, (first, *_, last) = table(state, "--on", "2026-10-25")
    assert headings.startswith("When  ")
    assert first.startswith("2026-10-25 00:30:00 CEST  ") and last.startswith("2026-10-25 23:30:00 CET ")
    headings, (first, *_) = table(state, "--utc")
    assert headings.startswith("When (UTC)  ") and first.startswith("2026-10-24 21:30:00  ")


@pytest.mark.parametrize(("columns", "shown"), [(50, 2), (80, 3), (100, 5), (200, 8)])
def test_a_table_fits_the_terminal_and_names_the_hidden_columns(state: Path, columns: int, shown: int) -> None:
    headings, rows = table(state, "--on", "2026-10-25", columns=columns)
    assert max(map(len, [headings, *rows])) <= columns
    every = ["When", "Vehicle", "ID", "Prob.", "Camera", "Saved", "Level", "Direction"]
    assert headings.split() == every[:shown]
    assert (len(rows) == 25) == (columns > 50)  # names wrap before columns are dropped
    hidden = f"columns not shown: {', '.join(every[shown:])};"
    assert (hidden in events(state, "--on", "2026-10-25", columns=columns).stdout) == (shown < len(every))


def test_a_visit_is_shown_with_all_details_and_the_paths_of_its_files(state: Path) -> None:
    lines = events(state, "01", columns=40).stdout.splitlines()
    shown = dict(line.split(maxsplit=1) for line in lines)
    assert shown["id"] == "01" + "0" * 34
    assert shown["vehicle"] == LONG
    assert shown["began"] == "2026-10-25 00:30:00 CEST"
    assert shown["picture"] == f"{state}/crops/kept.jpg"
    assert shown["clip"] == f"{state}/clips/gone.mp4 (removed, or not written yet)"
    assert json.loads(events(state, "01", "--json").stdout)["id"] == shown["id"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("0",), r"ambiguous id '0': it matches 04"),
        (("exprot",), "no visit with an id that starts with 'exprot'"),
        (("--on", "tuesday"), "invalid day 'tuesday': use today, yesterday, or 2025-03-01"),
        (("--since", "9999999w"), "invalid time '9999999w'"),
        (("--on", "9999-12-31"), "invalid day '9999-12-31'"),
        (("--on", "today", "--since", "1h"), "--on cannot be combined with --since or --until"),
    ],
)
def test_invalid_arguments_are_one_line_and_exit_code_2(state: Path, arguments: tuple[str, ...], message: str) -> None:
    done = events(state, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr.splitlines()[-1]


def test_resend_requests_it_from_the_sinks_of_a_state_folder(tmp_path: Path) -> None:
    spool = tmp_path / "spool" / "webhook-hook.sqlite"
    spool.parent.mkdir()
    spool.touch()
    assert events(tmp_path, "resend", "--sink", "webhook", "--since", "2d").stdout == "requested: webhook-hook\n"
    assert spool.with_suffix(".resend").exists()
    done = events(tmp_path, "resend", "--state", str(tmp_path), "--sink", "mqtt")
    assert done.returncode == 2
    assert "no spool of sink 'mqtt'" in done.stderr


def test_an_unknown_vehicle_has_its_rejected_guess_and_no_probability(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    changes = {"name": "unknown", "level": "unknown", "vehicle_type": None}
    stored = [StoredVisit(visit(), None, None), StoredVisit(visit(id="b" * 36, **changes), None, None)]
    print_visits(stored)
    _, headings, _, known, unknown, *_ = capsys.readouterr().out.splitlines()
    assert "Rejected guess" in headings
    assert unknown.split("bbbbbbbb")[1].split("gate")[0].split() == ["–", *["Castor", "Red", "Sedan", "2020"], "90.0%"]
    assert known.split("6a75204e")[1].split()[:2] == ["90.0%", "–"]
    details = dict(line.split(maxsplit=1) for line in describe_visit(stored[1]))
    assert details["answer"] == "unknown, rejected guess: Castor Red Sedan 2020 90.0%, from 4 pictures"
    assert details["or"] == "Pollux Blue SUV 2021 10.0%"
