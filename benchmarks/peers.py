"""Opens the peers: PyTorch as in the original's quickstart, eager or compiled, and native OpenVINO.

The only module of benchmarks that may import their libraries. The worker of a row imports it by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twincar_edge.benchmarks.config import PEERS, RowSpec
from twincar_edge.benchmarks.worker import Opened, our_steps
from twincar_edge.bundled import default_checkpoint, default_model
from twincar_edge.cores import usable_cores
from twincar_edge.errors import ModelError, require
from twincar_edge.manifest import read_manifest
from twincar_edge.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from twincar_edge.runtime.timing import Clock

EXTRA = "peers"
CLASSES = 196
QUICKSTART_SIZE = (224, 224)


def open_quickstart(spec: RowSpec, clock: Clock, *, compiled: bool = False) -> Opened:
    """Open TwinCar's ResNet50 as in its quickstart: torchvision's transforms on a PIL image, FP32, eager or compiled.

    The weights are random, which does not change the latency; accuracy is not measured.

    Raises:
        MissingExtraError: torch or torchvision is not installed.
    """
    threads = spec.threads or usable_cores()
    begun = clock()
    torch, transforms = require("torch", EXTRA), require("torchvision.transforms", EXTRA)
    imported = clock()
    from PIL import Image

    from twincar_edge.training.model import TWINCAR_RESNET50, CarClassifier

    built = clock()
    torch.set_num_threads(threads)
    # Only the backbone: the quickstart normalizes in its transforms.
    model: Any = CarClassifier(TWINCAR_RESNET50, CLASSES, Preprocess()).backbone.eval()
    if compiled:
        model = torch.compile(model)
    steps = transforms.Compose(
        [
            transforms.Resize(QUICKSTART_SIZE),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )

    def load(image_bgr: NDArray[np.uint8]) -> Any:
        return Image.fromarray(np.ascontiguousarray(image_bgr[:, :, ::-1]))

    def predict(batch: Any) -> Any:
        with torch.no_grad():
            return model(batch)

    def finish(logits: Any) -> object:
        best = torch.softmax(logits, 1).topk(5)
        return best.values.tolist(), best.indices.tolist()

    return Opened(
        ep=_engine(spec),
        threads=threads,
        import_ms=1e3 * (imported - begun),
        open_ms=1e3 * (clock() - built),
        load=load,
        prepare=lambda images: torch.stack([steps(image) for image in images]),
        predict=predict,
        finish=finish,
    )


def open_lite0(spec: RowSpec, clock: Clock, *, compiled: bool = False) -> Opened:
    """Open the bundled checkpoint in PyTorch, FP32, with this project's preprocessing and postprocessing.

    Raises:
        MissingExtraError: torch is not installed.
        ModelError: the installed package does not contain the checkpoint.
    """
    threads = spec.threads or usable_cores()
    begun = clock()
    torch = require("torch", EXTRA)
    imported = clock()
    from twincar_edge.training.checkpoint import read_checkpoint
    from twincar_edge.training.model import load_model, torch_predict

    built = clock()
    torch.set_num_threads(threads)
    model: Any = load_model(read_checkpoint(default_checkpoint()))
    return Opened(
        ep=_engine(spec),
        threads=threads,
        import_ms=1e3 * (imported - begun),
        open_ms=1e3 * (clock() - built),
        predict=torch_predict(torch.compile(model) if compiled else model),
        **our_steps(read_manifest(default_model())),
    )


def open_native_openvino(spec: RowSpec, clock: Clock) -> Opened:
    """Open an ONNX file in OpenVINO without ONNX Runtime, with the options that its documentation advises for latency.

    Raises:
        MissingExtraError: openvino is not installed.
        ModelError: OpenVINO cannot read or run the file.
    """
    threads = spec.threads or usable_cores()
    assert spec.model is not None
    manifest = read_manifest(spec.model)
    begun = clock()
    openvino = require("openvino", EXTRA)
    imported = clock()
    try:
        compiled = openvino.Core().compile_model(
            spec.model,
            "CPU",
            {
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_NUM_THREADS": str(threads),
                "NUM_STREAMS": "1",
                "INFERENCE_PRECISION_HINT": "f32",  # the default is bf16, which changes answers
            },
        )
        request = compiled.create_infer_request()
    except RuntimeError as error:
        raise ModelError(f"OpenVINO cannot open {spec.model.name}: {_last_line(error)}") from error

    def predict(batch_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        try:
            logits: NDArray[np.float32] = request.infer({0: batch_nhwc}, share_inputs=True)[0]
        except RuntimeError as error:
            raise ModelError(f"OpenVINO failed: {_last_line(error)}") from error
        return logits

    return Opened(
        ep=_engine(spec),
        threads=threads,
        import_ms=1e3 * (imported - begun),
        open_ms=1e3 * (clock() - imported),
        predict=predict,
        **our_steps(manifest),
    )


def _engine(spec: RowSpec) -> str:
    assert spec.peer is not None
    return PEERS[spec.peer].engine


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()[:300]


# Key of `PEERS` -> function that opens the peer.
OPENERS: Mapping[str, Callable[[RowSpec, Clock], Opened]] = {
    "quickstart": open_quickstart,
    "quickstart-compiled": partial(open_quickstart, compiled=True),
    "lite0": open_lite0,
    "lite0-compiled": partial(open_lite0, compiled=True),
    "openvino-native": open_native_openvino,
}
