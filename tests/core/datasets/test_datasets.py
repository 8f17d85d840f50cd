"""A data set validates names, labels and boxes, whatever its layout."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from twincar_edge.datasets import Dataset, ImageFile, Sample, open_dataset
from twincar_edge.errors import InputError
from twincar_edge.images import ImageError
from twincar_edge.labels import ClassMapping

TWO = ClassMapping(("Alpha", "Beta"))


def sample(name: str, label: int = 0) -> Sample:
    return Sample(name, label, ImageFile(Path("nowhere") / name))


@pytest.fixture
def ramp(tmp_path: Path) -> Path:
    """A lossless 40x20 image whose pixels encode their position: blue is x, green is y."""
    y, x = np.mgrid[0:20, 0:40]
    path = tmp_path / "ramp.png"
    assert cv2.imwrite(str(path), np.stack([x, y, np.zeros_like(x)], axis=2).astype(np.uint8))
    return path


@pytest.mark.parametrize(
    ("box", "first", "last"),
    [
        ((5, 3, 15, 9), (5, 3), (14, 8)),
        ((-4, -9, 10, 10), (0, 0), (9, 9)),
        ((30, 10, 400, 500), (30, 10), (39, 19)),
        ((0, 0, 40, 20), (0, 0), (39, 19)),
        ((39, 19, 40, 20), (39, 19), (39, 19)),
    ],
)
def test_a_crop_is_the_box_clipped_to_the_image(
    ramp: Path, box: tuple[int, int, int, int], first: tuple[int, int], last: tuple[int, int]
) -> None:
    crop = Sample("ramp.png", 0, ImageFile(ramp), box).read()
    assert crop.flags.c_contiguous
    assert tuple(crop[0, 0, :2]) == first
    assert tuple(crop[-1, -1, :2]) == last
    assert crop.shape[:2] == (last[1] - first[1] + 1, last[0] - first[0] + 1)


@pytest.mark.parametrize(
    "box", [(5, 5, 5, 9), (9, 3, 5, 9), (40, 0, 60, 20), (0, 20, 40, 30), (-9, 0, 0, 20), (-9, -9, -1, -1)]
)
def test_a_box_without_area_in_the_image_is_degenerate(ramp: Path, box: tuple[int, int, int, int]) -> None:
    with pytest.raises(ImageError, match=r"ramp\.png.*40x20") as caught:
        Sample("ramp.png", 0, ImageFile(ramp), box).read()
    assert caught.value.problem == "degenerate box"


def test_duplicate_names_and_labels_outside_the_classes_are_refused() -> None:
    with pytest.raises(InputError, match=r"'a\.jpg' appears twice"):
        Dataset("d", TWO, (sample("a.jpg"), sample("a.jpg", 1)))
    for label in (-1, 2):
        with pytest.raises(InputError, match=rf"'a\.jpg' has label {label}, outside the 2 classes"):
            Dataset("d", TWO, (sample("a.jpg", label),))


def test_select_returns_samples_in_the_requested_order() -> None:
    dataset = Dataset("d", TWO, tuple(sample(name, i % 2) for i, name in enumerate("abcd")))
    chosen = dataset.select(iter(["d", "a"]))
    assert [one.name for one in chosen.samples] == ["d", "a"]
    assert chosen.labels.tolist() == [1, 0]
    assert chosen.labels.dtype == np.int64
    assert len(dataset.select([])) == 0


def test_select_names_the_first_missing_samples_and_their_number() -> None:
    dataset = Dataset("d", TWO, (sample("a"),))
    with pytest.raises(InputError) as caught:
        dataset.select(["a", "v", "w", "x", "y"])
    assert str(caught.value) == "4 of 5 names are not in the data set d: 'v', 'w', 'x', …"


def test_the_digest_depends_on_names_and_class_names_but_not_on_order() -> None:
    dataset = Dataset("d", TWO, (sample("a", 0), sample("b", 1)))
    assert dataset.digest() == replace(dataset, samples=dataset.samples[::-1]).digest()
    renumbered = Dataset("d", ClassMapping(("Beta", "Alpha")), (sample("a", 1), sample("b", 0)))
    assert dataset.digest() == renumbered.digest()
    others = [
        Dataset("d", TWO, (sample("a", 0), sample("c", 1))),
        Dataset("d", TWO, (sample("a", 1), sample("b", 0))),
        Dataset("d", ClassMapping(("Alpha", "Gamma")), dataset.samples),
        Dataset("d", TWO, (sample("a", 0),)),
    ]
    assert len({dataset.digest(), *(other.digest() for other in others)}) == 5


def test_the_record_has_name_size_and_digest() -> None:
    record = Dataset("cars", TWO, (sample("a"), sample("b"))).record()
    assert (record.name, record.images, len(record.digest)) == ("cars", 2, 64)


def test_a_data_set_survives_pickling(labeled_folder: Path, jpeg: Callable[[int], bytes]) -> None:
    dataset = open_dataset(labeled_folder)
    again = pickle.loads(pickle.dumps(dataset))
    assert again == dataset
    assert np.array_equal(again.samples[3].read(), dataset.samples[3].read())
