"""A trained model is extended with new classes, keeps its old ones, and is compared with its earlier self."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tests.support.training_toys import corner_image, toy_recipe
from twincar_edge.api.train import recorded_training
from twincar_edge.cli import main
from twincar_edge.dataset_logits import dataset_logits, labels_for
from twincar_edge.datasets import Dataset, OpenOptions, open_dataset
from twincar_edge.errors import InputError, ModelError
from twincar_edge.files import sha256
from twincar_edge.metrics import topk_accuracy
from twincar_edge.training.checkpoint import read_checkpoint
from twincar_edge.training.extension import ExtensionConfig, ExtensionError, ExtensionReport, open_extension
from twincar_edge.training.fit import fit
from twincar_edge.training.machine import Machine
from twincar_edge.training.model import CarClassifier, load_model, torch_predict
from twincar_edge.training.run_folder import RunFolder

ONE_THREAD = Machine(device="cpu", threads=1)
OLD = ("Blue Coupe 2010", "Red Coupe 2011")
GREEN = "Green Coupe 2012"  # sorted by name, between the old classes
EXTEND = toy_recipe(epochs=6, learning_rate=2e-3, distillation={"weight": 0.5})


@pytest.fixture(scope="module")
def cars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images for each of the old and new classes."""
    folder = tmp_path_factory.mktemp("cars") / "data"
    rng = np.random.default_rng(5)
    for label, name in enumerate((*OLD, GREEN)):
        (folder / name).mkdir(parents=True)
        for number in range(32):
            assert cv2.imwrite(str(folder / name / f"{number:03d}.png"), corner_image(label, rng))
    return folder


@pytest.fixture(scope="module")
def old_model(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    result = fit(toy_recipe(), dataset, tmp_path_factory.mktemp("old") / "run", machine=ONE_THREAD)
    assert result.best.validation.top1 > 0.9
    return result.checkpoint


def test_extending_learns_the_new_class_and_keeps_the_old_ones(old_model: Path, cars: Path, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    options = OpenOptions(cars)
    extending = ExtensionConfig(model=old_model, max_old_drop=5)
    result = fit(EXTEND, options.open(), run.path, data_options=options, extending=extending, machine=ONE_THREAD)
    report = result.extension
    assert report is not None
    assert report == ExtensionReport.model_validate_json(run.extension.read_text())
    assert (report.added, report.old_images, report.new_images) == ((GREEN,), 16, 8)
    assert report.new_top1 > 0.8
    assert report.old_top1 is not None
    assert report.old_top1 > 0.85
    checkpoint = read_checkpoint(result.checkpoint)
    assert checkpoint.classes.names == (*OLD, GREEN)  # the old outputs keep their order
    assert checkpoint.recipe["distillation"]["teacher_sha256"] == sha256(old_model)
    # `export` and `evaluate` open the images with their own classes, matched by name.
    validation = run.open_split().validation
    logits = dataset_logits(torch_predict(load_model(checkpoint)), validation, checkpoint.preprocess)
    assert topk_accuracy(logits, labels_for(validation, checkpoint.classes)) == result.best.validation.top1


def test_an_extended_model_starts_with_the_old_logits(old_model: Path, cars: Path) -> None:
    dataset = open_dataset(cars)
    extension = open_extension(old_model, dataset)
    images = extension.relabeled(dataset)
    assert [extension.classes[sample.label] for sample in images.samples] == [
        dataset.classes[sample.label] for sample in dataset.samples
    ]
    preprocess = extension.checkpoint.preprocess
    model = CarClassifier(extension.checkpoint.architecture, 3, preprocess)
    extension.initialize(model, images)
    before = dataset_logits(torch_predict(load_model(extension.checkpoint)), images, preprocess)
    after = dataset_logits(torch_predict(model), images, preprocess)
    np.testing.assert_array_equal(after[:, :2], before)


def test_an_old_class_in_another_spelling_is_not_added(old_model: Path, cars: Path, tmp_path: Path) -> None:
    shutil.copytree(cars, tmp_path / "cars")
    (tmp_path / "cars" / OLD[1]).rename(tmp_path / "cars" / OLD[1].replace(" ", "_"))
    extension = open_extension(old_model, dataset := open_dataset(tmp_path / "cars"))
    assert extension.classes.names == (*OLD, GREEN)
    assert np.bincount(extension.relabeled(dataset).labels).tolist() == [32, 32, 32]


def test_initialized_outputs_separate_new_classes(old_model: Path, cars: Path, tmp_path: Path) -> None:
    shutil.copytree(cars / OLD[0], tmp_path / "Blau 2020")
    shutil.copytree(cars / OLD[1], tmp_path / "Rot 2020")
    extension = open_extension(old_model, dataset := open_dataset(tmp_path))
    model = CarClassifier(extension.checkpoint.architecture, 4, extension.checkpoint.preprocess)
    extension.initialize(model, images := extension.relabeled(dataset))
    logits = dataset_logits(torch_predict(model), images, extension.checkpoint.preprocess)
    assert topk_accuracy(logits[:, 2:], images.labels - 2) > 0.9


def test_without_old_images_distillation_preserves_old_answers(
    old_model: Path, cars: Path, dataset: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / GREEN).symlink_to(cars / GREEN)
    new = open_dataset(tmp_path / "new")  # a single class
    extending = ExtensionConfig(model=old_model)
    result = fit(EXTEND, new, tmp_path / "run", extending=extending, machine=ONE_THREAD)
    assert result.extension is not None
    assert (result.extension.old_images, result.extension.old_top1, result.extension.drop) == (0, None, None)
    assert "not checked" in result.extension.summary()
    assert "no images of the old classes" in caplog.text
    checkpoint = read_checkpoint(result.checkpoint)
    logits = dataset_logits(torch_predict(load_model(checkpoint)), dataset, checkpoint.preprocess)
    assert topk_accuracy(logits[:, :2], dataset.labels) > 0.8  # the old classes are still distinguished


def test_too_large_a_drop_on_old_classes_fails_after_a_complete_run(
    old_model: Path, cars: Path, tmp_path: Path
) -> None:
    recipe = toy_recipe(epochs=1, learning_rate=0.5, head_learning_rate=0.5, distillation={"weight": 0})
    run = RunFolder(tmp_path / "run")
    with pytest.raises(ExtensionError, match="points, more than the limit of 2: ") as missed:
        fit(
            recipe,
            open_dataset(cars),
            run.path,
            extending=ExtensionConfig(model=old_model, max_old_drop=2),
            machine=ONE_THREAD,
        )
    assert missed.value.exit_code == 1
    assert run.checkpoint.is_file()
    report = ExtensionReport.model_validate_json(run.extension.read_text())
    assert report.drop is not None
    assert report.drop > 2


def test_a_drop_that_equals_the_limit_passes() -> None:
    known = {"added": (GREEN,), "old_images": 200, "new_images": 8, "new_top1": 1.0, "max_old_drop": 1.0}
    right = range(3, 201)
    assert all(ExtensionReport(old_top1_before=n / 200, old_top1=(n - 2) / 200, **known).passed for n in right)
    assert not any(ExtensionReport(old_top1_before=n / 200, old_top1=(n - 3) / 200, **known).passed for n in right)


def test_a_resumed_extension_ends_with_the_same_weights(old_model: Path, cars: Path, tmp_path: Path) -> None:
    recipe = EXTEND.model_copy(update={"epochs": 2})
    options, extending = OpenOptions(cars), ExtensionConfig(model=old_model, max_old_drop=100)
    ends = []
    for name in ("whole", "stopped"):

        def stop(_: object, name: str = name) -> None:
            if name == "stopped":
                raise KeyboardInterrupt

        try:
            fit(
                recipe,
                options.open(),
                tmp_path / name,
                data_options=options,
                extending=extending,
                machine=ONE_THREAD,
                on_epoch=stop,
            )
        except KeyboardInterrupt:
            record, data = recorded_training(tmp_path / name)
            assert record.extending == extending
            assert record.teacher is None
            fit(record.recipe, data.open(), tmp_path / name, extending=extending, machine=ONE_THREAD, resume=True)
        ends.append(torch.load(RunFolder(tmp_path / name).state, weights_only=True)["loop"]["model"])
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])


def test_nothing_to_add_and_two_teachers_are_refused(
    old_model: Path, dataset: Dataset, cars: Path, tmp_path: Path
) -> None:
    extending = ExtensionConfig(model=old_model)
    with pytest.raises(InputError, match="already has all 2 classes of data: add images of new ones"):
        fit(EXTEND, dataset, tmp_path / "run", extending=extending, machine=ONE_THREAD)
    with pytest.raises(InputError, match="the model to extend is its own teacher: leave out `teacher`"):
        fit(EXTEND, open_dataset(cars), tmp_path / "run", teacher=old_model, extending=extending, machine=ONE_THREAD)
    with pytest.raises(ModelError, match="cannot read"):
        missing = ExtensionConfig(model=tmp_path / "none.pt")
        fit(EXTEND, open_dataset(cars), tmp_path / "run", extending=missing, machine=ONE_THREAD)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--weights", "none"], "leave out --weights"),
        (["--extend", "x.pt", "--resume", "y"], "leave out --extend"),
    ],
)
def test_the_command_line_rejects_conflicting_options(
    old_model: Path, cars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    resumes = "--resume" in more
    arguments = ["train"] if resumes else ["train", str(cars), "-o", str(tmp_path / "run"), "--extend", str(old_model)]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, *more])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
