"""Which images files are compared on: those that the training held out, wherever they can be found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from twincar_edge.datasets import Dataset, OpenOptions, check_integrity
from twincar_edge.export.data import open_split
from twincar_edge.training.checkpoint import Checkpoint
from twincar_edge.training.run_folder import named_images


def open_images(
    model: Path, checkpoint: Checkpoint, data: OpenOptions | None, split: Path | None, notice: Callable[[str], None]
) -> Dataset:
    """Return labelled images that the model was not trained on, as far as that can be known.

    With `split` they are those that it names. Without, and without `data`, they are those that the training held out,
    from the folder that the model lies in. Images that are given without a split are split as the training split them,
    if they are the training's: then its recipe gives the digest again that the checkpoint keeps of them. If they are
    not, nothing was held out of them, and all that are usable are taken.

    Args:
        model: the reference's file.
        checkpoint: what is known of its training.
        data: labelled images.
        split: a run's folder, whose held-out images are taken, or a CSV that names images of `data`.
        notice: called with a line where all images of `data` are taken.

    Raises:
        InputError: there are no images, or they are not what a list says.
        ModelError: the checkpoint's recipe cannot be used.
    """
    if split is not None:
        return named_images(split, data)
    if data is None:
        return open_split(model, checkpoint.recipe, None).validation
    dataset = data.open()
    trained_on = checkpoint.data
    if trained_on is not None and len(dataset) >= trained_on.images:
        halves = open_split(model, checkpoint.recipe, data)
        samples = halves.train.samples + halves.validation.samples
        everything = Dataset(dataset.name, dataset.classes, samples)
        if trained_on.digest in (halves.train.digest(), everything.digest()):
            return halves.validation
    usable, _ = check_integrity(dataset)
    notice(f"{dataset.name} is not the data that the model was trained on: all {len(usable)} usable images are taken")
    return usable
