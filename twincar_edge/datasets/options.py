"""What a caller says about labelled images, for whichever layout reads them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class OpenOptions:
    """Where labelled images are and how to read them; `open_dataset` says what each field means."""

    path: Path
    images: Path | None = None
    class_mapping: Path | None = None
    crop: bool = True
