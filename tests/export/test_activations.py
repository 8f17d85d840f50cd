"""Activation ranges are exact although batches are streamed, and each calibration method clips as expected."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from twincar_edge.errors import InputError
from twincar_edge.export.graph import INPUT
from twincar_edge.export.int8.activations import BINS, ActivationRanges, Histogram, observe

SIDE = 4


def doubling() -> onnx.ModelProto:
    """Return a graph with two float tensors: the pixels, and the pixels times minus two."""
    nodes = [
        helper.make_node("Cast", [INPUT], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["pixels", "factor"], ["doubled"]),
    ]
    shape = ["N", SIDE, SIDE, 3]
    graph = helper.make_graph(
        nodes,
        "doubling",
        [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("doubled", TensorProto.FLOAT, shape)],
        [helper.make_tensor("factor", TensorProto.FLOAT, [], [-2.0])],
        value_info=[helper.make_tensor_value_info("pixels", TensorProto.FLOAT, shape)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def histogram_of(values: NDArray[np.float64], parts: int = 1) -> Histogram:
    histogram = Histogram()
    for part in np.array_split(values.astype(np.float32), parts):
        histogram.add(part)
    return histogram


def ranges_of(values: NDArray[np.float64]) -> ActivationRanges:
    return ActivationRanges({"x": histogram_of(values)})


def test_every_tensor_has_its_exact_extremes() -> None:
    batches = [np.full((2, SIDE, SIDE, 3), value, np.uint8) for value in (3, 200, 7)]
    assert observe(doubling(), batches).of("minmax") == {"pixels": (0.0, 200.0), "doubled": (-400.0, 0.0)}


def test_only_one_batch_is_kept_in_memory() -> None:
    alive: list[weakref.ref[NDArray[np.uint8]]] = []

    def batches() -> Iterator[NDArray[np.uint8]]:
        for value in range(5):
            gc.collect()
            assert sum(ref() is not None for ref in alive) <= 1, "batches pile up"
            batch_nhwc = np.full((2, SIDE, SIDE, 3), value, np.uint8)
            alive.append(weakref.ref(batch_nhwc))
            yield batch_nhwc
            del batch_nhwc

    observe(doubling(), batches())
    assert len(alive) == 5


def test_calibration_without_images_is_an_error() -> None:
    with pytest.raises(InputError, match="there are none"):
        observe(doubling(), [])


def test_activations_that_are_not_finite_are_refused() -> None:
    with pytest.raises(InputError, match="not finite"):
        Histogram().add(np.array([1.0, np.nan], np.float32))


def test_doubling_the_range_loses_no_count() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(0, scale, 1000) for scale in (0.01, 1, 50)])
    streamed, at_once = histogram_of(values, parts=30), histogram_of(values)
    assert streamed.counts.sum() == len(values)
    assert streamed.limit == at_once.limit
    # A value on the edge of two bins may fall into either. Everything else is the same.
    assert np.abs(np.cumsum(streamed.counts) - np.cumsum(at_once.counts)).max() <= 1


def test_bin_centers_match_the_values() -> None:
    histogram = histogram_of(np.array([-1.0, 0.25, 0.25, 0.9]))
    found = np.repeat(histogram.centers, histogram.counts)
    np.testing.assert_allclose(found, [-1, 0.25, 0.25, 0.9], atol=2 * histogram.limit / BINS)


def test_percentile_excludes_outliers_and_keeps_zero() -> None:
    values = np.concatenate([np.linspace(1, 2, 10_000), [1000.0]])
    low, high = ranges_of(values).of("percentile", 99.9)["x"]
    assert low == 0.0
    assert 1.9 < high < 2.3  # within a bin of 2


def test_percentile_100_is_minmax() -> None:
    rng = np.random.default_rng(1)
    exact = ranges_of(rng.normal(size=5000))
    assert exact.of("percentile", 100.0) == exact.of("minmax")


@pytest.mark.parametrize("method", ["mse", "entropy"])
def test_clipping_methods_cut_only_long_tails(method: str) -> None:
    rng = np.random.default_rng(2)
    tail = np.concatenate([rng.normal(0, 1, 100_000), [60.0, -60.0]])
    low, high = ranges_of(tail).of(method)["x"]  # type: ignore[arg-type]
    assert 3 < high < 50 and -50 < low < -3
    flat = rng.uniform(-1, 1, 100_000)
    low, high = ranges_of(flat).of(method)["x"]  # type: ignore[arg-type]
    assert high > 0.95 and low < -0.95


def test_least_squares_rounds_better_than_the_full_range() -> None:
    rng = np.random.default_rng(3)
    values = np.concatenate([rng.normal(0, 1, 500_000), [40.0]])

    def error(low: float, high: float) -> float:
        step = (high - low) / 255
        rounded = np.clip(np.round((values - low) / step), 0, 255) * step + low
        return float(np.square(rounded - values).sum())

    ranges = ranges_of(values)
    assert error(*ranges.of("mse")["x"]) < 0.8 * error(*ranges.of("minmax")["x"])


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse", "entropy"])
def test_a_tensor_of_zeros_has_a_range_of_zeros(method: str) -> None:
    assert ranges_of(np.zeros(10)).of(method) == {"x": (0.0, 0.0)}  # type: ignore[arg-type]
