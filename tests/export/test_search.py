"""The search chooses the fastest candidate within the limits, and leaves only as many layers in float as needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from tests.support.int8_toys import batches, small_graph
from twincar_edge.errors import InputError
from twincar_edge.export.graph import INPUT
from twincar_edge.export.int8.activations import ActivationRanges, observe
from twincar_edge.export.int8.config import CALIBRATIONS, PRESETS, Int8Config, Int8Search, presets_for
from twincar_edge.export.int8.quantize import prepare, quantized_layers
from twincar_edge.export.int8.report import SearchReport
from twincar_edge.export.int8.search import Found, search
from twincar_edge.export.parity.compare import Answers, compare
from twincar_edge.export.parity.comparison import Comparison
from twincar_edge.labels import ClassMapping
from twincar_edge.machine import Machine

CLASSES = ClassMapping(tuple(f"Alpha {number} Sedan 2010" for number in range(4)))
AVX2, VNNI = PRESETS["x86-avx2"], PRESETS["x86-vnni"]


@pytest.fixture(scope="module")
def prepared() -> onnx.ModelProto:
    return prepare(small_graph())


@pytest.fixture(scope="module")
def ranges(prepared: onnx.ModelProto) -> ActivationRanges:
    return observe(prepared, batches())


def run(model: onnx.ModelProto, batch_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), disabled_optimizers=["WeightBiasQuantization"], providers=["CPUExecutionProvider"]
    )
    logits: NDArray[np.float32] = session.run(None, {INPUT: batch_nhwc})[0]
    return logits


@dataclass
class Trial:
    """A search on real graphs, with limits and speeds that a test sets."""

    prepared: onnx.ModelProto
    ranges: ActivationRanges
    missed: dict[str, list[str]] = field(default_factory=dict)  # target -> limits that its candidates miss
    speed_ms: dict[str, float] = field(default_factory=dict)  # by target
    most_float: int | None = None  # number of float layers that meets the limits
    longest_prefix: int | None = None  # number of float layers after the input that meets the limits
    timed: list[str] = field(default_factory=list)
    scored: list[Int8Config] = field(default_factory=list)

    def score(self, graph: onnx.ModelProto, config: Int8Config) -> Comparison:
        self.scored.append(config)
        [batch_nhwc] = batches(1, seed=9)
        reference = run(self.prepared, batch_nhwc)
        answers = [Answers("int8", run(graph, batch_nhwc)), Answers("fp32", reference)]
        return compare(*answers, reference.argmax(axis=1), CLASSES, ["a", "b"])

    def judge(self, _found: Comparison) -> Sequence[str]:
        config = self.scored[-1]
        if self.longest_prefix is not None:
            return [] if config.float_layers >= self.longest_prefix else ["INT8 agrees too seldom"]
        if self.most_float is not None:
            return [] if len(config.float_nodes) >= self.most_float else ["INT8 agrees too seldom"]
        return self.missed.get(config.target or "", [])

    def clock(self, graphs: Mapping[str, tuple[onnx.ModelProto, Int8Config]]) -> dict[str, float]:
        self.timed += graphs
        found = {name: self.speed_ms.get(config.target or "", 1.0) for name, (_, config) in graphs.items()}
        return {"fp32": 4.0, **found}

    def logits(self, graph: onnx.ModelProto, _config: Int8Config | None) -> NDArray[np.float32]:
        return run(graph, next(batches(1, seed=4)))

    def search(
        self, *presets: Int8Config, methods: Sequence[str] = CALIBRATIONS, prefixes: Sequence[int] = ()
    ) -> Found:
        no_progress = lambda what, done, total: None  # noqa: E731
        return search(
            self.prepared,
            self.ranges,
            presets,
            methods,  # type: ignore[arg-type]
            prefixes,
            self.score,
            self.judge,
            self.clock,
            self.logits,
            no_progress,
        )


@pytest.fixture
def trial(prepared: onnx.ModelProto, ranges: ActivationRanges) -> Trial:
    return Trial(prepared, ranges)


def test_every_preset_is_tried_with_every_calibration(trial: Trial) -> None:
    report = trial.search(AVX2, VNNI).report
    assert [row.name for row in report.rows] == [
        f"{target} {method}, 1 in float" for target in ("x86-avx2", "x86-vnni") for method in CALIBRATIONS
    ]
    assert sum(row.chosen for row in report.rows) == 1
    assert SearchReport.model_validate_json(report.to_json()) == report
    assert f"**{next(row.name for row in report.rows if row.chosen)}**" in report.to_markdown()


def test_the_fastest_passing_candidate_wins(trial: Trial) -> None:
    trial.speed_ms = {"x86-avx2": 2.0, "x86-vnni": 1.0}
    found = trial.search(AVX2, VNNI)
    assert found.config.target == "x86-vnni"
    [chosen] = [row for row in found.report.rows if row.chosen]
    assert (chosen.latency_ms, chosen.speedup) == (1.0, 4.0)


def test_a_failing_candidate_never_wins(trial: Trial) -> None:
    trial.speed_ms, trial.missed = {"x86-avx2": 2.0, "x86-vnni": 1.0}, {"x86-vnni": ["INT8 agrees too seldom"]}
    assert trial.search(AVX2, VNNI).config.target == "x86-avx2"


def test_among_equally_fast_candidates_the_preferred_preset_wins(trial: Trial) -> None:
    trial.speed_ms = {"x86-avx2": 1.05, "x86-vnni": 1.0}
    assert trial.search(AVX2, VNNI).config.target == "x86-avx2"


def test_each_graph_structure_is_timed_once_for_all_calibrations(trial: Trial) -> None:
    trial.search(AVX2, VNNI)
    assert len(trial.timed) == 2


def test_within_a_preset_the_calibration_that_changes_logits_least_is_chosen(trial: Trial) -> None:
    found = trial.search(AVX2)
    passing = [row for row in found.report.rows if row.agreement == 1.0]
    best = min(passing, key=lambda row: row.mean_abs_logit_difference)
    assert [row.name for row in found.report.rows if row.chosen] == [best.name]


def test_more_early_layers_stay_in_float_if_no_preset_passes(trial: Trial) -> None:
    trial.longest_prefix = 2
    found = trial.search(AVX2, methods=["minmax", "mse"], prefixes=(2, 3))
    assert [row.choices["float_layers"] for row in found.report.rows] == [1, 1, 2, 2]
    assert found.config.float_layers == 2 and not found.config.float_nodes and not found.report.harm


def test_the_most_harmful_layers_stay_in_float_if_nothing_else_passes(trial: Trial, prepared: onnx.ModelProto) -> None:
    trial.most_float = 1
    found = trial.search(AVX2, methods=["minmax"])
    layers = quantized_layers(prepared, AVX2)
    assert set(found.report.harm) == set(layers) and len(layers) == 3
    worst = max(layers, key=lambda layer: found.report.harm[layer])
    assert found.config.float_nodes == (worst,)
    assert [row.passed for row in found.report.rows] == [False, True]
    assert worst in found.report.to_markdown()


def test_the_closest_candidate_is_returned_if_none_passes(trial: Trial) -> None:
    trial.most_float = 99
    found = trial.search(AVX2, methods=["minmax"])
    assert not any(row.passed for row in found.report.rows)
    assert [row.chosen for row in found.report.rows].count(True) == 1
    assert len(found.report.rows) == 2  # at most half of the layers, here one of three, may stay in float
    assert found.report.fp32_latency_ms is None


def machine(system: str, *flags: str) -> Machine:
    return Machine(cpu="", flags=flags, usable_cores=2, system=system, python="3.12")


@pytest.mark.parametrize(
    ("target", "box", "expected"),
    [
        (None, machine("Linux x86_64", "avx2"), ["x86-avx2"]),
        (None, machine("Linux x86_64", "avx2", "avx512_vnni"), ["x86-avx2", "x86-vnni"]),
        (None, machine("Linux x86_64", "avx_vnni"), ["x86-avx2", "x86-vnni"]),
        (None, machine("Linux aarch64", "asimddp"), ["arm64"]),
        ("tensorrt", machine("Linux x86_64"), ["tensorrt"]),
    ],
)
def test_presets_are_those_of_the_target_or_of_this_machine(
    target: str | None, box: Machine, expected: list[str]
) -> None:
    assert [preset.target for preset in presets_for(target, box)] == expected


def test_an_unknown_target_gets_a_suggestion() -> None:
    with pytest.raises(InputError, match="did you mean 'x86-vnni'"):
        presets_for("x86-vni", machine("Linux x86_64"))


def test_changes_apply_to_every_candidate() -> None:
    choices = Int8Search(changes={"calibration": "mse", "float_layers": 3}, calibration_images=10)
    assert choices.methods == ("mse",)
    changed = choices.changed(PRESETS["arm64"])
    assert (changed.target, changed.activations, changed.float_layers, changed.calibration_images) == (
        "arm64",
        "int8",
        3,
        10,
    )
