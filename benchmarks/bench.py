"""Runs a benchmark: opens each row in its own process, times all rows in interleaved rounds, and measures accuracy."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from twincar_edge.benchmarks.config import PEERS, BenchmarkConfig, RowSpec
from twincar_edge.benchmarks.gpu import gpus
from twincar_edge.benchmarks.matrix import manifest_of, rows_of
from twincar_edge.benchmarks.report import OK, BenchmarkReport, Paced, Ratio, Row, Start, Timing
from twincar_edge.benchmarks.worker_client import WorkerClient, launch
from twincar_edge.bundled import default_checkpoint
from twincar_edge.dataset_logits import dataset_logits, labels_for
from twincar_edge.datasets import Dataset
from twincar_edge.errors import InputError, TwincarError
from twincar_edge.files import sha256
from twincar_edge.machine import installed_versions, this_machine
from twincar_edge.manifest import Manifest
from twincar_edge.metrics import topk_accuracy
from twincar_edge.progress import StageProgress
from twincar_edge.runtime.inference.providers import (
    ORT_WHEELS,
    PROVIDERS,
    explain_auto,
    load_onnxruntime,
    usable_providers,
)
from twincar_edge.runtime.timing import Sample, Turns

# The packages that affect latency and answers.
PACKAGES = (*ORT_WHEELS, "onnxruntime-ep-openvino", "numpy", "opencv-python")
PEER_PACKAGES = ("torch", "torchvision", "pillow", "openvino")
TIMED_IMAGES = 16  # timed in rotation; more would only use memory
SYNTHETIC_SIZE_WH = (520, 400)  # the size of a car in the image of a gate camera
SYNTHETIC_SEED = 0

Launch = Callable[[RowSpec, Sequence[NDArray[np.uint8]], float], WorkerClient]
"""Starts the worker of a row. Takes the row, the images to time it on, and the timeout of calls in seconds."""


@dataclass
class _Entry:
    """A row during the measurement."""

    spec: RowSpec
    manifest: Manifest | None
    client: WorkerClient | None = None
    ep: str | None = None
    threads: int | None = None
    start: Start | None = None
    rounds: list[tuple[Sample, ...]] = field(default_factory=list)
    paced: Paced | None = None
    nodes: dict[str, int] | None = None
    accuracy: tuple[float, float] | None = None
    peak_mb: float | None = None
    gpu_mb: float | None = None
    status: str = OK

    @property
    def measured(self) -> bool:
        """Return whether there are any measurements."""
        return bool(self.rounds) or self.paced is not None

    def ask(self, name: str, *arguments: object, timeout_s: float | None = None) -> object:
        """Call the row's worker. On failure, set the row's status and return None."""
        if self.status != OK or self.client is None:
            return None
        try:
            return self.client.call(name, *arguments, timeout_s=timeout_s)
        except TwincarError as error:
            self.fail(error)
            return None

    def fail(self, error: TwincarError) -> None:
        """Set the row's status to the error, without the folder of the model: reports may be published."""
        file = self.spec.model
        self.status = str(error) if file is None else str(error).replace(str(file), file.name)

    def row(self, first: _Entry) -> Row:
        """Return the row, with ratios to `first`."""
        spec, file = self.spec, self.spec.model
        checkpoint = default_checkpoint() if spec.peer is not None and file is None and self.manifest else None
        samples = [sample for samples in self.rounds for sample in samples]
        return Row(
            model=self.manifest.name if self.manifest else PEERS[spec.peer or ""].title,
            file=file.name if file else "",
            peer=spec.peer,
            sha256=sha256(file) if file else None,
            weights=sha256(checkpoint) if checkpoint else self.manifest and self.manifest.training.checkpoint_sha256,
            size_mb=(path.stat().st_size / 1e6 if (path := file or checkpoint) else None),
            precision=self.manifest.precision if self.manifest and file else "fp32",
            ep_asked=spec.ep,
            ep=self.ep,
            nodes=self.nodes,
            threads=self.threads or spec.threads,
            batch=spec.batch,
            spinning=spec.spinning,
            top1=self.accuracy and self.accuracy[0],
            top5=self.accuracy and self.accuracy[1],
            timing=Timing.of(samples, spec.batch) if samples else None,
            paced=self.paced,
            times_first=_ratio(first, self, lambda sample: sample.total_ms),
            times_first_infer=_ratio(first, self, lambda sample: sample.infer_ms),
            start=self.start,
            peak_mb=self.peak_mb,
            gpu_mb=self.gpu_mb,
            status=self.status,
        )


def run(config: BenchmarkConfig, progress: StageProgress | None = None, launch: Launch = launch) -> BenchmarkReport:
    """Measure all models on all providers, with all batch sizes and thread counts.

    A row that cannot be measured has the reason as its status; the other rows are measured. Ctrl-C stops measuring: the
    report contains the completed rounds and is marked as interrupted.

    Args:
        config: what to measure.
        progress: called with (stage, done, total); the stages are "opening", "timing", "pace" and "accuracy".
        launch: starts the worker of a row, by default in its own process.

    Raises:
        InputError: the file of a requested precision is missing, the labels do not match a model, an image is unusable,
            or no row could be measured (with `strict_ep`: one row could not).
        ModelError: a file is not an exported model.
        MissingExtraError: ONNX Runtime is not installed.
        KeyboardInterrupt: Ctrl-C before the first measurement.
    """
    report = progress or _ignore
    load_onnxruntime()  # raises here if it is missing, instead of failing all rows
    entries = [_Entry(spec, manifest_of(spec)) for spec in rows_of(config)]
    labels = _labels(entries, config.dataset)
    images_bgr = _images(config.dataset)
    interrupted = False
    with contextlib.ExitStack() as stack:
        try:
            for done, entry in enumerate(entries):
                report("opening", done, len(entries))
                entry.client = launch(entry.spec, images_bgr, config.timeout_s)
                stack.callback(entry.client.close)
                _open(entry, config)
            _time(entries, config, report)
            _inspect(entries)
            if config.dataset is not None:
                _measure_accuracy(entries, config.dataset, labels, report)
        except KeyboardInterrupt:
            interrupted = True
            if not any(entry.measured for entry in entries):
                raise
    if not any(entry.measured for entry in entries):
        raise InputError(f"no row could be measured: {entries[0].status}")
    usable = usable_providers()
    return BenchmarkReport(
        created=datetime.now(UTC),
        machine=this_machine(),
        gpus=gpus(),
        versions=installed_versions((*PACKAGES, *(PEER_PACKAGES if config.peers else ()))),
        images=_describe(config.dataset),
        data=config.dataset and config.dataset.record(),
        warmup=config.schedule.warmup,
        rounds=config.schedule.rounds,
        per_round=config.schedule.per_round,
        auto=explain_auto(),
        interrupted=interrupted,
        not_run=tuple(_obstacle(name) for name in PROVIDERS if name not in usable),
        rows=_with_top5_change([entry.row(entries[0]) for entry in entries]),
    )


def _labels(entries: list[_Entry], dataset: Dataset | None) -> dict[tuple[str, ...], NDArray[np.int64]]:
    """Match the labels with each model's classes, which raises errors before the long measurement."""
    if dataset is None:
        return {}
    if len(dataset) == 0:
        raise InputError(f"the data set {dataset.name} is empty")
    return {
        entry.manifest.classes: labels_for(dataset, entry.manifest.class_mapping)
        for entry in entries
        if entry.manifest is not None
    }


def _open(entry: _Entry, config: BenchmarkConfig) -> None:
    found = entry.ask("open")
    if isinstance(found, tuple):
        entry.ep, entry.threads, entry.start = found
    elif config.strict_ep and entry.spec.peer is None:
        raise InputError(f"{entry.spec.ep}: {entry.status}")


def _time(entries: list[_Entry], config: BenchmarkConfig, report: StageProgress) -> None:
    """Time the rows in interleaved rounds, never two at once; at a camera's pace, one row after the other."""
    opened = {str(number): entry for number, entry in enumerate(entries) if entry.status == OK}
    if config.pace is not None:
        for done, entry in enumerate(opened.values()):
            report("pace", done, len(opened))
            found = entry.ask("pace", config.pace, timeout_s=config.pace.duration_s + config.timeout_s)
            entry.paced = found if isinstance(found, Paced) else None
        return

    def turn(name: str, runs: int, keep: bool) -> tuple[Sample, ...]:
        client = opened[name].client
        assert client is not None
        samples: tuple[Sample, ...] = client.call("turn", runs, keep)
        return samples

    turns = Turns(turn)
    try:
        turns.take(opened, config.schedule, lambda *done: report("timing", *done))
    finally:  # keep the completed rounds after Ctrl-C
        for name, entry in opened.items():
            if name in turns.failures:
                entry.fail(turns.failures[name])
            else:
                entry.rounds = turns.rounds.get(name, [])


def _inspect(entries: list[_Entry]) -> None:
    """Query memory, then node counts (which use memory), after timing, which both would disturb."""
    for entry in entries:
        found = entry.ask("memory")
        if isinstance(found, tuple):
            entry.peak_mb, entry.gpu_mb = found
        if entry.spec.peer is None:
            nodes = entry.ask("nodes")
            entry.nodes = nodes if isinstance(nodes, dict) else None


def _measure_accuracy(
    entries: list[_Entry], dataset: Dataset, labels: dict[tuple[str, ...], NDArray[np.int64]], report: StageProgress
) -> None:
    """Measure accuracy on each provider, since the answers of one file may differ between providers.

    Batch size and threads do not change answers, so rows that differ only in these share the result.
    """
    known: dict[tuple[object, ...], tuple[float, float]] = {}
    for entry in entries:
        if not entry.measured or entry.manifest is None or entry.client is None:
            continue
        subject = (entry.spec.model, entry.ep, entry.spec.peer)
        if subject not in known:
            client = entry.client
            try:
                logits = dataset_logits(
                    lambda batch_nhwc, client=client: client.call("logits", batch_nhwc),  # type: ignore[misc]
                    dataset,
                    entry.manifest.preprocess,
                    progress=lambda *done: report("accuracy", *done),
                )
            except InputError:
                raise  # an unusable image affects all rows
            except TwincarError as error:
                entry.fail(error)
                continue
            truth = labels[entry.manifest.classes]
            known[subject] = topk_accuracy(logits, truth, 1), topk_accuracy(logits, truth, 5)
        entry.accuracy = known[subject]


def _ratio(first: _Entry, other: _Entry, of: Callable[[Sample], float]) -> Ratio | None:
    """Return the speedup of `other` over `first` per image; each round is compared with the same round of `first`."""
    if not first.measured or not other.measured:
        return None
    pairs = zip(first.rounds, other.rounds, strict=False)  # after Ctrl-C, one may have one round more
    per_image = [
        (
            float(np.median([of(sample) for sample in ours])) / first.spec.batch,
            float(np.median([of(sample) for sample in theirs])) / other.spec.batch,
        )
        for ours, theirs in pairs
    ]
    ratios = [ours / theirs for ours, theirs in per_image if theirs > 0]
    return Ratio.of(ratios) if ratios else None


def _with_top5_change(rows: list[Row]) -> tuple[Row, ...]:
    """Return the rows with the difference of top-5 to the first FP32 row of the same weights."""
    reference: dict[str, float] = {}
    for row in rows:
        if row.precision == "fp32" and row.weights is not None and row.top5 is not None:
            reference.setdefault(row.weights, row.top5)
    return tuple(
        row
        if row.top5 is None or row.weights not in reference
        else row.model_copy(update={"top5_change": row.top5 - reference[row.weights]})
        for row in rows
    )


def _obstacle(name: str) -> str:
    obstacle = PROVIDERS[name].obstacle(load_onnxruntime(), name)
    return f"{name}: {obstacle}"


def _images(dataset: Dataset | None) -> list[NDArray[np.uint8]]:
    if dataset is not None:
        return [sample.read() for sample in dataset.samples[:TIMED_IMAGES]]
    from twincar_edge.synthetic import twin_car_images

    return [drawn.image_bgr for drawn in twin_car_images(TIMED_IMAGES, SYNTHETIC_SEED, SYNTHETIC_SIZE_WH)]


def _describe(dataset: Dataset | None) -> str:
    if dataset is None:
        return f"{TIMED_IMAGES} synthetic cars of {SYNTHETIC_SIZE_WH[0]}x{SYNTHETIC_SIZE_WH[1]} pixels"
    timed = min(TIMED_IMAGES, len(dataset))
    return f"{dataset.name}: {timed} images for timing, {len(dataset)} for top-1 and top-5"


def _ignore(stage: str, done: int, total: int) -> None:
    """Ignore progress."""
