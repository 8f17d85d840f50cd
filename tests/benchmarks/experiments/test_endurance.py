"""Long runs are measured on a real process from outside, with a measure of growth that is robust to noise."""

from __future__ import annotations

import mmap
import re
from pathlib import Path

import numpy as np
import pytest

from tests.support.clips import BLUE_BGR, RED_BGR, film, write_video
from tests.support.experiments import run_experiment
from tests.support.tiny_model import tiny_model
from twincar_edge.benchmarks.experiments.endurance import Endurance, growth
from twincar_edge.images import write_image
from twincar_edge.memory import held_memory_mb

BRIEF = ["--duration", "3s", "--every", "0.5s", "--window", "1s"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny.onnx", golden=True)


def test_resident_and_anonymous_memory_are_measured(tmp_path: Path) -> None:
    own, rollup = Path("/proc/self/smaps_rollup"), tmp_path / "smaps_rollup"
    before = held_memory_mb(own)
    # Directly from the system: malloc could reuse memory of earlier tests.
    block = mmap.mmap(-1, 2**26, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    np.frombuffer(block, np.uint8)[:] = 1
    after = held_memory_mb(own)
    assert before is not None and after is not None
    for part in (0, 1):
        assert after[part] - before[part] == pytest.approx(64, abs=2)
    assert block[-1] == 1
    rollup.write_text("Rss: 3072 kB\nPss: 2000 kB\nPrivate_Clean: 512 kB\nAnonymous: 1536 kB\nLazyFree: 0 kB\n")
    assert held_memory_mb(rollup) == (3.0, 1.5)
    assert held_memory_mb(tmp_path / "absent") is None


def test_growth_compares_the_last_window_with_the_second() -> None:
    noise = np.random.default_rng(5).normal(0, 0.5, 361)
    noise[::30] += 40  # temporary peaks are not growth
    start = [(5.0 * number, 100.0 + 10 * number) for number in range(12)]
    flat = growth([*start, *((5.0 * number, 250 + float(noise[number])) for number in range(12, 361))], 60.0)
    assert abs(flat.percent) < 0.5
    leaks = growth(
        [*start, *((5.0 * number, 250 + number / 36 + float(noise[number])) for number in range(12, 361))], 60.0
    )
    assert leaks.percent == pytest.approx(100 * 9.5 / 250, abs=0.5)
    assert leaks.mb_per_hour - flat.mb_per_hour == pytest.approx(20)


def test_a_run_is_measured_from_outside_and_the_report_is_printed_and_written(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures, output = tmp_path / "pictures", tmp_path / "found.json"
    for name, color in (("a", RED_BGR), ("b", BLUE_BGR)):
        write_image(pictures / f"{name}.jpg", np.full((40, 60, 3), color, np.uint8))
    command = [str(pictures), "--model", model, *BRIEF, "-o", output]
    assert run_experiment("endurance", *command, "--max-growth", "1000", "--", "--threads", "1") == 0
    found = Endurance.model_validate_json(output.read_text("utf-8"))
    assert capsys.readouterr().out == found.summary() + "\n"
    assert (found.source, found.options, found.model) == (str(pictures), ("--threads", "1"), "tiny")
    assert found.seconds >= 3
    assert len(found.samples) == 7
    last = found.samples[-1]
    assert (last.frames, last.visits, last.events_dropped, last.reconnects) == (2, 2, 0, 0)
    assert last.events == 4 * 2  # to the file, the store, the pictures and the list of open visits
    assert last.resident_mb > last.anonymous_mb > 1
    assert last.open_files > 5 and last.threads > 3
    assert all(size > 0 for size in found.written_mb.values())


def test_growth_beyond_the_limit_is_exit_code_1(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pictures").mkdir()
    assert run_experiment("endurance", tmp_path / "pictures", "--model", model, *BRIEF, "--max-growth", "-100") == 1
    assert "(limit -100%)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["{clip}", *BRIEF], "the source ended early: use a camera or a stream"),
        (["{clip}x", *BRIEF], r"watch ended with exit code 2: .*clip\.mp4x"),
        (["{clip}", "--duration", "2s"], "cannot measure growth in 2 s with a sample every 5 s"),
        (["{clip}", *BRIEF, "--model", "{clip}"], r"clip\.mp4"),
    ],
)
def test_errors_are_one_line(
    options: list[str], message: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = write_video(tmp_path / "clip.mp4", film([], 10))
    options = [option.format(clip=clip) for option in options]
    named = [] if "--model" in options else ["--model", model]
    assert run_experiment("endurance", *named, "-o", str(tmp_path / "found.json"), *options) == 2
    assert not (tmp_path / "found.json").exists()
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert re.search(message, error), error
