"""Evaluation counts what it says, by class name, for any model; the commands train and evaluate say the same."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.training_toys import TINY, toy_dataset
from twincar_edge import cli
from twincar_edge.datasets import Dataset, open_dataset
from twincar_edge.errors import InputError, ModelError
from twincar_edge.labels import ClassMapping
from twincar_edge.preprocess import Preprocess
from twincar_edge.training.checkpoint import read_checkpoint
from twincar_edge.training.evaluation import Evaluation, evaluate
from twincar_edge.training.run_folder import RunFolder

SMALL = Preprocess(size_wh=(16, 16))
NAMES = ("Alpha One Sedan 2010", "Alpha Two Sedan 2010", "Beta SUV 2011")


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Run the command line here: exit code, standard output, standard error."""
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    captured = capsys.readouterr()
    assert isinstance(caught.value.code, int)
    return caught.value.code, captured.out, captured.err


def answers(dataset: Dataset, guesses: list[int], classes: int) -> object:
    """A model that gives these guesses to the images of a data set, one after the other."""
    given = iter(guesses)

    def predict(batch_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        rows = [next(given) for _ in batch_nhwc]
        return np.eye(classes, dtype=np.float32)[rows]

    return predict


def test_the_figures_are_those_of_a_count_by_hand(labelled_folder: Path) -> None:
    dataset = open_dataset(labelled_folder)  # labels 0, 1, 2, 0, 1, 2, ..., six of each
    guesses = list(dataset.labels)
    guesses[0] = guesses[3] = guesses[6] = 1  # three of class 0 are taken for class 1
    evaluation = evaluate(answers(dataset, guesses, 3), dataset, dataset.classes, SMALL, batch_size=4)  # type: ignore[arg-type]
    assert (evaluation.images, evaluation.classes) == (18, 3)
    assert evaluation.top1 == pytest.approx(15 / 18) and evaluation.top5 == 1
    assert [entry.recall for entry in evaluation.per_class] == [0.5, 1, 1]
    assert evaluation.macro_recall == pytest.approx(2.5 / 3)
    f1 = (2 / 3, 2 * (6 / 9) / (6 / 9 + 1), 1)
    assert evaluation.macro_f1 == pytest.approx(sum(f1) / 3)
    assert [entry.name for entry in evaluation.hardest()] == [NAMES[0]]


def test_classes_are_matched_by_name_and_absent_ones_do_not_count(labelled_folder: Path) -> None:
    dataset = open_dataset(labelled_folder)
    classes = ClassMapping(("Other Coupe 2001", *reversed(NAMES), "More Van 2002"))
    guesses = [3 - label for label in dataset.labels]
    guesses[0] = 4  # a class without an image takes part as a wrong answer, and not in the averages
    evaluation = evaluate(answers(dataset, guesses, 5), dataset, classes, SMALL)  # type: ignore[arg-type]
    assert evaluation.top1 == pytest.approx(17 / 18)
    assert [entry.name for entry in evaluation.per_class] == list(reversed(NAMES))
    assert evaluation.macro_recall == pytest.approx((2 + 5 / 6) / 3)


def test_a_model_that_does_not_know_a_class_is_refused(labelled_folder: Path) -> None:
    dataset = open_dataset(labelled_folder)
    with pytest.raises(InputError, match=r"does not know 1 classes of the data set blobs: 'Beta SUV 2011'"):
        evaluate(answers(dataset, [0] * 18, 2), dataset, ClassMapping(NAMES[:2]), SMALL)  # type: ignore[arg-type]


def test_a_model_with_fewer_outputs_than_names_is_refused(labelled_folder: Path) -> None:
    dataset = open_dataset(labelled_folder)
    with pytest.raises((InputError, ModelError), match="2"):
        evaluate(answers(dataset, [0] * 18, 2), dataset, ClassMapping(NAMES), SMALL)  # type: ignore[arg-type]


def test_figures_can_be_read_by_people_and_machines(labelled_folder: Path) -> None:
    dataset = open_dataset(labelled_folder)
    guesses = [0] * 18
    evaluation = evaluate(answers(dataset, guesses, 3), dataset, dataset.classes, SMALL)  # type: ignore[arg-type]
    document = json.loads(evaluation.to_json())
    assert document["top1"] == pytest.approx(1 / 3) and document["per_class"][0]["images"] == 6
    text = evaluation.to_markdown()
    assert "| top-1 | 33.33% |" in text and "| Beta SUV 2011 | 6 | 0.0% |" in text
    assert NAMES[0] not in text  # what is always right is not hard
    bar = Evaluation("d", 1, 1, 0, 0, 0, 0, (evaluation.per_class[1].__class__("a|b", 1, 0.0),))
    assert "a\\|b" in bar.to_markdown()


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A data set and the folder of a training on it, made by the command."""
    folder = tmp_path_factory.mktemp("command")
    toy_dataset(folder / "data")
    arguments = ["train", str(folder / "data"), "-o", str(folder / "run"), "--architecture", TINY, "--weights", "none"]
    arguments += [
        "--size",
        "32",
        "--train-size",
        "24",
        "--epochs",
        "3",
        "--batch-size",
        "16",
        "--learning-rate",
        "5e-3",
    ]
    arguments += ["--validation-share", "0.25", "--threads", "1", "--device", "cpu", "--rotation", "0", "--seed", "4"]
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 0
    return folder / "data", folder / "run"


def test_train_turns_its_options_into_the_recipe(run_folder: tuple[Path, Path]) -> None:
    record = RunFolder(run_folder[1]).read_record()
    recipe = record.recipe
    assert (recipe.architecture, recipe.weights, recipe.epochs, recipe.seed, recipe.train_size) == (
        TINY,
        "none",
        3,
        4,
        24,
    )
    assert recipe.preprocess.size_wh == (32, 32) and recipe.freeze_stages == 0
    assert recipe.augmentation.rotation_degrees == 0 and recipe.augmentation.flip == 0.5
    assert record.data is not None and record.data.path == run_folder[0]


def test_evaluate_repeats_what_the_training_logged(
    run_folder: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, folder = run_folder
    checkpoint = read_checkpoint(folder / "best.pt")
    for source in (["--split", str(folder)], ["--data", str(data), "--split", str(folder / "val.csv")]):
        code, out, _ = run(
            ["evaluate", str(folder / "best.pt"), *source, "--threads", "1", "--json", str(tmp_path / "e.json")], capsys
        )
        document = json.loads((tmp_path / "e.json").read_text())
        assert code == 0 and document["top1"] == checkpoint.validation_top1 and document["images"] == 16
        assert f"| top-1 | {document['top1']:.2%} |" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["best.pt"], "no images to evaluate on: name them with --data, or a run with --split"),
        (["best.pt", "--split", "{run}/val.csv"], "add --data"),
        (["best.pt", "--data", "{run}/nothing"], "nothing does not exist"),
        (["best.pt", "--split", "{data}"], "is not the folder of a training"),
        (["model.h5", "--data", "{data}"], r"model\.h5 is no model that can be evaluated: expected one of \.pt"),
        (["none.pt", "--data", "{data}"], r"cannot read the checkpoint .*none\.pt"),
    ],
)
def test_evaluate_says_in_one_line_what_it_cannot_do(
    run_folder: tuple[Path, Path], arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data, folder = run_folder
    filled = [argument.format(data=data, run=folder) for argument in arguments[1:]]
    code, _, err = run(["evaluate", str(folder / arguments[0]), *filled], capsys)
    assert code == 2 and err.count("\n") == 1
    assert re.search(message, err)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "0"], "this is no recipe that can be trained, at epochs"),
        (["--size", "4"], "size_wh|no recipe"),
        (["--architecture", "resnet5000"], "no architecture 'resnet5000' in timm"),
        (["--freeze-stages", "2"], "random weights cannot stay frozen"),
        (["--weights", "{data}/none.pth"], r"cannot read the checkpoint .*none\.pth"),
        (["--flip", "2"], r"at augmentation\.flip|at flip"),
    ],
)
def test_train_says_in_one_line_what_it_cannot_do(
    run_folder: tuple[Path, Path],
    tmp_path: Path,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    filled = [argument.format(data=run_folder[0]) for argument in arguments]
    weights = [] if "--weights" in arguments else ["--weights", "none"]
    base = ["train", str(run_folder[0]), "-o", str(tmp_path / "run"), "--architecture", TINY, *weights]
    code, _, err = run([*base, *filled], capsys)
    assert code == 2 and err.count("\n") == 1, err
    assert re.search(message, err)
    assert not (tmp_path / "run").exists()


def test_train_leaves_an_earlier_run_alone(run_folder: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    data, folder = run_folder
    before = (folder / "best.pt").read_bytes()
    code, _, err = run(["train", str(data), "-o", str(folder), "--architecture", TINY, "--weights", "none"], capsys)
    assert code == 2 and "is not empty" in err and "--overwrite" in err
    assert (folder / "best.pt").read_bytes() == before
