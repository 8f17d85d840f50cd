"""Makes the golden inputs that an exported file carries: drawn cars, so nothing of a data set leaves with it."""

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
# Width and height as shares of the model's input. A strip that shrinks to a third in one axis tells interpolations
# apart, a small picture grows in both, and the last is tall where the first is wide, so that no resize rule passes for
# another.
SHARES_WH = ((3.0, 0.45), (0.7, 0.8), (0.8, 1.4))
LABELS = (0, 7, 10)  # a saloon, an SUV, a pick-up
MAX_PIXELS = 200_000  # all pictures together, about 300 KB in the file; a larger input gets smaller shares
_LEAST_SIDE = 48  # in less, no car can be drawn


def make_golden(predict: Predict, preprocess: Preprocess, embed: Predict | None = None) -> Golden:
    """Return the golden inputs of a model.

    Args:
        predict: uint8 [N, H, W, 3] to logits, float32 [N, classes]: the exported file itself, open on the CPU provider.
            That it answers as the checkpoint does is parity's business; these say that it goes on to.
        preprocess: the model's own.
        embed: the same file as a function to embeddings, float32 [N, D]; None where it gives none.

    Raises:
        ModelError: the model fails.
    """
    images = golden_images(preprocess.size_wh)
    batch_nhwc = prepare_batch(images, preprocess)
    embeddings = None if embed is None else normalized(embed(batch_nhwc))
    return Golden(images, sample_pixels(batch_nhwc), predict(batch_nhwc), embeddings)


def golden_images(size_wh: tuple[int, int]) -> tuple[NDArray[np.uint8], ...]:
    """Draw the pictures for a model whose input is `size_wh`: uint8 [H, W, 3] each, the same ones on every call.

    Another kind of CPU may draw them a little differently, which is why the file carries them and not their seed.
    """
    width, height = size_wh
    wanted = sum(x * y for x, y in SHARES_WH) * width * height
    scale = min(1.0, math.sqrt(MAX_PIXELS / wanted))
    return tuple(
        draw_twin_car(
            label,
            np.random.default_rng([SEED, number]),
            (max(_LEAST_SIDE, round(x * scale * width)), max(_LEAST_SIDE, round(y * scale * height))),
        ).image_bgr
        for number, (label, (x, y)) in enumerate(zip(LABELS, SHARES_WH, strict=True))
    )
