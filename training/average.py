"""Averages the weights of several checkpoints: `python -m twincar_edge.training.average TO FROM FROM...`.

For trainings from the same start weights, such as two that differ in their seed. The mean often knows more than each of
them, and answers as fast as one: "model soups", Wortsman et al. 2022 (arXiv:2203.05482).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
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
    "preprocess": "preprocessing",
    "data": "training images",
}


def average(checkpoints: Sequence[Checkpoint]) -> Contents:
    """Return a checkpoint whose weights are the mean of those of several.

    It has the recipe of the first, with the digests of all under "averaged"; no epoch, and no validation accuracy.

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
        if _shapes(other) != _shapes(first):
            raise InputError(f"{other.name} differs from {first.name} in its tensors: one of them is damaged")
    state_dicts = [checkpoint.state_dict for checkpoint in checkpoints]
    return Contents(
        architecture=first.architecture,
        state_dict={name: _mean([weights[name] for weights in state_dicts]) for name in first.state_dict},
        classes=first.classes,
        preprocess=first.preprocess,
        recipe={**first.recipe, "averaged": [checkpoint.sha256 for checkpoint in checkpoints]},
        data=first.data,
    )


def _shapes(checkpoint: Checkpoint) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in checkpoint.state_dict.items()}


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    """Return the mean, or the first tensor if they hold counts."""
    first = tensors[0]
    return (
        torch.stack([one.double() for one in tensors]).mean(0).to(first.dtype) if first.is_floating_point() else first
    )


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
