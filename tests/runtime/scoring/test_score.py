"""Scoring an archive on this machine: each input has its rows once, whatever fails."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import twincar_edge as tw
from tests.support.clips import RED_BGR, drive_by, film, write_video
from tests.support.score_toys import name_of, names_by_file, picture, pictures, read_rows, tar_of
from tests.support.tiny_model import tiny_model
from twincar_edge import __version__
from twincar_edge.errors import InputError, ModelError
from twincar_edge.files import sha256
from twincar_edge.runtime.classify import classify
from twincar_edge.runtime.configuration.config import one_camera
from twincar_edge.runtime.inference.classifier import Classifier
from twincar_edge.runtime.scoring.entries import Entry
from twincar_edge.runtime.scoring.inputs import entries_of
from twincar_edge.runtime.scoring.output import read_counts
from twincar_edge.runtime.scoring.score import ScoreConfig, ScoreProgress, ScoreReport, score
from twincar_edge.runtime.scoring.stage import Stage, StageConfig
from twincar_edge.runtime.watch import watch


def stage(model: Path, output: Path, **options: Any) -> Stage:
    return Stage(StageConfig(str(output), "run", model, sha256(model), ep="cpu", **options))


def rows_of(model: Path, source: object, tmp_path: Path, **options: Any) -> list[dict[str, Any]]:
    return list(stage(model, tmp_path / "out", **options).rows(list(entries_of(str(source)))))


def run(source: object, output: Path, model: Path, **options: Any) -> ScoreReport:
    config = ScoreConfig(str(source), str(output), model, ep="cpu", **({"partition_size": 4, "workers": 1} | options))
    return score(config)


# --- the stage ---


def test_answers_equal_those_of_classify_and_corrupt_images_are_rows_with_an_error(model: Path, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "cars", 5)
    (folder / "bad.png").write_bytes(b"no image")
    rows = {row["path"]: row for row in rows_of(model, folder, tmp_path)}
    answers = classify(sorted(folder.iterdir()), Classifier(model, ep="cpu", threads=1))
    assert len(rows) == len(answers) == 6
    for answer in answers:
        row = rows[str(answer.image)]
        assert row.get("error") == answer.problem
        if answer.prediction is not None:
            expected = answer.prediction.to_dict()
            assert {name: row[name] for name in expected} == expected


def test_tars_yield_their_images_and_skip_other_members(model: Path, tmp_path: Path) -> None:
    members = [("a/0.png", picture(0)), ("a/0.cls", b"7"), ("a/1.png", picture(1)), ("a/2.png", b"no image")]
    data = tar_of(members)
    (tmp_path / "shard.tar").write_bytes(data)
    rows = rows_of(model, tmp_path / "shard.tar", tmp_path)
    assert [row["path"] for row in rows] == [f"{tmp_path}/shard.tar#a/{number}.png" for number in range(3)]
    assert [row.get("name") for row in rows] == [name_of(0), name_of(1), None]
    assert "is not a JPEG" in rows[2]["error"]

    (tmp_path / "cut.tar").write_bytes(data[:1800])  # within the second image's data
    rows = rows_of(model, tmp_path / "cut.tar", tmp_path)
    assert rows[0]["name"] == name_of(0)
    assert rows[-1]["path"] == f"{tmp_path}/cut.tar"
    assert "cannot read all of" in rows[-1]["error"]


@pytest.mark.parametrize("layout", ["hugging face", "bytes"])
def test_parquet_yields_its_images_by_row(model: Path, tmp_path: Path, layout: str) -> None:
    images = [picture(0), picture(1), None, picture(3), b"no image"]
    values = images if layout == "bytes" else [{"bytes": image, "path": "x.png"} for image in images]
    pq.write_table(pa.table({"image": values}), tmp_path / "cars.parquet", row_group_size=3)
    rows = rows_of(model, tmp_path / "cars.parquet", tmp_path)
    assert [row["path"] for row in rows] == [f"{tmp_path}/cars.parquet#{number}" for number in range(5)]
    assert [row.get("name") for row in rows] == [name_of(0), name_of(1), None, name_of(3), None]
    assert "has no bytes" in rows[2]["error"]


def test_a_video_yields_the_visits_that_watch_finds(model: Path, tmp_path: Path) -> None:
    clip = write_video(tmp_path / "gate.mp4", film([drive_by(RED_BGR, 5)], 45))
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    rows = rows_of(model, tmp_path, tmp_path)
    watched = watch(one_camera(str(clip), model=model, ep="cpu", locate="motion", keep=True)).results
    assert len(watched) == 1
    (visit,) = (row for row in rows if row["path"] == str(clip))
    assert visit["visit_id"] == watched[0].id
    for name in ("name", "level", "probability", "first_frame", "last_frame", "box_xyxy", "crops", "direction"):
        assert visit[name] == getattr(watched[0], name)
    (broken,) = (row for row in rows if row["path"] != str(clip))
    assert broken["error"]


def test_embeddings_are_the_models(model: Path, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "cars", 3)
    without, rows = rows_of(model, folder, tmp_path), rows_of(model, folder, tmp_path, embedding=True)
    classifier = Classifier(model, ep="cpu")
    for plain, row in zip(without, rows, strict=True):
        assert row["name"] == plain["name"]
        number = int(Path(row["path"]).stem[-2:])
        color = np.zeros(3)
        color[number % 3] = 1
        assert np.argmax(row["embedding"]) == np.argmax(color)
    assert classifier.manifest.embedding == "color"


def test_a_partition_without_readable_files_stops_the_run_but_one_missing_file_does_not(
    model: Path, tmp_path: Path
) -> None:
    folder = pictures(tmp_path / "cars", 1)
    there, missing = Entry("image", str(folder / "car_00.png")), Entry("image", str(folder / "gone.png"))
    one = stage(model, tmp_path / "out")
    assert [row.get("error") is None for row in one.rows([there, missing])] == [True, False]
    with pytest.raises(InputError, match=r"none of 2 files can be read: cannot read .*gone\.png: No such file"):
        list(one.rows([missing, missing]))


@pytest.mark.parametrize("kind", ["tar", "video", "rows"])
def test_a_local_file_that_may_not_be_read_is_a_row_with_an_error(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    folder = pictures(tmp_path / "cars", 1)
    locked = folder / "locked"
    locked.touch()
    opened = Path.open

    def refuse(path: Path, *options: Any, **named: Any) -> Any:
        if path == locked:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return opened(path, *options, **named)

    monkeypatch.setattr(Path, "open", refuse)  # root may read every file
    entries = [Entry("image", str(folder / "car_00.png")), Entry(kind, str(locked))]
    rows = list(stage(model, tmp_path / "out").rows(entries))
    assert [row.get("error") for row in rows] == [None, f"cannot read {locked}: Permission denied"]
    with pytest.raises(InputError, match="Permission denied"):
        list(stage(model, tmp_path / "out").rows(entries[1:]))


def test_a_worker_refuses_a_model_that_is_not_the_runs(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is not the model that the run was started with"):
        Stage(StageConfig(str(tmp_path), "run", model, "0" * 64, ep="cpu"))


# --- a run ---


def test_a_run_writes_each_image_once_with_the_schema(model: Path, tmp_path: Path) -> None:
    folder, output = pictures(tmp_path / "cars", 10), tmp_path / "out"
    seen: list[ScoreProgress] = []
    config = ScoreConfig(str(folder), str(output), model, ep="cpu", partition_size=4, workers=2, embedding=True)
    report = score(config, progress=seen.append)
    assert names_by_file(output) == {f"car_{number:02d}.png": name_of(number) for number in range(10)}
    assert (report.rows, report.errors, report.partitions, report.resumed) == (10, 0, 3, 0)
    assert report.levels == {"year": 10}
    assert report.makes == {"Castor": 7, "Pollux": 3}
    assert [(one.partitions, one.of) for one in seen] == [(1, 3), (2, 3), (3, 3)]
    assert seen[-1].rows == 10
    assert seen[-1].left_s == 0
    row = read_rows(output)[0]
    assert (row["model_sha256"], row["twincar_version"], row["schema_version"]) == (sha256(model), __version__, 1)
    assert len(row["embedding"]) == 3


def test_resume_scores_what_is_missing_or_damaged_and_nothing_else(model: Path, tmp_path: Path) -> None:
    folder, output = pictures(tmp_path / "cars", 12), tmp_path / "out"
    run(folder, output, model)
    parts = sorted(output.glob("*.parquet"))
    kept = parts[0].stat().st_mtime_ns
    parts[1].unlink()
    parts[2].write_bytes(parts[2].read_bytes()[:-9])  # as after a power failure
    report = run(folder, output, model, resume=True)
    assert (report.resumed, report.partitions, report.rows) == (1, 3, 12)
    assert parts[0].stat().st_mtime_ns == kept
    assert names_by_file(output) == {f"car_{number:02d}.png": name_of(number) for number in range(12)}


def test_resume_in_an_empty_output_starts_a_run(model: Path, tmp_path: Path) -> None:
    report = run(pictures(tmp_path / "cars", 2), tmp_path / "out", model, resume=True)
    assert (report.resumed, report.rows) == (0, 2)


def test_an_output_with_another_run_is_refused(model: Path, tmp_path: Path) -> None:
    folder, output = pictures(tmp_path / "cars", 4), tmp_path / "out"
    run(folder, output, model)
    before = sorted(output.rglob("*"))
    with pytest.raises(InputError, match=r"has a run over .*cars, started .*: continue it with `resume=True`"):
        run(folder, output, model)
    other = tiny_model(tmp_path / "other.onnx", temperature=2.0)
    with pytest.raises(InputError, match="has a run with another model"):
        run(folder, output, other, resume=True)
    with pytest.raises(InputError, match="has a run with another `embedding`"):
        run(folder, output, model, resume=True, embedding=True)
    pictures(folder, 5)
    with pytest.raises(InputError, match=r"another input: 4 files of .* then, 5 of"):
        run(folder, output, model, resume=True)
    assert sorted(output.rglob("*")) == before


def test_an_output_with_unrelated_parquet_files_is_refused(model: Path, tmp_path: Path) -> None:
    folder, output = pictures(tmp_path / "cars", 1), tmp_path / "out"
    output.mkdir()
    pq.write_table(pa.table({"a": [1]}), output / "sales.parquet")
    with pytest.raises(InputError, match="has Parquet files that are not of a run"):
        run(folder, output, model)


def test_an_unusable_input_leaves_no_output_behind(model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        run(tmp_path / "missing", tmp_path / "out", model)
    assert not (tmp_path / "out").exists()


def test_a_partition_of_another_run_does_not_count(model: Path, tmp_path: Path) -> None:
    folder, output = pictures(tmp_path / "cars", 2), tmp_path / "out"
    run(folder, output, model)
    (part,) = output.glob("*.parquet")
    assert read_counts(str(part), "another") is None


@pytest.mark.parametrize("name", ["partition_size", "batch", "threads", "workers", "num_cpus"])
def test_a_number_that_is_too_small_is_refused(model: Path, tmp_path: Path, name: str) -> None:
    folder = pictures(tmp_path / "cars", 1)
    for number, limit in [(-1, 0)] if name == "num_cpus" else [(-1, 1), (0, 1)]:
        with pytest.raises(InputError, match=f"^`{name}` must be {limit} or more, found {number}$"):
            tw.score(folder, tmp_path / "out", model=model, ray="auto", **{name: number})
    assert not (tmp_path / "out").exists()


# --- killed processes ---

SLOW = """
import os, sys, time
from pathlib import Path
from twincar_edge.runtime.scoring import pool, score, stage

class Slow(stage.Stage):
    def score(self, number):
        (Path(sys.argv[3]) / f"{os.getpid()}-{number}").touch()
        time.sleep(0.3)
        return super().score(number)

pool.Stage = Slow

if __name__ == "__main__":
    options = dict(ep="cpu", partition_size=1, workers=int(sys.argv[5]), resume=True)
    report = score.score(score.ScoreConfig(sys.argv[1], sys.argv[2], Path(sys.argv[4]), **options))
    print(report.rows, report.resumed)
"""


def start(tmp_path: Path, model: Path, workers: int = 2) -> tuple[subprocess.Popen[str], Path]:
    """Start a process that scores slowly, one image per partition. The folder lists which process began which one."""
    program, begun = tmp_path / "slow.py", tmp_path / "begun"
    program.write_text(SLOW)
    begun.mkdir(exist_ok=True)
    command = [sys.executable, program, tmp_path / "cars", tmp_path / "out", begun, model, workers]
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True)
    return process, begun


def wait_for(folder: Path, count: int) -> list[str]:
    for _ in range(600):
        found = sorted(path.name for path in folder.iterdir())
        if len(found) >= count:
            return found
        time.sleep(0.05)
    raise AssertionError("no partition was begun")


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_its_partition_retried(model: Path, tmp_path: Path) -> None:
    pictures(tmp_path / "cars", 8)
    process, begun = start(tmp_path, model)
    victim = int(wait_for(begun, 3)[0].partition("-")[0])
    os.kill(victim, signal.SIGKILL)
    assert process.communicate(timeout=120)[0].split() == ["8", "0"]
    assert names_by_file(tmp_path / "out") == {f"car_{number:02d}.png": name_of(number) for number in range(8)}


@pytest.mark.slow
def test_workers_that_die_between_two_results_are_replaced(model: Path, tmp_path: Path) -> None:
    folder, output = pictures(tmp_path / "cars", 8), tmp_path / "out"

    def kill(progress: ScoreProgress) -> None:
        if progress.partitions == 1:
            for worker in multiprocessing.active_children():
                worker.kill()
            for thread in threading.enumerate():  # the pool is marked as broken when its manager has ended
                if type(thread).__name__ == "_ExecutorManagerThread":
                    thread.join(60)

    report = score(ScoreConfig(str(folder), str(output), model, ep="cpu", partition_size=1, workers=2), progress=kill)
    assert (report.rows, report.errors) == (8, 0)
    assert names_by_file(output) == {f"car_{number:02d}.png": name_of(number) for number in range(8)}


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_resumes_after_its_driver_was_killed(model: Path, tmp_path: Path, workers: int) -> None:
    pictures(tmp_path / "cars", 8)
    process, begun = start(tmp_path, model, workers)
    wait_for(begun, 5)
    process.kill()
    process.communicate()
    processes = {int(path.name.partition("-")[0]) for path in begun.iterdir()}
    for _ in range(200):  # workers exit after their driver
        if not any(Path(f"/proc/{process_id}").exists() for process_id in processes):
            break
        time.sleep(0.1)
    else:
        raise AssertionError("workers outlive their driver")
    written = len(list((tmp_path / "out").glob("*.parquet")))
    assert 0 < written < 8
    again, _ = start(tmp_path, model, workers)
    assert again.communicate(timeout=120)[0].split() == ["8", str(written)]
    assert names_by_file(tmp_path / "out") == {f"car_{number:02d}.png": name_of(number) for number in range(8)}


def test_workers_that_cannot_run_the_program_are_an_error_that_says_so(model: Path, tmp_path: Path) -> None:
    pictures(tmp_path / "cars", 2)
    call = "import sys, twincar_edge as tw; tw.score(*sys.argv[1:3], model=sys.argv[3], workers=2, partition_size=1)"
    command = [sys.executable, "-", tmp_path / "cars", tmp_path / "out", model]
    done = subprocess.run([str(part) for part in command], input=call, capture_output=True, text=True)
    assert "no worker process could start" in done.stderr.splitlines()[-1]
    assert done.stderr.splitlines()[-1].endswith("or use `workers=1`")


@pytest.mark.slow
def test_a_partition_that_always_kills_its_worker_is_named(model: Path, tmp_path: Path) -> None:
    program = tmp_path / "deadly.py"
    program.write_text(SLOW.replace("time.sleep(0.3)", "os.kill(os.getpid(), 9) if number == 1 else None"))
    pictures(tmp_path / "cars", 2)
    (tmp_path / "begun").mkdir()
    command = [sys.executable, program, tmp_path / "cars", tmp_path / "out", tmp_path / "begun", model, 2]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert "cannot score partition 1: its worker died" in done.stderr.splitlines()[-1]


# --- memory ---

PLANNED = """
import resource, sys
from pathlib import Path
from twincar_edge.runtime.scoring import output, pool, score

class Stub:
    def __init__(self, config): ...
    def score(self, number): return output.Counts(rows=1)

pool.Stage = Stub
with open(sys.argv[1], "w") as file:
    file.write("path\\n")
    for number in range(int(sys.argv[3])):
        file.write(f"/archive/2025/camera-{number % 97:03d}/{number:09d}-crop-of-a-vehicle.jpg\\n")
report = score.score(score.ScoreConfig(sys.argv[1], sys.argv[2], Path(sys.argv[4]), workers=1))
print(report.entries, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, report.elapsed_s)
"""


@pytest.mark.slow
def test_the_memory_of_the_driver_does_not_grow_with_the_input(model: Path, tmp_path: Path) -> None:
    peaks_kb = []
    for count in (10_000, 1_000_000):
        arguments = [tmp_path / f"{count}.csv", tmp_path / f"out-{count}", count, model]
        command = [sys.executable, "-c", PLANNED, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        entries, peak_kb, seconds = done.stdout.split()
        print(f"{entries} paths: peak {int(peak_kb) // 1024} MB, {seconds} s")  # noqa: T201
        assert int(entries) == count
        peaks_kb.append(int(peak_kb))
    assert peaks_kb[1] - peaks_kb[0] < 60_000  # a million paths as strings are 150 MB
