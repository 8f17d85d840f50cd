"""A training learns, is reproducible and keeps its best epoch. One that cannot start is a one-line error."""

from __future__ import annotations

import csv
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.training_toys import TINY, contents, diverging, toy_dataset, toy_recipe
from twincar_edge.datasets import Dataset, OpenOptions, open_dataset, read_split
from twincar_edge.errors import InputError, ModelError
from twincar_edge.images import write_image
from twincar_edge.labels import ClassMapping
from twincar_edge.preprocess import Preprocess
from twincar_edge.training.checkpoint import read_checkpoint
from twincar_edge.training.evaluation import evaluate
from twincar_edge.training.fit import TrainingResult, fit
from twincar_edge.training.history import EpochMetrics
from twincar_edge.training.machine import Machine
from twincar_edge.training.model import CarClassifier, load_model, torch_predict
from twincar_edge.training.recipe import Recipe
from twincar_edge.training.run_folder import RunFolder

ONE_THREAD = Machine(device="cpu", threads=1)
SMALL = Preprocess(size_wh=(32, 32))


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toys") / "data"
    toy_dataset(folder)
    (folder / "images" / "000.png").write_bytes(b"not an image")
    return folder


@pytest.fixture(scope="module")
def trained(toys: Path, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    run = tmp_path_factory.mktemp("run") / "first"
    return fit(toy_recipe(), dataset, run, data_options=OpenOptions(toys), machine=ONE_THREAD)


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def figures(rows: tuple[EpochMetrics, ...]) -> list[tuple[float, ...]]:
    """Return the metrics that do not depend on time."""
    return [tuple(value for key, value in row.flat().items() if key not in ("images_per_s", "seconds")) for row in rows]


def test_two_classes_are_learned_in_seconds(trained: TrainingResult) -> None:
    assert trained.best.validation.top1 > 0.95
    assert trained.epochs[-1].train_loss < 0.5 * trained.epochs[0].train_loss
    assert all(row.images_per_s > 0 and row.seconds > 0 for row in trained.epochs)


def test_one_class_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "cars" / "car_ims").mkdir(parents=True)
    write_image(tmp_path / "cars" / "car_ims" / "0.png", np.zeros((32, 48, 3), np.uint8))
    with pytest.raises(InputError, match="has only one class, 'car ims', and a classifier needs at least two"):
        fit(toy_recipe(), open_dataset(tmp_path / "cars"), tmp_path / "run", machine=ONE_THREAD)
    assert not (tmp_path / "run").exists()


def test_the_run_folder_contains_all_files(trained: TrainingResult, toys: Path, dataset: Dataset) -> None:
    folder = RunFolder(trained.run_folder)
    other_kinds = {folder.extension, *folder.folds}  # of extended models and of cross-validation
    written = set(folder.files()) - other_kinds
    assert set(trained.run_folder.iterdir()) == written
    assert ClassMapping.from_json(folder.class_mapping) == dataset.classes
    rows = table(folder.metrics)
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4, 5]
    assert float(rows[-1]["val_loss"]) == pytest.approx(trained.epochs[-1].validation.loss, rel=1e-4)
    assert [(row["name"], row["problem"]) for row in table(folder.integrity)] == [("000.png", "not an image")]
    record = folder.read_record()
    assert record.recipe == toy_recipe() and record.data == OpenOptions(toys.absolute())


def test_the_split_can_be_reopened_from_the_run_folder(trained: TrainingResult, dataset: Dataset) -> None:
    split = RunFolder(trained.run_folder).open_split()
    again = read_split(dataset, trained.run_folder)
    assert [s.name for s in split.validation.samples] == [s.name for s in again.validation.samples]
    assert len(split.train) + len(split.validation) == len(dataset) - 1  # one file is not an image
    assert not {s.name for s in split.train.samples} & {s.name for s in split.validation.samples}


def test_evaluating_the_best_checkpoint_gives_the_logged_metrics(trained: TrainingResult) -> None:
    checkpoint = read_checkpoint(trained.checkpoint)
    validation = RunFolder(trained.run_folder).open_split().validation
    evaluation = evaluate(
        torch_predict(load_model(checkpoint)), validation, checkpoint.classes, checkpoint.preprocess, batch_size=5
    )
    assert asdict(evaluation.metrics) == pytest.approx(asdict(trained.best.validation), rel=1e-6)
    assert (checkpoint.validation_top1, checkpoint.epoch) == (trained.best.validation.top1, trained.best.epoch)
    written = json.loads((trained.run_folder / "metrics.json").read_text())
    assert written["macro_f1"] == pytest.approx(trained.best.validation.macro_f1)
    assert checkpoint.recipe == toy_recipe().model_dump(mode="json")
    assert checkpoint.data is not None and checkpoint.data.images == 47
    assert Recipe.model_validate(checkpoint.recipe) == toy_recipe()


def test_a_checkpoint_contains_no_local_path(trained: TrainingResult, toys: Path) -> None:
    content = trained.checkpoint.read_bytes()
    for folder in (toys, trained.run_folder):
        assert str(folder).encode() not in content


def test_the_seed_alone_determines_the_weights(trained: TrainingResult, dataset: Dataset, tmp_path: Path) -> None:
    torch.rand(3)  # the caller's random state has no effect
    before = torch.get_rng_state()
    again = fit(toy_recipe(), dataset, tmp_path / "again", machine=ONE_THREAD)
    assert torch.equal(torch.get_rng_state(), before)  # and training does not change it
    assert figures(again.epochs) == figures(trained.epochs)
    first, second = (read_checkpoint(run.checkpoint).state_dict for run in (trained, again))
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = fit(toy_recipe(seed=1, epochs=1), dataset, tmp_path / "other", machine=ONE_THREAD)
    assert other.epochs[0].train_loss != trained.epochs[0].train_loss


def test_training_without_a_cache_gives_the_same_weights(
    trained: TrainingResult, dataset: Dataset, tmp_path: Path
) -> None:
    machine = Machine(device="cpu", threads=1, cache_mb=0)
    assert figures(fit(toy_recipe(), dataset, tmp_path / "run", machine=machine).epochs) == figures(trained.epochs)


def test_frozen_stages_and_their_statistics_do_not_change(dataset: Dataset, tmp_path: Path) -> None:
    source = CarClassifier(TINY, 2, SMALL)
    torch.save(source.backbone.state_dict(), tmp_path / "w.pth")
    recipe = toy_recipe(weights="file", freeze_stages=2, epochs=1)
    result = fit(recipe, dataset, tmp_path / "run", weights_file=tmp_path / "w.pth", machine=ONE_THREAD)
    before, after = source.backbone.state_dict(), read_checkpoint(result.checkpoint).state_dict
    frozen = [name for name in before if name.startswith(("conv1.", "bn1.", "layer1.", "layer2."))]
    assert any("running_mean" in name for name in frozen) and len(frozen) > 20
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    assert not torch.equal(before["layer3.0.conv1.weight"], after["layer3.0.conv1.weight"])
    assert not torch.equal(before["layer4.0.bn1.running_mean"], after["layer4.0.bn1.running_mean"])


def test_progress_names_each_part_and_ends_at_its_total(dataset: Dataset, tmp_path: Path) -> None:
    seen: dict[str, tuple[int, int]] = {}
    epochs: list[EpochMetrics] = []

    def progress(stage: str, done: int, total: int) -> None:
        seen[stage] = (done, total)

    fit(toy_recipe(epochs=1), dataset, tmp_path / "r", machine=ONE_THREAD, on_epoch=epochs.append, progress=progress)
    assert list(seen) == ["check", "read", "train", "validate", "evaluate"]
    assert all(done == total for done, total in seen.values())
    assert [row.epoch for row in epochs] == [1]


def test_an_interrupted_training_keeps_its_best_checkpoint(dataset: Dataset, tmp_path: Path) -> None:
    def interrupt(row: EpochMetrics) -> None:
        if row.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(toy_recipe(), dataset, tmp_path / "run", machine=ONE_THREAD, on_epoch=interrupt)
    assert read_checkpoint(tmp_path / "run" / "best.pt").epoch in (1, 2)
    assert not [path for path in (tmp_path / "run").iterdir() if path.name.startswith(".")]


def test_a_folder_in_use_needs_overwrite(dataset: Dataset, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "notes.txt").write_text("mine")
    (run / "best.pt").write_text("old")
    with pytest.raises(InputError, match=r"run is not empty: choose another folder, or .*`overwrite=True`"):
        fit(toy_recipe(epochs=1), dataset, run, machine=ONE_THREAD)
    assert (run / "best.pt").read_text() == "old"
    with pytest.raises(InputError, match=r"cannot replace best\.pt: .* is not a run folder"):
        fit(toy_recipe(epochs=1), dataset, run, machine=ONE_THREAD, overwrite=True)
    assert (run / "best.pt").read_text() == "old"
    RunFolder(run).write_record(toy_recipe(), None)
    fit(toy_recipe(epochs=1), dataset, run, machine=ONE_THREAD, overwrite=True)
    assert (run / "notes.txt").read_text() == "mine"
    assert read_checkpoint(run / "best.pt").epoch == 1


def test_an_earlier_run_stays_if_the_new_one_cannot_start(dataset: Dataset, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.prepare()
    run.write_record(toy_recipe(), None)
    run.checkpoint.write_text("old")
    few = dataset.select(sample.name for sample in dataset.samples if sample.label == 0)
    with pytest.raises(InputError, match="fewer than 2 usable images"):
        fit(toy_recipe(), few, run.path, machine=ONE_THREAD, overwrite=True)
    with pytest.raises(InputError, match="unknown training precision"):
        fit(toy_recipe(), dataset, run.path, machine=Machine("cpu", 1, precision="half"), overwrite=True)
    assert run.checkpoint.read_text() == "old" and run.recipe.is_file()


@pytest.mark.parametrize("inside", ["labels", "folder", "model"])
def test_a_run_that_the_training_reads_from_is_not_replaced(dataset: Dataset, tmp_path: Path, inside: str) -> None:
    run = RunFolder(tmp_path / "run")
    run.prepare()
    run.write_record(toy_recipe(), None)
    data, model = OpenOptions(tmp_path / "cars"), None
    if inside == "model":
        model = run.checkpoint
    else:
        data = OpenOptions(run.path / "labels.csv" if inside == "labels" else run.path)
    with pytest.raises(InputError, match=r"contains .*, which the training reads: choose another folder"):
        run.prepare(overwrite=True, data=data, models=(model,))


def test_a_run_that_fails_before_its_first_epoch_does_not_block_the_next(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path / "run")
    few = dataset.select(sample.name for sample in dataset.samples if sample.label == 0)
    with pytest.raises(InputError, match="fewer than 2 usable images"):
        fit(toy_recipe(), few, run.path, machine=ONE_THREAD)
    with monkeypatch.context() as patch:
        diverging(patch)
        with pytest.raises(ModelError, match="training diverged"):
            fit(toy_recipe(epochs=1), dataset, run.path, machine=ONE_THREAD)
    assert list(run.path.iterdir()) == [run.integrity]
    fit(toy_recipe(epochs=1), dataset, run.path, machine=ONE_THREAD)


def test_an_earlier_run_returns_if_the_new_one_fails_in_its_first_epoch(
    trained: TrainingResult, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(stage: str, done: int, total: int) -> None:
        if stage == "train":
            raise KeyboardInterrupt

    run = RunFolder(tmp_path / "run")
    shutil.copytree(trained.run_folder, run.path)
    before, recipe = contents(run), toy_recipe(epochs=1)
    with pytest.raises(KeyboardInterrupt):  # can be resumed
        fit(recipe, dataset, run.path, machine=ONE_THREAD, overwrite=True, progress=stop)
    assert run.read_record().recipe == recipe and not run.checkpoint.exists()
    with monkeypatch.context() as patch:
        diverging(patch)
        with pytest.raises(ModelError, match="training diverged"):
            fit(recipe, dataset, run.path, machine=ONE_THREAD, overwrite=True)
    assert contents(run) == before and not run.replaced.exists()
    fit(recipe, dataset, run.path, machine=ONE_THREAD, overwrite=True)
    assert read_checkpoint(run.checkpoint).recipe["epochs"] == 1 and not run.replaced.exists()


@pytest.mark.parametrize("strange", ["data", "images", "model"])
def test_a_path_that_the_record_cannot_hold_is_refused(tmp_path: Path, strange: str) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9")
    data = OpenOptions(path) if strange == "data" else OpenOptions(tmp_path, path if strange == "images" else None)
    run = RunFolder(tmp_path / "run")
    with pytest.raises(InputError, match=r"cannot train from .*caf\\udce9: its name is not UTF-8: rename it"):
        run.prepare(data=data, models=(path if strange == "model" else None,))
    assert not run.path.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "resnet_fifty"}, "no architecture 'resnet_fifty'"),
        ({"architecture": "test_nfnet", "weights": "auto", "freeze_stages": 0}, "the pretrained weights of test_nfnet"),
        ({"weights": "file"}, "give one with `weights_file`"),
    ],
)
def test_a_failed_start_leaves_no_folder(
    dataset: Dataset, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        fit(toy_recipe(**changes), dataset, tmp_path / "run", machine=ONE_THREAD)
    assert not (tmp_path / "run").exists()


def test_the_moving_average_is_saved(dataset: Dataset, tmp_path: Path) -> None:
    plain = fit(toy_recipe(epochs=2), dataset, tmp_path / "plain", machine=ONE_THREAD)
    averaged = fit(toy_recipe(epochs=2, ema_decay=0.9), dataset, tmp_path / "averaged", machine=ONE_THREAD)
    assert [row.train_loss for row in plain.epochs] == [row.train_loss for row in averaged.epochs]
    first, second = (read_checkpoint(run.checkpoint).state_dict for run in (plain, averaged))
    assert not torch.equal(first["layer4.0.conv1.weight"], second["layer4.0.conv1.weight"])
    checkpoint = read_checkpoint(averaged.checkpoint)
    validation = read_split(dataset, averaged.run_folder).validation
    evaluation = evaluate(torch_predict(load_model(checkpoint)), validation, checkpoint.classes, checkpoint.preprocess)
    assert evaluation.metrics.top1 == averaged.best.validation.top1


def test_patience_stops_training_early(dataset: Dataset, tmp_path: Path) -> None:
    result = fit(toy_recipe(epochs=9, patience=1), dataset, tmp_path / "run", machine=ONE_THREAD)
    scores = [row.validation.macro_f1 for row in result.epochs]
    assert (len(scores) < 9 and scores[-1] < max(scores)) or scores[-1] == scores[-2] == max(scores)


def test_weights_for_other_programs_are_those_of_the_best_epoch(trained: TrainingResult) -> None:
    folder = RunFolder(trained.run_folder)
    best = read_checkpoint(folder.checkpoint)
    bare = torch.load(folder.weights, weights_only=True)
    copy = read_checkpoint(folder.safetensors)
    assert bare.keys() == best.state_dict.keys() == copy.state_dict.keys()
    for name, tensor in best.state_dict.items():
        assert torch.equal(bare[name], tensor) and torch.equal(copy.state_dict[name], tensor)
    assert (copy.classes, copy.epoch, copy.recipe) == (best.classes, best.epoch, best.recipe)


def test_the_environment_file_has_versions_device_and_data(trained: TrainingResult) -> None:
    record = json.loads(RunFolder(trained.run_folder).environment.read_text())
    assert record["versions"]["torch"] == torch.__version__.split("+")[0]
    assert (record["device"], record["gpu"], record["precision"], record["processes"]) == ("cpu", None, "fp32", 1)
    data = read_checkpoint(trained.checkpoint).data
    assert data is not None and record["data"]["digest"] == data.digest
    assert record["git_commit"] is None or len(record["git_commit"].removesuffix("-dirty")) == 40


@pytest.mark.parametrize("missing", ["one image", "no image"])
def test_a_class_with_fewer_than_two_images_is_named(tmp_path: Path, missing: str) -> None:
    folder = tmp_path / "data"
    toy_dataset(folder, per_class=4)
    names = ("Blue Coupe 2010", "Red Coupe 2011", "Green Coupe 2012")
    (folder / "class_mapping.json").write_text(ClassMapping(names).to_json())
    if missing == "one image":
        rows = (folder / "labels.csv").read_text().splitlines()
        (folder / "labels.csv").write_text("\n".join([*rows[:-1], rows[-1].rpartition(",")[0] + ",2"]) + "\n")
    count = 1 if missing == "one image" else 0
    message = rf"1 of 3 classes .* fewer than 2 usable images \('Green Coupe 2012' {count}\): add images"
    with pytest.raises(InputError, match=message):
        fit(toy_recipe(epochs=1), open_dataset(folder), tmp_path / "run", machine=ONE_THREAD)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["integrity.csv"]


def test_a_nonfinite_loss_ends_the_training_with_a_one_line_error(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    diverging(monkeypatch)
    with pytest.raises(ModelError, match=r"training diverged: the loss is nan in epoch 1; .*`learning_rate="):
        fit(toy_recipe(epochs=1), dataset, tmp_path / "run", machine=ONE_THREAD)
    assert not (tmp_path / "run" / "best.pt").exists()


def test_an_invalid_record_is_explained(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with pytest.raises(InputError, match=r"is not a run folder: cannot read recipe\.json"):
        folder.read_record()
    folder.recipe.write_text('{"recipe": {"epochs": "many"}}')
    with pytest.raises(InputError, match=r"is not a valid training record, at recipe\.epochs"):
        folder.read_record()
    folder.write_record(toy_recipe(), None)
    with pytest.raises(InputError, match="does not record where the images are: give the data with `data`"):
        folder.open_split()
