"""Calibration: the ranges of a network's activations, collected one batch at a time.

ONNX Runtime's entropy and percentile calibrators keep all activations of all images in memory. Here each tensor has one
histogram. When a larger value arrives, its range doubles and pairs of neighboring bins merge, so no count is lost and
memory does not grow with the number of images. One pass serves all calibration methods.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from twincar_edge.cores import usable_cores
from twincar_edge.errors import InputError
from twincar_edge.export.graph import INPUT
from twincar_edge.export.int8.config import Calibration

Range = tuple[float, float]
BINS = 8192  # over both signs; a tensor without negative values uses at least a quarter of them
LEVELS = 256
_ENTROPY_BINS = 1024
_SMALLEST_SHARE = 1e-9  # of a bin that rounding leaves empty, because the logarithm of zero is infinite
_SHRINKS = np.linspace(1.0, 0.2, 81)


class ActivationRanges:
    """The observed values of each float tensor of a graph, and the range by each calibration method."""

    def __init__(self, histograms: dict[str, Histogram]) -> None:
        """Take the histograms from `observe`, by tensor name."""
        self._histograms = histograms

    def of(self, method: Calibration, percentile: float = 99.999) -> dict[str, Range]:
        """Return, by tensor name, the lowest and highest value of the 8-bit range.

        "minmax" covers all observed values. "percentile" excludes values beyond that percentile on either side. "mse"
        shrinks the range to the smallest squared error of rounding and clipping. "entropy" clips where the quantized
        distribution loses the least information (Migacz, "8-bit Inference with TensorRT", GTC 2017).
        """
        choose: dict[str, Callable[[Histogram], Range]] = {
            "minmax": lambda seen: (seen.lowest, seen.highest),
            "percentile": lambda seen: _percentile(seen, percentile),
            "mse": _least_squares,
            "entropy": _least_divergence,
        }
        return {name: choose[method](seen) for name, seen in self._histograms.items()}


class Histogram:
    """A histogram of values over a range that doubles as needed."""

    def __init__(self) -> None:
        """Make an empty histogram."""
        self.lowest = 0.0  # a quantized range always includes zero
        self.highest = 0.0
        self.limit = 0.0  # the bins span -limit to limit
        self.counts = np.zeros(BINS, np.int64)

    def add(self, values: NDArray[np.float32]) -> None:
        """Count the values of an array of any shape.

        Raises:
            InputError: a value is not finite.
        """
        low, high = float(values.min()), float(values.max())
        if not np.isfinite((low, high)).all():
            raise InputError("cannot calibrate INT8: the network has activations that are not finite")
        self.lowest, self.highest = min(self.lowest, low), max(self.highest, high)
        peak = max(abs(low), abs(high))
        if self.limit == 0:
            if peak == 0:
                return
            self.limit = float(2 ** np.ceil(np.log2(peak)))
        while peak > self.limit:
            self._double()
        places = ((values.ravel() + self.limit) * (BINS / 2 / self.limit)).astype(np.int32)
        self.counts += np.bincount(np.minimum(places, BINS - 1), minlength=BINS)

    @property
    def centers(self) -> NDArray[np.float64]:
        """Return the centers of the bins, float64 [BINS]."""
        return np.asarray((np.arange(BINS) + 0.5) * (2 * self.limit / BINS) - self.limit, np.float64)

    def _double(self) -> None:
        merged = self.counts.reshape(-1, 2).sum(axis=1)
        self.counts = np.zeros(BINS, np.int64)
        self.counts[BINS // 4 : 3 * BINS // 4] = merged
        self.limit *= 2


def observe(graph: onnx.ModelProto, batches: Iterable[NDArray[np.uint8]]) -> ActivationRanges:
    """Run batches through a graph and return the ranges of its float tensors.

    Args:
        graph: a graph with the shapes of its tensors, from `quantize.prepare`.
        batches: preprocessed images, uint8 [N, H, W, 3]; only one batch is kept in memory.

    Raises:
        InputError: there are no batches, or an activation is not finite.
    """
    names = _float_tensors(graph)
    session = _all_outputs(graph, names)
    histograms = {name: Histogram() for name in names}
    empty = True
    for batch_nhwc in batches:
        empty = False
        for name, values in zip(names, session.run(names, {INPUT: batch_nhwc}), strict=True):
            histograms[name].add(values)
    if empty:
        raise InputError("INT8 calibration needs training images, but there are none")
    return ActivationRanges(histograms)


def _float_tensors(graph: onnx.ModelProto) -> list[str]:
    """Return the names of all float outputs of nodes."""
    outputs = {name for node in graph.graph.node for name in node.output}
    infos = (*graph.graph.value_info, *graph.graph.output)
    floats = {info.name for info in infos if info.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    return sorted(outputs & floats)


def _all_outputs(graph: onnx.ModelProto, names: list[str]) -> onnxruntime.InferenceSession:
    """Open a session that has all named tensors as outputs."""
    opened = onnx.ModelProto()
    opened.CopyFrom(graph)
    known = {output.name for output in opened.graph.output}
    opened.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = usable_cores()
    # Fusion would remove tensors whose ranges the quantizer needs.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(opened.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _percentile(seen: Histogram, percentile: float) -> Range:
    total = np.cumsum(seen.counts)
    if seen.limit == 0:
        return 0.0, 0.0
    width = 2 * seen.limit / BINS
    share = 1 - percentile / 100
    low = int(np.searchsorted(total, share * total[-1], side="right"))
    high = int(np.searchsorted(total, (1 - share) * total[-1], side="left"))
    # The outer edges of these bins, but within the observed values; the range includes zero.
    lowest = max(seen.lowest, low * width - seen.limit)
    highest = min(seen.highest, (high + 1) * width - seen.limit)
    return min(0.0, lowest), max(0.0, highest)


def _least_squares(seen: Histogram) -> Range:
    """Return the shrunk range with the smallest sum of squared errors; both ends shrink by the same factor."""
    if seen.highest == seen.lowest:
        return seen.lowest, seen.highest
    used = seen.counts > 0
    values, counts = seen.centers[used], seen.counts[used]

    def error(shrink: float) -> float:
        low, high = seen.lowest * shrink, seen.highest * shrink
        step = (high - low) / (LEVELS - 1)
        rounded = np.clip(np.round((values - low) / step), 0, LEVELS - 1) * step + low
        return float(counts @ (rounded - values) ** 2)

    best = min(_SHRINKS, key=error)
    return float(seen.lowest * best), float(seen.highest * best)


def _least_divergence(seen: Histogram) -> Range:
    """Return the range clipped at the magnitude with the smallest Kullback-Leibler divergence."""
    if seen.limit == 0:
        return seen.lowest, seen.highest
    halves = seen.counts[: BINS // 2][::-1] + seen.counts[BINS // 2 :]
    magnitudes = halves.reshape(_ENTROPY_BINS, -1).sum(axis=1).astype(np.float64)
    magnitudes[0] = 0  # the zeros of ReLU are exact in any range, and would dominate the divergence
    levels = LEVELS // 2 if seen.lowest < 0 < seen.highest else LEVELS
    ends = range(levels, _ENTROPY_BINS + 1, 8)
    best = min(ends, key=lambda end: _divergence(magnitudes, end, levels), default=_ENTROPY_BINS)
    limit = best * seen.limit / _ENTROPY_BINS
    return max(seen.lowest, -limit), min(seen.highest, limit)


def _divergence(magnitudes: NDArray[np.float64], end: int, levels: int) -> float:
    """Return KL(P || Q) of a histogram clipped at bin `end` (P) and the same quantized to `levels` (Q)."""
    clipped = magnitudes[:end].copy()
    present = clipped > 0
    if not present.any():
        return float("inf")
    level_of = np.arange(end) * levels // end
    sums = np.bincount(level_of, weights=clipped, minlength=levels)
    filled = np.bincount(level_of, weights=present, minlength=levels)
    rounded = np.where(present, (sums / np.maximum(filled, 1))[level_of], 0)
    clipped[end - 1] += magnitudes[end:].sum()  # larger values are clipped to the last bin
    p, q = clipped / clipped.sum(), np.maximum(rounded / rounded.sum(), _SMALLEST_SHARE)
    used = p > 0
    return float((p[used] * np.log(p[used] / q[used])).sum())
