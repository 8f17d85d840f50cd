"""Clusters pictures of cars by appearance, so that a person can name whole folders: `cluster`, then `enroll`.

The model that will enroll the classes computes the embeddings. Stored embeddings would be useless to any other model,
and computing one takes milliseconds.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from twincar_edge.bundled import default_model
from twincar_edge.draw import GRAY, GREEN, PAPER, Cell, contact_sheet, fit_into
from twincar_edge.errors import InputError, ModelError, Parameter, require
from twincar_edge.files import is_folder
from twincar_edge.images import ImageError, read_image, write_image
from twincar_edge.preprocess import prepare
from twincar_edge.prototypes import normalized
from twincar_edge.records import Record
from twincar_edge.runtime.inference.classifier import BATCH
from twincar_edge.runtime.inference.golden_check import require_golden
from twincar_edge.runtime.inference.providers import AUTO
from twincar_edge.runtime.inference.session import ModelSession, open_session
from twincar_edge.runtime.sources.images import expand
from twincar_edge.wording import counted

SMALLEST = 3  # pictures in a group; a class from fewer cannot be checked
MAX_IMAGES = 20_000  # beyond this, HDBSCAN takes minutes and gigabytes
SHEET = "clusters.jpg"
REST = "unsorted"
_MAX_ROWS = 40  # of the contact sheet
_COLUMNS = 6
_CELL_WH = (150, 100)


@dataclass(frozen=True)
class ClusterConfig:
    """What to group: the images in `folder` and its subfolders, into new folders in `output`."""

    folder: Path
    output: Path
    model: Path | None = None
    smallest: int = SMALLEST
    ep: str = AUTO
    threads: int | None = None


class ClusterReport(Record):
    """The number of pictures in each group (largest first), in no group, and unreadable."""

    output: Path
    sizes: tuple[int, ...]
    unsorted: int = Field(ge=0)
    unreadable: int = Field(ge=0)


def cluster(config: ClusterConfig) -> ClusterReport:
    """Copy the images of a folder and its subfolders into one folder per group, and draw a contact sheet.

    Raises:
        InputError: there are too few or too many images, or the output exists or cannot be written.
        ModelError: the model cannot be used, or has no embedding output.
        MissingExtraError: scikit-learn or ONNX Runtime is not installed.
    """
    require("sklearn.cluster", "cluster")
    if config.smallest < 2:
        raise InputError(Parameter("smallest"), f" must be 2 or more, found {config.smallest}")
    if config.output.exists():
        raise InputError(f"{config.output} already exists: name a new folder")
    paths = _images(config.folder)
    session = open_session(config.model or default_model(), ep=config.ep, threads=config.threads)
    require_golden(session)
    if session.manifest.embedding is None:
        raise ModelError(f"{session.model} has no embedding output: export it again")
    readable, embeddings = embed_pictures(session, paths)
    if len(readable) < config.smallest:
        raise InputError(
            f"{config.folder} has {len(readable)} readable images, fewer than a group of {config.smallest}: add images"
        )
    groups, rest = group(embeddings, config.smallest)
    ordered = [[readable[index] for index in one] for one in groups]
    _write(config.output, ordered, [readable[index] for index in rest])
    return ClusterReport(
        output=config.output,
        sizes=tuple(len(group) for group in groups),
        unsorted=len(rest),
        unreadable=len(paths) - len(readable),
    )


def _images(folder: Path) -> list[Path]:
    if not is_folder(folder):
        raise InputError(f"{folder} is not a folder: name one with the pictures to group")
    paths = expand([folder], recursive=True)
    if len(paths) > MAX_IMAGES:
        raise InputError(f"{folder} has {len(paths)} images, at most {MAX_IMAGES} can be grouped: split the folder")
    return paths


def embed_pictures(session: ModelSession, paths: Sequence[Path]) -> tuple[list[Path], NDArray[np.float32]]:
    """Return the paths of the readable images, and their embeddings, float32 [N, D], scaled to length 1.

    Raises:
        ModelError: the model fails, or has no embedding output.
    """
    readable: list[Path] = []
    parts: list[NDArray[np.float32]] = []
    for start in range(0, len(paths), BATCH):
        read = []
        for path in paths[start : start + BATCH]:
            try:
                read.append(prepare(read_image(path), session.manifest.preprocess))
            except ImageError:
                continue
            readable.append(path)
        if read:
            parts.append(normalized(session.embed(np.stack(read))))
    return readable, np.concatenate(parts) if parts else np.empty((0, 1), np.float32)


def group(embeddings: NDArray[np.float32], smallest: int = SMALLEST) -> tuple[list[list[int]], list[int]]:
    """Return the groups of similar pictures as indices, largest group first, and the indices in no group.

    Within a group, the picture nearest to the mean is first.

    Args:
        embeddings: float32 [N, D], scaled to length 1.
        smallest: the fewest pictures in a group.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    learn: Any = require("sklearn.cluster", "cluster")
    if len(embeddings) < smallest:
        return [], list(range(len(embeddings)))
    labels = learn.HDBSCAN(min_cluster_size=smallest, copy=True).fit_predict(embeddings.astype(np.float64))
    groups = [np.flatnonzero(labels == label) for label in range(int(labels.max()) + 1)]
    groups.sort(key=len, reverse=True)
    return [_nearest_first(embeddings, one) for one in groups], np.flatnonzero(labels < 0).tolist()


def _nearest_first(embeddings: NDArray[np.float32], group: NDArray[np.intp]) -> list[int]:
    distances = np.linalg.norm(embeddings[group] - embeddings[group].mean(axis=0), axis=1)
    return [int(index) for index in group[np.argsort(distances, kind="stable")]]


def _write(output: Path, groups: Sequence[Sequence[Path]], rest: Sequence[Path]) -> None:
    names = [f"cluster-{number:03d}" for number in range(1, len(groups) + 1)]
    folders = [*zip(names, groups, strict=True), *([(REST, rest)] if rest else [])]
    try:
        for name, pictures in folders:
            (output / name).mkdir(parents=True)
            for number, path in enumerate(pictures):
                shutil.copyfile(path, output / name / f"{number:04d}-{path.name}")
    except OSError as error:
        shutil.rmtree(output, ignore_errors=True)
        raise InputError(f"cannot write into {output}: {error.strerror or error}") from error
    rows = [_row(name, pictures) for name, pictures in folders[:_MAX_ROWS]]
    sheet = contact_sheet([cell for row in rows for cell in row], f"{len(groups)} groups", _COLUMNS, _CELL_WH)
    write_image(output / SHEET, sheet)


def _row(name: str, pictures: Sequence[Path]) -> list[Cell]:
    """Return a row of the contact sheet: the first, most typical pictures of a folder."""
    color = GRAY if name == REST else GREEN
    cells = [Cell(fit_into(read_image(path), _CELL_WH), "", "", color) for path in pictures[:_COLUMNS]]
    cells[0] = Cell(cells[0].image_bgr, name, counted(len(pictures), "picture"), color)
    return cells + [Cell(None, "", "", PAPER)] * (_COLUMNS - len(cells))
