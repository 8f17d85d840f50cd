"""Training images: decoded once into memory, gathered into batches ahead of the model."""

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
# Random crops are taken from images a little larger than what the model trains on, so that they hardly ever enlarge.
CACHE_MARGIN = 1.25
BATCHES_AHEAD = 4


class TrainingImages:
    """Decoded images in the model's own geometry, only larger, with their labels.

    Images are prepared by the model's own preprocessing, so they meet the model in training as they do at evaluation.
    They are kept in memory as uint8 while `cache_mb` allows it; beyond that, each epoch decodes them again.
    """

    def __init__(
        self,
        dataset: Dataset,
        preprocess: Preprocess,
        largest_wh: tuple[int, int],
        cache_mb: int = DEFAULT_CACHE_MB,
        progress: Progress | None = None,
    ) -> None:
        """Read all images into memory, or decide that they are too many.

        Args:
            dataset: images that are usable.
            preprocess: the model's own.
            largest_wh: the largest size that augmented images will have, in pixels.
            cache_mb: the most memory for decoded images, in units of 10^6 bytes.
            progress: called with (images done, images in all) while they are read.

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
            logger.info("%d training images at %dx%d take %.0f MB of memory", len(dataset), width, height, size_mb)
            self._pixels = self._read_all(progress)
        else:
            logger.warning(
                "%d training images at %dx%d would take %.0f MB of memory, more than %d: each epoch decodes them again",
                *(len(dataset), width, height, size_mb, cache_mb),
            )

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._samples)

    def gather(self, indices: Tensor, size_wh: tuple[int, int]) -> Tensor:
        """Return some images: uint8 [N, size_wh[1], size_wh[0], 3] in the model's colour order."""
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
            pool.shutdown(cancel_futures=True)  # an interrupted training must not first read all the rest
        return pixels


def with_margin(size_wh: tuple[int, int]) -> tuple[int, int]:
    """Return the size, in pixels, that images have before a random crop of them becomes `size_wh`."""
    width, height = (min(4096, -(-round(side * CACHE_MARGIN) // 8) * 8) for side in size_wh)
    return width, height


def draw_order(labels: Tensor, balanced: bool, generator: torch.Generator) -> Tensor:
    """Return which images an epoch shows, int64 [N], in random order.

    Args:
        labels: int64 [N], of all images.
        balanced: draw with replacement, each class as often as any other, instead of each image once.
        generator: source of randomness.
    """
    if not balanced:
        return torch.randperm(len(labels), generator=generator)
    weights = 1.0 / torch.bincount(labels).clamp(min=1).double()
    return torch.multinomial(weights[labels], len(labels), replacement=True, generator=generator)


def batches_of(order: Tensor, batch_size: int) -> list[Tensor]:
    """Cut an epoch's order into batches.

    A last batch that is not full is left out, unless it is the only one: its gradient would count as much as the
    others'. Other images are left out in the next epoch.
    """
    parts = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return parts[:-1] if len(parts) > 1 and len(parts[-1]) < batch_size else parts


def prefetch(
    images: TrainingImages, batches: list[Tensor], size_wh: tuple[int, int], *, pinned: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """Give each batch's images and labels, gathered in threads ahead of their use.

    Args:
        images: where from.
        batches: the indices of each batch.
        size_wh: size of the images, in pixels.
        pinned: in page-locked memory, from where a GPU takes them while it works on others.
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
