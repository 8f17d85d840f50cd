from __future__ import annotations

import io
import json
import os
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from twincar_edge.errors import InputError
from twincar_edge.images import read_image
from twincar_edge.runtime.events import ClassifierRecord, Event, NamedProbability
from twincar_edge.runtime.sinks import CropSaver, JsonLines, LiveTable, crop_name

CROP = np.full((40, 60, 3), (30, 30, 200), np.uint8)


def visit(**changes: Any) -> Event:
    moment = datetime(2025, 3, 1, 12, 0, 15, 40_000, tzinfo=UTC)
    fields: dict[str, Any] = {
        "type": "end",
        "camera": "gate",
        "level": "year",
        "id": "6a75204e-69b9-476e-955d-c5f3d2ecaadf",
        "source": "gate.mp4",
        "name": "Castor Red Sedan 2020",
        "probability": 0.9,
        "make": "Castor",
        "model": "Red",
        "body_type": "Sedan",
        "year": 2020,
        "top5": (
            NamedProbability(name="Castor Red Sedan 2020", probability=0.9),
            NamedProbability(name="Pollux Blue SUV 2021", probability=0.1),
        ),
        "crops": 4,
        "direction": "left_to_right",
        "first_time_s": 1.0,
        "last_time_s": 2.5,
        "first_frame": 25,
        "last_frame": 62,
        "best_frame": 40,
        "box_xyxy": (10, 20, 70, 60),
        "started_at": moment,
        "ended_at": moment + timedelta(seconds=2),
        "classifier": ClassifierRecord(name="tiny", sha256="0" * 64, precision="fp32", ep="cpu"),
    }
    return Event(**{**fields, **changes})


def test_json_lines_are_appended_and_there_at_once(tmp_path: Path) -> None:
    path = tmp_path / "events" / "gate.jsonl"
    for number in range(2):
        with JsonLines(path) as sink:
            sink.write(visit(crops=number + 1), CROP)
            assert len(path.read_text("utf-8").splitlines()) == number + 1  # before it is closed
    assert [json.loads(line)["crops"] for line in path.read_text("utf-8").splitlines()] == [1, 2]


def test_json_lines_go_to_a_stream_and_leave_it_open() -> None:
    stream = io.StringIO()
    with JsonLines(stream) as sink:
        sink.write(visit(), CROP)
    assert Event.model_validate_json(stream.getvalue()) == visit()


def test_json_lines_go_to_standard_output_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    with JsonLines() as sink:
        sink.write(visit(name="Škoda Octavia Wagon 2012"), CROP)
    assert "Škoda" in capsys.readouterr().out


def test_a_file_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for sink in (JsonLines(tmp_path), JsonLines(tmp_path / "file" / "events.jsonl"), CropSaver(tmp_path / "file")):
        with pytest.raises(InputError, match="cannot") as caught, sink:
            pass
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_clear_error() -> None:
    stream = open("/dev/full", "w")  # noqa: PTH123, SIM115
    with pytest.raises(InputError, match="No space left"), JsonLines(stream) as sink:
        sink.write(visit(), CROP)
    with pytest.raises(OSError, match="No space left"):
        stream.close()


def test_a_reader_that_has_gone_is_a_broken_pipe() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    stream = os.fdopen(write_end, "w")
    with pytest.raises(BrokenPipeError), JsonLines(stream) as sink:
        sink.write(visit(), CROP)
    with pytest.raises(BrokenPipeError):
        stream.close()


def test_crops_are_named_by_time_and_id_never_by_what_the_model_says(tmp_path: Path) -> None:
    hostile = visit(name="../../etc/Sedan 2020", id="../a b")
    with CropSaver(tmp_path / "crops") as sink:
        sink.write(visit(), CROP)
        sink.write(hostile, CROP)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")} == {
        "crops/20250301T120015.040Z-6a75204e-69b9-476e-955d-c5f3d2ecaadf.jpg",
        "crops/20250301T120015.040Z-___a_b.jpg",
    }
    picture = read_image(tmp_path / "crops" / crop_name(visit()))
    assert np.abs(picture.astype(int) - CROP).max() < 12


def test_a_crops_time_is_utc_whatever_the_clocks_zone() -> None:
    east = datetime(2025, 3, 1, 13, 0, 15, tzinfo=timezone(timedelta(hours=1)))
    assert crop_name(visit(started_at=east)).startswith("20250301T120015.000Z-")


def test_the_live_table_shows_the_newest_visits(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr("rich.console.Console", lambda: Console(file=screen, width=140, force_terminal=True))
    with LiveTable("rtsp://***@[red]/live", rows=2) as sink:
        for number in range(3):
            sink.write(visit(name=f"Castor [bold]{number} Sedan 2020"), CROP)
        sink.write(visit(image="car_1.jpg", first_time_s=None, last_time_s=None), CROP)
    last = screen.getvalue().rpartition("vehicle")[2]
    assert "[bold]2 Sedan 2020" in last  # brackets are text, not markup
    assert "[bold]1 Sedan 2020" not in last
    assert "car_1.jpg" in last
    assert "90.0%" in last
    assert "left to right" in last
