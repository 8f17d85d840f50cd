"""A training without held-out images keeps its last epoch. Later commands need other images to measure it."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from tests.support.training_toys import toy_dataset, toy_recipe
from twincar_edge.cli import main
from twincar_edge.datasets import Dataset, OpenOptions, open_dataset
from twincar_edge.errors import InputError
from twincar_edge.export.data import open_split
from twincar_edge.export.parity.images import open_images
from twincar_edge.training import artifacts
from twincar_edge.training.checkpoint import read_checkpoint
from twincar_edge.training.fit import TrainingResult, fit
from twincar_edge.training.history import EpochMetrics
from twincar_edge.training.machine import Machine
from twincar_edge.training.run_folder import RunFolder

ONE_THREAD = Machine(device="cpu", threads=1)
RECIPE = toy_recipe(validation_share=0, epochs=2, ema_decay=0.9)


@pytest.fixture(scope="module")
def trained(toys: Path, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    run = tmp_path_factory.mktemp("run") / "all"
    return fit(RECIPE, dataset, run, data_options=OpenOptions(toys), machine=ONE_THREAD)


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of the same classes with other file names."""
    folder = tmp_path_factory.mktemp("others") / "others"
    toy_dataset(folder, per_class=8, seed=9)
    lines = (folder / "labels.csv").read_text().splitlines()
    (folder / "labels.csv").write_text("\n".join([lines[0], *(f"other-{line}" for line in lines[1:])]) + "\n")
    for path in sorted((folder / "images").iterdir()):
        path.rename(path.with_name(f"other-{path.name}"))
    return folder


def names(dataset: Dataset) -> set[str]:
    return {sample.name for sample in dataset.samples}


def test_all_images_are_used_for_training_and_the_last_epoch_is_kept(trained: TrainingResult, dataset: Dataset) -> None:
    folder = RunFolder(trained.run_folder)
    assert names(folder.open_images().train) == names(dataset)
    assert (folder.path / "val.csv").read_text() == "filename,label\n"
    assert trained.best is trained.epochs[-1] and trained.best.validation is None
    checkpoint = read_checkpoint(trained.checkpoint)
    assert (checkpoint.epoch, checkpoint.validation_top1, checkpoint.validation_top5) == (2, None, None)
    assert checkpoint.recipe["validation_share"] == 0
    assert torch.equal(
        next(iter(torch.load(folder.state, weights_only=True)["loop"]["ema"].values())),
        next(iter(checkpoint.state_dict.values())),
    )


def test_validation_metrics_are_not_written(trained: TrainingResult) -> None:
    folder = RunFolder(trained.run_folder)
    rows = list(csv.DictReader(folder.metrics.read_text().splitlines()))
    assert len(rows) == 2 and not [column for column in rows[0] if column.startswith("val_")]
    absent = (*artifacts.EVALUATION_FILES, artifacts.GRADCAM_GRID, artifacts.PRECISION_RECALL, artifacts.TOPK)
    expected = set(folder.files()) - {folder.extension, *folder.folds} - {folder.path / name for name in absent}
    assert set(folder.path.iterdir()) == expected


def test_a_resumed_training_gives_the_same_weights(
    trained: TrainingResult, toys: Path, dataset: Dataset, tmp_path: Path
) -> None:
    def stop(row: EpochMetrics) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(RECIPE, dataset, tmp_path / "run", data_options=OpenOptions(toys), machine=ONE_THREAD, on_epoch=stop)
    resumed = fit(RECIPE, dataset, tmp_path / "run", machine=ONE_THREAD, resume=True)
    first, second = (read_checkpoint(run.checkpoint).state_dict for run in (trained, resumed))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_command_says_that_nothing_was_held_out(
    toys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "toy.toml"
    keys = ('architecture = "test_resnet"', 'weights = "none"', "size = 32", "epochs = 1", "batch_size = 16")
    recipe.write_text("\n".join(keys) + "\n")
    arguments = ["train", str(toys), "-o", str(tmp_path / "run"), "--recipe", str(recipe), "--no-validation"]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--device", "cpu", "--threads", "1"])
    assert ended.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert "validation" not in lines[-2] and lines[-2].startswith("epoch 1/1: train loss ")
    assert lines[-1] == f"wrote {tmp_path / 'run' / 'best.pt'}: last epoch 1, no images held out"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["export", "{run}/best.pt", "-o", "{tmp}"],
            "held out no images: give images that it was not trained on with --data",
        ),
        (["export", "{run}/best.pt", "-o", "{tmp}", "--data", "{toys}"], "learned from all of data: give others"),
        (["evaluate", "{run}/best.pt", "--split", "{run}"], "held out no images"),
        (["evaluate", "{run}/best.pt", "--split", "{run}", "--data", "{toys}"], "held out no images"),
    ],
)
def test_commands_that_need_held_out_images_ask_for_other_images(
    arguments: list[str],
    message: str,
    trained: TrainingResult,
    toys: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"run": trained.run_folder, "toys": toys, "tmp": tmp_path / "models"}
    with pytest.raises(SystemExit) as ended:
        main([argument.format(**places) for argument in arguments])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1


def test_an_export_calibrates_on_the_training_images_and_checks_on_the_given_ones(
    trained: TrainingResult, dataset: Dataset, others: Path
) -> None:
    checkpoint = read_checkpoint(trained.checkpoint)
    split = open_split(trained.checkpoint, checkpoint.recipe, checkpoint.classes, OpenOptions(others), checkpoint.data)
    assert names(split.train) == names(dataset)
    assert names(split.validation) == names(open_dataset(others))


def test_training_images_among_the_given_ones_are_not_used_for_checks(
    trained: TrainingResult, dataset: Dataset, toys: Path, others: Path, tmp_path: Path
) -> None:
    both = tmp_path / "both"
    (both / "images").mkdir(parents=True)
    for folder in (toys, others):
        for path in (folder / "images").iterdir():
            (both / "images" / path.name).symlink_to(path)
    rows = [*(toys / "labels.csv").read_text().splitlines(), *(others / "labels.csv").read_text().splitlines()[1:]]
    (both / "labels.csv").write_text("\n".join(rows) + "\n")
    (both / "class_mapping.json").write_text((toys / "class_mapping.json").read_text())
    checkpoint = read_checkpoint(trained.checkpoint)
    split = open_split(trained.checkpoint, checkpoint.recipe, checkpoint.classes, OpenOptions(both), checkpoint.data)
    assert (names(split.train), names(split.validation)) == (names(dataset), names(open_dataset(others)))
    compared = open_images(trained.checkpoint, checkpoint, OpenOptions(both), None, print)
    assert names(compared) == names(open_dataset(others))


def test_a_moved_checkpoint_recognizes_its_training_images_by_their_digest(
    trained: TrainingResult, toys: Path, others: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "moved.pt"
    moved.write_bytes(trained.checkpoint.read_bytes())
    checkpoint = read_checkpoint(moved)
    with pytest.raises(InputError, match=r"learned from all of data: give others with `data`"):
        open_split(moved, checkpoint.recipe, checkpoint.classes, OpenOptions(toys), checkpoint.data)
    split = open_split(moved, checkpoint.recipe, checkpoint.classes, OpenOptions(others), checkpoint.data)
    assert names(split.train) | names(split.validation) == names(open_dataset(others))
    assert len(split.validation) == 2


def test_extending_a_model_without_validation_is_refused(
    trained: TrainingResult, dataset: Dataset, tmp_path: Path
) -> None:
    from twincar_edge.training.extension import ExtensionConfig

    with pytest.raises(InputError, match="checked on held-out images"):
        fit(RECIPE, dataset, tmp_path / "run", extending=ExtensionConfig(model=trained.checkpoint), machine=ONE_THREAD)
