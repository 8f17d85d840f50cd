"""Groups pictures of cars that look alike, so that a person can name a folder at once: `cluster`, then `enroll`.

Pictures are embedded by the model that is to learn from them. An embedding that was kept with a picture would be worth
nothing to any other model, and computing one takes milliseconds.
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
from twincar_edge.draw import GRAY, GREEN, PAPER, Cell, contact_sheet
from twincar_edge.errors import InputError, ModelError, require
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

SMALLEST = 3  # pictures of a group: fewer make no class that can be checked
MOST_IMAGES = 20_000  # HDBSCAN takes minutes and gigabytes beyond
SHEET = "clusters.jpg"
REST = "unsorted"
_MOST_ROWS = 40  # of the contact sheet
_COLUMNS = 6
_CELL_WH = (150, 100)


@dataclass(frozen=True)
class ClusterConfig:
    """What to group: the images under `folder`, into new folders in `output`."""

    folder: Path
    output: Path
    model: Path | None = None
    smallest: int = SMALLEST
    ep: str = AUTO
    threads: int | None = None


class ClusterReport(Record):
    """How many pictures are in each group, the largest first, how many are in none, and how many could not be read."""

    output: Path
    sizes: tuple[int, ...]
    unsorted: int = Field(ge=0)
    unreadable: int = Field(ge=0)


def cluster(config: ClusterConfig) -> ClusterReport:
    """Copy the images of a folder and its subfolders into a folder for each group, with a contact sheet.

    Raises:
        InputError: there are too few or too many images, or the output is there already or cannot be written.
        ModelError: the model cannot be used, or gives no embedding.
        MissingExtraError: scikit-learn or ONNX Runtime is not installed.
    """
    require("sklearn.cluster", "cluster")
    if config.smallest < 2:
        raise InputError(f"a group has 2 pictures or more, found {config.smallest}")
    if config.output.exists():
        raise InputError(f"{config.output} is there already: name a new folder")
    paths = _images(config.folder)
    session = open_session(config.model or default_model(), ep=config.ep, threads=config.threads)
    require_golden(session)
    if session.manifest.embedding is None:
        raise ModelError(f"{session.model} has no embedding output: export it again")
    kept, embeddings = embed_pictures(session, paths)
    if len(kept) < config.smallest:
        raise InputError(f"{config.folder} has {len(kept)} images that can be read, fewer than a group needs")
    groups, rest = group(embeddings, config.smallest)
    ordered = [[kept[place] for place in one] for one in groups]
    _write(config.output, ordered, [kept[place] for place in rest])
    return ClusterReport(
        output=config.output,
        sizes=tuple(len(group) for group in groups),
        unsorted=len(rest),
        unreadable=len(paths) - len(kept),
    )


def _images(folder: Path) -> list[Path]:
    if not is_folder(folder):
        raise InputError(f"{folder} is not a folder: name one with the pictures to group")
    found = expand([folder], recursive=True)
    if len(found) > MOST_IMAGES:
        raise InputError(f"{folder} has {len(found)} images: {MOST_IMAGES} at most can be grouped")
    return found


def embed_pictures(session: ModelSession, paths: Sequence[Path]) -> tuple[list[Path], NDArray[np.float32]]:
    """Return the images that can be read, and their embeddings, float32 [N, D], scaled to length 1.

    Raises:
        ModelError: the model fails, or gives no embedding.
    """
    kept: list[Path] = []
    parts: list[NDArray[np.float32]] = []
    for start in range(0, len(paths), BATCH):
        read = []
        for path in paths[start : start + BATCH]:
            try:
                read.append(prepare(read_image(path), session.manifest.preprocess))
            except ImageError:
                continue
            kept.append(path)
        if read:
            parts.append(normalized(session.embed(np.stack(read))))
    return kept, np.concatenate(parts) if parts else np.empty((0, 1), np.float32)


def group(embeddings: NDArray[np.float32], smallest: int = SMALLEST) -> tuple[list[list[int]], list[int]]:
    """Return the places of pictures in groups of alike ones, the largest group first, and of those that are in none.

    In a group, the most typical picture is first.

    Args:
        embeddings: float32 [N, D], scaled to length 1.
        smallest: pictures of a group.

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
    return [int(place) for place in group[np.argsort(distances, kind="stable")]]


def _write(output: Path, groups: Sequence[Sequence[Path]], rest: Sequence[Path]) -> None:
    names = [f"cluster-{place:03d}" for place in range(1, len(groups) + 1)]
    folders = [*zip(names, groups, strict=True), *([(REST, rest)] if rest else [])]
    try:
        for name, pictures in folders:
            (output / name).mkdir(parents=True)
            for number, path in enumerate(pictures):
                shutil.copyfile(path, output / name / f"{number:04d}-{path.name}")
    except OSError as error:
        shutil.rmtree(output, ignore_errors=True)
        raise InputError(f"cannot write into {output}: {error.strerror or error}") from error
    rows = [_row(name, pictures) for name, pictures in folders[:_MOST_ROWS]]
    sheet = contact_sheet([cell for row in rows for cell in row], f"{len(groups)} groups", _COLUMNS, _CELL_WH)
    write_image(output / SHEET, sheet)


def _row(name: str, pictures: Sequence[Path]) -> list[Cell]:
    """Return a row of the contact sheet: the pictures of a folder that are most typical of it."""
    color = GRAY if name == REST else GREEN
    cells = [Cell(read_image(path), "", "", color) for path in pictures[:_COLUMNS]]
    cells[0] = Cell(cells[0].image_bgr, name, f"{len(pictures)} pictures", color)
    return cells + [Cell(None, "", "", PAPER)] * (_COLUMNS - len(cells))
