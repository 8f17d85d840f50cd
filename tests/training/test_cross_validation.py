"""Cross-validation holds out every image once, trains a separate run per fold, and can be resumed."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.support.training_toys import contents, corner_image, diverging
from twincar_edge.cli import main
from twincar_edge.datasets import Dataset, OpenOptions, open_dataset
from twincar_edge.errors import InputError, ModelError
from twincar_edge.training.checkpoint import read_checkpoint
from twincar_edge.training.cross_validation import FoldsReport, cross_validate
from twincar_edge.training.fit import fit
from twincar_edge.training.history import EpochMetrics
from twincar_edge.training.machine import Machine
from twincar_edge.training.recipe import Recipe
from twincar_edge.training.run_folder import RunFolder

ONE_THREAD = Machine(device="cpu", threads=1)
KEYS = ('architecture = "test_resnet"', 'weights = "none"', "size = 32", "epochs = 2", "batch_size = 16")


class StoppedError(Exception):
    """Ends a cross-validation early."""


def stop(number: int) -> None:
    raise StoppedError


@pytest.fixture(scope="module")
def run(toys: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The run of two folds, trained by the command."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "toy.toml").write_text("\n".join(KEYS) + "\n")
    arguments = ["train", str(toys), "-o", str(folder / "run"), "--recipe", str(folder / "toy.toml"), "--folds", "2"]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--device", "cpu", "--threads", "1"])
    assert ended.value.code == 0
    return RunFolder(folder / "run")


@pytest.fixture
def recipe(run: RunFolder) -> Recipe:
    return run.read_record().recipe


def test_every_image_is_held_out_once_and_each_fold_is_a_run(run: RunFolder, dataset: Dataset) -> None:
    splits = [run.fold(number).open_split() for number in (1, 2)]
    held_out = [sample.name for split in splits for sample in split.validation.samples]
    assert sorted(held_out) == sorted(sample.name for sample in dataset.samples)
    for split in splits:
        assert {sample.name for sample in split.train.samples}.isdisjoint(s.name for s in split.validation.samples)
    assert read_checkpoint(run.fold(2).checkpoint).recipe["validation_share"] == 0.5
    with pytest.raises(InputError, match=r"train\.csv"):
        run.open_split()  # the folder of all folds is not a run


def test_the_report_has_last_and_best_epoch_of_each_fold_with_mean_and_deviation(run: RunFolder) -> None:
    path, table = run.folds
    report = FoldsReport.model_validate_json(path.read_text())
    assert (report.images, [fold.fold for fold in report.folds]) == (64, [1, 2])
    lines = [run.fold(number).metrics.read_text().splitlines() for number in (1, 2)]
    column = lines[0][0].split(",").index("val_top1")
    top1 = [fold.last.top1 for fold in report.folds]
    assert top1 == pytest.approx([float(rows[-1].split(",")[column]) for rows in lines], abs=1e-5)
    assert all(fold.last.epoch == 2 and fold.best.macro_f1 >= fold.last.macro_f1 for fold in report.folds)
    spread = report.last.top1
    assert (spread.mean, spread.deviation) == pytest.approx((statistics.mean(top1), statistics.stdev(top1)))
    text = table.read_text()
    assert text == report.to_markdown()
    assert f"| mean |  |  | {spread.mean:.2%} |" in text
    assert f"| standard deviation |  |  | {spread.deviation:.2%} |" in text


def test_a_cross_validation_resumed_within_a_fold_gives_the_same_report(
    run: RunFolder, recipe: Recipe, toys: Path, dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop_at_once(row: EpochMetrics) -> None:
        raise KeyboardInterrupt

    again, options = RunFolder(tmp_path / "run"), OpenOptions(toys)
    with pytest.raises(KeyboardInterrupt):
        cross_validate(recipe, dataset, again.path, 2, data_options=options, machine=ONE_THREAD, on_epoch=stop_at_once)
    assert not again.folds[0].exists()
    with pytest.raises(SystemExit) as ended:
        main(["train", "--resume", str(again.path), "--device", "cpu", "--threads", "1"])
    assert ended.value.code == 0
    assert [path.read_text() for path in again.folds] == [path.read_text() for path in run.folds]
    printed = capsys.readouterr().out
    begun = [line.split(":")[0] for line in printed.splitlines() if line.startswith(("fold ", "epoch "))]
    assert begun == ["fold 1/2", "epoch 2/2", "fold 2/2", "epoch 1/2", "epoch 2/2"]
    assert printed.endswith(f"{run.folds[1].read_text()}wrote {again.folds[0]}\nwrote {again.folds[1]}\n")


def test_a_fold_resumed_on_its_own_before_its_first_epoch_keeps_its_split(
    run: RunFolder, recipe: Recipe, toys: Path, dataset: Dataset, tmp_path: Path
) -> None:
    def interrupt(stage: str, done: int, total: int) -> None:
        if stage == "train":
            raise KeyboardInterrupt

    again, options = RunFolder(tmp_path / "run"), OpenOptions(toys)
    with pytest.raises(KeyboardInterrupt):
        cross_validate(recipe, dataset, again.path, 2, data_options=options, machine=ONE_THREAD, progress=interrupt)
    with pytest.raises(SystemExit) as ended:
        main(["train", "--resume", str(again.fold(1).path), "--device", "cpu", "--threads", "1"])
    assert ended.value.code == 0
    learned, expected = (fold.open_split().train for fold in (again.fold(1), run.fold(1)))
    assert learned.digest() == expected.digest()


def test_a_cross_validation_is_not_resumed_on_other_images(
    run: RunFolder, recipe: Recipe, toys: Path, dataset: Dataset, tmp_path: Path
) -> None:
    copy, cars = RunFolder(tmp_path / "copy"), tmp_path / "cars"
    shutil.copytree(run.path, copy.path)
    shutil.rmtree(copy.fold(2).path)  # stopped between the folds
    shutil.copytree(toys, cars)
    assert cv2.imwrite(str(cars / "images" / "new.png"), corner_image(0, np.random.default_rng(1)))
    with (cars / "labels.csv").open("a") as rows:
        rows.write("new.png,0\n")
    with pytest.raises(InputError, match=r"the images of cars have changed since .*fold-1 began"):
        cross_validate(recipe, open_dataset(cars), copy.path, 2, machine=ONE_THREAD, resume=True, on_fold=stop)
    with pytest.raises(StoppedError):
        cross_validate(recipe, dataset, copy.path, 2, machine=ONE_THREAD, resume=True, on_fold=stop)


def test_the_teacher_of_a_fold_must_not_have_seen_its_held_out_images(
    run: RunFolder, recipe: Recipe, dataset: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def stop_at_second(number: int) -> None:
        if number == 2:
            raise StoppedError

    student = RunFolder(tmp_path / "student")
    with pytest.raises(StoppedError):
        cross_validate(recipe, dataset, student.path, 2, teacher=run.path, machine=ONE_THREAD, on_fold=stop_at_second)
    distillation = read_checkpoint(student.fold(1).checkpoint).recipe["distillation"]
    assert distillation["teacher_sha256"] == read_checkpoint(run.fold(1).checkpoint).sha256
    with pytest.raises(
        InputError, match="fold-1 and fold 1 hold out different images: train the teacher with these folds"
    ):
        cross_validate(recipe, dataset, tmp_path / "three", 3, teacher=run.path, machine=ONE_THREAD)
    assert "may have been trained" not in caplog.text
    teacher = run.fold(1).checkpoint
    with pytest.raises(StoppedError):
        cross_validate(recipe, dataset, tmp_path / "leaky", 2, teacher=teacher, machine=ONE_THREAD, on_fold=stop)
    assert caplog.text.count("may have been trained on images that a fold holds out") == 1


def test_a_folder_in_use_is_overwritten_only_on_request(
    run: RunFolder, recipe: Recipe, dataset: Dataset, tmp_path: Path
) -> None:
    copy = RunFolder(tmp_path / "copy")
    shutil.copytree(run.path, copy.path)
    with pytest.raises(InputError, match="is not empty"):
        cross_validate(recipe, dataset, copy.path, 2, machine=ONE_THREAD, on_fold=stop)
    with pytest.raises(StoppedError):
        cross_validate(recipe, dataset, copy.path, 3, machine=ONE_THREAD, on_fold=stop, overwrite=True)
    assert copy.read_record().folds == 3
    assert not any(path.exists() for path in copy.folds)  # the report of the old folds


@pytest.mark.parametrize("folds", [None, 3])
def test_an_earlier_cross_validation_returns_if_the_new_run_cannot_start(
    run: RunFolder, recipe: Recipe, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folds: int | None
) -> None:
    def train(on_epoch: Callable[[EpochMetrics], None] | None = None) -> None:
        if folds is None:
            fit(recipe, dataset, copy.path, machine=ONE_THREAD, overwrite=True, on_epoch=on_epoch)
        else:
            cross_validate(recipe, dataset, copy.path, folds, machine=ONE_THREAD, overwrite=True, on_epoch=on_epoch)

    def epoch_completed(row: EpochMetrics) -> None:
        assert not copy.replaced.exists()
        raise StoppedError

    copy = RunFolder(tmp_path / "copy")
    shutil.copytree(run.path, copy.path)
    before = contents(copy)
    with monkeypatch.context() as patch:
        diverging(patch)
        with pytest.raises(ModelError, match="training diverged"):
            train()
    assert contents(copy) == before and not copy.replaced.exists() and not copy.fold(3).path.exists()
    with pytest.raises(StoppedError):
        train(epoch_completed)
    assert copy.read_record().folds == folds and not copy.fold(2).checkpoint.exists()


def test_a_cross_validation_that_cannot_start_does_not_block_the_next(
    recipe: Recipe, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path / "run")
    diverging(monkeypatch)
    with pytest.raises(ModelError, match="training diverged"):
        cross_validate(recipe, dataset, run.path, 2, machine=ONE_THREAD)
    assert list(run.path.iterdir()) == [run.integrity]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--no-validation"], "--folds cannot be combined with --no-validation"),
        (["--extend", "old.pt"], "--folds cannot be combined with --extend"),
        (["--folds", "1"], "--folds"),
    ],
)
def test_conflicting_options_are_refused(
    options: list[str], message: str, toys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["train", str(toys), "-o", str(tmp_path / "run"), "--folds", "5", *options])
    assert ended.value.code == 2 and message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
