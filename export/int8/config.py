"""The choices of an INT8 export, and the named choices for each kind of box. Nothing heavy is imported here."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from twincar_edge.errors import InputError, first_fault, nearest
from twincar_edge.machine import Machine, this_machine
from twincar_edge.manifest import QuantizationRecord
from twincar_edge.records import Record

Calibration = Literal["minmax", "percentile", "entropy", "mse"]
CALIBRATIONS: tuple[Calibration, ...] = ("minmax", "percentile", "entropy", "mse")


class Int8Config(Record):
    """How weights and activations become 8-bit integers.

    `target` is the preset that the choices come from, or None. `activations` and `weights` are the integer types;
    `symmetric` activations have their zero in the middle, which TensorRT asks for. `per_channel` gives each output
    channel of a layer a scale of its own: without it a fine-grained classifier falls by ten points.

    `reduce_range` keeps weights as far below 8 bits as it takes for the file to answer alike on x86 CPUs with and
    without VNNI; without it the file is a little more accurate where VNNI is sure to be there, and elsewhere needs
    kernels that are exact and slower. `float_layers` counts the layers with weights, from the input on, that stay in
    float: what is rounded early nothing later can mend, and these layers are few in bytes. `float_nodes` names more of
    them by their weights, anywhere in the graph. `float_bias` leaves biases in float, as TensorRT asks for.

    `calibration` says how the range of each activation is found (see `ActivationRanges`), `percentile` how much of it
    that method keeps; `calibration_images` of the training images are looked at for it.
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
    def _is_what_runtimes_compute(self) -> Self:
        if self.activations == "int8" and self.weights == "uint8":
            raise ValueError("no runtime multiplies int8 activations by uint8 weights: take int8 weights")
        return self

    def record(self, images: int) -> QuantizationRecord:
        """Return what the manifest keeps, with the number of calibration images that there really were."""
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


# Target -> its choices. x86 multiplies unsigned activations by signed weights fastest; S8S8 gains nothing there over
# float. Arm's dot product takes signed ones and adds into 32 bits, so nothing is clipped. TensorRT takes symmetric
# signed activations only, keeps biases in float, and fuses from the first layer on. OpenVINO picks kernels by the CPU,
# so its files keep to what clips nowhere.
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


class Int8Search(Record):
    """A search for the INT8 choices that keep to the limits of parity.

    `target` names the one preset to begin with; None tries those that suit this machine. `changes` are choices of
    `Int8Config` that hold in every candidate.
    """

    target: str | None = None
    changes: dict[str, Any] = Field(default_factory=dict)
    calibration_images: Annotated[int, Field(ge=1, le=100_000)] = 256

    @property
    def methods(self) -> tuple[Calibration, ...]:
        """Return the calibrations to try."""
        given = self.changes.get("calibration")
        return CALIBRATIONS if given is None else (given,)

    def presets(self) -> list[Int8Config]:
        """Return the choices to begin with, the preferred first, with the changes.

        Raises:
            InputError: there is no such target, or the changes are no choices, or do not go together.
        """
        return [self.changed(preset) for preset in presets_for(self.target, this_machine())]

    def changed(self, preset: Int8Config) -> Int8Config:
        """Return a preset with the changes.

        Raises:
            InputError: they are no choices, or do not go together.
        """
        try:
            choices = {**preset.model_dump(), **self.changes, "calibration_images": self.calibration_images}
            return Int8Config.model_validate(choices)
        except ValidationError as error:
            raise InputError(f"INT8 cannot be made like that: {first_fault(error)}") from error


def presets_for(target: str | None, machine: Machine) -> tuple[Int8Config, ...]:
    """Return the presets to try, the preferred first.

    A target has one. Without one they are those of this machine's processor: what is right on every x86 CPU stands
    before what is made for those with VNNI.

    Raises:
        InputError: there is no such target.
    """
    if target is not None:
        if target not in PRESETS:
            raise InputError(f"no INT8 target {target!r}: {nearest(target, tuple(PRESETS))}")
        return (PRESETS[target],)
    names = ["arm64"] if machine.system.split()[-1] in ("aarch64", "arm64") else ["x86-avx2"]
    if machine.has_vnni:
        names.append("x86-vnni")
    return tuple(PRESETS[name] for name in names)
