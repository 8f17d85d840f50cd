"""The computation of parity, on hand-written logits."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from twincar_edge.dataset_logits import run_sides
from twincar_edge.datasets import Dataset, ImageFile, Sample, open_dataset
from twincar_edge.errors import InputError, ModelError
from twincar_edge.export import Comparison, ParityError, ParityLimits, ParityReport, check_parity
from twincar_edge.export.parity.compare import Answers, Side, compare, find_breaches
from twincar_edge.export.parity.files import write_parity
from twincar_edge.export.parity.names import default_pairs, distinct_names, title
from twincar_edge.labels import ClassMapping
from twincar_edge.manifest import ParityRecord
from twincar_edge.preprocess import Preprocess, prepare

CLASSES = ClassMapping(("Alpha One Sedan 2010", "Alpha Two Sedan 2010", "Beta SUV 2011"))


def logits_for(answers: list[int], margin: float = 10.0) -> NDArray[np.float32]:
    return np.eye(3, dtype=np.float32)[answers] * np.float32(margin)


def compared(
    subject: NDArray[np.float32],
    reference: NDArray[np.float32],
    labels: list[int],
    name: str = "int8",
    against: str = "fp32",
    temperature: float = 1.0,
) -> Comparison:
    images = [f"{number}.jpg" for number in range(len(labels))]
    sides = Answers(name, subject, temperature), Answers(against, reference, temperature)
    return compare(*sides, np.array(labels), CLASSES, images)


def test_equal_logits_agree_everywhere_with_no_difference() -> None:
    logits = logits_for([0, 1, 2])
    found = compared(logits, logits.copy(), [0, 1, 1])
    assert (found.agreement, found.sure_images, found.sure_agreement, found.flips) == (1.0, 3, 1.0, ())
    assert found.max_abs_logit_difference == found.mean_abs_logit_difference == 0
    assert found.top1 == found.top1_reference == pytest.approx(2 / 3)


def test_a_flip_has_the_image_its_label_and_both_answers() -> None:
    found = compared(logits_for([0, 2]), logits_for([0, 1]), [0, 1])
    [flip] = found.flips
    assert (flip.image, flip.label, flip.reference, flip.answer) == ("1.jpg", CLASSES[1], CLASSES[1], CLASSES[2])
    assert flip.reference_probability == pytest.approx(1 / (1 + 2 * np.exp(-10)), rel=1e-5)
    assert (found.agreement, found.sure_agreement, found.top1, found.top1_reference) == (0.5, 0.5, 0.5, 1.0)


def test_confident_images_have_a_large_reference_margin() -> None:
    reference = np.array([[3, 0, 0], [1, 0.5, 0]], np.float32)  # margins 0.86 and 0.2
    subject = np.array([[0.1, 0, 0], [0.5, 1, 0]], np.float32)  # low confidence in both, and flips the second
    found = compared(subject, reference, [0, 0])
    assert (found.sure_images, found.sure_agreement, found.agreement) == (1, 1.0, 0.5)


def test_without_confident_images_their_limit_does_not_apply() -> None:
    found = compared(logits_for([0], 0.1), logits_for([0], 0.1), [0])
    assert found.sure_agreement is None
    assert find_breaches(found, ParityLimits(sure_agreement=1.0)) == []


def test_differences_are_absolute_over_all_logits() -> None:
    reference = np.zeros((2, 3), np.float32)
    subject = np.array([[0.3, 0, 0], [0, -0.6, 0]], np.float32)
    found = compared(subject, reference, [0, 1])
    assert found.max_abs_logit_difference == pytest.approx(0.6)
    assert found.mean_abs_logit_difference == pytest.approx(0.15)


def test_models_of_a_single_class_are_compared() -> None:
    one = np.ones((2, 1), np.float32)
    sides = Answers("int8", one), Answers("fp32", one)
    found = compare(*sides, np.zeros(2, np.int64), ClassMapping(("Only",)), ["a", "b"])
    assert (found.agreement, found.sure_images) == (1.0, 2)


@pytest.mark.parametrize(
    ("subject", "reference", "reason"),
    [
        (np.zeros((2, 3), np.float32), np.zeros((2, 2), np.float32), "cannot compare int8 and fp32: their logits"),
        (np.full((2, 3), np.nan, np.float32), np.zeros((2, 3), np.float32), "not finite"),
        (np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32), "empty"),
        (np.zeros((2, 4), np.float32), np.zeros((2, 4), np.float32), "4 logits per image for 3 classes"),
    ],
)
def test_logits_that_cannot_be_compared_are_refused(
    subject: NDArray[np.float32], reference: NDArray[np.float32], reason: str
) -> None:
    with pytest.raises(InputError, match=reason):
        compared(subject, reference, [0] * len(subject))


def test_int8_limits_are_exact_to_one_image_and_all_breaches_are_listed() -> None:
    images = 600
    labels = [number % 3 for number in range(images)]
    reference = logits_for(labels)
    for wrong, breaches in ((3, []), (4, ["top-1 drops by 0.67 points to 99.33% (limit 0.5 points)", "confident"])):
        answers = [(label + 1) % 3 if number < wrong else label for number, label in enumerate(labels)]
        limits = ParityLimits(sure_agreement=0.995)
        texts = [breach.text for breach in find_breaches(compared(logits_for(answers), reference, labels), limits)]
        assert len(texts) == len(breaches)
        assert all(part in text for part, text in zip(breaches, texts, strict=True))
    everything_wrong = compared(logits_for([(label + 1) % 3 for label in labels]), reference, labels)
    assert len(find_breaches(everything_wrong, ParityLimits())) == 3  # top-5 of 3 classes cannot fall


def test_int8_that_is_more_accurate_than_fp32_meets_the_accuracy_limits() -> None:
    found = compared(logits_for([0] * 100), logits_for([0] * 99 + [1]), [0] * 100)
    assert find_breaches(found, ParityLimits(sure_agreement=0.9)) == []


def test_the_fp32_limit_is_relative_to_the_largest_logit() -> None:
    reference = logits_for([0, 1], margin=20)
    for off, breaches in ((0.019, 0), (0.021, 1)):
        subject = reference + np.float32(off) * np.array([[1, 0, 0], [0, 0, 0]], np.float32)
        found = compared(subject, reference, [0, 1], name="fp32")
        assert len(find_breaches(found, ParityLimits(fp32_logit_difference=1e-3))) == breaches


@pytest.mark.parametrize(
    ("subject", "against", "breaches"),
    [
        ("fp32", "pytorch", 1),
        ("fp32", "fp32:before", 1),
        ("fp32@cuda", "fp32", 0),
        ("fp32@cuda", "pytorch", 0),
        ("fp32@cuda", "fp32@cuda", 1),
        ("fp16", "fp32", 0),
        ("int8@openvino", "int8", 0),
        ("fp32", "int8", 0),
    ],
)
def test_a_difference_of_half_a_percent_breaches_only_the_limit_for_fp32_on_one_provider(
    subject: str, against: str, breaches: int
) -> None:
    reference = logits_for([0, 1], margin=20)
    found = compared(reference + np.float32(0.1) * np.eye(2, 3, dtype=np.float32), reference, [0, 1], subject, against)
    assert len(find_breaches(found, ParityLimits())) == breaches


def test_another_provider_has_its_own_limit() -> None:
    reference = logits_for([0, 1], margin=20)
    for off, breaches in ((0.19, 0), (0.21, 1)):
        subject = reference + np.float32(off) * np.eye(2, 3, dtype=np.float32)
        found = compared(subject, reference, [0, 1], "fp32@cuda")
        assert len(find_breaches(found, ParityLimits(provider_logit_difference=1e-2))) == breaches


@pytest.mark.parametrize("name", ["fp16", "int8@openvino", "int8:cars-v2"])
def test_lower_precisions_are_checked_by_accuracy_and_agreement(name: str) -> None:
    labels = [0, 1, 2] * 100
    found = compared(logits_for([1, *labels[1:]]), logits_for(labels), labels, name)
    [breach] = find_breaches(found, ParityLimits())
    assert breach.subject == name
    assert breach.text == f"{title(name)} agrees on 99.67% of the 300 images where FP32 is confident (limit 99.80%)"


def test_flips_are_sorted_by_pair_frequency_then_margin() -> None:
    before = [2, 0, 0, 1, 0, 1]
    after = [0, 1, 1, 2, 1, 2]
    confidence = [9.0, 1.0, 3.0, 2.0, 2.0, 1.0]
    reference = np.concatenate(
        [logits_for([answer], margin) for answer, margin in zip(before, confidence, strict=True)]
    )
    found = compared(logits_for(after), reference, before)
    assert [flip.image for flip in found.flips] == ["2.jpg", "4.jpg", "1.jpg", "3.jpg", "5.jpg", "0.jpg"]
    assert [(pair.reference, pair.answer, pair.images) for pair in found.class_pairs] == [
        (CLASSES[0], CLASSES[1], 3),
        (CLASSES[1], CLASSES[2], 2),
        (CLASSES[2], CLASSES[0], 1),
    ]


def test_a_flip_has_both_margins_at_the_temperature_and_an_outcome() -> None:
    reference, subject = np.array([[2, 1, 0]] * 3, np.float32), np.array([[1, 3, 0]] * 3, np.float32)
    found = compared(subject, reference, [0, 1, 2], temperature=0.5)
    first = found.flips[0]
    e = np.exp
    assert first.reference_margin == pytest.approx((e(4) - e(2)) / (e(4) + e(2) + 1), rel=1e-5)
    assert first.margin == pytest.approx((e(6) - e(2)) / (e(6) + e(2) + 1), rel=1e-5)
    assert first.max_logit_difference == 2
    assert [flip.outcome for flip in found.flips] == ["lost", "gained", "wrong"]


def test_the_temperature_affects_which_images_are_confident() -> None:
    logits = np.array([[1, 0, 0]], np.float32)
    assert compared(logits, logits, [0]).sure_images == 0
    assert compared(logits, logits, [0], temperature=0.3).sure_images == 1


def test_classes_whose_right_answers_changed_are_listed_worst_first() -> None:
    labels = [0, 0, 0, 1, 1, 2, 2]
    reference = [0, 0, 0, 1, 0, 2, 1]
    subject = [1, 2, 0, 1, 1, 1, 2]  # two of class 0 lost, one of class 1 gained, one of class 2 each way
    found = compared(logits_for(subject), logits_for(reference), labels)
    changes = [(change.name, change.images, change.right_reference, change.right) for change in found.class_changes]
    assert changes == [(CLASSES[0], 3, 3, 1), (CLASSES[1], 2, 1, 2)]


def test_paired_figures_are_computed_from_the_answers() -> None:
    labels = [0] * 100
    found = compared(logits_for([1] * 5 + [0] * 95), logits_for([0] * 99 + [1]), labels)  # 5 lost, 1 gained
    assert found.top1 - found.top1_reference == pytest.approx(-0.04)
    low, high = found.top1_difference_interval
    assert low < -0.04 < high
    assert found.top5_difference_interval[0] == -found.top5_difference_interval[1]  # all three classes are in the top 5
    assert found.mcnemar_p == pytest.approx(2 * 7 / 64)  # at most 1 of 6 heads: (1 + 6) / 64, both tails
    assert found.ece_reference < found.ece


def test_equal_logits_have_no_divergence_and_a_cosine_of_one() -> None:
    logits = logits_for([0, 1, 2], 3.0)
    found = compared(logits, logits.copy(), [0, 1, 1])
    assert (found.mean_cosine, found.min_cosine) == pytest.approx((1, 1))
    assert (found.mean_kl_nats, found.max_kl_nats, found.mcnemar_p) == (0, 0, 1)
    assert found.class_changes == found.class_pairs == ()
    assert found.ece == found.ece_reference


# --- Names ----------------------------------------------------------------------------------------------------------


def test_each_model_is_compared_with_the_one_that_it_was_made_from() -> None:
    assert default_pairs(["pytorch", "fp32", "int8", "fp16", "fp32@cuda", "int8@openvino"]) == [
        ("fp32", "pytorch"),
        ("int8", "fp32"),
        ("fp16", "fp32"),
        ("fp32@cuda", "fp32"),
        ("int8@openvino", "int8"),
    ]


@pytest.mark.parametrize("names", [["pytorch", "int8", "fp16"], ["fp32", "int8", "fp16"], ["int8:a", "int8:b"]])
def test_without_a_single_fp32_model_in_between_all_are_compared_with_the_first(names: list[str]) -> None:
    assert default_pairs(names) == [(name, names[0]) for name in names[1:]]


def test_files_of_the_same_precision_get_distinct_names() -> None:
    models = [("fp32", "a"), ("int8", "b@home"), ("int8", "c:d"), ("int8", "c:d")]
    names = distinct_names(models)
    assert names == ["fp32", "int8:b_home", "int8:c_d", "int8:c_d-2"]
    assert title(f"{names[1]}@openvino") == "INT8 (b_home) on OpenVINO"


# --- Over a data set ------------------------------------------------------------------------------------------------

SQUASH = Preprocess(size_wh=(16, 16))


def shade_side(sign: float, preprocess: Preprocess = SQUASH) -> Side:
    """A model whose logits are the picture's mean blue, green and red."""

    def predict(batch_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.asarray(sign * batch_nhwc.mean(axis=(1, 2)) / 255, np.float32)

    return Side(predict, preprocess)


@pytest.fixture
def dataset(labeled_folder: Path) -> Dataset:
    return open_dataset(labeled_folder)


def test_every_model_runs_on_the_same_images_and_is_compared_with_the_one_before(dataset: Dataset) -> None:
    sides = {"pytorch": shade_side(1), "fp32": shade_side(1), "int8": shade_side(-1)}
    report = check_parity(sides, dataset, dataset.classes, ParityLimits(), "shades")
    assert [(found.subject, found.against) for found in report.comparisons] == [("fp32", "pytorch"), ("int8", "fp32")]
    assert report.comparison("fp32").agreement == 1
    assert report.comparison("int8").agreement < 0.5
    assert (report.failed("fp32"), report.failed("int8"), report.passed) == (False, True, False)
    assert report.data == dataset.record()
    names = {sample.name for sample in dataset.samples}
    assert {flip.image for flip in report.comparison("int8").flips} <= names


@pytest.mark.parametrize("change", [{"resize": "center_crop"}, {"interpolation": "cubic"}, {"color": "bgr"}])
def test_a_file_runs_with_its_own_preprocessing_and_differences_are_detected(
    dataset: Dataset, change: dict[str, str]
) -> None:
    other = Preprocess(**{"size_wh": (16, 16), **change})
    sides = {"pytorch": shade_side(1), "fp32": shade_side(1, other)}
    report = check_parity(sides, dataset, dataset.classes, ParityLimits(), "shades")
    assert report.failed("fp32")


def test_models_may_have_different_input_sizes(dataset: Dataset) -> None:
    sides = {"pytorch": shade_side(1), "fp32": shade_side(1, Preprocess(size_wh=(24, 8)))}
    report = check_parity(sides, dataset, dataset.classes, ParityLimits(fp32_logit_difference=0.1), "shades")
    assert report.passed


def test_each_image_is_decoded_once_and_prepared_once_per_preprocessing(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []
    prepared: list[Preprocess] = []
    read = Sample.read

    def counted_read(sample: Sample) -> NDArray[np.uint8]:
        reads.append(sample.name)
        return read(sample)

    def counted_prepare(image_bgr: NDArray[np.uint8], preprocess: Preprocess) -> NDArray[np.uint8]:
        prepared.append(preprocess)
        return prepare(image_bgr, preprocess)

    monkeypatch.setattr(Sample, "read", counted_read)
    monkeypatch.setattr("twincar_edge.dataset_logits.prepare", counted_prepare)
    other = Preprocess(size_wh=(8, 8))
    sides = {"pytorch": shade_side(1), "fp32": shade_side(1), "int8": shade_side(1, other), "fp16": shade_side(1)}
    run_sides(sides, dataset)
    assert sorted(reads) == sorted(sample.name for sample in dataset.samples)
    assert (prepared.count(SQUASH), prepared.count(other)) == (len(dataset), len(dataset))


def test_no_more_than_two_batches_are_in_memory(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    ahead: list[int] = []
    reads: list[str] = []
    read, seen = Sample.read, 0

    def counted(sample: Sample) -> NDArray[np.uint8]:
        reads.append(sample.name)
        return read(sample)

    def predict(batch_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        nonlocal seen
        seen += len(batch_nhwc)
        ahead.append(len(reads) - seen)
        return np.zeros((len(batch_nhwc), 3), np.float32)

    monkeypatch.setattr(Sample, "read", counted)
    done: list[tuple[int, int]] = []
    sides = {"pytorch": Side(predict, SQUASH), "fp32": shade_side(1)}
    logits = run_sides(sides, dataset, lambda *progress: done.append(progress), batch_size=4)
    assert max(ahead) <= 4
    assert done == [(4, 18), (8, 18), (12, 18), (16, 18), (18, 18)]
    images = np.stack([prepare(sample.read(), SQUASH) for sample in dataset.samples])
    assert logits["fp32"] == pytest.approx(shade_side(1).predict(images))


@pytest.mark.parametrize("shape", [(3,), (1, 3), (18, 3, 1)])
def test_a_model_with_output_of_the_wrong_shape_is_named(dataset: Dataset, shape: tuple[int, ...]) -> None:
    wrong = Side(lambda _: np.zeros(shape, np.float32), SQUASH)
    with pytest.raises(ModelError, match=r"int8 returned \[.*\] for 18 images"):
        run_sides({"fp32": shade_side(1), "int8": wrong}, dataset)


def test_a_single_model_is_rejected(dataset: Dataset) -> None:
    with pytest.raises(InputError, match="two or more models, found 1"):
        check_parity({"fp32": shade_side(1)}, dataset, dataset.classes, ParityLimits(), "shades")


def test_models_that_cannot_be_compared_are_refused_after_one_image(dataset: Dataset) -> None:
    images: list[int] = []

    def embed(batch_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        images.append(len(batch_nhwc))
        return np.ones((len(batch_nhwc), 4), np.float32)

    sides = {"fp32": replace(shade_side(1), embed=shade_side(1).predict), "int8": replace(shade_side(1), embed=embed)}
    with pytest.raises(InputError, match=r"int8 and fp32: their embeddings have the shapes \[1, 4\] and \[1, 3\]"):
        check_parity(sides, dataset, dataset.classes, ParityLimits(), "shades")
    assert images == [1]


def test_pairs_can_be_given(dataset: Dataset) -> None:
    sides = {name: shade_side(1) for name in ("pytorch", "fp32", "int8")}
    pairs = [("int8", "pytorch"), ("fp32", "int8")]
    report = check_parity(sides, dataset, dataset.classes, ParityLimits(), "shades", pairs=pairs)
    assert [(found.subject, found.against) for found in report.comparisons] == pairs


def test_a_file_fails_if_it_fails_on_one_provider_and_the_table_shows_which(dataset: Dataset) -> None:
    sides = {"pytorch": shade_side(1), "int8": shade_side(1), "int8@openvino": shade_side(-1)}
    report = check_parity(sides, dataset, dataset.classes, ParityLimits(), "shades")
    assert (report.failed("int8"), report.failed("int8@openvino"), report.failed("fp32")) == (True, True, False)
    assert [(row[0], row[1], row[-1]) for row in report.rows()] == [
        ("PyTorch", "–", "–"),
        ("INT8", "PyTorch", "met"),
        ("INT8 on OpenVINO", "INT8", "not met"),
    ]


def test_classes_unknown_to_the_model_are_an_error(dataset: Dataset) -> None:
    with pytest.raises(InputError, match="does not know"):
        check_parity(
            {"pytorch": shade_side(1), "fp32": shade_side(1)},
            dataset,
            ClassMapping(("Other One", "Other Two", "Other Three")),
            ParityLimits(),
            "shades",
        )


def test_an_empty_data_set_is_refused(dataset: Dataset) -> None:
    with pytest.raises(InputError, match="empty"):
        check_parity(
            {"pytorch": shade_side(1), "fp32": shade_side(1)},
            dataset.select([]),
            dataset.classes,
            ParityLimits(),
            "shades",
        )


@pytest.fixture
def report(dataset: Dataset) -> ParityReport:
    sides = {"pytorch": shade_side(1), "fp32": shade_side(1), "int8": shade_side(-1)}
    return check_parity(sides, dataset, dataset.classes, ParityLimits(), "shades")


# --- The report -----------------------------------------------------------------------------------------------------


def test_the_report_round_trips_through_json(report: ParityReport) -> None:
    assert ParityReport.model_validate_json(report.to_json()) == report


def test_the_markdown_has_the_verdict_the_tables_and_every_flip(report: ParityReport) -> None:
    text = report.to_markdown()
    assert text.startswith("# Parity of shades\n\nLimits not met on 18 images of blobs:\n")
    for breach in report.breaches:
        assert f"- {breach.text}" in text
    for flip in report.comparison("int8").flips:
        assert f"| {flip.image} |" in text
    cells = {line.count("|") for line in text.splitlines() if line.startswith("| ")}
    assert cells == {9, 5, 8, 4, 6}  # tables of models, figures, flips, pairs of classes, and classes


def test_the_markdown_has_every_figure_with_its_interval_and_meaning(report: ParityReport) -> None:
    text = report.to_markdown()
    [line] = [line for line in text.splitlines() if line.startswith("| Top-1 change")]
    found = report.comparison("int8")
    low, high = found.top1_difference_interval
    change = found.top1 - found.top1_reference
    assert f"| {100 * change:+.2f} ({100 * low:+.2f} to {100 * high:+.2f}) |" in line
    assert "| Metric | FP32 against PyTorch | INT8 against FP32 | Meaning |" in text
    for figure in (
        "McNemar's p",
        "Agreement where confident",
        "Logit difference, max",
        "Logit cosine",
        "KL",
        "Calibration",
    ):
        assert f"\n| {figure}" in text
    assert text.index("INT8 agrees with FP32 on") < text.index("| Model |") < text.index("## Metrics")


def test_a_report_of_equal_models_says_that_nothing_changed(dataset: Dataset) -> None:
    sides = {"pytorch": shade_side(1), "fp32": shade_side(1)}
    text = check_parity(sides, dataset, dataset.classes, ParityLimits(), "shades").to_markdown()
    assert text.startswith("# Parity of shades\n\nAll limits are met on 18 images of blobs.\n")
    assert text.endswith("## Changed answers: FP32 against PyTorch\n\nNone of 18.\n")


def test_the_report_is_written_as_json_markdown_and_one_plot(report: ParityReport, tmp_path: Path) -> None:
    paths = write_parity(report, tmp_path / "out")
    assert [path.name for path in paths] == ["parity.json", "parity.md", "parity.png"]
    assert ParityReport.model_validate_json(paths[0].read_text()) == report
    assert paths[1].read_text() == report.to_markdown()
    width, height = struct.unpack(">II", paths[2].read_bytes()[16:24])
    assert width > 1200 and height > 800  # two rows, one for each comparison
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [path.name for path in paths]


def test_every_image_has_a_point_in_the_plot(report: ParityReport) -> None:
    for found in report.comparisons:
        assert len(found.reference_margins) == len(found.max_logit_differences) == report.data.images
        assert max(found.max_logit_differences) == pytest.approx(found.max_abs_logit_difference, rel=1e-3)


def test_the_parity_error_is_one_line_with_every_breach_and_exit_code_1(report: ParityReport) -> None:
    error = ParityError(report, "left in out: nothing")
    assert error.exit_code == 1
    assert "\n" not in str(error)
    assert all(breach.text in str(error) for breach in report.breaches)


def test_a_class_name_with_a_bar_does_not_break_the_markdown_table() -> None:
    classes = ClassMapping(("Alpha | One", "Beta", "Gamma"))
    sides = Answers("int8", logits_for([1])), Answers("fp32", logits_for([0]))
    found = compare(*sides, np.array([0]), classes, ["a|b.jpg"])
    assert found.flips[0].label == "Alpha | One"
    data = Dataset("cars", classes, (Sample("a|b.jpg", 0, ImageFile(Path("a.jpg"))),)).record()
    report = ParityReport(name="m", data=data, comparisons=(found,), limits=ParityLimits(), breaches=())
    assert "| a\\|b.jpg | Alpha \\| One |" in report.to_markdown()


def test_a_comparison_gives_the_record_for_the_manifest() -> None:
    found = compared(logits_for([0, 2]), logits_for([0, 1]), [0, 1])
    record = found.record(images=2)
    assert isinstance(record, ParityRecord)
    assert (record.against, record.images, record.agreement, record.top1_reference) == ("fp32", 2, 0.5, 1.0)
