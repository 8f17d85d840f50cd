"""The arithmetic of parity, on logits written by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from twincar_edge.datasets import Dataset, ImageFile, Sample, open_dataset
from twincar_edge.errors import InputError
from twincar_edge.export import ParityError, ParityLimits, ParityReport, check_parity
from twincar_edge.export.parity import compare, find_breaches
from twincar_edge.labels import ClassMapping
from twincar_edge.manifest import ParityRecord
from twincar_edge.preprocess import Preprocess

CLASSES = ClassMapping(("Alpha One Sedan 2010", "Alpha Two Sedan 2010", "Beta SUV 2011"))


def logits_for(answers: list[int], margin: float = 10.0) -> NDArray[np.float32]:
    return np.eye(3, dtype=np.float32)[answers] * np.float32(margin)


def compared(subject: NDArray[np.float32], reference: NDArray[np.float32], labels: list[int], name: str = "int8"):
    images = [f"{number}.jpg" for number in range(len(labels))]
    return compare((name, subject), ("fp32", reference), np.array(labels), CLASSES, images)


def test_equal_logits_agree_everywhere_and_differ_by_nothing() -> None:
    logits = logits_for([0, 1, 2])
    found = compared(logits, logits.copy(), [0, 1, 1])
    assert (found.agreement, found.sure_images, found.sure_agreement, found.flips) == (1.0, 3, 1.0, ())
    assert found.max_abs_logit_difference == found.mean_abs_logit_difference == 0
    assert found.top1 == found.top1_reference == pytest.approx(2 / 3)


def test_a_flip_names_the_image_what_it_is_and_both_answers() -> None:
    found = compared(logits_for([0, 2]), logits_for([0, 1]), [0, 1])
    [flip] = found.flips
    assert (flip.image, flip.label, flip.reference, flip.answer) == ("1.jpg", CLASSES[1], CLASSES[1], CLASSES[2])
    assert flip.reference_probability == pytest.approx(1 / (1 + 2 * np.exp(-10)), rel=1e-5)
    assert (found.agreement, found.sure_agreement, found.top1, found.top1_reference) == (0.5, 0.5, 0.5, 1.0)


def test_sure_images_are_those_whose_two_best_probabilities_are_far_apart_in_the_reference() -> None:
    reference = np.array([[3, 0, 0], [1, 0.5, 0]], np.float32)  # margins 0.86 and 0.2
    subject = np.array([[0.1, 0, 0], [0.5, 1, 0]], np.float32)  # unsure of both, flips the second
    found = compared(subject, reference, [0, 0])
    assert (found.sure_images, found.sure_agreement, found.agreement) == (1, 1.0, 0.5)


def test_without_a_sure_image_there_is_no_sure_agreement_and_no_limit_on_it() -> None:
    found = compared(logits_for([0], 0.1), logits_for([0], 0.1), [0])
    assert found.sure_agreement is None
    assert find_breaches(found, ParityLimits(int8_sure_agreement=1.0)) == []


def test_differences_are_absolute_over_all_logits() -> None:
    reference = np.zeros((2, 3), np.float32)
    subject = np.array([[0.3, 0, 0], [0, -0.6, 0]], np.float32)
    found = compared(subject, reference, [0, 1])
    assert found.max_abs_logit_difference == pytest.approx(0.6)
    assert found.mean_abs_logit_difference == pytest.approx(0.15)


def test_a_single_class_is_compared_too() -> None:
    one = np.ones((2, 1), np.float32)
    found = compare(("int8", one), ("fp32", one), np.zeros(2, np.int64), ClassMapping(("Only",)), ["a", "b"])
    assert (found.agreement, found.sure_images) == (1.0, 2)


@pytest.mark.parametrize(
    ("subject", "reference", "reason"),
    [
        (np.zeros((2, 3), np.float32), np.zeros((2, 2), np.float32), "int8 gives logits"),
        (np.full((2, 3), np.nan, np.float32), np.zeros((2, 3), np.float32), "not finite"),
        (np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32), "empty"),
    ],
)
def test_logits_that_cannot_be_compared_are_refused(
    subject: NDArray[np.float32], reference: NDArray[np.float32], reason: str
) -> None:
    with pytest.raises(InputError, match=reason):
        compared(subject, reference, [0] * len(subject))


def test_int8_limits_hold_to_the_image_and_every_breach_is_gathered() -> None:
    images = 600
    labels = [number % 3 for number in range(images)]
    reference = logits_for(labels)
    for wrong, breaches in ((3, []), (4, ["top-1 falls by 0.67% to 99.33%", "sure"])):
        answers = [(label + 1) % 3 if number < wrong else label for number, label in enumerate(labels)]
        limits = ParityLimits(int8_sure_agreement=0.995)
        texts = [breach.text for breach in find_breaches(compared(logits_for(answers), reference, labels), limits)]
        assert len(texts) == len(breaches)
        assert all(part in text for part, text in zip(breaches, texts, strict=True))
    everything_wrong = compared(logits_for([(label + 1) % 3 for label in labels]), reference, labels)
    assert len(find_breaches(everything_wrong, ParityLimits())) == 3  # top-5 of 3 classes cannot fall


def test_int8_that_is_better_than_fp32_breaches_no_accuracy_limit() -> None:
    found = compared(logits_for([0] * 100), logits_for([0] * 99 + [1]), [0] * 100)
    assert find_breaches(found, ParityLimits(int8_sure_agreement=0.9)) == []


def test_fp32_is_held_to_a_share_of_the_largest_logit() -> None:
    reference = logits_for([0, 1], margin=20)
    for off, breaches in ((0.019, 0), (0.021, 1)):
        subject = reference + np.float32(off) * np.array([[1, 0, 0], [0, 0, 0]], np.float32)
        found = compared(subject, reference, [0, 1], name="fp32")
        assert len(find_breaches(found, ParityLimits(fp32_logit_difference=1e-3))) == breaches


def shade_model(sign: float):
    """A model whose logits are the picture's mean blue, green and red."""

    def predict(batch_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.asarray(sign * batch_nhwc.mean(axis=(1, 2)) / 255, np.float32)

    return predict


@pytest.fixture
def dataset(labelled_folder) -> Dataset:
    return open_dataset(labelled_folder)


def test_every_model_sees_the_same_images_and_is_compared_with_the_one_before(dataset: Dataset) -> None:
    models = {"pytorch": shade_model(1), "fp32": shade_model(1), "int8": shade_model(-1)}
    report = check_parity(models, dataset, dataset.classes, Preprocess(size_wh=(16, 16)), ParityLimits(), "shades")
    assert [(found.subject, found.against) for found in report.comparisons] == [("fp32", "pytorch"), ("int8", "fp32")]
    assert report.comparison("fp32").agreement == 1
    assert report.comparison("int8").agreement < 0.5
    assert (report.failed("fp32"), report.failed("int8"), report.passed) == (False, True, False)
    assert report.data == dataset.record()
    names = {sample.name for sample in dataset.samples}
    assert {flip.image for flip in report.comparison("int8").flips} <= names


def test_classes_that_the_model_does_not_know_are_named(dataset: Dataset) -> None:
    with pytest.raises(InputError, match="does not know"):
        check_parity(
            {"pytorch": shade_model(1), "fp32": shade_model(1)},
            dataset,
            ClassMapping(("Other One", "Other Two", "Other Three")),
            Preprocess(size_wh=(16, 16)),
            ParityLimits(),
            "shades",
        )


def test_an_empty_data_set_is_refused(dataset: Dataset) -> None:
    with pytest.raises(InputError, match="empty"):
        check_parity(
            {"pytorch": shade_model(1), "fp32": shade_model(1)},
            dataset.select([]),
            dataset.classes,
            Preprocess(size_wh=(16, 16)),
            ParityLimits(),
            "shades",
        )


@pytest.fixture
def report(dataset: Dataset) -> ParityReport:
    models = {"pytorch": shade_model(1), "fp32": shade_model(1), "int8": shade_model(-1)}
    return check_parity(models, dataset, dataset.classes, Preprocess(size_wh=(16, 16)), ParityLimits(), "shades")


def test_the_report_reads_back_from_its_json(report: ParityReport) -> None:
    assert ParityReport.model_validate_json(report.to_json()) == report


def test_the_markdown_gives_verdict_table_and_every_flip(report: ParityReport) -> None:
    text = report.to_markdown()
    assert text.startswith("# Parity of shades\n\nMissed on 18 images of blobs:\n")
    for breach in report.breaches:
        assert f"- {breach.text}" in text
    for flip in report.comparison("int8").flips:
        assert f"| {flip.image} |" in text
    cells = {line.count("|") for line in text.splitlines() if line.startswith("| ")}
    assert cells == {9, 5}  # the table of models and the table of flips


def test_the_error_is_one_line_with_every_figure_and_exit_code_1(report: ParityReport) -> None:
    error = ParityError(report, "left in out: nothing")
    assert error.exit_code == 1
    assert "\n" not in str(error)
    assert all(breach.text in str(error) for breach in report.breaches)


def test_a_class_name_with_a_bar_does_not_break_the_markdown_table() -> None:
    classes = ClassMapping(("Alpha | One", "Beta", "Gamma"))
    found = compare(("int8", logits_for([1])), ("fp32", logits_for([0])), np.array([0]), classes, ["a|b.jpg"])
    assert found.flips[0].label == "Alpha | One"
    data = Dataset("cars", classes, (Sample("a|b.jpg", 0, ImageFile(Path("a.jpg"))),)).record()
    report = ParityReport(name="m", data=data, comparisons=(found,), limits=ParityLimits(), breaches=())
    assert "| a\\|b.jpg | Alpha \\| One |" in report.to_markdown()


def test_the_manifest_keeps_the_figures_of_a_comparison() -> None:
    found = compared(logits_for([0, 2]), logits_for([0, 1]), [0, 1])
    record = found.record(images=2)
    assert isinstance(record, ParityRecord)
    assert (record.against, record.images, record.agreement, record.top1_reference) == ("fp32", 2, 0.5, 1.0)
