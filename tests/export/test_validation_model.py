"""A model that was trained on all images takes temperature and thresholds from one that held images out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.training_toys import toy_dataset, toy_recipe
from twincar_edge.cli import main
from twincar_edge.dataset_logits import dataset_logits
from twincar_edge.datasets import Dataset, OpenOptions
from twincar_edge.errors import InputError
from twincar_edge.export import ConfidenceOptions, ExportConfig, ExportResult, ParityLimits, export
from twincar_edge.export.confidence.choices import fit_temperature
from twincar_edge.export.confidence.report import ConfidenceReport
from twincar_edge.export.open_set.report import OpenSetReport
from twincar_edge.export.regraft import main as regraft
from twincar_edge.files import sha256
from twincar_edge.held_out import read_held_out
from twincar_edge.manifest import Manifest, read_manifest
from twincar_edge.prototypes import read_prototypes
from twincar_edge.runtime.inference.session import open_session
from twincar_edge.runtime.selftest.doctor import DoctorConfig, diagnose
from twincar_edge.training.fit import TrainingResult, fit
from twincar_edge.training.machine import Machine

ONE_THREAD = Machine(device="cpu", threads=1)
RECIPE = toy_recipe(architecture="test_efficientnet", epochs=8, validation_share=0.4)
# Given, so that the two exports have the same: it would depend on pictures of unknown cars, which each answers itself.
OPTIONS = ConfidenceOptions(reject_below=0.5, min_coverage=0)
ANY_PARITY = ParityLimits(agreement=0, sure_agreement=0, top1_drop=1, top5_drop=1)


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toys") / "data"
    toy_dataset(folder, per_class=150)
    header, *rows = (folder / "labels.csv").read_text().splitlines()
    for place in range(0, len(rows), 6):  # wrong labels, so that a model is not right about what it did not learn from
        name, label = rows[place].split(",")
        rows[place] = f"{name},{1 - int(label)}"
    (folder / "labels.csv").write_text("\n".join([header, *rows]) + "\n")
    return folder


@pytest.fixture(scope="module")
def dataset(toys: Path) -> Dataset:
    return OpenOptions(toys).open()


def trained(validation_share: float, dataset: Dataset, toys: Path, run: Path) -> TrainingResult:
    recipe = RECIPE.model_copy(update={"validation_share": validation_share})
    return fit(recipe, dataset, run, data_options=OpenOptions(toys), machine=ONE_THREAD)


@pytest.fixture(scope="module")
def fold(toys: Path, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    return trained(0.4, dataset, toys, tmp_path_factory.mktemp("fold") / "run")


@pytest.fixture(scope="module")
def validation_model(fold: TrainingResult) -> Path:
    config = ExportConfig(fold.checkpoint, fold.run_folder.parent / "models", limits=ANY_PARITY, confidence=OPTIONS)
    return export(config).fp32


@pytest.fixture(scope="module")
def held_out(fold: TrainingResult, toys: Path) -> OpenOptions:
    """The images that the fold held out, as the command line opens its list."""
    mapping = toys / "class_mapping.json"
    return OpenOptions(fold.run_folder / "val.csv", images=toys / "images", class_mapping=mapping)


@pytest.fixture(scope="module")
def complete(toys: Path, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    return trained(0, dataset, toys, tmp_path_factory.mktemp("complete") / "run")


@pytest.fixture(scope="module")
def exported(complete: TrainingResult, validation_model: Path, held_out: OpenOptions) -> ExportResult:
    config = ExportConfig(
        complete.checkpoint,
        complete.run_folder.parent / "models",
        limits=ANY_PARITY,
        data=held_out,
        confidence=OPTIONS,
        validation_model=validation_model,
    )
    return export(config)


@pytest.fixture(scope="module")
def manifests(exported: ExportResult, validation_model: Path) -> tuple[Manifest, Manifest]:
    """The manifest of the model of all images, and of the validation model."""
    return read_manifest(exported.fp32), read_manifest(validation_model)


def test_temperature_and_thresholds_are_those_of_the_validation_model(
    manifests: tuple[Manifest, Manifest], exported: ExportResult, held_out: OpenOptions
) -> None:
    complete, validation = manifests
    images = held_out.open()
    own = dataset_logits(open_session(exported.fp32, ep="cpu").run, images, complete.preprocess)
    assert fit_temperature(own, images.labels) != validation.temperature
    assert complete.familiarity is not None and validation.familiarity is not None
    assert complete.temperature == validation.temperature
    assert complete.familiarity.thresholds == validation.familiarity.thresholds
    assert complete.crop_sizes == validation.crop_sizes is not None


def test_the_figures_in_the_file_are_those_of_images_that_were_held_out(manifests: tuple[Manifest, Manifest]) -> None:
    complete, validation = (manifest.confidence for manifest in manifests)
    assert complete is not None and validation is not None
    figures = {"images", "ece_before", "ece_after", "coverage", "named_top1"}
    assert complete.model_dump(include=figures) == validation.model_dump(include=figures)


def test_the_file_and_the_report_name_the_validation_model(
    manifests: tuple[Manifest, Manifest],
    exported: ExportResult,
    validation_model: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    complete, validation = manifests
    digest = sha256(validation_model)
    assert complete.confidence is not None and complete.confidence.validation_model == digest
    report = exported.fp32.parent / f"{exported.parity.name}.confidence.json"
    assert ConfidenceReport.model_validate_json(report.read_text()).validation_model == digest
    assert f"validation model (SHA-256 {digest[:16]}" in report.with_suffix(".md").read_text()
    assert "validation_model" not in validation.to_json()  # earlier releases reject keys that they do not know
    with pytest.raises(SystemExit):
        main(["inspect", str(exported.fp32)])
    assert f"sha256 {digest[:16]}" in capsys.readouterr().out.replace("\n", " ")


def test_prototypes_are_of_the_exported_model(exported: ExportResult, validation_model: Path) -> None:
    complete, validation = read_prototypes(exported.fp32), read_prototypes(validation_model)
    assert complete is not None and validation is not None
    assert not np.allclose(complete.means, validation.means, atol=1e-3)


def test_the_summary_of_held_out_images_is_as_unfamiliar_as_to_the_validation_model(
    exported: ExportResult, validation_model: Path, held_out: OpenOptions
) -> None:
    summary, prototypes = read_held_out(exported.fp32), read_prototypes(exported.fp32)
    assert summary is not None and prototypes is not None
    session = open_session(validation_model, ep="cpu")
    assert session.prototypes is not None
    embeddings = dataset_logits(session.embed, held_out.open(), session.manifest.preprocess)
    expected = np.sort(session.prototypes.familiarity(embeddings))
    found = np.sort(prototypes.familiarity(summary.embeddings))
    assert summary.images == len(found) == len(expected)
    assert (found <= expected + 0.02).all()  # 8 bits of embeddings, 8 bits of prototypes


def test_a_checkpoint_without_its_run_folder_is_exported_with_the_same_thresholds(
    complete: TrainingResult,
    validation_model: Path,
    held_out: OpenOptions,
    manifests: tuple[Manifest, Manifest],
    tmp_path: Path,
) -> None:
    moved = tmp_path / "moved.pt"
    moved.write_bytes(complete.checkpoint.read_bytes())
    config = ExportConfig(
        moved, tmp_path, limits=ANY_PARITY, data=held_out, confidence=OPTIONS, validation_model=validation_model
    )
    manifest = read_manifest(export(config).fp32)
    assert manifest.temperature == manifests[0].temperature
    assert manifest.familiarity is not None and manifests[0].familiarity is not None
    assert manifest.familiarity.thresholds == manifests[0].familiarity.thresholds


def test_top1_on_images_that_the_model_learned_from_is_not_shown_as_its_accuracy(
    exported: ExportResult, validation_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for model, learned in ((exported.fp32, True), (validation_model, False)):
        found = next(check.found for check in diagnose(DoctorConfig(model=model)).checks if check.name == "model")
        assert ("top-1" in found) != learned
        with pytest.raises(SystemExit):
            main(["inspect", str(model)])
        assert ("that it learned from" in " ".join(capsys.readouterr().out.split())) == learned


def test_thresholds_are_not_chosen_again_by_images_that_the_model_learned_from(
    exported: ExportResult, toys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(exported.fp32.read_bytes())
    assert regraft([str(copy), str(toys)]) == 2
    assert "was trained on all images" in capsys.readouterr().err
    assert copy.read_bytes() == exported.fp32.read_bytes()


def test_unknown_pictures_are_measured_with_the_new_model_and_known_ones_are_left_out(
    complete: TrainingResult, validation_model: Path, held_out: OpenOptions, toys: Path, tmp_path: Path
) -> None:
    unknown = tmp_path / "unknown"
    unknown.mkdir()
    for path in sorted((toys / "images").iterdir())[:4]:
        (unknown / path.name).write_bytes(path.read_bytes())
    options = OPTIONS.model_copy(update={"unknown": (unknown,)})
    out = tmp_path / "out"
    exported = export(
        ExportConfig(
            complete.checkpoint,
            out,
            limits=ANY_PARITY,
            data=held_out,
            confidence=options,
            validation_model=validation_model,
        )
    )
    report = OpenSetReport.model_validate_json((out / f"{exported.parity.name}.open_set_fp32.json").read_text())
    assert report.sizes and all(size.known is None for size in report.sizes)


def test_a_model_that_learned_from_all_images_cannot_validate(
    exported: ExportResult, complete: TrainingResult, held_out: OpenOptions, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="was also trained on these images"):
        export(ExportConfig(complete.checkpoint, tmp_path, data=held_out, validation_model=exported.fp32))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{complete}/best.pt", "--validation-model", "{model}"], "give the images that the validation model held out"),
        (
            ["{complete}/best.pt", "--validation-model", "{model}", "--data", "{toys}"],
            "was checked on 120 held-out images, but data has 300: give the images of its export with --data",
        ),
        (
            ["{fold}/best.pt", "--validation-model", "{model}", "--data", "{toys}"],
            "held images out: leave out --validation-model",
        ),
        (["{complete}/best.pt", "--validation-model", "{toys}/labels.csv", "--data", "{toys}"], "is not an ONNX model"),
    ],
)
def test_an_unsuitable_validation_model_is_one_line_and_leaves_no_file(
    arguments: list[str],
    message: str,
    complete: TrainingResult,
    fold: TrainingResult,
    validation_model: Path,
    toys: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"complete": complete.run_folder, "fold": fold.run_folder, "model": validation_model, "toys": toys}
    with pytest.raises(SystemExit) as ended:
        main(["export", "-o", str(tmp_path / "out"), *(argument.format(**places) for argument in arguments)])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not list(tmp_path.rglob("*.onnx"))


def test_other_images_of_the_same_number_are_refused(
    complete: TrainingResult, fold: TrainingResult, validation_model: Path, toys: Path, tmp_path: Path
) -> None:
    header, *rows = (fold.run_folder / "val.csv").read_text().splitlines()
    wrong = [f"{name},{1 - int(label)}" for name, label in (row.split(",") for row in rows)]
    table = tmp_path / "others.csv"
    table.write_text("\n".join([header, *wrong]) + "\n")
    others = OpenOptions(table, images=toys / "images", class_mapping=toys / "class_mapping.json")
    with pytest.raises(InputError, match="on the held-out images of its export, but has"):
        export(ExportConfig(complete.checkpoint, tmp_path, data=others, validation_model=validation_model))


def test_a_validation_model_of_another_recipe_is_refused(
    dataset: Dataset, toys: Path, validation_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = {"epochs": 1, "validation_share": 0, "augmentation": RECIPE.augmentation.model_copy(update={"flip": 0})}
    run = tmp_path / "run"
    fit(
        RECIPE.model_copy(update=changed),
        dataset,
        run,
        data_options=OpenOptions(toys),
        machine=ONE_THREAD,
    )
    arguments = ["export", str(run / "best.pt"), "-o", str(tmp_path / "out"), "--data", str(toys)]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--validation-model", str(validation_model)])
    assert ended.value.code == 2
    assert "another augmentation.flip and epochs: train both with the same recipe" in capsys.readouterr().err
