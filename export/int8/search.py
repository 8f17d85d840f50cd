"""The search for an INT8 file that keeps to the limits: presets first, then, if it must be, layers left in float.

Ranges of activations are gathered once, so a candidate costs a second of quantizing and one pass over the validation
images. What a file says of itself is not believed: every candidate is scored by the session that a box would open.
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

SAME_SPEED = 1.1  # two files within a tenth of one another differ by noise as much as by themselves
PREFIXES = (3, 6)  # layers in float from the input on, where the preset's own do not do: early ones are few in bytes
LARGEST_FLOAT_SHARE = 0.5  # of the layers: beyond it, INT8 is no longer what the file is

Score = Callable[[onnx.ModelProto, Int8Config], Comparison]
"""Runs a graph over the validation images, as a box would, and compares it with FP32."""
Judge = Callable[[Comparison], Sequence[str]]
"""Returns the limits that a comparison misses, in words."""
Clock = Callable[[Mapping[str, tuple[onnx.ModelProto, Int8Config]]], Mapping[str, float]]
"""Returns the median latency at batch 1, in ms, of each graph by its name, and of FP32 as "fp32", measured in turns."""
Logits = Callable[[onnx.ModelProto, Int8Config | None], NDArray[np.float32]]
"""Runs a graph over some training images: float32 [N, classes]. None is FP32."""


@dataclass(frozen=True)
class Found:
    """What a search ends with: choices and graph of the best candidate, whether it passed or not, and the report."""

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
    """Find the fastest INT8 form of a graph that keeps to the limits.

    Every preset is tried with every method of calibration. Of those that pass, the fastest decides what is fast enough,
    and among the files within a tenth of it the first preset counts, then agreement.

    Where none passes, more layers stay in float, first from the input on, since what is rounded there nothing later can
    mend. Where that does not do, the layers of the closest candidate are made INT8 one at a time to see what each does
    to the logits, and the worst are left in float one after another until the limits hold. The fewer layers are INT8
    the slower a file is, so the first that pass are the fastest.

    Args:
        prepared: the FP32 graph as `quantize.prepare` gives it.
        ranges: its activations on training images.
        presets: the choices to begin with, the preferred first.
        methods: the calibrations to try with each.
        prefixes: how many layers from the input on may stay in float where none of these passes, the fewest first.
        score: see `Score`; `judge`, `clock`, `logits`, `progress` likewise.
        judge: which limits a score misses.
        clock: how fast graphs are.
        logits: runs graphs over some training images.
        progress: listens.

    Raises:
        InputError: a preset names weights that the graph does not have.
        ModelError: nothing in the graph can be quantized, or a candidate cannot be opened.
    """
    tries = _Tries(prepared, ranges, score, judge)
    configs = [preset.model_copy(update={"calibration": method}) for preset in presets for method in methods]
    tries.add_all(configs, progress)
    for layers in prefixes:
        if not tries.passing():
            longer = [config for config in configs if config.float_layers < layers]
            tries.add_all([config.model_copy(update={"float_layers": layers}) for config in longer], progress)
    harm: dict[str, float] = {}
    if not tries.passing():
        start = max(tries.configs, key=tries.closeness)
        harm = _harm(prepared, ranges, tries.configs[start], logits, progress)
        _leave_in_float(tries, tries.configs[start], harm, progress)
    return _finish(tries, presets, clock, harm)


class _Tries:
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
        """Return a candidate's graph, made anew: dozens of a large model would fill the memory."""
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
        """Return what makes one candidate better than another, the larger the better."""
        row = self.rows[name]
        sure = 1.0 if row.sure_agreement is None else row.sure_agreement
        return (-len(row.missed), sure, row.agreement, -row.mean_abs_logit_difference)


def _harm(
    prepared: onnx.ModelProto, ranges: ActivationRanges, config: Int8Config, logits: Logits, progress: StageProgress
) -> dict[str, float]:
    """Return for each layer the mean squared change of the logits when it alone is INT8, the worst first."""
    reference = logits(prepared, None).astype(np.float64)
    layers = quantized_layers(prepared, config)
    chosen = ranges.of(config.calibration, config.percentile)
    harm = {}
    for number, layer in enumerate(layers):
        progress("the harm of each layer", number, len(layers))
        found = logits(quantize_layer(prepared, chosen, config, layer), config)
        harm[layer] = float(np.square(found - reference).mean())
    return dict(sorted(harm.items(), key=lambda entry: -entry[1]))


def _leave_in_float(tries: _Tries, config: Int8Config, harm: dict[str, float], progress: StageProgress) -> None:
    """Leave the worst layers in float, one more at a time, until the limits hold or INT8 would no longer be INT8."""
    most = int(len(harm) * LARGEST_FLOAT_SHARE)
    for count in range(1, most + 1):
        progress(f"{count} more layers in float", count - 1, most)
        left = (*config.float_nodes, *list(harm)[:count])
        if tries.add(config.model_copy(update={"float_nodes": left})).passed:
            return


def _finish(tries: _Tries, presets: Sequence[Int8Config], clock: Clock, harm: dict[str, float]) -> Found:
    passing = tries.passing()
    fp32_ms = None
    if passing:
        # How activations are calibrated changes numbers, not the work: one of each structure is timed.
        structures = {_structure(tries.configs[name]): name for name in reversed(passing)}
        measured = clock({name: (tries.graph(name), tries.configs[name]) for name in structures.values()})
        fp32_ms = measured["fp32"]
        for name in passing:
            latency = measured[structures[_structure(tries.configs[name])]]
            update = {"latency_ms": latency, "speedup": fp32_ms / latency}
            tries.rows[name] = tries.rows[name].model_copy(update=update)
        best = _fastest(tries, presets, passing)
    else:
        best = max(tries.rows, key=tries.closeness)
    tries.rows[best] = tries.rows[best].model_copy(update={"chosen": True})
    report = SearchReport(rows=tuple(tries.rows.values()), fp32_latency_ms=fp32_ms, harm=harm)
    return Found(tries.configs[best], tries.graph(best), report)


def _fastest(tries: _Tries, presets: Sequence[Int8Config], passing: Sequence[str]) -> str:
    order = [preset.target for preset in presets]
    latencies = {name: tries.rows[name].latency_ms or 0.0 for name in passing}
    enough = min(latencies.values()) * SAME_SPEED
    fast = [name for name in passing if latencies[name] <= enough]
    return max(fast, key=lambda name: (-order.index(tries.configs[name].target), *tries.closeness(name)))


def _structure(config: Int8Config) -> str:
    return config.model_copy(update={"calibration": "minmax", "percentile": 100.0}).model_dump_json()


def _name(config: Int8Config) -> str:
    left = f" + {len(config.float_nodes)}" if config.float_nodes else ""
    return f"{config.target or 'as given'} {config.calibration}, {config.float_layers}{left} in float"
