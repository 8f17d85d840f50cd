"""The integrity check finds every unusable image, names its problem and drops it."""

from __future__ import annotations

import csv
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

from twincar_edge.datasets import Dataset, Finding, ImageFile, IntegrityReport, Sample, check_integrity, open_dataset
from twincar_edge.images import ImageError
from twincar_edge.labels import ClassMapping

Jpeg = Callable[[int], bytes]


@pytest.fixture
def damaged(labeled_folder: Path, jpeg: Jpeg) -> Path:
    """The labeled folder with images of each kind of problem."""
    images = labeled_folder / "images"
    (images / "000.jpg").unlink()
    (images / "001.jpg").write_bytes(b"")
    (images / "002.jpg").write_bytes(jpeg(2)[:-300])
    (images / "003.jpg").write_bytes(b"<html>404</html>")
    (images / "004.jpg").unlink()
    (images / "004.jpg").mkdir()
    (images / "009.jpg").write_bytes((images / "006.jpg").read_bytes())  # both of class 0
    (images / "012.jpg").write_bytes((images / "006.jpg").read_bytes())
    (images / "010.jpg").write_bytes((images / "011.jpg").read_bytes())  # of classes 1 and 2
    return labeled_folder


def test_each_kind_of_problem_is_found_and_its_images_dropped(damaged: Path) -> None:
    dataset = open_dataset(damaged)
    kept, report = check_integrity(dataset)
    assert {finding.name: finding.problem for finding in report.findings} == {
        "000.jpg": "missing",
        "001.jpg": "empty",
        "002.jpg": "truncated",
        "003.jpg": "not an image",
        "004.jpg": "unreadable",
        "009.jpg": "duplicate",
        "012.jpg": "duplicate",
        "010.jpg": "conflicting labels",
        "011.jpg": "conflicting labels",
    }
    assert (report.checked, len(kept)) == (18, 9)
    assert next(iter(report.counts.values())) == 2
    assert sum(report.counts.values()) == 9
    assert [sample.name for sample in kept.samples] == sorted(
        {sample.name for sample in dataset.samples} - {finding.name for finding in report.findings}
    )
    for sample in kept.samples:
        sample.read()


def test_checking_the_kept_images_again_finds_nothing(damaged: Path) -> None:
    kept, _ = check_integrity(open_dataset(damaged))
    again, report = check_integrity(kept)
    assert report.findings == ()
    assert report.counts == {}
    assert again == kept


def test_findings_name_the_original_of_a_duplicate(damaged: Path) -> None:
    _, report = check_integrity(open_dataset(damaged))
    details = {finding.name: finding.detail for finding in report.findings}
    assert details["012.jpg"] == "the same bytes as 006.jpg"
    assert (
        details["010.jpg"]
        == "the same bytes: 010.jpg is Alpha Two Sedan 2010, 011.jpg is Beta SUV 2011"
        == details["011.jpg"]
    )


def test_the_kept_duplicate_does_not_depend_on_the_order(damaged: Path) -> None:
    dataset = open_dataset(damaged)
    reordered = Dataset(dataset.name, dataset.classes, dataset.samples[::-1])
    kept, _ = check_integrity(dataset)
    kept_reordered, _ = check_integrity(reordered)
    assert kept.digest() == kept_reordered.digest()


def test_two_boxes_in_one_photo_are_not_duplicates(tmp_path: Path, jpeg: Jpeg) -> None:
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        (tmp_path / name).write_bytes(jpeg(0) if name == "a.jpg" else (tmp_path / "a.jpg").read_bytes())
    boxes = {"a.jpg": (0, 0, 20, 20), "b.jpg": (20, 0, 48, 20), "c.jpg": (0, 0, 20, 20)}
    samples = tuple(
        Sample(name, label, ImageFile(tmp_path / name), boxes[name]) for label, name in enumerate(sorted(boxes))
    )
    _, report = check_integrity(Dataset("boxes", ClassMapping(("A", "B", "C")), samples))
    assert {finding.name: finding.problem for finding in report.findings} == {
        "a.jpg": "conflicting labels",
        "c.jpg": "conflicting labels",
    }


def test_a_degenerate_box_is_a_finding(tmp_path: Path, jpeg: Jpeg) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg(0))
    sample = Sample("a.jpg", 0, ImageFile(tmp_path / "a.jpg"), (100, 100, 120, 120))
    kept, report = check_integrity(Dataset("boxes", ClassMapping(("A",)), (sample,)))
    assert report.counts == {"degenerate box": 1}
    assert len(kept) == 0


def test_progress_counts_every_image_in_order_on_the_callers_thread(labeled_folder: Path) -> None:
    calls: list[tuple[int, int, int]] = []
    check_integrity(
        open_dataset(labeled_folder), lambda done, total: calls.append((done, total, threading.get_ident()))
    )
    assert calls == [(done, 18, threading.get_ident()) for done in range(1, 19)]


@dataclass(frozen=True)
class CountedSource:
    """Counts how often images are read."""

    reads: list[int]

    def read_bytes(self) -> bytes:
        self.reads.append(1)
        time.sleep(0.001)  # slow enough for an interrupt to come before the last read, even on a busy machine
        raise ImageError("missing", "not there")


def test_an_interrupt_stops_the_check_before_all_images_are_read() -> None:
    reads: list[int] = []
    samples = tuple(Sample(str(number), 0, CountedSource(reads)) for number in range(5000))

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        check_integrity(Dataset("many", ClassMapping(("A",)), samples), interrupt)
    assert len(reads) < 5000
    assert threading.active_count() == before


def test_the_report_is_written_as_csv(damaged: Path, tmp_path: Path) -> None:
    _, report = check_integrity(open_dataset(damaged))
    report.write_csv(tmp_path / "out" / "integrity.csv")
    with (tmp_path / "out" / "integrity.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["name"], row["problem"]) for row in rows] == [
        (finding.name, finding.problem) for finding in report.findings
    ]


def test_a_file_name_that_looks_like_a_formula_is_escaped_in_the_report() -> None:
    report = IntegrityReport("cars", 1, (Finding("=1.jpg", "missing", "not there"),))
    assert report.to_csv().splitlines()[1] == "'=1.jpg,missing,not there"


def test_an_empty_data_set_has_no_findings() -> None:
    kept, report = check_integrity(Dataset("none", ClassMapping(("A",)), ()))
    assert (len(kept), report.checked, report.findings) == (0, 0, ())


def test_images_of_all_formats_pass(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    samples = []
    for suffix in (".jpg", ".png", ".bmp", ".webp", ".tif"):
        assert cv2.imwrite(str(tmp_path / f"a{suffix}"), image)
        samples.append(Sample(f"a{suffix}", 0, ImageFile(tmp_path / f"a{suffix}")))
    assert check_integrity(Dataset("formats", ClassMapping(("A",)), tuple(samples)))[1].findings == ()
