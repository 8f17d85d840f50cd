"""Parity of files that are there already: opening them, finding the images, and writing what was found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from twincar_edge.dataset_logits import Predict, Side
from twincar_edge.datasets import OpenOptions
from twincar_edge.errors import InputError, ModelError, Parameter, TwincarError, require
from twincar_edge.export.parity.compare import check_parity
from twincar_edge.export.parity.names import PYTORCH, SideName, distinct_names
from twincar_edge.export.parity.report import ParityLimits, ParityReport
from twincar_edge.export.report_files import write_report
from twincar_edge.labels import ClassMapping
from twincar_edge.manifest import read_manifest
from twincar_edge.progress import Progress

if TYPE_CHECKING:
    from twincar_edge.training.checkpoint import Checkpoint

CPU = "cpu"
_FOR_MINUTES = ("tensorrt",)  # builds an engine first: only for those who name it
_CHECKPOINTS = (".pt", ".pth", ".safetensors")
_ONNX = ".onnx"


@dataclass(frozen=True)
class ParityConfig:
    """Which files to compare, with what, on which images.

    Attributes:
        subjects: .onnx files that export wrote, one or more.
        reference: the checkpoint that they come from, or an .onnx file.
        eps: the execution providers on which each subject runs besides the CPU's; None takes all that are usable here.
        limits: what the subjects may lose.
        data: labelled images; None takes those that the training held out, from the folder that the reference lies in.
        split: a run's folder, whose held-out images are taken, or a CSV that names images.
        class_mapping: the class names, for a checkpoint that holds none.
        threads: of the CPU, within one inference; None takes all.
    """

    subjects: tuple[Path, ...]
    reference: Path
    eps: tuple[str, ...] | None = None
    limits: ParityLimits = field(default_factory=ParityLimits)
    data: OpenOptions | None = None
    split: Path | None = None
    class_mapping: Path | None = None
    threads: int | None = None


@dataclass(frozen=True)
class _Reference:
    """The reference, whichever kind of file it is.

    Attributes:
        precision: "pytorch", or what the manifest says.
        checkpoint: it; of an .onnx file, what the manifest says of the one that it comes from, without weights.
        predict: runs it.
        temperature: its own, or None where it has none.
        embed: runs it for embeddings, or None where it gives none.
    """

    precision: str
    checkpoint: Checkpoint
    predict: Predict
    temperature: float | None
    embed: Predict | None = None

    def side(self, temperature: float) -> Side:
        """Return what is compared; `temperature` stands in where there is none of its own."""
        return Side(self.predict, self.checkpoint.preprocess, self.temperature or temperature, self.embed)


def compare_files(
    config: ParityConfig,
    progress: Progress | None = None,
    notice: Callable[[str], None] | None = None,
) -> ParityReport:
    """Compare model files with the one that they come from, and each with itself on other execution providers.

    A checkpoint has no temperature of its own and takes that of the first subject, so that both are as sure.

    Args:
        config: which files, on which images.
        progress: called with (images done, images in all).
        notice: called with a line on what was done otherwise than one might think.

    Returns:
        The report. Limits that were missed are in it; they raise nothing here.

    Raises:
        InputError: files of different classes, no such provider, or unusable images.
        ModelError: a file is missing, is no model, or fails.
        MissingExtraError: torch or ONNX Runtime is not installed.
    """
    tell = notice or _nobody
    manifests = [read_manifest(path) for path in config.subjects]
    reference = _open_reference(config)
    for path, manifest in zip(config.subjects, manifests, strict=True):
        _check_classes(path, manifest.class_mapping, config.reference, reference.checkpoint.classes)
    models = [(reference.precision, config.reference.stem)]
    models += [(manifest.precision, path.stem) for path, manifest in zip(config.subjects, manifests, strict=True)]
    first, *names = distinct_names(models)
    sides = {first: reference.side(manifests[0].temperature)}
    for name, path in zip(names, config.subjects, strict=True):
        sides[name] = _onnx_side(path, CPU, config.threads)[1]
    for name, path in zip(names, config.subjects, strict=True):
        parts = SideName.parse(name)
        for ep, side in open_elsewhere(path, config.eps, config.threads, tell):
            sides[str(replace(parts, ep=ep))] = side
    from twincar_edge.export.parity.images import open_images  # needs the extra that the reference has named by now

    dataset = open_images(config.reference, reference.checkpoint, config.data, config.split, tell)
    return check_parity(sides, dataset, reference.checkpoint.classes, config.limits, manifests[0].name, progress)


def open_elsewhere(
    model: Path,
    eps: Sequence[str] | None = None,
    threads: int | None = None,
    tell: Callable[[str], None] | None = None,
) -> Iterator[tuple[str, Side]]:
    """Open a file on the execution providers besides the CPU's, one after the other.

    Args:
        model: an .onnx file that export wrote.
        eps: the providers, of which the CPU's is passed over; None takes those that this installation offers.
        threads: of the CPU, within one inference; None takes all.
        tell: called with a line where a provider that nobody asked for is offered and does not open: the wheel has it,
            and the machine may not.

    Yields:
        The provider's short name, and the side.

    Raises:
        InputError: a provider that was asked for does not exist, or does not open.
        MissingExtraError: it, or ONNX Runtime itself, is not installed.
        ModelError: the file is not ours, or is corrupt.
    """
    from twincar_edge.runtime.inference.providers import usable_providers

    for ep in dict.fromkeys(usable_providers() if eps is None else eps):
        if ep == CPU or (eps is None and ep in _FOR_MINUTES):
            continue
        try:
            found, side = _onnx_side(model, ep, threads)
        except TwincarError as error:
            if eps is not None:
                raise
            (tell or _nobody)(f"{model.name} is not compared on {ep}: {error}")
        else:
            if found != CPU:  # which `auto` may well be
                yield found, side


def write_parity(report: ParityReport, folder: Path) -> tuple[Path, ...]:
    """Write `parity.json`, `parity.md` and `parity.png` into a folder, each whole or not at all; return their paths.

    Raises:
        InputError: they cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    require("matplotlib", "train")
    from twincar_edge.export.parity.plot import plot_parity

    return write_report(report, folder, "parity", lambda path: plot_parity(report, path))


def _open_reference(config: ParityConfig) -> _Reference:
    suffix = config.reference.suffix.lower()
    if suffix in _CHECKPOINTS:
        return _open_checkpoint(config)
    if suffix == _ONNX:
        return _open_onnx(config)
    raise ModelError(
        f"{config.reference} is no model that can be compared with: expected one of {', '.join((*_CHECKPOINTS, _ONNX))}"
    )


def _open_checkpoint(config: ParityConfig) -> _Reference:
    torch = require("torch", "train")
    from twincar_edge.training.checkpoint import read_checkpoint
    from twincar_edge.training.model import load_model, torch_predict

    if config.threads is not None:
        torch.set_num_threads(config.threads)
    checkpoint = read_checkpoint(config.reference, config.class_mapping)
    return _Reference(PYTORCH, checkpoint, torch_predict(load_model(checkpoint)), None)


def _open_onnx(config: ParityConfig) -> _Reference:
    if config.class_mapping is not None:
        raise InputError(f"{config.reference} carries its own class names: use ", Parameter("class_mapping", None))
    require("torch", "train")
    from twincar_edge.training.checkpoint import Checkpoint

    manifest = read_manifest(config.reference)
    training = manifest.training
    checkpoint = Checkpoint(
        architecture=manifest.architecture,
        state_dict={},
        classes=manifest.class_mapping,
        preprocess=manifest.preprocess,
        recipe=training.recipe,
        data=training.data,
        epoch=training.epoch,
        validation_top1=training.validation_top1,
        validation_top5=training.validation_top5,
        sha256=training.checkpoint_sha256,
        name=config.reference.name,
    )
    side = _onnx_side(config.reference, CPU, config.threads)[1]
    return _Reference(manifest.precision, checkpoint, side.predict, side.temperature, side.embed)


def _onnx_side(path: Path, ep: str, threads: int | None) -> tuple[str, Side]:
    """Open a file on a provider, and return the provider that it is (`auto` is none) with the side."""
    from twincar_edge.runtime.inference.session import open_session

    session = open_session(path, ep=ep, threads=threads)
    return session.ep, Side(
        session.run,
        session.manifest.preprocess,
        session.manifest.temperature,
        None if session.manifest.embedding is None else session.embed,
    )


def _check_classes(path: Path, classes: ClassMapping, reference: Path, expected: ClassMapping) -> None:
    if len(classes) != len(expected):
        raise InputError(f"{path} names {len(classes)} classes and {reference} {len(expected)}: they do not compare")
    for label, (name, wanted) in enumerate(zip(classes, expected, strict=True)):
        if name != wanted:
            raise InputError(
                f"{path} calls class {label} {name!r} and {reference} {wanted!r}: files of other classes, or of "
                "another order, do not compare"
            )


def _nobody(line: str) -> None:
    """Listen to no notice."""
