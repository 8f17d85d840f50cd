"""Official detectors: which there are, and the one that `twincar-edge detector pull` has put into the state folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from twincar_edge.errors import InputError
from twincar_edge.files import is_file, sha256
from twincar_edge.runtime.storage.state import default_state_folder

RELEASE = "0.1.1rc0"
PULL = "`twincar-edge detector pull`"
"""The command that gets a detector, for messages."""


@dataclass(frozen=True)
class OfficialDetector:
    """An ONNX file of YOLOX's release: its name there, its size, and the SHA-256 that it must have."""

    file_name: str
    size_bytes: int
    sha256: str

    @property
    def url(self) -> str:
        """Return the file's URL in the release."""
        return f"https://github.com/Megvii-BaseDetection/YOLOX/releases/download/{RELEASE}/{self.file_name}"


# These digests match those of other projects that pin the same files.
OFFICIAL = {
    "nano": OfficialDetector(
        "yolox_nano.onnx", 3_659_407, "c789161ed43c8269fcd4e67c67eeeb4e80c622da2eb296a20bc6007bd18a0b7d"
    ),
    "tiny": OfficialDetector(
        "yolox_tiny.onnx", 20_219_662, "427cc366d34e27ff7a03e2899b5e3671425c262ea2291f88bb942bc1cc70b0f7"
    ),
}


def detectors_folder(state: Path | None = None) -> Path:
    """Return the folder of detectors in a state folder, by default in the default one.

    Raises:
        InputError: there is no default state folder.
    """
    return (state or default_state_folder()) / "detectors"


def pulled_detector(state: Path | None = None) -> Path | None:
    """Return the detector in a state folder (None for the default folder), or None if there is none.

    Raises:
        InputError: it is damaged, or cannot be read.
    """
    try:
        folder = detectors_folder(state)
    except InputError:
        return None
    for official in OFFICIAL.values():
        path = folder / official.file_name
        if not is_file(path):
            continue
        if sha256(path) != official.sha256:
            raise InputError(f"{path} is damaged: its SHA-256 is not that of YOLOX's release; run {PULL} again")
        return path
    return None
