"""The search for an INT8 file within the limits: tries presets first, then keeps more layers in float.

Calibration runs once, so a candidate costs about a second of quantization and one pass over the validation images. Each
candidate is measured in the same kind of session as a deployed file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from twincar_edge.export.int8.activations import ActivationRanges
from twincar_edge.export.int8.config import Calibration, Int8Config
from twincar_edge.export.int8.quantize import quantize, quantize_layer, quantized_layers
from twincar_edge.export.int8.report import SearchReport, SearchRow
from twincar_edge.export.parity.comparison import Comparison
from twincar_edge.progress import StageProgress

SAME_SPEED = 1.1  # latencies within a factor of 1.1 count as equal: measurement noise is as large
PREFIXES = (3, 6)  # float layers from the input on to try if the presets fail; early layers have few weights
LARGEST_FLOAT_SHARE = 0.5  # of the layers; with more, the file would no longer be an INT8 file

Score = Callable[[onnx.ModelProto, Int8Config], Comparison]
"""Runs a graph on the validation images, as when deployed, and compares it with FP32."""
Judge = Callable[[Comparison], Sequence[str]]
"""Returns descriptions of the limits that a comparison does not meet."""
Clock = Callable[[Mapping[str, tuple[onnx.ModelProto, Int8Config]]], Mapping[str, float]]
"""Returns the median latency at batch 1, in ms, by name, and that of FP32 as "fp32", in interleaved rounds."""
Logits = Callable[[onnx.ModelProto, Int8Config | None], NDArray[np.float32]]
"""Runs a graph (FP32 if the config is None) on some training images: float32 [N, classes]."""


@dataclass(frozen=True)
class Found:
    """The result of a search: settings and graph of the best candidate, which may have failed, and the report."""

    config: Int8Config
    graph: onnx.ModelProto
    report: SearchReport


def search(
    prepared: onnx.ModelProto,
    ranges: ActivationRanges,
    presets: Sequence[Int8Config],
    methods: Sequence[Calibration],
    prefixes: Sequence[int],
    score: Score,
    judge: Judge,
    clock: Clock,
    logits: Logits,
    progress: StageProgress,
) -> Found:
    """Find the fastest INT8 version of a graph within the limits.

    Tries each preset with each calibration method. Of the passing candidates whose latency is within a factor of
    `SAME_SPEED` of the fastest, the preferred preset wins, then the highest agreement.

    If no candidate passes, more layers stay in float: first from the input on, because later layers cannot correct
    rounding errors there. If that is not enough, each layer of the closest candidate alone is converted to INT8 to
    measure its effect on the logits, and the most harmful layers are kept in float, one more at a time, until a
    candidate passes. Fewer INT8 layers are slower, so the first passing candidate is the fastest.

    Args:
        prepared: the FP32 graph from `quantize.prepare`.
        ranges: its activation ranges on training images.
        presets: the settings to start with, in order of preference.
        methods: the calibration methods to try with each.
        prefixes: numbers of float layers from the input on, to try in this order if no preset passes.
        score: compares a candidate with FP32.
        judge: returns the limits that a comparison does not meet.
        clock: measures latencies.
        logits: runs a graph on some training images.
        progress: called with (candidate or stage, done, total).

    Raises:
        InputError: a preset contains weights that the graph does not have.
        ModelError: nothing in the graph can be quantized, or a candidate cannot be opened.
    """
    candidates = _Candidates(prepared, ranges, score, judge)
    configs = [preset.model_copy(update={"calibration": method}) for preset in presets for method in methods]
    candidates.add_all(configs, progress)
    for layers in prefixes:
        if not candidates.passing():
            longer = [config for config in configs if config.float_layers < layers]
            candidates.add_all([config.model_copy(update={"float_layers": layers}) for config in longer], progress)
    harm: dict[str, float] = {}
    if not candidates.passing():
        start = max(candidates.configs, key=candidates.closeness)
        harm = _harm(prepared, ranges, candidates.configs[start], logits, progress)
        _keep_in_float(candidates, candidates.configs[start], harm, progress)
    return _finish(candidates, presets, clock, harm)


class _Candidates:
    """The candidates so far, by name."""

    def __init__(self, prepared: onnx.ModelProto, ranges: ActivationRanges, score: Score, judge: Judge) -> None:
        self._prepared, self._ranges, self._score, self._judge = prepared, ranges, score, judge
        self.configs: dict[str, Int8Config] = {}
        self.rows: dict[str, SearchRow] = {}

    def add(self, config: Int8Config) -> SearchRow:
        name = _name(config)
        self.configs[name] = config
        graph = self.graph(name)
        found = self._score(graph, config)
        self.rows[name] = SearchRow(
            name=name,
            choices=config.model_dump(mode="json", exclude={"calibration_images"}),
            size_bytes=graph.ByteSize(),
            top1=found.top1,
            top5=found.top5,
            top1_drop=found.top1_reference - found.top1,
            top5_drop=found.top5_reference - found.top5,
            agreement=found.agreement,
            sure_agreement=found.sure_agreement,
            mean_abs_logit_difference=found.mean_abs_logit_difference,
            missed=tuple(self._judge(found)),
        )
        return self.rows[name]

    def graph(self, name: str) -> onnx.ModelProto:
        """Return a candidate's graph. It is made on each call: dozens of large graphs would fill the memory."""
        config = self.configs[name]
        return quantize(self._prepared, self._ranges.of(config.calibration, config.percentile), config)

    def add_all(self, configs: Sequence[Int8Config], progress: StageProgress) -> None:
        for number, config in enumerate(configs):
            progress(_name(config), number, len(configs))
            self.add(config)
            progress(_name(config), number + 1, len(configs))

    def passing(self) -> list[str]:
        return [name for name, row in self.rows.items() if row.passed]

    def closeness(self, name: str) -> tuple[float, ...]:
        """Return a sort key, larger for better candidates."""
        row = self.rows[name]
        sure = 1.0 if row.sure_agreement is None else row.sure_agreement
        return (-len(row.missed), sure, row.agreement, -row.mean_abs_logit_difference)


def _harm(
    prepared: onnx.ModelProto, ranges: ActivationRanges, config: Int8Config, logits: Logits, progress: StageProgress
) -> dict[str, float]:
    """Return for each layer the mean squared change of the logits when only it is INT8, in descending order."""
    reference = logits(prepared, None).astype(np.float64)
    layers = quantized_layers(prepared, config)
    chosen = ranges.of(config.calibration, config.percentile)
    harm = {}
    for number, layer in enumerate(layers):
        progress("measuring the harm of each layer", number, len(layers))
        found = logits(quantize_layer(prepared, chosen, config, layer), config)
        harm[layer] = float(np.square(found - reference).mean())
    return dict(sorted(harm.items(), key=lambda entry: -entry[1]))


def _keep_in_float(
    candidates: _Candidates, config: Int8Config, harm: dict[str, float], progress: StageProgress
) -> None:
    """Keep the most harmful layers in float, one more at a time, until a candidate passes or too few are INT8."""
    most = int(len(harm) * LARGEST_FLOAT_SHARE)
    for count in range(1, most + 1):
        progress(f"{count} more layers in float", count - 1, most)
        kept = (*config.float_nodes, *list(harm)[:count])
        if candidates.add(config.model_copy(update={"float_nodes": kept})).passed:
            return


def _finish(candidates: _Candidates, presets: Sequence[Int8Config], clock: Clock, harm: dict[str, float]) -> Found:
    passing = candidates.passing()
    fp32_ms = None
    if passing:
        # Calibration changes only values, not the amount of work, so one candidate of each structure is timed.
        structures = {_structure(candidates.configs[name]): name for name in reversed(passing)}
        measured = clock({name: (candidates.graph(name), candidates.configs[name]) for name in structures.values()})
        fp32_ms = measured["fp32"]
        for name in passing:
            latency = measured[structures[_structure(candidates.configs[name])]]
            update = {"latency_ms": latency, "speedup": fp32_ms / latency}
            candidates.rows[name] = candidates.rows[name].model_copy(update=update)
        best = _fastest(candidates, presets, passing)
    else:
        best = max(candidates.rows, key=candidates.closeness)
    candidates.rows[best] = candidates.rows[best].model_copy(update={"chosen": True})
    report = SearchReport(rows=tuple(candidates.rows.values()), fp32_latency_ms=fp32_ms, harm=harm)
    return Found(candidates.configs[best], candidates.graph(best), report)


def _fastest(candidates: _Candidates, presets: Sequence[Int8Config], passing: Sequence[str]) -> str:
    order = [preset.target for preset in presets]
    latencies = {name: candidates.rows[name].latency_ms or 0.0 for name in passing}
    threshold = min(latencies.values()) * SAME_SPEED
    fast = [name for name in passing if latencies[name] <= threshold]
    return max(fast, key=lambda name: (-order.index(candidates.configs[name].target), *candidates.closeness(name)))


def _structure(config: Int8Config) -> str:
    return config.model_copy(update={"calibration": "minmax", "percentile": 100.0}).model_dump_json()


def _name(config: Int8Config) -> str:
    left = f" + {len(config.float_nodes)}" if config.float_nodes else ""
    return f"{config.target or 'as given'} {config.calibration}, {config.float_layers}{left} in float"
