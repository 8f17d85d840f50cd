"""Reads and writes checkpoints: weights and plain values, never code.

This module defines the contents of a checkpoint; `checkpoint_files` reads and writes the two file formats.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict, Unpack

from pydantic import Field, ValidationError, field_validator
from torch import Tensor

from twincar_edge.datasets.files import CLASS_MAPPING
from twincar_edge.errors import InputError, ModelError, Parameter, first_fault
from twincar_edge.labels import ClassMapping
from twincar_edge.manifest import DataRecord
from twincar_edge.preprocess import Preprocess
from twincar_edge.records import Record, Share
from twincar_edge.training.checkpoint_files import (
    SAFETENSORS_SUFFIX,
    check_tensors,
    in_half,
    load_plain,
    plain_tensors,
    save_plain,
    save_safetensors,
    unwrap_state_dict,
)

FORMAT = "twincar-edge checkpoint"
SCHEMA_VERSION: Literal[1] = 1

# The keys that identify TwinCar's ResNet50 with its two-layer head, and its output bias, one value per class.
_RESNET50_KEYS = frozenset({"conv1.weight", "layer4.2.conv3.weight", "fc.0.weight", "fc.3.weight", "fc.3.bias"})
_RESNET50_OUTPUT = "fc.3.bias"


class Contents(TypedDict):
    """The parameters of `write_checkpoint`, documented in `Checkpoint`. Omitted ones are unknown."""

    architecture: str
    state_dict: dict[str, Tensor]
    classes: ClassMapping
    preprocess: Preprocess
    recipe: dict[str, Any]
    data: NotRequired[DataRecord | None]
    epoch: NotRequired[int | None]
    validation_top1: NotRequired[float | None]
    validation_top5: NotRequired[float | None]


@dataclass(frozen=True)
class Checkpoint:
    """A model as read from a file, with its metadata.

    `state_dict` holds the backbone's tensors. `recipe` is the training recipe, empty if unknown. `data`, `epoch` (from
    1) and the validation accuracies (0 to 1) are None if unknown. `sha256` is the file's digest, `name` its file name.
    """

    architecture: str
    state_dict: dict[str, Tensor]
    classes: ClassMapping
    preprocess: Preprocess
    recipe: dict[str, Any]
    data: DataRecord | None
    epoch: int | None
    validation_top1: float | None
    validation_top5: float | None
    sha256: str
    name: str

    def contents(self) -> Contents:
        """Return the parameters that write a copy: `write_safetensors(path, **checkpoint.contents())`."""
        return Contents(
            architecture=self.architecture,
            state_dict=self.state_dict,
            classes=self.classes,
            preprocess=self.preprocess,
            recipe=self.recipe,
            data=self.data,
            epoch=self.epoch,
            validation_top1=self.validation_top1,
            validation_top5=self.validation_top5,
        )


class _Document(Record, arbitrary_types_allowed=True):
    format: Literal["twincar-edge checkpoint"]
    schema_version: Literal[1]
    architecture: Annotated[str, Field(min_length=1, max_length=200)]
    state_dict: dict[str, Tensor]
    classes: tuple[str, ...]
    preprocess: Preprocess
    recipe: dict[str, Any]
    data: DataRecord | None
    epoch: Annotated[int, Field(ge=0)] | None
    validation_top1: Share | None
    validation_top5: Share | None

    @field_validator("recipe")
    @classmethod
    def _is_json(cls, recipe: dict[str, Any]) -> dict[str, Any]:
        try:
            json.dumps(recipe, ensure_ascii=False, allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError("not plain values that JSON can hold") from error  # manifests and copies hold it as JSON
        return recipe


def read_checkpoint(path: Path, class_mapping: Path | None = None) -> Checkpoint:
    """Read a checkpoint: one that `fit` wrote, or the original TwinCar's `twin_car_best_model_v2.pth`.

    The original's is a ResNet50 state dict, bare or wrapped (`unwrap_state_dict`). It holds no class names: they come
    from `class_mapping`, or from the `class_mapping.json` next to the file. Half-precision tensors are returned as
    float32.

    Args:
        path: the checkpoint; safetensors if it ends in .safetensors, otherwise PyTorch's format.
        class_mapping: class names that replace the file's own, or that it lacks.

    Raises:
        ModelError: the file is missing, is not a checkpoint, holds anything but weights and plain values, or is
            invalid.
        InputError: the class mapping cannot be read.
    """
    loaded, digest = load_plain(path)
    if isinstance(loaded, dict) and loaded.get("format") == FORMAT:
        return _read_document(loaded, path, class_mapping, digest)
    return _read_original(unwrap_state_dict(loaded, path), path, class_mapping, digest)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read only the tensors of a checkpoint or state dict of any architecture, as initial weights for training.

    Raises:
        ModelError: as `read_checkpoint`.
    """
    return unwrap_state_dict(load_plain(path)[0], path)


def write_checkpoint(path: Path, **contents: Unpack[Contents]) -> None:
    """Write a checkpoint in this project's format, atomically: primitives and tensors only.

    Raises:
        InputError: the file cannot be written.
    """
    save_plain(path, {**_document(contents), "state_dict": plain_tensors(contents["state_dict"])})


def write_safetensors(path: Path, *, half: bool = False, **contents: Unpack[Contents]) -> None:
    """Write the same checkpoint as a safetensors file, atomically; the same contents give the same bytes.

    Args:
        path: the file, which must end in .safetensors.
        half: store floating-point tensors in float16.
        contents: as in `write_checkpoint`.

    Raises:
        InputError: the file cannot be written, or its name has another suffix.
        ModelError: a value is too large for float16.
    """
    if path.suffix.lower() != SAFETENSORS_SUFFIX:
        raise InputError(f"{path} lacks the suffix of a safetensors file: use {SAFETENSORS_SUFFIX}")
    tensors = plain_tensors(contents["state_dict"])
    save_safetensors(path, in_half(tensors) if half else tensors, _document(contents))


def write_state_dict(path: Path, state_dict: dict[str, Tensor]) -> None:
    """Write a bare state dict, atomically, as the original TwinCar's quickstart loads it.

    `model.load_state_dict(torch.load(path))` loads the file, where `model` is the original's for "resnet50" and
    `timm.create_model(architecture, num_classes=...)` for any other architecture. `read_checkpoint` reads a ResNet50's
    file if its `class_mapping.json` is next to it.

    Raises:
        InputError: the file cannot be written.
    """
    save_plain(path, plain_tensors(state_dict))


def _document(contents: Contents) -> dict[str, Any]:
    """Return the JSON document of a checkpoint: everything but its tensors."""
    data = contents.get("data")
    return {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "architecture": contents["architecture"],
        "classes": list(contents["classes"]),
        "preprocess": contents["preprocess"].model_dump(mode="json"),
        "recipe": contents["recipe"],
        "data": None if data is None else data.model_dump(mode="json"),
        "epoch": contents.get("epoch"),
        "validation_top1": contents.get("validation_top1"),
        "validation_top5": contents.get("validation_top5"),
    }


def _read_document(loaded: dict[Any, Any], path: Path, class_mapping: Path | None, digest: str) -> Checkpoint:
    version = loaded.get("schema_version")
    if version != SCHEMA_VERSION:
        raise ModelError(
            f"{path} has schema version {version!r}, but this release reads only version {SCHEMA_VERSION}: "
            "upgrade twincar-edge"
        )
    try:
        document = _Document.model_validate(loaded)
        classes = ClassMapping(document.classes)
    except ValidationError as error:
        raise ModelError(f"{path} is not a valid checkpoint, at {first_fault(error)}") from error
    except InputError as error:
        raise ModelError(f"{path}: {error}") from error
    if class_mapping is not None:
        given = ClassMapping.from_json(class_mapping)
        if len(given) != len(classes):
            raise ModelError(
                f"{path} has {len(classes)} outputs, but {class_mapping} has {len(given)} names: "
                "use the mapping that belongs to the checkpoint"
            )
        classes = given
    return Checkpoint(
        architecture=document.architecture,
        state_dict=check_tensors(document.state_dict, path),
        classes=classes,
        preprocess=document.preprocess,
        recipe=document.recipe,
        data=document.data,
        epoch=document.epoch,
        validation_top1=document.validation_top1,
        validation_top5=document.validation_top5,
        sha256=digest,
        name=path.name,
    )


def _read_original(state_dict: dict[str, Tensor], path: Path, class_mapping: Path | None, digest: str) -> Checkpoint:
    if not state_dict.keys() >= _RESNET50_KEYS:
        raise ModelError(
            f"{path} is neither a checkpoint of `twincar-edge train` nor TwinCar's ResNet50: it has no tensor "
            f"{min(_RESNET50_KEYS - state_dict.keys())}; its first tensor is {next(iter(state_dict))[:60]!r}"
        )
    beside = path.parent / CLASS_MAPPING
    if class_mapping is None and not beside.is_file():
        raise ModelError(
            f"{path} is a state dict without class names: put its class_mapping.json next to it ({beside}), "
            "or give that file with ",
            Parameter("class_mapping"),
        )
    mapping = class_mapping if class_mapping is not None else beside
    classes = ClassMapping.from_json(mapping)
    outputs = state_dict[_RESNET50_OUTPUT].numel()
    if outputs != len(classes):
        raise ModelError(
            f"{path} has {outputs} outputs, but {mapping} has {len(classes)} names: "
            "use the mapping that belongs to the checkpoint"
        )
    return Checkpoint(
        architecture="resnet50",
        state_dict=state_dict,
        classes=classes,
        preprocess=Preprocess(),  # the original's: Resize((224, 224)), ImageNet's mean and std
        recipe={},
        data=None,
        epoch=None,
        validation_top1=None,
        validation_top5=None,
        sha256=digest,
        name=path.name,
    )
