"""The parity check refuses broken exports of the bundled model. `test_golden.py` tests what `doctor` detects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from twincar_edge.bundled import default_checkpoint
from twincar_edge.dataset_logits import dataset_logits
from twincar_edge.datasets import Dataset, check_integrity, open_dataset
from twincar_edge.export import Int8Config, ParityLimits, ParityReport
from twincar_edge.export.data import calibration_batches, calibration_samples
from twincar_edge.export.graph import INPUT, to_onnx
from twincar_edge.export.int8.activations import observe
from twincar_edge.export.int8.quantize import prepare, quantize
from twincar_edge.export.parity.compare import Answers, report_parity
from twincar_edge.preprocess import Preprocess
from twincar_edge.training.checkpoint import Checkpoint, read_checkpoint
from twincar_edge.training.model import load_model, torch_predict

IMAGES = 200  # enough to detect each change
PLAIN = Int8Config(float_layers=3)


@dataclass(frozen=True)
class Real:
    """The bundled checkpoint, its graph, real images, and PyTorch's logits for them."""

    checkpoint: Checkpoint
    graph: onnx.ModelProto
    images: Dataset
    train: Dataset
    pytorch: NDArray[np.float32]

    def logits(self, graph: onnx.ModelProto, preprocess: Preprocess | None = None) -> NDArray[np.float32]:
        session = onnxruntime.InferenceSession(
            graph.SerializeToString(),
            disabled_optimizers=["WeightBiasQuantization"],
            providers=["CPUExecutionProvider"],
        )
        return dataset_logits(
            lambda batch_nhwc: session.run(None, {INPUT: batch_nhwc})[0],
            self.images,
            preprocess or self.checkpoint.preprocess,
        )

    def check(
        self, precision: str, logits: NDArray[np.float32], fp32: NDArray[np.float32] | None = None
    ) -> ParityReport:
        answers = [Answers("pytorch", self.pytorch)]
        if fp32 is not None:
            answers.append(Answers("fp32", fp32))
        answers.append(Answers(precision, logits))
        return report_parity(answers, self.images, self.checkpoint.classes, ParityLimits(), "sabotaged")


@pytest.fixture(scope="module")
def real(shared: Path) -> Real:
    checkpoint = read_checkpoint(default_checkpoint())
    kept, _ = check_integrity(open_dataset(shared / "cars196"))
    images = open_dataset(shared / "cars196_more")
    compared = images.select(sample.name for sample in images.samples[:IMAGES])
    model = load_model(checkpoint)
    pytorch = dataset_logits(torch_predict(model), compared, checkpoint.preprocess)
    return Real(checkpoint, to_onnx(model), compared, kept, pytorch)


@pytest.fixture(scope="module")
def fp32(real: Real) -> NDArray[np.float32]:
    """The unchanged graph's logits for the held-out images."""
    return real.logits(real.graph)


@pytest.fixture(scope="module")
def int8(real: Real) -> Callable[[Int8Config], onnx.ModelProto]:
    prepared = prepare(real.graph)
    chosen = calibration_samples(real.train, 64)
    ranges = observe(prepared, calibration_batches(chosen, real.checkpoint.preprocess))
    return lambda config: quantize(prepared, ranges.of(config.calibration, config.percentile), config)


def altered(graph: onnx.ModelProto, alter: Callable[[onnx.GraphProto], None]) -> onnx.ModelProto:
    copied = onnx.ModelProto()
    copied.CopyFrom(graph)
    alter(copied.graph)
    return copied


def replace(graph: onnx.GraphProto, name: str, array: NDArray[np.generic]) -> None:
    [tensor] = [tensor for tensor in graph.initializer if tensor.name == name]
    tensor.CopyFrom(numpy_helper.from_array(array, name))


def arrays(graph: onnx.GraphProto) -> dict[str, NDArray[np.generic]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def stem(graph: onnx.GraphProto) -> str:
    return next(node.input[1] for node in graph.node if node.op_type == "Conv")


def wrong_mean(graph: onnx.GraphProto) -> None:
    [shift] = [name for node in graph.node[:4] if node.op_type == "Add" for name in node.input if name in arrays(graph)]
    array = arrays(graph)[shift]
    replace(graph, shift, array + array.dtype.type(0.1))


def swapped_colors(graph: onnx.GraphProto) -> None:
    name = stem(graph)
    replace(graph, name, np.ascontiguousarray(arrays(graph)[name][:, ::-1]))


def weights_in_4_bits(graph: onnx.GraphProto) -> None:
    for name, array in arrays(graph).items():
        if array.dtype == np.int8 and array.ndim > 1:
            replace(graph, name, (np.round(array.astype(np.float32) / 16) * 16).clip(-128, 127).astype(np.int8))


@pytest.mark.shared
def test_an_intact_graph_passes(
    real: Real, fp32: NDArray[np.float32], int8: Callable[[Int8Config], onnx.ModelProto]
) -> None:
    assert real.check("fp32", fp32).passed
    assert real.check("int8", real.logits(int8(PLAIN)), fp32).passed


@pytest.mark.shared
@pytest.mark.parametrize("sabotage", [wrong_mean, swapped_colors])
def test_a_sabotaged_graph_is_refused(real: Real, sabotage: Callable[[onnx.GraphProto], None]) -> None:
    report = real.check("fp32", real.logits(altered(real.graph, sabotage)))
    assert report.failed("fp32")
    assert "FP32 logits differ from PyTorch's" in report.breaches[0].text


@pytest.mark.shared
@pytest.mark.parametrize("change", [{"interpolation": "linear"}, {"resize": "letterbox"}])
def test_a_different_resize_is_refused(real: Real, change: dict[str, str]) -> None:
    other = Preprocess.model_validate({**real.checkpoint.preprocess.model_dump(), **change})
    assert other != real.checkpoint.preprocess
    assert real.check("fp32", real.logits(real.graph, other)).failed("fp32")


@pytest.mark.shared
def test_weights_of_4_bits_are_refused(
    real: Real, fp32: NDArray[np.float32], int8: Callable[[Int8Config], onnx.ModelProto]
) -> None:
    report = real.check("int8", real.logits(altered(int8(PLAIN), weights_in_4_bits)), fp32)
    assert report.failed("int8") and not report.failed("fp32")


@pytest.mark.shared
def test_one_scale_for_all_channels_is_refused(
    real: Real, fp32: NDArray[np.float32], int8: Callable[[Int8Config], onnx.ModelProto]
) -> None:
    report = real.check("int8", real.logits(int8(Int8Config(per_channel=False))), fp32)
    assert report.failed("int8") and not report.failed("fp32")
