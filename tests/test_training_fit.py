"""A training learns, repeats itself, keeps its best epoch whole, and says in one line why it cannot start."""

from __future__ import annotations

import csv
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training_toys import PLAIN, TINY, toy_dataset, toy_recipe
from twincar_edge.datasets import Dataset, read_split
from twincar_edge.datasets.options import OpenOptions
from twincar_edge.errors import InputError, ModelError
from twincar_edge.labels import ClassMapping
from twincar_edge.preprocess import Preprocess, prepare
from twincar_edge.training import fit as fit_module
from twincar_edge.training.checkpoint import read_checkpoint
from twincar_edge.training.data import TrainingImages, training_batches
from twincar_edge.training.evaluation import evaluate
from twincar_edge.training.fit import EpochMetrics, TrainingResult, fit
from twincar_edge.training.machine import Machine, choose_device, gains_from_bf16, limited_threads
from twincar_edge.training.model import CarClassifier, load_model, torch_predict
from twincar_edge.training.optimization import build_optimizer, freeze_stages, train_mode
from twincar_edge.training.recipe import Augmentation, Recipe
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
def dataset(toys: Path) -> Dataset:
    from twincar_edge.datasets import open_dataset

    return open_dataset(toys)


@pytest.fixture(scope="module")
def trained(toys: Path, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    run = tmp_path_factory.mktemp("run") / "first"
    return fit(toy_recipe(), dataset, run, data_options=OpenOptions(toys), machine=ONE_THREAD)


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def figures(rows: tuple[EpochMetrics, ...]) -> list[tuple[float, ...]]:
    """What of the metrics does not depend on the clock."""
    return [(row.epoch, row.train_loss, row.val_loss, row.top1, row.top5, row.learning_rate) for row in rows]


def test_two_classes_are_learned_in_seconds(trained: TrainingResult) -> None:
    assert trained.best.top1 > 0.95
    assert trained.epochs[-1].train_loss < 0.5 * trained.epochs[0].train_loss
    assert all(row.images_per_s > 0 and row.seconds > 0 for row in trained.epochs)


def test_the_run_folder_holds_all_that_a_training_leaves(trained: TrainingResult, toys: Path, dataset: Dataset) -> None:
    folder = RunFolder(trained.run_folder)
    assert sorted(path.name for path in trained.run_folder.iterdir()) == sorted(path.name for path in folder.files())
    assert ClassMapping.from_json(folder.class_mapping) == dataset.classes
    rows = table(folder.metrics)
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4, 5]
    assert float(rows[-1]["val_loss"]) == pytest.approx(trained.epochs[-1].val_loss, rel=1e-4)
    assert [(row["name"], row["problem"]) for row in table(folder.integrity)] == [("000.png", "not an image")]
    record = folder.read_record()
    assert record.recipe == toy_recipe() and record.data == OpenOptions(toys.absolute())


def test_the_split_can_be_opened_again_from_the_run_folder(trained: TrainingResult, dataset: Dataset) -> None:
    split = RunFolder(trained.run_folder).open_split()
    again = read_split(dataset, trained.run_folder)
    assert [s.name for s in split.validation.samples] == [s.name for s in again.validation.samples]
    assert len(split.train) + len(split.validation) == len(dataset) - 1  # one image is no image
    assert not {s.name for s in split.train.samples} & {s.name for s in split.validation.samples}


def test_the_best_checkpoint_evaluates_to_what_was_logged(trained: TrainingResult) -> None:
    checkpoint = read_checkpoint(trained.checkpoint)
    validation = RunFolder(trained.run_folder).open_split().validation
    evaluation = evaluate(
        torch_predict(load_model(checkpoint)), validation, checkpoint.classes, checkpoint.preprocess, batch_size=5
    )
    assert (evaluation.top1, evaluation.top5) == (trained.best.top1, trained.best.top5)
    assert (checkpoint.validation_top1, checkpoint.epoch) == (trained.best.top1, trained.best.epoch)
    assert checkpoint.recipe == toy_recipe().model_dump(mode="json")
    assert checkpoint.data is not None and checkpoint.data.images == 47
    assert Recipe.model_validate(checkpoint.recipe) == toy_recipe()


def test_a_checkpoint_names_no_path_of_this_machine(trained: TrainingResult, toys: Path) -> None:
    content = trained.checkpoint.read_bytes()
    for folder in (toys, trained.run_folder):
        assert str(folder).encode() not in content


def test_of_equally_good_epochs_the_later_is_kept(trained: TrainingResult) -> None:
    best = max(row.top1 for row in trained.epochs)
    assert trained.best.epoch == max(row.epoch for row in trained.epochs if row.top1 == best)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(
    trained: TrainingResult, dataset: Dataset, tmp_path: Path
) -> None:
    torch.rand(3)  # the caller's random state is no ingredient
    before = torch.get_rng_state()
    again = fit(toy_recipe(), dataset, tmp_path / "again", machine=ONE_THREAD)
    assert torch.equal(torch.get_rng_state(), before)  # nor does a training change it
    assert figures(again.epochs) == figures(trained.epochs)
    first, second = (read_checkpoint(run.checkpoint).state_dict for run in (trained, again))
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = fit(toy_recipe(seed=1, epochs=1), dataset, tmp_path / "other", machine=ONE_THREAD)
    assert other.epochs[0].train_loss != trained.epochs[0].train_loss


def test_decoding_each_epoch_gives_what_the_cache_gives(
    trained: TrainingResult, dataset: Dataset, tmp_path: Path
) -> None:
    machine = Machine(device="cpu", threads=1, cache_mb=0)
    assert figures(fit(toy_recipe(), dataset, tmp_path / "run", machine=machine).epochs) == figures(trained.epochs)


def test_frozen_stages_stay_as_they_are_statistics_included(dataset: Dataset, tmp_path: Path) -> None:
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


def test_training_mode_leaves_frozen_normalization_in_evaluation_mode() -> None:
    model = CarClassifier("test_efficientnet", 2, SMALL)
    frozen = freeze_stages(model, 1)
    train_mode(model, frozen)
    assert frozen and not any(module.training for module in frozen)
    assert model.backbone.bn2.training and not model.backbone.bn1.training
    with pytest.raises(InputError, match="has 5 stages after its stem: cannot freeze 6"):
        freeze_stages(model, 6)


def test_body_and_head_learn_at_their_own_rate_and_biases_do_not_decay() -> None:
    model = CarClassifier(TINY, 2, SMALL)
    freeze_stages(model, 1)
    recipe = toy_recipe(learning_rate=0.01, head_learning_rate=0.05, weight_decay=0.1)
    optimizer, schedule = build_optimizer(model, recipe, steps=10)
    groups = optimizer.param_groups
    assert [(group["max_lr"], group["weight_decay"]) for group in groups] == [
        (0.01, 0.1), (0.01, 0.0), (0.05, 0.1), (0.05, 0.0),
    ]  # fmt: skip
    assert all(parameter.requires_grad for group in groups for parameter in group["params"])
    assert {id(p) for group in groups[2:] for p in group["params"]} == {id(p) for p in model.backbone.fc.parameters()}
    rates = []
    for _ in range(10):
        rates.append(groups[2]["lr"])
        optimizer.step()
        schedule.step() if len(rates) < 10 else None
    assert max(rates) == pytest.approx(0.05) and rates[-1] < rates[0] < 0.05


def test_augmented_images_keep_size_and_type_and_strength_zero_keeps_the_picture(dataset: Dataset) -> None:
    part = dataset.select(sample.name for sample in dataset.samples[2:6])
    varied = TrainingImages(part, SMALL, (24, 20), Augmentation())
    image, label = varied[1]
    assert image.dtype == torch.uint8 and image.shape == (20, 24, 3) and label == part.samples[1].label
    assert not torch.equal(varied[1][0], varied[1][0])
    still = TrainingImages(part, SMALL, (32, 32), PLAIN)
    difference = still[0][0].numpy().astype(int) - prepare(part.samples[0].read(), SMALL)
    assert np.abs(difference).mean() < 8  # resized twice, and in the model's own colour order
    batches = list(training_batches(still, 3))
    assert [tuple(batch.shape) for batch, _ in batches] == [(3, 32, 32, 3)]  # what does not fill a batch waits
    assert [len(batch) for batch, _ in training_batches(still, 9)] == [4]  # unless there is no other


def test_progress_names_each_part_and_ends_at_its_total(dataset: Dataset, tmp_path: Path) -> None:
    seen: dict[str, tuple[int, int]] = {}
    epochs: list[EpochMetrics] = []

    def progress(stage: str, done: int, total: int) -> None:
        seen[stage] = (done, total)

    fit(toy_recipe(epochs=1), dataset, tmp_path / "r", machine=ONE_THREAD, on_epoch=epochs.append, progress=progress)
    assert list(seen) == ["check", "read", "train", "validate"]
    assert all(done == total for done, total in seen.values())
    assert [row.epoch for row in epochs] == [1]


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from tests.training_toys import toy_recipe
from twincar_edge.datasets import open_dataset
from twincar_edge.training.fit import fit
from twincar_edge.training.machine import Machine

save, calls = torch.save, []

def dies_while_writing(document, target):
    save(document, target)
    calls.append(target)
    if len(calls) == 2:
        Path(target).write_bytes(Path(target).read_bytes()[:5000])
        os.kill(os.getpid(), signal.SIGKILL)

torch.save = dies_while_writing
data, run = map(Path, sys.argv[1:])
fit(toy_recipe(), open_dataset(data), run, machine=Machine("cpu", 1))
"""


def test_killed_while_writing_leaves_the_epoch_before_whole(toys: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = subprocess.run([sys.executable, "-c", KILLED, str(toys), str(run)], cwd=Path(__file__).parent.parent)
    assert process.returncode == -signal.SIGKILL
    folder = RunFolder(run)
    checkpoint = read_checkpoint(folder.checkpoint)
    load_model(checkpoint)
    assert checkpoint.epoch == 1 and table(folder.metrics)
    assert folder.read_record().recipe.epochs == 5


def test_an_interrupted_training_keeps_its_best_so_far(dataset: Dataset, tmp_path: Path) -> None:
    def interrupt(row: EpochMetrics) -> None:
        if row.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(toy_recipe(), dataset, tmp_path / "run", machine=ONE_THREAD, on_epoch=interrupt)
    assert read_checkpoint(tmp_path / "run" / "best.pt").epoch in (1, 2)
    assert not [path for path in (tmp_path / "run").iterdir() if path.name.startswith(".")]


def test_a_folder_in_use_is_left_alone_unless_told_otherwise(dataset: Dataset, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "notes.txt").write_text("mine")
    (run / "best.pt").write_text("old")
    with pytest.raises(InputError, match=r"run is not empty: choose another folder, or --overwrite"):
        fit(toy_recipe(epochs=1), dataset, run, machine=ONE_THREAD)
    assert (run / "best.pt").read_text() == "old"
    fit(toy_recipe(epochs=1), dataset, run, machine=ONE_THREAD, overwrite=True)
    assert (run / "notes.txt").read_text() == "mine"
    assert read_checkpoint(run / "best.pt").epoch == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "resnet_fifty"}, "no architecture 'resnet_fifty'"),
        ({"architecture": "test_efficientnet", "weights": "auto", "freeze_stages": 0}, "no pretrained weights"),
        ({"weights": "file"}, "--weights FILE"),
    ],
)
def test_what_cannot_start_leaves_no_folder(
    dataset: Dataset, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        fit(toy_recipe(**changes), dataset, tmp_path / "run", machine=ONE_THREAD)
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_ends_the_training_in_one_line(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_finite(logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float = 0) -> torch.Tensor:
        return logits.sum() * float("nan")

    monkeypatch.setattr(fit_module, "cross_entropy", not_finite)
    with pytest.raises(ModelError, match="the training loss is nan in epoch 1: lower --learning-rate"):
        fit(toy_recipe(epochs=1), dataset, tmp_path / "run", machine=ONE_THREAD)
    assert not (tmp_path / "run" / "best.pt").exists()


def test_devices_that_are_not_there_say_so() -> None:
    assert choose_device("cpu").type == "cpu"
    with pytest.raises(InputError, match="no device 'tpu': use auto, cpu or cuda"):
        choose_device("tpu")
    if not torch.cuda.is_available():
        assert choose_device("auto").type == "cpu"
        with pytest.raises(InputError, match="PyTorch finds no GPU"):
            choose_device("cuda")


def test_bfloat16_is_used_only_where_the_processor_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for capabilities, expected in (({"avx2": True}, False), ({"avx512_bf16": True}, True), ({"amx_bf16": True}, True)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found, raising=False)
        assert gains_from_bf16(torch.device("cpu")) is expected


def test_threads_are_bounded_and_given_back() -> None:
    before = torch.get_num_threads()
    with limited_threads(1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs"),
        ({"learning_rate": float("inf")}, "learning_rate"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"freeze_stages": 1}, "random weights cannot stay frozen"),
        ({"augmentation": {"min_scale": 0}}, "augmentation.min_scale"),
        ({"what": 1}, "what"),
    ],
)
def test_a_recipe_that_cannot_be_meant_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        toy_recipe(**changes)


def test_a_recipe_fills_in_what_follows_from_the_rest() -> None:
    assert Recipe().preprocess.mean == (0.5, 0.5, 0.5)
    assert Recipe(architecture="resnet50").preprocess == Preprocess()
    assert (Recipe().freeze_stages, Recipe(weights="none").freeze_stages) == (2, 0)
    assert toy_recipe().train_size_wh == (32, 32) and toy_recipe(train_size=24).train_size_wh == (24, 24)


def test_a_damaged_record_says_what_is_wrong(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with pytest.raises(InputError, match=r"is not the folder of a training: cannot read recipe\.json"):
        folder.read_record()
    folder.recipe.write_text('{"recipe": {"epochs": "many"}}')
    with pytest.raises(InputError, match=r"is not the record of a training, at recipe\.epochs"):
        folder.read_record()
    folder.write_record(toy_recipe(), None)
    with pytest.raises(InputError, match="does not say where the images are: name them with --data"):
        folder.open_split()
