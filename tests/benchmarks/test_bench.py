"""A benchmark from end to end, on a model of a few hundred bytes."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.tiny_model import CLASSES, tiny_model, with_manifest
from twincar_edge.benchmarks import (
    BenchmarkConfig,
    BenchmarkReport,
    CameraPace,
    Schedule,
    bench,
    formats,
    read_report,
    write_report,
)  # fmt: skip
from twincar_edge.benchmarks.bench import PACKAGES
from twincar_edge.benchmarks.config import PEERS, RowSpec
from twincar_edge.benchmarks.formats import COLUMNS, to_csv, to_markdown
from twincar_edge.benchmarks.matrix import rows_of
from twincar_edge.benchmarks.report import Ratio
from twincar_edge.benchmarks.worker import Worker
from twincar_edge.benchmarks.worker_client import InProcessClient, RowError
from twincar_edge.cli import main
from twincar_edge.datasets import Dataset, open_dataset
from twincar_edge.errors import InputError, ModelError
from twincar_edge.files import sha256
from twincar_edge.labels import ClassMapping
from twincar_edge.machine import installed_versions
from twincar_edge.manifest import TrainingRecord

SHORT = Schedule(warmup=1, rounds=2, per_round=3)


def in_process_client(spec: RowSpec, images: Sequence[NDArray[np.uint8]], timeout_s: float) -> InProcessClient:
    """Run a row in this process. `test_worker.py` tests rows in separate processes."""
    return InProcessClient(Worker(spec, images))


def run(config: BenchmarkConfig, launch: bench.Launch = in_process_client) -> BenchmarkReport:
    return bench.run(config, launch=launch)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_model(tmp_path / "model" / "tiny.fp32.onnx")


@pytest.fixture
def cars(tmp_path: Path) -> Dataset:
    """Six pictures, red, green and blue twice. The label of the last one is wrong."""
    folder = tmp_path / "cars"
    (folder / "images").mkdir(parents=True)
    labels = [0, 1, 2, 0, 1, 0]
    for number, color in enumerate([0, 1, 2, 0, 1, 2]):
        image = np.zeros((20, 30, 3), np.uint8)
        image[:, :, 2 - color] = 200
        assert cv2.imwrite(str(folder / "images" / f"{number}.png"), image)
    rows = "".join(f"{number}.png,{label}\n" for number, label in enumerate(labels))
    (folder / "labels.csv").write_text("filename,label\n" + rows)
    (folder / "class_mapping.json").write_text(ClassMapping(CLASSES).to_json())
    return open_dataset(folder)


@pytest.fixture(autouse=True)
def few_timed_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "TIMED_IMAGES", 2)


@pytest.fixture
def report(model: Path) -> BenchmarkReport:
    return run(BenchmarkConfig((model,), eps=("cpu", "tensorrt"), threads=(1,), schedule=SHORT))


def test_a_row_identifies_what_was_measured_and_has_every_sample(report: BenchmarkReport, model: Path) -> None:
    row = report.rows[0]
    assert (row.model, row.file, row.precision, row.sha256) == ("tiny", "tiny.fp32.onnx", "fp32", sha256(model))
    assert (row.ep_asked, row.ep, row.threads, row.batch, row.status) == ("cpu", "cpu", 1, 1, "ok")
    assert row.timing is not None
    for samples in (row.timing.pre_samples_ms, row.timing.infer_samples_ms, row.timing.post_samples_ms):
        assert len(samples) == 6
        assert min(samples) > 0
    assert row.timing.total.p50_ms <= row.timing.total.p99_ms
    assert row.timing.infer.min_ms == min(row.timing.infer_samples_ms)


def test_a_missing_provider_is_a_row_with_a_remedy(report: BenchmarkReport) -> None:
    row = report.rows[1]
    assert (row.ep_asked, row.ep, row.timing) == ("tensorrt", None, None)
    assert "twincar-edge[gpu]" in row.status


def test_without_named_providers_every_usable_one_is_measured(model: Path) -> None:
    from twincar_edge.runtime.inference.providers import usable_providers

    found = run(BenchmarkConfig((model,), schedule=SHORT))
    assert tuple(row.ep_asked for row in found.rows) == usable_providers()


def test_labels_give_top1_and_top5(model: Path, cars: Dataset) -> None:
    [row] = run(BenchmarkConfig((model,), eps=("cpu",), schedule=SHORT, dataset=cars)).rows
    assert row.top1 == pytest.approx(5 / 6)
    assert row.top5 == 1  # there are only three classes


def test_labels_of_other_classes_are_refused_before_anything_is_timed(model: Path, labeled_folder: Path) -> None:
    with pytest.raises(InputError, match="does not know 3 classes"):
        run(BenchmarkConfig((model,), dataset=open_dataset(labeled_folder)))


def test_an_empty_data_set_is_refused(model: Path, cars: Dataset) -> None:
    with pytest.raises(InputError, match="empty"):
        run(BenchmarkConfig((model,), dataset=cars.select([])))


def test_batches_are_measured_as_batches(model: Path, cars: Dataset) -> None:
    [row] = run(BenchmarkConfig((model,), eps=("cpu",), batches=(4,), schedule=SHORT, dataset=cars)).rows
    assert row.batch == 4
    assert row.timing is not None
    assert row.timing.fps == pytest.approx(4e3 / row.timing.total.mean_ms)


def test_precisions_are_found_beside_the_model(model: Path) -> None:
    int8 = model.with_name("tiny.int8.onnx")
    with_manifest(model, int8, precision="int8")
    config = BenchmarkConfig((model,), ("fp32", "int8"), ("cpu",), schedule=SHORT)
    assert [(row.file, row.precision) for row in run(config).rows] == [
        ("tiny.fp32.onnx", "fp32"),
        ("tiny.int8.onnx", "int8"),
    ]


def test_a_missing_precision_is_a_one_line_error(model: Path) -> None:
    with pytest.raises(InputError, match=r"no int8 file of .*: expected NAME\.int8\.onnx"):
        run(BenchmarkConfig((model,), ("int8",)))


def test_the_same_file_twice_is_one_row(model: Path) -> None:
    assert len(run(BenchmarkConfig((model, model), eps=("cpu", "cpu"), schedule=SHORT)).rows) == 1


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"eps": ("cuba",)}, "did you mean 'cuda'"),
        ({"precisions": ("int9",)}, "did you mean 'int8'"),
        ({"batches": (1, 0)}, "1 or more"),
        ({"batches": ()}, "1 or more"),
        ({"threads": (0,)}, "1 or more"),
        ({"timeout_s": 0}, "above 0"),
        ({"timeout_s": 1e10}, "at most 604800 s"),
        ({"timeout_s": float("nan")}, "at most 604800 s"),
        ({"pace": CameraPace(), "batches": (1, 8)}, "frames come one at a time"),
    ],
)
def test_invalid_configurations_are_rejected(config: dict[str, object], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        BenchmarkConfig((Path("x.onnx"),), **config)  # type: ignore[arg-type]


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="twincar-edge export"):
        run(BenchmarkConfig((tiny_model(tmp_path / "other.onnx", metadata=False),)))


def test_no_measurable_row_is_an_error(model: Path) -> None:
    with pytest.raises(InputError, match="no row could be measured"):
        run(BenchmarkConfig((model,), eps=("tensorrt",)))


def test_a_report_round_trips_through_json(report: BenchmarkReport, tmp_path: Path) -> None:
    write_report(report, tmp_path / "results.json")
    assert read_report(tmp_path / "results.json") == report


def test_a_csv_report_has_one_line_per_row(report: BenchmarkReport, tmp_path: Path) -> None:
    write_report(report, tmp_path / "results.CSV")
    with (tmp_path / "results.CSV").open(newline="") as file:
        measured, missing = csv.DictReader(file)
    timing = report.rows[0].timing
    assert timing is not None
    assert float(measured["infer_p95_ms"]) == timing.infer.p95_ms
    assert float(measured["fps"]) == timing.fps
    assert (measured["ep"], missing["ep"], missing["infer_p95_ms"]) == ("cpu", "", "")
    assert missing["status"] == report.rows[1].status


def test_a_markdown_report_has_the_machine_and_the_table(report: BenchmarkReport) -> None:
    text = to_markdown(report)
    assert report.machine.cpu in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines[:4]} == {len(COLUMNS) + 1}
    assert "| cpu (4) |" in lines[2]


def test_a_report_contains_no_local_paths(report: BenchmarkReport, model: Path) -> None:
    for text in (report.to_json(), to_csv(report), to_markdown(report)):
        assert str(model.parent) not in text


@pytest.mark.parametrize("name", ["results.txt", "results"])
def test_an_unknown_report_format_is_refused(report: BenchmarkReport, tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"\.json, \.csv, \.md, \.png"):
        write_report(report, tmp_path / name)


@pytest.mark.parametrize("text", ["", "{}", '{"schema_version": 1}', "[1]"])
def test_a_file_that_is_not_a_report_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(InputError, match="not a benchmark report"):
        read_report(tmp_path / "results.json")


def test_versions_name_the_onnx_runtime_that_was_measured() -> None:
    import onnxruntime

    assert onnxruntime.__version__ in installed_versions(PACKAGES).values()


def command(*args: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(arg) for arg in args])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_the_command_prints_the_table_and_writes_the_reports(
    model: Path,
    cars: Dataset,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # wide enough for all columns
    outputs = [tmp_path / f"results{suffix}" for suffix in (".json", ".md", ".csv", ".png")]
    args = ["bench", model, "--ep", "cpu,tensorrt", "--rounds", 1, "--per-round", 2, "--warmup", 0]
    args += ["--data", tmp_path / "cars", *(part for path in outputs for part in ("-o", path))]
    assert command(*args) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "83.33%" in out and "not measured: tiny.fp32.onnx on tensorrt" in out
    assert "auto takes " in out
    assert all(path.stat().st_size > 0 for path in outputs)
    assert read_report(outputs[0]).data == cars.record()


@pytest.mark.parametrize(
    "args",
    [
        ("--ep", "cuba"),
        ("--ep", "tensorrt", "--strict-ep"),
        ("--precision", "fp8"),
        ("--rounds", "0"),
        ("--batch", "1,many"),
        ("--threads", "-1"),
        ("--fps", "0"),
        ("--duration", "soon"),
        ("--duration", "1s", "--sustain", "1m"),
        ("--clip", "gate.mp4"),
        ("--min-top5", "93"),
        ("--max-p95", "0"),
        ("-o", "results.txt"),
        ("missing.onnx",),
        ("compare", "a.json", "b.json"),
    ],
)
def test_invalid_input_is_a_one_line_error_and_exit_code_2(
    args: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("bench", *args) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ") and err.count("\n") == 1


def test_the_matrix_has_every_combination_of_file_provider_batch_and_threads(model: Path) -> None:
    config = BenchmarkConfig((model,), eps=("cpu", "cuda"), batches=(1, 8), threads=(1, 2))
    found = [(row.ep, row.batch, row.threads) for row in rows_of(config)]
    assert found == [(ep, batch, threads) for ep in ("cpu", "cuda") for batch in (1, 8) for threads in (1, 2)]


def test_the_quickstart_is_first_and_other_peers_are_last(model: Path) -> None:
    rows = list(rows_of(BenchmarkConfig((model,), eps=("cpu",), peers=True)))
    assert [row.peer for row in rows] == [next(iter(PEERS)), None, *list(PEERS)[1:]]
    assert [row.model for row in rows if row.peer == "openvino-native"] == [model]


def test_idle_threads_spin_by_default_except_at_a_camera_pace(model: Path) -> None:
    assert BenchmarkConfig((model,)).spins()
    assert not BenchmarkConfig((model,), pace=CameraPace()).spins()
    assert BenchmarkConfig((model,), pace=CameraPace(), spinning=True).spins()


class Broken(InProcessClient):
    """A row that fails in one call."""

    def __init__(self, worker: Worker, fails_at: str, error: BaseException) -> None:
        super().__init__(worker)
        self._fails_at, self._error = fails_at, error

    def call(self, name: str, *arguments: Any, timeout_s: float | None = None) -> Any:
        if name == self._fails_at and arguments[1:] != (False,):
            raise self._error
        return super().call(name, *arguments)


@pytest.mark.parametrize("fails_at", ["open", "turn"])
def test_a_crash_affects_only_its_row(model: Path, fails_at: str) -> None:
    def launch(spec: RowSpec, images: Sequence[NDArray[np.uint8]], timeout_s: float) -> InProcessClient:
        worker = Worker(spec, images)
        return Broken(worker, fails_at, RowError("its process crashed")) if spec.batch == 4 else InProcessClient(worker)

    first, bad, last = run(BenchmarkConfig((model,), eps=("cpu",), batches=(1, 4, 2), schedule=SHORT), launch).rows
    assert (bad.status, bad.timing) == ("its process crashed", None)
    assert first.timing is not None and last.timing is not None
    assert (first.status, last.status) == ("ok", "ok")


def test_a_reason_names_the_file_without_its_folder(model: Path) -> None:
    error = ModelError(f"{model} failed on cpu: it broke")
    launched = iter([False, True])

    def launch(spec: RowSpec, images: Sequence[NDArray[np.uint8]], timeout_s: float) -> InProcessClient:
        worker = Worker(spec, images)
        return Broken(worker, "turn", error) if next(launched) else InProcessClient(worker)

    _, bad = run(BenchmarkConfig((model,), eps=("cpu",), batches=(1, 2), schedule=SHORT), launch).rows
    assert bad.status == "tiny.fp32.onnx failed on cpu: it broke"


def test_ctrl_c_keeps_the_rounds_that_were_measured(model: Path) -> None:
    class Interrupted(InProcessClient):
        turns = 0

        def call(self, name: str, *arguments: Any, timeout_s: float | None = None) -> Any:
            self.turns += name == "turn"
            if self.turns > 7:  # after the warm-up and three rounds of two calls
                raise KeyboardInterrupt
            return super().call(name, *arguments)

    config = BenchmarkConfig((model,), eps=("cpu",), schedule=Schedule(1, 20, 3))
    report = run(config, lambda spec, images, _: Interrupted(Worker(spec, images)))
    timing = report.rows[0].timing
    assert report.interrupted and timing is not None
    assert len(timing.infer_samples_ms) == 9
    assert any("interrupted" in line for line in report.conditions())


def test_ctrl_c_before_the_first_round_gives_no_report(model: Path) -> None:
    config = BenchmarkConfig((model,), eps=("cpu",), schedule=SHORT)
    with pytest.raises(KeyboardInterrupt):
        run(config, lambda spec, images, _: Broken(Worker(spec, images), "open", KeyboardInterrupt()))


def test_the_command_prints_partial_results_after_ctrl_c_and_exits_with_130(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], report: BenchmarkReport
) -> None:
    monkeypatch.setattr("twincar_edge.cli.bench.run", lambda *_, **__: report.model_copy(update={"interrupted": True}))
    assert command("bench", model, "--ep", "cpu") == 130
    out, err = capsys.readouterr()
    assert "interrupted: not all rounds" in out and err == "interrupted\n"


def test_strict_ep_makes_a_missing_provider_an_error(model: Path) -> None:
    with pytest.raises(InputError, match=r"tensorrt: .*twincar-edge\[gpu\]"):
        run(BenchmarkConfig((model,), eps=("cpu", "tensorrt"), schedule=SHORT, strict_ep=True))


def test_unusable_providers_are_listed(report: BenchmarkReport) -> None:
    assert any(line.startswith("tensorrt: ") for line in report.not_run)
    assert report.auto.startswith("auto takes ")


def test_ratios_compare_each_round_with_the_same_round_of_the_first_row(model: Path) -> None:
    """The machine gets twice as slow from round to round. The second row takes half as long per image as the first."""
    rounds = {1: [8.0, 16.0, 32.0], 2: [8.0, 16.0, 32.0]}  # a batch of two takes as long as one image

    class Fixed(InProcessClient):
        def __init__(self, worker: Worker, batch: int) -> None:
            super().__init__(worker)
            self._times = iter(rounds[batch])

        def call(self, name: str, *arguments: Any, timeout_s: float | None = None) -> Any:
            if name == "turn":
                return (bench.Sample(0.0, next(self._times), 0.0),) if arguments[1] else ()
            return super().call(name, *arguments)

    config = BenchmarkConfig((model,), eps=("cpu",), batches=(1, 2), schedule=Schedule(0, 3, 1))
    first, second = run(config, lambda spec, images, _: Fixed(Worker(spec, images), spec.batch)).rows
    assert first.times_first == Ratio(median=1, low=1, high=1)
    assert second.times_first == second.times_first_infer == Ratio(median=2, low=2, high=2)


def test_one_round_has_no_interval() -> None:
    single = Ratio.of([1.37])
    assert (single.median, single.low, single.high) == (1.37, None, None)
    assert formats.ratio(single) == "1.37"
    assert formats.ratio(Ratio.of([1.0, 2.0])).startswith("1.50 (")


def test_the_interval_of_a_ratio_contains_its_median_and_widens_with_the_spread_of_rounds() -> None:
    steady, shaky = Ratio.of([20.0, 20.1, 19.9] * 5), Ratio.of([15.0, 20.0, 25.0] * 5)
    for ratio in (steady, shaky):
        assert ratio.low <= ratio.median <= ratio.high
    assert shaky.high - shaky.low > steady.high - steady.low


def test_top5_is_compared_with_the_fp32_row_of_the_same_weights(model: Path, cars: Dataset) -> None:
    other = with_manifest(model, model.with_name("tiny.int8.onnx"), precision="int8")
    foreign_record = TrainingRecord(checkpoint_sha256="1" * 64, recipe={})
    foreign = with_manifest(model, model.with_name("other.onnx"), precision="int8", training=foreign_record)
    rows = run(BenchmarkConfig((other, model, foreign), eps=("cpu",), schedule=SHORT, dataset=cars)).rows
    assert [row.top5_change for row in rows] == [0, 0, None]


def test_rows_that_differ_only_in_batch_share_their_accuracy(model: Path, cars: Dataset) -> None:
    asked: list[str] = []

    class Counted(InProcessClient):
        def call(self, name: str, *arguments: Any, timeout_s: float | None = None) -> Any:
            asked.append(name)
            return super().call(name, *arguments)

    config = BenchmarkConfig((model,), eps=("cpu",), batches=(1, 2), schedule=SHORT, dataset=cars)
    rows = run(config, lambda spec, images, _: Counted(Worker(spec, images))).rows
    assert asked.count("logits") == 1
    assert {row.top1 for row in rows} == {5 / 6}


def test_a_paced_row_has_its_figures(model: Path, tmp_path: Path) -> None:
    report = run(BenchmarkConfig((model,), eps=("cpu",), threads=(1,), pace=CameraPace(50, 0.5)))
    paced = report.rows[0].paced
    assert paced is not None and report.rows[0].timing is None
    assert (paced.fps, paced.frames, paced.clip) == (50, 25, "gate.mp4")
    assert 1 <= paced.answered <= 25
    assert 0 <= paced.in_time <= 1 and paced.decode.min_ms > 0
    for suffix in (".json", ".csv", ".md", ".png"):
        write_report(report, tmp_path / f"paced{suffix}")
    assert read_report(tmp_path / "paced.json") == report
    assert "In time" in (tmp_path / "paced.md").read_text()


def test_rows_have_their_threads_start_times_memory_and_nodes(model: Path) -> None:
    rows = run(BenchmarkConfig((model,), eps=("cpu",), threads=(1, 2), schedule=SHORT)).rows
    assert [row.threads for row in rows] == [1, 2]
    assert rows[0].start is not None and rows[0].peak_mb is not None
    assert rows[0].nodes == {"cpu": 4}
