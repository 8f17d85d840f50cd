"""Evaluation computes metrics for any model, matching classes by name. `train` and `evaluate` give the same figures."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import classification_report

from tests.support.readers import without_reader
from tests.support.tiny_model import tiny_model
from tests.support.training_toys import TINY, toy_dataset
from twincar_edge import cli
from twincar_edge.datasets import Dataset, open_dataset
from twincar_edge.errors import InputError, ModelError
from twincar_edge.labels import ClassMapping
from twincar_edge.preprocess import Preprocess
from twincar_edge.training import artifacts
from twincar_edge.training.checkpoint import read_checkpoint
from twincar_edge.training.evaluation import ConfusedPair, evaluate, evaluate_logits
from twincar_edge.training.run_folder import RunFolder

SMALL = Preprocess(size_wh=(16, 16))
NAMES = ("Alpha One Sedan 2010", "Alpha Two Sedan 2010", "Beta SUV 2011")


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Run the command line in this process; return exit code, stdout and stderr."""
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    captured = capsys.readouterr()
    assert isinstance(caught.value.code, int)
    return caught.value.code, captured.out, captured.err


def answers(dataset: Dataset, guesses: list[int], classes: int) -> object:
    """Return a model that answers the images of a data set with these guesses, in order."""
    given = iter(guesses)

    def predict(batch_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        rows = [next(given) for _ in batch_nhwc]
        return np.eye(classes, dtype=np.float32)[rows]

    return predict


def test_metrics_equal_manual_counts(labeled_folder: Path) -> None:
    dataset = open_dataset(labeled_folder)  # labels 0, 1, 2, 0, 1, 2, ..., six of each
    guesses = list(dataset.labels)
    guesses[0] = guesses[3] = guesses[6] = 1  # three of class 0 are answered with class 1
    evaluation = evaluate(answers(dataset, guesses, 3), dataset, dataset.classes, SMALL, batch_size=4)  # type: ignore[arg-type]
    assert (evaluation.images, len(evaluation.classes)) == (18, 3)
    assert evaluation.metrics.top1 == pytest.approx(15 / 18) and evaluation.metrics.top5 == 1
    f1 = (2 / 3, 2 * (6 / 9) / (6 / 9 + 1), 1)
    for entry, expected in zip(evaluation.per_class, [(1, 0.5, f1[0]), (6 / 9, 1, f1[1]), (1, 1, 1)], strict=True):
        assert (entry.precision, entry.recall, entry.f1) == pytest.approx(expected)
        assert entry.images == 6
    assert evaluation.metrics.macro_recall == pytest.approx(2.5 / 3)
    assert evaluation.metrics.macro_f1 == pytest.approx(sum(f1) / 3)
    assert [entry.name for entry in evaluation.hardest()] == [NAMES[0]]
    assert evaluation.confusion().tolist() == [[3, 3, 0], [0, 6, 0], [0, 0, 6]]
    assert evaluation.most_confused() == (ConfusedPair(NAMES[0], NAMES[1], 3, 0.5),)


def test_labels_answers_and_confidences_are_in_image_order(labeled_folder: Path) -> None:
    dataset = open_dataset(labeled_folder)
    logits = np.eye(3, dtype=np.float32)[[0, 1, 1] * 6]
    logits[5] *= 3
    evaluation = evaluate_logits(logits, dataset, dataset.classes)
    assert evaluation.labels.tolist() == [0, 1, 2] * 6 and evaluation.answers.tolist() == [0, 1, 1] * 6
    assert evaluation.confidences[4] == pytest.approx(np.e / (np.e + 2))
    assert evaluation.confidences.argmax() == 5


def test_confused_pairs_are_sorted_by_frequency(labeled_folder: Path) -> None:
    dataset = open_dataset(labeled_folder).select(f"{number:03d}.jpg" for number in range(16))  # 6, 5 and 5 images
    guesses = list(dataset.labels)
    guesses[1] = guesses[4] = 2  # 1 -> 2 twice
    guesses[0] = 1  # 0 -> 1 once, of 6
    guesses[2] = guesses[5] = 0  # 2 -> 0 twice
    guesses[8] = 1  # 2 -> 1 once, of 5
    evaluation = evaluate(answers(dataset, guesses, 3), dataset, dataset.classes, SMALL)  # type: ignore[arg-type]
    found = [(pair.truth, pair.answer, pair.count, pair.share) for pair in evaluation.most_confused()]
    one, two, beta = NAMES
    assert found == [(two, beta, 2, 0.4), (beta, one, 2, 0.4), (beta, two, 1, 0.2), (one, two, 1, 1 / 6)]
    assert len(evaluation.most_confused(3)) == 3


def test_a_perfect_model_has_no_confused_pairs(labeled_folder: Path) -> None:
    dataset = open_dataset(labeled_folder)
    evaluation = evaluate_logits(np.eye(3, dtype=np.float32)[dataset.labels], dataset, dataset.classes)
    assert evaluation.most_confused() == evaluation.hardest() == ()
    assert "hardest" not in evaluation.to_markdown() and "confused" not in evaluation.to_markdown()


def test_classes_are_matched_by_name_and_absent_ones_do_not_count(labeled_folder: Path) -> None:
    dataset = open_dataset(labeled_folder)
    classes = ClassMapping(("Other Coupe 2001", *reversed(NAMES), "More Van 2002"))
    guesses = [3 - label for label in dataset.labels]
    guesses[0] = 4  # a class without images counts as a wrong answer, but not in the averages
    evaluation = evaluate(answers(dataset, guesses, 5), dataset, classes, SMALL)  # type: ignore[arg-type]
    assert evaluation.metrics.top1 == pytest.approx(17 / 18)
    assert [entry.name for entry in evaluation.per_class] == list(reversed(NAMES))
    assert evaluation.metrics.macro_recall == pytest.approx((2 + 5 / 6) / 3)
    assert evaluation.most_confused() == (ConfusedPair(NAMES[0], "More Van 2002", 1, 1 / 6),)


def test_a_model_that_lacks_a_class_is_refused_before_it_runs(labeled_folder: Path) -> None:
    dataset = open_dataset(labeled_folder)

    def predict(batch_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        raise AssertionError("it ran")

    with pytest.raises(InputError, match=r"does not know 1 classes of the data set blobs: 'Beta SUV 2011'"):
        evaluate(predict, dataset, ClassMapping(NAMES[:2]), SMALL)


def test_a_model_with_fewer_outputs_than_names_is_refused(labeled_folder: Path) -> None:
    dataset = open_dataset(labeled_folder)
    with pytest.raises(ModelError, match=r"logits of shape \[18, 2\], expected \[18, 3\]"):
        evaluate(answers(dataset, [0] * 18, 2), dataset, ClassMapping(NAMES), SMALL)  # type: ignore[arg-type]


def test_figures_are_written_as_json_and_markdown(labeled_folder: Path) -> None:
    dataset = open_dataset(labeled_folder)
    guesses = [0] * 18
    evaluation = evaluate(answers(dataset, guesses, 3), dataset, dataset.classes, SMALL)  # type: ignore[arg-type]
    document = json.loads(evaluation.to_json())
    assert (document["dataset"], document["images"], document["classes"]) == ("blobs", 18, 3)
    assert {name: document[name] for name in asdict(evaluation.metrics)} == asdict(evaluation.metrics)
    assert document["top1"] == pytest.approx(1 / 3) and document["per_class"][0]["images"] == 6
    assert document["most_confused"][0] == {"truth": NAMES[1], "answer": NAMES[0], "count": 6, "share": 1.0}
    text = evaluation.to_markdown()
    assert "| top-1 | 33.33% |" in text and "| Beta SUV 2011 | 6 | 0.0% | 0.0% | 0.0% |" in text
    assert "| Beta SUV 2011 | Alpha One Sedan 2010 | 6 | 100.0% |" in text
    for figure in ("top-3", "top-5", "macro precision", "weighted F1", "Cohen's kappa", "(MCC)", "(ECE)", "loss"):
        assert figure in text
    assert f"\n| {NAMES[0]} |" not in text  # classes without mistakes are not listed as hard


@pytest.mark.parametrize(("learned", "which"), [(18, "these images"), (12, "12 of these images")])
def test_images_that_the_model_has_learned_from_are_a_warning(labeled_folder: Path, learned: int, which: str) -> None:
    dataset = open_dataset(labeled_folder)
    evaluation = evaluate(answers(dataset, [0] * 18, 3), dataset, dataset.classes, SMALL)  # type: ignore[arg-type]
    assert evaluation.warning is None and "Warning" not in evaluation.to_markdown()
    evaluation = dataclasses.replace(evaluation, learned_from=learned)
    assert f"\nWarning: the model has learned from {which}: expect lower" in evaluation.to_markdown()
    assert json.loads(evaluation.to_json())["learned_from"] == learned


def test_a_pipe_in_a_name_is_escaped(labeled_folder: Path) -> None:
    dataset = open_dataset(labeled_folder)
    odd = dataclasses.replace(dataset, classes=ClassMapping(("a|b", *NAMES[1:])))
    text = evaluate_logits(np.eye(3, dtype=np.float32)[[1] * 18], odd, odd.classes).to_markdown()
    assert "| a\\|b | 6 |" in text and "| a\\|b | Alpha Two Sedan 2010 | 6 |" in text


def test_the_table_of_classes_equals_that_of_scikit_learn(labeled_folder: Path) -> None:
    dataset = open_dataset(labeled_folder)
    guesses = [0, 1, 2, 1, 1, 2, 2, 2, 2] * 2
    evaluation = evaluate(answers(dataset, guesses, 3), dataset, dataset.classes, SMALL)  # type: ignore[arg-type]
    expected = classification_report(
        dataset.labels, guesses, target_names=list(NAMES), output_dict=True, zero_division=0
    )
    del expected["accuracy"]
    rows = {row.pop("class"): row for row in csv.DictReader(evaluation.to_csv().splitlines())}
    assert list(rows) == [*NAMES, "macro avg", "weighted avg"]
    for name, row in rows.items():
        assert {column: float(value) for column, value in row.items()} == pytest.approx(expected[name], abs=1e-6)


def test_a_class_that_looks_like_a_formula_is_escaped_in_csv(labeled_folder: Path) -> None:
    classes = ClassMapping(("=1", *NAMES[1:]))
    dataset = dataclasses.replace(open_dataset(labeled_folder), classes=classes)
    evaluation = evaluate_logits(np.eye(3, dtype=np.float32)[dataset.labels], dataset, classes)
    assert evaluation.to_csv().splitlines()[1].startswith("'=1,")


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A data set and the run folder of a training on it by the command."""
    folder = tmp_path_factory.mktemp("command")
    toy_dataset(folder / "data")
    changes = {
        "architecture": TINY, "size": 32, "train_size": 24, "first_train_size": 0, "epochs": 3, "batch_size": 16,
        "learning_rate": 5e-3, "validation_share": 0.25, "seed": 4, "augmentation.rotation_degrees": 0,
    }  # fmt: skip
    arguments = ["train", str(folder / "data"), "-o", str(folder / "run"), "--weights", "none", "--threads", "1"]
    arguments += ["--device", "cpu", *(word for key, value in changes.items() for word in ("--set", f"{key}={value}"))]
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 0
    return folder / "data", folder / "run"


def test_train_writes_its_options_into_the_recipe(run_folder: tuple[Path, Path]) -> None:
    record = RunFolder(run_folder[1]).read_record()
    recipe = record.recipe
    assert (recipe.architecture, recipe.weights, recipe.epochs, recipe.seed) == (TINY, "none", 3, 4)
    assert (recipe.train_size, recipe.learning_rate, recipe.validation_share) == (24, 5e-3, 0.25)
    assert recipe.preprocess.size_wh == (32, 32) and recipe.freeze_stages == 0
    assert recipe.augmentation.rotation_degrees == 0 and recipe.augmentation.flip == 0.5
    assert record.data is not None and record.data.path == run_folder[0]


def test_evaluate_gives_the_figures_of_the_training(
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


def test_evaluate_writes_plots_of_a_checkpoint(
    run_folder: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, folder = run_folder
    output = tmp_path / "deep" / "report"
    code, out, err = run(["evaluate", str(folder / "best.pt"), "--split", str(folder), "-o", str(output)], capsys)
    assert code == 0, err
    names = [*artifacts.EVALUATION_FILES, artifacts.GRADCAM_GRID]
    assert sorted(path.name for path in output.iterdir()) == sorted(names)
    assert out.splitlines()[-len(names) :] == [f"wrote {output / name}" for name in names]
    assert json.loads((output / "metrics.json").read_text())["images"] == 16


def test_evaluate_writes_plots_of_an_onnx_file_with_its_temperature(
    tmp_path: Path, labeled_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {}
    for temperature in (1.0, 50.0):
        model = tiny_model(tmp_path / f"{temperature:g}.onnx", NAMES, temperature=temperature)
        output = tmp_path / f"{temperature:g}"
        output.mkdir()
        (output / artifacts.GRADCAM_GRID).write_bytes(b"an earlier checkpoint's")
        code, _, err = run(["evaluate", str(model), "--data", str(labeled_folder), "-o", str(output)], capsys)
        assert code == 0, err
        assert {path.name for path in output.iterdir()} == set(artifacts.EVALUATION_FILES)
        found[temperature] = json.loads((output / "metrics.json").read_text())
    assert found[1.0]["top1"] == found[50.0]["top1"]
    assert found[50.0]["loss"] == pytest.approx(np.log(3), rel=0.1) != pytest.approx(found[1.0]["loss"], rel=0.1)


def test_evaluate_prints_json_instead_of_markdown_for_a_dash(
    tmp_path: Path, labeled_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    model = tiny_model(tmp_path / "model.onnx", NAMES)
    code, out, _ = run(["evaluate", str(model), "--data", str(labeled_folder), "--json", "-"], capsys)
    assert (code, json.loads(out)["dataset"]) == (0, labeled_folder.name)
    assert not (tmp_path / "-").exists()


def test_evaluate_writes_its_report_although_the_reader_of_its_table_has_gone(
    tmp_path: Path, labeled_folder: Path
) -> None:
    model, output = tiny_model(tmp_path / "model.onnx", NAMES), tmp_path / "report"
    command = ("-m", "twincar_edge", "evaluate", str(model), "--data", str(labeled_folder), "-o", str(output))
    done = without_reader(tmp_path, *command, PYTHONUNBUFFERED="1")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in output.iterdir()} == set(artifacts.EVALUATION_FILES)


def test_evaluate_fails_before_running_if_it_cannot_write(
    run_folder: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    arguments = [
        "evaluate",
        str(run_folder[1] / "best.pt"),
        "--split",
        str(run_folder[1]),
        "-o",
        str(tmp_path / "file"),
    ]
    code, out, err = run(arguments, capsys)
    assert code == 2 and out == "" and err.count("\n") == 1
    assert "cannot write into" in err and (tmp_path / "file").read_text() == "mine"


def test_evaluate_names_the_missing_extra_for_plots(
    run_folder: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    folder = run_folder[1]
    arguments = ["evaluate", str(folder / "best.pt"), "--split", str(folder), "-o", str(tmp_path / "out")]
    code, _, err = run(arguments, capsys)
    assert (code, err) == (2, "error: matplotlib is not installed: pip install 'twincar-edge[train]'\n")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["best.pt"], "no images to evaluate on: give --data DATA, or --split RUN"),
        (["best.pt", "--split", "{run}/val.csv"], "add --data"),
        (["best.pt", "--data", "{run}/nothing"], "nothing does not exist"),
        (["best.pt", "--split", "{data}"], "is not a run folder"),
        (["model.h5", "--data", "{data}"], r"cannot evaluate .*model\.h5: expected a file ending in one of \.pt"),
        (["none.pt", "--data", "{data}"], r"cannot read the checkpoint .*none\.pt"),
        (["best.pt", "--data", "{data}", "--ep", "cuda"], "checkpoint, .*: export it, or leave out --ep cuda"),
    ],
)
def test_errors_of_evaluate_are_one_line(
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
        (["--set", "epochs=0"], "is not a valid recipe, at epochs"),
        (["--set", "size=4"], "is not a valid recipe"),
        (["--set", "architecture=resnet5000"], "timm has no architecture 'resnet5000'"),
        (["--set", "weights=none", "--set", "freeze_stages=2"], "random weights cannot be frozen"),
        (["--weights", "{data}/none.pth"], r"cannot read the checkpoint .*none\.pth"),
        (["--set", "augmentation.flip=2"], r"at augmentation\.flip"),
    ],
)
def test_errors_of_train_are_one_line(
    run_folder: tuple[Path, Path],
    tmp_path: Path,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    filled = [argument.format(data=run_folder[0]) for argument in arguments]
    weights = [] if "weights" in "".join(arguments) else ["--weights", "none"]
    base = ["train", str(run_folder[0]), "-o", str(tmp_path / "run"), "--set", f"architecture={TINY}", *weights]
    code, _, err = run([*base, *filled], capsys)
    assert code == 2 and err.count("\n") == 1, err
    assert re.search(message, err)
    assert not (tmp_path / "run").exists()


def test_train_does_not_overwrite_an_earlier_run(
    run_folder: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    data, folder = run_folder
    before = (folder / "best.pt").read_bytes()
    code, _, err = run(["train", str(data), "-o", str(folder), "--weights", "none"], capsys)
    assert code == 2 and "is not empty" in err and "--overwrite" in err
    assert (folder / "best.pt").read_bytes() == before
