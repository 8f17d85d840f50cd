"""The images of an export are those that its model did not learn from, also without the run folder."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.support.export_toys import write_cars
from twincar_edge.datasets import (
    Dataset,
    OpenOptions,
    Sample,
    Split,
    open_dataset,
    stratified_folds,
    stratified_split,
    write_split,
)
from twincar_edge.errors import InputError
from twincar_edge.export.data import learned_from, open_split
from twincar_edge.export.parity.images import open_images
from twincar_edge.labels import ClassMapping


@pytest.fixture
def cars(tmp_path: Path) -> Path:
    return write_cars(tmp_path / "cars", per_class=6)


@pytest.fixture
def alone(tmp_path: Path) -> Path:
    """A checkpoint without its run folder; only its path matters here."""
    (tmp_path / "models").mkdir()
    return tmp_path / "models" / "best.pt"


def names(dataset: Dataset) -> set[str]:
    return {sample.name for sample in dataset.samples}


def opened(model: Path, share: float, train: Dataset, data: Path) -> Split:
    return open_split(model, {"validation_share": share}, train.classes, OpenOptions(data), train.record())


def compared(model: Path, share: float, train: Dataset, data: Path) -> tuple[set[str], list[str]]:
    """Return the images that `parity` compares on, and its notes."""
    checkpoint = SimpleNamespace(recipe={"validation_share": share}, classes=train.classes, data=train.record())
    notes: list[str] = []
    return names(open_images(model, checkpoint, OpenOptions(data), None, notes.append)), notes


def grown(cars: Path, folder: Path) -> Path:
    """Return a copy of `cars` in another folder, with more images of each class."""
    write_cars(folder, per_class=8)
    rows = (cars / "labels.csv").read_text().splitlines()
    assert (folder / "labels.csv").read_text().splitlines()[: len(rows)] == rows
    return folder


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_moved_checkpoint_of_a_fold_is_checked_on_what_its_fold_held_out(
    alone: Path, cars: Path, number: int
) -> None:
    fold = stratified_folds(open_dataset(cars), 3)[number]
    split = opened(alone, 1 / 3, fold.train, cars)
    assert (names(split.train), names(split.validation)) == (names(fold.train), names(fold.validation))
    assert compared(alone, 1 / 3, fold.train, cars) == (names(fold.validation), [])


def test_data_that_has_grown_since_the_training_is_refused_for_an_export(
    alone: Path, cars: Path, tmp_path: Path
) -> None:
    train = stratified_split(open_dataset(cars), 0.25).train
    with pytest.raises(InputError, match=r"cars has changed since the training of .*: use the checkpoint in its run"):
        opened(alone, 0.25, train, grown(cars, tmp_path / "more" / "cars"))


def test_data_of_another_name_is_used_with_a_warning_unless_the_list_of_the_training_is_there(
    alone: Path, cars: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    split = stratified_split(open_dataset(cars), 0.25)
    more = grown(cars, tmp_path / "grown")
    for share, train in ((0.25, split.train), (0, open_dataset(cars))):
        caplog.clear()
        assert names(opened(alone, share, train, more).validation)
        assert "best.pt may have been trained on images of grown" in caplog.text
        images, notes = compared(alone, share, train, more)
        assert len(images) == 24
        assert [note.split("; ")[1] for note in notes] == ["the model may have learned from some of them"]
    caplog.clear()
    write_split(split, alone.parent)
    assert names(opened(alone, 0.25, split.train, more).validation) == names(split.validation)
    assert compared(alone, 0.25, split.train, more) == (names(split.validation), [])
    rows = (more / "labels.csv").read_text().splitlines()
    (more / "labels.csv").write_text("\n".join([rows[0], *rows[-6:]]) + "\n")  # without the images of the training
    assert len(opened(alone, 0.25, split.train, more).validation) == 3
    assert caplog.text == ""
    assert [note for note in compared(alone, 0.25, split.train, more)[1] if "may have learned" in note] == []


def test_exactly_the_training_images_are_refused(alone: Path, cars: Path) -> None:
    for share in (0.25, 0):
        with pytest.raises(InputError, match="learned from all of cars: give others with `data`"):
            opened(alone, share, open_dataset(cars), cars)


@pytest.mark.parametrize("share", [0.25, 0])
def test_an_unknown_class_is_named_before_the_images_are_decoded(
    alone: Path, cars: Path, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = open_dataset(cars)
    fewer = replace(train, classes=ClassMapping(("other", *train.classes.names[1:])))
    monkeypatch.setattr(Sample, "decode", lambda *_: pytest.fail("decoded"))
    for open_them in (opened, compared):
        with pytest.raises(InputError, match="the model does not know 1 classes of the data set cars"):
            open_them(alone, share, fewer, cars)


def known_to_be_learned(model: Path, share: float, train: Dataset, dataset: Dataset) -> int:
    return learned_from(model, {"validation_share": share}, train.record(), dataset)


def test_images_that_a_model_has_learned_from_are_counted_only_if_the_digest_proves_it(
    alone: Path, cars: Path, tmp_path: Path
) -> None:
    everything, split = open_dataset(cars), stratified_split(open_dataset(cars), 0.25)
    assert known_to_be_learned(alone, 0.25, split.train, split.train) == len(split.train)
    assert known_to_be_learned(alone, 0.25, split.train, everything) == len(split.train)
    assert known_to_be_learned(alone, 0, everything, everything) == len(everything)
    for others in (split.validation, open_dataset(grown(cars, tmp_path / "grown"))):
        assert known_to_be_learned(alone, 0.25, split.train, others) == 0
    assert learned_from(alone, {"validation_share": 0.25}, None, everything) == 0
    assert known_to_be_learned(alone, 9, split.train, everything) == 0  # a recipe of another version
    write_split(split, alone.parent)
    assert known_to_be_learned(alone, 0.25, split.train, open_dataset(tmp_path / "grown")) == len(split.train)
    assert known_to_be_learned(alone, 0.25, split.train, split.validation) == 0


def test_excluded_duplicates_do_not_hide_that_the_others_were_learned_from(
    alone: Path, cars: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned = open_dataset(cars)
    first, second = sorted((one for one in learned.samples if one.label == 0), key=lambda one: one.name)[:2]
    second.source.path.write_bytes(first.source.read_bytes())
    usable = learned.select(sample.name for sample in learned.samples if sample.name != second.name)
    monkeypatch.delattr(Sample, "decode")  # `evaluate` has decoded them all
    assert known_to_be_learned(alone, 0, usable, learned) == len(learned) - 1
