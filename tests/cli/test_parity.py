"""`twincar-edge parity`, on real ONNX files and a trained checkpoint."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.support.export_toys import train_toy
from tests.support.tiny_model import digested, tiny_model
from twincar_edge.bundled import DEFAULT_NAME, default_model
from twincar_edge.cli import main
from twincar_edge.datasets import Dataset, open_dataset, stratified_split
from twincar_edge.export import ParityReport
from twincar_edge.export.graph import to_bytes, to_onnx
from twincar_edge.images import write_image
from twincar_edge.manifest import METADATA_KEY, Manifest, TrainingRecord, read_manifest
from twincar_edge.runtime.inference import providers
from twincar_edge.training.checkpoint import read_checkpoint
from twincar_edge.training.model import load_model
from twincar_edge.training.run_folder import RunFolder

# The tiny model's red, green and blue under the class names of `labeled_folder`, whose cars have these colors.
CLASSES = ("Beta SUV 2011", "Alpha Two Sedan 2010", "Alpha One Sedan 2010")


def parity(*args: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["parity", *(str(arg) for arg in args)])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the only line that was printed."""
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ") and err.count("\n") == 1
    return err


def changed(model: Path, path: Path, factor: float = 1.0, **changes: Any) -> Path:
    """Write a copy of a tiny model with changes in its manifest, or with its weights multiplied."""
    proto = onnx.load(model)
    [weights] = [tensor for tensor in proto.graph.initializer if tensor.name == "weights"]
    weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) * np.float32(factor), "weights"))
    manifest = read_manifest(model).model_copy(update=changes)
    onnx.helper.set_model_props(proto, {METADATA_KEY: manifest.to_json()})
    path.write_bytes(digested(proto))
    return path


@pytest.fixture
def fp32(tmp_path: Path) -> Path:
    return tiny_model(tmp_path / "models" / "cars.fp32.onnx", CLASSES)


@pytest.fixture
def int8(fp32: Path) -> Path:
    """A model that answers like `fp32`, slightly less confident."""
    return changed(fp32, fp32.with_name("cars.int8.onnx"), 0.98, precision="int8")


@pytest.fixture
def swapped(fp32: Path) -> Path:
    """A model that answers with the worst class."""
    return changed(fp32, fp32.with_name("swapped.int8.onnx"), -1.0, precision="int8")


# --- Comparisons ----------------------------------------------------------------------------------------------------


def test_files_that_agree_pass_and_leave_a_report_in_three_forms(
    fp32: Path, int8: Path, labeled_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert parity(int8, "--reference", fp32, "--data", labeled_folder, "--ep", "cpu", "-o", out) == 0
    printed = capsys.readouterr().out
    assert "INT8 against FP32: 0 answers changed" in printed
    assert sorted(path.name for path in out.iterdir()) == ["parity.json", "parity.md", "parity.png"]
    report = ParityReport.model_validate_json((out / "parity.json").read_text())
    assert report.passed
    [found] = report.comparisons
    assert (found.subject, found.against, found.top1, found.top1_reference) == ("int8", "fp32", 1.0, 1.0)
    assert found.max_abs_logit_difference == pytest.approx(0.02 * found.max_abs_logit_reference, rel=1e-3)


def test_a_missed_limit_is_exit_code_1_and_one_line_and_the_report_is_still_written(
    fp32: Path, swapped: Path, labeled_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert parity(swapped, "--reference", fp32, "--data", labeled_folder, "--ep", "cpu", "-o", out) == 1
    printed, err = capsys.readouterr()
    assert "not met" in printed
    [line] = [line for line in err.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: tiny does not meet 3 parity limits on 18 images: INT8 top-1 drops by 100.00 points")
    assert line.endswith(f"{out / 'parity.md'} lists the changed answers")
    report = ParityReport.model_validate_json((out / "parity.json").read_text())
    assert len(report.comparisons[0].flips) == 18
    assert "| 000.jpg |" in (out / "parity.md").read_text()


def test_every_limit_is_an_option(
    fp32: Path, int8: Path, swapped: Path, labeled_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ("--reference", fp32, "--data", labeled_folder, "--ep", "cpu")
    loose = ("--max-top1-drop", 100, "--max-top5-drop", 100, "--min-agreement", 0, "--min-sure-agreement", 0)
    assert parity(swapped, *common, *loose) == 0
    scaled = changed(fp32, fp32.with_name("scaled.onnx"), 0.98)
    assert parity(scaled, *common) == 1
    assert "FP32 (scaled) logits differ from FP32 (cars.fp32)'s by up to" in capsys.readouterr().err
    assert parity(scaled, *common, "--max-logit-difference", 0.03) == 0


def test_a_file_with_another_resize_than_its_reference_is_detected(
    fp32: Path, labeled_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = changed(
        fp32,
        fp32.with_name("other.onnx"),
        preprocess=read_manifest(fp32).preprocess.model_copy(update={"resize": "center_crop"}),
    )
    assert parity(other, "--reference", fp32, "--data", labeled_folder, "--ep", "cpu") == 1
    assert "logits differ" in capsys.readouterr().err


def test_standard_output_is_only_json_whether_limits_are_met_or_not(
    fp32: Path, int8: Path, swapped: Path, labeled_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for subject, code in ((int8, 0), (swapped, 1)):
        assert parity(subject, "--reference", fp32, "--data", labeled_folder, "--ep", "cpu", "--json") == code
        report = ParityReport.model_validate_json(capsys.readouterr().out)
        assert report.passed == (code == 0)


def test_several_files_are_compared_in_one_pass_even_with_the_same_precision(
    fp32: Path, int8: Path, swapped: Path, labeled_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = (int8, swapped, "--reference", fp32, "--data", labeled_folder, "--ep", "cpu", "--json")
    assert parity(*args) == 1
    report = ParityReport.model_validate_json(capsys.readouterr().out)
    names = [(found.subject, found.against) for found in report.comparisons]
    assert names == [("int8:cars.int8", "fp32"), ("int8:swapped.int8", "fp32")]
    assert (report.failed("int8:cars.int8"), report.failed("int8:swapped.int8")) == (False, True)


# --- Execution providers --------------------------------------------------------------------------------------------


@pytest.fixture
def second_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which `openvino` opens: the CPU provider under another name."""
    twin = providers.Provider(providers.CPU, "cpu", lambda ort, options, threads: None, lambda ort, name: None)
    monkeypatch.setitem(providers.PROVIDERS, "openvino", twin)


@pytest.mark.usefixtures("second_provider")
@pytest.mark.parametrize("chosen", [(), ("--ep", "openvino"), ("--ep", "openvino", "--ep", "cpu")])
def test_each_file_is_also_compared_with_itself_on_the_other_providers(
    fp32: Path, int8: Path, labeled_folder: Path, chosen: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert parity(int8, "--reference", fp32, "--data", labeled_folder, *chosen, "--json") == 0
    report = ParityReport.model_validate_json(capsys.readouterr().out)
    assert [(f.subject, f.against) for f in report.comparisons] == [("int8", "fp32"), ("int8@openvino", "int8")]
    assert report.comparison("int8@openvino").max_abs_logit_difference == 0


@pytest.mark.usefixtures("second_provider")
def test_ep_cpu_excludes_the_other_providers(
    fp32: Path, int8: Path, labeled_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert parity(int8, "--reference", fp32, "--data", labeled_folder, "--ep", "cpu", "--json") == 0
    assert len(ParityReport.model_validate_json(capsys.readouterr().out).comparisons) == 1


def test_a_default_provider_that_does_not_open_is_skipped_with_a_note(
    fp32: Path,
    int8: Path,
    labeled_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(providers, "usable_providers", lambda: ("cuda", "cpu", "tensorrt"))
    assert parity(int8, "--reference", fp32, "--data", labeled_folder) == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if "skipping" in line]
    assert len(notes) == 1
    assert notes[0].startswith("note: skipping cuda for cars.int8.onnx: ")


@pytest.mark.parametrize("ep", ["cuda", "cudda"])
def test_a_requested_provider_that_does_not_open_is_an_error(
    fp32: Path, int8: Path, labeled_folder: Path, ep: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert parity(int8, "--reference", fp32, "--data", labeled_folder, "--ep", ep) == 2
    assert "cuda" in error_line(capsys)


# --- Images ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def trained_here(fp32: Path, labeled_folder: Path) -> tuple[Path, Dataset]:
    """A model trained on a part of `labeled_folder`, and the held-out part."""
    split = stratified_split(open_dataset(labeled_folder), 0.34, 7)
    recipe = {"seed": 7, "validation_share": 0.34}
    training = TrainingRecord(checkpoint_sha256="0" * 64, recipe=recipe, data=split.train.record())
    return changed(fp32, fp32.with_name("trained.onnx"), training=training), split.validation


def compared_on(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[str, str]:
    """Return the digest of the compared images, and standard error."""
    assert parity(*args, "--ep", "cpu", "--json") == 0
    out, err = capsys.readouterr()
    return json.loads(out)["data"]["digest"], err


def test_training_data_is_reduced_to_its_held_out_images(
    trained_here: tuple[Path, Dataset], int8: Path, labeled_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reference, held_out = trained_here
    digest, err = compared_on(capsys, int8, "--reference", reference, "--data", labeled_folder)
    assert (digest, err) == (held_out.digest(), "")
    assert 0 < len(held_out) < 18


def test_other_data_is_used_completely_with_a_note(
    trained_here: tuple[Path, Dataset], int8: Path, labeled_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (labeled_folder / "labels.csv").read_text().splitlines()
    for left in (17, 5):  # as many as the training had, and fewer
        (labeled_folder / "labels.csv").write_text("\n".join(lines[: left + 1]) + "\n")
        digest, err = compared_on(capsys, int8, "--reference", trained_here[0], "--data", labeled_folder)
        assert digest == open_dataset(labeled_folder).digest()
        assert err == (
            f"note: blobs is not the training data of the model: using all {left} usable images; "
            "the model may have learned from some of them\n"
        )


def test_a_csv_selects_the_images(
    fp32: Path, int8: Path, labeled_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "some.csv").write_text("filename,label\n003.jpg,0\n001.jpg,1\n")
    args = ("--reference", fp32, "--data", labeled_folder, "--split", tmp_path / "some.csv")
    digest, _ = compared_on(capsys, int8, *args)
    assert digest == open_dataset(labeled_folder).select(["003.jpg", "001.jpg"]).digest()


@pytest.mark.parametrize(
    ("args", "expected"),
    [((), "give labeled images with --data"), (("--split", "some.csv"), "add --data"), (("--data", "none"), "none")],
)
def test_without_images_one_line_says_which_option_to_add(
    fp32: Path, int8: Path, args: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert parity(int8, "--reference", fp32, "--ep", "cpu", *args) == 2
    assert expected in error_line(capsys)


# --- A checkpoint ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint in the folder of its run, and the FP32 file exported from it."""
    checkpoint_file = train_toy(tmp_path_factory.mktemp("toy"))
    checkpoint = read_checkpoint(checkpoint_file)
    manifest = Manifest(
        name="toy",
        architecture=checkpoint.architecture,
        precision="fp32",
        classes=checkpoint.classes.names,
        preprocess=checkpoint.preprocess,
        temperature=0.5,
        training=TrainingRecord(checkpoint_sha256=checkpoint.sha256, recipe=checkpoint.recipe, data=checkpoint.data),
        created="2025-06-01T12:00:00Z",
        twincar_edge_version="0",
    )
    path = checkpoint_file.parent.parent / "toy.fp32.onnx"
    path.write_bytes(to_bytes(to_onnx(load_model(checkpoint)), manifest))
    return checkpoint_file, path


def test_a_file_is_compared_with_pytorch_on_the_images_that_the_training_held_out(
    toy: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, fp32 = toy
    assert parity(fp32, "--reference", checkpoint, "--ep", "cpu", "--threads", 1, "--json") == 0
    report = ParityReport.model_validate_json(capsys.readouterr().out)
    assert report.data == RunFolder(checkpoint.parent).open_split().validation.record()
    [found] = report.comparisons
    assert (found.subject, found.against) == ("fp32", "pytorch")
    assert 0 < found.max_abs_logit_difference < 1e-3 * found.max_abs_logit_reference
    assert found.max_kl_nats < 1e-6  # the checkpoint uses the file's temperature


def test_a_moved_checkpoint_recognizes_its_images_by_their_digest(
    toy: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, fp32 = toy
    moved = shutil.copy(checkpoint, tmp_path / "moved.pt")
    args = ("--reference", moved, "--data", checkpoint.parent.parent / "cars", "--ep", "cpu", "--json")
    assert parity(fp32, *args) == 0
    out, err = capsys.readouterr()
    assert ParityReport.model_validate_json(out).data == RunFolder(checkpoint.parent).open_split().validation.record()
    assert err == ""


def test_an_int8_file_is_compared_with_the_fp32_file_if_given(
    toy: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, fp32 = toy
    manifest = read_manifest(fp32).model_copy(update={"precision": "int8"})
    int8 = tmp_path / "toy.int8.onnx"
    int8.write_bytes(to_bytes(onnx.load(fp32), manifest))
    assert parity(int8, fp32, "--reference", checkpoint, "--ep", "cpu", "--json") == 0
    report = ParityReport.model_validate_json(capsys.readouterr().out)
    assert [(f.subject, f.against) for f in report.comparisons] == [("int8", "fp32"), ("fp32", "pytorch")]


# --- Bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("classes", "reason"),
    [
        ((CLASSES[1], CLASSES[0], CLASSES[2]), "class 0 is 'Alpha Two Sedan 2010' in one"),
        ((*CLASSES, "Gamma Van 2012"), "they have 4 and 3 classes"),
    ],
)
def test_files_with_other_classes_or_another_order_are_rejected(
    fp32: Path, labeled_folder: Path, classes: tuple[str, ...], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tiny_model(fp32.with_name("other.onnx"), classes)
    assert parity(other, "--reference", fp32, "--data", labeled_folder) == 2
    assert reason in error_line(capsys)


@pytest.mark.parametrize("name", ["none.onnx", "none.pt", "junk.onnx", "junk.pt", "notes.txt"])
def test_a_reference_that_is_not_a_model_is_one_line(
    int8: Path, labeled_folder: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for junk in ("junk.onnx", "junk.pt", "notes.txt"):
        (tmp_path / junk).write_bytes(b"junk")
    assert parity(int8, "--reference", tmp_path / name, "--data", labeled_folder) == 2
    assert name in error_line(capsys)


@pytest.mark.parametrize("name", ["none.onnx", "best.pt"])
def test_a_subject_that_is_not_an_exported_file_is_one_line(
    fp32: Path, labeled_folder: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert parity(fp32.with_name(name), "--reference", fp32, "--data", labeled_folder) == 2
    assert name in error_line(capsys)


def test_a_class_mapping_for_an_onnx_reference_is_rejected(
    fp32: Path, int8: Path, labeled_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mapping = labeled_folder / "class_mapping.json"
    assert parity(int8, "--reference", fp32, "--data", labeled_folder, "--class-mapping", mapping) == 2
    assert "contains its class names: use no --class-mapping" in error_line(capsys)


@pytest.mark.parametrize(
    ("option", "value", "bounds"),
    [
        ("--min-agreement", "101", "between 0 and 100"),
        ("--max-top1-drop", "-1", "between 0 and 100"),
        ("--max-provider-difference", "nan", "0 or more"),
    ],
)
def test_an_invalid_limit_is_named_with_its_bounds(
    option: str, value: str, bounds: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert parity("a.onnx", "--reference", "b.onnx", option, value) == 2
    line = error_line(capsys)
    assert option in line and bounds in line


def test_a_folder_that_cannot_be_created_fails_before_the_work(
    fp32: Path, int8: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert parity(int8, "--reference", fp32, "--data", "none", "-o", tmp_path / "file" / "out") == 2
    assert "cannot write into" in error_line(capsys)


@pytest.mark.parametrize("args", [["--reference", "a.pt"], ["a.onnx"]])
def test_subject_and_reference_are_required(args: list[str]) -> None:
    assert parity(*args) == 2


def test_help_works_without_torch_and_onnx_runtime() -> None:
    program = (
        "import sys\nfrom twincar_edge.cli import main\n"
        "try:\n    main(['parity', '--help'])\nexcept SystemExit:\n    pass\n"
        "names = ('torch', 'onnxruntime', 'onnx', 'matplotlib', 'scipy')\n"
        "print('loaded:', [name for name in names if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: twincar-edge parity [OPTIONS] [SUBJECT]...")
    assert done.stdout.endswith("loaded: []\n")


def test_the_bundled_model_is_compared_with_its_checkpoint_by_default(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = read_manifest(default_model()).classes[:2]
    for number, name in enumerate(names):
        (tmp_path / name).mkdir()
        write_image(tmp_path / name / "car.png", np.full((90, 120, 3), 90 * number, np.uint8))
    anything = ("--max-top1-drop", 100, "--max-top5-drop", 100, "--min-agreement", 0, "--min-sure-agreement", 0)
    assert parity("--data", tmp_path, "--ep", "cpu", "--json", *anything) == 0
    report = ParityReport.model_validate_json(capsys.readouterr().out)
    assert (report.name, report.data.images) == (DEFAULT_NAME, 2)
    assert [(side.subject, side.against) for side in report.comparisons] == [("int8", "pytorch")]


def test_a_given_model_needs_a_reference(fp32: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert parity(fp32) == 2
    assert "no model to compare with: give --reference REF" in capsys.readouterr().err
