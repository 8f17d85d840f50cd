"""`watch` stores each visit of a file once, from the newest complete run, however often the file is watched."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.support.clips import BLUE_BGR, GREEN_BGR, RED_BGR, drive_by, film, write_video
from tests.support.tiny_model import BLUE, GREEN, RED, tiny_model
from twincar_edge.bundled import demo_clip, demo_model
from twincar_edge.runtime.events import Event
from twincar_edge.runtime.sinks.store import query


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A clip of three cars, a model that knows them, and the same model with another temperature."""
    cars = [drive_by(RED_BGR, 10), drive_by(BLUE_BGR, 60), drive_by(GREEN_BGR, 110)]
    write_video(tmp_path / "gate.mp4", film(cars, 160))
    tiny_model(tmp_path / "model.onnx")
    tiny_model(tmp_path / "other.onnx", temperature=3.0)
    return tmp_path


def start(folder: Path, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "twincar_edge", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder,
        env=os.environ | {"TWINCAR_STATE": f"{folder}/state", "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip


def run(folder: Path, *arguments: object) -> str:
    process = start(folder, *arguments)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return output


def watch(folder: Path, source: object, *arguments: object, model: str = "model.onnx") -> Sequence[Event]:
    run(folder, "watch", source, "--model", model, "--threads", 1, *arguments)
    return stored(folder)


def stored(folder: Path) -> Sequence[Event]:
    return query(folder / "state" / "events.sqlite")


def test_a_file_watched_twice_is_stored_once(folder: Path) -> None:
    first = watch(folder, "gate.mp4")
    assert [visit.name for visit in first] == [RED, BLUE, GREEN]
    shutil.copy(folder / "gate.mp4", folder / "copy.mp4")
    second = watch(folder, "copy.mp4")
    assert [visit.id for visit in second] == [visit.id for visit in first]
    assert {visit.source for visit in second} == {"copy.mp4"}
    assert {visit.recording for visit in second} == {first[0].recording}
    assert RED in run(folder, "events", "--json")


def test_another_model_or_other_settings_replace_the_stored_visits(folder: Path) -> None:
    first = watch(folder, "gate.mp4")
    second = watch(folder, "gate.mp4", model="other.onnx")
    assert [visit.id for visit in second] == [visit.id for visit in first]
    assert not {visit.classifier.sha256 for visit in first} & {visit.classifier.sha256 for visit in second}
    third = watch(folder, "gate.mp4", "--stride", 3, "--min-area", 0.05)
    assert len(third) == 3
    assert not {visit.id for visit in first} & {visit.id for visit in third}  # first seen in other frames


def test_a_run_without_visits_replaces_the_stored_ones_too(folder: Path) -> None:
    assert watch(folder, "gate.mp4")
    assert watch(folder, "gate.mp4", "--min-area", 0.9) == []


def test_another_camera_or_another_file_adds_visits(folder: Path) -> None:
    watch(folder, "gate.mp4")
    assert len(watch(folder, "gate.mp4", "--name", "yard")) == 6
    write_video(folder / "later.mp4", film([drive_by(RED_BGR, 10)], 60))
    assert len(watch(folder, "later.mp4")) == 7


def test_images_are_identified_by_content_not_by_path(folder: Path) -> None:
    (folder / "images").mkdir()
    for number, color in enumerate((RED_BGR, GREEN_BGR, BLUE_BGR), 1):
        cv2.imwrite(str(folder / "images" / f"{number}.png"), np.full((40, 60, 3), color, np.uint8))
    first = watch(folder, "images", "--once")
    assert [visit.image for visit in first] == ["1.png", "2.png", "3.png"]
    cv2.imwrite(str(folder / "images" / "0.png"), np.full((40, 60, 3), (99, 99, 99), np.uint8))
    (folder / "images" / "1.png").unlink()
    second = {visit.image: visit.id for visit in watch(folder, "images", "--once")}
    assert set(second) == {"0.png", "1.png", "2.png", "3.png"}
    assert {visit.image: visit.id for visit in first}.items() <= second.items()


def test_a_killed_run_removes_nothing(folder: Path) -> None:
    arguments = ("watch", demo_clip(), "--model", demo_model(), "--threads", 1)
    run(folder, *arguments)
    before = {visit.id: visit for visit in stored(folder)}
    process = start(folder, *arguments, "--duration", 60)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    after = {visit.id: visit for visit in stored(folder)}
    assert after.keys() == before.keys()
    assert {visit.type for visit in after.values()} == {"end"}
    replaced = sum(visit.started_at != before[visit.id].started_at for visit in after.values())
    assert replaced < len(before), "it was killed too late to test anything"


@pytest.fixture
def two_at_once(folder: Path) -> Iterator[list[subprocess.Popen[str]]]:
    write_video(folder / "other.mp4", film([drive_by(BLUE_BGR, 10)], 60))
    processes = [
        start(folder, "watch", clip, "--model", "model.onnx", "--threads", 1) for clip in ("gate.mp4", "other.mp4")
    ]
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


def test_two_runs_over_files_share_a_store(folder: Path, two_at_once: list[subprocess.Popen[str]]) -> None:
    for process in two_at_once:
        _output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert sorted(visit.name for visit in stored(folder)) == sorted([RED, BLUE, GREEN, BLUE])


def test_store_none_keeps_nothing(folder: Path) -> None:
    output = run(folder, "watch", "gate.mp4", "--model", "model.onnx", "--threads", 1, "--store", "none")
    assert len(output.splitlines()) == 3
    assert not (folder / "state").exists()
