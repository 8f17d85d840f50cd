"""The unknown pictures for choosing a threshold are the same each time and show no class of the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from twincar_edge.errors import InputError
from twincar_edge.export.confidence import unknowns
from twincar_edge.export.confidence.report import GIVEN, NOISE, TWIN_CARS
from twincar_edge.export.confidence.unknowns import open_unknowns
from twincar_edge.synthetic import CLASS_NAMES

REAL = ("Audi A5 Coupe 2012", "Audi S5 Coupe 2012")


def drawn_labels(known: tuple[str, ...]) -> set[int]:
    """Return the labels of the twin cars that are drawn for a model with these classes."""
    sources = (sample.source for sample in open_unknowns(known).sets[TWIN_CARS].samples)
    return {source.label for source in sources if isinstance(source, unknowns._TwinCar)}


def test_unknowns_are_twin_cars_of_every_class_and_noise_of_every_kind() -> None:
    opened = open_unknowns(REAL)
    assert list(opened.sets) == [TWIN_CARS, NOISE] and opened.remarks == ()
    assert len(opened.sets[TWIN_CARS]) == 192 and drawn_labels(REAL) == set(range(len(CLASS_NAMES)))
    kinds = [sample.name.partition("-")[0] for sample in opened.sets[NOISE].samples]
    assert {kind: kinds.count(kind) for kind in kinds} == {"white": 33, "smooth": 33, "flat": 33}


def test_known_twin_cars_are_excluded() -> None:
    assert drawn_labels((*REAL, CLASS_NAMES[3])) == set(range(len(CLASS_NAMES))) - {3}
    opened = open_unknowns(CLASS_NAMES)
    assert list(opened.sets) == [NOISE]
    assert "knows all twin cars" in opened.remarks[0]


def test_the_pictures_are_repeatable_in_any_order_and_all_different() -> None:
    first, again = open_unknowns(REAL).sets, open_unknowns(REAL).sets
    for name, places in ((TWIN_CARS, (0, 1, 16)), (NOISE, (0, 1, 2, 3, 4, 5))):
        images = [first[name].samples[place].read() for place in places]
        for kind in (unknowns._TwinCar, unknowns._Noise):
            kind.read_bytes.cache_clear()
        repeated = [again[name].samples[place].read() for place in reversed(places)][::-1]
        assert all(np.array_equal(image, same) for image, same in zip(images, repeated, strict=True))
        assert len({image.tobytes() for image in images}) == len(images)


def test_noise_is_white_smooth_or_flat_as_named() -> None:
    white, smooth, flat = (sample.read().astype(int) for sample in open_unknowns(REAL).sets[NOISE].samples[:3])
    steps = [np.abs(np.diff(image, axis=1)).mean() for image in (white, smooth, flat)]
    assert steps[0] > 60 and 0 < steps[1] < 30 and steps[2] == 0
    assert smooth.std() > 10


def test_a_given_folder_is_read_recursively_and_unusable_files_are_counted(
    tmp_path: Path, jpeg: Callable[[int], bytes]
) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    picture = jpeg(0)
    (tmp_path / "a.jpg").write_bytes(picture)
    (tmp_path / "deep" / "er" / "b.JPG").write_bytes(jpeg(1))
    (tmp_path / "deep" / "again.jpg").write_bytes(picture)
    (tmp_path / "deep" / "cut.jpg").write_bytes(picture[:200])
    (tmp_path / "no\x1b[31m.png").write_bytes(b"no picture")
    (tmp_path / "empty.png").touch()
    (tmp_path / "notes.txt").write_text("not meant to be an image")
    (tmp_path / ".hidden.jpg").write_bytes(jpeg(2))
    opened = open_unknowns(REAL, [tmp_path])
    assert [sample.name for sample in opened.sets[GIVEN].samples] == ["a.jpg", "deep/er/b.JPG"]
    (remark,) = opened.remarks
    assert remark.startswith("4 of the 6 given images were excluded")
    for problem in ("1 duplicate", "1 truncated", "1 not an image", "1 empty"):
        assert problem in remark
    assert remark.isprintable() and str(tmp_path) not in remark


def test_an_undecodable_file_name_is_escaped(tmp_path: Path, jpeg: Callable[[int], bytes]) -> None:
    (tmp_path / "caf\udce9.jpg").write_bytes(jpeg(0))
    (sample,) = open_unknowns(REAL, [tmp_path]).sets[GIVEN].samples
    assert sample.name == "caf\\udce9.jpg" and sample.read().shape == (32, 48, 3)


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({}, "it has no images"),
        ({"a.txt": b"a"}, "it has no images"),
        ({"a.png": b"a", "b.png": b""}, r"none of its 2 images is usable \(1 not an image, 1 empty\)"),
    ],
)
def test_a_folder_without_a_usable_image_is_refused(tmp_path: Path, files: dict[str, bytes], complaint: str) -> None:
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=complaint):
        open_unknowns(REAL, [tmp_path])


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        open_unknowns(REAL, [tmp_path / "absent"])
