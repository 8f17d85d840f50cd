"""The configuration and the result of an export. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from twincar_edge.datasets import OpenOptions
from twincar_edge.errors import InputError
from twincar_edge.export.confidence.report import ConfidenceOptions, ConfidenceReport
from twincar_edge.export.int8.config import Int8Config, Int8Search
from twincar_edge.export.int8.report import SearchReport
from twincar_edge.export.opset import OPSET, OPSETS
from twincar_edge.export.parity.report import ParityLimits, ParityReport


@dataclass(frozen=True)
class ExportConfig:
    """What to export, where to, and the limits.

    Attributes:
        checkpoint: a checkpoint of `twincar-edge train`, or the original TwinCar's .pth.
        output: the folder for the files; created if missing.
        int8: settings for an INT8 file, or a search for settings within the limits; None exports no INT8 file.
        fp16: also export a half-precision file, for GPU providers.
        opset: the ONNX operator set, one of `opset.OPSETS`.
        limits: the parity limits.
        data: labeled images; None takes those of the training run in whose folder the checkpoint is.
        class_mapping: the class names, for a checkpoint without them.
        name: the stem of the file names; None combines the architecture and the checkpoint's digest.
        notes: free text for the manifest, for example data terms and intended use.
        confidence: temperature and rejection threshold, given or to be chosen.
        validation_model: for a checkpoint that was trained on all images, an exported file from a training by the same
            recipe that held `data` out. Temperature and thresholds come from its answers.
        explainable: add the last feature map as an output, for explanations without PyTorch.
        keep_failed: keep a file that is not within the limits, as <name>.<precision>.failed.onnx.

    Raises:
        InputError: the name is not a valid file name, or the operator set is not supported.
    """

    checkpoint: Path
    output: Path
    int8: Int8Config | Int8Search | None = None
    fp16: bool = False
    opset: int = OPSET
    limits: ParityLimits = field(default_factory=ParityLimits)
    data: OpenOptions | None = None
    class_mapping: Path | None = None
    name: str | None = None
    notes: str = ""
    confidence: ConfidenceOptions = field(default_factory=ConfidenceOptions)
    validation_model: Path | None = None
    explainable: bool = True
    keep_failed: bool = False

    def __post_init__(self) -> None:
        """Check the name and the operator set."""
        if self.name is not None and (
            not self.name.strip() or Path(self.name).name != self.name or self.name[0] == "."
        ):
            raise InputError(f"invalid model name {self.name!r}: it must be a valid file name")
        if self.opset not in OPSETS:
            raise InputError(
                f"unsupported opset {self.opset}: use {OPSETS[0]} to {OPSETS[-1]}; torch needs {OPSETS[0]} or more, "
                f"and ONNX Runtime computes INT8 files of opset {OPSETS[-1] + 1} incorrectly"
            )


@dataclass(frozen=True)
class ExportResult:
    """The files of an export within its limits, and the reports.

    After `exported = tw.export(...)`:

    >>> exported.fp32.name, exported.int8, 0 <= exported.confidence.threshold <= 1
    ('cars.fp32.onnx', None, True)

    Attributes:
        fp32: the FP32 file.
        int8: the INT8 file, or None if it was not requested.
        fp16: the half-precision file, or None if it was not requested.
        parity: the comparison of each file with its reference.
        confidence: the choice of temperature and threshold, and their effect.
        search: the INT8 candidates, or None without a search.
    """

    fp32: Path
    int8: Path | None
    fp16: Path | None
    parity: ParityReport
    confidence: ConfidenceReport
    search: SearchReport | None
