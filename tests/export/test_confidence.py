"""Temperature and threshold meet their definitions, and the report has their effect."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from twincar_edge.dataset_logits import Side
from twincar_edge.datasets import Dataset, ImageFile, Sample
from twincar_edge.errors import InputError
from twincar_edge.export.confidence import unknowns
from twincar_edge.export.confidence.calibrate import calibrate_confidence
from twincar_edge.export.confidence.choices import (
    HIGHEST_TEMPERATURE,
    LOWEST_TEMPERATURE,
    choose_threshold,
    fit_temperature,
    share_named,
)
from twincar_edge.export.confidence.files import write_confidence
from twincar_edge.export.confidence.levels import masked_certainty, wrong_probability
from twincar_edge.export.confidence.plot import plot_confidence
from twincar_edge.export.confidence.report import (
    GIVEN,
    MASKED,
    NOISE,
    TWIN_CARS,
    ConfidenceOptions,
    ConfidenceReport,
)
from twincar_edge.export.open_set.choose import MIN_PROBABILITY
from twincar_edge.labels import ClassMapping
from twincar_edge.metrics import negative_log_likelihood, softmax
from twincar_edge.preprocess import Preprocess
from twincar_edge.runtime.inference.answers import KNOWN_LEVELS, UNKNOWN, Hierarchy
from twincar_edge.runtime.inference.levels import certainty_by_level
from twincar_edge.synthetic import CLASS_NAMES

TINY = Preprocess(size_wh=(16, 16))
CLASSES = ClassMapping(("Audi A5 Coupe 2012", "Audi S5 Coupe 2012", "BMW M3 Coupe 2012", "Fiat 500 Convertible 2012"))


def answers(images: int, temperature: float, classes: int = 4) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return logits, and labels drawn from their probabilities at this temperature."""
    rng = np.random.default_rng(0)
    logits = (3 * temperature * rng.standard_normal((images, classes))).astype(np.float32)
    shares = softmax(logits, temperature).astype(np.float64)
    labels = (rng.random((images, 1)) > shares.cumsum(axis=1)).sum(axis=1)
    return logits, np.minimum(labels, classes - 1)


# Temperature


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_fitting_finds_the_temperature_that_the_labels_were_drawn_with(temperature: float) -> None:
    assert fit_temperature(*answers(20_000, temperature)) == pytest.approx(temperature, rel=0.03)


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_the_temperature_scales_with_the_logits(scale: float) -> None:
    logits, labels = answers(500, 1.0)
    scaled = np.asarray(logits * scale, np.float32)
    assert fit_temperature(scaled, labels) == pytest.approx(scale * fit_temperature(logits, labels), rel=5e-3)


@given(st.integers(0, 2**32 - 1))
def test_the_fitted_temperature_maximizes_the_likelihood(seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = (2 * rng.standard_normal((30, 3))).astype(np.float32)
    labels = np.where(rng.random(30) < 0.6, logits.argmax(axis=1), rng.integers(0, 3, 30))
    found = fit_temperature(logits, labels)
    likelihood = negative_log_likelihood(logits, labels, found)
    for other in (LOWEST_TEMPERATURE, found / 1.02, found * 1.02, HIGHEST_TEMPERATURE):
        if LOWEST_TEMPERATURE <= other <= HIGHEST_TEMPERATURE:
            assert likelihood <= negative_log_likelihood(logits, labels, other) + 1e-12


def test_the_likelihood_equals_that_of_the_probabilities() -> None:
    logits, labels = answers(50, 1.0)
    expected = -np.log(softmax(logits, 0.7).astype(np.float64)[np.arange(50), labels]).mean()
    assert negative_log_likelihood(logits, labels, 0.7) == pytest.approx(expected, rel=1e-6)
    assert negative_log_likelihood(np.array([[0, 1e4]], np.float32), [0]) == pytest.approx(1e4)


def test_an_unbounded_temperature_is_clamped() -> None:
    one = np.array([[2, 1, 0]], np.float32)
    assert fit_temperature(one, np.array([0])) == LOWEST_TEMPERATURE
    assert fit_temperature(one, np.array([2])) == HIGHEST_TEMPERATURE
    assert fit_temperature(np.zeros((5, 3), np.float32), np.arange(5) % 3) == 1.0
    assert fit_temperature(np.zeros((5, 1), np.float32), np.zeros(5, np.int64)) == 1.0
    assert fit_temperature(np.array([[1e4, 0]], np.float32), np.array([0])) == 1.0  # already certain


def test_a_temperature_without_valid_logits_is_refused() -> None:
    with pytest.raises(InputError, match="the data set is empty"):
        fit_temperature(np.zeros((0, 3), np.float32), np.zeros(0, np.int64))
    with pytest.raises(InputError, match="not finite"):
        fit_temperature(np.array([[np.nan, 0]], np.float32), np.array([0]))


# Threshold


def array(*values: float) -> NDArray[np.float32]:
    return np.array(values, np.float32)


@pytest.mark.parametrize(
    ("false_accept", "threshold"), [(0.0, 0.91), (0.2, 0.75), (0.4, 0.51), (0.39, 0.75), (0.8, 0.11), (1.0, 0.0)]
)
def test_the_threshold_is_the_lowest_that_meets_the_limit(false_accept: float, threshold: float) -> None:
    best = array(0.1, 0.3, 0.5, 0.742, 0.9001)
    assert choose_threshold({"a": best}, false_accept, ["a"]) == threshold
    assert share_named(best, threshold) <= false_accept
    assert threshold == 0 or share_named(best, threshold - 0.01) > false_accept


def test_rounding_does_not_exceed_the_limit() -> None:
    best = array(*[0.95] * 29, *[0.2] * 71)
    assert choose_threshold({"a": best}, 0.29, ["a"]) == 0.21


def test_ties_are_all_named_or_all_unknown() -> None:
    assert choose_threshold({"a": array(0.5, 0.5, 0.5, 0.25)}, 0.5, ["a"]) == 0.51


@pytest.mark.parametrize("probability", [0.25, 0.5, 0.9, 0.1, 0.70, 0.95])
def test_an_image_counts_as_named_exactly_if_inference_names_it(probability: float) -> None:
    row = array(probability, 1 - probability)
    row[1] = 0
    for threshold in (probability - 0.01, probability, probability + 0.01):
        named = Hierarchy(("a", "b")).answer(row, threshold).name != UNKNOWN
        assert share_named(row[:1], threshold) == named


def test_the_worst_limited_set_decides() -> None:
    unknown = {"easy": array(0.2, 0.2), "hard": array(0.6, 0.8), "hardest": array(0.97, 0.99)}
    assert choose_threshold(unknown, 0.0, ["easy"]) == 0.21
    assert choose_threshold(unknown, 0.0, ["easy", "hard"]) == 0.81
    assert choose_threshold(unknown, 0.5, ["easy", "hard"]) == 0.61
    assert choose_threshold(unknown, 0.0, []) == 0


def test_no_threshold_rejects_probability_one() -> None:
    assert choose_threshold({"a": array(1.0, 1.0, 0.3)}, 0.1, ["a"]) == 1.0
    with pytest.raises(InputError, match="no unknown images in the set 'b'"):
        choose_threshold({"a": array(0.5)}, 0.1, ["b"])


def test_masking_removes_the_true_class_and_renormalizes_the_others() -> None:
    logits = np.log(np.array([[0.7, 0.2, 0.1], [0.1, 0.2, 0.7], [0.2, 0.5, 0.3]], np.float32))
    labels = np.array([0, 1, 1])
    before = logits.copy()
    assert masked_at_year(logits, labels, 1.0) == pytest.approx([2 / 3, 7 / 8, 3 / 5])
    assert np.array_equal(logits, before)
    higher = logits.copy()
    higher[np.arange(3), labels] += 50
    assert np.array_equal(masked_at_year(higher, labels, 0.5), masked_at_year(logits, labels, 0.5))


def masked_at_year(logits: NDArray[np.float32], labels: NDArray[np.int64], temperature: float) -> NDArray[np.float64]:
    return masked_certainty(logits, labels, temperature, Hierarchy(("Alfa A 2010", "Beta B 2010", "Gamma C 2010")))[
        "year"
    ].best


def test_a_correct_coarse_name_is_not_wrong() -> None:
    hierarchy = Hierarchy(("Alfa A 2010", "Alfa A 2012", "Beta B 2010"))
    rows, labels = np.array([[0.3, 0.45, 0.25], [0.1, 0.2, 0.7]], np.float32), np.array([0, 0])
    levels = certainty_by_level(rows, hierarchy, labels)
    assert levels["year"].best == pytest.approx([0.45, 0.7]) and not levels["year"].right.any()
    assert levels["model"].best == pytest.approx([0.75, 0.7]) and levels["model"].right.tolist() == [True, False]
    assert wrong_probability(levels) == pytest.approx([0.45, 0.7])  # in the first row, no wrong name has more than 0.45


# The report


def toy(scale: float) -> Side:
    """A model that answers by mean color, more confidently for a larger `scale`; its fourth class is dark images."""

    def predict(batch_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        color = batch_nhwc.mean(axis=(1, 2)) / 255
        return np.asarray(scale * np.concatenate([color, 0.3 - color.mean(axis=1, keepdims=True)], axis=1), np.float32)

    return Side(predict, TINY)


def held_out(images: int) -> Dataset:
    """A data set of which only names and labels are used."""
    samples = (Sample(f"{n}.png", n % len(CLASSES), ImageFile(Path("none.png"))) for n in range(images))
    return Dataset("toys", CLASSES, tuple(samples))


@pytest.fixture
def few_unknowns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reduce the unknown images to four twin cars and nine pictures of noise."""
    monkeypatch.setattr(unknowns, "TWIN_CAR_IMAGES", 4)
    monkeypatch.setattr(unknowns, "NOISE_IMAGES", 9)


def logits_of(dataset: Dataset, lead: float = 2.0) -> NDArray[np.float32]:
    """Logits with one wrong answer in ten and varying confidence."""
    rng = np.random.default_rng(1)
    logits = np.asarray(rng.standard_normal((len(dataset), len(CLASSES))) / 6, np.float32)
    place = dataset.labels.copy()
    place[::10] = (place[::10] + 1) % len(CLASSES)
    logits[np.arange(len(dataset)), place] += lead * rng.uniform(0.5, 1.5, len(dataset))
    return logits


def calibrated(scale: float = 4.0, classes: ClassMapping = CLASSES, **options: object) -> ConfidenceReport:
    dataset = held_out(400)
    return calibrate_confidence(
        {"fp32": toy(scale), "int8": toy(1.1 * scale)},
        {"fp32": logits_of(dataset), "int8": logits_of(dataset, 1.9)},
        dataset,
        classes,
        ConfidenceOptions.model_validate(options),
        "toy",
    )


@pytest.mark.usefixtures("few_unknowns")
def test_all_files_meet_the_false_accept_limit() -> None:
    report = calibrated(false_accept=0.25, hold_noise=True)
    assert report.held == (TWIN_CARS, NOISE) and report.unknown == {TWIN_CARS: 4, NOISE: 9, MASKED: 400}
    assert 0 < report.threshold < 1
    for precision in ("fp32", "int8"):
        named = report.record(precision).unknown_named
        assert named[TWIN_CARS] <= 0.25 and named[NOISE] <= 0.25
    lower = calibrated(reject_below=round(report.threshold - 0.01, 2))
    shares = [lower.record(precision).unknown_named[name] for precision in ("fp32", "int8") for name in report.held]
    assert max(shares) > 0.25  # a lower threshold would exceed it


@pytest.mark.usefixtures("few_unknowns")
def test_the_figures_equal_those_computed_from_the_logits() -> None:
    report = calibrated()
    dataset = held_out(400)
    logits, labels = logits_of(dataset), dataset.labels
    assert report.temperature == fit_temperature(logits, labels)
    assert report.temperature == float(f"{report.temperature:.3g}")
    best = softmax(logits, report.temperature).max(axis=1)
    named = best >= report.threshold
    figures = report.precisions["fp32"]
    assert figures.at_threshold.coverage == named.mean()
    assert figures.at_threshold.named_top1 == (logits.argmax(axis=1) == labels)[named].mean()
    assert figures.top1 == 0.9 and figures.nll_after < figures.nll_before
    assert figures.ece_after < figures.ece_before
    masked = masked_certainty(logits, labels, report.temperature, Hierarchy(dataset.classes.names))
    assert figures.at_threshold.unknown_named[MASKED] == share_named(wrong_probability(masked), report.threshold)
    for bins in (report.reliability_before, report.reliability_after):
        assert sum(part.images for part in bins) == 400
    assert report.points[0].coverage == 1 and report.points[0].named_top1 == 0.9
    assert [point.threshold for point in report.points] == [step / 100 for step in range(101)]


@pytest.mark.usefixtures("few_unknowns")
def test_given_values_are_kept_and_evaluated() -> None:
    report = calibrated(temperature=1.7, reject_below=0.345)
    assert (report.temperature, report.threshold, report.false_accept, report.held) == (1.7, 0.345, None, ())
    assert report.record("int8").false_accept is None and report.record("int8").images == 400
    assert len(report.points) == 102 and 0.345 in [point.threshold for point in report.points]
    text = report.to_markdown()
    assert "Temperature **1.7**, given" in text and 'below **0.345** are "unknown": this threshold was given.' in text
    assert "| **0.345** |" in text


@pytest.mark.usefixtures("few_unknowns")
def test_noise_and_masked_are_limited_only_on_request() -> None:
    assert calibrated().held == (TWIN_CARS,)
    report = calibrated(hold_masked=True, false_accept=0.02)
    assert report.held == (TWIN_CARS, MASKED)
    assert report.record("int8").unknown_named[MASKED] <= 0.02


@pytest.mark.usefixtures("few_unknowns")
def test_a_given_folder_is_a_limited_set(tmp_path: Path, jpeg: Callable[[int], bytes]) -> None:
    image = np.zeros((20, 20, 3), np.uint8)
    image[:, :, 2] = 255  # pure red, for which the toy model is most confident
    assert cv2.imwrite(str(tmp_path / "red.png"), image)
    (tmp_path / "cut.jpg").write_bytes(jpeg(0)[:100])
    report = calibrated(unknown=tmp_path, false_accept=0.0)
    assert report.held == (TWIN_CARS, GIVEN) and report.unknown[GIVEN] == 1
    assert report.threshold > calibrated(false_accept=0.0).threshold
    assert any("1 of the 2 given images were excluded: 1 truncated" in line for line in report.warnings)


@pytest.mark.usefixtures("few_unknowns")
def test_the_report_says_whether_the_limit_or_the_floor_decided() -> None:
    dataset = held_out(400)
    everything = SimpleNamespace(
        similarities=np.ones((400, len(CLASSES)), np.float32),
        reached=lambda found: dict.fromkeys(KNOWN_LEVELS, np.ones(len(found), np.bool_)),
    )

    def made(false_accept: float) -> ConfidenceReport:
        options = ConfidenceOptions(false_accept=false_accept)
        logits, familiarity = {"fp32": logits_of(dataset)}, {"fp32": everything}
        return calibrate_confidence(
            {"fp32": toy(4.0)},
            logits,
            dataset,
            CLASSES,
            options,
            "toy",
            familiarity=familiarity,  # type: ignore[arg-type]
        )

    raised, lowest = made(1.0), made(0.0)
    assert (raised.threshold, raised.below_floor) == (MIN_PROBABILITY, 0.0)
    assert "the floor of models with familiarity (at most 100.0% of twin cars get" in raised.to_markdown()
    assert lowest.threshold > MIN_PROBABILITY and lowest.below_floor is None
    assert "the lowest at which at most 0.0% of twin cars get a wrong name" in lowest.to_markdown()


@pytest.mark.usefixtures("few_unknowns")
def test_a_model_that_knows_the_twin_cars_uses_noise_with_a_warning() -> None:
    classes = ClassMapping((*CLASS_NAMES, "Audi A5 Coupe 2012"))
    samples = tuple(Sample(f"{n}.png", n % 17, ImageFile(Path("none.png"))) for n in range(170))
    dataset = Dataset("twins", classes, samples)
    logits = 3 * np.eye(17, dtype=np.float32)[dataset.labels]

    def predict(batch_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.tile(np.linspace(0, 1, 17, dtype=np.float32), (len(batch_nhwc), 1))

    report = calibrate_confidence(
        {"fp32": Side(predict, TINY)}, {"fp32": logits}, dataset, classes, ConfidenceOptions(), "twins"
    )
    assert report.held == (NOISE,) and TWIN_CARS not in report.unknown
    assert report.temperature == LOWEST_TEMPERATURE
    for text in ("knows all twin cars", "no set but noise", "at its limit of 0.2: nearly all"):
        assert any(text in line for line in report.warnings), text


@pytest.mark.usefixtures("few_unknowns")
def test_unreachable_limits_are_warnings() -> None:
    certain = calibrated(scale=4000.0)
    assert certain.threshold == 1
    assert any(
        line.startswith("no threshold limits wrong names for twin cars to 5.0%: fp32 gives")
        for line in certain.warnings
    )
    modest = calibrated(reject_below=0.999)
    assert any("names only" in line for line in modest.warnings)
    small_data_set = held_out(8)
    report = calibrate_confidence(
        {"fp32": toy(4.0)}, {"fp32": logits_of(small_data_set)}, small_data_set, CLASSES, ConfidenceOptions(), "toy"
    )
    assert any("only 8 images" in line for line in report.warnings)
    for line in report.warnings:
        assert f"- {line}" in report.to_markdown()


@pytest.mark.usefixtures("few_unknowns")
def test_a_model_of_two_classes_has_no_masked_images() -> None:
    classes = ClassMapping(CLASSES.names[:2])
    samples = tuple(Sample(f"{n}.png", n % 2, ImageFile(Path("none.png"))) for n in range(120))
    dataset = Dataset("two", classes, samples)

    def predict(batch_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.zeros((len(batch_nhwc), 2), np.float32)

    logits = np.eye(2, dtype=np.float32)[(dataset.labels + (np.arange(120) % 7 == 0)) % 2]
    options = ConfidenceOptions(hold_masked=True)
    report = calibrate_confidence({"fp32": Side(predict, TINY)}, {"fp32": logits}, dataset, classes, options, "two")
    assert MASKED not in report.unknown and any("masked images cannot limit" in line for line in report.warnings)


@pytest.mark.usefixtures("few_unknowns")
def test_progress_counts_unknown_pictures_over_all_sets() -> None:
    seen: list[tuple[int, int]] = []
    dataset = held_out(40)
    calibrate_confidence(
        {"fp32": toy(4.0)},
        {"fp32": logits_of(dataset)},
        dataset,
        CLASSES,
        ConfidenceOptions(),
        "toy",
        lambda done, total: seen.append((done, total)),
    )
    assert seen == [(4, 13), (13, 13)]


def test_mismatched_logits_are_rejected_before_drawing() -> None:
    dataset = held_out(40)
    for logits in ({}, {"int8": logits_of(dataset)}):
        with pytest.raises(InputError, match="expected logits for each model"):
            calibrate_confidence({"fp32": toy(1)}, logits, dataset, CLASSES, ConfidenceOptions(), "toy")
    with pytest.raises(InputError, match="do not match"):
        wrong = {"fp32": logits_of(held_out(30))}
        calibrate_confidence({"fp32": toy(1)}, wrong, dataset, CLASSES, ConfidenceOptions(), "toy")


@pytest.mark.usefixtures("few_unknowns")
def test_the_report_round_trips_and_is_written_as_json_markdown_and_plot(tmp_path: Path) -> None:
    report = calibrated(reject_below=0.555)
    assert ConfidenceReport.model_validate_json(report.to_json()) == report
    text = report.to_markdown()
    assert "| FP32 | 90.00% |" in text and "| INT8 | 90.00% |" in text and "hardest set" in text
    names = [path.name for path in write_confidence(report, tmp_path)]
    assert names == ["confidence.json", "confidence.md", "confidence.png"]
    assert (tmp_path / "confidence.md").read_text("utf-8") == text
    image_bgr = cv2.imread(str(tmp_path / "confidence.png"))
    assert image_bgr is not None and image_bgr.shape[0] > 800 and image_bgr.std() > 10
    plot_confidence(calibrated(reject_below=1.0), tmp_path / "none.png")  # a report without named images is drawn too
    assert (tmp_path / "none.png").read_bytes() != (tmp_path / "confidence.png").read_bytes()
