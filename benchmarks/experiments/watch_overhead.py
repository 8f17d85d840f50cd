"""Measures the overhead of the camera loop on a file, compared with decoding alone and inference alone.

    python -m twincar_edge.benchmarks.experiments watch_overhead CLIP [--model MODEL] -o results.json

Three subjects run in interleaved rounds, so that drift of the machine affects all of them:

- `decode`: the clip's frames are decoded and discarded;
- `infer`: the crops that the loop makes from the clip are preprocessed and classified, in the same batches;
- `watch`: the whole loop, from file to events.

If the loop's stages overlap perfectly, it is as fast as the slower of the first two. That needs a core for each stage:
if one inference uses all cores, the work of all stages adds up. `cpu` is the CPU usage of each subject.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Literal

import click
import numpy as np
from numpy.typing import NDArray

from twincar_edge.benchmarks.experiments.options import PATH, model_option, output_option, publish, threads_option
from twincar_edge.bundled import default_model
from twincar_edge.cli.commands import Command
from twincar_edge.cores import inference_threads
from twincar_edge.errors import InputError
from twincar_edge.machine import Machine, this_machine
from twincar_edge.records import Record
from twincar_edge.runtime.inference.classifier import Classifier, Judgement
from twincar_edge.runtime.inference.session import open_session
from twincar_edge.runtime.sources import open_source
from twincar_edge.runtime.watch import CameraConfig, WatchConfig, watch

SCHEMA_VERSION: Literal[1] = 1

Crops = list[NDArray[np.uint8]]


class Subject(Record):
    """Frames per second, and CPU seconds per elapsed second, of each round."""

    fps: tuple[float, ...]
    cpu: tuple[float, ...]


class Share(Record):
    """The ratio of the loop's frame rate to that of the slower part, over the rounds: median, smallest, largest."""

    median: float
    smallest: float
    largest: float


class WatchOverhead(Record):
    """The full measurement."""

    schema_version: Literal[1] = SCHEMA_VERSION
    created: datetime
    machine: Machine
    clip: str
    frames: int
    crops: int
    batches: int
    model: str
    model_sha256: str
    threads: int
    decode: Subject
    infer: Subject
    watch: Subject
    share: Share

    def summary(self) -> str:
        """Return the results in a few lines."""
        lines = [f"{self.clip}: {self.frames} frames, {self.crops} crops in {self.batches} batches, {self.model}"]
        for name in ("decode", "infer", "watch"):
            subject: Subject = getattr(self, name)
            lines.append(f"{name:<7} {median(subject.fps):8.1f} frames/s  {median(subject.cpu):5.2f} cores busy")
        share = f"{self.share.median:.2f} ({self.share.smallest:.2f} to {self.share.largest:.2f})"
        return "\n".join([*lines, f"watch relative to the slower part: {share}"])


class _Recording(Classifier):
    """A classifier that keeps copies of the crops, batch by batch."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__(classifier.session)
        self.batches: list[Crops] = []

    def judge(self, images_bgr: Sequence[NDArray[np.uint8]]) -> Judgement:
        self.batches.append([image.copy() for image in images_bgr])
        return super().judge(images_bgr)


def measure_overhead(
    clip: Path, model: Path | None = None, rounds: int = 5, threads: int | None = None
) -> WatchOverhead:
    """Measure a clip.

    Args:
        clip: a video file.
        model: an exported model; None for the bundled one.
        rounds: rounds for each subject.
        threads: threads per inference; None leaves one usable core to decoding.

    Raises:
        InputError: the clip cannot be read, or has no vehicles.
        ModelError: the model cannot be used.
    """
    classifier = Classifier(
        open_session(model or default_model(), threads=threads or inference_threads(), spinning=False)
    )
    config = WatchConfig(cameras=(CameraConfig(name="clip", source=str(clip), locate="motion"),))
    recording = _Recording(classifier)
    summary = watch(config, classifier=recording)
    if not recording.batches:
        raise InputError(f"no vehicles found in {clip}, so there are no crops to classify: use another clip")
    subjects: dict[str, Callable[[], object]] = {
        "decode": lambda: _decode(clip),
        "infer": lambda: [classifier.judge(crops) for crops in recording.batches],
        "watch": lambda: watch(config, classifier=classifier),
    }
    fps: dict[str, list[float]] = {name: [] for name in subjects}
    cpu: dict[str, list[float]] = {name: [] for name in subjects}
    for _ in range(rounds):
        for name, run in subjects.items():
            wall_s, busy_s = time.perf_counter(), time.process_time()
            run()
            seconds = time.perf_counter() - wall_s
            fps[name].append(summary.frames / seconds)
            cpu[name].append((time.process_time() - busy_s) / seconds)
    shares = [loop / min(parts) for loop, *parts in zip(fps["watch"], fps["decode"], fps["infer"], strict=True)]
    return WatchOverhead(
        created=datetime.now(UTC),
        machine=this_machine(),
        clip=clip.name,
        frames=summary.frames,
        crops=sum(map(len, recording.batches)),
        batches=len(recording.batches),
        model=classifier.manifest.name,
        model_sha256=classifier.session.sha256,
        threads=classifier.session.threads,
        **{name: Subject(fps=tuple(fps[name]), cpu=tuple(cpu[name])) for name in subjects},
        share=Share(median=median(shares), smallest=min(shares), largest=max(shares)),
    )


def _decode(clip: Path) -> None:
    with open_source(str(clip)) as source:
        for _ in source:
            pass


@click.command("watch_overhead", cls=Command)
@click.argument("clip", type=PATH)
@model_option
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True, help="Rounds for each subject.")
@threads_option
@output_option
def command(clip: Path, model: Path | None, rounds: int, threads: int | None, output: Path | None) -> None:
    """Run the camera loop on CLIP, interleaved with decoding alone and inference alone."""
    report = measure_overhead(clip, model, rounds, threads)
    publish(report, report.summary(), output)
