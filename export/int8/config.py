"""The settings of an INT8 export, and presets for each target. Imports nothing heavy."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from twincar_edge.errors import InputError, nearest, parameter_fault
from twincar_edge.machine import Machine, this_machine
from twincar_edge.manifest import QuantizationRecord
from twincar_edge.records import Settings

Calibration = Literal["minmax", "percentile", "entropy", "mse"]
CALIBRATIONS: tuple[Calibration, ...] = ("minmax", "percentile", "entropy", "mse")


class Int8Config(Settings):
    """How weights and activations are quantized to 8 bits.

    `target` is the preset that the settings come from, or None. `activations` and `weights` are the integer types.
    `symmetric` activations have their zero point in the middle of the range, which TensorRT requires. `per_channel`
    gives each output channel of a layer its own scale: without it, a fine-grained classifier loses ten points.

    `reduce_range` limits the range of weights so that the file computes the same on x86 CPUs with and without VNNI.
    Without it, the file is slightly more accurate with VNNI, and needs exact but slower kernels on other CPUs.
    `float_layers` is the number of layers with weights, counted from the input, that stay in float: later layers cannot
    correct their rounding errors, and they have few weights. `float_nodes` lists further float layers by the names of
    their weights. `float_bias` keeps biases in float, which TensorRT requires.

    `calibration` is the method for the ranges of activations (see `ActivationRanges`), `percentile` the parameter of
    the method of that name, and `calibration_images` the maximum number of training images for calibration.
    """

    target: str | None = None
    activations: Literal["uint8", "int8"] = "uint8"
    weights: Literal["int8", "uint8"] = "int8"
    symmetric: bool = False
    per_channel: bool = True
    reduce_range: bool = True
    float_bias: bool = False
    float_layers: Annotated[int, Field(ge=0, le=1000)] = 1
    float_nodes: tuple[str, ...] = ()
    calibration: Calibration = "minmax"
    percentile: Annotated[float, Field(gt=50, le=100)] = 99.999
    calibration_images: Annotated[int, Field(ge=1, le=100_000)] = 256

    @model_validator(mode="after")
    def _check_types(self) -> Self:
        if self.activations == "int8" and self.weights == "uint8":
            raise ValueError("no runtime supports int8 activations with uint8 weights: use int8 weights")
        return self

    def record(self, images: int) -> QuantizationRecord:
        """Return the record for the manifest, with the actual number of calibration images."""
        exact = self.calibration if self.calibration != "percentile" else f"percentile {self.percentile:g}"
        return QuantizationRecord(
            target=self.target,
            activations=self.activations,
            weights=self.weights,
            symmetric=self.symmetric,
            per_channel=self.per_channel,
            reduce_range=self.reduce_range,
            float_layers=self.float_layers,
            float_nodes=self.float_nodes,
            calibration=exact,
            calibration_images=images,
        )


# Target -> its settings. x86 multiplies unsigned activations by signed weights fastest; S8S8 is no faster than float
# there. Arm's dot product takes signed values and accumulates in 32 bits, so nothing saturates. TensorRT supports only
# symmetric signed activations, keeps biases in float, and fuses from the first layer on. OpenVINO chooses kernels by
# the CPU, so its files must not saturate on any.
PRESETS: dict[str, Int8Config] = {
    "x86-avx2": Int8Config(target="x86-avx2"),
    "x86-vnni": Int8Config(target="x86-vnni", reduce_range=False),
    "arm64": Int8Config(target="arm64", activations="int8", reduce_range=False),
    "tensorrt": Int8Config(
        target="tensorrt",
        activations="int8",
        symmetric=True,
        reduce_range=False,
        float_bias=True,
        float_layers=0,
        calibration="entropy",
    ),
    "openvino": Int8Config(target="openvino", float_layers=0, calibration="percentile"),
}


class Int8Search(Settings):
    """A search for INT8 settings within the parity limits.

    `target` is the preset to start with; None tries the presets for this machine. `changes` are fields of `Int8Config`
    that are fixed in all candidates.
    """

    target: str | None = None
    changes: dict[str, Any] = Field(default_factory=dict)
    calibration_images: Annotated[int, Field(ge=1, le=100_000)] = 256

    @property
    def methods(self) -> tuple[Calibration, ...]:
        """Return the calibration methods to try."""
        given = self.changes.get("calibration")
        return CALIBRATIONS if given is None else (given,)

    def presets(self) -> list[Int8Config]:
        """Return the presets to start with, with the changes, in order of preference.

        Raises:
            InputError: the target is unknown, or the changes are invalid.
        """
        return [self.changed(preset) for preset in presets_for(self.target, this_machine())]

    def changed(self, preset: Int8Config) -> Int8Config:
        """Return a preset with the changes.

        Raises:
            InputError: the changes are invalid.
        """
        try:
            choices = {**preset.model_dump(), **self.changes, "calibration_images": self.calibration_images}
            return Int8Config.model_validate(choices)
        except ValidationError as error:
            raise InputError("invalid INT8 settings: ", *parameter_fault(error)) from error


def presets_for(target: str | None, machine: Machine) -> tuple[Int8Config, ...]:
    """Return the presets to try, in order of preference.

    A target has one preset. None returns those for this machine's CPU: on x86, the preset for all CPUs comes before
    the one for CPUs with VNNI.

    Raises:
        InputError: the target is unknown.
    """
    if target is not None:
        if target not in PRESETS:
            raise InputError(f"no INT8 target {target!r}: {nearest(target, tuple(PRESETS))}")
        return (PRESETS[target],)
    names = ["arm64"] if machine.system.split()[-1] in ("aarch64", "arm64") else ["x86-avx2"]
    if machine.has_vnni:
        names.append("x86-vnni")
    return tuple(PRESETS[name] for name in names)
