"""The export pipeline: makes the graphs, checks them, and only then writes deployable files."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from twincar_edge.dataset_logits import Side, labels_for, run_sides
from twincar_edge.datasets import Dataset, Split
from twincar_edge.errors import InputError, Parameter
from twincar_edge.export.confidence.calibrate import calibrate_confidence
from twincar_edge.export.confidence.choices import fit_temperature
from twincar_edge.export.confidence.report import ConfidenceReport, CoverageError
from twincar_edge.export.confidence.unknowns import Unknowns, open_unknowns
from twincar_edge.export.config import ExportConfig, ExportResult
from twincar_edge.export.crop_sizes import measure_crop_sizes
from twincar_edge.export.data import open_split
from twincar_edge.export.explainable import with_features
from twincar_edge.export.familiarity import Familiarity, learn_familiarity
from twincar_edge.export.golden import make_golden
from twincar_edge.export.graph import has_embedding, to_bytes, to_onnx, with_embedding
from twincar_edge.export.half import to_fp16
from twincar_edge.export.int8.make import Reference, make_int8
from twincar_edge.export.int8.report import SearchReport
from twincar_edge.export.manifests import common_manifest
from twincar_edge.export.model_reports import remove_earlier, write_model_open_set, write_model_reports
from twincar_edge.export.open_set.choose import check_enough
from twincar_edge.export.open_set.hold import hold_unknown
from twincar_edge.export.open_set.measure import Subject, measure_open_set
from twincar_edge.export.parity.compare import Answers, report_parity
from twincar_edge.export.parity.files import open_other_providers
from twincar_edge.export.parity.names import PYTORCH, SideName, title
from twincar_edge.export.parity.report import ParityError, ParityReport
from twincar_edge.export.report_files import report_stem
from twincar_edge.export.trial_session import TrialSession
from twincar_edge.export.validation_model import HeldOutAnswers, ValidationModel
from twincar_edge.files import make_folder, write_bytes
from twincar_edge.golden import Golden
from twincar_edge.manifest import Manifest, Precision, QuantizationRecord
from twincar_edge.metrics import at_least
from twincar_edge.progress import StageProgress
from twincar_edge.runtime.inference.classifier import Classifier
from twincar_edge.runtime.inference.session import ModelSession, open_session
from twincar_edge.training.checkpoint import Checkpoint, read_checkpoint
from twincar_edge.training.model import load_model, torch_predict

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Model:
    """A graph to be written as a file, with its quantization, golden inputs and open session."""

    graph: onnx.ModelProto
    quantization: QuantizationRecord | None
    golden: Golden
    session: ModelSession


@dataclass(frozen=True)
class _Findings:
    parity: ParityReport
    confidence: ConfidenceReport
    search: SearchReport | None
    familiarity: dict[str, Familiarity]


def run(config: ExportConfig, progress: StageProgress | None, created: datetime | None) -> ExportResult:
    """Run an export, as `twincar_edge.export.export` documents it."""
    report = progress or _ignore
    checkpoint = read_checkpoint(config.checkpoint, config.class_mapping)
    manifest = common_manifest(config, checkpoint, created or datetime.now(UTC))
    learned = config.validation_model is not None
    split = open_split(
        config.checkpoint, checkpoint.recipe, checkpoint.classes, config.data, checkpoint.data, learned=learned
    )
    validation = None if config.validation_model is None else ValidationModel.open(config.validation_model, checkpoint)
    # Both raise errors about missing images or other classes before minutes of computation.
    labels_for(split.validation, checkpoint.classes)
    unknowns = open_unknowns(checkpoint.classes, config.confidence.unknown)
    if config.confidence.limits is not None:
        check_enough(sum(len(one.dataset) for one in unknowns.given), config.confidence.limits)
    held_out = None
    if validation is not None:
        held_out = validation.answer(split.validation, lambda *done: report("answers of the validation model", *done))
    with _workspace(config.output) as folder:
        trial = TrialSession(folder, manifest)
        models, findings = _make(config, checkpoint, split, unknowns, held_out, trial, manifest.name, report)
    return _finish(config, manifest, models, findings, split.validation, unknowns, validation, report)


def _make(
    config: ExportConfig,
    checkpoint: Checkpoint,
    split: Split,
    unknowns: Unknowns,
    held_out: HeldOutAnswers | None,
    trial: TrialSession,
    name: str,
    report: StageProgress,
) -> tuple[dict[Precision, _Model], _Findings]:
    """Make all requested graphs, and measure their parity and confidence.

    With `held_out`, temperature and thresholds come from these answers, for all precisions.
    """
    images, classes, preprocess = split.validation, checkpoint.classes, checkpoint.preprocess
    report("writing the graph", 0, 1)
    model = load_model(checkpoint)
    fp32 = to_onnx(model, config.opset)
    report("writing the graph", 1, 1)
    if config.explainable and with_features(fp32)[1] is None:
        logger.warning(
            "%s does not end in pooling and linear layers: the file will not support explanations", model.architecture
        )
    models: dict[Precision, _Model] = {}
    sides = {PYTORCH: Side(torch_predict(model), preprocess)}

    def keep(precision: Precision, graph: onnx.ModelProto, quantization: QuantizationRecord | None = None) -> None:
        graph, head = with_features(with_embedding(graph)) if config.explainable else (with_embedding(graph), None)
        session = trial.open(graph, precision, quantization, head)
        embed = session.embed if has_embedding(graph) else None
        models[precision] = _Model(graph, quantization, make_golden(session.run, preprocess, embed), session)
        sides[precision] = Side(session.run, preprocess, embed=embed)
        for ep, side in open_other_providers(session.model, notice=logger.warning):
            sides[str(SideName(precision, ep=ep))] = side

    keep("fp32", fp32)
    logits = run_sides(sides, images, lambda *done: report("FP32 against PyTorch", *done))
    temperature = config.confidence.temperature
    if temperature is None:
        answered = logits["fp32"] if held_out is None else held_out.logits
        temperature = fit_temperature(answered, labels_for(images, classes))
    compared = set(sides)
    search = None
    if config.fp16:
        keep("fp16", to_fp16(fp32))
    if config.int8 is not None:
        reference = Reference(fp32, preprocess, classes, logits["fp32"], temperature)
        made = make_int8(reference, config.int8, split, config.limits, trial, report)
        search = made.report
        keep("int8", made.graph, made.config.record(made.images))
    rest = {side: sides[side] for side in sides if side not in compared}
    if rest:
        logits |= run_sides(rest, images, lambda *done: report("comparing answers", *done))
    embed: dict[str, Side] = {name: sides[name].embedding() for name in models if sides[name].embed is not None}
    embeddings = run_sides(embed, images, lambda *done: report("comparing embeddings", *done)) if embed else {}
    answers = [Answers(side, logits[side], temperature, embeddings.get(side)) for side in sides]
    parity = report_parity(answers, images, classes, config.limits, name)
    familiarity: dict[str, Familiarity] = {}
    if held_out is not None and held_out.similarities is None:
        logger.warning("no prototypes: the validation model has none to choose thresholds by")
        embed = {}
    for precision, model_file in models.items():
        if precision not in embed:
            continue
        learned = learn_familiarity(
            model_file.session,
            split,
            classes,
            embeddings[precision],
            config.confidence.keep_known,
            None if held_out is None else held_out.similarities,
            lambda *done, name=precision: report(f"prototypes of {title(name)}", *done),
        )
        if learned is not None:
            familiarity[precision] = learned
    known: dict[str, NDArray[np.float32]] = {
        precision: logits[precision] if held_out is None else held_out.logits for precision in models
    }
    options, held = config.confidence, None
    if options.limits is not None:
        boxes: dict[str, Subject] = {
            precision: replace(_as_box(model_file.session, familiarity.get(precision), name), temperature=temperature)
            for precision, model_file in models.items()
        }
        labels = labels_for(images, classes)
        held = hold_unknown(boxes, known, labels, familiarity, unknowns.given, options.limits, options.reject_below)
        familiarity = held.familiarity
        options = options.model_copy(update={"reject_below": held.reject_below})
    confidence = calibrate_confidence(
        {precision: sides[precision] for precision in models},
        known,
        images,
        classes,
        options,
        name,
        lambda *done: report("unknown images", *done),
        unknowns,
        familiarity,
        {precision: embed[precision] for precision in familiarity},
    )
    digest, limits = None if held_out is None else held_out.model_sha256, {} if held is None else held.records
    confidence = confidence.model_copy(update={"validation_model": digest, "limits": limits})
    return models, _Findings(parity, confidence, search, familiarity)


def _as_box(session: ModelSession, known: Familiarity | None, name: str) -> Subject:
    """Return a candidate model with the familiarity thresholds of its future file."""
    manifest = session.manifest.model_copy(update={"familiarity": None if known is None else known.record})
    return replace(Subject.of_session(_finished(session, manifest, known)), name=name)


def _finished(session: ModelSession, manifest: Manifest, known: Familiarity | None) -> ModelSession:
    """Return a candidate session with the manifest and prototypes of its future file."""
    return replace(session, manifest=manifest, prototypes=None if known is None else known.prototypes)


def _finish(
    config: ExportConfig,
    manifest: Manifest,
    models: dict[Precision, _Model],
    found: _Findings,
    images: Dataset,
    unknowns: Unknowns,
    validation: ValidationModel | None,
    report: StageProgress,
) -> ExportResult:
    """Write all reports and the files that are within the limits; raise for files that are not."""
    parity, confidence = found.parity, found.confidence
    write_model_reports(config.output, parity.name, parity, confidence, found.search)
    least = config.confidence.min_coverage
    low_coverage = {one: share for one in models if not at_least(share := confidence.named(one), least)}
    written: dict[Precision, Path] = {}
    documents: dict[Precision, Manifest] = {}
    for precision, model in models.items():
        # The other precisions are made from FP32, so they fail if it does.
        failed = parity.failed("fp32") or parity.failed(precision) or precision in low_coverage
        name = f"{parity.name}.{precision}"
        good_path, failed_path = config.output / f"{name}.onnx", config.output / f"{name}.failed.onnx"
        remove_earlier(good_path if failed else failed_path)
        if not failed or config.keep_failed:
            known = found.familiarity.get(precision)
            documents[precision] = manifest.model_copy(
                update={
                    "embedding": model.session.manifest.embedding,
                    "head": model.session.manifest.head,
                    "familiarity": None if known is None else known.record,
                    "precision": precision,
                    "quantization": model.quantization,
                    "parity": parity.comparison(precision).record(parity.data.images),
                    "temperature": confidence.temperature,
                    "reject_below": confidence.threshold,
                    "confidence": confidence.record(precision),
                }
            )
            written[precision] = failed_path if failed else good_path
    if parity.passed and not low_coverage:
        # Measured with the file to deploy; parity ensures that the others answer alike.
        best: Precision = "int8" if "int8" in models else "fp32"
        document, known = documents[best], found.familiarity.get(best)
        if validation is None:
            classifier = Classifier(_finished(models[best].session, document, known))
        else:
            classifier = validation.classifier(document.temperature, document.reject_below, document.familiarity)
        sizes = measure_crop_sizes(classifier, images, lambda *done: report("full names by crop size", *done))
        documents = {name: one.model_copy(update={"crop_sizes": sizes}) for name, one in documents.items()}
    for precision, path in written.items():
        model, known = models[precision], found.familiarity.get(precision)
        tables = (None, None) if known is None else (known.prototypes, known.held_out)
        write_bytes(path, to_bytes(model.graph, documents[precision], model.golden, *tables))
    kept = ", ".join(path.name for path in written.values()) or "no model file"
    if not parity.passed:
        raise ParityError(parity, f"written to {config.output}: {kept}, and {report_stem(parity.name, 'parity')}.md")
    if low_coverage:
        shares = " and ".join(f"{title(precision)} {share:.1%}" for precision, share in low_coverage.items())
        raise CoverageError(
            f"at a threshold of {confidence.threshold:g}, {shares} of the held-out images get a name, "
            f"below the limit of {least:.0%}; written to {config.output}: {kept}, and "
            f"{report_stem(parity.name, 'confidence')}.md; train a better model, raise ",
            Parameter("false_accept"),
            ", or lower ",
            Parameter("min_coverage"),
        )
    for precision, path in written.items() if unknowns.given else ():
        open_set = measure_open_set(
            Subject.of_session(open_session(path, ep="cpu")),
            images if validation is None else None,  # the file has learned from these
            unknowns.given,
            progress=lambda *done, name=precision: report(f"known and unknown images, {title(name)}", *done),
        )
        write_model_open_set(config.output, parity.name, precision, open_set)
    return ExportResult(written["fp32"], written.get("int8"), written.get("fp16"), parity, confidence, found.search)


@contextmanager
def _workspace(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder inside `folder`, so that an unwritable folder fails before the work, not after it.

    Raises:
        InputError: the folder cannot be created, or the disk is full.
    """
    make_folder(folder)
    try:
        with tempfile.TemporaryDirectory(prefix=".export-", dir=folder) as workspace:
            yield Path(workspace)
    except OSError as error:
        raise InputError(f"cannot write into {folder}: {error.strerror or error}") from error


def _ignore(stage: str, done: int, total: int) -> None:
    """Ignore progress."""
