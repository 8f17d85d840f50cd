"""Add the summary of held-out pictures to a model file: `python -m twincar_edge.export.summarize MODEL DATA`.

For files of exports that wrote none. DATA is the labelled images of the training; they are split as it split them.
"""

from __future__ import annotations

import sys
from pathlib import Path

from twincar_edge.dataset_logits import dataset_logits
from twincar_edge.datasets import OpenOptions
from twincar_edge.errors import ModelError, TwincarError
from twincar_edge.export.data import open_split
from twincar_edge.files import write_bytes
from twincar_edge.held_out import HELD_OUT_KEY, HeldOut, summarize
from twincar_edge.onnx_metadata import with_metadata
from twincar_edge.runtime.inference.session import open_session


def add_summary(model: Path, data: OpenOptions) -> HeldOut:
    """Write a model file again, with a summary of the images that its training held out.

    Raises:
        InputError: the images cannot be used, or the file cannot be written.
        ModelError: the file cannot be used, or has no prototypes.
    """
    session = open_session(model, ep="cpu")
    if session.prototypes is None:
        raise ModelError(f"{model} has no embedding output with prototypes: export it again")
    held_out = open_split(model, session.manifest.training.recipe, data).validation
    embeddings = dataset_logits(session.embed, held_out, session.manifest.preprocess)
    summary = summarize(embeddings, session.prototypes)
    write_bytes(model, with_metadata(model.read_bytes(), {HELD_OUT_KEY: summary.to_json()}, str(model)))
    return summary


def main(arguments: list[str]) -> int:
    """Add the summary to the first of two paths, from the images of the second; returns the exit code."""
    if len(arguments) != 2:
        sys.stderr.write("usage: python -m twincar_edge.export.summarize MODEL DATA\n")
        return 2
    try:
        summary = add_summary(Path(arguments[0]), OpenOptions(Path(arguments[1])))
    except TwincarError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    sys.stdout.write(f"{arguments[0]}: {len(summary.embeddings)} of {summary.images} held-out images\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
