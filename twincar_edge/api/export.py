"""`tw.export`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from twincar_edge.api.data import PathLike, labelled_images, optional_path
from twincar_edge.errors import InputError

if TYPE_CHECKING:
    from twincar_edge.export.confidence.report import ConfidenceOptions
    from twincar_edge.export.config import ExportResult
    from twincar_edge.export.int8.config import Int8Config, Int8Search
    from twincar_edge.export.parity.report import ParityLimits


def export(
    checkpoint: PathLike,
    output: PathLike,
    *,
    int8: bool | Int8Config | Int8Search = False,
    target: str | None = None,
    fp16: bool = False,
    opset: int | None = None,
    limits: ParityLimits | None = None,
    confidence: ConfidenceOptions | None = None,
    data: PathLike | None = None,
    images: PathLike | None = None,
    data_class_mapping: PathLike | None = None,
    crop: bool = True,
    class_mapping: PathLike | None = None,
    name: str | None = None,
    notes: str = "",
    explainable: bool = True,
    keep_failed: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> ExportResult:
    """Export a checkpoint to ONNX files, and check image by image that they answer as it does.

    >>> exported = tw.export("runs/cars/best.pt", "models", name="cars")
    >>> exported.fp32, exported.parity.passed
    (PosixPath('models/cars.fp32.onnx'), True)

    Args:
        checkpoint: a .pt, .pth or .safetensors file, or hf://OWNER/REPO/PATH/FILE[@REVISION].
        output: the folder of the files and reports.
        int8: make an INT8 file: True searches for the fastest one within the limits; an `Int8Search` says more about
            the search, and an `Int8Config` makes that one file.
        target: with `int8=True`, what the INT8 file is for: "x86-avx2", "x86-vnni", "arm64", "tensorrt" or "openvino";
            None for this machine's kind.
        fp16: make a half-precision file, for GPU providers.
        opset: the ONNX operator set; None for the default.
        limits: what the files may lose.
        confidence: how temperature and rejection threshold are found, or what they are.
        data: labelled images, as `train` takes them; None for those that the training held out.
        images: the folder of the images that a CSV names; None for `images/` beside it, or its own folder.
        data_class_mapping: class_mapping.json of the labels; None for the names that the data carries.
        crop: crop to the annotated box, where the data has one.
        class_mapping: class names of a bare state dict; None for class_mapping.json beside it.
        name: what the files are called; None makes a name of the architecture and the checkpoint's digest.
        notes: text for the manifest.
        explainable: add the last feature map as an output, so that a box can explain answers without PyTorch.
        keep_failed: keep a file that missed a limit, as NAME.int8.failed.onnx.
        progress: called with what is done at the moment, how much of it is done, and of how much.

    Raises:
        ParityError: a file missed a limit; it is not left where it could be deployed.
        CoverageError: a file gives too few of the held-out images a name (`confidence.min_coverage`); likewise.
        InputError: the images, the folder or an option cannot be used.
        ModelError: the checkpoint cannot be used or exported.
        MissingExtraError: the extra `export`, or ONNX Runtime, is not installed.
    """
    from twincar_edge.export import ConfidenceOptions, ExportConfig, Int8Search, ParityLimits
    from twincar_edge.export import export as export_config
    from twincar_edge.export.opset import OPSET
    from twincar_edge.training.hub import resolve_checkpoint

    if target is not None and int8 is not True:
        raise InputError("target goes with int8=True")
    choices = int8 if not isinstance(int8, bool) else Int8Search(target=target) if int8 else None
    if isinstance(choices, Int8Search):
        choices.presets()  # a target that does not exist shows now and not after minutes
    config = ExportConfig(
        checkpoint=resolve_checkpoint(str(checkpoint)),
        output=Path(output),
        int8=choices,
        fp16=fp16,
        opset=OPSET if opset is None else opset,
        limits=limits or ParityLimits(),
        data=labelled_images(data, images, data_class_mapping, crop),
        class_mapping=optional_path(class_mapping),
        name=name,
        notes=notes,
        confidence=confidence or ConfidenceOptions(),
        explainable=explainable,
        keep_failed=keep_failed,
    )
    return export_config(config, progress)
