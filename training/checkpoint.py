"""The one place that reads a checkpoint: weights and plain values, never code.

A pickle can run anything. Every checkpoint goes through `torch.load(weights_only=True)`, whose unpickler builds tensors
and primitives and refuses all else.
"""

from __future__ import annotations

import hashlib
import pickle
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from twincar_edge.errors import InputError, ModelError, first_fault
from twincar_edge.files import replacing
from twincar_edge.labels import ClassMapping
from twincar_edge.manifest import DataRecord
from twincar_edge.preprocess import Preprocess

FORMAT = "twincar-edge checkpoint"
SCHEMA_VERSION: Literal[1] = 1
CLASS_MAPPING_NAME = "class_mapping.json"
MAX_TENSORS = 100_000

# The names under which training scripts wrap a state dict.
_WRAPPERS = ("state_dict", "model_state_dict")
# The keys by which TwinCar's ResNet50 with its two-layer head is known, and the bias that has one value a class.
_RESNET50_KEYS = frozenset({"conv1.weight", "layer4.2.conv3.weight", "fc.0.weight", "fc.3.weight", "fc.3.bias"})
_RESNET50_OUTPUT = "fc.3.bias"
# What torch.load was seen to raise on files that are cut off, altered, or no checkpoint at all.
_UNREADABLE = (
    pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, TypeError, AttributeError, LookupError,
    AssertionError, OverflowError, MemoryError, struct.error,
)  # fmt: skip
# In the words of torch's unpickler: a class or function that is not on its list, or a call to one.
_CODE_SIGNS = ("nsupported global", "nsupported GLOBAL", "nsupported class", "unrecognized function")

Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class Checkpoint:
    """A model with all that belongs to it, as it was read.

    `state_dict` holds the backbone's tensors. `recipe` is how it was trained, empty where that is not known; so are
    `data`, `epoch` (from 1) and the validation accuracies (shares) None. `sha256` is the file's, `name` its file name.
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


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

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


def read_checkpoint(path: Path, class_mapping: Path | None = None) -> Checkpoint:
    """Read a checkpoint: one that `fit` wrote, or the original TwinCar's `twin_car_best_model_v2.pth`.

    The original's is a ResNet50 state dict, bare or under "state_dict" or "model_state_dict". It holds no class names:
    they come from `class_mapping`, or from the `class_mapping.json` beside the file.

    Args:
        path: the checkpoint.
        class_mapping: class names that replace the file's own, or that it lacks.

    Raises:
        ModelError: the file is missing, is no checkpoint, holds anything but weights and plain values, or does not
            validate.
        InputError: the class mapping cannot be read.
    """
    loaded, digest = _load(path)
    if isinstance(loaded, dict) and loaded.get("format") == FORMAT:
        return _read_document(loaded, path, class_mapping, digest)
    return _read_original(_unwrap(loaded, path), path, class_mapping, digest)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read only the tensors of a checkpoint or state dict, whatever the model: weights that a training starts from.

    Raises:
        ModelError: as `read_checkpoint`.
    """
    return _unwrap(_load(path)[0], path)


def write_checkpoint(
    path: Path,
    *,
    architecture: str,
    state_dict: dict[str, Tensor],
    classes: ClassMapping,
    preprocess: Preprocess,
    recipe: dict[str, Any],
    data: DataRecord | None = None,
    epoch: int | None = None,
    validation_top1: float | None = None,
    validation_top5: float | None = None,
) -> None:
    """Write a checkpoint of this project's format, whole or not at all: primitives and tensors only.

    Raises:
        InputError: the file cannot be written.
    """
    document = {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "architecture": architecture,
        # clone(): a view would drag its whole storage into the file.
        "state_dict": {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state_dict.items()},
        "classes": list(classes),
        "preprocess": preprocess.model_dump(mode="json"),
        "recipe": recipe,
        "data": None if data is None else data.model_dump(mode="json"),
        "epoch": epoch,
        "validation_top1": validation_top1,
        "validation_top5": validation_top5,
    }
    with replacing(path) as temporary:
        try:
            torch.save(document, temporary)
        except RuntimeError as error:  # torch's file writer reports a full disk so
            raise InputError(f"cannot write {path}: {str(error).splitlines()[0]}") from error


def _load(path: Path) -> tuple[Any, str]:
    """Return what the file holds, and its SHA-256: of the same open file, so that both are of the same bytes."""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            return _load_weights(file, path), digest
    except OSError as error:
        raise ModelError(f"cannot read the checkpoint {path}: {error.strerror or error}") from error


def _load_weights(file: BinaryIO, path: Path) -> Any:
    try:
        with warnings.catch_warnings():  # torch warns of oddities in files that it then refuses, or reads all the same
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        if isinstance(error, pickle.UnpicklingError) and any(sign in str(error) for sign in _CODE_SIGNS):
            raise ModelError(
                f"{path} holds more than weights (Python objects, which can run code), and was not loaded: "
                "save model.state_dict() instead of the whole model"
            ) from error
        raise ModelError(
            f"{path} is not a checkpoint that can be read: it is cut off, altered, or something else"
        ) from error


def _unwrap(loaded: Any, path: Path) -> dict[str, Tensor]:
    """Return the state dict in what was loaded, checked."""
    if isinstance(loaded, dict):
        loaded = next((loaded[key] for key in _WRAPPERS if isinstance(loaded.get(key), dict)), loaded)
    if not isinstance(loaded, dict) or not loaded or len(loaded) > MAX_TENSORS:
        raise ModelError(f"{path} holds no state dict (a mapping from names to tensors)")
    return _check_tensors(loaded, path)


def _check_tensors(state_dict: dict[Any, Any], path: Path) -> dict[str, Tensor]:
    for name, tensor in state_dict.items():
        if not isinstance(name, str):
            raise ModelError(f"{path} holds no state dict: its keys are not names")
        if not isinstance(tensor, Tensor):
            raise ModelError(f"{path} holds no state dict: {name[:60]!r} is a {type(tensor).__name__}, not a tensor")
        if tensor.layout is not torch.strided or tensor.is_quantized:
            raise ModelError(f"{path}: {name} is not a plain dense tensor")
        # A few stored bytes can be declared as terabytes through strides of 0.
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ModelError(f"{path}: {name} claims more values than the file holds")
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ModelError(f"{path}: {name} has values that are not finite, the training went wrong")
    return {str(name): tensor for name, tensor in state_dict.items()}


def _read_document(loaded: dict[Any, Any], path: Path, class_mapping: Path | None, digest: str) -> Checkpoint:
    version = loaded.get("schema_version")
    if version != SCHEMA_VERSION:
        raise ModelError(
            f"{path} is a checkpoint of schema version {version!r}, this release reads {SCHEMA_VERSION}: "
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
                f"{path} has {len(classes)} outputs and {class_mapping} {len(given)} names: give its own mapping"
            )
        classes = given
    return Checkpoint(
        architecture=document.architecture,
        state_dict=_check_tensors(document.state_dict, path),
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
            f"{path} is neither a checkpoint of `twincar-edge train` nor TwinCar's ResNet50: "
            f"{min(_RESNET50_KEYS - state_dict.keys())} is missing"
        )
    beside = path.parent / CLASS_MAPPING_NAME
    if class_mapping is None and not beside.is_file():
        raise ModelError(
            f"{path} is a state dict without class names: put its class_mapping.json beside it ({beside}), "
            "or name it with --class-mapping"
        )
    mapping = class_mapping if class_mapping is not None else beside
    classes = ClassMapping.from_json(mapping)
    outputs = state_dict[_RESNET50_OUTPUT].numel()
    if outputs != len(classes):
        raise ModelError(
            f"{path} has {outputs} outputs and {mapping} {len(classes)} names: give the mapping that belongs to it"
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
