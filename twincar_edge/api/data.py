"""Labelled images and paths, as the functions of the API take them."""

from __future__ import annotations

from pathlib import Path

from twincar_edge.datasets import OpenOptions

PathLike = str | Path


def optional_path(path: PathLike | None) -> Path | None:
    """Return a path, or None for None."""
    return None if path is None else Path(path)


def labelled_images(
    data: PathLike | None, images: PathLike | None, class_mapping: PathLike | None, crop: bool
) -> OpenOptions | None:
    """Return where labelled images are, or None where `data` is None."""
    if data is None:
        return None
    return OpenOptions(Path(data), optional_path(images), optional_path(class_mapping), crop)
