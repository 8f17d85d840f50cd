"""One export from checkpoint to files: the graph, INT8, parity, and only then anything that could be deployed."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import onnx
from pydantic import ValidationError

from twincar_edge import __version__
from twincar_edge.errors import InputError, first_fault
from twincar_edge.export.config import ExportConfig, ExportResult, Int8Config
from twincar_edge.export.data import calibration_batches, calibration_samples, open_split
from twincar_edge.export.graph import to_bytes, to_onnx
from twincar_edge.export.parity import check_parity
from twincar_edge.export.quantize import quantize
from twincar_edge.export.report import ParityError, ParityReport
from twincar_edge.files import write_bytes, write_text
from twincar_edge.inference import labels_for
from twincar_edge.manifest import Manifest, Precision, TrainingRecord
from twincar_edge.runtime.session import open_session
from twincar_edge.training.checkpoint import Checkpoint, read_checkpoint
from twincar_edge.training.model import load_model, torch_predict

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Called with a stage ("graph", "calibration", "parity"), what is done of it, and of how much."""


def run(config: ExportConfig, progress: Progress | None, created: datetime | None) -> ExportResult:
    """Do what `twincar_edge.export.export` says."""
    tell = progress or _nobody
    checkpoint = read_checkpoint(config.checkpoint, config.class_mapping)
    manifest = _manifest(config, checkpoint, created or datetime.now(UTC))
    split = open_split(config, checkpoint)
    labels_for(
        split.validation, checkpoint.classes
    )  # says now, not after minutes, that the images are of other classes
    model = load_model(checkpoint)
    with _workspace(config.output) as workspace:
        tell("graph", 0, 1)
        graphs = {"fp32": to_onnx(model)}
        manifests = {"fp32": manifest}
        tell("graph", 1, 1)
        if config.int8 is not None:
            chosen = calibration_samples(split.train, config.int8.calibration_images)
            batches = calibration_batches(chosen, checkpoint.preprocess, lambda *done: tell("calibration", *done))
            graphs["int8"] = quantize(graphs["fp32"], batches, config.int8)
            manifests["int8"] = _int8_manifest(manifest, config.int8, len(chosen))
        predicts = {"pytorch": torch_predict(model)}
        for precision, graph in graphs.items():
            file = workspace / f"{precision}.onnx"
            file.write_bytes(to_bytes(graph, manifests[precision]))
            predicts[precision] = open_session(file, ep="cpu").run
        report = check_parity(
            predicts,
            split.validation,
            checkpoint.classes,
            checkpoint.preprocess,
            config.limits,
            manifest.name,
            lambda *done: tell("parity", *done),
        )
    return _finish(config, graphs, manifests, report)


def _finish(
    config: ExportConfig, graphs: dict[str, onnx.ModelProto], manifests: dict[str, Manifest], report: ParityReport
) -> ExportResult:
    """Write the report in any case, the files that met their limits, and raise for those that did not."""
    write_text(config.output / "parity.json", report.to_json())
    write_text(config.output / "parity.md", report.to_markdown())
    written: dict[str, Path] = {}
    broken = False
    for precision, graph in graphs.items():
        broken |= report.failed(precision)  # what is made from a broken FP32 is broken too
        name = f"{report.name}.{precision}"
        good, failed = config.output / f"{name}.onnx", config.output / f"{name}.failed.onnx"
        # An earlier export's file of the same name goes as well: nobody should find it beside this report.
        _remove(good if broken else failed)
        if not broken or config.keep_failed:
            parity = report.comparison(precision).record(report.data.images)
            written[precision] = failed if broken else good
            write_bytes(written[precision], to_bytes(graph, manifests[precision].model_copy(update={"parity": parity})))
    if not report.passed:
        left = ", ".join(path.name for path in written.values()) or "nothing"
        raise ParityError(report, f"left in {config.output}: {left}, and parity.md")
    return ExportResult(written["fp32"], written.get("int8"), report)


def _manifest(config: ExportConfig, checkpoint: Checkpoint, created: datetime) -> Manifest:
    """Return the FP32 file's manifest, as yet without parity.

    Raises:
        InputError: one of the configuration's values is not allowed in a manifest.
    """
    try:
        return Manifest(
            name=config.name or f"{checkpoint.architecture}-{checkpoint.sha256[:8]}",
            architecture=checkpoint.architecture,
            precision="fp32",
            classes=checkpoint.classes.names,
            preprocess=checkpoint.preprocess,
            temperature=config.temperature,
            reject_below=config.reject_below,
            training=TrainingRecord(
                checkpoint_sha256=checkpoint.sha256,
                recipe=checkpoint.recipe,
                data=checkpoint.data,
                epoch=checkpoint.epoch,
                validation_top1=checkpoint.validation_top1,
                validation_top5=checkpoint.validation_top5,
            ),
            notes=config.notes,
            created=created,
            twincar_edge_version=__version__,
        )
    except ValidationError as error:
        raise InputError(f"the manifest cannot hold this {first_fault(error)}") from error


def _int8_manifest(manifest: Manifest, config: Int8Config, images: int) -> Manifest:
    precision: Precision = "int8"
    return manifest.model_copy(update={"precision": precision, "quantization": config.record(images)})


@contextmanager
def _workspace(folder: Path) -> Iterator[Path]:
    """Give a temporary folder inside `folder`: one that cannot be written shows before the work, not after it.

    Raises:
        InputError: it cannot be made, or runs out of space.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export-", dir=folder) as workspace:
            yield Path(workspace)
    except OSError as error:
        raise InputError(f"cannot write into {folder}: {error.strerror or error}") from error


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"cannot remove {path}, which this export did not confirm: {error.strerror}") from error


def _nobody(stage: str, done: int, total: int) -> None:
    """Listen to no progress."""
