"""Models side by side over the same images: each image is decoded once, and prepared as each model wants it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twincar_edge.datasets import Dataset
from twincar_edge.errors import ModelError
from twincar_edge.inference import Predict, prepared_batches
from twincar_edge.preprocess import Preprocess

BATCH = 32  # images


@dataclass(frozen=True)
class Side:
    """One of the models that are compared, as a camera box would run it.

    Attributes:
        predict: `batch_nhwc`, uint8 [N, H, W, 3], to `logits`, float32 [N, classes], not yet divided by a temperature.
        preprocess: this model's own, from its manifest or checkpoint: another resize is another answer, and must show.
        temperature: divides the logits before softmax.
    """

    predict: Predict
    preprocess: Preprocess
    temperature: float = 1.0


def run_sides(
    sides: Mapping[str, Side], dataset: Dataset, progress: Callable[[int, int], None] | None = None
) -> dict[str, NDArray[np.float32]]:
    """Run every side over every image: `logits`, float32 [N, classes], by side, in the order of the samples.

    Memory holds two batches of prepared images for each preprocessing, and the logits.

    Args:
        sides: by name.
        dataset: images that are usable (`check_integrity` drops those that are not).
        progress: called with (images done, images in all) after each batch.

    Raises:
        InputError: the data set is empty, or an image is unusable (`ImageError`).
        ModelError: a side returns another shape than [N, classes].
    """
    ways = list(dict.fromkeys(side.preprocess for side in sides.values()))
    logits: dict[str, NDArray[np.float32]] = {}
    done = 0
    for batches_nhwc in prepared_batches(dataset, ways, BATCH):
        count = len(batches_nhwc[0])
        for name, side in sides.items():
            found = np.asarray(side.predict(batches_nhwc[ways.index(side.preprocess)]), np.float32)
            if found.ndim != 2 or len(found) != count or (name in logits and found.shape[1] != logits[name].shape[1]):
                raise ModelError(f"{name} gave {list(found.shape)} for {count} images, not [N, classes]")
            if name not in logits:
                logits[name] = np.empty((len(dataset), found.shape[1]), np.float32)
            logits[name][done : done + count] = found
        done += count
        if progress is not None:
            progress(done, len(dataset))
    return logits
