"""The only loop that runs models over a data set: PyTorch, ONNX Runtime, or a function of a test."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twincar_edge.cores import usable_cores
from twincar_edge.datasets import Dataset, Sample
from twincar_edge.errors import InputError, ModelError
from twincar_edge.labels import ClassMapping
from twincar_edge.preprocess import Preprocess, prepare
from twincar_edge.progress import Progress

Predict = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""A model: maps `batch_nhwc`, uint8 [N, H, W, 3], to `logits`, float32 [N, classes]."""

BATCH = 32  # images


@dataclass(frozen=True)
class Side:
    """One of several models that run on the same images.

    Attributes:
        predict: `batch_nhwc`, uint8 [N, H, W, 3], to `logits`, float32 [N, classes], not yet divided by a temperature.
        preprocess: from the model's own manifest or checkpoint, so that a comparison includes differences in resizing.
        temperature: divides the logits before softmax.
        embed: returns embeddings, float32 [N, D]; None if the model has none.
    """

    predict: Predict
    preprocess: Preprocess
    temperature: float = 1.0
    embed: Predict | None = None

    def embedding(self) -> Side:
        """Return the model with embeddings instead of logits, for the loops of this module."""
        assert self.embed is not None, "this model has no embeddings"
        return Side(self.embed, self.preprocess)


def dataset_logits(
    predict: Predict,
    dataset: Dataset,
    preprocess: Preprocess,
    batch_size: int = BATCH,
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """Run one model over every image of a data set: `logits`, float32 [N, classes], in the order of the samples.

    Arguments and errors are those of `run_sides`.
    """
    side = "the model"
    return run_sides({side: Side(predict, preprocess)}, dataset, progress, batch_size)[side]


def run_sides(
    sides: Mapping[str, Side], dataset: Dataset, progress: Progress | None = None, batch_size: int = BATCH
) -> dict[str, NDArray[np.float32]]:
    """Run every model over every image: `logits`, float32 [N, classes], by side, in the order of the samples.

    Each image is decoded once. Peak memory is two batches of prepared images per preprocessing, plus the logits.

    Args:
        sides: models by name.
        dataset: usable images (`check_integrity` drops the others).
        progress: called with (images done, total images) after each batch.
        batch_size: images per batch; the last may be smaller.

    Raises:
        InputError: the data set is empty, the batch size is below 1, or an image is unusable (`ImageError`).
        ModelError: a model returns a shape other than [N, classes].
    """
    ways = list(dict.fromkeys(side.preprocess for side in sides.values()))
    logits: dict[str, NDArray[np.float32]] = {}
    done = 0
    for batches_nhwc in prepared_batches(dataset, ways, batch_size):
        count = len(batches_nhwc[0])
        for name, side in sides.items():
            found = np.asarray(side.predict(batches_nhwc[ways.index(side.preprocess)]), np.float32)
            if found.ndim != 2 or len(found) != count or (name in logits and found.shape[1] != logits[name].shape[1]):
                raise ModelError(f"{name} returned {list(found.shape)} for {count} images, not [N, classes]")
            if name not in logits:
                logits[name] = np.empty((len(dataset), found.shape[1]), np.float32)
            logits[name][done : done + count] = found
        done += count
        if progress is not None:
            progress(done, len(dataset))
    return logits


def prepared_batches(
    dataset: Dataset, ways: Sequence[Preprocess], batch_size: int
) -> Iterator[tuple[NDArray[np.uint8], ...]]:
    """Yield the images of a data set in batches, one uint8 [N, H, W, 3] per preprocessing.

    Each image is decoded once. Threads read and prepare the next batch while the caller works on this one, so
    memory holds two batches per preprocessing.

    Raises:
        InputError: the data set is empty, the batch size is below 1, or an image is unusable (`ImageError`).
    """
    if len(dataset) == 0:
        raise InputError(f"the data set {dataset.name} is empty")
    if batch_size < 1:
        raise InputError(f"the batch size must be 1 or more, found {batch_size}")

    def load(sample: Sample) -> list[NDArray[np.uint8]]:
        image_bgr = sample.read()
        return [prepare(image_bgr, way) for way in ways]

    pool = ThreadPoolExecutor(min(4, usable_cores()), "decode")
    try:
        pending = [pool.submit(load, sample) for sample in dataset.samples[:batch_size]]
        for start in range(0, len(dataset), batch_size):
            images = [image.result() for image in pending]
            following = dataset.samples[start + batch_size : start + 2 * batch_size]
            pending = [pool.submit(load, sample) for sample in following]
            yield tuple(np.stack(batch) for batch in zip(*images, strict=True))
    finally:
        pool.shutdown(cancel_futures=True)  # after an error, drop the next batch


def labels_for(dataset: Dataset, classes: ClassMapping) -> NDArray[np.int64]:
    """Return the data set's labels as a model's output indices, int64 [N], matched by class name in any spelling.

    Classes without images in the data set may be missing from the model.

    Raises:
        InputError: the model lacks some of these classes.
    """
    outputs = {label: classes.find(dataset.classes[label]) for label in {sample.label for sample in dataset.samples}}
    unknown = [dataset.classes[label] for label, output in sorted(outputs.items()) if output is None]
    if unknown:
        first = ", ".join(repr(name) for name in unknown[:3]) + (", …" if len(unknown) > 3 else "")
        raise InputError(f"the model does not know {len(unknown)} classes of the data set {dataset.name}: {first}")
    return np.array([outputs[sample.label] for sample in dataset.samples], np.int64)
