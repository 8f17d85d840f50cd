"""Pictures of unknown vehicles in groups of alike ones, quickly enough for a page."""

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

MOST_PICTURES = 400  # that are grouped: a page with more is of no use to anybody
MOST_NEW = 96  # that are looked at for one request: a second of work, on a small box some


@dataclass(frozen=True)
class Groups:
    """Places of pictures in the sequence that was grouped.

    Attributes:
        groups: alike ones, the largest group first, each with its most typical picture first.
        rest: pictures that are like no others, or were not compared.
        waiting: how many the model has not looked at yet.
        problem: why nothing is grouped, or None.
    """

    groups: list[list[int]]
    rest: list[int]
    waiting: int = 0
    problem: str | None = None


class Grouping:
    """Groups pictures, and remembers what the model saw in each file."""

    def __init__(self, most_new: int = MOST_NEW) -> None:
        """Prepare; `most_new` pictures are looked at in one call."""
        self._most_new = most_new
        self._lock = threading.Lock()
        self._model = ""
        self._seen: dict[Path, NDArray[np.float32] | None] = {}  # None: it cannot be read

    def group(self, session: ModelSession, pictures: Sequence[Path]) -> Groups:
        """Group pictures, at most `MOST_PICTURES`.

        Raises:
            ModelError: the model fails.
        """
        everything = list(range(len(pictures)))
        if session.manifest.embedding is None:
            return Groups([], everything, problem="the model has no embedding, by which alike cars are found")
        with self._lock:
            if session.sha256 != self._model:
                self._model, self._seen = session.sha256, {}
            new = [path for path in pictures if path not in self._seen]
            kept, embeddings = embed_pictures(session, new[: self._most_new])
            self._seen.update(dict.fromkeys(new[: self._most_new]))
            self._seen.update(zip(kept, embeddings, strict=True))
            self._seen = {path: self._seen[path] for path in pictures if path in self._seen}
            seen = dict(self._seen)
        places = [place for place, path in enumerate(pictures) if seen.get(path) is not None]
        rows = [row for place in places if (row := seen[pictures[place]]) is not None]
        try:
            groups, _ = group(np.stack(rows)) if rows else ([], [])
        except MissingExtraError as error:
            return Groups([], everything, problem=f"alike cars are not put together: {error}")
        found = [[places[place] for place in one] for one in groups]
        grouped = {place for one in found for place in one}
        rest = [place for place in everything if place not in grouped]
        return Groups(found, rest, max(0, len(new) - self._most_new))
