"""Makes an INT8 graph from an FP32 one, with given settings or by a search for settings within the limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from twincar_edge.dataset_logits import dataset_logits, labels_for
from twincar_edge.datasets import Dataset, Split
from twincar_edge.export.data import calibration_batches, calibration_samples
from twincar_edge.export.int8.activations import observe
from twincar_edge.export.int8.config import Int8Config, Int8Search
from twincar_edge.export.int8.quantize import prepare, quantize
from twincar_edge.export.int8.report import SearchReport
from twincar_edge.export.int8.search import PREFIXES, Clock, Logits, Score, search
from twincar_edge.export.parity.compare import Answers, compare, find_breaches
from twincar_edge.export.parity.comparison import Comparison
from twincar_edge.export.parity.report import ParityLimits
from twincar_edge.export.trial_session import TrialSession
from twincar_edge.labels import ClassMapping
from twincar_edge.preprocess import Preprocess
from twincar_edge.progress import StageProgress

HARM_IMAGES = 32  # training images for measuring the harm of single layers


@dataclass(frozen=True)
class Reference:
    """The FP32 model that INT8 is made from and compared with.

    Attributes:
        graph: its ONNX graph.
        preprocess: its preprocessing.
        classes: the names of its outputs.
        logits: its logits for the validation images, float32 [N, classes].
        temperature: divides the logits before softmax.
    """

    graph: onnx.ModelProto
    preprocess: Preprocess
    classes: ClassMapping
    logits: NDArray[np.float32]
    temperature: float


@dataclass(frozen=True)
class Int8Graph:
    """An INT8 graph with its settings, its number of calibration images, and the report of a search."""

    graph: onnx.ModelProto
    config: Int8Config
    images: int
    report: SearchReport | None


def make_int8(
    reference: Reference,
    choices: Int8Config | Int8Search,
    split: Split,
    limits: ParityLimits,
    trial: TrialSession,
    progress: StageProgress,
) -> Int8Graph:
    """Quantize a graph, calibrated on training images; a search compares its candidates on validation images.

    The result may exceed the limits, which parity checks later: if no candidate is within them, the closest one is
    returned.

    Raises:
        InputError: there are no training images, the target is unknown, or the settings are invalid.
        ModelError: nothing in the graph can be quantized, or a candidate cannot be opened.
    """
    prepared = prepare(reference.graph)
    chosen = calibration_samples(split.train, choices.calibration_images)
    ranges = observe(
        prepared,
        calibration_batches(chosen, reference.preprocess, lambda *done: progress("calibrating INT8", *done)),
    )
    if isinstance(choices, Int8Config):
        graph = quantize(prepared, ranges.of(choices.calibration, choices.percentile), choices)
        return Int8Graph(graph, choices, len(chosen), None)
    score, clock, logits = _measurements(reference, split.validation, chosen, trial)
    found = search(
        prepared,
        ranges,
        choices.presets(),
        choices.methods,
        () if "float_layers" in choices.changes else PREFIXES,
        score,
        lambda comparison: [breach.text for breach in find_breaches(comparison, limits)],
        clock,
        logits,
        lambda what, done, total: progress(f"INT8: {what}", done, total),
    )
    return Int8Graph(found.graph, found.config, len(chosen), found.report)


def _measurements(
    reference: Reference, validation: Dataset, training: Dataset, trial: TrialSession
) -> tuple[Score, Clock, Logits]:
    """Return the functions that a search measures candidates with: parity, latency, and logits of training images."""
    labels = labels_for(validation, reference.classes)
    images = [sample.name for sample in validation.samples]
    against = Answers("fp32", reference.logits, reference.temperature)
    few = training.select(sample.name for sample in training.samples[:HARM_IMAGES])

    def score(graph: onnx.ModelProto, config: Int8Config) -> Comparison:
        session = trial.open(graph, "int8", config.record(1))
        found = dataset_logits(session.run, validation, reference.preprocess)
        return compare(Answers("int8", found, reference.temperature), against, labels, reference.classes, images)

    def clock(graphs: Mapping[str, tuple[onnx.ModelProto, Int8Config]]) -> dict[str, float]:
        sessions = {name: trial.open(graph, "int8", config.record(1)) for name, (graph, config) in graphs.items()}
        return trial.latencies_ms({"fp32": trial.open(reference.graph, "fp32"), **sessions})

    def logits(graph: onnx.ModelProto, config: Int8Config | None) -> NDArray[np.float32]:
        session = trial.open(graph, "fp32") if config is None else trial.open(graph, "int8", config.record(1))
        return dataset_logits(session.run, few, reference.preprocess)

    return score, clock, logits
