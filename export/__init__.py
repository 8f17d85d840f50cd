"""From a checkpoint to ONNX files that are shown to answer as the checkpoint does: FP32, INT8, and parity.

Importing this package imports neither torch nor onnx nor ONNX Runtime; `export` does.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

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
    """Export a checkpoint, check that what comes out answers as it does, and write the files that do.

    Writes `<name>.fp32.onnx`, where they are asked for `<name>.int8.onnx` and `<name>.fp16.onnx`, and reports as JSON,
    Markdown and PNG: `parity`, `confidence` and, of a search, `int8_search`. Each ONNX file is self-contained: weights,
    normalization, a manifest with its own parity, and golden inputs by which a box tests itself.

    Args:
        config: what to export, to where, and what it must hold.
        progress: called with what is done at the moment, how much of it is done, and of how much.
        created: the time that the manifest gives; None takes now.

    Raises:
        ParityError: a limit was missed. The report is written, and no file that missed a limit is left under the name
            by which a deployment would pick it up.
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
