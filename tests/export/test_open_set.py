"""Answers to cars of unknown classes are counted as a camera box gives them, on pictures from the user."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.support.tiny_model import CLASSES, tiny_model, with_manifest
from twincar_edge.cli import main
from twincar_edge.datasets import Dataset, open_dataset
from twincar_edge.errors import InputError
from twincar_edge.export.open_set.conditions import CONDITIONS, MAX_IMAGES, sample_known
from twincar_edge.export.open_set.measure import Subject, measure_open_set
from twincar_edge.export.open_set.pictures import open_unknown_pictures, shrunken
from twincar_edge.export.open_set.report import GroupFigures, OpenSetReport
from twincar_edge.labels import ClassMapping, VehicleName
from twincar_edge.manifest import CropSizeFigures, CropSizesRecord
from twincar_edge.metrics import auroc
from twincar_edge.preprocess import shrink_to
from twincar_edge.runtime.inference.classifier import Classifier
from twincar_edge.runtime.inference.session import open_session

# The tiny model gives RED a full name, MIXED the make Castor, and GRAY no name.
RED, MIXED, GRAY, BLUE = (0, 0, 255), (0, 170, 255), (150, 160, 170), (255, 0, 0)


def write_image(path: Path, color_bgr: tuple[int, int, int], speck: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.full((40, 60, 3), color_bgr, np.uint8)
    image[0, 0] = speck  # makes all files different
    assert cv2.imwrite(str(path), image)


def write_cars(folder: Path, rows: list[tuple[tuple[int, int, int], str]]) -> Path:
    """Write pictures and their cars.csv; each row is a color and the fields after the file name."""
    lines = ["filename,make,model,kind"]
    for number, (color, fields) in enumerate(rows):
        write_image(folder / "images" / f"{number}.png", color, number)
        lines.append(f"{number}.png,{fields}")
    (folder / "cars.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def cars(tmp_path: Path) -> Path:
    return write_cars(
        tmp_path / "cars",
        [
            (RED, "castor,Nova,web"),
            (MIXED, "Castor,Nova,web"),
            (MIXED, "Vela,Argo,street"),
            (GRAY, "Vela,Argo,street"),
            (MIXED, ",,truck"),
        ],
    )


@pytest.fixture
def known(tmp_path: Path) -> Path:
    folder = tmp_path / "known"
    for number, color in enumerate((RED, RED, MIXED, GRAY, BLUE, BLUE)):
        write_image(folder / "images" / f"{number}.png", color, number)
    (folder / "labels.csv").write_text("filename,label\n0.png,0\n1.png,1\n2.png,0\n3.png,0\n4.png,2\n5.png,2\n")
    (folder / "class_mapping.json").write_text(ClassMapping(CLASSES).to_json())
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_model(tmp_path / "tiny.onnx", familiar=True, reject_below=0.5)


def shares(group: GroupFigures) -> tuple[float, ...]:
    return (group.wrong_full_name, group.wrong_model, group.wrong_make, group.right, group.unknown)


def test_evaluate_counts_answers_to_known_cars_other_cars_and_other_things(
    model: Path, cars: Path, known: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "lanes" / "empty.png", GRAY)
    arguments = ["evaluate", model, "--data", known, "--unknown", cars, "--unknown", tmp_path / "lanes"]
    arguments += ["--sizes", "40,16", "--threads", "1", "-o", tmp_path / "out", "--json", tmp_path / "all.json"]
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert ended.value.code == 0
    report = OpenSetReport.model_validate_json((tmp_path / "out" / "open_set.json").read_text())
    document = json.loads((tmp_path / "all.json").read_text())
    assert document["images"] == 6
    assert OpenSetReport.model_validate(document["open_set"] | {"sizes": report.sizes, "thresholds": report.thresholds})
    assert (tmp_path / "out" / "open_set.md").read_text() == report.to_markdown()
    assert report.to_markdown() in capsys.readouterr().out
    assert (tmp_path / "out" / "open_set.png").stat().st_size > 10_000

    large, small = report.sizes
    assert (large.size_px, small.size_px) == (40, 16)
    assert large.known is not None
    levels = large.known.levels
    # Four of six get a full name, one of them wrong: a red car labeled green. One more is a Castor, one unknown.
    assert (levels["year"].coverage, levels["year"].right) == pytest.approx((4 / 6, 3 / 4))
    assert (levels["make"].coverage, levels["make"].right) == pytest.approx((5 / 6, 1))
    assert (large.known.right, large.known.unknown) == pytest.approx((4 / 5, 1 / 6))
    groups = {(group.of, group.name): group for group in large.groups}
    assert shares(groups["cars", "all"]) == (1 / 4, 0, 1 / 4, 1 / 4, 1 / 4)
    assert shares(groups["known make", "of a known make"]) == (1 / 2, 0, 0, 1 / 2, 0)
    assert shares(groups["unknown make", "of an unknown make"]) == (0, 0, 1 / 2, 0, 1 / 2)
    assert shares(groups["kind", "web"]) == (1 / 2, 0, 0, 1 / 2, 0)
    assert shares(groups["no car", "truck"]) == (0, 0, 1, 0, 0)
    assert shares(groups["no car", "lanes"]) == (0, 0, 0, 0, 1)
    assert groups["no car", "truck"].wrong == 1
    assert large.cars is not None
    assert large.cars.familiarity is not None
    assert 0.5 < large.cars.familiarity < 1


def test_answers_equal_those_of_the_classifier(model: Path, cars: Path) -> None:
    session = open_session(model, ep="cpu", threads=1)
    pictures = open_unknown_pictures(cars, CLASSES)
    report = measure_open_set(Subject.of_session(session), None, [pictures], [4096])
    answers = Classifier(session).predict([sample.read() for sample in pictures.dataset.samples])
    of_cars = [answer for answer, car in zip(answers, pictures.cars, strict=True) if car is not None]
    assert report.sizes[0].known is None
    group = report.sizes[0].groups[0]
    assert group.unknown == np.mean([answer.level == "unknown" for answer in of_cars])
    assert group.wrong_full_name == np.mean([answer.label is not None for answer in of_cars])


def test_without_labeled_images_only_unknown_images_are_measured(
    model: Path, cars: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", str(model), "--unknown", str(cars), "--sizes", "40"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert "Cars of other classes" in out
    assert "top-1" not in out and "AUROC" not in out


def test_sizes_are_of_the_shorter_side_and_images_are_never_enlarged(known: Path) -> None:
    assert shrink_to(np.zeros((40, 60, 3), np.uint8), 20).shape == (20, 30, 3)
    assert shrink_to(np.zeros((40, 60, 3), np.uint8), 41).shape == (40, 60, 3)
    dataset = open_dataset(known)
    assert shrunken(dataset, 16).samples[0].read().shape == (16, 24, 3)
    assert np.array_equal(shrunken(dataset, 64).samples[0].read(), dataset.samples[0].read())


def test_makes_and_models_in_the_table_match_other_spellings_of_the_models_classes(tmp_path: Path) -> None:
    folder = write_cars(
        tmp_path, [(RED, "fiat,500 abarth,"), (GRAY, "Mercedes-Benz,W 123,"), (MIXED, "Lada,Niva SUV,"), (BLUE, ",,")]
    )
    classes = ("FIAT 500 Abarth 2012", "Mercedes Benz C Class Sedan 2012")
    assert open_unknown_pictures(folder, classes).cars == (
        VehicleName("FIAT", "500 Abarth", None, None),
        VehicleName("Mercedes Benz", "W 123", None, None),
        VehicleName("Lada", "Niva", "SUV", None),
        None,
    )


def test_a_file_name_in_the_table_may_have_spaces_around_it_or_composed_letters(tmp_path: Path) -> None:
    write_image(tmp_path / "citroe\u0308n.png", RED)  # as macOS writes it
    write_image(tmp_path / "ford.png", GRAY)
    (tmp_path / "cars.csv").write_text("filename,make,model\ncitro\u00ebn.png,Citroën,C4\nford.png ,Ford,Ka\n", "utf-8")
    pictures = open_unknown_pictures(tmp_path, CLASSES)
    assert (len(pictures.dataset), pictures.remark) == (2, "")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("filename,make\na.png,Ford\n", "needs the columns filename,make,model"),
        ("filename,make,model\n,Ford,Ka\n", "line 2 needs a filename"),
        ("filename,make,model\n../a.png,Ford,Ka\n", "must be relative"),
        ("filename,make,model\na.png,,Ka\n", "has a model but no make"),
        ("filename,make,model\na.png,Fo\x1brd,Ka\n", "the make 'Fo\\\\x1brd' is too long or not printable"),
        (f"filename,make,model\na.png,{'F' * 201},Ka\n", "too long"),
        ("filename,make,model\na.png,Castor,Red Sedan 2020\n", "is a class of the model"),
        ("filename,make,model\na.png,Ford,Ka\n", r"none of its 1 images is usable \(1 missing\)"),
    ],
)
def test_an_invalid_table_is_a_one_line_error(tmp_path: Path, table: str, message: str) -> None:
    (tmp_path / "cars.csv").write_text(table)
    with pytest.raises(InputError, match=message) as caught:
        open_unknown_pictures(tmp_path, CLASSES)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--unknown", "absent"], "the folder of unknown images absent does not exist"),
        (["--unknown", "{cars}", "--sizes", "0"], "sizes must be 8 to 4096 pixels, found [0]"),
        (["--unknown", "{cars}", "--sizes", "big"], "expected comma-separated whole numbers"),
    ],
)
def test_invalid_options_of_evaluate_are_a_one_line_error(
    model: Path, cars: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", str(model), *(argument.format(cars=cars) for argument in arguments)])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_auroc_is_the_probability_that_a_positive_scores_higher(rng: np.random.Generator) -> None:
    positives, negatives = rng.integers(0, 6, 40).astype(float), rng.integers(0, 5, 30).astype(float)
    pairs = np.sign(positives[:, None] - negatives[None])
    assert auroc(positives, negatives) == pytest.approx((pairs.mean() + 1) / 2)
    assert auroc(np.array([2.0]), np.array([1.0])) == 1


def test_pictures_without_a_table_are_grouped_by_folder(
    model: Path, tmp_path: Path, jpeg: Callable[[int], bytes]
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.jpg").write_bytes(jpeg(0))
    (tmp_path / "a" / "cut.jpg").write_bytes(jpeg(1)[:80])
    subject = Subject.of_session(open_session(model, ep="cpu", threads=1))
    report = measure_open_set(subject, None, [open_unknown_pictures(tmp_path / "a", CLASSES)], [32])
    assert [(group.of, group.name, group.images) for group in report.sizes[0].groups] == [("no car", "a", 1)]
    assert report.warnings == ("1 of the 2 given images were excluded: 1 truncated (the first is cut.jpg)",)


def test_a_picture_too_small_for_a_full_name_gets_a_coarser_one(model: Path, cars: Path, tmp_path: Path) -> None:
    sizes = CropSizesRecord(
        minimum_px=24,
        tolerance=0.02,
        images=500,
        coverage=0.9,
        right=0.95,
        sizes=(CropSizeFigures(px=24, coverage=0.9, right=0.94),),
    )
    session = open_session(with_manifest(model, tmp_path / "sized.onnx", crop_sizes=sizes), ep="cpu", threads=1)
    pictures = open_unknown_pictures(cars, CLASSES)
    report = measure_open_set(Subject.of_session(session), None, [pictures], [24, 23])
    large, small = (size.groups[0] for size in report.sizes)
    assert large.wrong_full_name == 1 / 4
    assert small.wrong_full_name == 0
    assert small.wrong_model == large.wrong_model + 1 / 4  # "Castor Red Sedan", without the year


# --- known cars in other conditions ---


@pytest.fixture
def picture_bgr() -> np.ndarray:
    image_bgr = np.full((120, 200, 3), 90, np.uint8)
    image_bgr[:, :100] = 220  # the left half is bright
    image_bgr[40:80, 60:140] = (20, 60, 180)
    return image_bgr


def apply_condition(name: str, picture_bgr: np.ndarray) -> np.ndarray:
    (condition,) = (condition for condition in CONDITIONS if condition.name == name)
    return condition.change(picture_bgr, np.random.default_rng(0))


def test_conditions_change_a_picture_as_their_names_say(picture_bgr: np.ndarray) -> None:
    assert (apply_condition("as it is", picture_bgr) == picture_bgr).all()
    assert (apply_condition("left half", picture_bgr) == picture_bgr[:, :100]).all()
    assert (apply_condition("right half", picture_bgr) == picture_bgr[:, 100:]).all()
    assert apply_condition("a quarter", picture_bgr).shape == (60, 100, 3)
    night = apply_condition("night", picture_bgr)
    assert 0 < night.mean() < 0.5 * picture_bgr.mean()
    assert night[:20, 120:].std() > 1 > picture_bgr[:20, 120:].std()
    rain = apply_condition("rain", picture_bgr)
    assert rain.shape == picture_bgr.shape
    assert np.corrcoef(rain.ravel(), picture_bgr.ravel())[0, 1] > 0.8  # the car is still visible
    assert rain[:20, 120:].max() > 120 > picture_bgr[:20, 120:].max()  # and so are streaks
    assert apply_condition("covered lens", picture_bgr).std() < 10
    noise = apply_condition("noise", picture_bgr)
    assert abs(np.corrcoef(noise.ravel(), picture_bgr.ravel())[0, 1]) < 0.05


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 2)])
def test_conditions_accept_the_smallest_pictures(size: tuple[int, int]) -> None:
    for condition in CONDITIONS:
        assert condition.change(np.full((*size, 3), 90, np.uint8), np.random.default_rng(0)).size > 0


def test_known_cars_are_measured_in_conditions_without_unknown_images(
    model: Path, known: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["evaluate", str(model), "--data", str(known), "--conditions", "--sizes", "40", "--threads", "1"]
    for out in ("once", "again"):
        with pytest.raises(SystemExit) as ended:
            main([*arguments, "-o", str(tmp_path / out)])
        assert ended.value.code == 0
    text = (tmp_path / "once" / "open_set.json").read_text()
    assert text == (tmp_path / "again" / "open_set.json").read_text()  # the same pictures each time
    report = OpenSetReport.model_validate_json(text)
    conditions = {found.name: found for found in report.conditions}
    assert list(conditions) == [condition.name for condition in CONDITIONS]
    plain, half, covered = (conditions[name] for name in ("as it is", "left half", "covered lens"))
    # Four of six get a full name, one of them wrong: a red car labeled green. One more is a Castor, one unknown.
    assert (plain.full_name, plain.full_name_right, plain.wrong, plain.unknown) == pytest.approx(
        (4 / 6, 3 / 4, 1 / 6, 1 / 6)
    )
    assert half == plain.model_copy(update={"name": "left half"})  # each car has one color
    assert (covered.right, covered.full_name_right) == (0, None)
    assert all(found.right + found.wrong + found.unknown == pytest.approx(1) for found in report.conditions)
    assert "| left half | 6 | 66.7% | 75.0% | 16.7% | 66.7% | 16.7% |" in report.to_markdown()
    assert report.to_markdown() in capsys.readouterr().out


def test_conditions_without_labeled_images_are_a_one_line_error(
    model: Path, cars: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", str(model), "--unknown", str(cars), "--conditions"])
    assert ended.value.code == 2
    assert "--conditions needs labeled images" in capsys.readouterr().err


def test_conditions_use_a_sample_of_a_large_data_set(known: Path) -> None:
    dataset = open_dataset(known)
    many = Dataset("many", dataset.classes, tuple(replace(dataset.samples[n % 6], name=f"{n}") for n in range(900)))
    some = sample_known(many)
    assert len(some) == MAX_IMAGES
    assert some == sample_known(many)
    assert sample_known(dataset) is dataset
