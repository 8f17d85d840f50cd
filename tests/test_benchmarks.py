"""A benchmark from end to end, on a model of a few hundred bytes."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.tiny_model import CLASSES, tiny_model
from twincar_edge.benchmarks import BenchmarkConfig, BenchmarkReport, Schedule, bench, read_report, run, write_report
from twincar_edge.benchmarks.bench import PACKAGES
from twincar_edge.benchmarks.report import COLUMNS
from twincar_edge.cli import main
from twincar_edge.datasets import Dataset, open_dataset
from twincar_edge.errors import InputError, ModelError
from twincar_edge.files import sha256
from twincar_edge.labels import ClassMapping
from twincar_edge.machine import installed_versions

SHORT = Schedule(warmup=1, rounds=2, per_round=3)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_model(tmp_path / "model" / "tiny.fp32.onnx")


@pytest.fixture
def cars(tmp_path: Path) -> Dataset:
    """Six plain pictures: red, green and blue twice, of which the last is labelled wrong."""
    folder = tmp_path / "cars"
    (folder / "images").mkdir(parents=True)
    labels = [0, 1, 2, 0, 1, 0]
    for number, colour in enumerate([0, 1, 2, 0, 1, 2]):
        image = np.zeros((20, 30, 3), np.uint8)
        image[:, :, 2 - colour] = 200
        assert cv2.imwrite(str(folder / "images" / f"{number}.png"), image)
    rows = "".join(f"{number}.png,{label}\n" for number, label in enumerate(labels))
    (folder / "labels.csv").write_text("filename,label\n" + rows)
    (folder / "class_mapping.json").write_text(ClassMapping(CLASSES).to_json())
    return open_dataset(folder)


@pytest.fixture(autouse=True)
def drawn_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "TIMED_IMAGES", 2)


@pytest.fixture
def report(model: Path) -> BenchmarkReport:
    return run(BenchmarkConfig((model,), eps=("cpu", "tensorrt"), threads=1, schedule=SHORT))


def test_a_row_says_what_was_measured_and_keeps_every_sample(report: BenchmarkReport, model: Path) -> None:
    row = report.rows[0]
    assert (row.model, row.file, row.precision, row.sha256) == ("tiny", "tiny.fp32.onnx", "fp32", sha256(model))
    assert (row.ep_asked, row.ep, row.threads, row.batch, row.status) == ("cpu", "cpu", 1, 1, "ok")
    assert row.timing is not None
    for samples in (row.timing.pre_samples_ms, row.timing.infer_samples_ms, row.timing.post_samples_ms):
        assert len(samples) == 6
        assert min(samples) > 0
    assert row.timing.total.p50_ms <= row.timing.total.p99_ms
    assert row.timing.infer.min_ms == min(row.timing.infer_samples_ms)


def test_a_provider_that_is_not_here_is_a_row_that_says_how_to_get_it(report: BenchmarkReport) -> None:
    row = report.rows[1]
    assert (row.ep_asked, row.ep, row.timing) == ("tensorrt", None, None)
    assert "twincar-edge[gpu]" in row.status


def test_without_named_providers_every_usable_one_is_measured(model: Path) -> None:
    from twincar_edge.runtime.providers import usable_providers

    found = run(BenchmarkConfig((model,), schedule=SHORT))
    assert tuple(row.ep_asked for row in found.rows) == usable_providers()


def test_labels_give_top1_and_top5(model: Path, cars: Dataset) -> None:
    [row] = run(BenchmarkConfig((model,), eps=("cpu",), schedule=SHORT, dataset=cars)).rows
    assert row.top1 == pytest.approx(5 / 6)
    assert row.top5 == 1  # of three classes


def test_labels_of_other_classes_are_refused_before_anything_is_timed(model: Path, labelled_folder: Path) -> None:
    with pytest.raises(InputError, match="does not know 3 classes"):
        run(BenchmarkConfig((model,), dataset=open_dataset(labelled_folder)))


def test_an_empty_data_set_is_refused(model: Path, cars: Dataset) -> None:
    with pytest.raises(InputError, match="empty"):
        run(BenchmarkConfig((model,), dataset=cars.select([])))


def test_batches_are_measured_as_batches(model: Path, cars: Dataset) -> None:
    [row] = run(BenchmarkConfig((model,), eps=("cpu",), batch=4, schedule=SHORT, dataset=cars)).rows
    assert row.batch == 4
    assert row.timing is not None
    assert row.timing.fps == pytest.approx(4e3 / row.timing.total.mean_ms)


def test_precisions_are_found_beside_the_model(model: Path) -> None:
    int8 = model.with_name("tiny.int8.onnx")
    int8.write_bytes(model.read_bytes().replace(b'"precision":"fp32"', b'"precision":"int8"'))
    config = BenchmarkConfig((model,), ("fp32", "int8"), ("cpu",), schedule=SHORT)
    assert [(row.file, row.precision) for row in run(config).rows] == [
        ("tiny.fp32.onnx", "fp32"),
        ("tiny.int8.onnx", "int8"),
    ]


def test_a_precision_that_is_not_there_is_one_line(model: Path) -> None:
    with pytest.raises(InputError, match=r"no int8 file of it: expected NAME\.int8\.onnx"):
        run(BenchmarkConfig((model,), ("int8",)))


def test_the_same_file_twice_is_one_row(model: Path) -> None:
    assert len(run(BenchmarkConfig((model, model), eps=("cpu", "cpu"), schedule=SHORT)).rows) == 1


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"eps": ("cuba",)}, "did you mean 'cuda'"),
        ({"precisions": ("int9",)}, "did you mean 'int8'"),
        ({"batch": 0}, "1 or more"),
        ({"threads": 0}, "1 or more"),
    ],
)
def test_what_cannot_be_measured_is_refused_at_once(config: dict[str, object], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        BenchmarkConfig((Path("x.onnx"),), **config)  # type: ignore[arg-type]


def test_a_file_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="twincar-edge export"):
        run(BenchmarkConfig((tiny_model(tmp_path / "other.onnx", metadata=False),)))


def test_nothing_measurable_at_all_is_an_error(model: Path) -> None:
    with pytest.raises(InputError, match="nothing could be measured"):
        run(BenchmarkConfig((model,), eps=("tensorrt",)))


def test_a_report_reads_back_from_json(report: BenchmarkReport, tmp_path: Path) -> None:
    write_report(report, tmp_path / "results.json")
    assert read_report(tmp_path / "results.json") == report


def test_a_report_as_csv_has_a_line_a_row_with_its_figures(report: BenchmarkReport, tmp_path: Path) -> None:
    write_report(report, tmp_path / "results.CSV")
    with (tmp_path / "results.CSV").open(newline="") as file:
        measured, missing = csv.DictReader(file)
    timing = report.rows[0].timing
    assert timing is not None
    assert float(measured["infer_p95_ms"]) == timing.infer.p95_ms
    assert float(measured["fps"]) == timing.fps
    assert (measured["ep"], missing["ep"], missing["infer_p95_ms"]) == ("cpu", "", "")
    assert missing["status"] == report.rows[1].status


def test_a_report_as_markdown_has_the_machine_and_the_table(report: BenchmarkReport) -> None:
    text = report.to_markdown()
    assert report.machine.cpu in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 4
    assert {line.count("|") for line in lines} == {len(COLUMNS) + 1}


def test_no_path_of_this_machine_is_in_a_report(report: BenchmarkReport, model: Path) -> None:
    for text in (report.to_json(), report.to_csv(), report.to_markdown()):
        assert str(model.parent) not in text


@pytest.mark.parametrize("name", ["results.txt", "results"])
def test_a_format_that_does_not_exist_is_refused(report: BenchmarkReport, tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"\.json, \.csv, \.md"):
        write_report(report, tmp_path / name)


@pytest.mark.parametrize("text", ["", "{}", '{"schema_version": 2}', "[1]"])
def test_what_is_no_report_is_refused(tmp_path: Path, text: str) -> None:
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
    model: Path, cars: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = [tmp_path / f"results{suffix}" for suffix in (".json", ".md", ".csv")]
    args = ["bench", model, "--ep", "cpu,tensorrt", "--rounds", 1, "--per-round", 2, "--warmup", 0]
    args += ["--data", tmp_path / "cars", *(part for path in outputs for part in ("-o", path))]
    assert command(*args) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "83.33%" in out and "not measured: tiny.fp32.onnx on tensorrt" in out
    assert all(path.stat().st_size > 0 for path in outputs)
    assert read_report(outputs[0]).data == cars.record()


@pytest.mark.parametrize(
    "args",
    [("--ep", "cuba"), ("--precision", "fp8"), ("--rounds", "0"), ("-o", "results.txt"), ("missing.onnx",)],
)
def test_bad_input_is_one_line_and_exit_code_2(args: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert command("bench", *args) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ") and err.count("\n") == 1
