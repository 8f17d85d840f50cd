"""Measures the camera loop on clips with ground truth: vehicles found, and a visit's accuracy compared with one crop's.

    python -m twincar_edge.benchmarks.experiments visits CLIP… [--data DATA --images DIR] -o visits.json

For passes found exactly once, compares the visit's answer with those of its crops: the mean over all crops, the first
one, and the best one by the loop's criteria. `--data` has the original images of the passes; the accuracy on these is
an upper limit, without the losses of the scene.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import click
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from twincar_edge.benchmarks.experiments.crop_by_crop import FoundVisit, WatchedClip, watch_clip
from twincar_edge.benchmarks.experiments.levels import THRESHOLDS, ThresholdFigures, level_points, levels_table
from twincar_edge.benchmarks.experiments.options import PATH, model_option, output_option, publish, threads_option
from twincar_edge.benchmarks.report import bootstrap_interval
from twincar_edge.bundled import default_model
from twincar_edge.cli.commands import Command
from twincar_edge.cli.options import data_options
from twincar_edge.cores import inference_threads
from twincar_edge.dataset_logits import dataset_logits
from twincar_edge.datasets import Dataset, OpenOptions
from twincar_edge.errors import InputError
from twincar_edge.machine import Machine, this_machine
from twincar_edge.metrics import softmax
from twincar_edge.records import Record, Share
from twincar_edge.runtime.inference.classifier import Classifier
from twincar_edge.runtime.inference.session import open_session
from twincar_edge.runtime.truth import Pass, Score, read_truth

SCHEMA_VERSION: Literal[1] = 1
CUT_WEIGHTS = (1.0, 0.3, 0.1, 0.03, 0.0)
# The least area of a cut crop over that of the visit's largest, and what that is called.
_SHOWN = ((0.75, "three quarters or more"), (0.5, "half or more"), (0.25, "a quarter or more"), (0.0, "less"))


class Passes(Record):
    """Counts of passes found exactly once, in several visits (`doubled`) or not at all; `extra` visits have no pass.

    `verdicts` counts the answers to passes found once: "right" (full name), "coarser" (true, but not a full name),
    "wrong name", "unknown".
    """

    passes: int
    once: int
    doubled: int
    missed: int
    extra: int
    verdicts: dict[str, int]

    @classmethod
    def of(cls, scores: Sequence[Score]) -> Passes:
        """Count over clips."""
        results = [result for score in scores for result in score.passes]
        counts = Counter(result.verdict for result in results)
        doubled, missed = counts.pop("doubled", 0), counts.pop("missed", 0)
        return cls(
            passes=len(results),
            once=counts.total(),
            doubled=doubled,
            missed=missed,
            extra=sum(len(score.extra) for score in scores),
            verdicts=dict(sorted(counts.items())),
        )


class Clip(Record):
    """One clip."""

    name: str
    frames: int
    passes: Passes


class Single(Record):
    """The top-1 of answers from a single image, and the gain of the visits' top-1 over it.

    `low` and `high` are the 95% bootstrap interval of `gain`, resampled over visits; None for one visit.
    """

    top1: Share
    gain: float
    low: float | None
    high: float | None

    @classmethod
    def of(cls, right: NDArray[np.generic], visits_right: NDArray[np.bool_]) -> Single:
        """Compare visit by visit: `right` may be the share of a visit's crops that are right."""
        share = right.astype(np.float64)
        gains = visits_right - share
        low, high = bootstrap_interval(gains.tolist(), np.mean) or (None, None)
        return cls(top1=float(share.mean()), gain=float(gains.mean()), low=low, high=high)


class CropsFigures(Record):
    """Crops by how much of the vehicle they show: number, accuracy of each alone, and total weight.

    `shows` is "whole" where the frame's border does not cut the crop; a cut one is sorted by its area over that of the
    visit's largest crop.
    """

    shows: str
    crops: int
    top1: Share
    weight: Share


class VisitsReport(Record):
    """The full measurement.

    `top1` is the accuracy of the visits of passes found once, without a threshold. `singles` has "mean crop" (the mean
    over visits of the share of right crops, so that all visits weigh the same), "first crop", "best crop" and, if the
    images are given, "picture". `pooled_top1` is the share of right crops of all visits, in which long visits weigh
    more. `by_shown` groups the crops by how much of the car they show; `cut_weights` is the top-1 of the visits with
    other weights of crops that the border cuts (`evidence.CUT_WEIGHT`). `levels` has the points of the "visits" and of
    the "pictures" of the same passes. `threshold` is the model's.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    created: datetime
    machine: Machine
    model: str
    model_sha256: str
    clips: tuple[Clip, ...]
    total: Passes
    crops: int
    top1: Share
    pooled_top1: Share
    singles: dict[str, Single]
    by_shown: tuple[CropsFigures, ...] = ()
    cut_weights: dict[str, Share] = Field(default_factory=dict)
    threshold: Share
    levels: dict[str, tuple[ThresholdFigures, ...]]

    def to_markdown(self) -> str:
        """Return the report as Markdown."""
        total = self.total
        verdicts = ", ".join(f"{count} {verdict}" for verdict, count in total.verdicts.items())
        lines = [
            f"{self.model}; clips: {len(self.clips)}; {total.once} of {total.passes} passes found exactly once "
            f"({total.once / total.passes:.2%}), {total.doubled} doubled, {total.missed} missed, {total.extra} extra",
            f"answers to passes found once: {verdicts}",
            "",
            "| answer of | top-1 | gain of the visit over it, points (95% interval) |",
            "|---|---|---|",
            f"| visit | {self.top1:.2%} | |",
        ]
        for name, single in self.singles.items():
            gain = f"{100 * single.gain:+.2f}"
            if single.low is not None and single.high is not None:
                gain += f" ({100 * single.low:+.2f} to {100 * single.high:+.2f})"
            lines.append(f"| {name} | {single.top1:.2%} | {gain} |")
        lines.append(f"| any crop, all {self.crops} pooled | {self.pooled_top1:.2%} | |")
        lines += ["", "| crop shows | crops | right alone | share of the weight |", "|---|---|---|---|"]
        for one in self.by_shown:
            lines.append(f"| {one.shows} | {one.crops} | {one.top1:.2%} | {one.weight:.2%} |")
        lines += ["", "| cut crops count | visit's top-1 |", "|---|---|"]
        lines += [f"| {factor} | {top1:.2%} |" for factor, top1 in self.cut_weights.items()]
        for name, points in self.levels.items():
            lines += ["", f"{name}:", "", levels_table(points, self.threshold)]
        return "\n".join(lines) + "\n"


def measure_visits(
    clips: Sequence[tuple[Path, Path]],
    model: Path | None = None,
    dataset: Dataset | None = None,
    threads: int | None = None,
    progress: Callable[[WatchedClip], None] | None = None,
) -> VisitsReport:
    """Run the loop on clips with ground truth, and score the visits.

    Args:
        clips: each clip with its ground-truth file.
        model: an exported model; None for the bundled one.
        dataset: the original images of the passes, by the names in the ground truth; None omits them.
        threads: threads per inference; None leaves one usable core to decoding.
        progress: called with each clip when it is finished.

    Raises:
        InputError: a clip or ground-truth file cannot be read, a ground truth has a class that the model lacks or an
            image that the data set lacks, or no pass was found exactly once.
        ModelError: the model cannot be used.
    """
    classifier = Classifier(
        open_session(model or default_model(), threads=threads or inference_threads(), spinning=False)
    )
    truths = [_read_truth(truth, classifier, dataset) for _, truth in clips]  # raises errors before the long run
    watched = []
    for (clip, _), passes in zip(clips, truths, strict=True):
        watched.append(watch_clip(clip, passes, classifier))
        if progress is not None:
            progress(watched[-1])
    found = [one for each in watched for one in each.found]
    if not found:
        raise InputError("no pass was found exactly once, so there are no answers to compare")
    labels = np.array([classifier.manifest.classes.index(one.truth.name) for one in found], np.int64)
    rows = {"visits": np.stack([one.probabilities for one in found])}
    crops = [one.labels == label for one, label in zip(found, labels, strict=True)]
    singles = {
        "mean crop": np.array([right.mean() for right in crops]),
        "first crop": np.array([right[0] for right in crops]),
        "best crop": np.array([one.best for one in found]) == labels,
    }
    if dataset is not None:
        rows["pictures"] = _of_pictures(classifier, dataset, [one.truth.image or "" for one in found])
        singles["picture"] = rows["pictures"].argmax(axis=1) == labels
    right = rows["visits"].argmax(axis=1) == labels
    threshold = classifier.manifest.reject_below
    return VisitsReport(
        created=datetime.now(UTC),
        machine=this_machine(),
        model=classifier.manifest.name,
        model_sha256=classifier.session.sha256,
        clips=tuple(Clip(name=one.name, frames=one.frames, passes=Passes.of([one.score])) for one in watched),
        total=Passes.of([one.score for one in watched]),
        crops=sum(map(len, crops)),
        top1=float(right.mean()),
        pooled_top1=float(np.concatenate(crops).mean()),
        singles={name: Single.of(single, right) for name, single in singles.items()},
        by_shown=_by_shown(found, labels),
        cut_weights={
            f"{factor:g}": float((_rows(found, factor).argmax(axis=1) == labels).mean()) for factor in CUT_WEIGHTS
        },
        threshold=threshold,
        levels={
            name: level_points(probabilities, labels, classifier.hierarchy, (*THRESHOLDS, threshold))
            for name, probabilities in rows.items()
        },
    )


def _by_shown(found: Sequence[FoundVisit], labels: NDArray[np.int64]) -> tuple[CropsFigures, ...]:
    """Sort all crops by how much of the vehicle they show; a visit's weights add up to 1."""
    rows: dict[str, list[tuple[bool, float]]] = {}
    for one, label in zip(found, labels.tolist(), strict=True):
        largest, total = max(crop.area_px for crop in one.crops), sum(crop.weight for crop in one.crops)
        for crop in one.crops:
            share = crop.area_px / largest
            shows = next((f"cut, {name}" for least, name in _SHOWN if share >= least), "") if crop.cut else "whole"
            rows.setdefault(shows, []).append((crop.label == label, crop.weight / total))
    return tuple(
        CropsFigures(
            shows=shows,
            crops=len(rows[shows]),
            top1=float(np.mean([right for right, _ in rows[shows]])),
            weight=min(1.0, sum(weight for _, weight in rows[shows]) / len(found)),
        )
        for shows in ("whole", *(f"cut, {name}" for _, name in _SHOWN))
        if shows in rows
    )


def _rows(found: Sequence[FoundVisit], factor: float) -> NDArray[np.float32]:
    return np.stack([one.with_cut_weight(factor) for one in found])


def _read_truth(path: Path, classifier: Classifier, dataset: Dataset | None) -> list[Pass]:
    passes = read_truth(path, classifier.manifest.class_mapping)
    unknown = next((one.name for one in passes if one.name not in classifier.manifest.classes), None)
    if unknown is not None:
        raise InputError(
            f"{path} has the class {unknown!r}, which {classifier.manifest.name} does not know: "
            "check that it belongs to the clip"
        )
    if dataset is not None:
        unnamed = next((number for number, one in enumerate(passes) if one.image is None), None)
        if unnamed is not None:
            raise InputError(f"{path} has no image (filename) for pass {unnamed}: leave out the data")
        dataset.select(dict.fromkeys(one.image or "" for one in passes))  # raises for missing images
    return passes


def _of_pictures(classifier: Classifier, dataset: Dataset, shown: Sequence[str]) -> NDArray[np.float32]:
    """Return the probabilities for the images with these names, which may repeat, float32 [N, classes]."""
    names = list(dict.fromkeys(shown))
    manifest = classifier.manifest
    logits = dataset_logits(classifier.session.run, dataset.select(names), manifest.preprocess)
    return softmax(logits, manifest.temperature)[[names.index(name) for name in shown]]


@click.command("visits", cls=Command)
@click.argument("clips", nargs=-1, required=True, type=PATH)
@click.option(
    "--truth",
    "truths",
    multiple=True,
    type=PATH,
    help="Ground truth of a clip; once for each clip, in their order.  [default: the .json next to each clip]",
)
@data_options(required=False)
@model_option
@threads_option
@output_option
def command(
    clips: tuple[Path, ...],
    truths: tuple[Path, ...],
    data: OpenOptions | None,
    model: Path | None,
    threads: int | None,
    output: Path | None,
) -> None:
    """Run the loop on CLIPS with ground truth; measure vehicles found, and a visit's accuracy compared with a crop's.

    --data has the original images of the passes.
    """
    truths = truths or tuple(clip.with_suffix(".json") for clip in clips)
    if len(truths) != len(clips):
        raise InputError(f"found {len(clips)} clips and {len(truths)} ground-truth files: give one for each clip")
    report = measure_visits(
        list(zip(clips, truths, strict=True)),
        model,
        None if data is None else data.open(),
        threads,
        lambda one: click.echo(f"{one.name}: {one.score.summary()}", err=True),
    )
    publish(report, report.to_markdown(), output)
