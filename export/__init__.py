"""Exports a checkpoint to ONNX files (FP32, FP16, INT8) and checks their parity with the checkpoint.

Importing this package does not import torch, onnx or ONNX Runtime; calling `export` does.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from twincar_edge.opencv_environment import check_opencv_environment

check_opencv_environment()  # before a module of this package imports OpenCV
# ruff: noqa: E402 - the other imports come after this check

from twincar_edge.errors import require
from twincar_edge.export.confidence.report import ConfidenceOptions, ConfidenceReport, CoverageError
from twincar_edge.export.config import ExportConfig, ExportResult
from twincar_edge.export.int8.config import PRESETS, Int8Config, Int8Search
from twincar_edge.export.parity.compare import check_parity
from twincar_edge.export.parity.comparison import Comparison, Flip
from twincar_edge.export.parity.files import ParityConfig, compare_files
from twincar_edge.export.parity.report import ParityError, ParityLimits, ParityReport

if TYPE_CHECKING:
    from twincar_edge.progress import StageProgress

__all__ = [
    "PRESETS",
    "Comparison",
    "ConfidenceOptions",
    "ConfidenceReport",
    "CoverageError",
    "ExportConfig",
    "ExportResult",
    "Flip",
    "Int8Config",
    "Int8Search",
    "ParityConfig",
    "ParityError",
    "ParityLimits",
    "ParityReport",
    "check_parity",
    "compare_files",
    "export",
]


def export(
    config: ExportConfig, progress: StageProgress | None = None, created: datetime | None = None
) -> ExportResult:
    """Export a checkpoint, check its parity, and write the files that are within the limits.

    Writes `<name>.fp32.onnx`, on request `<name>.int8.onnx` and `<name>.fp16.onnx`, and reports as JSON, Markdown and
    PNG: `<name>.parity`, `<name>.confidence` and, for a search, `<name>.int8_search`. Each ONNX file is self-contained:
    weights, normalization, a manifest with the file's parity, and golden inputs for self-tests.

    Args:
        config: what to export, where to, and the limits.
        progress: called with (stage, steps done, total steps).
        created: the creation time in the manifest; None for now.

    Raises:
        ParityError: a parity limit was not met. The reports are written; no failing file keeps its deployable name.
        CoverageError: too few held-out images get a name at the threshold; as for `ParityError`.
        InputError: the images, the folder or an option is unusable.
        ModelError: the checkpoint is unusable, or its architecture cannot be exported or quantized.
        MissingExtraError: torch, onnx, onnxscript or ONNX Runtime is not installed.
    """
    from twincar_edge.runtime.inference.providers import load_onnxruntime

    for module in ("torch", "onnx", "onnxscript"):
        require(module, "export")
    load_onnxruntime()
    from twincar_edge.export.pipeline import run

    return run(config, progress, created)
