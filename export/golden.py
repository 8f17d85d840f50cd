"""Makes the golden inputs of an exported file: synthetic cars, so that the file contains no images of a data set."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from twincar_edge.dataset_logits import Predict
from twincar_edge.golden import Golden, sample_pixels
from twincar_edge.preprocess import Preprocess, prepare_batch
from twincar_edge.prototypes import normalized
from twincar_edge.synthetic import draw_twin_car

SEED = 196
# Width and height as shares of the model's input, chosen so that each wrong resize rule changes the logits: a wide
# strip that shrinks to a third in one axis (which differs between interpolations), an image that grows in both axes,
# and a tall one.
SHARES_WH = ((3.0, 0.45), (0.7, 0.8), (0.8, 1.4))
LABELS = (0, 7, 10)  # a sedan, an SUV, a pickup
MAX_PIXELS = 200_000  # of all images together, about 300 KB in the file; for larger inputs, the shares are reduced
_MIN_SIDE = 48  # the smallest image in which a car can be drawn


def make_golden(predict: Predict, preprocess: Preprocess, embed: Predict | None = None) -> Golden:
    """Return the golden inputs of a model.

    Args:
        predict: the exported file on the CPU provider, from uint8 [N, H, W, 3] to logits, float32 [N, classes]. Parity
            compares it with the checkpoint; golden inputs detect later changes.
        preprocess: the model's preprocessing.
        embed: the same file as a function to embeddings, float32 [N, D]; None if it has none.

    Raises:
        ModelError: inference fails.
    """
    images = golden_images(preprocess.size_wh)
    batch_nhwc = prepare_batch(images, preprocess)
    embeddings = None if embed is None else normalized(embed(batch_nhwc))
    return Golden(images, sample_pixels(batch_nhwc), predict(batch_nhwc), embeddings)


def golden_images(size_wh: tuple[int, int]) -> tuple[NDArray[np.uint8], ...]:
    """Draw the images for a model with inputs of `size_wh`: uint8 [H, W, 3] each, the same on every call.

    Drawing may differ slightly between CPU types, so the file stores the images instead of a seed.
    """
    width, height = size_wh
    pixels = sum(x * y for x, y in SHARES_WH) * width * height
    scale = min(1.0, math.sqrt(MAX_PIXELS / pixels))
    return tuple(
        draw_twin_car(
            label,
            np.random.default_rng([SEED, number]),
            (max(_MIN_SIDE, round(x * scale * width)), max(_MIN_SIDE, round(y * scale * height))),
        ).image_bgr
        for number, (label, (x, y)) in enumerate(zip(LABELS, SHARES_WH, strict=True))
    )
