"""What an export is asked for, and what it returns. Nothing heavy is imported here."""

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
    """What to export, to where, and what it must hold.

    Attributes:
        checkpoint: what `twincar-edge train` wrote, or the original TwinCar's .pth.
        output: the folder for the files; made where it is not there.
        int8: the choices of an INT8 file, or a search for those that keep to the limits; None makes none.
        fp16: make a half-precision file as well, for GPU providers.
        opset: the ONNX operator set, one of `opset.OPSETS`.
        limits: what the files may lose.
        data: labelled images; None takes those of the training, from the folder that the checkpoint lies in.
        class_mapping: the class names, for a checkpoint that holds none.
        name: what the files are called; None makes a name of the architecture and the checkpoint's digest.
        notes: for people who find the file later: data terms, what the model is for.
        confidence: how sure the box may be: temperature and rejection threshold, given or to be found.
        explainable: add the last feature map as an output, so that the box can explain answers without PyTorch.
        keep_failed: keep a file that missed a limit, as <name>.<precision>.failed.onnx.

    Raises:
        InputError: the name cannot be a file name, or ONNX Runtime cannot be trusted with the operator set.
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
    explainable: bool = True
    keep_failed: bool = False

    def __post_init__(self) -> None:
        """Check the name, since files are written under it, and the operator set."""
        if self.name is not None and (
            not self.name.strip() or Path(self.name).name != self.name or self.name[0] == "."
        ):
            raise InputError(f"a model's name becomes its file name: it cannot be {self.name!r}")
        if self.opset not in OPSETS:
            raise InputError(
                f"the opset must be {OPSETS[0]} to {OPSETS[-1]}, found {self.opset}: torch exports from "
                f"{OPSETS[0]} on, and ONNX Runtime computes INT8 files of opset {OPSETS[-1] + 1} wrongly"
            )


@dataclass(frozen=True)
class ExportResult:
    """The files of an export that met its limits, and what was found on the way.

    After `exported = tw.export(...)`:

    >>> exported.fp32.name, exported.int8, 0 <= exported.confidence.threshold <= 1
    ('cars.fp32.onnx', None, True)

    Attributes:
        fp32: the FP32 file.
        int8: the INT8 file, or None where none was asked for; `fp16` likewise.
        fp16: the half-precision file.
        parity: what each file lost.
        confidence: how temperature and threshold were found, and what they give.
        search: the INT8 candidates, or None where nothing was searched.
    """

    fp32: Path
    int8: Path | None
    fp16: Path | None
    parity: ParityReport
    confidence: ConfidenceReport
    search: SearchReport | None
