"""The two kinds of file that hold a checkpoint, PyTorch's and safetensors, and what may stand in one: never code.

A pickle can run anything. PyTorch's files go through `torch.load(weights_only=True)`, whose unpickler builds tensors
and primitives and refuses all else. Training scripts put objects of a few harmless types beside the weights; inert
placeholders take their place, so that nothing of the file runs. A safetensors file can hold nothing but a JSON header
and the tensors' bytes (https://github.com/huggingface/safetensors). What a checkpoint has beyond its tensors stands
there as one JSON text in the header's metadata.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from twincar_edge.checkpoint_signs import is_safetensors, other_kind
from twincar_edge.errors import InputError, ModelError
from twincar_edge.files import replacing
from twincar_edge.onnx_metadata import is_onnx

SAFETENSORS_SUFFIX = ".safetensors"
METADATA_KEY = "twincar-edge"
MAX_TENSORS = 100_000

# The names under which training scripts wrap a state dict, one in another at times. The averaged weights come last:
# they are taken where the file has no others.
_WRAPPERS = (
    "state_dict", "model_state_dict", "model", "net", "network", "module", "weights",
    "state_dict_ema", "model_ema", "ema_state_dict", "ema",
)  # fmt: skip
# What DataParallel, torch.compile, Lightning and AveragedModel put before the names of all tensors.
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
_MAX_WRAPPERS = 8
# Tensors beside the network's: the count of AveragedModel, and the class weights of a loss.
_NOT_THE_NETWORKS = re.compile(r"n_averaged$|(loss|loss_fn|criterion)\.")
# What torch.load was seen to raise on files that are cut off, altered, or no checkpoint at all.
_UNREADABLE = (
    pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, TypeError, AttributeError, LookupError,
    AssertionError, OverflowError, MemoryError, struct.error,
)  # fmt: skip
# In the words of torch's unpickler: a class or function that is not on its list, or a call to one.
_CODE_SIGNS = ("nsupported global", "nsupported GLOBAL", "nsupported class", "unrecognized function")
_OBJECT = re.compile(r"GLOBAL ([\w.]{1,100})")
_HALF = (torch.float16, torch.bfloat16)
_DTYPES = (
    *_HALF, torch.float32, torch.float64, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.bool,
)  # fmt: skip


class _Placeholder:
    """Takes the place of an object beside the weights; keeps nothing, does nothing."""

    def __new__(cls, *_args: object) -> _Placeholder:
        return super().__new__(cls)

    def __init__(self, *_args: object) -> None: ...

    def __setstate__(self, _state: object) -> None: ...


# Never the types themselves: even `numpy.dtype` trusts the state that a pickle gives it.
_PLACEHOLDERS: list[Any] = [
    (_Placeholder, name)
    for name in (
        "argparse.Namespace",
        *(f"numpy.{core}.multiarray.{what}" for core in ("core", "_core") for what in ("scalar", "_reconstruct")),
        "numpy.dtype",
        "numpy.ndarray",
        *(f"{module}.{kind}Path" for module in ("pathlib", "pathlib._local") for kind in ("Posix", "Windows")),
        *(f"datetime.{kind}" for kind in ("datetime", "date", "timedelta")),
    )
]


def load_plain(path: Path) -> tuple[Any, str]:
    """Return what a file holds, unchecked, and its SHA-256: of the same open file, so that both are of the same bytes.

    A safetensors file with this project's metadata comes back as the document that a PyTorch file would hold, its
    tensors under "state_dict"; one without as its bare tensors by name. Of a file with harmless objects beside the
    weights (an `argparse.Namespace`, numpy values, paths), the weights alone come back.

    Raises:
        ModelError: the file is missing or unreadable, or holds anything but weights and plain values.
    """
    safe = path.suffix.lower() == SAFETENSORS_SUFFIX or is_safetensors(path)
    load = _load_safetensors if safe else _load_torch
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            return load(file, path), digest
    except OSError as error:
        raise ModelError(f"cannot read the checkpoint {path}: {error.strerror or error}") from error


def unwrap_state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    """Return the state dict in a file's content, bare or wrapped, checked by `check_tensors`.

    A prefix that wrappers gave to all names ("module.", "_orig_mod.", "model.", "net.") is taken off.

    Raises:
        ModelError: there is none, or it does not pass.
    """
    content = _innermost(content)
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds no state dict (a mapping from names to tensors)")
    return _without_prefixes(check_tensors(content, path))


def _innermost(content: Any) -> Any:
    for _ in range(_MAX_WRAPPERS):
        if not isinstance(content, dict):
            break
        inner = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), dict) and content[key]), None)
        if inner is None:
            break
        content = inner
    return content


def _without_prefixes(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    for _ in range(_MAX_WRAPPERS):
        network = {name: tensor for name, tensor in state_dict.items() if not _NOT_THE_NETWORKS.match(name)}
        prefix = next((prefix for prefix in _PREFIXES if all(name.startswith(prefix) for name in network)), None)
        if prefix is None or not network:
            break
        state_dict = {name.removeprefix(prefix): tensor for name, tensor in network.items()}
    return state_dict


def check_tensors(state_dict: dict[Any, Any], path: Path) -> dict[str, Tensor]:
    """Return a state dict that is safe to use: names, dense tensors of numbers, all finite; half precision as float32.

    Raises:
        ModelError: it is not, or has no tensors.
    """
    if not 1 <= len(state_dict) <= MAX_TENSORS:
        raise ModelError(f"{path} holds no state dict: it has {len(state_dict)} tensors")
    for name, tensor in state_dict.items():
        if not isinstance(name, str):
            raise ModelError(f"{path} holds no state dict: its keys are not names")
        if not isinstance(tensor, Tensor):
            raise ModelError(f"{path} holds no state dict: {name[:60]!r} is a {type(tensor).__name__}, not a tensor")
        if tensor.layout is not torch.strided or tensor.is_quantized:
            raise ModelError(f"{path}: {name} is not a plain dense tensor")
        if tensor.dtype not in _DTYPES:
            raise ModelError(f"{path}: {name} has values of a kind that no model here has ({tensor.dtype})")
        # A few stored bytes can be declared as terabytes through strides of 0.
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ModelError(f"{path}: {name} claims more values than the file holds")
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ModelError(f"{path}: {name} has values that are not finite, the training went wrong")
    return {name: tensor.float() if tensor.dtype in _HALF else tensor for name, tensor in state_dict.items()}


def plain_tensors(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors as files take them: on the CPU, dense, each with memory of its own."""
    # clone(): a view would drag its whole storage into the file.
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state_dict.items()}


def in_half(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict with its floating-point tensors in float16, half the size.

    Raises:
        ModelError: a value is too large for float16, whose largest is 65504.
    """
    halved = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state_dict.items()}
    for name, tensor in halved.items():
        if tensor.is_floating_point() and (torch.isinf(tensor) & torch.isfinite(state_dict[name])).any():
            raise ModelError(f"{name} has values above 65504, too large for half precision: write it in full")
    return halved


def save_plain(path: Path, content: dict[str, Any]) -> None:
    """Write tensors and primitives as PyTorch does, whole or not at all.

    Raises:
        InputError: the file cannot be written.
    """
    with _writing(path) as temporary:
        torch.save(content, temporary)


def save_safetensors(path: Path, tensors: dict[str, Tensor], document: dict[str, Any]) -> None:
    """Write tensors and the JSON of `document`, whole or not at all; the same content gives the same bytes.

    Raises:
        InputError: the file cannot be written.
    """
    text = json.dumps(document, ensure_ascii=False, allow_nan=False)
    with _writing(path) as temporary:
        # save_file would make a file of its own, which only its owner may read.
        temporary.write_bytes(safetensors.torch.save(tensors, {METADATA_KEY: text}))


@contextmanager
def _writing(path: Path) -> Iterator[Path]:
    with replacing(path) as temporary:
        try:
            yield temporary
        except (RuntimeError, SafetensorError) as error:  # so the two writers report a full disk
            raise InputError(f"cannot write {path}: {str(error).splitlines()[0]}") from error


def _load_torch(file: BinaryIO, path: Path) -> Any:
    try:
        return _load_weights_only(file)
    except _UNREADABLE as error:
        if not _names_an_object(error):
            raise _unreadable(path) from error
    file.seek(0)
    try:
        with torch.serialization.safe_globals(_PLACEHOLDERS):
            return _innermost(_load_weights_only(file))
    except _UNREADABLE as error:
        if not _names_an_object(error):
            raise _unreadable(path) from error
        found = _OBJECT.search(str(error))
        raise ModelError(
            f"{path} holds more than weights (Python objects{f' such as {found[1]}' if found else ''}, which can run "
            "code), and was not loaded: save model.state_dict() instead of the whole model"
        ) from error


def _load_weights_only(file: BinaryIO) -> Any:
    with warnings.catch_warnings():  # torch warns of oddities in files that it then refuses, or reads all the same
        warnings.simplefilter("ignore")
        return torch.load(file, map_location="cpu", weights_only=True)


def _names_an_object(error: BaseException) -> bool:
    return isinstance(error, pickle.UnpicklingError) and any(sign in str(error) for sign in _CODE_SIGNS)


def _load_safetensors(file: BinaryIO, path: Path) -> Any:
    try:
        data = file.read()
        tensors = safetensors.torch.load(data)  # checks the header: its length, and that it lies in nothing else
        # The library gives the metadata only of a file that it opens itself, which may be another by now.
        metadata = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]]).get("__metadata__") or {}
    except (SafetensorError, *_UNREADABLE) as error:
        raise _unreadable(path) from error
    if METADATA_KEY not in metadata:
        return tensors
    try:
        document = json.loads(metadata[METADATA_KEY])
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not a valid checkpoint: its metadata is no JSON") from error
    if not isinstance(document, dict):
        raise ModelError(f"{path} is not a valid checkpoint: its metadata is no JSON object")
    return {**document, "state_dict": tensors}


def _unreadable(path: Path) -> ModelError:
    if is_onnx(path):
        return ModelError(f"{path} is an exported model: give the checkpoint that it was exported from")
    kind = other_kind(path)
    if kind is not None:
        return ModelError(f"{path} is {kind}")
    return ModelError(f"{path} is not a checkpoint that can be read: it is cut off, altered, or something else")
