"""The split is stratified, depends only on names and seed, and round-trips through its files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twincar_edge.datasets import (
    Dataset,
    ImageFile,
    Sample,
    read_split,
    stratified_folds,
    stratified_split,
    write_split,
)
from twincar_edge.errors import InputError
from twincar_edge.labels import ClassMapping


def dataset_of(sizes: list[int]) -> Dataset:
    classes = ClassMapping(tuple(f"Class {label}" for label in range(len(sizes))))
    samples = [
        Sample(f"{label}/{number:03d}.jpg", label, ImageFile(Path("none")))
        for label, size in enumerate(sizes)
        for number in range(size)
    ]
    return Dataset("made", classes, tuple(samples))


def names(dataset: Dataset) -> set[str]:
    return {sample.name for sample in dataset.samples}


@settings(max_examples=60)
@given(
    st.lists(st.integers(0, 45), min_size=1, max_size=8).filter(lambda sizes: max(sizes) > 1),
    st.sampled_from([0.1, 0.2, 0.5, 0.9]),
    st.integers(0, 2**40),
)
def test_every_class_gives_its_share_and_keeps_at_least_one_image(sizes: list[int], share: float, seed: int) -> None:
    dataset = dataset_of(sizes)
    split = stratified_split(dataset, share, seed)
    assert names(split.train) | names(split.validation) == names(dataset)
    assert not names(split.train) & names(split.validation)
    for label, size in enumerate(sizes):
        held = int((split.validation.labels == label).sum()) if len(split.validation) else 0
        if size < 2:
            assert held == 0
        else:
            assert 1 <= held <= size - 1
            assert abs(held - size * share) <= 0.5 or held in (1, size - 1)


@settings(max_examples=60)
@given(
    st.lists(st.integers(0, 45), min_size=1, max_size=8).filter(lambda sizes: max(sizes) > 9),
    st.integers(2, 9),
    st.integers(0, 2**40),
)
def test_folds_hold_out_every_image_once_and_balance_classes(sizes: list[int], folds: int, seed: int) -> None:
    dataset = dataset_of(sizes)
    splits = stratified_folds(dataset, folds, seed)
    held_out = [sample.name for split in splits for sample in split.validation.samples]
    single = {f"{label}/000.jpg" for label, size in enumerate(sizes) if size == 1}
    assert len(splits) == folds and sorted(held_out) == sorted(names(dataset) - single)
    for split in splits:
        assert names(split.train) == names(dataset) - names(split.validation)
    for label, size in enumerate(sizes):
        counts = [int((split.validation.labels == label).sum()) for split in splits]
        assert size < 2 or max(counts) - min(counts) <= 1


def test_remainders_of_the_classes_go_to_different_folds() -> None:
    splits = stratified_folds(dataset_of([11] * 100), 5)
    assert all(abs(len(split.validation) - 220) < 15 for split in splits)


@pytest.mark.parametrize(("sizes", "folds"), [([9, 9], 1), ([1, 1], 2)])
def test_impossible_folds_are_refused(sizes: list[int], folds: int) -> None:
    with pytest.raises(InputError):
        stratified_folds(dataset_of(sizes), folds)


def test_too_many_folds_are_refused_with_the_number_that_is_possible() -> None:
    with pytest.raises(InputError, match=r"have at most 5 images each, and 3 of the 9 folds would hold nothing out"):
        stratified_folds(dataset_of([5, 1, 4]), 9, seed=1)
    assert len(stratified_folds(dataset_of([5, 1, 4]), 5)) == 5


def test_the_split_does_not_depend_on_the_order_of_samples_or_of_classes() -> None:
    dataset = dataset_of([20, 11, 30])
    split = stratified_split(dataset, seed=5)
    rng = np.random.default_rng(0)
    shuffled = Dataset("x", dataset.classes, tuple(dataset.samples[i] for i in rng.permutation(len(dataset))))
    assert names(stratified_split(shuffled, seed=5).validation) == names(split.validation)
    turned = Dataset(
        "x",
        ClassMapping(dataset.classes.names[::-1]),
        tuple(Sample(s.name, 2 - s.label, s.source) for s in dataset.samples),
    )
    assert names(stratified_split(turned, seed=5).validation) == names(split.validation)


def test_the_split_is_the_same_on_every_machine() -> None:
    split = stratified_split(dataset_of([10, 12]), 0.2, seed=7)
    assert [sample.name for sample in split.validation.samples] == ["0/001.jpg", "0/003.jpg", "1/002.jpg", "1/003.jpg"]


def test_seeds_give_different_splits_and_classes_are_split_independently() -> None:
    dataset = dataset_of([40, 40])
    held = {frozenset(names(stratified_split(dataset, seed=seed).validation)) for seed in range(10)}
    assert len(held) == 10
    numbers = {name.split("/")[1] for name in names(stratified_split(dataset).validation) if name.startswith("0/")}
    others = {name.split("/")[1] for name in names(stratified_split(dataset).validation) if name.startswith("1/")}
    assert numbers != others


def test_adding_images_to_one_class_does_not_change_the_split_of_another() -> None:
    before = names(stratified_split(dataset_of([40, 40])).validation)
    after = names(stratified_split(dataset_of([40, 55])).validation)
    assert {name for name in before if name.startswith("0/")} == {name for name in after if name.startswith("0/")}


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, float("nan")])
def test_a_share_not_between_0_and_1_is_refused(share: float) -> None:
    with pytest.raises(InputError, match="between 0 and 1"):
        stratified_split(dataset_of([4]), share)


def test_classes_of_single_images_and_negative_seeds_are_refused() -> None:
    with pytest.raises(InputError, match="no class with two images"):
        stratified_split(dataset_of([1, 1, 0]))
    with pytest.raises(InputError, match="seed must be 0 or more"):
        stratified_split(dataset_of([4]), seed=-1)


# Files


def test_a_split_round_trips_through_its_files(tmp_path: Path) -> None:
    dataset = dataset_of([10, 20, 1])
    split = stratified_split(dataset, seed=3)
    write_split(split, tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["train.csv", "val.csv"]
    assert (tmp_path / "run" / "val.csv").read_text().startswith("filename,label\n0/")
    assert read_split(dataset, tmp_path / "run") == split


def test_names_with_commas_quotes_and_umlauts_round_trip(tmp_path: Path) -> None:
    odd = ["a,b.jpg", 'say "hi".jpg', "Škoda/ö.jpg", " lead.jpg", "cars.parquet#7", "=1.jpg", "-a/b.jpg"]
    samples = tuple(Sample(name, 0, ImageFile(Path(name))) for name in odd)
    dataset = Dataset("odd", ClassMapping(("A",)), samples)
    split = stratified_split(dataset, 0.4)
    write_split(split, tmp_path)
    assert read_split(dataset, tmp_path) == split
    lines = [line for name in ("train.csv", "val.csv") for line in (tmp_path / name).read_text().splitlines()]
    assert {"./=1.jpg,0", "./-a/b.jpg,0"} < set(lines)  # not formulas


def test_a_data_set_that_lacks_images_of_the_split_is_refused(tmp_path: Path) -> None:
    dataset = dataset_of([10])
    write_split(stratified_split(dataset), tmp_path)
    with pytest.raises(InputError, match=r"train\.csv does not fit: 6 of 9 names are not in the data set made: '0/"):
        read_split(dataset.select(f"0/{number:03d}.jpg" for number in (0, 1, 2)), tmp_path)


def test_images_added_later_are_in_neither_part(tmp_path: Path) -> None:
    split = stratified_split(dataset_of([10, 10]))
    write_split(split, tmp_path)
    again = read_split(dataset_of([10, 12]), tmp_path)
    assert names(again.train) == names(split.train)
    assert names(again.validation) == names(split.validation)


def test_different_labels_and_overlapping_parts_are_refused(tmp_path: Path) -> None:
    dataset = dataset_of([4, 4])
    split = stratified_split(dataset)
    write_split(split, tmp_path)
    other = Dataset("x", dataset.classes, tuple(Sample(s.name, 1 - s.label, s.source) for s in dataset.samples))
    with pytest.raises(InputError, match=r"line 2 labels '0/.* 0, but the data set labels it 1: the class mapping"):
        read_split(other, tmp_path)
    (tmp_path / "val.csv").write_bytes((tmp_path / "train.csv").read_bytes())
    with pytest.raises(InputError, match=r"has 6 images in train\.csv and in val\.csv"):
        read_split(dataset, tmp_path)
    (tmp_path / "val.csv").unlink()
    with pytest.raises(InputError, match=r"cannot read .*val\.csv"):
        read_split(dataset, tmp_path)


def test_if_one_split_file_cannot_be_written_neither_is(tmp_path: Path) -> None:
    (tmp_path / "val.csv").mkdir()
    with pytest.raises(InputError, match=r"cannot write .*val\.csv"):
        write_split(stratified_split(dataset_of([4])), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["val.csv"]
