"""What the camera loop makes of clips whose truth is known: vehicles found, and what a visit gains over a single crop.

    python -m twincar_edge.benchmarks.experiments visits CLIP… [--data DATA --images DIR] -o visits.json

Of the passes that were found exactly once, the visit's answer is set against those of its own crops: the mean over all
of them, the first, and the best, as the loop judges it. `--data` has the pictures that the passes show, and says what
the model makes of these themselves: the ceiling, where driving through the scene costs nothing.
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

from twincar_edge.benchmarks.experiments.crop_by_crop import WatchedClip, watch_clip
from twincar_edge.benchmarks.experiments.levels import THRESHOLDS, ThresholdFigures, level_points, levels_table
from twincar_edge.benchmarks.experiments.options import PATH, model_option, output_option, publish, threads_option
from twincar_edge.benchmarks.report import bootstrap_interval
from twincar_edge.bundled import default_model
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


class Passes(Record):
    """What became of passes: found exactly once, in several visits, or in none; `extra` visits show no pass.

    `verdicts` counts the answers of those found once: "right" in full, "coarser" (true as far as it goes), "wrong
    name", "unknown".
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
    """The top-1 of an answer that rests on one picture, and by how much the visits' is above it.

    `low` and `high` are the 95% interval of `gain`, by the bootstrap over visits.
    """

    top1: Share
    gain: float
    low: float
    high: float

    @classmethod
    def of(cls, right: NDArray[np.generic], visits_right: NDArray[np.bool_]) -> Single:
        """Compare, visit by visit: where the one picture's answer is right, or how often, and where the visit's is."""
        share = right.astype(np.float64)
        gains = visits_right - share
        low, high = bootstrap_interval(gains.tolist(), np.mean)
        return cls(top1=float(share.mean()), gain=float(gains.mean()), low=low, high=high)


class VisitsReport(Record):
    """A whole measurement.

    `top1` is that of the visits of passes found once, whatever their probability. `singles`: "mean crop" gives each
    visit the share of its own crops that are right, so that all visits count alike, "first crop", "best crop", and
    "picture" where the pictures are given. `pooled_top1` is the share of all crops that are right, of long visits more.
    `levels` has the points of the "visits", and of the "pictures" of the same passes; `threshold` is the model's own.
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
    threshold: Share
    levels: dict[str, tuple[ThresholdFigures, ...]]

    def to_markdown(self) -> str:
        """Return what was found as Markdown."""
        total = self.total
        verdicts = ", ".join(f"{count} {verdict}" for verdict, count in total.verdicts.items())
        lines = [
            f"{self.model}; clips: {len(self.clips)}; {total.once} of {total.passes} passes found exactly once "
            f"({total.once / total.passes:.2%}), {total.doubled} doubled, {total.missed} missed, {total.extra} extra",
            f"answers of those found once: {verdicts}",
            "",
            "| answer of | top-1 | visit's top-1 above it, points (95% interval) |",
            "|---|---|---|",
            f"| visit | {self.top1:.2%} | |",
        ]
        for name, single in self.singles.items():
            gain = f"{100 * single.gain:+.2f} ({100 * single.low:+.2f} to {100 * single.high:+.2f})"
            lines.append(f"| {name} | {single.top1:.2%} | {gain} |")
        lines.append(f"| any crop, all {self.crops} pooled | {self.pooled_top1:.2%} | |")
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
    """Watch clips whose truth is known.

    Args:
        clips: each with the file of its truth.
        model: an exported model; None for the bundled one.
        dataset: the pictures that the passes show, by the names in the truths; None leaves them out.
        threads: threads within one inference; None leaves one usable core to the clip.
        progress: called with each clip after it was watched.

    Raises:
        InputError: a clip or truth cannot be read, a truth has a class that the model does not know or shows a picture
            that the data set lacks, or no pass of all was found exactly once.
        ModelError: the model cannot be used.
    """
    classifier = Classifier(
        open_session(model or default_model(), threads=threads or inference_threads(), spinning=False)
    )
    truths = [_read_truth(truth, classifier, dataset) for _, truth in clips]  # a mistake must not show an hour later
    watched = []
    for (clip, _), passes in zip(clips, truths, strict=True):
        watched.append(watch_clip(clip, passes, classifier))
        if progress is not None:
            progress(watched[-1])
    found = [one for each in watched for one in each.found]
    if not found:
        raise InputError("no pass was found exactly once: there are no answers to compare")
    labels = np.array([classifier.manifest.classes.index(one.truth.name) for one in found], np.int64)
    rows = {"visits": np.stack([one.probabilities for one in found])}
    crops = [one.crops == label for one, label in zip(found, labels, strict=True)]
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
        threshold=threshold,
        levels={
            name: level_points(probabilities, labels, classifier.hierarchy, (*THRESHOLDS, threshold))
            for name, probabilities in rows.items()
        },
    )


def _read_truth(path: Path, classifier: Classifier, dataset: Dataset | None) -> list[Pass]:
    passes = read_truth(path, classifier.manifest.class_mapping)
    stranger = next((one.name for one in passes if one.name not in classifier.manifest.classes), None)
    if stranger is not None:
        raise InputError(f"{path} has a {stranger!r}, which {classifier.manifest.name} does not know: is it its truth?")
    if dataset is not None:
        unnamed = next((number for number, one in enumerate(passes) if one.image is None), None)
        if unnamed is not None:
            raise InputError(f"{path} does not say which picture pass {unnamed} shows (filename): leave out the data")
        dataset.select(dict.fromkeys(one.image or "" for one in passes))  # for what it raises
    return passes


def _of_pictures(classifier: Classifier, dataset: Dataset, shown: Sequence[str]) -> NDArray[np.float32]:
    """Return what the model says of pictures that are named, one of them perhaps twice, float32 [N, classes]."""
    names = list(dict.fromkeys(shown))
    manifest = classifier.manifest
    logits = dataset_logits(classifier.session.run, dataset.select(names), manifest.preprocess)
    return softmax(logits, manifest.temperature)[[names.index(name) for name in shown]]


@click.command("visits")
@click.argument("clips", nargs=-1, required=True, type=PATH)
@click.option(
    "--truth",
    "truths",
    multiple=True,
    type=PATH,
    help="What drives through a clip; once for each clip, in their order.  [default: the .json beside each clip]",
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
    """Watch CLIPS whose truth is known: vehicles found, and what a visit's answer gains over a single crop's.

    --data names the pictures that the passes show.
    """
    truths = truths or tuple(clip.with_suffix(".json") for clip in clips)
    if len(truths) != len(clips):
        raise InputError(f"{len(clips)} clips and {len(truths)} truths: give one for each clip")
    report = measure_visits(
        list(zip(clips, truths, strict=True)),
        model,
        None if data is None else data.open(),
        threads,
        lambda one: click.echo(f"{one.name}: {one.score.summary()}", err=True),
    )
    publish(report, report.to_markdown(), output)
