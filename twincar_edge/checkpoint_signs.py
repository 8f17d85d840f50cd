"""Recognizes checkpoints and other weight files by their content, not their names, without loading them."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

from twincar_edge.files import check_name

_HEAD = 512
_ZIP = b"PK\x03\x04"  # a PyTorch file is a ZIP archive whose first member is NAME/data.pkl
_ZIP_NAME_LENGTH, _ZIP_NAME = slice(26, 28), 30  # https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, 4.3.7
_OLD_TORCH = (
    b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # start of files from before PyTorch 1.6, a pickled magic number
)
_SAFETENSORS_LENGTH = slice(0, 8)  # of the JSON header that follows
_HDF5 = b"\x89HDF\r\n\x1a\n"

# Kinds of archives by the names of their members, and the message for each.
_ARCHIVES: list[tuple[Callable[[str], bool], str]] = [
    (
        lambda name: name.endswith("/constants.pkl"),
        "a TorchScript archive, which contains code and was not loaded: open it with torch.jit.load if you trust it, "
        "and save its state_dict()",
    ),
    (
        lambda name: name.endswith("/archive_format") or name == "serialized_exported_program.json",
        "a program of torch.export, not a checkpoint: open it with torch.export.load if you trust it, and save its "
        "state_dict",
    ),
    (
        lambda name: name.endswith(".npy"),
        "an archive of NumPy arrays, not a checkpoint: save the weights with torch.save(model.state_dict())",
    ),
]


def is_checkpoint(path: Path) -> bool:
    """Return whether a file starts like a PyTorch or safetensors file; False if it cannot be read."""
    head = _head(path)
    if head.startswith(_ZIP):
        length = int.from_bytes(head[_ZIP_NAME_LENGTH], "little")
        return head[_ZIP_NAME : _ZIP_NAME + length].endswith(b"/data.pkl")
    return head.startswith(_OLD_TORCH) or is_safetensors(path)


def is_safetensors(path: Path) -> bool:
    """Return whether a file starts like a safetensors file; False if it cannot be read."""
    head = _head(path)
    return head[8:9] == b"{" and int.from_bytes(head[_SAFETENSORS_LENGTH], "little") <= path.stat().st_size - 8


def other_kind(path: Path) -> str | None:
    """Return the kind of a weight file that is not a checkpoint, and what to do about it; None if unknown."""
    if _head(path).startswith(_HDF5):
        return "an HDF5 file, as written by Keras: give a PyTorch checkpoint"
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError):
        return None
    return next((kind for matches, kind in _ARCHIVES if any(map(matches, names))), None)


def _head(path: Path) -> bytes:
    check_name(path)
    try:
        with path.open("rb") as file:
            return file.read(_HEAD)
    except OSError:
        return b""
