"""An export from end to end, with a small trained classifier."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import onnx
import pytest

from tests.support.export_toys import CLASSES, PREPROCESS, train_toy, write_cars
from twincar_edge.cli import main
from twincar_edge.dataset_logits import dataset_logits
from twincar_edge.datasets import OpenOptions, open_dataset
from twincar_edge.errors import InputError, ModelError
from twincar_edge.export import (
    ConfidenceOptions,
    ExportConfig,
    ExportResult,
    Int8Config,
    Int8Search,
    ParityError,
    ParityLimits,
    ParityReport,
    export,
    pipeline,
)
from twincar_edge.export.confidence.report import GIVEN
from twincar_edge.export.data import calibration_samples, open_split
from twincar_edge.export.explainable import FEATURES
from twincar_edge.export.graph import renamed, strip
from twincar_edge.export.int8 import make
from twincar_edge.export.int8.report import SearchReport
from twincar_edge.export.open_set.measure import Subject, measure_open_set
from twincar_edge.export.open_set.pictures import open_unknown_pictures
from twincar_edge.export.open_set.report import OpenSetReport
from twincar_edge.export.regraft import main as regraft_main
from twincar_edge.files import sha256
from twincar_edge.golden import read_golden
from twincar_edge.held_out import HELD_OUT_KEY, read_held_out
from twincar_edge.manifest import read_manifest
from twincar_edge.metrics import topk_accuracy
from twincar_edge.onnx_metadata import with_metadata
from twincar_edge.preprocess import prepare_batch
from twincar_edge.runtime.inference.golden_check import check_golden
from twincar_edge.runtime.inference.session import open_session
from twincar_edge.training.checkpoint import read_checkpoint

CREATED = datetime(2025, 6, 1, 12, tzinfo=UTC)
IMPOSSIBLE = ParityLimits(agreement=1.0, sure_agreement=1.0, top1_drop=0.0)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint in its run folder; the images are in ../cars."""
    return train_toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def exported(toy: Path) -> ExportResult:
    config = ExportConfig(toy, toy.parent.parent / "out", Int8Config(calibration_images=30), notes="drawn cars")
    return export(config, created=CREATED)


@pytest.fixture
def cached_graph(exported: ExportResult, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reuse the graph of the export above instead of exporting it with torch again, which takes seconds."""

    def loaded(_model: object, _opset: int) -> onnx.ModelProto:
        graph = onnx.load(exported.fp32)
        strip(graph)
        del graph.graph.output[2:]  # torch's graph has no feature map and no tensor of that name
        return renamed(graph, FEATURES, "last")

    monkeypatch.setattr(pipeline, "to_onnx", loaded)


def reports(name: str) -> list[str]:
    return [f"{name}.{kind}.{suffix}" for kind in ("confidence", "parity") for suffix in ("json", "md", "png")]


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def test_an_export_writes_two_models_and_the_reports_and_nothing_else(toy: Path, exported: ExportResult) -> None:
    name = f"test_efficientnet-{sha256(toy)[:8]}"
    assert exported.int8 is not None
    assert files(exported.fp32.parent) == sorted([*reports(name), f"{name}.fp32.onnx", f"{name}.int8.onnx"])
    assert (exported.fp32.name, exported.int8.name) == (f"{name}.fp32.onnx", f"{name}.int8.onnx")
    assert exported.int8.stat().st_size < 0.5 * exported.fp32.stat().st_size


def test_each_file_is_self_contained(toy: Path, exported: ExportResult) -> None:
    assert exported.int8 is not None
    fp32, int8 = read_manifest(exported.fp32), read_manifest(exported.int8)
    checkpoint = read_checkpoint(toy)
    for manifest in (fp32, int8):
        assert manifest.classes == CLASSES.names
        assert manifest.preprocess == PREPROCESS
        assert manifest.training.checkpoint_sha256 == sha256(toy)
        assert manifest.training.recipe == checkpoint.recipe
        assert manifest.training.data == checkpoint.data
        assert (manifest.created, manifest.notes) == (CREATED, "drawn cars")
    assert (fp32.precision, fp32.quantization) == ("fp32", None)
    assert int8.precision == "int8"
    assert int8.quantization == Int8Config().record(images=30)
    assert fp32.parity is not None and int8.parity is not None
    assert (fp32.parity.against, int8.parity.against) == ("pytorch", "fp32")
    assert int8.parity == exported.parity.comparison("int8").record(exported.parity.data.images)


def test_the_files_have_the_accuracy_in_the_report(toy: Path, exported: ExportResult) -> None:
    split = open_split(toy, read_checkpoint(toy).recipe, read_checkpoint(toy).classes, None)
    assert exported.parity.data == split.validation.record()
    assert exported.int8 is not None
    for precision, path in (("fp32", exported.fp32), ("int8", exported.int8)):
        logits = dataset_logits(open_session(path, ep="cpu", threads=1).run, split.validation, PREPROCESS)
        assert topk_accuracy(logits, split.validation.labels) == exported.parity.comparison(precision).top1
    assert exported.parity.comparison("fp32").top1_reference > 0.9  # the model has learned, so agreement is meaningful
    assert exported.parity.comparison("int8").max_abs_logit_difference > 0


def test_the_report_is_written_to_disk(exported: ExportResult) -> None:
    folder = exported.fp32.parent
    assert (
        ParityReport.model_validate_json((folder / f"{exported.parity.name}.parity.json").read_text())
        == exported.parity
    )
    assert (folder / f"{exported.parity.name}.parity.md").read_text() == exported.parity.to_markdown()


def bytes_without_pixels(path: Path) -> bytes:
    """Return a file's bytes without the compressed pixels of a PNG, which contain any short text by chance."""
    data = path.read_bytes()
    if path.suffix != ".png":
        return data
    kept, place = data[:8], 8
    while place < len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        kept += b"" if data[place + 4 : place + 8] == b"IDAT" else data[place:end]
        place = end
    return kept


def test_no_file_contains_a_path_of_the_training_machine(toy: Path, exported: ExportResult) -> None:
    for path in exported.fp32.parent.iterdir():
        data = bytes_without_pixels(path)
        for leak in (str(toy.parent.parent).encode(), b".export-", b"site-packages", b".py"):
            assert leak not in data, path.name


def test_each_file_has_temperature_threshold_and_golden_inputs(exported: ExportResult) -> None:
    assert exported.int8 is not None
    for path in (exported.fp32, exported.int8):
        manifest = read_manifest(path)
        assert manifest.temperature == exported.confidence.temperature != 1
        assert manifest.reject_below == exported.confidence.threshold
        assert manifest.confidence == exported.confidence.record(manifest.precision)
        golden = read_golden(path)
        assert golden is not None
        assert check_golden(open_session(path, ep="cpu"), golden).passed


def test_a_given_temperature_and_threshold_are_used_unchanged(cached_graph: None, toy: Path, tmp_path: Path) -> None:
    result = export(ExportConfig(toy, tmp_path, confidence=ConfidenceOptions(temperature=1.7, reject_below=0.25)))
    manifest = read_manifest(result.fp32)
    assert (manifest.temperature, manifest.reject_below) == (1.7, 0.25)


def test_an_export_replaces_the_files_of_its_name_and_no_others(cached_graph: None, toy: Path, tmp_path: Path) -> None:
    for name in ("toy", "other"):
        (tmp_path / f"{name}.int8_search.md").write_text("of an earlier export")
        (tmp_path / f"{name}.int8_search.json").write_text("{}")
        (tmp_path / f"{name}.open_set_int8.md").write_text("of an earlier export")
    others = [path for path in files(tmp_path) if path.startswith("other.")]
    export(ExportConfig(toy, tmp_path, name="first"))
    first = {name: (tmp_path / name).read_bytes() for name in [*reports("first"), "first.fp32.onnx"]}
    export(ExportConfig(toy, tmp_path, name="toy"))
    assert files(tmp_path) == sorted([*first, *others, *reports("toy"), "toy.fp32.onnx"])
    assert {name: (tmp_path / name).read_bytes() for name in first} == first


def test_an_fp16_file_agrees_with_fp32_and_is_half_as_large(cached_graph: None, toy: Path, tmp_path: Path) -> None:
    result = export(ExportConfig(toy, tmp_path, fp16=True, name="toy"))
    assert result.fp16 == tmp_path / "toy.fp16.onnx"
    manifest = read_manifest(result.fp16)
    assert (manifest.precision, manifest.parity and manifest.parity.against) == ("fp16", "fp32")
    weights = sum(len(tensor.raw_data) for tensor in onnx.load(result.fp16).graph.initializer)
    assert weights < 0.55 * sum(len(tensor.raw_data) for tensor in onnx.load(result.fp32).graph.initializer)
    assert result.parity.comparison("fp16").agreement == 1.0


def test_a_search_reports_every_candidate_and_records_its_choice_in_the_manifest(
    cached_graph: None, toy: Path, tmp_path: Path
) -> None:
    result = export(ExportConfig(toy, tmp_path, Int8Search(target="x86-avx2", calibration_images=8), name="toy"))
    assert result.search is not None and result.int8 is not None
    assert len(result.search.rows) >= 4
    [chosen] = [row for row in result.search.rows if row.chosen]
    quantization = read_manifest(result.int8).quantization
    assert quantization is not None
    assert (quantization.target, quantization.calibration_images) == ("x86-avx2", 8)
    assert quantization.calibration.split()[0] == chosen.choices["calibration"]
    assert chosen.speedup is not None and chosen.speedup > 0
    assert SearchReport.model_validate_json((tmp_path / "toy.int8_search.json").read_text()) == result.search
    assert chosen.name in (tmp_path / "toy.int8_search.md").read_text()


def test_the_operator_set_can_be_chosen(toy: Path, tmp_path: Path) -> None:
    result = export(ExportConfig(toy, tmp_path, opset=18))
    [opset] = onnx.load(result.fp32).opset_import
    assert (opset.domain, opset.version) == ("", 18)


def test_calibration_uses_a_repeatable_sample_of_training_images(toy: Path) -> None:
    split = open_split(toy, read_checkpoint(toy).recipe, read_checkpoint(toy).classes, None)
    chosen = calibration_samples(split.train, 20)
    names = [sample.name for sample in chosen.samples]
    assert len(set(names)) == 20
    assert not {sample.name for sample in split.validation.samples} & set(names)
    assert [sample.name for sample in calibration_samples(split.train, 20).samples] == names
    assert len(calibration_samples(split.train, 10_000)) == len(split.train)


# --- The gate -------------------------------------------------------------------------------------------------------


@pytest.fixture
def wrong_int8(cached_graph: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make INT8 files with a wrong classifier."""
    real = make.quantize

    def swapped(*arguments: object) -> onnx.ModelProto:
        graph = real(*arguments)  # type: ignore[arg-type]
        [gemm] = [node for node in graph.graph.node if node.op_type == "Gemm"]
        [weights] = [node for node in graph.graph.node if gemm.input[1] in node.output]
        [tensor] = [t for t in graph.graph.initializer if t.name == weights.input[0]]
        array = onnx.numpy_helper.to_array(tensor)
        tensor.CopyFrom(onnx.numpy_helper.from_array(-array, tensor.name))
        return graph

    monkeypatch.setattr(make, "quantize", swapped)


@pytest.mark.usefixtures("wrong_int8")
def test_an_int8_file_that_misses_a_limit_is_not_written(toy: Path, tmp_path: Path) -> None:
    name = "gate"
    stale = tmp_path / f"{name}.int8.onnx"
    stale.write_bytes(b"of an earlier export")
    with pytest.raises(ParityError) as caught:
        export(ExportConfig(toy, tmp_path, Int8Config(calibration_images=8), name=name))
    assert caught.value.exit_code == 1
    assert files(tmp_path) == sorted([f"{name}.fp32.onnx", *reports(name)])
    assert "INT8 agrees with FP32 on" in str(caught.value)
    assert "top-1 drops by" in str(caught.value)
    assert str(caught.value).endswith(f"written to {tmp_path}: {name}.fp32.onnx, and {name}.parity.md")
    assert "\n" not in str(caught.value)
    report = ParityReport.model_validate_json((tmp_path / f"{name}.parity.json").read_text())
    assert report == caught.value.report
    assert not report.passed
    assert len(report.comparison("int8").flips) > 0
    assert read_manifest(tmp_path / f"{name}.fp32.onnx").parity is not None


@pytest.mark.usefixtures("wrong_int8")
def test_a_failed_file_is_kept_under_another_name_on_request(toy: Path, tmp_path: Path) -> None:
    config = ExportConfig(toy, tmp_path, Int8Config(calibration_images=8), name="gate", keep_failed=True)
    with pytest.raises(ParityError, match=r"gate\.int8\.failed\.onnx"):
        export(config)
    assert files(tmp_path) == sorted(["gate.fp32.onnx", "gate.int8.failed.onnx", *reports("gate")])
    parity = read_manifest(tmp_path / "gate.int8.failed.onnx").parity
    assert parity is not None
    assert parity.agreement < 0.5


@pytest.mark.usefixtures("cached_graph")
def test_a_wrong_fp32_graph_leaves_no_model(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = pipeline.to_onnx

    def wrong_mean(*arguments: object) -> onnx.ModelProto:
        graph = real(*arguments)  # type: ignore[arg-type]
        [add] = [node for node in graph.graph.node[:4] if node.op_type == "Add"]
        [tensor] = [t for t in graph.graph.initializer if t.name in add.input]
        array = onnx.numpy_helper.to_array(tensor)
        tensor.CopyFrom(onnx.numpy_helper.from_array(array + array.dtype.type(0.3), tensor.name))
        return graph

    monkeypatch.setattr(pipeline, "to_onnx", wrong_mean)
    with pytest.raises(ParityError, match="FP32 logits differ from PyTorch's"):
        export(ExportConfig(toy, tmp_path, Int8Config(calibration_images=8), name="gate"))
    assert files(tmp_path) == reports("gate")


# --- The images -----------------------------------------------------------------------------------------------------


def test_given_images_are_split_as_in_training(toy: Path, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(toy)
    moved = shutil.copytree(toy.parent.parent / "cars", tmp_path / "elsewhere")
    given = open_split(toy, checkpoint.recipe, checkpoint.classes, OpenOptions(moved))
    trained = open_split(toy, checkpoint.recipe, checkpoint.classes, None)
    assert [s.name for s in given.validation.samples] == [s.name for s in trained.validation.samples]
    assert [s.name for s in given.train.samples] == [s.name for s in trained.train.samples]


def test_images_without_a_training_split_are_split_repeatably(toy: Path, tmp_path: Path) -> None:
    alone = Path(shutil.copy(toy, tmp_path / "alone.pt"))
    data = OpenOptions(toy.parent.parent / "cars")
    splits = [open_split(alone, read_checkpoint(alone).recipe, read_checkpoint(alone).classes, data) for _ in range(2)]
    assert len(splits[0].validation) == 36  # three tenths of each class, the recipe's share
    assert splits[0] == splits[1]


def test_unusable_images_are_excluded_before_the_split(toy: Path, tmp_path: Path) -> None:
    alone = Path(shutil.copy(toy, tmp_path / "alone.pt"))
    cars = write_cars(tmp_path / "cars", per_class=4)
    (cars / "images" / "003.png").write_bytes(b"no image")
    split = open_split(alone, read_checkpoint(alone).recipe, read_checkpoint(alone).classes, OpenOptions(cars))
    names = {sample.name for part in (split.train, split.validation) for sample in part.samples}
    assert names == {sample.name for sample in open_dataset(cars).samples} - {"003.png"}


def test_without_run_folder_and_data_the_error_asks_for_data(toy: Path, tmp_path: Path) -> None:
    alone = Path(shutil.copy(toy, tmp_path / "alone.pt"))
    with pytest.raises(InputError, match="give labeled images with `data`"):
        export(ExportConfig(alone, tmp_path / "out"))
    assert files(tmp_path / "out") == []


# --- Bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", " ", "a/b", "..", ".hidden", "/abs"])
def test_a_name_that_is_not_a_file_name_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="file name"):
        ExportConfig(Path("x.pt"), Path("out"), name=name)


@pytest.mark.parametrize("field", ["notes", "name"])
def test_an_invalid_manifest_value_is_named(toy: Path, tmp_path: Path, field: str) -> None:
    with pytest.raises(InputError, match=f"invalid value for the manifest, at {field}"):
        export(ExportConfig(toy, tmp_path / "out", **{field: "\x1b[31mred"}))
    assert files(tmp_path / "out") == []


def test_missing_unknown_images_fail_before_the_export(toy: Path, tmp_path: Path) -> None:
    options = ConfidenceOptions(unknown=tmp_path / "nowhere")
    with pytest.raises(InputError, match="nowhere"):
        export(ExportConfig(toy, tmp_path / "out", confidence=options))
    assert files(tmp_path / "out") == []


def test_an_export_measures_unknown_pictures_as_evaluate_does(toy: Path, tmp_path: Path) -> None:
    folder = tmp_path / "unknown"
    folder.mkdir()
    rows = ["filename,make,model"]
    for number, image in enumerate(sorted((toy.parent.parent / "cars" / "images").iterdir())[:9]):
        shutil.copy(image, folder / image.name)
        rows.append(f"{image.name},{'Alpha' if number % 2 else 'Gamma'},Three")
    (folder / "cars.csv").write_text("\n".join(rows) + "\n")
    out = tmp_path / "out"
    out.mkdir()
    (out / "toy.open_set_int8.md").write_text("an earlier export's")
    options = ConfidenceOptions(unknown=folder, max_wrong_names=0.3, max_wrong_claims=0.4, min_coverage=0)
    made = export(ExportConfig(toy, out, name="toy", confidence=options))
    assert not (out / "toy.open_set_int8.md").exists()
    report = OpenSetReport.model_validate_json((out / "toy.open_set_fp32.json").read_text())
    assert (out / "toy.open_set_fp32.png").is_file()
    validation = open_split(toy, read_checkpoint(toy).recipe, read_checkpoint(toy).classes, None).validation
    session = open_session(made.fp32, ep="cpu")
    pictures = open_unknown_pictures(folder, session.manifest.classes)
    again = measure_open_set(Subject.of_session(session), validation, [pictures])
    assert report.sizes == again.sizes
    manifest = session.manifest
    assert manifest.confidence is not None
    limits = manifest.confidence.limits
    assert limits is not None
    assert (limits.max_wrong_names, limits.max_wrong_claims, limits.images, limits.cars) == (0.3, 0.4, 9, 2)
    assert manifest.confidence.false_accept is None
    assert "chosen together with familiarity" in made.confidence.to_markdown()
    group = report.sizes[0].groups[0]
    assert group.wrong_full_name == pytest.approx(limits.wrong_names) and limits.wrong_names <= 0.3
    assert group.wrong == pytest.approx(limits.wrong_claims) and limits.wrong_claims <= 0.4
    assert group.wrong == pytest.approx(made.confidence.record("fp32").unknown_named[GIVEN])


def test_an_output_folder_that_cannot_be_created_is_an_input_error(toy: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot write into"):
        export(ExportConfig(toy, tmp_path / "file" / "out"))


@pytest.fixture
def full_disk() -> Iterator[None]:
    """Limit files to 100 kB, which is less than the FP32 model."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("cached_graph", "full_disk")
def test_a_full_disk_leaves_no_partial_files(toy: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot write into"):
        export(ExportConfig(toy, tmp_path / "out"))
    assert files(tmp_path / "out") == []


def test_a_corrupt_checkpoint_leaves_no_files(tmp_path: Path) -> None:
    (tmp_path / "best.pt").write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(ModelError):
        export(ExportConfig(tmp_path / "best.pt", tmp_path / "out"))
    assert files(tmp_path / "out") == []


# --- The command ----------------------------------------------------------------------------------------------------


def command(*args: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(arg) for arg in args])
    assert isinstance(caught.value.code, int)
    return caught.value.code


@pytest.mark.usefixtures("cached_graph")
def test_too_little_coverage_fails_unless_allowed(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("export", toy, "-o", tmp_path, "--name", "toy", "--reject-below", "1", "--temperature", "10")
    assert command(*arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: at a threshold of 1, FP32 0.0% of the held-out images get a name, below the limit")
    assert error.endswith("raise --false-accept SHARE, or lower --min-coverage SHARE\n")
    assert error.count("\n") == 1
    assert files(tmp_path) == reports("toy")
    assert command(*arguments, "--keep-failed") == 1
    assert files(tmp_path) == sorted([*reports("toy"), "toy.fp32.failed.onnx"])
    assert command(*arguments, "--min-coverage", "0") == 0
    assert files(tmp_path) == sorted([*reports("toy"), "toy.fp32.onnx"])


@pytest.mark.usefixtures("cached_graph")
def test_the_command_prints_the_table_and_the_files(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("export", toy, "-o", tmp_path, "--name", "toy") == 0
    out, err = capsys.readouterr()
    assert err.startswith("warning: the temperature was fitted on only 36 images")
    assert "PyTorch" in out and "FP32" in out and "INT8" not in out
    for name in ("toy.fp32.onnx", "toy.parity.md", "toy.confidence.md"):
        assert f"{tmp_path}/{name}" in out.replace("\n", "")
    assert files(tmp_path) == sorted([*reports("toy"), "toy.fp32.onnx"])


@pytest.mark.usefixtures("wrong_int8")
def test_the_command_exits_with_1_and_one_line_if_a_limit_is_missed(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ("--int8", "--no-search", "--calibration-images", "8", "--name", "toy", "--min-agreement", "99")
    assert command("export", toy, "-o", tmp_path, *args) == 1
    out, err = capsys.readouterr()
    assert "not met" in out
    assert err.startswith("error: toy does not meet ") and err.count("\n") == 1
    assert "limit 99.00%" in err
    assert json.loads((tmp_path / "toy.parity.json").read_text())["limits"]["agreement"] == 0.99


@pytest.mark.parametrize(
    "args",
    [
        ("missing.pt", "-o", "out"),
        ("x.pt", "-o", "out", "--min-agreement", "101"),
        ("x.pt", "-o", "out", "--name", "a/b"),
        ("x.pt", "-o", "out", "--opset", "23"),
        ("x.pt", "-o", "out", "--int8", "--target", "x86-vnn"),
        ("x.pt", "-o", "out", "--int8", "--percentile", "20"),
        ("x.pt", "-o", "out", "--calibration", "mse"),
        ("x.pt", "-o", "out", "--no-search"),
        ("x.pt", "-o", "out", "--false-accept", "2"),
        ("x.pt", "-o", "out", "--temperature", "0"),
    ],
)
def test_invalid_input_is_a_one_line_error_and_exit_code_2(
    args: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("export", *args) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ") and err.count("\n") == 1


@pytest.mark.usefixtures("cached_graph")
def test_every_file_has_an_embedding_prototypes_and_familiarity_thresholds(toy: Path, tmp_path: Path) -> None:
    options = ConfidenceOptions(keep_known=(0.8, 0.8, 0.9))
    made = export(ExportConfig(toy, tmp_path, Int8Config(calibration_images=30), fp16=True, confidence=options))
    for path in (made.fp32, made.fp16, made.int8):
        assert path is not None
        session = open_session(path, ep="cpu")
        record = session.manifest.familiarity
        assert session.manifest.embedding == "embedding"
        assert session.prototypes is not None
        assert record is not None
        assert record.keep == {"year": 0.8, "model": 0.8, "make": 0.9}
        golden = read_golden(path)
        assert golden is not None
        assert check_golden(session, golden).embedding_difference is not None
        assert golden.embeddings is not None
        assert golden.embeddings.shape[1] == session.prototypes.dimensions
        validation = open_split(toy, read_checkpoint(toy).recipe, read_checkpoint(toy).classes, None).validation
        _, familiarity = session.judge(
            prepare_batch([s.read() for s in validation.samples], session.manifest.preprocess)
        )
        assert familiarity is not None
        assert (familiarity >= record.thresholds.year).mean() == pytest.approx(0.8, abs=0.05)
        assert (familiarity >= record.thresholds.make).mean() == pytest.approx(0.9, abs=0.05)
    for side in ("int8", "fp16"):
        cosine = made.parity.comparison(side).mean_embedding_cosine
        assert cosine is not None
        assert cosine > 0.97


def test_a_regraft_changes_only_prototypes_and_thresholds(toy: Path, exported: ExportResult, tmp_path: Path) -> None:
    path = tmp_path / "cars.onnx"
    path.write_bytes(with_metadata(exported.fp32.read_bytes(), {HELD_OUT_KEY: None}, "cars.onnx"))
    before = open_session(path, ep="cpu")
    data = toy.parent.parent / "cars"
    assert regraft_main([str(path), str(data), "--reject-below", "0.61", "--keep-known", "0.5", "0.5", "0.6"]) == 0
    after = open_session(path, ep="cpu")
    assert after.manifest.familiarity is not None
    assert after.manifest.familiarity.keep == {"year": 0.5, "model": 0.5, "make": 0.6}
    assert (after.manifest.reject_below, after.manifest.temperature) == (0.61, before.manifest.temperature)
    changed = {"familiarity", "reject_below", "confidence", "crop_sizes"}
    assert after.manifest.model_dump(exclude=changed) == before.manifest.model_dump(exclude=changed)
    golden = read_golden(path)
    assert golden is not None
    assert check_golden(after, golden).passed
    assert read_held_out(path) is not None  # made with the prototypes
    batch = prepare_batch([sample.read() for sample in open_dataset(data).samples[:8]], after.manifest.preprocess)
    assert (after.run(batch) == before.run(batch)).all()
    size = path.stat().st_size
    assert regraft_main([str(path), str(tmp_path / "absent")]) == 2
    assert path.stat().st_size == size


@pytest.mark.usefixtures("cached_graph")
def test_an_embedding_that_drifts_too_far_fails(toy: Path, tmp_path: Path) -> None:
    limits = ParityLimits(agreement=0, sure_agreement=0, top1_drop=1, top5_drop=1, embedding_cosine=1.0)
    with pytest.raises(ParityError, match="embeddings have a mean cosine"):
        export(ExportConfig(toy, tmp_path, Int8Config(calibration_images=30), limits=limits))
