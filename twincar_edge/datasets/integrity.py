"""Checks every image once before training or measuring, and drops unusable ones."""

from __future__ import annotations

import hashlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from twincar_edge.cores import usable_cores
from twincar_edge.csv_lines import csv_line
from twincar_edge.datasets.dataset import Dataset, Sample
from twincar_edge.files import write_text
from twincar_edge.images import ImageError, ImageProblem
from twincar_edge.progress import Progress

IntegrityProblem = ImageProblem | Literal["duplicate", "conflicting labels"]


@dataclass(frozen=True)
class Finding:
    """One dropped image: its name, the kind of problem, and one line of detail."""

    name: str
    problem: IntegrityProblem
    detail: str


@dataclass(frozen=True)
class IntegrityReport:
    """The result of the integrity pass: the number of checked images, and one finding per dropped image."""

    dataset: str
    checked: int
    findings: tuple[Finding, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Return the number of dropped images per problem, most frequent first."""
        return dict(Counter(finding.problem for finding in self.findings).most_common())

    def to_csv(self) -> str:
        """Return the findings as CSV text with the columns name, problem, detail."""
        rows = [(finding.name, finding.problem, finding.detail) for finding in self.findings]
        return "".join(map(csv_line, [("name", "problem", "detail"), *rows]))

    def write_csv(self, path: Path) -> None:
        """Write `to_csv` to a file.

        Raises:
            InputError: it cannot be written.
        """
        write_text(path, self.to_csv())


def check_integrity(
    dataset: Dataset, progress: Progress | None = None, *, decode: bool = True
) -> tuple[Dataset, IntegrityReport]:
    """Read and decode every image once; return the usable ones as a data set, and a report.

    Dropped images are missing, unreadable, empty, truncated, too large or not images, or their box lies outside them.
    Of duplicates, images with the same bytes and box, the first by name is kept. If their labels differ, all are
    dropped, since no label can be trusted.

    Args:
        dataset: the images to check.
        progress: called with (images done, total images) after each image, on the caller's thread.
        decode: False if all images are known to decode, so that only their bytes are compared.
    """
    digests: dict[str, list[Sample]] = {}
    findings: dict[str, Finding] = {}
    # OpenCV releases the interpreter while it decodes, so threads are enough.
    pool = ThreadPoolExecutor(min(8, usable_cores()), "integrity")
    try:
        looks = pool.map(partial(_look_at, decode=decode), dataset.samples)
        for done, (sample, look) in enumerate(zip(dataset.samples, looks, strict=True), start=1):
            if isinstance(look, Finding):
                findings[sample.name] = look
            else:
                digests.setdefault(look, []).append(sample)
            if progress is not None:
                progress(done, len(dataset))
    finally:
        pool.shutdown(cancel_futures=True)  # do not check the remaining images after an interrupt
    for same in digests.values():
        for finding in _judge_duplicates(dataset, same):
            findings[finding.name] = finding
    kept = dataset.select(sample.name for sample in dataset.samples if sample.name not in findings)
    ordered = tuple(findings[sample.name] for sample in dataset.samples if sample.name in findings)
    return kept, IntegrityReport(dataset.name, len(dataset), ordered)


def _look_at(sample: Sample, decode: bool) -> str | Finding:
    """Return a digest of the bytes and the box, or a finding."""
    try:
        data = sample.source.read_bytes()
        if decode:
            sample.decode(data)
    except ImageError as error:
        return Finding(sample.name, error.problem, str(error))
    return hashlib.sha256(data).hexdigest() + str(sample.box_xyxy)


def _judge_duplicates(dataset: Dataset, same: list[Sample]) -> list[Finding]:
    if len(same) == 1:
        return []
    ordered = sorted(same, key=lambda sample: sample.name)
    if len({sample.label for sample in same}) == 1:
        return [Finding(sample.name, "duplicate", f"the same bytes as {ordered[0].name}") for sample in ordered[1:]]
    seen = ", ".join(f"{sample.name} is {dataset.classes[sample.label]}" for sample in ordered[:4])
    return [Finding(sample.name, "conflicting labels", f"the same bytes: {seen}") for sample in ordered]
