"""Recomputes the prototypes, thresholds and held-out summary of an exported file.

    python -m twincar_edge.export.regraft MODEL.onnx DATA --reject-below 0.5 --keep-known 0.86 0.86 0.9

DATA are the labeled images of the model's training, split as in training. Graph, golden inputs and temperature do not
change, so the logits stay bit-identical.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from twincar_edge.dataset_logits import Side, run_sides
from twincar_edge.datasets import OpenOptions
from twincar_edge.errors import InputError, ModelError, exit_code
from twincar_edge.export.confidence.calibrate import calibrate_confidence
from twincar_edge.export.confidence.report import ConfidenceOptions, ConfidenceReport
from twincar_edge.export.crop_sizes import measure_crop_sizes
from twincar_edge.export.data import open_split
from twincar_edge.export.familiarity import learn_familiarity
from twincar_edge.files import write_bytes
from twincar_edge.held_out import HELD_OUT_KEY
from twincar_edge.manifest import METADATA_KEY
from twincar_edge.onnx_metadata import with_metadata
from twincar_edge.prototypes import PROTOTYPES_KEY
from twincar_edge.runtime.inference.classifier import Classifier
from twincar_edge.runtime.inference.session import open_session


def regraft(model: Path, data: OpenOptions, options: ConfidenceOptions) -> ConfidenceReport:
    """Recompute prototypes and thresholds of an exported file, and replace the file atomically.

    Args:
        model: the file.
        data: labeled images of its training.
        options: the thresholds, given or to be chosen; the file's temperature is kept.

    Raises:
        InputError: the images cannot be used, or do not match the model.
        ModelError: the file is not an exported model, or has no embedding output.
    """
    session = open_session(model, ep="cpu")
    manifest = session.manifest
    if manifest.validation_model is not None:
        raise InputError(f"{model} was trained on all images, so none can set its thresholds: export it again")
    if manifest.embedding is None:
        raise ModelError(f"{model} has no embedding output: export it again")
    split = open_split(model, manifest.training.recipe, manifest.class_mapping, data, manifest.training.data)
    side = Side(session.run, manifest.preprocess, embed=session.embed)
    found = run_sides({"logits": side, "embeddings": side.embedding()}, split.validation)
    classes, precision = manifest.class_mapping, manifest.precision
    learned = learn_familiarity(session, split, classes, found["embeddings"], options.keep_known)
    if learned is None:
        raise InputError(f"cannot make prototypes: a class of {model} has no training images in {split.train.name}")
    report = calibrate_confidence(
        {precision: side},
        {precision: found["logits"]},
        split.validation,
        classes,
        options.model_copy(update={"temperature": manifest.temperature}),
        manifest.name,
        familiarity={precision: learned},
        embed={precision: side.embedding()},
    )
    changed = manifest.model_copy(
        update={
            "familiarity": learned.record,
            "reject_below": report.threshold,
            "confidence": report.record(precision),
        }
    )
    finished = replace(session, manifest=changed, prototypes=learned.prototypes)
    changed = changed.model_copy(update={"crop_sizes": measure_crop_sizes(Classifier(finished), split.validation)})
    tables = {
        METADATA_KEY: changed.to_json(),
        PROTOTYPES_KEY: learned.prototypes.to_json(),
        HELD_OUT_KEY: learned.held_out.to_json(),
    }
    write_bytes(model, with_metadata(model.read_bytes(), tables, str(model)))
    return report


def main(arguments: list[str]) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m twincar_edge.export.regraft")
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--reject-below", type=float)
    parser.add_argument("--keep-known", type=float, nargs=3, default=ConfidenceOptions().keep_known)
    given = parser.parse_args(arguments)

    def work() -> None:
        options = ConfidenceOptions(reject_below=given.reject_below, keep_known=tuple(given.keep_known))
        sys.stdout.write(regraft(given.model, OpenOptions(given.data), options).to_markdown())

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
