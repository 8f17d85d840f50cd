"""Training images: decoded once into memory, and gathered into prefetched batches."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from twincar_edge.datasets import Dataset
from twincar_edge.preprocess import Preprocess, prepare, resize
from twincar_edge.progress import Progress

logger = logging.getLogger(__name__)

DEFAULT_CACHE_MB = 4096
# Cached images are a little larger than the training size, so that random crops are rarely enlarged.
CACHE_MARGIN = 1.25
BATCHES_AHEAD = 4


class TrainingImages:
    """Decoded images with their labels, in the model's geometry but larger.

    The model's own preprocessing prepares the images, so training sees them as evaluation does. They are cached in
    memory as uint8 if they fit into `cache_mb`; otherwise each epoch decodes them again.
    """

    def __init__(
        self,
        dataset: Dataset,
        preprocess: Preprocess,
        largest_wh: tuple[int, int],
        cache_mb: int = DEFAULT_CACHE_MB,
        progress: Progress | None = None,
    ) -> None:
        """Read all images into memory if they fit.

        Args:
            dataset: usable images.
            preprocess: the model's preprocessing.
            largest_wh: the largest size of augmented images, in pixels.
            cache_mb: memory limit for decoded images, in megabytes (10^6 bytes).
            progress: called with (images done, total images) during reading.

        Raises:
            InputError: an image is unusable.
        """
        self.labels = torch.from_numpy(dataset.labels.astype(np.int64))
        self._samples = dataset.samples
        self._larger = preprocess.model_copy(update={"size_wh": with_margin(largest_wh)})
        self._pixels: NDArray[np.uint8] | None = None
        width, height = self._larger.size_wh
        size_mb = len(dataset) * width * height * 3 / 1e6
        if size_mb <= cache_mb:
            logger.info(
                "caching %d training images at %dx%d in %.0f MB of memory", len(dataset), width, height, size_mb
            )
            self._pixels = self._read_all(progress)
        else:
            logger.warning(
                "%d training images at %dx%d need %.0f MB, more than the cache of %d MB: decoding them in each epoch",
                *(len(dataset), width, height, size_mb, cache_mb),
            )

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._samples)

    def gather(self, indices: Tensor, size_wh: tuple[int, int]) -> Tensor:
        """Return the images at `indices`, uint8 [N, size_wh[1], size_wh[0], 3] in the model's color order."""
        if self._pixels is not None and size_wh == self._larger.size_wh:
            return torch.from_numpy(self._pixels[indices.numpy()])
        batch = np.empty((len(indices), size_wh[1], size_wh[0], 3), np.uint8)
        for row, index in zip(batch, indices.tolist(), strict=True):
            row[:] = resize(self._read(index) if self._pixels is None else self._pixels[index], size_wh)
        return torch.from_numpy(batch)

    def _read(self, index: int) -> NDArray[np.uint8]:
        return prepare(self._samples[index].read(), self._larger)

    def _read_all(self, progress: Progress | None) -> NDArray[np.uint8]:
        width, height = self._larger.size_wh
        pixels = np.empty((len(self._samples), height, width, 3), np.uint8)

        def read(index: int) -> None:
            pixels[index] = self._read(index)

        pool = ThreadPoolExecutor(max(1, torch.get_num_threads()), "decode")
        try:
            for done, _ in enumerate(pool.map(read, range(len(pixels))), start=1):
                if progress is not None:
                    progress(done, len(pixels))
        finally:
            pool.shutdown(cancel_futures=True)  # an interrupted run must not read the remaining images first
        return pixels


def with_margin(size_wh: tuple[int, int]) -> tuple[int, int]:
    """Return the size of the images, in pixels, from which random crops of `size_wh` are taken."""
    width, height = (min(4096, -(-round(side * CACHE_MARGIN) // 8) * 8) for side in size_wh)
    return width, height


def sample_order(labels: Tensor, balanced: bool, generator: torch.Generator) -> Tensor:
    """Return the indices of an epoch's images, int64 [N], in random order.

    Args:
        labels: int64 [N], of all images.
        balanced: sample with replacement so that all classes are equally frequent, instead of each image once.
        generator: source of randomness.
    """
    if not balanced:
        return torch.randperm(len(labels), generator=generator)
    weights = 1.0 / torch.bincount(labels).clamp(min=1).double()
    return torch.multinomial(weights[labels], len(labels), replacement=True, generator=generator)


def split_batches(order: Tensor, batch_size: int) -> list[Tensor]:
    """Split an epoch's order into batches.

    Drops an incomplete last batch, unless it is the only one: its gradient would weigh as much as that of a full batch.
    The next epoch, in another order, drops other images.
    """
    parts = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return parts[:-1] if len(parts) > 1 and len(parts[-1]) < batch_size else parts


def prefetch(
    images: TrainingImages, batches: list[Tensor], size_wh: tuple[int, int], *, pinned: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield each batch's images and labels, prefetched in threads.

    Args:
        images: the training images.
        batches: the indices of each batch.
        size_wh: size of the images, in pixels.
        pinned: use page-locked memory, from which a GPU copies while it computes.
    """

    def load(indices: Tensor) -> tuple[Tensor, Tensor]:
        pixels, labels = images.gather(indices, size_wh), images.labels[indices]
        return (pixels.pin_memory(), labels.pin_memory()) if pinned else (pixels, labels)

    pool = ThreadPoolExecutor(max(1, min(BATCHES_AHEAD, torch.get_num_threads())), "gather")
    try:
        waiting: deque[Future[tuple[Tensor, Tensor]]] = deque()
        for indices in batches:
            waiting.append(pool.submit(load, indices))
            if len(waiting) > BATCHES_AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
