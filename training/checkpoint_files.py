"""The two file formats of a checkpoint, PyTorch's and safetensors. Reading never runs code from the file.

A pickle can run any code. PyTorch's files are read with `torch.load(weights_only=True)`, whose unpickler builds only
tensors and primitives. Some training scripts save objects of harmless types in addition to the weights. Inert
placeholders replace them, so that their code does not run either. A safetensors file holds only a JSON header and the
tensors' bytes (https://github.com/huggingface/safetensors). The rest of a checkpoint is one JSON text in the header's
metadata.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal

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
STATE_FORMAT: Literal["twincar-edge training state"] = "twincar-edge training state"  # of `state.py`
MAX_TENSORS = 100_000
MOST_SHARED = 4  # times that the bytes of a checkpoint may be used: for tied weights
MAX_INFLATION = 10  # of a whole archive; PyTorch compresses nothing, and weights deflate to about 93%

# The keys under which training scripts save a state dict; they may be nested. Averaged weights come last: they are used
# only if the file has no others.
_WRAPPERS = (
    "state_dict", "model_state_dict", "model", "net", "network", "module", "weights",
    "state_dict_ema", "model_ema", "ema_state_dict", "ema",
)  # fmt: skip
# Prefixes that DataParallel, torch.compile, Lightning and AveragedModel add to the names of all tensors.
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
_MAX_WRAPPERS = 8
# Tensors that are not the network's: AveragedModel's counter, and the class weights of a loss.
_NON_NETWORK = re.compile(r"n_averaged$|(loss|loss_fn|criterion)\.")
# Exceptions of torch.load for files that are truncated, corrupt, or not checkpoints.
_UNREADABLE = (
    pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, TypeError, AttributeError, LookupError,
    AssertionError, OverflowError, MemoryError, struct.error,
)  # fmt: skip
# Fragments of the unpickler's messages for a class or function that is not on its list, or a call to one.
_CODE_SIGNS = ("nsupported global", "nsupported GLOBAL", "nsupported class", "unrecognized function")
_OBJECT = re.compile(r"GLOBAL ([\w.]{1,100})")
_HALF = (torch.float16, torch.bfloat16)
_DTYPES = (
    *_HALF, torch.float32, torch.float64, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.bool,
)  # fmt: skip


class _Placeholder:
    """Replaces an object other than the weights: keeps nothing, does nothing."""

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
    """Return a file's contents, unchecked, and its SHA-256. Both are read from one open file, thus from the same bytes.

    A safetensors file with this project's metadata gives the same document as a PyTorch file, with its tensors under
    "state_dict"; without that metadata, it gives its tensors by name. A file with harmless objects in addition to the
    weights (an `argparse.Namespace`, numpy values, paths) gives only the weights.

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

    Removes a prefix that wrappers added to all names ("module.", "_orig_mod.", "model.", "net.").

    Raises:
        ModelError: there is no state dict, or a check fails.
    """
    content = _innermost(content)
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds no state dict (a mapping from names to tensors)")
    if content.get("format") == STATE_FORMAT:
        raise ModelError(f"{path} is the state from which a training resumes, not a checkpoint: use best.pt beside it")
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
        network = {name: tensor for name, tensor in state_dict.items() if not _NON_NETWORK.match(name)}
        prefix = next((prefix for prefix in _PREFIXES if all(name.startswith(prefix) for name in network)), None)
        if prefix is None or not network:
            break
        state_dict = {name.removeprefix(prefix): tensor for name, tensor in network.items()}
    return state_dict


def check_tensors(state_dict: dict[Any, Any], path: Path) -> dict[str, Tensor]:
    """Return a state dict after checking its names and tensors; half-precision tensors become float32.

    Raises:
        ModelError: there are no tensors or too many, a key is not a name, or a tensor is not dense, of an unsupported
            dtype, not finite, or larger than its storage; or many tensors share one.
    """
    if not 1 <= len(state_dict) <= MAX_TENSORS:
        raise ModelError(f"{path} holds no state dict: it has {len(state_dict)} tensors")
    for name, tensor in state_dict.items():
        if not isinstance(name, str):
            raise ModelError(f"{path} holds no state dict: a key is not a string")
        if not isinstance(tensor, Tensor):
            raise ModelError(f"{path} holds no state dict: {name[:60]!r} is a {type(tensor).__name__}, not a tensor")
        if tensor.layout is not torch.strided or tensor.is_quantized:
            raise ModelError(f"{path}: {name} is not a plain dense tensor")
        if tensor.dtype not in _DTYPES:
            raise ModelError(f"{path}: {name} has an unsupported dtype ({tensor.dtype})")
        # With strides of 0, a few stored bytes can claim to be terabytes.
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ModelError(f"{path}: {name} claims more values than the file holds")
    # Tied weights share a storage; thousands of names for one storage would each become a tensor of their own.
    held = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in state_dict.values()}
    if sum(tensor.numel() * tensor.element_size() for tensor in state_dict.values()) > MOST_SHARED * sum(held.values()):
        raise ModelError(f"{path} claims more than {MOST_SHARED} times the values that the file holds")
    for name, tensor in state_dict.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ModelError(f"{path}: {name} has values that are not finite: the training diverged")
    return {name: tensor.float() if tensor.dtype in _HALF else tensor for name, tensor in state_dict.items()}


def plain_tensors(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors ready to save: on the CPU, contiguous, each with its own storage."""
    # clone(): saving a view would save its whole storage.
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state_dict.items()}


def in_half(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict with its floating-point tensors in float16.

    Raises:
        ModelError: a value is too large for float16, whose largest is 65504.
    """
    halved = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state_dict.items()}
    for name, tensor in halved.items():
        if tensor.is_floating_point() and (torch.isinf(tensor) & torch.isfinite(state_dict[name])).any():
            raise ModelError(f"{name} has values above 65504, too large for half precision: write it in full precision")
    return halved


def save_plain(path: Path, content: dict[str, Any]) -> None:
    """Write tensors and primitives in PyTorch's format, atomically.

    Raises:
        InputError: the file cannot be written.
    """
    with _writing(path) as temporary:
        torch.save(content, temporary)


def save_safetensors(path: Path, tensors: dict[str, Tensor], document: dict[str, Any]) -> None:
    """Write tensors and the JSON of `document`, atomically; the same content gives the same bytes.

    Raises:
        InputError: the file cannot be written.
    """
    text = json.dumps(document, ensure_ascii=False, allow_nan=False)
    with _writing(path) as temporary:
        # save_file would replace the temporary file by one that only its owner can read.
        temporary.write_bytes(safetensors.torch.save(tensors, {METADATA_KEY: text}))


@contextmanager
def _writing(path: Path) -> Iterator[Path]:
    with replacing(path) as temporary:
        try:
            yield temporary
        except (RuntimeError, SafetensorError) as error:  # how the two writers report a full disk
            raise InputError(f"cannot write {path}: {str(error).splitlines()[0]}") from error


def _load_torch(file: BinaryIO, path: Path) -> Any:
    _check_inflation(file, path)
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
            f"{path} was not loaded, because it holds Python objects{f' such as {found[1]}' if found else ''}, which "
            "can run code: save model.state_dict() instead of the whole model"
        ) from error


def _check_inflation(file: BinaryIO, path: Path) -> None:
    """Refuse an archive whose members would take many times its size in memory; leave the file at its beginning."""
    zipped = file.read(4) == b"PK\x03\x04"
    if zipped:
        try:
            with zipfile.ZipFile(file) as archive:
                inflated = sum(member.file_size for member in archive.infolist())
        except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
            raise _unreadable(path) from error
        size = file.seek(0, os.SEEK_END)
        if inflated > MAX_INFLATION * size:
            raise ModelError(
                f"{path} is not a checkpoint that can be read: its {size} bytes inflate to {inflated}, more than "
                f"{MAX_INFLATION} times as many"
            )
    file.seek(0)


def _load_weights_only(file: BinaryIO) -> Any:
    with warnings.catch_warnings():  # torch also warns about irregular files that it then rejects or reads
        warnings.simplefilter("ignore")
        return torch.load(file, map_location="cpu", weights_only=True)


def _names_an_object(error: BaseException) -> bool:
    return isinstance(error, pickle.UnpicklingError) and any(sign in str(error) for sign in _CODE_SIGNS)


def _load_safetensors(file: BinaryIO, path: Path) -> Any:
    try:
        data = file.read()
        tensors = safetensors.torch.load(data)  # checks the header's length and the tensors' offsets
        # The library returns metadata only of a file that it opens itself, which may have been replaced by now.
        metadata = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]]).get("__metadata__") or {}
    except (SafetensorError, *_UNREADABLE) as error:
        raise _unreadable(path) from error
    if METADATA_KEY not in metadata:
        return tensors
    try:
        document = json.loads(metadata[METADATA_KEY])
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not a valid checkpoint: its metadata is not valid JSON") from error
    if not isinstance(document, dict):
        raise ModelError(f"{path} is not a valid checkpoint: its metadata is not a JSON object")
    return {**document, "state_dict": tensors}


def _unreadable(path: Path) -> ModelError:
    if is_onnx(path):
        return ModelError(f"{path} is an exported model: give the checkpoint that it was exported from")
    kind = other_kind(path)
    if kind is not None:
        return ModelError(f"{path} is {kind}")
    return ModelError(f"{path} is not a readable checkpoint: it is truncated, corrupt, or of another format")
