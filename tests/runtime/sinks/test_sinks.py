"""Local sinks: files, the terminal, pictures."""

from __future__ import annotations

import csv
import io
import json
import os
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from tests.support.event_toys import CROP, visit, visits
from twincar_edge.errors import InputError
from twincar_edge.images import read_image
from twincar_edge.runtime.events import Event, NamedProbability
from twincar_edge.runtime.sinks import (
    NO_CROP,
    CropSaver,
    CsvFile,
    DeliveryError,
    JsonLines,
    Limits,
    LiveTable,
    crop_folder,
    crop_name,
)
from twincar_edge.runtime.sinks.csv import COLUMNS, csv_header


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_json_lines_are_appended_without_buffering(tmp_path: Path) -> None:
    path = tmp_path / "events" / "gate.jsonl"
    for number in range(2):
        with JsonLines(path) as sink:
            sink.write(visit(crops=number + 1), CROP)
            assert len(path.read_text("utf-8").splitlines()) == number + 1  # before it is closed
    assert [json.loads(line)["crops"] for line in path.read_text("utf-8").splitlines()] == [1, 2]


def test_json_lines_write_to_a_stream_and_leave_it_open() -> None:
    stream = io.StringIO()
    with JsonLines(stream) as sink:
        sink.write(visit(), CROP)
    assert Event.model_validate_json(stream.getvalue()) == visit()


def test_json_lines_write_to_standard_output_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    with JsonLines() as sink:
        sink.write(visit(name="Škoda Octavia Wagon 2012"), CROP)
    assert "Škoda" in capsys.readouterr().out


def test_a_file_that_cannot_be_written_is_a_one_line_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    below = tmp_path / "file" / "events.jsonl"
    for sink in (JsonLines(tmp_path), JsonLines(below), CsvFile(below), CropSaver(crop_folder(tmp_path / "file"))):
        with pytest.raises(InputError, match="cannot") as caught, sink:
            pass
        assert "\n" not in str(caught.value)


def test_events_are_appended_to_files_only(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/null")):
        with pytest.raises(InputError, match=f"cannot write {path}: it is a folder or a device, not a file"):
            JsonLines(path).open()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_a_retryable_error() -> None:
    refused = pytest.raises(DeliveryError, match="No space left")
    with Path("/dev/full").open("w") as stream, JsonLines(stream) as sink, refused:
        sink.write(visit(), CROP)


def test_a_closed_reader_is_a_broken_pipe() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "w") as stream, JsonLines(stream) as sink, pytest.raises(BrokenPipeError):
        sink.write(visit(), CROP)


def test_a_line_truncated_by_a_power_cut_does_not_run_into_the_next(tmp_path: Path) -> None:
    path = tmp_path / "gate.jsonl"
    path.write_text(visit().to_json()[:100])
    with JsonLines(path) as sink:
        sink.write(visit(), CROP)
    torn, whole = path.read_text("utf-8").splitlines()
    assert len(torn) == 100
    assert Event.model_validate_json(whole) == visit()


def test_a_rotated_file_is_recreated(tmp_path: Path) -> None:
    path = tmp_path / "gate.csv"
    with CsvFile(path) as sink:
        sink.write(visit(id="1"), CROP)
        path.rename(tmp_path / "gate.csv.1")
        sink.write(visit(id="2"), CROP)
    for name, number in (("gate.csv.1", "1"), ("gate.csv", "2")):
        assert [row["id"] for row in rows_of(tmp_path / name)] == [number]


def test_csv_has_one_header_and_columns_for_all_fields(tmp_path: Path) -> None:
    path = tmp_path / "gate.csv"
    for event in visits(2):
        with CsvFile(path) as sink:
            sink.write(event, CROP)
    rows = rows_of(path)
    assert [row["id"] for row in rows] == ["0", "1"]
    assert tuple(rows[0]) == COLUMNS
    assert rows[1]["started_at"] == "2025-03-01T12:00:16.040000+00:00"
    assert (rows[0]["top2_name"], rows[0]["top2_probability"], rows[0]["top3_name"]) == (
        "Pollux Blue SUV 2021",
        "0.1",
        "",
    )
    assert [rows[0][f"box_{side}"] for side in ("left", "top", "right", "bottom")] == ["10", "20", "70", "60"]
    assert rows[0]["deciding_frames"] == "40 38"
    assert rows[0]["course"] == "60 0.9 Castor Red Sedan 2020"
    assert rows[0]["classifier_ep"] == "cpu"


@pytest.mark.parametrize("name", ["=HYPERLINK(1)", "+1", "-1", "@SUM(A1)", "\tx", '=1,"\n2', "\n=1", "\uff1d1"])
def test_labels_that_look_like_formulas_are_escaped(tmp_path: Path, name: str) -> None:
    with CsvFile(tmp_path / "gate.csv") as sink:
        sink.write(visit(name=name), CROP)
    (row,) = rows_of(tmp_path / "gate.csv")
    assert row["name"] == "'" + name


@pytest.mark.parametrize("sink", [JsonLines, CsvFile])
@pytest.mark.parametrize("content", [b"\x89PNG\r\n", b"filename,label\n1.jpg,0\n", b'{"images": []}\n', b"notes\n"])
def test_a_file_of_something_else_is_not_appended_to(
    content: bytes, sink: type[JsonLines] | type[CsvFile], tmp_path: Path
) -> None:
    path = tmp_path / "gate"
    path.write_bytes(content)
    with pytest.raises(InputError, match="gate exists and holds something other than events: name another file"):
        sink(path).open()
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [content]


@pytest.mark.parametrize("content", ["", "\n", "\0\0\0", '{"schem', '{"schema_version":2,"type":"end"}\n'])
def test_a_file_of_events_is_appended_to_even_if_a_power_cut_damaged_its_beginning(
    content: str, tmp_path: Path
) -> None:
    path = tmp_path / "gate.jsonl"
    path.write_text(content)
    with JsonLines(path) as sink:
        sink.write(visit(), CROP)
    assert path.read_text("utf-8").startswith(content)
    assert Event.model_validate_json(path.read_text("utf-8").splitlines()[-1]) == visit()


@pytest.mark.parametrize("content", ["schema_version,type\n2,end\n", csv_header()[:20], "schem", "\0\0\n"])
def test_a_file_with_other_columns_is_kept_and_a_new_one_begun(
    content: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "gate.csv"
    path.write_text(content)
    for event in visits(2):
        with CsvFile(path) as sink:
            sink.write(event, CROP)
    (aside,) = tmp_path.glob("gate.csv.other-*")
    assert aside.read_text() == content
    assert [row["id"] for row in rows_of(path)] == ["0", "1"]
    assert caplog.messages == [f"{path} has a different header: kept as {aside.name}, creating a new one"]


@pytest.mark.parametrize("restarts", [False, True])
def test_a_csv_that_logrotate_truncates_gets_its_header_again(tmp_path: Path, restarts: bool) -> None:
    path = tmp_path / "gate.csv"
    with CsvFile(path) as sink:
        sink.write(visit(id="1"), CROP)
        os.truncate(path, 0)  # `copytruncate`
        if not restarts:
            for number in "23":
                sink.write(visit(id=number), CROP)
    with CsvFile(path) as sink:
        sink.write(visit(id="4"), CROP)
    assert [row["id"] for row in rows_of(path)] == (["4"] if restarts else ["2", "3", "4"])
    assert [file.name for file in tmp_path.iterdir()] == ["gate.csv"]


def test_crops_are_named_by_time_and_id_never_by_class_name(tmp_path: Path) -> None:
    hostile = visit(name="../../etc/Sedan 2020", id="../a b")
    with CropSaver(crop_folder(tmp_path / "crops")) as sink:
        sink.write(visit(), CROP)
        sink.write(hostile, CROP)
        sink.write(visit(id="none"), NO_CROP)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")} == {
        "crops/20250301T120015.040Z-6a75204e-69b9-476e-955d-c5f3d2ecaadf.jpg",
        "crops/20250301T120015.040Z-___a_b.jpg",
    }
    picture = read_image(tmp_path / "crops" / crop_name(visit()))
    assert np.abs(picture.astype(int) - CROP).max() < 12


def test_crop_names_have_the_time_in_utc() -> None:
    east = datetime(2025, 3, 1, 13, 0, 15, tzinfo=timezone(timedelta(hours=1)))
    assert crop_name(visit(started_at=east)).startswith("20250301T120015.000Z-")


def test_the_size_limit_deletes_the_oldest_crops_and_no_other_files(tmp_path: Path) -> None:
    events = visits(8)
    with CropSaver(crop_folder(tmp_path)) as sink:
        for event in events[:3]:
            sink.write(event, CROP)
    size = (tmp_path / crop_name(events[0])).stat().st_size
    others = {"holiday.jpg", "20250301T120015.040Z-a.png", "20250301T120015.040Z-a b.jpg", "20259901T120015.040Z-a.jpg"}
    for name in others:
        (tmp_path / name).write_bytes(b"x" * size)
    (tmp_path / "20200301T120015.040Z-link.jpg").symlink_to(tmp_path / "holiday.jpg")
    with CropSaver(crop_folder(tmp_path, Limits(3 * size + size // 2))) as sink:  # as after a restart
        for event in events[3:]:
            sink.write(event, CROP)
            sink.write(event, CROP)  # overwriting counts once
    kept = {path.name for path in tmp_path.iterdir()}
    assert kept - others == {"20200301T120015.040Z-link.jpg", *(crop_name(event) for event in events[5:])}
    assert others < kept


def test_no_picture_is_saved_below_the_reserve(tmp_path: Path) -> None:
    free = [200_000_001]
    folder = crop_folder(tmp_path, Limits(reserve_bytes=200_000_000), free_bytes=lambda _folder: free[0])
    with CropSaver(folder) as sink:
        sink.write(visit(id="1"), CROP)
        free[0] -= 2
        with pytest.raises(DeliveryError, match="less than 200 MB free"):
            sink.write(visit(id="2"), CROP)
    assert len(list(tmp_path.iterdir())) == 1


def test_the_live_table_shows_the_newest_visits(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr("rich.console.Console", lambda: Console(file=screen, width=140, force_terminal=True))
    with LiveTable("rtsp://***@[red]/live", rows=2) as sink:
        for number in range(3):
            sink.write(visit(name=f"Castor [bold]{number} Sedan 2020"), CROP)
        sink.write(visit(image="car_1.jpg", first_time_s=None, last_time_s=None), CROP)
    last = screen.getvalue().rpartition("Vehicle")[2]
    assert "[bold]2 Sedan 2020" in last  # brackets are text, not markup
    assert "[bold]1 Sedan 2020" not in last
    assert "car_1.jpg" in last
    assert "90.0%" in last
    assert "left to right" in last


def test_the_live_table_shows_the_rejected_guess_of_an_unknown_vehicle(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr("rich.console.Console", lambda: Console(file=screen, width=140, force_terminal=True))
    guess = NamedProbability(name="Castor Red Sedan 2020", probability=0.809)
    with LiveTable("gate") as sink:
        sink.write(visit(name="unknown", level="unknown", probability=0.809, top5=(guess,)), CROP)
    last = screen.getvalue().rpartition("Vehicle")[2]
    assert "rejected guess: Castor Red Sedan 2020 80.9%" in last
    assert last.count("80.9%") == 1
