"""What a caller says about labelled images, for whichever layout reads them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from twincar_edge.datasets.dataset import Dataset


@dataclass(frozen=True)
class OpenOptions:
    """Where labelled images are and how to read them; `open_dataset` says what each field means."""

    path: Path
    images: Path | None = None
    class_mapping: Path | None = None
    crop: bool = True

    def open(self) -> Dataset:
        """Open the data set; no image is read yet.

        Raises:
            InputError: nothing is there, no layout fits, or what it holds is unusable.
        """
        from twincar_edge.datasets.layouts import open_dataset  # the layouts read these options

        return open_dataset(self.path, images=self.images, class_mapping=self.class_mapping, crop=self.crop)
