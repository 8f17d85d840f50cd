"""Checks an open model with its golden inputs, to verify that it answers on this machine as it did at export."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from twincar_edge.errors import ModelError, Parameter
from twincar_edge.golden import Golden, read_golden, sample_pixels
from twincar_edge.manifest import Precision
from twincar_edge.preprocess import prepare_batch
from twincar_edge.prototypes import normalized
from twincar_edge.records import Record
from twincar_edge.runtime.inference.session import ModelSession

logger = logging.getLogger(__name__)

# Limit on the mean difference of a picture's sampled pixels, in levels of 256. Measured on the bundled models: 0 on x86
# with AVX2, on x86 with SSE only, and on Arm; at least 1.0 with another interpolation, at least 6 with swapped colors.
PIXEL_LIMIT = 0.3
# Limits on the largest difference of a logit, as a share of the largest expected logit. Measured on the bundled models
# with the pictures of `export/golden.py`: FP32 below 0.0001 with any optimization, thread count or batch, on AVX2, SSE
# and Arm; 0.004 when computed in FP16, and 0.052 in BF16, for which no parity was shown. INT8 results depend on the
# order of summation: 0 to 0.075 with less optimization, 0.026 to 0.057 on Arm, 0 to 0.026 on x86 without VNNI.
# Deliberate faults cause at least 0.24 (see the table in tests/export/test_golden.py), except one weight scale per
# layer: 0.15 in the bundled model, whose embeddings it moves by 3.6 times their limit.
LOGIT_LIMITS: dict[Precision, float] = {"fp32": 0.01, "fp16": 0.02, "int8": 0.15}
# Limits on the largest cosine distance of an embedding from the expected one. Storage in float16 alone causes 1e-7.
EMBEDDING_LIMITS: dict[Precision, float] = {"fp32": 0.0005, "fp16": 0.001, "int8": 0.02}


class GoldenCheck(Record):
    """The result of a check with golden inputs.

    `pixel_difference` is the mean absolute difference of the sampled pixels of the model's input, in levels of 256, for
    the worst picture. `logit_difference` is the largest absolute difference of a logit, as a share of the largest
    expected one: it cannot change a first answer that leads by more than twice as much. `embedding_difference` is the
    largest cosine distance of an embedding; None if the file has no embeddings. Each may reach its limit. `elapsed_ms`
    is the duration of the check.
    """

    images: int = Field(ge=1)
    pixel_difference: float
    pixel_limit: float
    logit_difference: float
    logit_limit: float
    embedding_difference: float | None = None
    embedding_limit: float | None = None
    elapsed_ms: float

    @property
    def passed(self) -> bool:
        """Return whether the model's answers match those at export."""
        return not self.faults

    @property
    def faults(self) -> tuple[str, ...]:
        """Return the differences above their limits, causes before effects; empty if the check passed."""
        faults = []
        if self.pixel_difference > self.pixel_limit:
            faults.append(
                f"the model's input is off by {self.pixel_difference:.2g} levels of 256 (limit {self.pixel_limit:g}): "
                "another resize or color order than at export"
            )
        if self.logit_difference > self.logit_limit:
            faults.append(
                f"logits are off by {self.logit_difference:.2%} of the largest (limit {self.logit_limit:.0%})"
                + ("" if faults else ": another graph, provider or precision than at export")
            )
        if self.embedding_difference is not None and self.embedding_difference > (self.embedding_limit or 0.0):
            faults.append(
                f"embeddings are off by a cosine distance of {self.embedding_difference:.2g} (limit "
                f"{self.embedding_limit:g})"
            )
        return tuple(faults)

    def summary(self) -> str:
        """Return the result in one line."""
        embeddings = "" if self.embedding_difference is None else f", embeddings by {self.embedding_difference:.2g}"
        return (
            f"{self.images} pictures in {self.elapsed_ms:.0f} ms: pixels off by {self.pixel_difference:.2g} levels "
            f"(limit {self.pixel_limit:g}), logits by {self.logit_difference:.2%} (limit {self.logit_limit:.0%})"
            + embeddings
        )


def check_golden(session: ModelSession, golden: Golden, timer: Callable[[], float] = time.perf_counter) -> GoldenCheck:
    """Process golden inputs like a camera's crops, in one batch, and compare the results.

    Args:
        session: the open model.
        golden: the golden inputs of its file.
        timer: a clock in seconds, for the duration of the check.

    Raises:
        ModelError: the golden inputs do not fit the model, or the model fails.
    """
    started_s = timer()
    manifest = session.manifest
    if golden.logits.shape[1] != len(manifest.classes):
        raise ModelError(
            f"{session.model} has golden inputs for {golden.logits.shape[1]} classes, its manifest names "
            f"{len(manifest.classes)}: export it again"
        )
    batch_nhwc = prepare_batch(golden.images_bgr, manifest.preprocess)
    pixels = np.abs(sample_pixels(batch_nhwc).astype(np.float64) - golden.pixels).mean(axis=(1, 2))
    found, embeddings = session.outputs(batch_nhwc)
    logits = np.abs(found.astype(np.float64) - golden.logits).max()
    difference = _embedding_difference(session, golden, embeddings)
    largest = max(float(np.abs(golden.logits).max()), float(np.finfo(np.float32).tiny))
    return GoldenCheck(
        images=len(golden.images_bgr),
        pixel_difference=float(pixels.max()),
        pixel_limit=PIXEL_LIMIT,
        logit_difference=float(logits) / largest,
        logit_limit=LOGIT_LIMITS[manifest.precision],
        embedding_difference=difference,
        embedding_limit=None if difference is None else EMBEDDING_LIMITS[manifest.precision],
        elapsed_ms=(timer() - started_s) * 1e3,
    )


def _embedding_difference(
    session: ModelSession, golden: Golden, embeddings: NDArray[np.float32] | None
) -> float | None:
    if embeddings is None:
        return None
    if golden.embeddings is None:
        raise ModelError(f"{session.model} has golden inputs without embeddings: export it again")
    found = normalized(embeddings)
    if found.shape != golden.embeddings.shape:
        raise ModelError(
            f"{session.model} returns embeddings {list(found.shape)}, its golden inputs expect "
            f"{list(golden.embeddings.shape)}: export it again"
        )
    return max(0.0, float(1 - (found * normalized(golden.embeddings)).sum(axis=1).min()))


def require_golden(session: ModelSession, allow_drift: bool = False) -> None:
    """Check an open model with its golden inputs before its answers are used.

    A file without golden inputs passes and is logged. With `allow_drift`, differences are only logged, too.

    Raises:
        ModelError: the answers differ from those at export, or the golden inputs cannot be read or run.
    """
    golden = read_golden(session.model)
    if golden is None:
        logger.info("%s has no golden inputs: its answers on this machine are not verified", session.model)
        return
    check = check_golden(session, golden)
    if check.passed:
        logger.info("golden inputs: %s", check.summary())
        return
    drift = f"{session.model} answers differently on {session.ep} than at export: " + "; ".join(check.faults)
    if not allow_drift:
        raise ModelError(
            f"{drift}; run `twincar-edge doctor` for details, or use it anyway with ", Parameter("allow_drift", True)
        )
    logger.warning("%s; using it anyway", drift)
