"""One loop that runs any model over a data set: PyTorch's, ONNX Runtime's, or a function in a test."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from twincar_edge.cores import usable_cores
from twincar_edge.datasets import Dataset, Sample
from twincar_edge.errors import InputError, ModelError
from twincar_edge.labels import ClassMapping
from twincar_edge.preprocess import Preprocess, prepare

Predict = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""A model: `batch_nhwc`, uint8 [N, H, W, 3], to `logits`, float32 [N, classes]."""


def dataset_logits(
    predict: Predict,
    dataset: Dataset,
    preprocess: Preprocess,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float32]:
    """Run a model over every image of a data set: `logits`, float32 [N, classes], in the order of the samples.

    Args:
        predict: the model.
        dataset: images that are usable (`check_integrity` drops those that are not).
        preprocess: the model's own.
        batch_size: images in a batch; the last may be smaller.
        progress: called with (images done, images in all) after each batch.

    Raises:
        InputError: the data set is empty, the batch size is below 1, or an image is unusable (`ImageError`).
        ModelError: the model returns another shape than [N, classes].
    """
    parts: list[NDArray[np.float32]] = []
    done = 0
    for (batch_nhwc,) in prepared_batches(dataset, [preprocess], batch_size):
        logits = np.asarray(predict(batch_nhwc), np.float32)
        if logits.ndim != 2 or len(logits) != len(batch_nhwc) or (parts and logits.shape[1] != parts[0].shape[1]):
            raise ModelError(f"the model gave {list(logits.shape)} for {len(batch_nhwc)} images, not [N, classes]")
        parts.append(logits)
        done += len(logits)
        if progress is not None:
            progress(done, len(dataset))
    return np.concatenate(parts)


def prepared_batches(
    dataset: Dataset, ways: Sequence[Preprocess], batch_size: int
) -> Iterator[tuple[NDArray[np.uint8], ...]]:
    """Yield the images of a data set in batches, each prepared in every way: a uint8 [N, H, W, 3] for each of them.

    Each image is decoded once. The next batch is read and prepared in threads while the caller works on this one, so
    memory holds two batches for each way.

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
        coming = [pool.submit(load, sample) for sample in dataset.samples[:batch_size]]
        for start in range(0, len(dataset), batch_size):
            images = [image.result() for image in coming]
            following = dataset.samples[start + batch_size : start + 2 * batch_size]
            coming = [pool.submit(load, sample) for sample in following]
            yield tuple(np.stack(batch) for batch in zip(*images, strict=True))
    finally:
        pool.shutdown(cancel_futures=True)  # after an error the next batch is of no use


def labels_for(dataset: Dataset, classes: ClassMapping) -> NDArray[np.int64]:
    """Return the data set's labels as a model's output indices, int64 [N], matched by class name.

    Only the classes that the data set has images of need to be known to the model.

    Raises:
        InputError: the model does not know some of these classes.
    """
    index = {name: label for label, name in enumerate(classes)}
    used = sorted({sample.label for sample in dataset.samples})
    unknown = [dataset.classes[label] for label in used if dataset.classes[label] not in index]
    if unknown:
        first = ", ".join(repr(name) for name in unknown[:3]) + (", …" if len(unknown) > 3 else "")
        raise InputError(f"the model does not know {len(unknown)} classes of the data set {dataset.name}: {first}")
    outputs = {label: index[dataset.classes[label]] for label in used}
    return np.array([outputs[sample.label] for sample in dataset.samples], np.int64)
