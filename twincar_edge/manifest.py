"""The manifest of a model: one validated JSON document in the metadata of the ONNX file.

The `.onnx` file is the contract between training and the camera box. It has everything that the box needs, so no
later step asks the user for it again. Reading needs neither onnx nor ONNX Runtime: `onnx_metadata` parses the file's
bytes before a larger library opens an untrusted file.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from twincar_edge.arguments import checked_arguments
from twincar_edge.errors import InputError, ModelError
from twincar_edge.labels import ClassMapping
from twincar_edge.onnx_metadata import check_digest, open_onnx
from twincar_edge.preprocess import Preprocess
from twincar_edge.records import Record, Share

METADATA_KEY = "twincar_edge.manifest"
SCHEMA_VERSION: Literal[1] = 1
Precision = Literal["fp32", "fp16", "int8"]
Familiarity = Annotated[float, Field(ge=-2, le=1)]
# Far outside the range of any real model. A smaller value would overflow the logits that are divided by it.
Temperature = Annotated[float, Field(ge=1e-3, le=1e3)]


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("control characters are not allowed")  # the text appears in logs, on terminals and on pages
    return text


def _printable_lines(text: str) -> str:
    _printable(text.replace("\n", " "))
    return text


Text = Annotated[str, AfterValidator(_printable)]
Lines = Annotated[str, AfterValidator(_printable_lines)]


class DataRecord(Record):
    """The labeled images of a model: data set name, number of images, and a digest over names and labels."""

    name: Text
    images: int = Field(ge=0)
    digest: Text


class TrainingRecord(Record):
    """Origin of the weights: the checkpoint's SHA-256, the recipe, the data, and the accuracy on it."""

    checkpoint_sha256: Text
    recipe: dict[str, Any]
    data: DataRecord | None = None
    epoch: int | None = None
    validation_top1: Share | None = None
    validation_top5: Share | None = None


class QuantizationRecord(Record):
    """How an INT8 file was made.

    The first `float_layers` layers with weights compute in float, and so do the layers whose weights are listed in
    `float_nodes`. `target` is the preset that the choices come from, if any. With `reduce_range`, weights are so small
    that no x86 CPU clips their sums; without it, sessions on CPUs without VNNI must request exact kernels. With
    `symmetric`, activations have their zero in the middle of the 8-bit range.
    """

    format: Literal["QDQ"] = "QDQ"
    target: Text | None = None
    activations: Literal["uint8", "int8"]
    weights: Literal["uint8", "int8"]
    symmetric: bool = False
    per_channel: bool
    reduce_range: bool
    float_layers: int = Field(default=1, ge=0)
    float_nodes: tuple[Text, ...] = ()
    calibration: Text
    calibration_images: int = Field(ge=1)


class ParityRecord(Record):
    """The parity result: this file against its source, on the same images.

    Shares are between 0 and 1. `images` is the number of validation images.
    """

    against: Text
    images: int = Field(ge=1)
    top1: Share
    top5: Share
    top1_reference: Share
    top5_reference: Share
    agreement: Share
    max_abs_logit_difference: float = Field(ge=0)


class UnknownLimits(Record):
    """The limits behind the thresholds, if images of unknown things were given: shares between 0 and 1.

    At most `max_wrong_names` of such images may get a full class name, and at most `max_wrong_claims` any wrong name.
    `wrong_names` and `wrong_claims` are the measured shares on `images` images, which show `cars` car models and things
    that are not cars. They are below the limits, since other images may be harder.
    """

    max_wrong_names: Share
    max_wrong_claims: Share
    images: int = Field(ge=1)
    cars: int = Field(ge=0)
    wrong_names: Share
    wrong_claims: Share


class ConfidenceRecord(Record):
    """How temperature and rejection threshold were chosen, and their effect. Shares are between 0 and 1.

    The temperature was fitted on `images` held-out images; `ece_before` and `ece_after` are their expected calibration
    error without and with it. At the threshold, the share `coverage` of them get a full class name, and `named_top1` of
    these names are right. `unknown_named` is the share of each set of pictures without known cars that gets a wrong
    name, even only a make. `false_accept` is the allowed share, or None if the threshold was given or chosen otherwise.
    `limits` are the limits by which the thresholds of probability and familiarity were chosen together, or None.
    `validation_model` is the SHA-256 of the file that answered the held-out images, if this one was trained on all.
    """

    images: int = Field(ge=1)
    ece_before: Share
    ece_after: Share
    coverage: Share
    named_top1: Share | None
    false_accept: Share | None = None
    unknown_named: dict[Text, Share] = Field(default_factory=dict)
    limits: UnknownLimits | None = None
    validation_model: Text | None = None


class FamiliarityThresholds(Record):
    """The lowest familiarity of a vehicle for an answer at each level; `year` is the full class name.

    Familiarity is the similarity to the nearest prototype (`prototypes.py`), at most 1.
    """

    year: Familiarity
    model: Familiarity
    make: Familiarity

    @model_validator(mode="after")
    def _more_specific_needs_more(self) -> Self:
        if not self.make <= self.model <= self.year:
            raise ValueError("a more specific level must not need less familiarity")
        return self


class FamiliarityRecord(Record):
    """The basis of familiarity, and its thresholds.

    The prototypes are means over `prototype_images` images. The thresholds keep the shares `keep`, by level, of
    `images` held-out images.
    """

    thresholds: FamiliarityThresholds
    keep: dict[Literal["year", "model", "make"], Share]
    images: int = Field(ge=1)
    prototype_images: int = Field(ge=1)


class CropSizeFigures(Record):
    """Results for images shrunk to a shorter side of `px`: the share with a full name, and the share of these right.

    Smaller images are not resized.
    """

    px: int = Field(ge=1)
    coverage: Share
    right: Share | None


class CropSizesRecord(Record):
    """The smallest crop that gets a full name: `minimum_px` is the minimum of its shorter side in pixels.

    It is the smallest of the `sizes` such that there and at all larger ones, the share of right full names is within
    `tolerance` of `right`, the share for the `images` held-out images at their own size. `coverage` of these get a full
    name. Shares are between 0 and 1.
    """

    minimum_px: int = Field(ge=1)
    tolerance: Share
    images: int = Field(ge=1)
    coverage: Share
    right: Share
    sizes: tuple[CropSizeFigures, ...] = Field(max_length=32)


class HeadLayer(Record):
    """The names of one linear layer's weights in the file.

    `weights` are [outputs, inputs] with `by_output`, otherwise [inputs, outputs]. 8-bit weights are dequantized per
    output: subtract `zero_points`, then multiply by `scales`.
    """

    weights: Text = Field(max_length=1000)
    scales: Text | None = Field(default=None, max_length=1000)
    zero_points: Text | None = Field(default=None, max_length=1000)
    by_output: bool


class HeadRecord(Record):
    """The data for explaining answers: the output with the last feature map, and the layers after it.

    The feature map, [N, C, h, w], goes through average pooling and then the layers, with a ReLU between them.
    """

    features: Text = Field(min_length=1, max_length=200)
    layers: tuple[HeadLayer, ...] = Field(min_length=1, max_length=2)


class Manifest(Record):
    """Everything that the camera box needs to know about a model.

    `temperature` divides the logits before softmax. `reject_below` is the probability below which the answer is
    "unknown"; 0 rejects nothing. `embedding` names the graph's second output, the input features of the last layer,
    [N, D]. `familiarity` says how near to the classes they must be; a file with it also has prototypes. `head` names
    the output with the last feature map, and the weights after it, for explanations. `crop_sizes` says how small a crop
    may be for a full name. These are None in files without them. `notes` is for people: data terms, intended use.

    >>> manifest = tw.Classifier().manifest
    >>> manifest.name, manifest.precision, len(manifest.classes)
    ('lite0-cars196', 'int8', 196)
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    name: Text = Field(min_length=1, max_length=200)
    architecture: Text
    precision: Precision
    classes: tuple[str, ...]
    preprocess: Preprocess
    temperature: Temperature = 1.0
    reject_below: Share = 0.0
    training: TrainingRecord
    quantization: QuantizationRecord | None = None
    parity: ParityRecord | None = None
    confidence: ConfidenceRecord | None = None
    embedding: Text | None = Field(default=None, min_length=1, max_length=200)
    familiarity: FamiliarityRecord | None = None
    crop_sizes: CropSizesRecord | None = None
    head: HeadRecord | None = None
    notes: Lines = ""
    created: datetime
    twincar_edge_version: Text

    @field_validator("classes")
    @classmethod
    def _are_a_mapping(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        try:
            return ClassMapping(names).names
        except InputError as error:
            raise ValueError(str(error)) from error

    @model_validator(mode="after")
    def _familiarity_needs_an_embedding(self) -> Self:
        if self.familiarity is not None and self.embedding is None:
            raise ValueError("familiarity needs an embedding output")
        return self

    @model_validator(mode="after")
    def _two_layers_need_an_embedding(self) -> Self:
        if self.head is not None and len(self.head.layers) > 1 and self.embedding is None:
            raise ValueError("a head of two layers needs an embedding output")
        return self

    @property
    def class_mapping(self) -> ClassMapping:
        """Return the class names as a `ClassMapping`."""
        return ClassMapping(self.classes)

    @property
    def validation_model(self) -> str | None:
        """Return the SHA-256 of the file that answered the held-out images; None if this one did."""
        return None if self.confidence is None else self.confidence.validation_model

    def to_json(self) -> str:
        """Return the document for the file's metadata."""
        # Earlier releases reject keys that they do not know, so this one is written only where it is set.
        absent = self.confidence is not None and self.validation_model is None
        return self.model_dump_json(exclude={"confidence": {"validation_model"}} if absent else None)


@checked_arguments
def read_manifest(path: str | Path) -> Manifest:
    """Read the manifest of a model file without loading the model, after checking the file's digest.

    >>> tw.read_manifest(tw.demo_model()).classes[0]
    'Castor Vela Sedan 2019'

    Raises:
        ModelError: the file is missing, is not ONNX, does not match its digest, has no manifest, or has an invalid one.
    """
    path = Path(path)
    with open_onnx(path) as data:
        metadata = check_digest(data, str(path)).metadata
    return parse_manifest(metadata.get(METADATA_KEY), str(path))


def parse_manifest(text: str | None, where: str) -> Manifest:
    """Validate a manifest document; `where` names its file in an error.

    Raises:
        ModelError: the manifest is missing, invalid, or of an unsupported schema version.
    """
    if text is None:
        raise ModelError(
            f"{where} was not exported by twincar-edge (no {METADATA_KEY} in it): use `twincar-edge export`"
        )
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = repr(".".join(str(part) for part in first["loc"])[:80]) if first["loc"] else "the document"
        if first["loc"] == ("schema_version",):
            raise ModelError(
                f"{where} has a manifest of schema version {repr(first['input'])[:40]}, this release reads "
                f"{SCHEMA_VERSION}: upgrade twincar-edge, or export the model again"
            ) from error
        raise ModelError(f"{where} has a manifest that is not valid, at {place}: {first['msg'][:300]}") from error
