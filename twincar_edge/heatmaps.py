"""Heat maps that explain an answer, in plain numpy.

For networks that end in pooling and one or two linear layers, the gradient of a logit with respect to the last feature
map has a closed form: the head's weights divided by the number of positions, the same at every position. So Grad-CAM
and Grad-CAM++ need no backward pass. Occlusion only needs the model's answers, about 200 of them.
Sources: occlusion (Zeiler and Fergus, 2014, arXiv:1311.2901), CAM (Zhou et al., 2016, arXiv:1512.04150), Grad-CAM
(Selvaraju et al., 2017, arXiv:1610.02391), Grad-CAM++ (Chattopadhyay et al., 2018, arXiv:1710.11063, eq. 19).
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from twincar_edge.preprocess import Preprocess, placement

GRAD_CAM_PLUS_PLUS, GRAD_CAM, OCCLUSION = "grad-cam++", "grad-cam", "occlusion"
"""The names of the methods, as users write them."""

Floats = NDArray[np.float32]
_EPSILON = 1e-6
_PATCH = 0.15  # of the longer side: about the size of a headlight, a grille or a wheel
_PATCH_GRAY = 114
_OCCLUSION_BATCH = 4  # larger batches are not faster, and the session would keep their memory


def grad_cam_plus_plus(features: Floats, gradients: Floats) -> Floats:
    """Return the evidence for a logit at each position, by Grad-CAM++: float32 [N, h, w], at least 0.

    Args:
        features: the last feature map, float32 [N, C, h, w].
        gradients: of the logit with respect to the pooled features, float32 [N, C].
    """
    places = features.shape[2] * features.shape[3]
    each = gradients.astype(np.float64) / places
    squared, cubed = each**2, each**3
    shares = squared / (2 * squared + features.sum(axis=(2, 3), dtype=np.float64) * cubed + _EPSILON)
    return _weighted(features, np.maximum(each, 0) * shares * places)


def grad_cam(features: Floats, gradients: Floats) -> Floats:
    """Return the evidence for a logit at each position, by Grad-CAM: float32 [N, h, w], at least 0."""
    return _weighted(features, gradients / (features.shape[2] * features.shape[3]))


def contributions(features: Floats, gradients: Floats) -> Floats:
    """Return the signed contribution of each position to a logit: float32 [N, h, w].

    With one linear layer, their sum is the logit minus its bias. For the difference of two logits, the sign shows which
    class a position supports. Arguments are those of `grad_cam_plus_plus`.
    """
    each = gradients / (features.shape[2] * features.shape[3])
    return np.asarray(np.einsum("nchw,nc->nhw", features, each), np.float32)


def occlusion(image: NDArray[np.uint8], scores: Callable[[NDArray[np.uint8]], Floats]) -> Floats:
    """Return the drop in scores when a position is covered, float32 [K, H, W]; below 0 if scores rise.

    A gray patch moves over the image in steps of half its size. Each pixel gets the mean over its patches.

    Args:
        image: the model's input, uint8 [H, W, 3].
        scores: maps inputs, uint8 [N, H, W, 3], to K scores each, float32 [N, K].
    """
    rows, columns = image.shape[:2]
    size = max(2, round(_PATCH * max(rows, columns)))
    places = [
        (slice(max(0, top), top + size), slice(max(0, left), left + size))
        for top in range(-(size // 2), rows - size // 4, size // 2)
        for left in range(-(size // 2), columns - size // 4, size // 2)
    ]
    [whole] = scores(image[None])
    total, counts = np.zeros((rows, columns, len(whole))), np.zeros((rows, columns, 1))
    for start in range(0, len(places), _OCCLUSION_BATCH):
        part = places[start : start + _OCCLUSION_BATCH]
        covered = np.repeat(image[None], len(part), axis=0)
        for one, place in zip(covered, part, strict=True):
            one[place] = _PATCH_GRAY
        for place, score in zip(part, scores(covered), strict=True):
            total[place] += whole - score
            counts[place] += 1
    # Blur the edges of the patches: they are not edges of the content.
    drops = np.asarray(total / np.maximum(counts, 1), np.float32)
    return np.stack(
        [np.asarray(cv2.GaussianBlur(one, (0, 0), size / 4), np.float32) for one in np.moveaxis(drops, 2, 0)]
    )


def scaled(maps: Floats) -> Floats:
    """Return maps, float32 [N, h, w], each scaled to the range 0 to 1; a constant map becomes 0."""
    lowest = maps.min(axis=(1, 2), keepdims=True)
    highest = (maps - lowest).max(axis=(1, 2), keepdims=True)
    return np.asarray((maps - lowest) / np.where(highest > 0, highest, 1), np.float32)


def scaled_both_ways(maps: Floats) -> Floats:
    """Return signed maps, float32 [N, h, w], each scaled to -1 to 1 with 0 fixed; an all-zero map stays zero."""
    strongest = np.abs(maps).max(axis=(1, 2), keepdims=True)
    return np.asarray(maps / np.where(strongest > 0, strongest, 1), np.float32)


def to_image_geometry(heatmap: Floats, shape: tuple[int, int], preprocess: Preprocess) -> Floats:
    """Map a heat map to the geometry of its image: float32 [H, W] of `shape`, in the map's own range.

    Areas outside a center crop, which the model did not see, get 0. Letterbox padding is cut off.

    Args:
        heatmap: of the model's input, float32 [h, w] of any size.
        shape: the image's rows and columns.
        preprocess: how the image became the input.
    """
    rows, columns = shape
    width, height = preprocess.size_wh
    place = placement((columns, rows), preprocess)
    (left, top, right, bottom), (x0, y0, x1, y1) = place.image_xyxy, place.input_xyxy
    fine = cv2.resize(heatmap, (width, height), interpolation=cv2.INTER_LINEAR)
    whole = np.zeros((rows, columns), np.float32)
    seen, size_wh = whole[top:bottom, left:right], (right - left, bottom - top)  # a view: the map may be large
    cv2.resize(fine[y0:y1, x0:x1], size_wh, dst=seen, interpolation=cv2.INTER_LINEAR)
    return whole


def _weighted(features: Floats, weights: NDArray[np.floating]) -> Floats:
    return np.asarray(np.maximum(np.einsum("nchw,nc->nhw", features, weights), 0), np.float32)
