"""A network with every kind of layer that quantization treats differently, and images for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from twincar_edge.export import Int8Config
from twincar_edge.export.graph import to_onnx
from twincar_edge.export.int8.activations import observe
from twincar_edge.export.int8.quantize import prepare, quantize
from twincar_edge.preprocess import Preprocess
from twincar_edge.training.model import CarClassifier

SIZE = 32


class Small(torch.nn.Module):
    """One dense convolution, one depthwise, one grouped, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.depthwise = torch.nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.grouped = torch.nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.classifier = torch.nn.Linear(8, 4)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        for convolution in (self.stem, self.depthwise, self.grouped):
            pixels = torch.relu(convolution(pixels))
        return self.classifier(pixels.mean((2, 3)))


def small_graph() -> onnx.ModelProto:
    torch.manual_seed(0)
    model = CarClassifier("test_resnet", 4, Preprocess(size_wh=(SIZE, SIZE)))
    model.backbone = Small()
    return to_onnx(model)


def batches(count: int = 4, seed: int = 0) -> Iterator[NDArray[np.uint8]]:
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield rng.integers(0, 256, (2, SIZE, SIZE, 3), dtype=np.uint8)


def int8_of(graph: onnx.ModelProto, images: Iterable[NDArray[np.uint8]], config: Int8Config) -> onnx.ModelProto:
    """Return the INT8 form of a graph of `to_onnx`."""
    prepared = prepare(graph)
    return quantize(prepared, observe(prepared, images).of(config.calibration, config.percentile), config)
