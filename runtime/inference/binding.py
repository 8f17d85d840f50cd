"""Inference through IO binding: input and output are on the provider's device, and calls return when it has finished.

Without IO binding, `run` copies a GPU's inputs and outputs internally. A time measured around it neither separates the
copies nor, if outputs stay on the device, proves that the work is complete.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from twincar_edge.errors import ModelError
from twincar_edge.runtime.inference.engine import Engine, ort_errors
from twincar_edge.runtime.inference.providers import load_onnxruntime
from twincar_edge.runtime.inference.refusals import first_line


def bound_predict(engine: Engine, device: str, classes: int) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """Return the model as a function from `batch_nhwc`, uint8 [N, H, W, 3], to logits, float32 [N, classes].

    Device buffers are created once per shape and reused. A call copies the input to the device, runs, waits for the
    device, and copies the logits back, which is all that a camera's loop waits for.

    Args:
        engine: an open model.
        device: `cpu` or `cuda`, see `Provider.device`.
        classes: the number of logits per image.

    Raises:
        ModelError: (the function) the provider failed, or the device's memory is full.
    """
    ort = load_onnxruntime()
    errors = ort_errors(ort)
    input_name, output_name = engine.session.get_inputs()[0].name, engine.session.get_outputs()[0].name
    make = ort.OrtValue.ortvalue_from_shape_and_type
    binding = engine.session.io_binding()
    bound: dict[str, object] = {}

    def predict(batch_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        try:
            if bound.get("shape") != batch_nhwc.shape:
                bound["shape"] = batch_nhwc.shape
                bound["input"] = make(batch_nhwc.shape, np.uint8, device, 0)
                bound["output"] = make((len(batch_nhwc), classes), np.float32, device, 0)
                binding.bind_ortvalue_input(input_name, bound["input"])
                binding.bind_ortvalue_output(output_name, bound["output"])
            bound["input"].update_inplace(batch_nhwc)  # type: ignore[attr-defined]
            binding.synchronize_inputs()
            engine.session.run_with_iobinding(binding)
            binding.synchronize_outputs()
            logits: NDArray[np.float32] = bound["output"].numpy()  # type: ignore[attr-defined]
        except errors as error:
            raise ModelError(f"{engine.model} failed on {engine.ep}: {first_line(error)}") from error
        return logits

    return predict
