"""Convert the path and labeled-image arguments of the API functions."""

from __future__ import annotations

from pathlib import Path

from twincar_edge.datasets import OpenOptions
from twincar_edge.errors import InputError

PathLike = str | Path


def optional_path(path: PathLike | None) -> Path | None:
    """Return the argument as a `Path`, or None."""
    return None if path is None else Path(path)


def labeled_images(
    data: PathLike | None, images: PathLike | None, class_mapping: PathLike | None, crop: bool
) -> OpenOptions | None:
    """Return the location of the labeled images, or None if `data` is None.

    Raises:
        InputError: `data` is None, and another argument is given.
    """
    if data is None:
        if images is not None or class_mapping is not None or not crop:
            raise InputError("options for labeled images have no effect without `data`: pass it too")
        return None
    return OpenOptions(Path(data), optional_path(images), optional_path(class_mapping), crop)
