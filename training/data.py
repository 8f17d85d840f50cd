"""Training images: decoded once into memory, and varied anew each time they are seen."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision.transforms import v2

from twincar_edge.datasets import Dataset
from twincar_edge.preprocess import LETTERBOX_GREY, Preprocess, prepare
from twincar_edge.training.recipe import Augmentation

logger = logging.getLogger(__name__)

DEFAULT_CACHE_MB = 4096
# Random crops are taken from images a little larger than what the model trains on, so that they hardly ever enlarge.
CACHE_MARGIN = 1.25
BLUR_KERNEL, BLUR_SIGMA = 5, (0.1, 1.5)
ROTATED_SHARE = 0.5  # rotation costs more than all the rest; half of the images are variety enough


class TrainingImages(TorchDataset[tuple[Tensor, int]]):
    """Augmented training images with their labels: uint8 [H, W, 3] in the model's colour order, and an index.

    Images are prepared by the model's own preprocessing, only larger, and augmented from there: so they meet the model
    in the same geometry as at evaluation. They are kept in memory as uint8 while `cache_mb` allows it; beyond that,
    each epoch decodes them again.
    """

    def __init__(
        self,
        dataset: Dataset,
        preprocess: Preprocess,
        train_size_wh: tuple[int, int],
        augmentation: Augmentation,
        cache_mb: int = DEFAULT_CACHE_MB,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Read all images into memory, or decide that they are too many.

        Args:
            dataset: images that are usable.
            preprocess: the model's own.
            train_size_wh: size of the augmented images, in pixels.
            augmentation: how they are varied.
            cache_mb: the most memory for decoded images, in units of 10^6 bytes.
            progress: called with (images done, images in all) while they are read.

        Raises:
            InputError: an image is unusable.
        """
        width, height = (min(4096, -(-round(side * CACHE_MARGIN) // 8) * 8) for side in train_size_wh)
        self._samples = dataset.samples
        self._larger = preprocess.model_copy(update={"size_wh": (width, height)})
        self._transform = build_augmentation(augmentation, train_size_wh)
        self._pixels: NDArray[np.uint8] | None = None
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

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return one image, varied by torch's global random state, and its label."""
        sample = self._samples[index]
        pixels = prepare(sample.read(), self._larger) if self._pixels is None else self._pixels[index]
        varied: Tensor = self._transform(torch.from_numpy(pixels).permute(2, 0, 1))
        return varied.permute(1, 2, 0), sample.label

    def _read_all(self, progress: Callable[[int, int], None] | None) -> NDArray[np.uint8]:
        width, height = self._larger.size_wh
        pixels = np.empty((len(self._samples), height, width, 3), np.uint8)

        def read(index: int) -> None:
            pixels[index] = prepare(self._samples[index].read(), self._larger)

        pool = ThreadPoolExecutor(max(1, torch.get_num_threads()), "decode")
        try:
            for done, _ in enumerate(pool.map(read, range(len(pixels))), start=1):
                if progress is not None:
                    progress(done, len(pixels))
        finally:
            pool.shutdown(cancel_futures=True)  # an interrupted training must not first read all the rest
        return pixels


def build_augmentation(augmentation: Augmentation, size_wh: tuple[int, int]) -> Callable[[Tensor], Tensor]:
    """Return the random transform of one image, uint8 [3, H, W], to uint8 [3, size_wh[1], size_wh[0]].

    What a strength of 0 switches off costs nothing. Randomness comes from torch's global state.
    """
    width, height = size_wh
    shape = (1 / augmentation.stretch, augmentation.stretch)
    steps: list[torch.nn.Module] = [
        v2.RandomResizedCrop((height, width), scale=(augmentation.min_scale, 1.0), ratio=shape, antialias=True)
    ]
    if augmentation.flip:
        steps.append(v2.RandomHorizontalFlip(augmentation.flip))
    if augmentation.rotation_degrees:
        rotation = v2.RandomRotation(
            augmentation.rotation_degrees, interpolation=v2.InterpolationMode.BILINEAR, fill=LETTERBOX_GREY
        )
        steps.append(v2.RandomApply([rotation], ROTATED_SHARE))
    if augmentation.jitter:
        strength = augmentation.jitter
        steps.append(v2.ColorJitter(brightness=strength, contrast=strength, saturation=strength))
    if augmentation.blur:
        steps.append(v2.RandomApply([v2.GaussianBlur(BLUR_KERNEL, BLUR_SIGMA)], augmentation.blur))
    transform: Callable[[Tensor], Tensor] = v2.Compose(steps)
    return transform


def training_batches(images: TrainingImages, batch_size: int) -> DataLoader[tuple[Tensor, int]]:
    """Return shuffled batches: (`batch_nhwc` uint8 [N, H, W, 3], labels int64 [N]), by torch's global random state.

    A last batch that is not full is left out, unless it is the only one: its gradient would count as much as the
    others'. Other images are left out in the next epoch.
    """
    return DataLoader(images, batch_size, shuffle=True, drop_last=len(images) > batch_size)
