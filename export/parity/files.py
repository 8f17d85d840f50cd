"""Parity of existing files: opens them, selects the images, and writes the report."""

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
_ONLY_ON_REQUEST = ("tensorrt",)  # builds its engine for minutes first
_CHECKPOINTS = (".pt", ".pth", ".safetensors")
_ONNX = ".onnx"


@dataclass(frozen=True)
class ParityConfig:
    """The files to compare, their reference, and the images.

    Attributes:
        subjects: one or more exported .onnx files.
        reference: the checkpoint that they come from, or an .onnx file.
        eps: the execution providers to run each subject on, in addition to the CPU's; None for all usable ones.
        limits: the parity limits.
        data: labeled images; None takes the held-out images of the training run in whose folder the reference is.
        split: a run folder, for its held-out images, or a CSV that lists images.
        class_mapping: the class names, for a checkpoint without them.
        threads: CPU threads per inference; None for all cores.
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
    """The reference model, from a checkpoint or an .onnx file.

    Attributes:
        precision: "pytorch", or the precision in the manifest.
        checkpoint: the checkpoint; for an .onnx file, its original checkpoint's metadata from the manifest, without
            weights.
        predict: computes logits.
        temperature: the model's temperature, or None if it has none.
        embed: computes embeddings, or None if the model has no embedding output.
    """

    precision: str
    checkpoint: Checkpoint
    predict: Predict
    temperature: float | None
    embed: Predict | None = None

    def side(self, temperature: float) -> Side:
        """Return the side to compare; `temperature` is used if the model has none."""
        return Side(self.predict, self.checkpoint.preprocess, self.temperature or temperature, self.embed)


def compare_files(
    config: ParityConfig,
    progress: Progress | None = None,
    notice: Callable[[str], None] | None = None,
) -> ParityReport:
    """Compare model files with their reference, and each with itself on other execution providers.

    A checkpoint has no temperature, so it gets that of the first subject.

    Args:
        config: the files and images.
        progress: called with (images done, total images).
        notice: called with one line for each unexpected decision, for example a provider that was skipped.

    Returns:
        The report. It contains limits that were not met; these raise no error here.

    Raises:
        InputError: the classes of the files differ, a provider does not exist, or images are unusable.
        ModelError: a file is missing or is not a model, or inference fails.
        MissingExtraError: torch or ONNX Runtime is not installed.
    """
    notice = notice or _ignore
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
        for ep, side in open_other_providers(path, config.eps, config.threads, notice):
            sides[str(replace(parts, ep=ep))] = side
    from twincar_edge.export.parity.images import open_images  # needs torch, which _open_reference has checked

    dataset = open_images(config.reference, reference.checkpoint, config.data, config.split, notice)
    return check_parity(sides, dataset, reference.checkpoint.classes, config.limits, manifests[0].name, progress)


def open_other_providers(
    model: Path,
    eps: Sequence[str] | None = None,
    threads: int | None = None,
    notice: Callable[[str], None] | None = None,
) -> Iterator[tuple[str, Side]]:
    """Open a file on the execution providers other than the CPU's, one after the other.

    Args:
        model: an exported .onnx file.
        eps: the providers, without the CPU's; None for those of this installation.
        threads: CPU threads per inference; None for all cores.
        notice: called with one line if a provider of the installation cannot be opened, for example because the
            machine lacks the hardware.

    Yields:
        The provider's short name, and the side.

    Raises:
        InputError: a requested provider does not exist, or cannot be opened.
        MissingExtraError: a requested provider, or ONNX Runtime, is not installed.
        ModelError: the file is not an exported model, or is corrupt.
    """
    from twincar_edge.runtime.inference.providers import usable_providers

    for ep in dict.fromkeys(usable_providers() if eps is None else eps):
        if ep == CPU or (eps is None and ep in _ONLY_ON_REQUEST):
            continue
        try:
            found, side = _onnx_side(model, ep, threads)
        except TwincarError as error:
            if eps is not None:
                raise
            (notice or _ignore)(f"skipping {ep} for {model.name}: {error}")
        else:
            if found != CPU:  # `auto` may have chosen it
                yield found, side


def write_parity(report: ParityReport, folder: Path, stem: str = "parity") -> tuple[Path, ...]:
    """Write `parity.json`, `parity.md` and `parity.png` into a folder, each atomically; return the paths.

    Args:
        report: the report.
        folder: the folder to write to.
        stem: the file name without suffix.

    Raises:
        InputError: a file cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    require("matplotlib", "train")
    from twincar_edge.export.parity.plot import plot_parity

    return write_report(report, folder, stem, lambda path: plot_parity(report, path))


def _open_reference(config: ParityConfig) -> _Reference:
    suffix = config.reference.suffix.lower()
    if suffix in _CHECKPOINTS:
        return _open_checkpoint(config)
    if suffix == _ONNX:
        return _open_onnx(config)
    raise ModelError(
        f"unsupported reference model {config.reference}: expected one of {', '.join((*_CHECKPOINTS, _ONNX))}"
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
        raise InputError(f"{config.reference} contains its class names: use ", Parameter("class_mapping", None))
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
    """Open a file on a provider; return the actual provider (for `auto`, the chosen one) and the side."""
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
        raise InputError(f"cannot compare {path} and {reference}: they have {len(classes)} and {len(expected)} classes")
    for label, (name, expected_name) in enumerate(zip(classes, expected, strict=True)):
        if name != expected_name:
            raise InputError(
                f"cannot compare {path} and {reference}: class {label} is {name!r} in one and "
                f"{expected_name!r} in the other"
            )


def _ignore(line: str) -> None:
    """Ignore a notice."""
