"""Averages the weights of several checkpoints: `python -m twincar_edge.training.average TO FROM FROM...`.

For trainings from the same initial weights, such as two that differ in their seed. The mean is often better than each
of them, and as fast as one: "model soups", Wortsman et al. 2022 (arXiv:2203.05482). A mean can be averaged with further
trainings: a mean of three then counts as three.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from twincar_edge.errors import InputError, exit_code
from twincar_edge.files import check_not_read
from twincar_edge.training.checkpoint import Checkpoint, Contents, read_checkpoint, write_checkpoint

# What all must share, and how a message calls it.
_SHARED = {
    "architecture": "architecture",
    "classes": "classes",
    "data": "training images",
}
# The weights of a backbone answer at any size: trainings at several sizes and shapes have a mean, too.
_PREPROCESS_OF_FIRST = ("size_wh", "interpolation")


def average(checkpoints: Sequence[Checkpoint]) -> Contents:
    """Return a checkpoint whose weights are the mean of those of several.

    It has the preprocessing and the recipe of the first, with the digests of all trainings under "averaged"; no epoch,
    and no validation accuracy. Input size and interpolation may differ. A checkpoint that is a mean itself has the
    weight of its trainings, so that all trainings count alike.

    Raises:
        InputError: there are fewer than two, or they differ in architecture, classes, preprocessing or training images.
            With other images, those that one holds out may be among those that another has learned from.
    """
    if len(checkpoints) < 2:
        raise InputError("name at least two checkpoints to average")
    first = checkpoints[0]
    for other in checkpoints[1:]:
        for field, name in _SHARED.items():
            if getattr(other, field) != getattr(first, field):
                raise InputError(f"{other.name} differs from {first.name} in its {name}")
        of_first = {field: getattr(first.preprocess, field) for field in _PREPROCESS_OF_FIRST}
        if other.preprocess.model_copy(update=of_first) != first.preprocess:
            raise InputError(f"{other.name} differs from {first.name} in its preprocessing")
        if _shapes(other) != _shapes(first):
            raise InputError(f"{other.name} differs from {first.name} in its tensors: one of them is damaged")
    trainings = [_trainings(checkpoint) for checkpoint in checkpoints]
    shares = torch.tensor([len(digests) for digests in trainings], dtype=torch.float64)
    shares /= shares.sum()
    return Contents(
        architecture=first.architecture,
        state_dict={name: _mean([one.state_dict[name] for one in checkpoints], shares) for name in first.state_dict},
        classes=first.classes,
        preprocess=first.preprocess,
        recipe={**first.recipe, "averaged": list(chain.from_iterable(trainings))},
        data=first.data,
    )


def _shapes(checkpoint: Checkpoint) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in checkpoint.state_dict.items()}


def _trainings(checkpoint: Checkpoint) -> list[str]:
    """Return the digests of the trainings that a checkpoint is the mean of: for a single training, its own."""
    averaged = checkpoint.recipe.get("averaged")
    return list(map(str, averaged)) if isinstance(averaged, list) and averaged else [checkpoint.sha256]


def _mean(tensors: Sequence[Tensor], shares: Tensor) -> Tensor:
    """Return the weighted mean, or the first tensor if they hold counts."""
    first = tensors[0]
    if not first.is_floating_point():
        return first
    mean: Tensor = torch.tensordot(shares, torch.stack([one.double() for one in tensors]), dims=1)
    return mean.to(first.dtype)


def main(arguments: list[str]) -> int:
    """Write the mean of all paths but the first to the first; return the exit code."""
    if len(arguments) < 3:
        sys.stderr.write("usage: python -m twincar_edge.training.average TO FROM FROM...\n")
        return 2
    target, *sources = map(Path, arguments)

    def work() -> None:
        check_not_read([target], sources)
        write_checkpoint(target, **average([read_checkpoint(source) for source in sources]))

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
