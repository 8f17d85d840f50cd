"""Installs an official detector in the state folder, from the network or a file, after checking its digest."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Callable
from pathlib import Path

from twincar_edge.errors import InputError, Parameter, nearest
from twincar_edge.files import is_file, replacing
from twincar_edge.runtime.locating.detector import open_detector
from twincar_edge.runtime.locating.download import download
from twincar_edge.runtime.locating.pulled import OFFICIAL, RELEASE, OfficialDetector, detectors_folder, pulled_detector
from twincar_edge.runtime.storage.state import make_state_folder

DEFAULT = "nano"


def pull_detector(
    name: str = DEFAULT,
    *,
    state: Path | None = None,
    url: str | None = None,
    context: ssl.SSLContext | None = None,
    announce: Callable[[OfficialDetector], None] = lambda _official: None,
) -> Path:
    """Download an official detector into the state folder, replacing the present one, and return its path.

    An undamaged copy is not downloaded again.

    Args:
        name: a key of `OFFICIAL`.
        state: the state folder; None for the default one.
        url: where it is; None for YOLOX's release.
        context: certificates to trust instead of the system's.
        announce: called before a download begins.

    Raises:
        InputError: there is no such detector, it cannot be downloaded or written, or its digest is wrong.
        MissingExtraError: ONNX Runtime is not installed.
        ModelError: ONNX Runtime cannot run it here.
    """
    official = _official(name)
    path = detectors_folder(state) / official.file_name
    if _is_there(path, state):
        return path
    announce(official)
    url = url or official.url
    try:
        data = download(url, official.size_bytes, context=context)
    except InputError as error:
        elsewhere = "; download it on another machine, and give the file with "
        raise InputError(f"{error}{elsewhere}", Parameter("file")) from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != official.sha256:
        raise InputError(f"refused the file from {url}: its SHA-256 is {digest}, expected {official.sha256}")
    return _put(data, path)


def take_detector(file: Path, name: str | None = None, *, state: Path | None = None) -> Path:
    """Copy an official detector from a file into the state folder, and return its path there.

    Args:
        file: an ONNX file of YOLOX's release, whatever it is called.
        name: the key of `OFFICIAL` that it must be; None for any of them.
        state: the state folder; None for the default one.

    Raises:
        InputError: the file cannot be read, is another one, or cannot be written into the state folder.
        MissingExtraError: ONNX Runtime is not installed.
        ModelError: ONNX Runtime cannot run it here.
    """
    wanted = tuple(OFFICIAL.values()) if name is None else (_official(name),)
    if not is_file(file):
        raise InputError(f"cannot read {file}: no such file, or not a regular one")
    try:
        with file.open("rb") as opened:
            data = opened.read(max(official.size_bytes for official in wanted) + 1)
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from error
    digest = hashlib.sha256(data).hexdigest()
    official = next((official for official in wanted if official.sha256 == digest), None)
    if official is None:
        expected = " or ".join(f"{official.file_name} ({official.sha256[:12]}…)" for official in wanted)
        raise InputError(
            f"refused {file}: its SHA-256 ({digest[:12]}…) is not that of {expected} of YOLOX's release {RELEASE}; "
            "use your own detector with ",
            Parameter("detector"),
        )
    return _put(data, detectors_folder(state) / official.file_name)


def _official(name: str) -> OfficialDetector:
    if name not in OFFICIAL:
        raise InputError(f"no detector {name!r}: {nearest(name, tuple(OFFICIAL))}")
    return OFFICIAL[name]


def _is_there(path: Path, state: Path | None) -> bool:
    try:
        return pulled_detector(state) == path
    except InputError:  # a damaged one is replaced
        return False


def _put(data: bytes, path: Path) -> Path:
    """Write a detector, and remove the others: the state folder holds only one, so the choice is unambiguous."""
    make_state_folder(path.parent.parent)
    with replacing(path) as temporary:
        temporary.write_bytes(data)
        open_detector(temporary, ep="cpu", threads=1)
    for official in OFFICIAL.values():
        other = path.with_name(official.file_name)
        try:
            if other != path:
                other.unlink(missing_ok=True)
        except OSError as error:
            raise InputError(f"cannot remove {other}: {error.strerror}") from error
    return path
