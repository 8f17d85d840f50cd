"""Groups similar pictures of unknown vehicles, fast enough for a web page."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from twincar_edge.errors import MissingExtraError
from twincar_edge.runtime.cluster import embed_pictures, group
from twincar_edge.runtime.inference.session import ModelSession

MAX_PICTURES = 400  # grouped on one page
MAX_NEW = 96  # embedded per request: takes a second, on a small box some seconds


@dataclass(frozen=True)
class Groups:
    """The result of grouping, as indexes of pictures in the given sequence.

    Attributes:
        groups: groups of similar pictures, largest first, each with its most typical picture first.
        rest: pictures without a group.
        waiting: number of pictures that were not embedded yet.
        problem: why grouping is not possible, or None.
    """

    groups: list[list[int]]
    rest: list[int]
    waiting: int = 0
    problem: str | None = None


class Grouping:
    """Groups pictures and caches their embeddings."""

    def __init__(self, max_new: int = MAX_NEW) -> None:
        """Prepare; one call embeds at most `max_new` pictures."""
        self._max_new = max_new
        self._lock = threading.Lock()
        self._model = ""
        self._embeddings: dict[Path, NDArray[np.float32] | None] = {}  # None: unreadable picture

    def group(self, session: ModelSession, pictures: Sequence[Path]) -> Groups:
        """Group pictures, at most `MAX_PICTURES`.

        Raises:
            ModelError: the model failed.
        """
        everything = list(range(len(pictures)))
        if session.manifest.embedding is None:
            return Groups([], everything, problem="the model has no embedding, which grouping requires")
        with self._lock:
            if session.sha256 != self._model:
                self._model, self._embeddings = session.sha256, {}
            new = [path for path in pictures if path not in self._embeddings]
            readable, embeddings = embed_pictures(session, new[: self._max_new])
            self._embeddings.update(dict.fromkeys(new[: self._max_new]))
            self._embeddings.update(zip(readable, embeddings, strict=True))
            self._embeddings = {path: self._embeddings[path] for path in pictures if path in self._embeddings}
            embedded = dict(self._embeddings)
        indexes = [index for index, path in enumerate(pictures) if embedded.get(path) is not None]
        rows = [row for index in indexes if (row := embedded[pictures[index]]) is not None]
        try:
            groups, _ = group(np.stack(rows)) if rows else ([], [])
        except MissingExtraError as error:
            return Groups([], everything, problem=f"cannot group similar cars: {error}")
        found = [[indexes[row] for row in one] for one in groups]
        grouped = {index for one in found for index in one}
        rest = [index for index in everything if index not in grouped]
        return Groups(found, rest, max(0, len(new) - self._max_new))
