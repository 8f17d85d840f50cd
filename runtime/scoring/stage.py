"""Scores a partition's entries into its Parquet file. Every worker runs this stage, local or on a cluster."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from twincar_edge.errors import InputError, ModelError
from twincar_edge.images import ImageError, decode_image
from twincar_edge.preprocess import prepare
from twincar_edge.runtime.configuration.config import one_camera
from twincar_edge.runtime.inference.classifier import BATCH, Classifier
from twincar_edge.runtime.inference.golden_check import require_golden
from twincar_edge.runtime.inference.providers import AUTO
from twincar_edge.runtime.inference.session import open_session
from twincar_edge.runtime.scoring.containers import Encoded, rows_of_parquet, rows_of_tar
from twincar_edge.runtime.scoring.entries import Entry
from twincar_edge.runtime.scoring.output import (
    Counts,
    PartitionWriter,
    Row,
    error_row,
    image_row,
    partition_path,
    read_counts,
    visit_row,
)
from twincar_edge.runtime.scoring.plan import read_partition
from twincar_edge.runtime.scoring.storage import storage_of
from twincar_edge.runtime.watch import watch

logger = logging.getLogger(__name__)

READERS = 8  # remote files read in parallel


@dataclass(frozen=True)
class StageConfig:
    """What a worker needs: the run's output and id, the model's file and digest, and the options of inference.

    `embedding` adds the column of embeddings. `threads` is per inference. `detector` finds vehicles in videos; if None,
    motion does.
    """

    output: str
    run: str
    model: Path
    model_sha256: str
    ep: str = AUTO
    threads: int = 1
    batch: int = BATCH
    embedding: bool = False
    detector: Path | None = None


class _Input(NamedTuple):
    """An image's path in the output, with the model's input and the image's shorter side, or with an error."""

    path: str
    prepared: NDArray[np.uint8] | None
    size_px: int
    problem: str | None
    lost: bool = False  # the file is missing or unreadable, rather than damaged


class Stage:
    """Scores partitions with one open model."""

    def __init__(self, config: StageConfig) -> None:
        """Open the model.

        Raises:
            InputError: the provider cannot be used.
            ModelError: the model cannot be used, is not the run's model, or has no embedding.
        """
        self._config = config
        session = open_session(config.model, ep=config.ep, threads=config.threads, spinning=False)
        if session.sha256 != config.model_sha256:
            raise ModelError(f"{config.model} is not the model that the run was started with: restore that file")
        require_golden(session)
        self._embedding_size = None
        if config.embedding:
            if session.manifest.embedding is None:
                raise ModelError(f"{config.model} has no embedding output: export it again")
            self._embedding_size = embedding_size(session.embed, session.manifest.preprocess.size_wh)
        self.classifier = Classifier(session)

    def score(self, number: int) -> Counts:
        """Score a partition and write it, unless it is complete already.

        Raises:
            InputError: the storage fails, none of the partition's files can be read, or its rows cannot be written.
            ModelError: the model fails.
        """
        config = self._config
        path = partition_path(config.output, number)
        written = read_counts(path, config.run)  # a worker may die after it has written the file
        if written is not None:
            return written
        writer = PartitionWriter(config.model_sha256, self._embedding_size)
        for row in self.rows(read_partition(config.output, number)):
            writer.add(row)
        writer.write(path, config.run)
        return writer.counts

    def rows(self, entries: list[Entry]) -> Iterator[Row]:
        """Yield the rows of entries in order, images before videos.

        Raises:
            InputError: the storage fails, or none of the files can be read.
            ModelError: the model fails.
        """
        lost, first = 0, None
        batch: list[_Input] = []
        for read in self._inputs([entry for entry in entries if entry.kind != "video"]):
            if read.lost:
                lost, first = lost + 1, first or read.problem
            batch.append(read)
            if len(batch) >= self._config.batch:
                yield from self._answer(batch)
                batch = []
        yield from self._answer(batch)
        for entry in entries:
            if entry.kind == "video" and (missing := _missing(entry)) is not None:
                lost, first = lost + 1, first or missing.problem
                yield error_row(missing.path, str(missing.problem))
            elif entry.kind == "video":
                yield from self._visits(entry)
        if lost == len(entries):  # more likely an unmounted folder or expired credentials than missing files
            raise InputError(f"none of {lost} files can be read: {first}" if lost > 1 else str(first))

    def _answer(self, batch: list[_Input]) -> Iterator[Row]:
        ready = [read.prepared for read in batch if read.prepared is not None]
        answers: Iterator[tuple[tuple[NDArray[np.float32], float | None], NDArray[np.float32] | None]] = iter(())
        if ready:
            judgement, embeddings = self.classifier.judge_prepared(np.stack(ready), embed=self._config.embedding)
            answers = zip(judgement.rows(), [None] * len(ready) if embeddings is None else embeddings, strict=True)
        for read in batch:
            if read.problem is not None:
                yield error_row(read.path, read.problem)
            else:
                row, embedding = next(answers)
                yield image_row(read.path, self.classifier.answer(*row, size_px=read.size_px), embedding)

    def _inputs(self, entries: list[Entry]) -> Iterator[_Input]:
        """Read and decode images in order, remote ones in parallel.

        Each task returns the model's input instead of the decoded image, so that queued results take little memory.
        """
        tasks = (task for entry in entries for task in self._tasks(entry))
        remote = any(entry.kind == "image" and storage_of(entry.path).remote for entry in entries)
        if not remote:
            yield from (task() for task in tasks)
            return
        with ThreadPoolExecutor(READERS, thread_name_prefix="read") as pool:
            waiting: deque[Future[_Input]] = deque()
            try:
                for task in tasks:
                    waiting.append(pool.submit(task))
                    if len(waiting) >= 2 * READERS:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def _tasks(self, entry: Entry) -> Iterator[Callable[[], _Input]]:
        if entry.kind == "image":
            yield partial(self._read, entry)
            return
        if (missing := _missing(entry)) is not None:
            yield lambda: missing
            return
        rows = rows_of_tar(entry) if entry.kind == "tar" else rows_of_parquet(entry)
        for encoded in rows:
            yield partial(self._decode, encoded)

    def _read(self, entry: Entry) -> _Input:
        try:
            data = storage_of(entry.path).read_image(entry.path)
        except ImageError as error:
            return _Input(entry.shown, None, 0, str(error), error.problem in ("missing", "unreadable"))
        return self._decode(Encoded(entry.shown, data))

    def _decode(self, encoded: Encoded) -> _Input:
        if encoded.data is None:
            return _Input(encoded.path, None, 0, encoded.problem)
        try:
            image = decode_image(encoded.data, encoded.path)
        except ImageError as error:
            return _Input(encoded.path, None, 0, str(error))
        return _Input(encoded.path, prepare(image, self.classifier.manifest.preprocess), min(image.shape[:2]), None)

    def _visits(self, entry: Entry) -> Iterator[Row]:
        """Yield a row for each visit that `watch` finds in a video.

        Raises:
            InputError: the storage fails.
            ModelError: the model fails.
        """
        config = self._config
        with storage_of(entry.path).local_file(entry.path) as path:
            camera = one_camera(
                str(path),
                model=config.model,
                ep=config.ep,
                threads=config.threads,
                # With `auto`, the answer would depend on the detector in the state folder of the worker's machine.
                locate="motion" if config.detector is None else "detector",
                detector=config.detector,
                keep=True,
            )
            try:
                events = watch(camera, classifier=self.classifier).results
            except InputError as error:
                yield error_row(entry.shown, str(error))
                return
        for event in events:
            yield visit_row(entry.shown, event)


def _missing(entry: Entry) -> _Input | None:
    """Return the error of a file that is missing, or is local and cannot be opened; None if it can be read."""
    storage = storage_of(entry.path)
    if storage.kind(entry.path) is None:
        return _Input(entry.shown, None, 0, f"cannot read {entry.shown}: No such file or directory", lost=True)
    if not storage.remote:
        try:
            storage.open(entry.path).close()
        except InputError as error:
            return _Input(entry.shown, None, 0, str(error), lost=True)
    return None


def embedding_size(embed: Callable[[NDArray[np.uint8]], NDArray[np.float32]], size_wh: tuple[int, int]) -> int:
    """Return the length of a model's embeddings."""
    width, height = size_wh
    return int(embed(np.zeros((1, height, width, 3), np.uint8)).shape[1])
