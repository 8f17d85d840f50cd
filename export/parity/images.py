"""Selects the images for parity: those held out in training, if they can be found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from twincar_edge.datasets import Dataset, OpenOptions
from twincar_edge.export.data import find_split, held_out_none, is_listed, not_learned_from, open_split
from twincar_edge.training.checkpoint import Checkpoint
from twincar_edge.training.run_folder import named_images


def open_images(
    model: Path, checkpoint: Checkpoint, data: OpenOptions | None, split: Path | None, notice: Callable[[str], None]
) -> Dataset:
    """Return labeled images that the model was not trained on, as far as that is known.

    These are the images of `split` if given. Without `split` and `data`, they are the held-out images of the training
    run in whose folder the model is. With `data` alone, images of the training are split as there; the run's lists or
    the digest in the checkpoint identify them (`find_split`). Of any other data, all usable images are returned, and of
    the data of a run without validation images, all that the model was not trained on.

    Args:
        model: the reference model's file.
        checkpoint: the reference, with the metadata of its training.
        data: labeled images.
        split: a run folder, for its held-out images, or a CSV that lists images of `data`.
        notice: called with one line if all images of `data` are used, or the model may have learned from some of them.

    Raises:
        InputError: there are no images, they do not match a list, or the model lacks one of their classes or was
            trained on all of them.
        ModelError: the checkpoint's recipe cannot be used.
    """
    if split is not None:
        return named_images(split, data)
    if data is None:
        return open_split(model, checkpoint.recipe, checkpoint.classes, None).validation
    dataset = data.open()
    doubt = "" if is_listed(model) else "; the model may have learned from some of them"
    if held_out_none(model, checkpoint.recipe):
        others = not_learned_from(model, checkpoint.classes, dataset, checkpoint.data)
        if doubt:
            notice(f"using all {len(others)} usable images of {dataset.name}{doubt}")
        return others
    found, usable = find_split(model, checkpoint.recipe, checkpoint.classes, dataset, checkpoint.data)
    if found is not None:
        return found.validation
    notice(f"{dataset.name} is not the training data of the model: using all {len(usable)} usable images{doubt}")
    return usable
