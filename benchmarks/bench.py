"""Opens every model on every provider that was asked for, times them in turns, and counts right answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from twincar_edge.benchmarks.report import OK, BenchmarkReport, Row, Timing
from twincar_edge.bundled import default_model
from twincar_edge.datasets import Dataset
from twincar_edge.errors import InputError, ModelError, TwincarError, nearest
from twincar_edge.files import sha256
from twincar_edge.inference import dataset_logits, labels_for
from twincar_edge.machine import installed_versions, this_machine
from twincar_edge.manifest import Manifest, Precision, read_manifest
from twincar_edge.metrics import softmax, topk_accuracy
from twincar_edge.preprocess import prepare_batch
from twincar_edge.runtime.classifier import answer
from twincar_edge.runtime.providers import EP_CHOICES, ORT_WHEELS, load_onnxruntime, usable_providers
from twincar_edge.runtime.session import ModelSession, open_session
from twincar_edge.runtime.timing import Clock, Schedule, Subject, measure

PACKAGES = (*ORT_WHEELS, "onnxruntime-ep-openvino", "numpy", "opencv-python")  # those that decide speed and answers
PRECISIONS: tuple[str, ...] = get_args(Precision)
TIMED_IMAGES = 16  # run in turns; more would only cost memory
SYNTHETIC_SIZE_WH = (520, 400)  # a car as a gate camera shows it
SYNTHETIC_SEED = 0

Progress = Callable[[str, int, int], None]
"""Called with a stage ("timing", "accuracy"), what is done of it, and of how much."""


@dataclass(frozen=True)
class BenchmarkConfig:
    """What to measure.

    Attributes:
        models: .onnx files; none takes the bundled model.
        precisions: for each model, its files in these precisions, which lie side by side as `car.fp32.onnx` and
            `car.int8.onnx`; none takes the files as they are given.
        eps: execution providers by short name; none takes all that this machine offers.
        batch: images in one inference.
        threads: threads within one inference; None for all usable cores.
        spinning: let idle threads spin; a camera's loop does not.
        schedule: how often.
        dataset: labelled images for accuracy and timing; None times drawn cars, and measures no accuracy.

    Raises:
        InputError: a provider or precision that does not exist, or a batch or thread count below 1.
    """

    models: tuple[Path, ...] = ()
    precisions: tuple[str, ...] = ()
    eps: tuple[str, ...] = ()
    batch: int = 1
    threads: int | None = None
    spinning: bool = False
    schedule: Schedule = field(default_factory=Schedule)
    dataset: Dataset | None = None

    def __post_init__(self) -> None:
        """Check what can be checked before anything is opened."""
        for ep in self.eps:
            if ep not in EP_CHOICES:
                raise InputError(f"no execution provider {ep!r}: {nearest(ep, EP_CHOICES)}")
        for precision in self.precisions:
            if precision not in PRECISIONS:
                raise InputError(f"no precision {precision!r}: {nearest(precision, PRECISIONS)}")
        if self.batch < 1 or (self.threads is not None and self.threads < 1):
            raise InputError(f"batch and threads must be 1 or more, found {self.batch} and {self.threads}")


@dataclass
class _Entry:
    """A row in the making."""

    model: Path
    manifest: Manifest
    ep_asked: str
    session: ModelSession | None = None
    timing: Timing | None = None
    top1: float | None = None
    top5: float | None = None
    status: str = OK

    def row(self, batch: int) -> Row:
        return Row(
            model=self.manifest.name,
            file=self.model.name,
            sha256=sha256(self.model),
            size_mb=self.model.stat().st_size / 1e6,
            precision=self.manifest.precision,
            ep_asked=self.ep_asked,
            ep=self.session and self.session.ep,
            threads=self.session and self.session.threads,
            batch=batch,
            top1=self.top1,
            top5=self.top5,
            timing=self.timing,
            status=self.status,
        )


def run(config: BenchmarkConfig, progress: Progress | None = None, clock: Clock = time.perf_counter) -> BenchmarkReport:
    """Measure every model on every provider.

    A provider that this machine lacks, or that fails, is a row that says why.

    Args:
        config: what to measure.
        progress: called with a stage ("timing", "accuracy"), what is done of it, and of how much.
        clock: gives the time in seconds.

    Raises:
        InputError: a file of a wanted precision is missing, the labels do not match a model, an image is unusable, or
            no row at all could be measured.
        ModelError: a file is not a model that this project exported.
        MissingExtraError: no ONNX Runtime is installed.
    """
    tell = progress or _nobody
    load_onnxruntime()  # without it nothing can be measured: an error, not a row
    eps = tuple(dict.fromkeys(config.eps or usable_providers()))
    entries = [_Entry(model, read_manifest(model), ep) for model in _model_files(config) for ep in eps]
    labels = _labels(entries, config.dataset)
    for entry in entries:
        try:
            entry.session = open_session(
                entry.model, ep=entry.ep_asked, threads=config.threads, spinning=config.spinning
            )
        except TwincarError as error:
            entry.status = str(error)
    _time(entries, config, clock, lambda *done: tell("timing", *done))
    if all(entry.timing is None for entry in entries):
        raise InputError(f"nothing could be measured: {entries[0].status}")
    if config.dataset is not None:
        _count(entries, config.dataset, labels, tell)
    return BenchmarkReport(
        created=datetime.now(UTC),
        machine=this_machine(),
        versions=installed_versions(PACKAGES),
        images=_describe(config.dataset),
        data=config.dataset and config.dataset.record(),
        warmup=config.schedule.warmup,
        rounds=config.schedule.rounds,
        per_round=config.schedule.per_round,
        spinning=config.spinning,
        rows=tuple(entry.row(config.batch) for entry in entries),
    )


def _model_files(config: BenchmarkConfig) -> tuple[Path, ...]:
    """Return the files to measure: those given, or in each wanted precision the one that lies beside them."""
    models = config.models or (default_model(),)
    if not config.precisions:
        return tuple(dict.fromkeys(models))
    return tuple(dict.fromkeys(_in_precision(model, wanted) for model in models for wanted in config.precisions))


def _in_precision(model: Path, wanted: str) -> Path:
    own = read_manifest(model).precision
    if own == wanted:
        return model
    sibling = model.with_name(model.name.removesuffix(f".{own}.onnx") + f".{wanted}.onnx")
    if not model.name.endswith(f".{own}.onnx") or not sibling.is_file():
        raise InputError(
            f"{model} is {own}, and there is no {wanted} file of it: expected NAME.{wanted}.onnx beside NAME.{own}.onnx"
        )
    return sibling


def _labels(entries: list[_Entry], dataset: Dataset | None) -> dict[Path, NDArray[np.int64]]:
    """Match the labels with each model before any time is spent on one."""
    if dataset is None:
        return {}
    if len(dataset) == 0:
        raise InputError(f"the data set {dataset.name} is empty")
    return {entry.model: labels_for(dataset, entry.manifest.class_mapping) for entry in entries}


def _time(entries: list[_Entry], config: BenchmarkConfig, clock: Clock, progress: Callable[[int, int], None]) -> None:
    images = _images(config.dataset)
    opened = {f"{number}": entry for number, entry in enumerate(entries) if entry.session is not None}
    subjects = {name: _subject(entry.session, images, config.batch) for name, entry in opened.items() if entry.session}
    for name, result in measure(subjects, config.schedule, clock, progress).items():
        if isinstance(result, TwincarError):
            opened[name].status = str(result)
        else:
            opened[name].timing = Timing.of(result, config.batch)


def _count(entries: list[_Entry], dataset: Dataset, labels: dict[Path, NDArray[np.int64]], tell: Progress) -> None:
    """Count right answers, on each provider anew: the same file may answer differently there."""
    for entry in entries:
        if entry.session is None or entry.timing is None:
            continue
        try:
            logits = dataset_logits(
                entry.session.run, dataset, entry.manifest.preprocess, progress=lambda *done: tell("accuracy", *done)
            )
        except ModelError as error:
            entry.status = str(error)
            continue
        truth = labels[entry.model]
        entry.top1, entry.top5 = topk_accuracy(logits, truth, 1), topk_accuracy(logits, truth, 5)


def _subject(session: ModelSession, images: Sequence[NDArray[np.uint8]], batch: int) -> Subject:
    """Return the three steps from images in memory to answers, as the camera's loop takes them."""
    manifest = session.manifest

    def pre(number: int) -> NDArray[np.uint8]:
        first = number * batch
        return prepare_batch([images[(first + i) % len(images)] for i in range(batch)], manifest.preprocess)

    def post(logits: NDArray[np.float32]) -> None:
        for probabilities in softmax(logits, manifest.temperature):
            answer(probabilities, manifest.classes, manifest.reject_below)

    return Subject(pre, session.run, post)


def _images(dataset: Dataset | None) -> list[NDArray[np.uint8]]:
    if dataset is not None:
        return [sample.read() for sample in dataset.samples[:TIMED_IMAGES]]
    from twincar_edge.synthetic import twin_car_images

    return [drawn.image_bgr for drawn in twin_car_images(TIMED_IMAGES, SYNTHETIC_SEED, SYNTHETIC_SIZE_WH)]


def _describe(dataset: Dataset | None) -> str:
    if dataset is None:
        return f"{TIMED_IMAGES} drawn cars of {SYNTHETIC_SIZE_WH[0]}x{SYNTHETIC_SIZE_WH[1]} pixels"
    timed = min(TIMED_IMAGES, len(dataset))
    return f"{dataset.name}: {timed} images timed, {len(dataset)} counted for top-1 and top-5"


def _nobody(stage: str, done: int, total: int) -> None:
    """Listen to no progress."""
