"""Inference through IO binding: input and output lie on the provider's device, and nothing returns before it is done.

Without it, a GPU's inputs and outputs are copied somewhere inside `run`, and a time taken around it says neither how
long the copies took nor, where outputs stay on the device, that the work was finished.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from twincar_edge.errors import ModelError
from twincar_edge.runtime.inference.engine import Engine, ort_errors
from twincar_edge.runtime.inference.providers import load_onnxruntime


def bound_predict(engine: Engine, device: str, classes: int) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """Return the model as a function from `batch_nhwc`, uint8 [N, H, W, 3], to logits, float32 [N, classes].

    Buffers are made on the device once for each shape and used again. A call copies the input there, runs, waits until
    the device is done, and copies the logits back: what a camera's loop has to wait for.

    Args:
        engine: an open model.
        device: `cpu` or `cuda`, as `Provider.device` names it.
        classes: how many logits an image has.

    Raises:
        ModelError: (the function) the provider failed, or the device's memory is full.
    """
    ort = load_onnxruntime()
    # RuntimeError is how it says that it has no memory on such a device.
    errors: tuple[type[Exception], ...] = (*ort_errors(ort), RuntimeError)
    given, wanted = engine.session.get_inputs()[0].name, engine.session.get_outputs()[0].name
    make = ort.OrtValue.ortvalue_from_shape_and_type
    binding = engine.session.io_binding()
    bound: dict[str, object] = {}

    def predict(batch_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        try:
            if bound.get("shape") != batch_nhwc.shape:
                bound["shape"] = batch_nhwc.shape
                bound["input"] = make(batch_nhwc.shape, np.uint8, device, 0)
                bound["output"] = make((len(batch_nhwc), classes), np.float32, device, 0)
                binding.bind_ortvalue_input(given, bound["input"])
                binding.bind_ortvalue_output(wanted, bound["output"])
            bound["input"].update_inplace(batch_nhwc)  # type: ignore[attr-defined]
            binding.synchronize_inputs()
            engine.session.run_with_iobinding(binding)
            binding.synchronize_outputs()
            logits: NDArray[np.float32] = bound["output"].numpy()  # type: ignore[attr-defined]
        except errors as error:
            first_line = str(error).strip().split("\n", 1)[0][:300]
            raise ModelError(f"{engine.model} failed on {engine.ep}: {first_line}") from error
        return logits

    return predict
