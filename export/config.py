"""What an export is asked for, and what it returns. Nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from twincar_edge.datasets.options import OpenOptions
from twincar_edge.errors import InputError
from twincar_edge.export.report import ParityLimits, ParityReport
from twincar_edge.manifest import QuantizationRecord


class Int8Config(BaseModel):
    """The choices of an INT8 export.

    `reduce_range` keeps weights as far below 8 bits as it takes for the file to answer alike on CPUs with and without
    VNNI; without it the file is a little more accurate where VNNI is sure to be there, and wrong where it is not.
    `float_layers` counts the layers with weights, from the input on, that stay in float: what is rounded early nothing
    later can mend, and these layers are few in bytes. `calibration` says how the range of each activation is found;
    `calibration_images` of the training images are looked at for it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    reduce_range: bool = True
    float_layers: Annotated[int, Field(ge=0, le=1000)] = 1
    calibration: Literal["minmax"] = "minmax"
    calibration_images: Annotated[int, Field(ge=1, le=100_000)] = 256

    def record(self, images: int) -> QuantizationRecord:
        """Return what the manifest keeps, with the number of calibration images that there really were."""
        return QuantizationRecord(
            activations="uint8",
            weights="int8",
            per_channel=True,
            reduce_range=self.reduce_range,
            float_layers=self.float_layers,
            calibration=self.calibration,
            calibration_images=images,
        )


@dataclass(frozen=True)
class ExportConfig:
    """What to export, to where, and what it must hold.

    Attributes:
        checkpoint: what `twincar-edge train` wrote, or the original TwinCar's .pth.
        output: the folder for the files; made where it is not there.
        int8: the recipe of the INT8 file, or None for FP32 alone.
        limits: what the files may lose.
        data: labelled images; None takes those of the training, from the folder that the checkpoint lies in.
        class_mapping: the class names, for a checkpoint that holds none.
        name: what the files are called; None makes a name of the architecture and the checkpoint's digest.
        notes: for people who find the file later: data terms, what the model is for.
        temperature: divides logits before softmax, on the box.
        reject_below: the probability under which the box answers "unknown".
        keep_failed: keep a file that missed a limit, as <name>.<precision>.failed.onnx.

    Raises:
        InputError: the name cannot be a file name.
    """

    checkpoint: Path
    output: Path
    int8: Int8Config | None = None
    limits: ParityLimits = field(default_factory=ParityLimits)
    data: OpenOptions | None = None
    class_mapping: Path | None = None
    name: str | None = None
    notes: str = ""
    temperature: float = 1.0
    reject_below: float = 0.0
    keep_failed: bool = False

    def __post_init__(self) -> None:
        """Check the name: files are written under it."""
        if self.name is not None and (
            not self.name.strip() or Path(self.name).name != self.name or self.name[0] == "."
        ):
            raise InputError(f"a model's name becomes its file name: it cannot be {self.name!r}")


@dataclass(frozen=True)
class ExportResult:
    """The files of an export that met its limits, and what parity showed. `int8` is None where none was asked for."""

    fp32: Path
    int8: Path | None
    parity: ParityReport
