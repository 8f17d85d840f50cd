"""A student learns its teacher's answers and can be resumed. An unsuitable teacher is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from tests.support.training_toys import PLAIN, TINY, toy_dataset, toy_recipe
from twincar_edge.cli import main
from twincar_edge.dataset_logits import dataset_logits
from twincar_edge.datasets import Dataset, OpenOptions, open_dataset
from twincar_edge.errors import InputError, ModelError
from twincar_edge.files import sha256
from twincar_edge.labels import ClassMapping
from twincar_edge.preprocess import Preprocess
from twincar_edge.training import distillation
from twincar_edge.training.checkpoint import read_checkpoint, write_checkpoint
from twincar_edge.training.distillation import DistillationLoss, hint_loss, open_teacher
from twincar_edge.training.fit import fit
from twincar_edge.training.machine import Machine
from twincar_edge.training.model import CarClassifier, features, load_model, torch_predict
from twincar_edge.training.objective import Batch
from twincar_edge.training.recipe import Recipe
from twincar_edge.training.run_folder import RunFolder

ONE_THREAD = Machine(device="cpu", threads=1)
CLASSES = ClassMapping(("Blue Coupe 2010", "Red Coupe 2011"))
HINTED = toy_recipe(
    epochs=3, ema_decay=0.9, first_train_size=16, distillation={"weight": 0.8, "hints": 0.5, "teacher_size": 40}
)


def untrained(path: Path, architecture: str = TINY, classes: ClassMapping = CLASSES, **preprocess: Any) -> Path:
    """Write the checkpoint of a model with random weights."""
    given = Preprocess.model_validate({"size_wh": (32, 32), **preprocess})
    torch.manual_seed(3)
    model = CarClassifier(architecture, len(classes), given)
    state_dict = model.backbone.state_dict()
    write_checkpoint(
        path, architecture=architecture, state_dict=state_dict, classes=classes, preprocess=given, recipe={}
    )
    return path


@pytest.fixture(scope="module")
def teacher(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that distinguishes the toy classes."""
    result = fit(toy_recipe(), dataset, tmp_path_factory.mktemp("teacher") / "run", machine=ONE_THREAD)
    assert result.best.validation.top1 > 0.9
    return result.checkpoint


def last_model(run: Path, recipe: Recipe) -> CarClassifier:
    """Return the model after the last epoch, even if another epoch was better."""
    state = torch.load(RunFolder(run).state, weights_only=True)
    model = CarClassifier(recipe.architecture, 2, recipe.preprocess)
    model.backbone.load_state_dict(state["loop"]["model"])
    return model.eval()


@pytest.mark.parametrize(
    ("architecture", "side"), [(TINY, 64), ("test_efficientnet", 64), ("test_convnext2", 64), ("resnet50", 64)]
)
def test_features_determine_the_logits(architecture: str, side: int) -> None:
    model = CarClassifier(architecture, 3, Preprocess(size_wh=(side, side))).eval()
    batch_nhwc = torch.randint(0, 256, (2, side, side, 3), dtype=torch.uint8)
    with torch.no_grad():
        logits, maps, pooled = features(model, batch_nhwc)
        assert torch.equal(logits, model(batch_nhwc))
        assert torch.equal(model.head()(pooled), logits)
    heights = [found.shape[2] for found in maps]
    assert heights == sorted(heights, reverse=True) and heights[-1] == side // 32


@pytest.mark.parametrize("hints", [0.0, 1.0])
def test_a_student_agrees_with_its_teacher_if_labels_have_no_weight(
    teacher: Path, tmp_path: Path, hints: float
) -> None:
    toy_dataset(tmp_path / "data")
    table = tmp_path / "data" / "labels.csv"
    lines = table.read_text().splitlines()
    swapped = [line[:-1] + str(1 - int(line[-1])) for line in lines[1:]]
    table.write_text("\n".join([lines[0], *swapped]) + "\n")
    wrong = open_dataset(tmp_path / "data")
    recipe = toy_recipe(seed=1, epochs=16, distillation={"weight": 1, "hints": hints})
    result = fit(recipe, wrong, tmp_path / "run", teacher=teacher, machine=ONE_THREAD)
    student = last_model(tmp_path / "run", recipe)
    checkpoint = read_checkpoint(teacher)
    answers = [
        dataset_logits(torch_predict(model), wrong, recipe.preprocess).argmax(axis=1)
        for model in (load_model(checkpoint), student)
    ]
    assert np.mean(answers[0] == answers[1]) > 0.9
    assert np.mean(answers[1] == wrong.labels) < 0.1
    losses = [row.train_loss for row in result.epochs]
    assert losses[-1] < losses[0]


def test_the_checkpoint_records_the_teacher(teacher: Path, dataset: Dataset, toys: Path, tmp_path: Path) -> None:
    result = fit(HINTED, dataset, tmp_path / "run", teacher=teacher, data_options=OpenOptions(toys), machine=ONE_THREAD)
    checkpoint = read_checkpoint(result.checkpoint)
    assert checkpoint.recipe["distillation"]["teacher_sha256"] == sha256(teacher)
    load_model(checkpoint)  # has exactly the tensors of its architecture
    record = RunFolder(tmp_path / "run").read_record()
    assert record.teacher == teacher.absolute()
    assert record.recipe.distillation is not None
    assert record.recipe.distillation.teacher_sha256 == sha256(teacher)
    own = torch.load(RunFolder(tmp_path / "run").state, weights_only=True)["loop"]["objective"]
    assert {name.split(".")[0] for name in own} == {"0", "1", "2", "3"}  # maps at 1/8, 1/16, 1/32, and pooled


def test_a_resumed_student_ends_with_the_same_weights(
    teacher: Path, dataset: Dataset, toys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = OpenOptions(toys)
    uninterrupted = fit(HINTED, dataset, tmp_path / "one", teacher=teacher, data_options=options, machine=ONE_THREAD)

    def interrupt(row: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(
            HINTED, dataset, tmp_path / "two", teacher=teacher, data_options=options, machine=ONE_THREAD,
            on_epoch=interrupt,
        )  # fmt: skip
    with pytest.raises(SystemExit) as ended:
        main(["train", "--resume", str(tmp_path / "two"), "--threads", "1", "--device", "cpu"])
    assert ended.value.code == 0, capsys.readouterr().err
    states = [torch.load(RunFolder(tmp_path / run).state, weights_only=True)["loop"] for run in ("one", "two")]
    for part in ("model", "ema", "objective"):
        assert states[0][part].keys() == states[1][part].keys()
        assert all(torch.equal(states[0][part][name], states[1][part][name]) for name in states[0][part])
    again = read_checkpoint(RunFolder(tmp_path / "two").checkpoint)
    assert again.epoch == uninterrupted.best.epoch


def test_a_teacher_that_does_not_match_the_recipes_hash_is_refused(
    teacher: Path, dataset: Dataset, toys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = untrained(tmp_path / "other.pt")
    recipe = toy_recipe(epochs=1, distillation={"teacher_sha256": sha256(teacher)})
    with pytest.raises(InputError, match=r"other\.pt is not the teacher of this recipe: its SHA-256 is "):
        fit(recipe, dataset, tmp_path / "run", teacher=other, machine=ONE_THREAD)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("more", [("Blue Coupe 2010", "Red Coupe 2012"), (*CLASSES, "White Van 2000")])
def test_a_teacher_of_other_classes_is_refused_in_one_line(
    toys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...]
) -> None:
    other = untrained(tmp_path / "other.pt", classes=ClassMapping(more))
    keys = (f"architecture={TINY}", "size=32", "train_size=0", "first_train_size=0", "freeze_stages=0")
    options = [part for key in keys for part in ("--set", key)]
    command = ["train", str(toys), "-o", str(tmp_path / "run"), "--weights", "none", *options]
    with pytest.raises(SystemExit) as ended:
        main([*command, "--device", "cpu", "--threads", "1", "--teacher", str(other)])
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert error.startswith("error: the classes of the teacher other.pt and of the images differ: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_distilling_recipe_needs_a_teacher(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="distills from a teacher: give its checkpoint with `teacher`"):
        fit(toy_recipe(distillation={}), dataset, tmp_path / "run", machine=ONE_THREAD)
    with pytest.raises(ModelError, match=r"cannot read the checkpoint .*absent\.pt"):
        fit(toy_recipe(), dataset, tmp_path / "run", teacher=tmp_path / "absent.pt", machine=ONE_THREAD)


def test_a_teacher_uses_the_students_class_names_and_color_order(tmp_path: Path) -> None:
    path = untrained(tmp_path / "teacher.pt", color="bgr")
    swapped = ClassMapping((CLASSES[1], CLASSES[0].replace(" ", "_")))
    opened, recipe = open_teacher(path, toy_recipe(label_smoothing=0.1, distillation={"weight": 0.25}), swapped)
    student = CarClassifier(TINY, 2, recipe.preprocess).eval()
    objective = DistillationLoss(student, opened, recipe, torch.device("cpu"), ONE_THREAD)
    pixels = torch.rand(4, 32, 32, 3) * 255
    batch = Batch(pixels, pixels, torch.tensor([0, 1, 1, 0]), 4)
    loss, logits = objective.loss(objective.network(pixels), batch)
    with torch.no_grad():
        answers = load_model(read_checkpoint(path))(pixels.flip(-1)).flip(-1)
        assert torch.equal(logits, student(pixels))
    expected = 0.25 * cross_entropy(logits, answers.softmax(dim=1))
    expected = expected + 0.75 * cross_entropy(logits, batch.targets, label_smoothing=0.1)
    torch.testing.assert_close(loss, expected)


def test_an_error_for_a_teacher_of_fixed_input_size_names_the_size(dataset: Dataset, tmp_path: Path) -> None:
    path = untrained(tmp_path / "vit.pt", "vit_tiny_patch16_224", size_wh=(160, 160))
    with pytest.raises(InputError, match=r"does not accept crops of 32x32 pixels: .*`distillation\.teacher_size=160`"):
        fit(toy_recipe(), dataset, tmp_path / "run", teacher=path, machine=ONE_THREAD)
    recipe = toy_recipe(epochs=1, distillation={"teacher_size": 160, "hints": 1}, augmentation=PLAIN)
    fit(recipe, dataset, tmp_path / "run", teacher=path, machine=ONE_THREAD)


def test_hints_need_feature_maps_of_the_same_scale(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distillation, "HINT_REDUCTIONS", (64,))
    with pytest.raises(InputError, match="no feature maps of the same scale"):
        fit(HINTED, dataset, tmp_path / "run", teacher=untrained(tmp_path / "teacher.pt"), machine=ONE_THREAD)
    assert not (tmp_path / "run").exists()


def test_the_hint_loss_ignores_scale() -> None:
    theirs = torch.randn(8, 5, 6, 6) * 3 + 1
    std, mean = torch.std_mean(theirs, dim=(0, 2, 3), keepdim=True)
    assert hint_loss([(theirs - mean) / std], [theirs]) < 1e-5
    assert hint_loss([torch.zeros_like(theirs)], [theirs]) > 0.9


def test_two_processes_share_a_teacher_and_train_one_student(toys: Path, tmp_path: Path) -> None:
    teacher = untrained(tmp_path / "teacher.pt")
    changes = (
        "architecture=test_convnext2", "size=32", "epochs=1", "batch_size=16", "train_size=32", "first_train_size=0",
        "validation_share=0.25", "distillation.hints=0.5", "distillation.teacher_size=40",
    )  # fmt: skip
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    command += ["twincar_edge", "train", str(toys), "-o", str(tmp_path / "run"), "--device", "cpu", "--threads", "1"]
    command += ["--weights", "none", "--teacher", str(teacher)]
    command += [part for change in changes for part in ("--set", change)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    folder = RunFolder(tmp_path / "run")
    assert '"processes": 2' in folder.environment.read_text()
    own = torch.load(folder.state, weights_only=True)["loop"]["objective"]
    assert own and all(torch.isfinite(tensor).all() for tensor in own.values())
